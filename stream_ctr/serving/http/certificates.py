"""TLS, with certificates that are reloaded while the server runs."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Final

from stream_ctr.config.serve import ServeConfig
from stream_ctr.errors import ConfigError
from stream_ctr.experiments.kill_file import Stamp, stamp_of
from stream_ctr.serving.metrics import ServeMetrics

logger = logging.getLogger("stream_ctr.serving")

POLL_SECONDS: Final = 1.0
"""Time between checks of the files for changes."""


class Certificates:
    """The current certificate, key and certificate authorities.

    A listener keeps its initial context, so the SNI callback switches each connection to the newest context
    after the ClientHello. If any file is unusable, all of the new files are rejected and the previous ones
    stay in use.
    """

    def __init__(self, serve: ServeConfig, metrics: ServeMetrics) -> None:
        """Raises ConfigError: a file is missing, unreadable, of the wrong kind, or has no effect."""
        self._serve = serve
        self._metrics = metrics
        self._stamps = self._look()
        self.context = self._newest = tls_context(serve)
        """The initial context, for listeners; None without TLS."""
        if self.context is not None:
            self.context.sni_callback = self._select_context

    def poll(self) -> None:
        """Load the files if they have changed."""
        stamps = self._look()
        if self.context is None or stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            self._newest = tls_context(self._serve)
        except ConfigError as error:
            self._metrics.tls_stale.set(1)
            logger.warning("keeping the previous certificate: %s", error)
            return
        self._metrics.tls_stale.set(0)
        self._metrics.tls_reloads.inc()
        logger.warning("serve.tls_certificate has changed: new connections use the new certificate")

    async def follow(self) -> None:
        """Check the files for changes while the server runs."""
        while self.context is not None:
            await asyncio.sleep(POLL_SECONDS)
            self.poll()

    def _look(self) -> list[Stamp]:
        serve = self._serve
        paths = (serve.tls_certificate, serve.tls_key, serve.tls_client_ca)
        return [stamp_of(Path(path)) for path in paths if path]

    def _select_context(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        if self._newest is not None:
            connection.context = self._newest


def tls_context(serve: ServeConfig) -> ssl.SSLContext | None:
    """The TLS context of the configuration; None without TLS.

    Raises:
        ConfigError: a file is missing, unreadable, of the wrong kind, or has no effect.
    """
    if not serve.tls_certificate:
        for name in ("tls_key", "tls_client_ca"):
            if getattr(serve, name):
                raise ConfigError(f"serve.{name} has no effect without serve.tls_certificate; set both")
        return None
    for name in ("tls_certificate", "tls_key", "tls_client_ca"):
        _check_readable(name, getattr(serve, name))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    key = serve.tls_key or serve.tls_certificate
    try:
        # Without this callback, OpenSSL prompts for a passphrase on the terminal and blocks.
        context.load_cert_chain(serve.tls_certificate, key, password=lambda: b"")
    except ssl.SSLError:
        raise ConfigError(
            f"serve.tls_certificate = {serve.tls_certificate!r} is not a PEM certificate that matches an "
            f"unencrypted PEM private key in {key}"
        ) from None
    if serve.tls_client_ca:
        try:
            context.load_verify_locations(serve.tls_client_ca)
        except ssl.SSLError:
            raise ConfigError(
                f"serve.tls_client_ca = {serve.tls_client_ca!r} is not a PEM file of certificates"
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _check_readable(name: str, path: str) -> None:
    if not path:
        return
    try:
        Path(path).open("rb").close()
    except OSError as error:
        raise ConfigError(f"serve.{name} = {path!r} is not readable: {error.strerror}") from None
