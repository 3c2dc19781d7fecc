"""The experiment's web page: one HTML document that polls ``report.json`` and displays it.

Style and script are inline. The content security policy allows them by hash, allows requests to the page's
own origin, and nothing else.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Callable
from importlib.resources import files
from typing import Final

from stream_ctr.monitoring.http_server import Route

SCRIPTS: Final = ("text.js", "chart.js", "series.js", "view.js", "page.js")
"""Parts of the script, in order of concatenation."""
NO_SNIFFING: Final = ("X-Content-Type-Options", "nosniff")


@functools.cache
def page_html() -> bytes:
    """The document, UTF-8."""
    style, script = _style(), _script()
    html = _part("page.html").replace("[policy]", _policy(style, script))
    return html.replace("[style]", style).replace("[script]", script).encode()


def page_routes(report: Callable[[], bytes]) -> dict[str, Route]:
    """The page and its report, by path, for the watcher's port.

    ``report`` returns the newest report as JSON, or empty bytes if there is none yet.
    """
    page = Route("text/html; charset=utf-8", page_html, _page_headers())
    return {"/": page, "/report.json": Route("application/json", report, (NO_SNIFFING,))}


def _page_headers() -> tuple[tuple[str, str], ...]:
    return (
        # A <meta> element cannot set frame-ancestors, so the header has to.
        ("Content-Security-Policy", f"{_policy(_style(), _script())}; frame-ancestors 'none'"),
        NO_SNIFFING,
        ("Referrer-Policy", "no-referrer"),
    )


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _style() -> str:
    return _part("page.css")


@functools.cache
def _script() -> str:
    parts = "\n".join(_part(name) for name in SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}}})();\n'


def _part(name: str) -> str:
    return (files("stream_ctr.experiments.report") / "page" / name).read_text("utf-8")
