"""Encryption (TLS) and authentication (SASL) of Kafka clients.

The settings name files and users and never hold a secret. The password comes from the environment
variable ``STREAM_CTR_LOG_PASSWORD`` or from a separate file. It is read when a log is opened, and never
appears in a message, ``repr`` or output.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stream_ctr.config.log import PASSWORD_VARIABLE, SecurityConfig
from stream_ctr.errors import ConfigError


class Access:
    """Credentials and TLS context for clients of the cluster; never discloses the password.

    Raises:
        ConfigError: the settings contradict each other, a file is unreadable or has the wrong content, or
            there is no password.
    """

    __slots__ = ("_password", "config", "tls")

    def __init__(self, config: SecurityConfig, environment: Mapping[str, str] = os.environ) -> None:
        config.check()
        self.config = config
        self.tls = _tls(config) if config.encrypted else None
        self._password = _password(config, environment) if config.logs_in else ""

    def __repr__(self) -> str:
        return f"Access({self.config.protocol})"

    def options(self) -> dict[str, Any]:
        """Keyword arguments for kafka-python's clients."""
        config = self.config
        options: dict[str, Any] = {"security_protocol": config.protocol, "ssl_context": self.tls}
        if config.logs_in:
            options["sasl_mechanism"] = config.mechanism
            options["sasl_plain_username"] = config.username
            options["sasl_plain_password"] = self._password
        return options

    def login_rejected(self) -> str:
        """The error message for a login that the broker rejects."""
        return (
            f"Kafka rejects user {self.config.username!r} with mechanism {self.config.mechanism}; check "
            f"log.security.username, log.security.mechanism and the password ({PASSWORD_VARIABLE} or "
            "log.security.password_file)"
        )


def _tls(config: SecurityConfig) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = config.check_hostname
    if config.ca_file:
        _check_readable("ca_file", config.ca_file)
        try:
            context.load_verify_locations(config.ca_file)
        except ssl.SSLError as error:
            raise _unusable("ca_file", config.ca_file, "not a PEM file of certificates") from error
    else:
        context.load_default_certs()
    if config.certificate_file:
        for name in ("certificate_file", "key_file"):
            _check_readable(name, getattr(config, name))
        try:
            # Without this callback, OpenSSL would prompt for a passphrase on the terminal and wait.
            context.load_cert_chain(config.certificate_file, config.key_file, password=lambda: b"")
        except ssl.SSLError as error:
            what = f"not a certificate with the unencrypted private key in {config.key_file}, both PEM"
            raise _unusable("certificate_file", config.certificate_file, what) from error
    return context


def _check_readable(name: str, path: str) -> None:
    try:
        Path(path).open("rb").close()
    except OSError as error:
        raise _unusable(name, path, f"not readable: {error.strerror}") from None


def _unusable(name: str, path: str, what: str) -> ConfigError:
    return ConfigError(f"log.security.{name} = {path!r} is {what}")


def _password(config: SecurityConfig, environment: Mapping[str, str]) -> str:
    found = environment.get(PASSWORD_VARIABLE, "")
    if not found and config.password_file:
        _check_readable("password_file", config.password_file)
        try:
            found = Path(config.password_file).read_text("utf-8").rstrip("\r\n")
        except ValueError:
            raise _unusable("password_file", config.password_file, "not UTF-8 text") from None
    if not found:
        raise ConfigError(
            f"user {config.username!r} has no password: set {PASSWORD_VARIABLE} in the environment, or "
            "log.security.password_file"
        )
    return found
