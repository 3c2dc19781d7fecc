"""The table [log]: address, topics and security of the event log."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from annotated_types import Ge, Interval

from stream_ctr.errors import ConfigError, UsageError

PASSWORD_VARIABLE = "STREAM_CTR_LOG_PASSWORD"
"""Environment variable of the password; it overrides the file."""
MAX_BATCH_BYTES: Final = 64 * 1024 * 1024
"""Default limit of a record batch after decompression."""

MIN_BATCH_BYTES: Final = 2 * 1024 * 1024
"""Smallest valid limit: a batch with one record of the largest size that is decoded."""


@dataclass(frozen=True, slots=True)
class SecurityConfig:
    """TLS and login for the Kafka cluster. The password is not a key: it comes from the environment variable
    STREAM_CTR_LOG_PASSWORD or from ``password_file``."""

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """PLAINTEXT: neither TLS nor login. SSL: TLS. SASL_SSL: TLS and login. SASL_PLAINTEXT: login only; with
    mechanism PLAIN it sends the password unencrypted."""
    ca_file: str = ""
    """PEM file of the CAs that may sign the brokers' certificates; empty: the system's."""
    certificate_file: str = ""
    """PEM file of this client's certificate, if the brokers require one."""
    key_file: str = ""
    """PEM file of the certificate's private key, without passphrase."""
    check_hostname: bool = True
    """Whether a broker's certificate must match its host name."""
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """SASL mechanism of the login."""
    username: str = ""
    """User name of the login."""
    password_file: str = ""
    """File that contains only the password; STREAM_CTR_LOG_PASSWORD overrides it."""

    @property
    def encrypted(self) -> bool:
        """Whether the connection is TLS."""
        return self.protocol in ("SSL", "SASL_SSL")

    @property
    def logs_in(self) -> bool:
        """Whether a user name and a password are sent."""
        return self.protocol.startswith("SASL")

    def check(self) -> None:
        """Reject settings that contradict each other or would have no effect.

        Raises:
            ConfigError: the message names the keys.
        """
        for names, wanted, way in (
            (("ca_file", "certificate_file", "key_file"), self.encrypted, "SSL or SASL_SSL"),
            (("username", "password_file"), self.logs_in, "SASL_SSL"),
        ):
            for name in names:
                if getattr(self, name) and not wanted:
                    raise ConfigError(
                        f"log.security.{name} has no effect with log.security.protocol = "
                        f"{self.protocol!r}; set the protocol to {way}, or leave {name} out"
                    )
        if self.logs_in and not self.username:
            raise ConfigError(f"log.security.protocol = {self.protocol!r} needs log.security.username")
        if bool(self.certificate_file) != bool(self.key_file):
            raise ConfigError("log.security.certificate_file and key_file go together; set both or neither")


def check_no_secret(url: str) -> None:
    """Reject a log address that contains a user name or password, without repeating it.

    Raises:
        UsageError: there is an ``@`` before the host.
    """
    scheme, separator, rest = url.partition("://")
    if separator and not scheme.startswith("sqlite") and "@" in rest:
        raise UsageError(
            f"the log address {scheme}://***@{rest.rpartition('@')[2]} contains a login; set the user in "
            f"log.security.username and the password in {PASSWORD_VARIABLE} or "
            "log.security.password_file"
        )


@dataclass(frozen=True, slots=True)
class LogConfig:
    """Address and topics of the event log."""

    url: str = "sqlite:///stream-ctr.log"
    """Address of the log: sqlite:///path or kafka://host:port[,host:port]."""
    impressions: str = "impressions"
    """Topic of impressions."""
    clicks: str = "clicks"
    """Topic of clicks, with as many partitions as the impressions."""
    labelled: str = "labelled"
    """Topic of impressions with their labels, written by `stream-ctr join`."""
    dead_letters: str = "dead-letters"
    """Topic for the records that cannot be used, each with the reason."""
    partitions: Annotated[int, Interval(ge=1, le=10_000)] = 3
    """Partitions of a new topic. An existing topic keeps its number."""
    max_batch_bytes: Annotated[int, Ge(MIN_BATCH_BYTES)] = MAX_BATCH_BYTES
    """Largest Kafka record batch that is read, in bytes after decompression. A larger one becomes one dead
    letter."""
    security: SecurityConfig = field(default_factory=SecurityConfig)
    """TLS and login for the Kafka cluster."""

    def check(self) -> None:
        """Reject settings that no log could work with.

        Raises:
            ConfigError, UsageError: the message names the keys; it does not repeat a login in the address.
        """
        check_no_secret(self.url)
        self.security.check()
        topics = (self.impressions, self.clicks, self.labelled, self.dead_letters)
        for topic in topics:
            if topics.count(topic) > 1:
                raise ConfigError(
                    "log.impressions, log.clicks, log.labelled and log.dead_letters must be four topics; "
                    f"{topic!r} is named twice"
                )
