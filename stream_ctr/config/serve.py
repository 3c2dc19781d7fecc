"""The table [serve]: addresses, limits and TLS of the prediction server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from annotated_types import Ge, Interval

from stream_ctr.config.ranges import EventSeconds

TOKENS_VARIABLE: Final = "STREAM_CTR_SERVE_TOKENS"
"""Environment variable of the bearer tokens, separated by commas or spaces; it overrides the file."""


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """Addresses, limits and TLS of the prediction server. Bearer tokens are not keys: they come from the
    environment variable STREAM_CTR_SERVE_TOKENS or from ``token_file``."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Interval(ge=0, le=65_535)] = 8100
    """Port to listen on; 0: a free one."""
    workers: Annotated[int, Interval(ge=1, le=1024)] = 1
    """Worker processes on that port; they share the memory of the snapshots."""
    hang_seconds: Annotated[float, Interval(ge=0, le=1e6)] = 30.0
    """With several workers: time without a heartbeat after which a worker is replaced; 0: never."""
    admin_host: str = "127.0.0.1"
    """Address of the metrics and admin ports; beyond loopback, tokens are required."""
    admin_port: Annotated[int, Interval(ge=0, le=65_535)] = 0
    """Metrics and admin port of the first worker; each other worker takes the next one. 0: free ports, which
    are logged."""
    token_file: str = ""
    """File with one bearer token per line; a request needs one of them. STREAM_CTR_SERVE_TOKENS
    overrides it."""
    tls_certificate: str = ""
    """PEM file of the server's certificate chain; if set, the server speaks HTTPS."""
    tls_key: str = ""
    """PEM file of the certificate's private key, without passphrase; empty: in the same file."""
    tls_client_ca: str = ""
    """PEM file of the CAs that sign clients' certificates; if set, clients need a certificate."""
    poll_seconds: Annotated[float, Interval(ge=0.001, le=3600)] = 0.25
    """Time between checks for a newer snapshot."""
    max_body_bytes: Annotated[int, Interval(ge=1, le=2**40)] = 1_048_576
    """Longest request body; a longer one is answered with 413."""
    max_candidates: Annotated[int, Ge(1)] = 1000
    """Most candidates in one request; more are answered with 422."""
    deadline_seconds: Annotated[float, Interval(ge=0.001, le=1e6)] = 1.0
    """Longest time for a request; after it, the answer is 504."""
    header_seconds: Annotated[float, Interval(ge=0.001, le=1e6)] = 10.0
    """Longest time until a request's headers are complete; after it, the answer is 408."""
    max_waiting: Annotated[int, Interval(ge=1, le=1_000_000)] = 64
    """Concurrent requests in each worker; more are answered with 503 and Retry-After."""
    max_client_ahead_seconds: EventSeconds = 300.0
    """A ts_ms that is further ahead of the server's clock is answered with 400; one that is ahead by less is
    replaced by the server's clock. The past has no limit, for backfills."""
    log_queue: Annotated[int, Interval(ge=1, le=1_000_000_000)] = 100_000
    """Impressions waiting for the log in each worker; more are dropped and counted."""
    log_queue_bytes: Annotated[int, Interval(ge=2**20, le=2**50)] = 134_217_728
    """Memory of the impressions waiting in each worker; impressions beyond it are dropped and counted."""
