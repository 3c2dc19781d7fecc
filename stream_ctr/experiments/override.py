"""Override headers, by which a tester sees a chosen arm: signed, expiring, for one user and one experiment.

    X-Stream-CTR-Override: <base64url of JSON {salt, arm, user, expires}>.<base64url of its HMAC-SHA-256>

The secret comes from the environment variable ``STREAM_CTR_OVERRIDE_SECRET`` or from a file. It is not part
of the configuration and appears in no message.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from stream_ctr.config.experiment import SECRET_VARIABLE
from stream_ctr.errors import ConfigError, UsageError

HEADER: Final = b"x-stream-ctr-override"
LEAST_SECRET_BYTES: Final = 16
MAX_HEADER_BYTES: Final = 8192


class Override(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Payload of an override header."""

    salt: str
    """Salt of the experiment. A new salt invalidates every header signed for the old one."""
    arm: str
    user: str
    """The only user the header is valid for."""
    expires: int
    """Unix time in seconds from which the header is invalid."""


def read_secret(path: str, environment: Mapping[str, str]) -> bytes:
    """The signing secret; empty if neither the variable nor the file is set.

    Raises:
        ConfigError: the file cannot be read, or the secret has fewer than LEAST_SECRET_BYTES bytes.
    """
    found = environment.get(SECRET_VARIABLE, "").encode()
    where = f"the environment variable {SECRET_VARIABLE}"
    if not found and path:
        where = f"experiment.override_secret_file = {path!r}"
        try:
            found = Path(path).read_bytes().strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"{where}: cannot be read: {reason}") from None
    if (found or path) and len(found) < LEAST_SECRET_BYTES:
        raise ConfigError(
            f"{where}: the secret has {len(found)} bytes, at least {LEAST_SECRET_BYTES} are required; "
            "generate one with: openssl rand -hex 32"
        )
    return found


def sign_override(secret: bytes, override: Override) -> str:
    """Value of the header for ``override``."""
    payload = msgspec.json.encode(override)
    return f"{_text(payload)}.{_text(_signature(secret, payload))}"


def check_override(secret: bytes, header: bytes, salt: str, user: str, now_seconds: float) -> str:
    """The arm that a valid header requests.

    Raises:
        UsageError: the header has another signature, has expired, or is for another experiment or user.
    """
    if not secret:
        raise UsageError("override headers are disabled: this server has no secret to verify them")
    payload, _, signature = header[:MAX_HEADER_BYTES].partition(b".")
    try:
        content = _bytes(payload)
        given = _bytes(signature)
    except (binascii.Error, ValueError):
        raise UsageError("the override header is malformed") from None
    if not hmac.compare_digest(given, _signature(secret, content)):
        raise UsageError("the override header's signature is invalid")
    try:
        override = msgspec.json.decode(content, type=Override)
    except (ValueError, RecursionError):
        raise UsageError("the override header is malformed") from None
    if now_seconds >= override.expires:
        raise UsageError("the override header has expired; sign a new one")
    if override.salt != salt:
        raise UsageError("the override header is for another experiment (its salt differs); sign a new one")
    if override.user != user:
        raise UsageError("the override header is for another user")
    return override.arm


def _signature(secret: bytes, payload: bytes) -> bytes:
    return hmac.new(secret, payload, hashlib.sha256).digest()


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _bytes(text: bytes) -> bytes:
    """Decode; raises ValueError for anything :func:`_text` would not return: a signature has one form."""
    content = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if _text(content).encode() != text:
        raise ValueError
    return content
