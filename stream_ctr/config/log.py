"""The table [log]: where the events are, and how a Kafka client authenticates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from annotated_types import Ge, Interval

from stream_ctr.errors import ConfigError, UsageError

PASSWORD_VARIABLE = "STREAM_CTR_LOG_PASSWORD"
"""Environment variable of the password; it wins over the file."""
MAX_BATCH_BYTES: Final = 64 * 1024 * 1024
"""Largest record batch, unpacked, where the configuration names no other limit."""

MIN_BATCH_BYTES: Final = 2 * 1024 * 1024
"""Least that may be configured: a batch with one record of the largest size that is decoded."""


@dataclass(frozen=True, slots=True)
class SecurityConfig:
    """Encryption of and login to the Kafka cluster. The password is not a key: it comes from the
    environment variable STREAM_CTR_LOG_PASSWORD or from ``password_file``."""

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """PLAINTEXT: neither; SSL: encrypted; SASL_SSL: encrypted, with a login; SASL_PLAINTEXT: a login only,
    which with mechanism PLAIN sends the password readably."""
    ca_file: str = ""
    """PEM file of the authorities that may sign the brokers' certificates; empty: the system's own."""
    certificate_file: str = ""
    """PEM file of this client's certificate, where the brokers ask for one."""
    key_file: str = ""
    """PEM file of the certificate's private key, without a passphrase."""
    check_hostname: bool = True
    """Whether a broker's certificate must name the host that is connected to."""
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """How the login is made."""
    username: str = ""
    """Who logs in."""
    password_file: str = ""
    """File that holds the password and nothing else; STREAM_CTR_LOG_PASSWORD in the environment wins."""

    @property
    def encrypted(self) -> bool:
        """Whether the connection is TLS."""
        return self.protocol in ("SSL", "SASL_SSL")

    @property
    def logs_in(self) -> bool:
        """Whether a user name and a password are sent."""
        return self.protocol.startswith("SASL")

    def check(self) -> None:
        """Refuse settings that contradict each other, above all those that would have no effect.

        Raises:
            ConfigError: naming the keys.
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
    """Refuse a log address with a user name or password in it, without repeating it.

    Raises:
        UsageError: there is an ``@`` in front of the host.
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
    """Where the events are."""

    url: str = "sqlite:///stream-ctr.log"
    """Address of the log: sqlite:///path or kafka://host:port[,host:port]."""
    impressions: str = "impressions"
    """Topic of impressions."""
    clicks: str = "clicks"
    """Topic of clicks; the same number of partitions as the impressions."""
    labelled: str = "labelled"
    """Topic of impressions with their labels, written by `stream-ctr join`."""
    dead_letters: str = "dead-letters"
    """Topic that takes every record that cannot be used, with its reason."""
    partitions: Annotated[int, Interval(ge=1, le=10_000)] = 3
    """Partitions of a topic that has to be created. An existing topic keeps the number it has."""
    max_batch_bytes: Annotated[int, Ge(MIN_BATCH_BYTES)] = MAX_BATCH_BYTES
    """Largest Kafka record batch, after decompression, that is read. A larger one becomes one dead letter."""
    security: SecurityConfig = field(default_factory=SecurityConfig)
    """Encryption and login, where the Kafka cluster asks for them."""

    def check(self) -> None:
        """Refuse what cannot work whatever the log is.

        Raises:
            ConfigError, UsageError: naming the keys; a login in the address is not repeated.
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
