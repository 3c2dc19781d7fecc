"""``config show``: its output loads as the same configuration, explains every key and holds no secret."""

from __future__ import annotations

import json
import tempfile
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.cli import main
from stream_ctr.config.experiment import (
    SECRET_VARIABLE,
    ArmConfig,
    ExperimentConfig,
    GuardConfig,
    ThompsonConfig,
)
from stream_ctr.config.features import FeaturesConfig, FieldConfig
from stream_ctr.config.join import JoinConfig, OrderConfig
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.log import PASSWORD_VARIABLE, LogConfig, SecurityConfig
from stream_ctr.config.losses import LossesConfig
from stream_ctr.config.model import BACKBONE_NAMES, ModelConfig
from stream_ctr.config.optimizer import RULE_NAMES, OptimizerConfig
from stream_ctr.config.serve import TOKENS_VARIABLE, ServeConfig
from stream_ctr.config.settings import Settings, TrainConfig, load_settings
from stream_ctr.config.toml import as_toml
from stream_ctr.config.watch import WatchConfig

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted([*(ROOT / "docs").glob("*.toml"), *(ROOT / "deploy").glob("*.toml")])
SECURITY = (
    SecurityConfig(),
    SecurityConfig(protocol="SASL_SSL", username="a", password_file='p"\\', check_hostname=False),
)

T = TypeVar("T")
Draw = st.DrawFn


def table(kind: type[T], **given: Any) -> st.SearchStrategy[T]:
    """A table with every key drawn from the values that its annotation allows, or as given."""
    assert is_dataclass(kind)
    keys: dict[str, Any] = {field.name: ... for field in fields(kind)}
    return st.builds(kind, **{**keys, **given})


MODELS = table(ModelConfig, backbone=st.sampled_from(BACKBONE_NAMES))
OPTIMIZERS = table(OptimizerConfig, **{key: st.sampled_from(names) for key, names in RULE_NAMES.items()})
GUARDS = table(
    GuardConfig,
    calibration=st.sampled_from([0.0, 1.5, float("inf")]),
    observed_calibration=st.sampled_from([0.0, 2.0]),
)
LEARNERS = table(LearnerConfig, rebuild=st.just(False))
ARMS = table(
    ArmConfig,
    name=st.text("abc-_", min_size=1, max_size=4),
    weight=st.integers(1, 9).map(float),
    model=st.none() | MODELS,
    optimizer=st.none() | OPTIMIZERS,
    learner=st.none() | LEARNERS,
    shadow=st.just(False),
    testers=st.just(()),
    guards=st.none() | GUARDS,
)


@st.composite
def valid_settings(draw: Draw) -> Settings:
    """Any settings that pass every check of :func:`load_settings`."""
    topics = draw(st.lists(st.text(), min_size=4, max_size=4, unique=True))
    arms = draw(st.lists(ARMS, min_size=1, max_size=3, unique_by=lambda arm: arm.name))
    total = sum(arm.weight for arm in arms)
    join = draw(table(JoinConfig, policy=st.sampled_from(["wait", "fast", "fnw"])))
    order = draw(table(OrderConfig))
    log = draw(table(LogConfig, url=st.just("kafka://h:1"), security=st.sampled_from(SECURITY)))
    impressions, clicks, labelled, dead_letters = topics
    return Settings(
        log=replace(
            log, impressions=impressions, clicks=clicks, labelled=labelled, dead_letters=dead_letters
        ),
        features=draw(table(FeaturesConfig, fields=st.lists(table(FieldConfig), max_size=3).map(tuple))),
        order=replace(order, max_lead_seconds=min(order.max_lead_seconds, join.grace_seconds)),
        join=replace(join, horizon_seconds=max(join.horizon_seconds, join.window_seconds)),
        model=draw(MODELS),
        optimizer=draw(OPTIMIZERS),
        learner=draw(LEARNERS),
        train=draw(table(TrainConfig, state=st.text().map(lambda text: text.replace("\0", "")))),
        losses=draw(table(LossesConfig)),
        serve=draw(table(ServeConfig, admin_port=st.integers(0, 64_512))),
        experiment=ExperimentConfig(
            name=draw(st.text()),
            salt=draw(st.text()),
            coverage=draw(st.floats(0, 1)),
            arms=tuple(replace(arm, weight=arm.weight / total) for arm in arms),
            guards=draw(GUARDS),
            thompson=draw(table(ThompsonConfig, floor=st.floats(0, 0.3))),
        ),
        watch=draw(table(WatchConfig)),
    )


@settings(max_examples=30)
@given(valid_settings())
@pytest.mark.slow
def test_any_valid_settings_survive_a_round_trip(valid: Settings) -> None:
    text = as_toml(valid)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "c.toml")
        path.write_text(text, "utf-8", newline="")
        loaded = load_settings(path)
    assert as_toml(loaded) == text
    assert repr(loaded) == repr(valid)  # NaN differs from itself, but not as text


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_a_shown_example_is_checked_like_the_example(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "show", str(path)]) == 0
    copy = tmp_path / "shown.toml"
    copy.write_text(capsys.readouterr().out, "utf-8")
    assert main(["config", "show", str(copy)]) == 0
    assert capsys.readouterr().out == copy.read_text("utf-8")
    assert load_settings(copy) == load_settings(path)
    assert main(["config", "check", str(path)]) == main(["config", "check", str(copy)])
    checked = capsys.readouterr()
    for output in (checked.out, checked.err):
        assert len(set(output.splitlines())) <= 1, output


def test_the_shown_defaults_are_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show"]) == 0
    text = capsys.readouterr().out
    path = tmp_path / "shown.toml"
    path.write_text(text, "utf-8")
    assert load_settings(path) == load_settings(None)
    # Only the features have no default that a trainer could start with.
    path.write_text(text.replace('preset = ""', 'preset = "world"'), "utf-8")
    assert main(["config", "check", str(path)]) == 0


def test_every_key_is_explained_and_its_default_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[features]\nfields = [{name = "a"}]\n[train]\nchunk = 3\n[model]\nhidden = [5]\n')
    assert main(["config", "show", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    keys = [number for number, line in enumerate(lines) if line and line[0] not in "#["]
    for number in keys:
        assert lines[number - 1].startswith("# "), lines[number]
    assert len(keys) > 120
    for expected in (
        "chunk = 3  # default: 256",
        "hidden = [5]  # default: [128, 64]",
        'state = "state"  # default',
        'name = "a"',
        "# Wall time between checkpoints.",
        "# guards is not set",
    ):
        assert expected in lines


def test_json_holds_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert list(shown) == list(Settings.model_fields)
    assert shown["train"]["chunk"] == 256


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for variable in (PASSWORD_VARIABLE, SECRET_VARIABLE, TOKENS_VARIABLE):
        monkeypatch.setenv(variable, "hunter2-hunter2-hunter2")
    for words in (["config", "show"], ["config", "show", "--json"]):
        assert main(words) == 0
        shown = capsys.readouterr()
        assert "hunter2" not in shown.out + shown.err
    monkeypatch.setenv("STREAM_CTR_LOG__URL", "kafka://ada:hunter2@host:9092")
    assert main(["config", "show"]) == 2
    shown = capsys.readouterr()
    assert "hunter2" not in shown.out + shown.err
