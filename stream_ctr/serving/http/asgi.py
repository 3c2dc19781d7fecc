"""ASGI helpers: read a request body within limits, decode it, send a response."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import msgspec

from stream_ctr.serving.api_error import ApiError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

JSON = b"application/json"
OCTETS = b"application/octet-stream"
CLOSE: Header = (b"connection", b"close")


class Disconnected(Exception):
    """The client closed the connection before the response."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """Value of the first header with this name (lower case)."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def check_content(scope: Scope, *kinds: bytes) -> None:
    """Check that Content-Type is JSON or one of the other ``kinds``, and that the body is not compressed.

    A missing Content-Type counts as JSON, because many clients send none. It is rejected if the request has
    an Origin header: a browser sends such a request to another origin without a CORS preflight.

    Raises:
        ApiError: 415.
    """
    kind = (header(scope, b"content-type") or b"").split(b";")[0].strip().lower()
    if kind not in (JSON, *kinds) and (kind or header(scope, b"origin") is not None):
        raise ApiError(415, f"Content-Type is {quoted(kind)}; send application/json", (CLOSE,))
    coding = (header(scope, b"content-encoding") or b"identity").strip().lower()
    if coding != b"identity":
        raise ApiError(415, f"Content-Encoding {quoted(coding)} is not supported; send plain JSON", (CLOSE,))


def quoted(value: bytes) -> str:
    """A header value, formatted for an error message."""
    return repr(value[:60].decode("latin-1"))


async def read_body(scope: Scope, receive: Receive, max_bytes: int, timeout_seconds: float) -> bytes:
    """Read the whole body.

    Raises:
        ApiError: 413 if it is longer than ``max_bytes``, 408 if it does not arrive in time.
        Disconnected: the client closed the connection.
    """
    too_long = ApiError(413, f"the body is longer than {max_bytes} bytes", (CLOSE,))
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared[:20]) > max_bytes:
        raise too_long
    try:
        async with asyncio.timeout(timeout_seconds):
            parts: list[bytes] = []
            size = 0
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                part = message.get("body", b"")
                size += len(part)
                if size > max_bytes:
                    raise too_long
                if not message.get("more_body", False):
                    return b"".join((*parts, part))
                parts.append(part)
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {timeout_seconds:g} seconds", (CLOSE,)) from None


@contextmanager
def malformed() -> Iterator[None]:
    """Turns a decoding error in the block into ApiError 400 with the reason."""
    try:
        yield
    except UnicodeDecodeError:
        raise ApiError(400, "the body is not valid UTF-8") from None
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise ApiError(400, f"malformed request: {error}") from None


async def respond(
    send: Send, status: int, body: bytes, headers: Iterable[Header] = (), content_type: bytes = JSON
) -> None:
    """Send one response."""
    length = str(len(body)).encode()
    all_headers = [(b"content-type", content_type), (b"content-length", length), *headers]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": body})


async def respond_error(send: Send, error: ApiError) -> None:
    """Send {"error": text}."""
    await respond(send, error.status, msgspec.json.encode({"error": error.text}), error.headers)
