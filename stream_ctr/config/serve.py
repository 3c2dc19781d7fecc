"""The prediction server's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from annotated_types import Ge, Interval

from stream_ctr.config.ranges import EventSeconds

TOKENS_VARIABLE: Final = "STREAM_CTR_SERVE_TOKENS"
"""Environment variable of the bearer tokens, separated by commas or spaces; it wins over the file."""


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """Where the server listens, and what it accepts. The bearer tokens are no keys: they come from
    the environment variable STREAM_CTR_SERVE_TOKENS or from ``token_file``."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Interval(ge=0, le=65_535)] = 8100
    """Port to listen on; 0 takes a free one."""
    workers: Annotated[int, Interval(ge=1, le=1024)] = 1
    """Processes that answer on that port; they share the memory of the snapshots."""
    hang_seconds: Annotated[float, Interval(ge=0, le=1e6)] = 30.0
    """A worker of several that stands still for so long is killed and started anew; 0: never."""
    admin_host: str = "127.0.0.1"
    """Address of the metrics and admin ports; beyond loopback, tokens are required."""
    admin_port: Annotated[int, Interval(ge=0, le=65_535)] = 0
    """First port of metrics and admin, the next worker's is one higher; 0 takes free ones, and says which."""
    token_file: str = ""
    """File with one bearer token a line; requests need one of them. STREAM_CTR_SERVE_TOKENS wins."""
    tls_certificate: str = ""
    """PEM file of the server's certificate and its chain; set, the server speaks HTTPS."""
    tls_key: str = ""
    """PEM file of the certificate's private key, without a passphrase; empty: it is in the same file."""
    tls_client_ca: str = ""
    """PEM file of the authorities that sign clients' certificates; set, a client needs one."""
    poll_seconds: Annotated[float, Interval(ge=0.001, le=3600)] = 0.25
    """Time between looks for a newer snapshot."""
    max_body_bytes: Annotated[int, Interval(ge=1, le=2**40)] = 1_048_576
    """Longest request body; longer ones are answered 413."""
    max_candidates: Annotated[int, Ge(1)] = 1000
    """Most candidates in one request; more are answered 422."""
    deadline_seconds: Annotated[float, Interval(ge=0.001, le=1e6)] = 1.0
    """Longest time for one request; later ones are answered 504."""
    header_seconds: Annotated[float, Interval(ge=0.001, le=1e6)] = 10.0
    """Longest time in which a request's headers may arrive; later ones are answered 408."""
    max_waiting: Annotated[int, Interval(ge=1, le=1_000_000)] = 64
    """Requests under way at once, in each worker; more are answered 503 with Retry-After."""
    max_client_ahead_seconds: EventSeconds = 300.0
    """A ts_ms that is further ahead of the server's clock is answered 400; one that is ahead by less is
    replaced by the server's clock. The past has no limit: backfills send it."""
    log_queue: Annotated[int, Interval(ge=1, le=1_000_000_000)] = 100_000
    """Impressions waiting for the log, in each worker; more are dropped and counted."""
    log_queue_bytes: Annotated[int, Interval(ge=2**20, le=2**50)] = 134_217_728
    """Memory that they may take, in each worker; what comes on top is dropped and counted."""
