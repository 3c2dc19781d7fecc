"""A real Chromium, and a site that serves the page and a report as the watcher's port does."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from stream_ctr.experiments.report.model import Report, decode_report, encode_report
from stream_ctr.experiments.report.page import page_routes
from stream_ctr.monitoring.exposition import TrainerMetrics
from stream_ctr.monitoring.http_server import MetricsServer

EXAMPLE = Path(__file__).parents[1] / "report_example.json"
expect.set_options(timeout=60_000)  # playwright's own five seconds are few for a busy machine
NAMES = ("chromium", "chromium-browser", "google-chrome")


class Site:
    """The page over a report that a test may change."""

    def __init__(self, report: Report, now_ms: int) -> None:
        self.report = report
        shift = now_ms - report.generated_ms
        report.generated_ms += shift
        for point in report.series:
            point.start_ms, point.end_ms = point.start_ms + shift, point.end_ms + shift
        self._server: MetricsServer | None = None
        self._port = 0

    def start(self) -> None:
        """Serve, on the same port as before if there was one."""
        routes = page_routes(lambda: encode_report(self.report))
        self._server = MetricsServer("127.0.0.1", self._port, TrainerMetrics(), routes=routes)
        self._port = self._server.port

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/"


@pytest.fixture
def site() -> Iterator[Site]:
    """The example's report, as if it were written now."""
    made = Site(decode_report(EXAMPLE.read_bytes()), int(time.time() * 1000))
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    found = os.environ.get("STREAM_CTR_TEST_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium: apt-get install chromium, or set STREAM_CTR_TEST_CHROMIUM=/path/of/one")
    with sync_playwright() as playwright:
        # Chromium refuses its sandbox to root, and the only page it sees is our own.
        browser = playwright.chromium.launch(executable_path=found, chromium_sandbox=os.getuid() != 0)
        yield browser
        browser.close()


def visit(context: BrowserContext, site: Site) -> Page:
    """The page, loaded and drawn; its clock runs by itself, and :func:`later` advances it."""
    page = context.new_page()
    page.clock.install()
    page.goto(site.url)
    page.wait_for_selector("#charts svg")
    return page


def later(page: Page, seconds: float = 2.5) -> None:
    """Advance the page's timers at once; the default triggers the next poll."""
    page.clock.fast_forward(int(seconds * 1000))


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A fresh profile, times in UTC."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, timezone_id="UTC")
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, site: Site) -> Page:
    """The page over the example."""
    return visit(context, site)
