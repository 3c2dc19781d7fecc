"""The metrics server responds regardless of what clients do."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from stream_ctr.errors import StreamCTRError
from stream_ctr.monitoring.exposition import TrainerMetrics
from stream_ctr.monitoring.http_server import MOST_CLIENTS, RENDER_SECONDS, MetricsServer, Page
from stream_ctr.monitoring.trainer_numbers import TrainerNumbers


class Site:
    """A server with a readiness that the test can change."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.metrics = TrainerMetrics()
        self.server = MetricsServer("127.0.0.1", 0, self.metrics, lambda: self.reason)

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.headers["Content-Type"], answer.read()
        finally:
            connection.close()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.server.close()


def test_metrics_are_served(site: Site) -> None:
    site.metrics.publish(TrainerNumbers(arm="main", vocabulary_rows=42))
    status, content_type, body = site.get("/metrics")
    assert status == 200
    assert content_type.startswith("text/plain; version=0.0.4")
    assert b'stream_ctr_vocabulary_rows{arm="main"} 42.0\n' in body


def test_openmetrics_is_served_on_request(site: Site) -> None:
    _, content_type, body = site.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_a_trainer_is_live_before_it_is_ready(site: Site) -> None:
    site.reason = "waiting for the log at kafka://127.0.0.1:9092"
    assert site.get("/health/live")[0] == 200
    status, _, body = site.get("/health/ready")
    assert status == 503
    assert body == b"waiting for the log at kafka://127.0.0.1:9092\n"
    site.reason = None
    assert site.get("/health/ready")[::2] == (200, b"ready\n")


def test_other_pages_and_methods_are_refused(site: Site) -> None:
    assert site.get("/")[0] == 404
    assert site.get("/metrics", "POST")[0] == 405
    assert site.get("/metrics", "HEAD")[::2] == (200, b"")


def test_a_port_in_use_is_one_clear_line(site: Site) -> None:
    with pytest.raises(StreamCTRError, match=r"127\.0\.0\.1:\d+: the port is in use; choose another"):
        MetricsServer("127.0.0.1", site.server.port, TrainerMetrics())


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("no such host", 0), ("127.0.0.1", 70_000)])
def test_an_unusable_address_is_one_clear_line(host: str, port: int) -> None:
    with pytest.raises(StreamCTRError, match=f"cannot serve metrics on {host}:{port}: .*train.metrics_port"):
        MetricsServer(host, port, TrainerMetrics())


def test_closing_twice_is_harmless_and_frees_the_port() -> None:
    site = Site()
    site.server.close()
    site.server.close()
    again = MetricsServer("127.0.0.1", site.server.port, TrainerMetrics())
    again.close()


def test_clients_that_hang_up_leave_no_trace(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(20):
        client = socket.create_connection(("127.0.0.1", site.server.port), timeout=20)
        # Closing with a linger of 0 resets the connection, as a killed client's machine does.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        client.close()
    client = socket.create_connection(("127.0.0.1", site.server.port), timeout=20)
    client.sendall(b"\xff\xfe nonsense\r\n\r\n")
    client.recv(1000)
    client.close()
    assert site.get("/health/live")[0] == 200
    site.server.close()
    assert capfd.readouterr().err == ""


def test_silent_clients_take_a_bounded_number_of_threads(site: Site) -> None:
    before = threading.active_count()
    clients = [
        socket.create_connection(("127.0.0.1", site.server.port), timeout=20)
        for _ in range(MOST_CLIENTS + 10)
    ]
    # Connections are taken in order, so the first one turned away shows that all before it were taken.
    assert clients[MOST_CLIENTS].recv(1) == b""
    assert threading.active_count() <= before + MOST_CLIENTS
    for client in clients:
        client.close()


def test_renders_at_most_four_times_a_second_however_often_it_is_asked() -> None:
    now = 0.0
    metrics = TrainerMetrics()
    page = Page(metrics, clock=lambda: now)
    metrics.publish(TrainerNumbers(arm="main", vocabulary_rows=1))
    first = page.text("")
    metrics.publish(TrainerNumbers(arm="main", vocabulary_rows=2))
    now = RENDER_SECONDS * 0.9
    assert page.text("") == first
    assert b"} 2.0" in page.text("application/openmetrics-text; version=1.0.0")[1]
    now = RENDER_SECONDS
    assert b'stream_ctr_vocabulary_rows{arm="main"} 2.0' in page.text("")[1]


def test_publishing_while_being_read_never_mixes_two_moments(site: Site) -> None:
    """Each page is of one call to publish: both numbers of an arm are equal in it."""
    done = threading.Event()

    def publish() -> None:
        n = 0
        while not done.is_set():
            n += 1
            site.metrics.publish(TrainerNumbers(arm="main", vocabulary_rows=n, open_impressions=n))

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        for _ in range(50):
            pages = {m.name: m.samples for m in site.metrics.collect()}
            rows, waiting = pages["stream_ctr_vocabulary_rows"], pages["stream_ctr_open_impressions"]
            assert [s.value for s in rows] == [s.value for s in waiting]
    finally:
        done.set()
        thread.join()
