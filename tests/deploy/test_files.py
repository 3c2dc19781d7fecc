"""The files of deploy/ are consistent with each other and valid by their schemas."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stream_ctr.config.settings import load_settings
from tests.support.compose_services import COMPOSE, DEPLOY, mounts, read_yaml

DASHBOARD = json.loads((DEPLOY / "grafana" / "experiment.json").read_text("utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = read_yaml(COMPOSE)
    return document


def test_the_compose_file_is_one_by_the_compose_specification() -> None:
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        str(COMPOSE),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_services_are_unprivileged_pinned_and_reachable_from_this_machine_alone(
    compose: dict[str, Any],
) -> None:
    for name, service in compose["services"].items():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+(\.\d+)?", service["image"]), name
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", ())), name
        if service["image"].startswith("stream-ctr:"):
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
    assert re.search(r"^USER stream-ctr$", (DEPLOY / "Dockerfile").read_text("utf-8"), re.MULTILINE)


def test_every_long_running_service_has_a_health_check(compose: dict[str, Any]) -> None:
    awaited = {
        (other, condition["condition"])
        for service in compose["services"].values()
        for other, condition in service.get("depends_on", {}).items()
    }
    for name, service in compose["services"].items():
        if (name, "service_completed_successfully") in awaited:
            assert service["restart"] == "on-failure", name
            continue
        assert service["restart"] == "unless-stopped", name
        assert "healthcheck" in service or name == "traffic", name
    for name, condition in awaited:
        assert condition == "service_completed_successfully" or "healthcheck" in compose["services"][name], (
            name
        )


def test_volumes_are_declared_and_mounted_files_are_there(compose: dict[str, Any]) -> None:
    used = set()
    for name, service in compose["services"].items():
        for source, _ in mounts(service):
            if source.startswith("."):
                assert (DEPLOY / source).exists(), (name, source)
            else:
                used.add(source)
    assert used == set(compose["volumes"])


def test_settings_services_and_targets_have_the_same_arms_hosts_and_ports(
    compose: dict[str, Any],
) -> None:
    settings = load_settings(DEPLOY / "stream-ctr.toml")
    services = compose["services"]
    arms = {arm.name for arm in settings.experiment.arms}
    trained = {
        service["command"][service["command"].index("--arm") + 1]
        for service in services.values()
        if "--arm" in service.get("command", ())
    }
    assert trained == arms
    ports = {"server": settings.serve.port, "watcher": settings.watch.port, "prometheus": 9090}
    ports |= {name: settings.train.metrics_port for name in services if name.startswith("trainer-")}
    targets = {
        target
        for job in read_yaml(DEPLOY / "prometheus.yml")["scrape_configs"]
        for part in job["static_configs"]
        for target in part["targets"]
    }
    assert targets == {f"{name}:{port}" for name, port in ports.items()}
    for name, port in ports.items():
        assert f":{port}/" in " ".join(map(str, services[name]["healthcheck"]["test"]))
    assert settings.log.url == "kafka://kafka:19092"
    assert "kafka://kafka:19092" in services["traffic"]["command"]
    assert "INTERNAL://kafka:19092" in services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert settings.train.state in [target for _, target in mounts(services["server"])]


def test_no_file_names_a_package_host_or_holds_a_secret() -> None:
    for path in DEPLOY.rglob("*"):
        if path.is_file() and "target" not in path.relative_to(DEPLOY).parts:
            text = path.read_text("utf-8")
            if path.suffix == ".xml":
                text = re.sub(r"(xmlns|schemaLocation|xsi)\S*=\"[^\"]*\"", "", text)
            hosts = set(re.findall(r"https?://([\w.-]+)", text)) - {"server", "prometheus", "127.0.0.1"}
            assert hosts <= {"maven.apache.org", "www.w3.org"}, path
            assert not re.search(r"(?i)(password|secret|token)\s*[:=]\s*[\"']?\w", text), path


def test_panels_have_room_a_meaning_and_the_datasource_that_is_provisioned() -> None:
    uid = read_yaml(DEPLOY / "grafana/provisioning/datasources/prometheus.yml")["datasources"][0]["uid"]
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"]["uid"] == uid
        assert [target["datasource"]["uid"] for target in panel["targets"]] == [uid] * len(panel["targets"])
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_the_dashboard_is_where_grafana_looks_for_it(compose: dict[str, Any]) -> None:
    provider = read_yaml(DEPLOY / "grafana/provisioning/dashboards/experiment.yml")["providers"][0]
    grafana = compose["services"]["grafana"]
    inside = {target: source for source, target in mounts(grafana)}
    path = Path(provider["options"]["path"]) / "experiment.json"
    assert inside[str(path)] == "./grafana/experiment.json"
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == str(path)
    assert inside["/etc/grafana/provisioning"] == "./grafana/provisioning"


def test_the_image_holds_what_a_wheel_of_this_package_needs() -> None:
    kept = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").split()
    copied = re.findall(
        r"^COPY (?!--from)(.*) \S+$", (DEPLOY / "Dockerfile").read_text("utf-8"), re.MULTILINE
    )
    names = {name for line in copied for name in line.split()}
    assert {f"!{name}" for name in names} == {line for line in kept if line.startswith("!")}
    assert all((DEPLOY.parent / name).exists() for name in names)


@pytest.mark.promtool
def test_prometheus_reads_its_configuration(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool: apt-get install prometheus")
    done = subprocess.run(
        [promtool, "check", "config", str(DEPLOY / "prometheus.yml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    asked = [target["expr"] for panel in PANELS for target in panel["targets"]]
    rules = tmp_path / "queries.yml"
    rules.write_text(
        json.dumps(
            {
                "groups": [
                    {
                        "name": "queries",
                        "rules": [
                            {
                                "record": f"query:{n}",
                                "expr": text.replace("$__rate_interval", "20s").replace("$arm", ".*"),
                            }
                            for n, text in enumerate(asked)
                        ],
                    }
                ]
            }
        ),
        "utf-8",
    )
    done = subprocess.run([promtool, "check", "rules", str(rules)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(asked)} rules found" in done.stdout
