"""Everything of the compose file at once, with a real Kafka and a real Prometheus, and no container engine.

What Grafana would ask is asked of Prometheus: every query of the dashboard must have data.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from stream_ctr.experiments.report.model import decode_report
from tests.support.compose_services import DEPLOY, Composed, read_yaml

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1500)]

ORDER = [
    "kafka",
    "topics",
    "trainer-control",
    "trainer-treatment",
    "watcher",
    "server",
    "traffic",
    "prometheus",
]
"""All services except Grafana, for which there is no system package."""
START_SECONDS = 600.0
DATA_SECONDS = 300.0
ANSWER_SECONDS = 60.0
"""Timeout of one response of a service; generous, because speed is not tested here."""
DASHBOARD = json.loads((DEPLOY / "grafana" / "experiment.json").read_text("utf-8"))
QUERIES = [
    (f"{panel['title']}: {target['legendFormat']}", target["expr"])
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
]
ARMS = {"control", "treatment"}


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    if os.environ.get("STREAM_CTR_TEST_KAFKA") != "start":
        pytest.skip("starts a Kafka broker and much more: set STREAM_CTR_TEST_KAFKA=start")
    absent = [name for name in ("java", "mvn", "prometheus") if shutil.which(name) is None]
    if absent:
        pytest.skip(f"no {', '.join(absent)}: apt-get install openjdk-17-jre-headless maven prometheus")
    if not Path("/proc/sys/net/ipv4").exists():
        pytest.skip("services get addresses of their own in 127.0.0.0/8, which only Linux has by itself")
    folder = tmp_path_factory.mktemp("compose")
    made = Composed(folder, f"{os.getpid() // 250 % 250 + 1}.{os.getpid() % 250}")
    try:
        made.start(ORDER, START_SECONDS)
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def prometheus(composed: Composed) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=composed.url("prometheus", 9090), timeout=ANSWER_SECONDS) as client:

        def ready() -> str:
            # Its port is open, and answers 503, before its storage is.
            try:
                answer = client.get("/-/ready")
            except httpx.HTTPError as error:
                return f"Prometheus does not answer: {error}"
            return "" if answer.status_code == 200 else f"Prometheus is not ready: {answer.text}"

        soon(composed, ready, START_SECONDS)
        yield client


def soon(composed: Composed, look: Callable[[], str], seconds: float = DATA_SECONDS) -> None:
    """Look again until nothing is missing; fail with what still is."""
    deadline = time.monotonic() + seconds
    while lacking := look():
        composed.check()
        assert time.monotonic() < deadline, lacking
        time.sleep(1.0)


def missing(prometheus: httpx.Client, name: str, query: str) -> str:
    """What is not there of a query's data: a number for every arm that it should have one for."""
    answer = prometheus.get("/api/v1/query", params={"query": query})
    assert answer.status_code == 200, f"{query}: {answer.text}"
    result = [
        sample for sample in answer.json()["data"]["result"] if math.isfinite(float(sample["value"][1]))
    ]
    if "{{arm}}" not in name:
        return "" if result else name
    compared = "_difference" in query or "_uplift" in query
    lacking = ARMS - {"control" if compared else ""} - {sample["metric"].get("arm") for sample in result}
    return f"{name} of {', '.join(sorted(lacking))}" if lacking else ""


def as_grafana_asks(expression: str) -> str:
    """The query with the dashboard's variables at their defaults: every arm, four scrapes."""
    return expression.replace("$__rate_interval", "20s").replace("$arm", ".*")


@pytest.fixture(scope="module")
def server(composed: Composed) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=composed.url("server", 8100), timeout=ANSWER_SECONDS) as client:
        yield client


def answering(server: httpx.Client) -> set[str]:
    """The arms that answer a dozen users."""
    ads = [{"features": {"ad": "a1"}, "bid": 1.0}, {"features": {"ad": "a2"}, "bid": 2.0}]
    found = set()
    for number in range(12):
        body = {"user": f"somebody-{number}", "features": {}, "candidates": ads}
        answer = server.post("/v1/rank", json=body)
        assert answer.status_code == 200, answer.text
        found.add(str(answer.json()["arm"]))
    return found


