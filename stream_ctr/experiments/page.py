"""The experiment's page for people: one HTML document that asks for ``report.json`` and shows it.

Style and script are inside the document. Its content security policy allows them by their hashes, allows
requests to where the page came from, and nothing else.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Callable
from importlib.resources import files
from typing import Final

from stream_ctr.metrics.server import Document, Documents

SCRIPTS: Final = ("text.js", "chart.js", "series.js", "view.js", "page.js")
"""In this order they are one script."""


@functools.cache
def page_html() -> bytes:
    """The document, UTF-8."""
    style, script = _style(), _script()
    html = _part("page.html").replace("[policy]", _policy(style, script))
    return html.replace("[style]", style).replace("[script]", script).encode()


def documents(report: Callable[[], bytes | None]) -> Documents:
    """The page and its report, by path, for the watcher's port.

    ``report`` gives the newest report as JSON, or None while there is none.
    """
    page = Document(page_html(), _page_headers())

    def newest() -> Document | None:
        body = report()
        if body is None:
            return None
        headers = (
            ("Content-Type", "application/json"),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", "no-cache"),
            ("ETag", entity_tag(body)),
        )
        return Document(body, headers)

    return {"/": lambda: page, "/report.json": newest}


def entity_tag(body: bytes) -> str:
    """A strong entity tag: equal bodies have equal tags.

    >>> entity_tag(b"report")
    '"e6bc9062f8b833cfb81f0f3e645b202d"'
    """
    return f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'


def _page_headers() -> tuple[tuple[str, str], ...]:
    return (
        ("Content-Type", "text/html; charset=utf-8"),
        # Not to be put into a frame is the one thing that a document cannot say of itself.
        ("Content-Security-Policy", f"{_policy(_style(), _script())}; frame-ancestors 'none'"),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-cache"),
        ("ETag", entity_tag(page_html())),
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
    return (files("stream_ctr.experiments") / "page_parts" / name).read_text("utf-8")
