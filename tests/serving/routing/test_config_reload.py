"""A changed configuration is applied or rejected as a whole, also under load."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from stream_ctr.config.settings import load_settings
from stream_ctr.errors import UsageError
from stream_ctr.events.records import Impression
from stream_ctr.serving.routing.config_reload import ConfigFile, ConfigSource, FixedSettings
from tests.support.served_arms import Served, constant, publish, request, sample

BASE = """
[train]
state = "{state}"
[log]
url = "sqlite:///{state}/log.db"
[experiment]
name = "reload"
salt = "one"
coverage = 0.5
arms = [{{name = "control", weight = 0.5}}, {{name = "new", weight = 0.5}}]
"""
USERS = [f"user-{n}" for n in range(60)]


class Steered:
    """A server that follows a configuration file."""

    def __init__(self, folder: Path) -> None:
        for arm, p in (("control", 0.25), ("new", 0.5), ("third", 0.75)):
            publish(folder, arm, constant(p))
        self.path = folder / "config.toml"
        self.text = BASE.format(state=folder)
        self.path.write_text(self.text)
        source = ConfigSource.of(str(self.path))
        settings = load_settings(self.path)
        assert source is not None
        running = FixedSettings(settings.serve, settings.log, settings.train.state)
        self.served = Served(folder, settings.experiment, config=ConfigFile(source, running))

    def change(self, *changes: tuple[str, str]) -> None:
        """Write the file with these texts in place of others, and let the server look."""
        text = self.text
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        self.write(text)

    def write(self, text: str) -> None:
        beside = self.path.with_suffix(".new")
        beside.write_text(text)
        beside.rename(self.path)
        self.served.routing.poll()

    def arms(self) -> dict[str, str]:
        answers = self.served.rank_all([request(user) for user in USERS])
        return {user: answer.json()["arm"] for user, answer in zip(USERS, answers, strict=True)}

    def metric(self, name: str) -> float:
        return sample(self.served.get("/metrics").text, f"stream_ctr_serve_{name}")

    def logged(self) -> Impression:
        value = self.served.kept.records[-1].value
        return msgspec.json.decode(value or b"", type=Impression)


@pytest.fixture
def steered(tmp_path: Path) -> Steered:
    return Steered(tmp_path)


def test_a_raised_coverage_is_applied_and_reassigns_no_user(steered: Steered) -> None:
    before = steered.arms()
    steered.change(("coverage = 0.5", "coverage = 1.0"))
    after = steered.arms()
    assert after != before
    assert all(after[user] == "new" for user, arm in before.items() if arm == "new")
    assert (steered.metric("config_reloads_total"), steered.metric("config_stale")) == (1, 0)


def test_a_new_salt_is_a_new_experiment_with_other_arms(steered: Steered) -> None:
    steered.change(
        ('salt = "one"', 'salt = "two"'),
        ('{name = "new", weight = 0.5}', '{name = "third", weight = 0.5}'),
        ("coverage = 0.5", "coverage = 1.0"),
    )
    assert set(steered.arms().values()) == {"control", "third"}
    logged = steered.logged()
    assert logged.salt == "two"
    assert logged.p == {"control": 0.25, "third": 0.75}
    assert steered.served.get("/health/ready").json()["arms"].keys() == {"control", "third"}


REFUSED = {
    "weights that do not sum to 1": (("weight = 0.5}]", "weight = 0.4}]"), "sum to 0.9"),
    "a negative weight": (("weight = 0.5}]", "weight = -0.5}]"), "must be at least 0, got -0.5"),
    "an unknown key": (("coverage", "covrage"), "did you mean"),
    "no TOML": (('salt = "one"', 'salt = "one'), "is not TOML"),
    "a lowered coverage": (("coverage = 0.5", "coverage = 0.4"), "lowered"),
    "a renamed arm": (('"new"', '"newer"'), "requires a new salt"),
    "another log": (("log.db", "other.db"), "requires a restart"),
    "another state folder": (('state = "', 'state = "/somewhere'), "requires a restart"),
    "another port": (("[experiment]", "[serve]\nport = 1\n[experiment]"), "serve.port changed from"),
    "a secret that is none": (
        ('salt = "one"', 'salt = "two"\noverride_secret_file = "/nowhere/secret"'),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("change", [*REFUSED, "changed weights", "no snapshot", "frozen", "no file"])
def test_a_rejected_configuration_changes_nothing_and_is_reported(
    steered: Steered, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    before, plan = steered.arms(), steered.served.routing.plan
    new_arm = '{name = "new", weight = 0.5}'
    if change == "changed weights":
        reason = "changed weight requires a new salt"
        steered.change((new_arm, '{name = "new", weight = 0.6}'), ("weight = 0.5}, ", "weight = 0.4}, "))
    elif change == "no snapshot":
        reason = "cannot become the control before it has a snapshot"
        steered.change(('salt = "one"', 'salt = "two"'), ('"control"', '"unheard"'))
    elif change == "frozen":
        reason = "snapshot cannot serve"
        frozen = '{name = "new", weight = 0.5, snapshot = "/nowhere"}'
        steered.change(('salt = "one"', 'salt = "two"'), (new_arm, frozen))
    elif change == "no file":
        reason = "cannot read the configuration file"
        steered.path.unlink()
        steered.served.routing.poll()
    else:
        replacement, reason = REFUSED[change]
        steered.change(replacement)
    assert steered.served.routing.plan is plan
    assert steered.arms() == before
    assert reason in steered.served.routing.config_error
    assert (steered.metric("config_stale"), steered.metric("config_failures_total")) == (1, 1)
    assert caplog.text.count("the experiment is unchanged") == 1
    steered.served.routing.poll()
    assert steered.metric("config_failures_total") == 1, "a refused file is read once"
    steered.write(steered.text)
    assert (steered.metric("config_stale"), steered.served.routing.config_error) == (0, "")
    assert steered.metric("config_reloads_total") == 0


def test_a_killed_arm_cannot_become_the_control(steered: Steered) -> None:
    steered.served.routing.kill("new", "test")
    steered.change(
        ('salt = "one"', 'salt = "two"'),
        ('{name = "control", weight = 0.5}, {name = "new", weight = 0.5}', '{name = "new"}'),
    )
    assert "is killed and cannot become the control" in steered.served.routing.config_error
    steered.served.routing.revive("new")
    assert steered.served.routing.reload()
    assert set(steered.arms().values()) == {"new"}


def test_a_kill_outlives_a_new_salt(steered: Steered) -> None:
    steered.served.routing.kill("new", "test")
    steered.change(('salt = "one"', 'salt = "two"'), ("coverage = 0.5", "coverage = 1.0"))
    assert set(steered.arms().values()) == {"control"}


def test_a_requested_reload_reports_its_result(steered: Steered) -> None:
    assert not steered.served.routing.reload()
    before = steered.path.stat()
    steered.path.write_text(steered.text.replace("coverage = 0.5", "coverage = 0.6"))
    os.utime(steered.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert steered.served.routing.reload(), "also where time and size of the file look the same"
    steered.path.write_text("nonsense")
    with pytest.raises(UsageError, match="is not TOML"):
        steered.served.routing.reload()
    with pytest.raises(UsageError, match="--config"):
        Served(steered.path.parent).routing.reload()
