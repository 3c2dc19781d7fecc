"""Protects the admin API from web pages. Without tokens, the API trusts every client that reaches its port.

A page in a browser on this machine can reach loopback. It can send a POST to another origin without a
preflight (a form, or ``fetch`` with ``no-cors``). If it points its own name at 127.0.0.1 (DNS rebinding), the
browser treats the API as the same origin. ``Origin`` and ``Sec-Fetch-Site`` reveal the first attack, the
name in ``Host`` the second. Programs such as curl send neither ``Origin`` nor ``Sec-Fetch-Site``.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from stream_ctr.serving.api_error import ApiError
from stream_ctr.serving.http.asgi import CLOSE, Receive, Scope, Send, check_content, header, quoted
from stream_ctr.serving.http.router import Route
from stream_ctr.serving.http.tokens import Tokens

OWN_SITES: Final = (None, b"same-origin", b"none")
"""Values of Sec-Fetch-Site for requests by the user, or by a page of the same host and port."""


def same_origin_only(route: Route, tokens: Tokens) -> Route:
    """The route, closed to web pages of other origins. With tokens any ``Host`` is allowed, because such a
    page does not know a token."""
    methods, handler = route

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if not tokens:
            check_host(scope)
        if scope["method"] == "POST":
            check_origin(scope)
            check_content(scope)
        await handler(scope, receive, send)

    return methods, guard


def check_host(scope: Scope) -> None:
    """Raises ApiError 403 unless ``Host`` is an IP address or localhost; any other name could be rebound."""
    host = header(scope, b"host")
    if host is not None and not _is_literal(_name_of(host)):
        raise ApiError(
            403,
            f"Host is {quoted(host)}; without tokens, address the admin API as localhost or by IP address",
            (CLOSE,),
        )


def check_origin(scope: Scope) -> None:
    """Raises ApiError 403 for a request from a web page of another origin."""
    origin, site = header(scope, b"origin"), header(scope, b"sec-fetch-site")
    host = (header(scope, b"host") or b"").lower()
    own = (None, b"http://" + host, b"https://" + host)
    if origin not in own or site not in OWN_SITES:
        sender = "another web page" if origin is None else f"a web page of {quoted(origin)}"
        raise ApiError(403, f"sent by {sender}; the admin API rejects requests from other origins", (CLOSE,))


def _name_of(host: bytes) -> str:
    """The host without its port.

    >>> _name_of(b"127.0.0.1:8101"), _name_of(b"[::1]:8101"), _name_of(b"Localhost")
    ('127.0.0.1', '::1', 'localhost')
    """
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]


def _is_literal(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost"
    return True
