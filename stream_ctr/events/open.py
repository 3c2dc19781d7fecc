"""Opens an event log by its URL."""

from __future__ import annotations

from typing import Protocol

from stream_ctr.config.log import SecurityConfig, check_no_secret
from stream_ctr.config.registry import LOGS, find, names
from stream_ctr.errors import UsageError
from stream_ctr.events.log import EventLog


class OpenLog(Protocol):
    """What another package adds for its own scheme; the arguments are those of :func:`open_log`."""

    def __call__(self, url: str, *, create: bool, security: SecurityConfig | None) -> EventLog: ...


def open_log(url: str, *, create: bool = False, security: SecurityConfig | None = None) -> EventLog:
    """The log at ``sqlite:///path`` or ``kafka://host:port[,host:port]``, or of another package's scheme.

    With ``create``, a missing SQLite file is created. Readers and trainers leave it off, so that a
    mistyped path is an error rather than an empty log. Kafka ignores ``create``; ``security`` holds its
    encryption and authentication settings.

    Raises:
        ConfigError: the security settings are invalid.
        UsageError: the URL has an unknown scheme or is malformed.
        LogError: the log does not exist or cannot be reached.
    """
    check_no_secret(url)
    scheme = url.partition("://")[0]
    if scheme == "sqlite":
        from stream_ctr.events.sqlite.log import SqliteLog

        return SqliteLog(url, create=create)
    if scheme == "kafka":  # imported here, because kafka-python takes a third of a second to load
        from stream_ctr.events.kafka.log import KafkaLog

        return KafkaLog(url, security=security)
    added: OpenLog | None = find(LOGS, scheme)
    if added is not None:
        return added(url, create=create, security=security)
    others = "".join(f", or {name}://..." for name in names(LOGS))
    raise UsageError(
        f"{url!r} is not a log URL; write sqlite:///path for a file or kafka://host:port for a Kafka cluster"
        f"{others}"
    )
