"""Shared by the modules of the Kafka log: the client library, addresses and error texts."""

from __future__ import annotations

import importlib.util
import logging
import re
import warnings

from stream_ctr.errors import LogError, UsageError

# Without crc32c, kafka-python silently computes checksums in Python and reads five times slower.
if importlib.util.find_spec("crc32c") is None:
    raise LogError("the package crc32c is missing, and Kafka is read too slowly without it; install crc32c")

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # importlib.resources.read_text, on Python 3.11
    import kafka
    from kafka import codec, errors
    from kafka.consumer import fetcher
    from kafka.net import sasl
    from kafka.protocol.consumer import OffsetSpec
    from kafka.record import MemoryRecords
    from kafka.record.legacy_records import LegacyRecordBatch
    from kafka.record.util import decode_varint

__all__ = [
    "LegacyRecordBatch",
    "MemoryRecords",
    "OffsetSpec",
    "abandon",
    "codec",
    "decode_varint",
    "errors",
    "fetcher",
    "kafka",
    "reason",
    "sasl",
    "servers_of",
]

SCHEME = "kafka://"
_SERVER = re.compile(r"(\[[0-9A-Fa-f:]+\]|[^\s\[\]:/@,?#]+):(\d{1,5})")

# kafka-python logs each failed connection; the failures that matter are raised as errors instead.
# To see its messages, set the level of the logger "kafka" before opening a log.
_LOGGER = logging.getLogger("kafka")
if _LOGGER.level == logging.NOTSET:
    _LOGGER.setLevel(logging.CRITICAL + 1)


def servers_of(url: str) -> list[str]:
    """The ``host:port`` parts of a ``kafka://host:port[,host:port]`` URL.

    Raises:
        UsageError: the URL has another form.
    """
    servers = url.removeprefix(SCHEME).split(",")
    if not url.startswith(SCHEME) or not all(
        (match := _SERVER.fullmatch(server)) and 0 < int(match[2]) < 65536 for server in servers
    ):
        raise UsageError(f"{url!r} is not a log URL; write kafka://host:port[,host:port]")
    return servers


def reason(error: BaseException | None) -> str:
    """One line about a failure, without the requests that kafka-python quotes."""
    if isinstance(error, errors.KafkaTimeoutError | errors.NodeNotReadyError | errors.RequestTimedOutError):
        return "no broker answered in time"
    text = " ".join(str(error).split())
    name = type(error).__name__
    return name if len(text) > 200 else text if text.startswith(name) else f"{name}: {text}"


def abandon(producer: kafka.KafkaProducer) -> None:
    """Stop a producer without waiting for unsent records; after an acknowledged append there are none.

    ``close`` alone first waits for unsent batches and, if they stay unsent, leaves the thread running.
    """
    producer._sender.force_close()
    producer._sender.join(1.0)
    try:
        producer.close(timeout=0)
    except errors.KafkaError:
        _LOGGER.debug("a producer was abandoned with records unsent", exc_info=True)
