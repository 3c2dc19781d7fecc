"""Bearer tokens (RFC 6750) that authorize clients.

Tokens are read from a separate file or an environment variable, never from the configuration, and appear in
no message or ``repr``. Several tokens can be valid at once, so that a token can be replaced without downtime:
add the new one, switch the clients over, remove the old one.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from stream_ctr.config.serve import TOKENS_VARIABLE
from stream_ctr.errors import ConfigError
from stream_ctr.serving.api_error import ApiError
from stream_ctr.serving.http.asgi import CLOSE, Scope, header

logger = logging.getLogger("stream_ctr.serving")

SHORTEST: Final = 16
"""Minimum length of a token in characters; shorter ones can be guessed."""
POLL_SECONDS: Final = 1.0
"""Time between checks of the file for changes."""
_FORM: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
"""b64token of RFC 6750, section 2.1."""
_CHALLENGE: Final = b'Bearer realm="stream-ctr"'


class Tokens:
    """The valid tokens; without any, the server is open to every client.

    The file is checked for changes while the server runs. If it becomes unusable, that is logged and the
    previous tokens stay valid.

    Raises:
        ConfigError: the file is unreadable or empty, or a token is too short or malformed.
    """

    def __init__(self, token_file: str, environment: Mapping[str, str] = os.environ) -> None:
        given = environment.get(TOKENS_VARIABLE)
        self._path = Path(token_file) if token_file and given is None else None
        self._looked = time.monotonic()
        self._digests: tuple[bytes, ...] = ()
        if given is not None:
            self._digests = _digests(re.split(r"[,\s]+", given.strip(", \t\r\n")), TOKENS_VARIABLE)
        elif self._path is not None:
            self._stamp = _stamp(self._path)
            self._digests = _read(self._path)

    def __repr__(self) -> str:
        return f"Tokens({len(self._digests)})"

    def __len__(self) -> int:
        return len(self._digests)

    def check(self, scope: Scope) -> None:
        """Raises ApiError 401 unless the request carries a valid token or no tokens are configured."""
        if not self._digests:
            return
        self._look()
        scheme, _, token = (header(scope, b"authorization") or b"").partition(b" ")
        if not scheme:
            raise _refused("a bearer token is required: send the header Authorization: Bearer TOKEN", b"")
        if scheme.lower() != b"bearer" or not self._knows(token.strip(b" ")):
            raise _refused("the bearer token is not valid", b', error="invalid_token"')

    def _knows(self, token: bytes) -> bool:
        """Whether the token is valid, in constant time."""
        digest = hashlib.sha256(token).digest()
        return sum([hmac.compare_digest(digest, known) for known in self._digests]) > 0

    def _look(self) -> None:
        """Reload the tokens if the file has changed."""
        now = time.monotonic()
        if self._path is None or now - self._looked < POLL_SECONDS:
            return
        self._looked = now
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._digests = _read(self._path)
            logger.warning("serve.token_file has changed: %d tokens are valid now", len(self._digests))
        except ConfigError as error:
            logger.warning("keeping the previous bearer tokens: %s", error)


def _refused(text: str, detail: bytes) -> ApiError:
    return ApiError(401, text, ((b"www-authenticate", _CHALLENGE + detail), CLOSE))


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def _read(path: Path) -> tuple[bytes, ...]:
    """Digests of the tokens in a file. Empty lines and lines that begin with # are skipped."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"serve.token_file = {str(path)!r} is not readable: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"serve.token_file = {str(path)!r} is not UTF-8 text") from None
    tokens = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return _digests(tokens, f"serve.token_file = {str(path)!r}")


def _digests(tokens: list[str], where: str) -> tuple[bytes, ...]:
    """Digests of the tokens. All have one length, so that comparing takes the same time for any input."""
    if not any(tokens):
        raise ConfigError(f"{where} contains no token; add one with at least {SHORTEST} characters")
    for number, token in enumerate(tokens, 1):
        if len(token) < SHORTEST or not _FORM.fullmatch(token):
            raise ConfigError(
                f"{where}: token {number} must have at least {SHORTEST} characters, only letters, digits and "
                "-._~+/ (generate one with openssl rand -hex 32)"
            )
    return tuple(hashlib.sha256(token.encode()).digest() for token in tokens)
