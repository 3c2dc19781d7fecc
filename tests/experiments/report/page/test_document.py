"""The page's document and how it is served, without a browser."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator

import httpx
import pytest

from stream_ctr.experiments.report.page import page_html, page_routes
from stream_ctr.monitoring.exposition import TrainerMetrics
from stream_ctr.monitoring.http_server import MetricsServer


class Report:
    body = b'{"v":1}'


@pytest.fixture
def report() -> Report:
    return Report()


@pytest.fixture
def client(report: Report) -> Iterator[httpx.Client]:
    server = MetricsServer("127.0.0.1", 0, TrainerMetrics(), routes=page_routes(lambda: report.body))
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client:
        yield client
    server.close()


def sha256(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def test_the_policy_allows_only_the_page_s_own_style_and_script(client: httpx.Client) -> None:
    answer = client.get("/")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    inside = re.fullmatch(r".*<style>(.*)</style>.*<script>(.*)</script>.*", answer.text, re.DOTALL)
    assert inside is not None
    assert policy["default-src"] == "'none'"
    assert policy["style-src"] == sha256(inside[1])
    assert policy["script-src"] == sha256(inside[2])
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


def test_the_document_has_no_external_references() -> None:
    text = page_html().decode()
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name space, which nobody fetches
    assert set(re.findall(r"(?:src|href)=\"([^\"]*)\"", text)) == {"data:,", "report.json", "metrics"}


def test_an_unchanged_report_is_answered_304_and_a_changed_one_whole(
    client: httpx.Client, report: Report
) -> None:
    first = client.get("/report.json")
    again = client.get("/report.json", headers={"If-None-Match": first.headers["etag"]})
    assert (first.status_code, first.json()) == (200, {"v": 1})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    report.body = b'{"v":1,"more":2}'
    changed = client.get("/report.json", headers={"If-None-Match": first.headers["etag"]})
    assert (changed.status_code, changed.json()) == (200, {"v": 1, "more": 2})


@pytest.mark.parametrize("sent", ["W/{}", '"other", {}', "*"])
def test_forms_of_if_none_match(client: httpx.Client, sent: str) -> None:
    tag = client.get("/").headers["etag"]
    assert client.get("/", headers={"If-None-Match": sent.format(tag)}).status_code == 304


def test_before_the_first_report_the_answer_is_503(client: httpx.Client, report: Report) -> None:
    report.body = b""
    answer = client.get("/report.json")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert client.get("/").status_code == 200


def test_documents_are_read_only_and_listed_for_unknown_paths(client: httpx.Client) -> None:
    assert client.post("/report.json", content=b"{}").status_code == 405
    assert client.head("/").headers["content-length"] == str(len(page_html()))
    assert "/report.json" in client.get("/nowhere").text