def test_every_target_is_scraped(composed: Composed, prometheus: httpx.Client) -> None:
    wanted = {
        composed.rewritten("prometheus", target)
        for job in read_yaml(DEPLOY / "prometheus.yml")["scrape_configs"]
        for part in job["static_configs"]
        for target in part["targets"]
    }

    def look() -> str:
        active = prometheus.get("/api/v1/targets").raise_for_status().json()["data"]["activeTargets"]
        found = {target["labels"]["instance"] for target in active}
        assert found <= wanted
        # Prometheus takes the jobs of its configuration up one after the other.
        wrong = [f"{instance}: not a target yet" for instance in sorted(wanted - found)]
        wrong += [
            f"{target['labels']['instance']}: {target['lastError']}"
            for target in active
            if target["health"] != "up"
        ]
        return "; ".join(wrong)

    soon(composed, look)


def test_alerts_are_evaluated_without_errors(composed: Composed, prometheus: httpx.Client) -> None:
    wanted = {rule["alert"] for rule in read_yaml(DEPLOY / "alerts.yml")["groups"][0]["rules"]}

    def look() -> str:
        groups = prometheus.get("/api/v1/rules").json()["data"]["groups"]
        rules = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
        assert set(rules) <= wanted
        wrong = [f"{name} is not there yet" for name in sorted(wanted - set(rules))]
        wrong += [f"{name} is {health}" for name, health in rules.items() if health != "ok"]
        return ", ".join(wrong)

    soon(composed, look)


def test_every_query_of_the_dashboard_has_data(composed: Composed, prometheus: httpx.Client) -> None:
    def look() -> str:
        found = [missing(prometheus, name, as_grafana_asks(expression)) for name, expression in QUERIES]
        return "; ".join(filter(None, found))

    soon(composed, look)
    for variable in DASHBOARD["templating"]["list"]:
        found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
        assert found is not None
        path = f"/api/v1/label/{found[2]}/values"
        assert set(prometheus.get(path, params={"match[]": found[1]}).json()["data"]) == ARMS


def test_the_page_answers_and_its_report_compares_both_arms(composed: Composed) -> None:
    watcher = composed.url("watcher", 9109)
    answer = httpx.get(watcher, timeout=ANSWER_SECONDS)
    assert answer.headers["content-type"].startswith("text/html")
    assert "report.json" in answer.text

    def look() -> str:
        report = decode_report(httpx.get(f"{watcher}/report.json", timeout=ANSWER_SECONDS).content)
        assert {arm.name for arm in report.arms} == ARMS
        assert report.sample_ratio.sound
        early = [
            name for each in report.comparisons for name, figure in each.figures.items() if figure.low is None
        ]
        return ", ".join(early) or ("" if report.comparisons else "no comparison")

    soon(composed, look)


def test_published_ports_are_listened_to_and_bound_to_this_machine_alone(composed: Composed) -> None:
    for name in ORDER[1:]:
        for text in composed.services[name].get("ports", ()):
            host, _, inside = str(text).split(":")
            assert host == "127.0.0.1"
            socket.create_connection((composed.addresses[name], int(inside)), ANSWER_SECONDS).close()


def test_both_arms_answer_visitors(server: httpx.Client) -> None:
    assert answering(server) == ARMS


def test_a_killed_arm_is_reported_everywhere(
    composed: Composed, prometheus: httpx.Client, server: httpx.Client
) -> None:
    composed.call("server", ["experiment", "kill", "treatment"])

    def look() -> str:
        address = f"{composed.url('watcher', 9109)}/report.json"
        report = decode_report(httpx.get(address, timeout=ANSWER_SECONDS).content)
        off = {arm.name for arm in report.arms if arm.killed}
        alerts = [alert["labels"] for alert in prometheus.get("/api/v1/alerts").json()["data"]["alerts"]]
        raised = {labels.get("arm") for labels in alerts if labels["alertname"] == "StreamCtrArmKilled"}
        answers = answering(server)
        told = off == raised == {"treatment"} and answers == {"control"}
        return "" if told else f"page: {off}, alerts: {raised}, answers: {answers}"

    soon(composed, look)
    composed.call("server", ["experiment", "revive", "treatment"])
    soon(composed, lambda: "" if answering(server) == ARMS else "treatment answers nobody")
