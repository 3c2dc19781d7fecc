"""The error of a request, raised by any layer of the server and turned into a response by the router."""

from __future__ import annotations

from typing import Final

RETRY_SECONDS: Final = 1
"""Value of Retry-After."""


class ApiError(Exception):
    """A request that fails: HTTP status, one line of text, additional headers."""

    def __init__(self, status: int, text: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers


def unavailable(text: str) -> ApiError:
    """Status 503 with Retry-After."""
    return ApiError(503, text, ((b"retry-after", str(RETRY_SECONDS).encode()),))
