"""Kill switch, guards, overrides, sampling and frozen arms, through real snapshots and real answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream_ctr.config.experiment import (
    SECRET_VARIABLE,
    ArmConfig,
    ExperimentConfig,
    GuardConfig,
    ThompsonConfig,
)
from stream_ctr.errors import ConfigError, StateError, UsageError
from stream_ctr.events.records import Impression
from stream_ctr.experiments.kill_file import ControlFile
from stream_ctr.experiments.override import Override, sign_override
from stream_ctr.experiments.shared_files import SUMS, ArmSums, Sums, replace_file
from stream_ctr.experiments.statistics.thompson import best_probabilities, with_floor
from stream_ctr.predictors.snapshot import SnapshotContent, path_of
from stream_ctr.serving.http.admin_api import status
from stream_ctr.serving.routing.arm_predictors import SNAPSHOTS
from tests.support.served_arms import (
    USERS,
    Served,
    constant,
    not_a_number,
    publish,
    request,
    sample,
    serve_unchecked,
)
from tests.support.two_arm_server import SALT, TWO_ARMS

P = {"control": 0.25, "new": 0.5}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    for arm, p in P.items():
        publish(tmp_path, arm, constant(p))
    return tmp_path


def impressions(served: Served) -> list[Impression]:
    values = [record.value for record in served.kept.records]
    return [msgspec.json.decode(value or b"", type=Impression) for value in values]


def guarded(**limits: Any) -> ExperimentConfig:
    off = GuardConfig(window=20, max_non_finite=1, max_saturated=1, not_ready_seconds=0)
    return replace(TWO_ARMS, guards=replace(off, **limits))


def metric(served: Served, name: str, **labels: str) -> float:
    return sample(served.get("/metrics").text, f"stream_ctr_serve_{name}", **labels)


def test_users_of_a_killed_arm_get_the_control_and_stay_assigned(state: Path) -> None:
    served = Served(state)
    assert served.rank(request(USERS["new"])).json()["arm"] == "new"
    ControlFile(state).kill("new", "test")
    served.routing.poll()
    answer = served.rank(request(USERS["new"])).json()
    assert (answer["arm"], answer["candidates"][0]["p"]) == ("control", P["control"])
    logged = impressions(served)[-1]
    assert (logged.assigned_arm, logged.arm, logged.reason) == ("new", "control", "killed")
    assert logged.bucket == impressions(served)[0].bucket
    assert logged.p == {"control": P["control"]}, "a killed arm is not asked"
    assert metric(served, "arm_killed", arm="new") == 1
    ready = served.get("/health/ready")
    assert ready.status_code == 200, "some arm answers"
    killed = {name: arm["killed"] for name, arm in ready.json()["arms"].items()}
    assert killed == {"control": None, "new": "manual"}
    assert metric(served, "kills_total", arm="new", cause="manual") == 1
    assert metric(served, "routed_total", arm="control", reason="killed") == 1
    ControlFile(state).revive("new")
    served.routing.poll()
    assert served.rank(request(USERS["new"])).json()["arm"] == "new"
    assert metric(served, "arm_killed", arm="new") == 0
    assert served.get("/health/ready").json()["arms"]["new"]["killed"] is None


def test_a_kill_outlives_the_server(state: Path) -> None:
    Served(state).routing.kill("new", "test")
    assert Served(state).rank(request(USERS["new"])).json()["arm"] == "control"


def test_a_control_named_in_the_kill_file_still_serves(state: Path) -> None:
    ControlFile(state).kill("control", "written by somebody")
    served = Served(state)
    assert served.rank(request(USERS["control"])).json()["arm"] == "control"
    with pytest.raises(UsageError, match="is the control"):
        served.routing.kill("control", "test")


def test_an_unreadable_kill_file_keeps_the_last_known_kills_and_is_reported(state: Path) -> None:
    served = Served(state)
    served.routing.kill("new", "test")
    ControlFile(state).path.write_bytes(b"torn")
    served.routing.poll()
    assert served.rank(request(USERS["new"])).json()["arm"] == "control"
    assert metric(served, "control_stale") == 1
    assert "damaged" in served.routing.switch.error
    ControlFile(state).path.unlink()
    served.routing.poll()
    assert served.rank(request(USERS["new"])).json()["arm"] == "new"
    assert metric(served, "control_stale") == 0


def test_with_a_kill_file_unreadable_at_startup_only_the_control_serves(state: Path) -> None:
    path = ControlFile(state).path
    path.parent.mkdir()
    path.write_bytes(b"torn")
    served = Served(state)
    assert served.rank(request(USERS["new"])).json()["arm"] == "control"
    assert impressions(served)[-1].reason == "killed"
    path.unlink()
    served.routing.poll()
    assert served.rank(request(USERS["new"])).json()["arm"] == "new"


def saturated() -> SnapshotContent:
    broken = constant(0.5)
    broken.dense["output.bias"][:] = 60.0
    return broken


@pytest.mark.parametrize(
    ("cause", "fault", "limits"),
    [
        ("non_finite", not_a_number(), {"max_non_finite": 0.2}),
        ("saturated", saturated(), {"max_saturated": 0.2}),
        ("latency", constant(0.5), {"latency_seconds": 1e-9, "max_slow": 0.2}),
        ("calibration", constant(0.9), {"calibration": 3.0}),
    ],
)
def test_each_guard_kills_on_its_fault_and_no_other_does(
    state: Path, cause: str, fault: SnapshotContent, limits: dict[str, float]
) -> None:
    served, other = Served(state, guarded(**limits)), Served(state, guarded(**limits))
    healthy = guarded(**{key: value for key, value in limits.items() if key != "latency_seconds"})
    well = Served(state, healthy)
    for _ in range(40):
        well.rank(request(USERS["new"]))
    assert not well.routing.plan.killed, "an arm that is well stays"
    serve_unchecked(served, state, "new", fault)
    for _ in range(40):
        assert served.rank(request(USERS["new"])).status_code == 200
    assert served.routing.plan.killed["new"].cause == cause
    assert impressions(served)[-1].reason == "killed"
    served.routing.poll()
    assert ControlFile(state).read().killed["new"].cause == cause
    assert metric(served, "kills_total", arm="new", cause=cause) == 1
    other.routing.poll()
    assert other.rank(request(USERS["new"])).json()["arm"] == "control", "every server follows"
    publish(state, "new", constant(0.5))
    served.arms.poll()
    served.routing.poll()
    assert served.rank(request(USERS["new"])).json()["arm"] == "control", "it stays until it is revived"
    served.routing.revive("new")
    assert served.rank(request(USERS["new"])).json()["arm"] == "new"
    assert not served.routing.plan.killed


def test_the_control_has_no_guard(state: Path) -> None:
    served = Served(state, guarded(latency_seconds=1e-9, max_slow=0, max_non_finite=0, max_saturated=0))
    for _ in range(50):
        assert served.rank(request(USERS["control"])).json()["arm"] == "control"
    assert "control" not in served.routing.plan.killed


def test_an_arm_that_never_gets_ready_is_killed(tmp_path: Path) -> None:
    publish(tmp_path, "control", constant(0.25))
    served = Served(tmp_path, guarded(not_ready_seconds=1e-9))
    served.routing.poll()
    killed = served.routing.plan.killed["new"]
    assert killed.cause == "not_ready"
    assert "no snapshot in" in killed.reason
    publish(tmp_path, "new", constant(0.5))
    served.arms.poll()
    served.routing.poll()
    served.routing.revive("new")
    served.routing.poll()
    assert served.rank(request(USERS["new"])).json()["arm"] == "new"


def write_sums(state: Path, salt: str = SALT, **arms: tuple[int, int, float]) -> None:
    content = Sums("two", salt, {name: ArmSums(*sums) for name, sums in arms.items()}, 1_700_000_000_000)
    replace_file(state / "experiment" / SUMS, msgspec.json.encode(content))


def test_observed_clicks_far_from_predictions_kill_an_arm(state: Path) -> None:
    served = Served(state, guarded(observed_calibration=2.0, observed_impressions=100))
    write_sums(state, new=(50, 1, 25.0), control=(50, 1, 25.0))
    served.routing.poll()
    write_sums(state, new=(200, 11, 100.0), control=(900, 1, 450.0))
    served.routing.poll()
    assert served.routing.plan.killed["new"].cause == "observed"
    served.routing.revive("new")
    served.routing.poll()
    served.routing.poll()
    assert not served.routing.plan.killed, "what was before the revival is not judged again"


def test_a_local_kill_holds_while_the_file_cannot_be_written(state: Path) -> None:
    served = Served(state, guarded(max_saturated=0.2))
    folder = ControlFile(state).path.parent
    folder.write_text("a file where a folder is needed")
    publish(state, "new", saturated())
    served.arms.poll()
    for _ in range(10):
        served.rank(request(USERS["new"]))
    served.routing.poll()
    assert served.rank(request(USERS["new"])).json()["arm"] == "control"
    assert metric(served, "control_stale") == 1
    folder.unlink()
    served.routing.poll()
    assert ControlFile(state).read().killed["new"].cause == "saturated"
    assert metric(served, "control_stale") == 0
    assert metric(served, "kills_total", arm="new", cause="saturated") == 1


def test_testers_get_their_arm_and_are_logged_as_testers(state: Path) -> None:
    control, new = TWO_ARMS.arms
    served = Served(state, replace(TWO_ARMS, arms=(control, replace(new, testers=(USERS["control"],)))))
    assert served.rank(request(USERS["control"])).json()["arm"] == "new"
    logged = impressions(served)[-1]
    assert (logged.assigned_arm, logged.arm, logged.reason) == ("control", "new", "override")
    serve_unchecked(served, state, "new", not_a_number())
    assert served.rank(request(USERS["control"])).json()["arm"] == "control"
    assert impressions(served)[-1].reason == "override", "a tester is in no comparison, whoever answers"


def test_a_signed_header_chooses_the_arm_and_an_unsigned_one_is_403(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, "a secret of some length")
    served = Served(state)
    user = USERS["control"]

    def header(
        arm: str = "new", user: str = user, expires: int = 2**40, secret: bytes = b""
    ) -> dict[str, str]:
        override = Override(SALT, arm, user, expires)
        return {"x-stream-ctr-override": sign_override(secret or b"a secret of some length", override)}

    assert served.rank(request(user), header()).json()["arm"] == "new"
    assert impressions(served)[-1].reason == "override"
    wrong = [
        header(secret=b"another secret, as long"),
        header(user="other"),
        header(expires=1),
        header(arm="none"),
        {"x-stream-ctr-override": "nonsense"},
        {"x-stream-ctr-override": ""},
    ]
    for headers in wrong:
        refused = served.rank(request(user), headers)
        assert refused.status_code == 403
        assert refused.json().keys() == {"error"}
    assert len(served.kept.records) == 1
    assert metric(served, "override_refusals_total") == len(wrong)
    monkeypatch.delenv(SECRET_VARIABLE)
    assert Served(state).rank(request(user), header()).status_code == 403
    monkeypatch.setenv(SECRET_VARIABLE, "short")
    with pytest.raises(ConfigError, match="at least 16"):
        Served(state)


def test_sampled_events_carry_their_propensity_and_follow_the_watchers_sums(state: Path) -> None:
    thompson = ThompsonConfig(share=1.0, floor=0.1)
    served = Served(state, replace(TWO_ARMS, coverage=0.0, thompson=thompson))
    served.rank(request("somebody"))
    first = impressions(served)[-1]
    assert (first.reason, first.assigned_arm) == ("sampled", "")
    assert first.propensity == pytest.approx(0.5)
    write_sums(state, salt="another", new=(1000, 900, 0.0), control=(1000, 10, 0.0))
    served.routing.poll()
    assert served.routing.plan.chances["new"] == pytest.approx(0.5), "another experiment's sums are not used"
    write_sums(state, new=(1000, 40, 0.0), control=(1000, 30, 0.0))
    served.routing.poll()
    expected = dict(
        zip(("control", "new"), with_floor(best_probabilities([1000, 1000], [30, 40]), 0.1), strict=True)
    )
    assert served.routing.plan.chances == expected
    for n in range(60):
        served.rank(request(f"user-{n}"))
    found = impressions(served)[1:]
    assert all(i.reason == "sampled" and i.propensity == expected[i.arm] for i in found)
    assert Counter(i.arm for i in found)["new"] > Counter(i.arm for i in found)["control"] > 0
    assert metric(served, "sampling_probability", arm="new") == expected["new"]
    served.routing.kill("new", "test")
    served.routing.poll()
    served.rank(request("somebody"))
    assert impressions(served)[-1].propensity == 1.0, "a killed arm has no chance"


def test_users_who_are_enrolled_keep_their_arm_while_others_are_sampled(state: Path) -> None:
    served = Served(state, replace(TWO_ARMS, thompson=ThompsonConfig(share=1.0)))
    for arm, user in USERS.items():
        assert served.rank(request(user)).json()["arm"] == arm
        assert (impressions(served)[-1].reason, impressions(served)[-1].propensity) == ("assigned", None)


def test_a_frozen_arm_never_changes_its_snapshot(state: Path) -> None:
    frozen = path_of(state / "new" / SNAPSHOTS, publish(state, "new", constant(0.75)))
    control, new = TWO_ARMS.arms
    experiment = replace(TWO_ARMS, arms=(replace(control, snapshot=str(frozen)), new))
    served = Served(state, experiment)
    for _ in range(3):
        publish(state, "control", constant(0.1))
        served.arms.poll()
    answer = served.rank(request(USERS["control"])).json()
    assert answer["candidates"][0]["p"] == pytest.approx(0.75)
    assert served.get("/health/ready").status_code == 200


@pytest.mark.parametrize("damage", ["missing", "torn"])
def test_a_frozen_arm_without_its_snapshot_is_one_clear_line(state: Path, damage: str) -> None:
    folder = path_of(state / "new" / SNAPSHOTS, 1)
    if damage == "torn":
        (folder / "arrays.safetensors").write_bytes(b"torn")
    else:
        folder = state / "nothing" / "here"
    control, new = TWO_ARMS.arms
    with pytest.raises(StateError, match=r"experiment\.arms 'new': snapshot cannot serve") as refused:
        Served(state, replace(TWO_ARMS, arms=(control, replace(new, snapshot=str(folder)))))
    assert str(folder) in str(refused.value)


def test_the_status_lists_arms_intervals_and_kills(state: Path) -> None:
    served = Served(state)
    served.routing.kill("new", "because")
    told = status(served.routing)
    assert (told["experiment"], told["salt"], told["control_error"]) == ("two", SALT, None)
    control, new = told["arms"]
    assert (control["role"], control["buckets"], control["killed"]) == ("control", [0, 5000], None)
    assert (new["role"], new["buckets"], new["killed"]["reason"]) == ("arm", [5000, 10000], "because")


def test_arms_of_weight_zero_predict_but_get_no_users(state: Path) -> None:
    publish(state, "spare", constant(0.125))
    arms = (*TWO_ARMS.arms, ArmConfig("spare", 0.0))
    served = Served(state, replace(TWO_ARMS, arms=arms))
    for n in range(50):
        assert served.rank(request(f"user-{n}")).json()["arm"] != "spare"
    assert all(i.p.keys() == {"control", "new", "spare"} for i in impressions(served))
