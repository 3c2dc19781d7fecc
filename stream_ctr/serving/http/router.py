"""Routing of a request to its handler, after the token check."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final

from stream_ctr.serving.api_error import ApiError
from stream_ctr.serving.http.asgi import Disconnected, Receive, Scope, Send, respond_error
from stream_ctr.serving.http.tokens import Tokens

logger = logging.getLogger("stream_ctr.serving")

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]
Route = tuple[tuple[str, ...], Handler]
"""The allowed methods of a path, and their handler."""
Routes = Mapping[str, Route]
"""Routes by path. A segment in braces matches any one segment, passed as scope["path_params"][name]."""

GET: Final = ("GET", "HEAD")
POST: Final = ("POST",)


class Router:
    """The application of one listener: finds the handler, and turns errors into responses."""

    def __init__(self, routes: Routes, tokens: Tokens, open_paths: Collection[str], hint: str) -> None:
        """``open_paths`` need no token; ``hint`` completes the text of a 404."""
        self._exact = {path: route for path, route in routes.items() if "{" not in path}
        self._templates = [(path.split("/"), route) for path, route in routes.items() if "{" in path]
        self._tokens = tokens
        self._open = frozenset(open_paths)
        self._hint = hint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process one request."""
        if scope["type"] != "http":
            return
        try:
            path = scope["path"]
            if path not in self._open:
                self._tokens.check(scope)
            route = self._exact.get(path) or self._match(path, scope)
            if route is None:
                raise ApiError(404, f"not found: {path[:200]}. {self._hint}")
            methods, handler = route
            if scope["method"] not in methods:
                allowed = ", ".join(methods)
                raise ApiError(
                    405,
                    f"{path[:200]} does not allow {scope['method']}; use {allowed}",
                    ((b"allow", allowed.encode()),),
                )
            await handler(scope, receive, send)
        except ApiError as error:
            await respond_error(send, error)
        except Disconnected:
            return
        except Exception:
            # A defect before the response has begun: the client still gets a response.
            logger.exception("a request to %s failed", scope["path"][:200])
            await respond_error(send, ApiError(500, "internal error"))

    def _match(self, path: str, scope: Scope) -> Route | None:
        """The route of a path with parameters, which are stored in the scope."""
        segments = path.split("/")
        for template, route in self._templates:
            if len(template) != len(segments):
                continue
            names = {}
            for expected, found in zip(template, segments, strict=True):
                if expected.startswith("{") and found:
                    names[expected[1:-1]] = found
                elif expected != found:
                    break
            else:
                scope["path_params"] = names
                return route
        return None
