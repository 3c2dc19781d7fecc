"""A client of the prediction server over one keep-alive connection."""

from __future__ import annotations

import http.client
import ssl
from typing import Final
from urllib.parse import urlsplit

import msgspec

from stream_ctr.errors import StreamCTRError, UsageError

TIMEOUT_SECONDS: Final = 10.0
"""Time without a response after which the server counts as unavailable."""
LONGEST_RETRY_SECONDS: Final = 60.0


class ServerUnavailable(Exception):
    """The server could not be reached or did not respond; the message holds the reason."""


class ServerBusy(Exception):
    """The server cannot answer the request now.

    ``overloaded``: the server asked for a retry (503, 429); otherwise it failed or timed out.
    """

    def __init__(self, text: str, retry_seconds: float, overloaded: bool) -> None:
        super().__init__(text)
        self.retry_seconds = retry_seconds
        self.overloaded = overloaded


class RankAnswer(msgspec.Struct):
    """The fields of a ranking response that are used; others are ignored."""

    arm: str
    best: int
    model_version: str = ""


class _Problem(msgspec.Struct):
    error: str


class RankClient:
    """One keep-alive connection; not thread-safe."""

    def __init__(self, server: str, token: str | None = None) -> None:
        """``server`` is http://host:port or https://host:port.

        Raises:
            UsageError: ``server`` has another form.
        """
        self._server = server
        parts = _split(server)
        self._base = parts.path.rstrip("/")
        self._path = f"{self._base}/v1/rank"
        self._headers = {"Content-Type": "application/json", "User-Agent": "stream-ctr-simulate"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        host = parts.hostname or ""
        self._connection = (
            http.client.HTTPSConnection(
                host, parts.port, timeout=TIMEOUT_SECONDS, context=ssl.create_default_context()
            )
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT_SECONDS)
        )

    def rank(self, body: bytes) -> RankAnswer:
        """The response to one request.

        Raises:
            ServerUnavailable: the connection failed before the response.
            ServerBusy: the status is 408, 429 or 5xx.
            StreamCTRError: the server rejects the request permanently.
        """
        status, retry_after, text = self._post(body)
        if status == 200:
            try:
                return msgspec.json.decode(text, type=RankAnswer)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise StreamCTRError(f"{self._server}: the response is not a ranking: {error}") from None
        message = _error_text(text)
        if status in (429, 503):
            raise ServerBusy(f"{status}: {message}", _seconds(retry_after), overloaded=True)
        if status >= 500 or status == 408:
            raise ServerBusy(f"{status}: {message}", 1.0, overloaded=False)
        raise StreamCTRError(f"{self._server}{_advice(status)}: {status}: {message}")

    def ready(self) -> bool:
        """Whether the server is ready; any status except 503 counts as ready.

        Raises:
            ServerUnavailable: the server cannot be reached.
        """
        try:
            self._connection.request("GET", f"{self._base}/health/ready", headers=self._headers)
            answer = self._connection.getresponse()
            answer.read()
        except (OSError, UnicodeError, http.client.HTTPException) as error:
            raise ServerUnavailable(_reason(error)) from None
        finally:
            self.close()
        return answer.status != 503

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _post(self, body: bytes) -> tuple[int, str | None, bytes]:
        """Send one request; if the server has closed the idle connection, reconnect once."""
        kept = self._connection.sock is not None
        try:
            return self._once(body)
        except (OSError, UnicodeError, http.client.HTTPException) as error:
            self.close()
            if not (kept and isinstance(error, ConnectionError)):
                raise ServerUnavailable(_reason(error)) from None
        try:
            return self._once(body)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise ServerUnavailable(_reason(error)) from None

    def _once(self, body: bytes) -> tuple[int, str | None, bytes]:
        self._connection.request("POST", self._path, body, self._headers)
        answer = self._connection.getresponse()
        return answer.status, answer.getheader("Retry-After"), answer.read()


def check_server(server: str) -> None:
    """Check the form of a server address.

    Raises:
        UsageError: it is not http://host:port or https://host:port.
    """
    _split(server)


class _Parts(msgspec.Struct):
    scheme: str
    hostname: str
    port: int | None
    path: str


def _split(server: str) -> _Parts:
    try:
        parts = urlsplit(server)
        port = parts.port
    except ValueError as error:
        raise UsageError(
            f"--server {server!r}: invalid address ({error}); must be http://host:port"
        ) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise UsageError(f"--server {server!r}: must be http://host:port or https://host:port")
    if parts.username is not None or parts.password is not None:
        raise UsageError("--server contains credentials; pass a bearer token with --token-env instead")
    return _Parts(parts.scheme, parts.hostname, port, parts.path)


def _reason(error: Exception) -> str:
    strerror = getattr(error, "strerror", None)
    return str(strerror or error) or type(error).__name__


def _error_text(text: bytes) -> str:
    """The error message of a response, on one line."""
    try:
        shown = msgspec.json.decode(text, type=_Problem).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        shown = text[:200].decode("utf-8", "replace")
    return " ".join(shown.split()) or "no reason given"


def _seconds(retry_after: str | None) -> float:
    """Seconds of a Retry-After header; 1 without one, and for a date, which the server never sends."""
    if retry_after is None or not (retry_after.isascii() and retry_after.isdigit()):
        return 1.0
    return min(float(retry_after), LONGEST_RETRY_SECONDS)


def _advice(status: int) -> str:
    if status in (401, 403):
        return " denied access; name the environment variable that holds the token with --token-env"
    if status == 404:
        return " has no /v1/rank; is it the address of `stream-ctr serve`?"
    return " rejected the request"
