"""docs/extending.md, executed: the page's modules as an installed package outside of Stream CTR."""

from __future__ import annotations

import importlib
import json
import random
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_ctr.cli import main
from stream_ctr.config import registry
from stream_ctr.config.label_policy import LabelLoss
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.config.settings import load_settings
from stream_ctr.errors import ConfigError, ModelError, UsageError
from stream_ctr.events.limits import ReadLimits
from stream_ctr.events.log import EventLog, Record, TopicPartition
from stream_ctr.events.open import open_log
from stream_ctr.learners.build import build_learner
from stream_ctr.models.build import build_network
from stream_ctr.optim.presets import preset
from stream_ctr.predictors.reader import load_snapshot

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
PACKAGE = "acme_ctr"
EVENTS = 600


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def write_package(folder: Path) -> None:
    """The page's modules, and the metadata that installing them would leave."""
    (folder / PACKAGE).mkdir()
    (folder / PACKAGE / "__init__.py").touch()
    for text in code_blocks("python"):
        found = re.match(r"# (acme_ctr/\w+\.py)\n", text)
        if found:
            (folder / found[1]).write_text(text, "utf-8")
    (table,) = code_blocks("ini")
    groups = tomllib.loads(table)["project"]["entry-points"]
    lines = [
        line
        for group, entries in groups.items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    metadata = folder / f"{PACKAGE}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("\n".join(lines))


def write_data(path: Path) -> None:
    """Impressions whose clicks depend on the pair of user and item."""
    draws = random.Random(7)
    rows = ["time_ms,user,item,price,clicked"]
    for number in range(EVENTS):
        user, item = draws.randrange(4), draws.randrange(4)
        clicked = draws.random() < (0.8 if user == item else 0.1)
        rows.append(f"{1_700_000_000_000 + number * 20},u{user},i{item},{item * 3},{clicked:d}")
    path.write_text("\n".join(rows), "utf-8")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the package's data and configuration; the package itself is installed."""
    write_package(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_registered", {group: {} for group in registry.GROUPS})
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "shop.csv")
    (tmp_path / "acme.toml").write_text(code_blocks("toml")[0], "utf-8")
    return tmp_path


def result_of(words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What a command prints with ``--json``."""
    capsys.readouterr()
    assert main([*words.split(), "--json"]) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_page_covers_every_group() -> None:
    text = PAGE.read_text("utf-8")
    assert [group for group in registry.GROUPS if f"| `{group}` |" not in text] == []


def test_an_arm_of_extensions_is_replayed_trained_and_published(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dataset, log, backbone, optimizer and arm together."""
    written = result_of("replay shop shop.csv --log memory://shop", capsys)
    assert written["impressions"] == EVENTS
    trained = result_of("train --config acme.toml --arm treatment --until-idle 0.1", capsys)
    assert trained["learned"] == EVENTS
    folder = max((installed / "state" / "treatment" / "snapshots").glob("[0-9]*"))
    snapshot = load_snapshot(folder)
    assert isinstance(snapshot.model, ModelConfig)
    assert snapshot.model.backbone == "fwfm"
    assert snapshot.dense["pair.weight"].shape == (3,)
    assert not np.all(snapshot.dense["pair.weight"] == 1.0), "the pair weights were not learned"
    again = result_of("train --config acme.toml --arm treatment --until-idle 0.1", capsys)
    assert (again["learned"], again["run"]["learned"]) == (EVENTS, 0), "the checkpoint was not resumed"


def test_a_label_policy_is_evaluated(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = result_of("evaluate shop shop.csv --policy pu", capsys)
    assert found["events"] == EVENTS
    naive = result_of("evaluate shop shop.csv --policy naive", capsys)
    assert abs(found["calibration"] - 1.0) < abs(naive["calibration"] - 1.0)


@pytest.mark.parametrize("p", [0.02, 0.5, 0.9])
@pytest.mark.parametrize("share", [0.1, 1.0])
def test_the_policy_has_no_expected_gradient_at_the_true_probability(
    installed: Path, p: float, share: float
) -> None:
    loss = LabelLoss("pu", share)
    assert not loss.plain
    assert not loss.waits
    assert share * loss.logit_gradient(p, 0.0) + p * loss.logit_gradient(p, 1.0) == pytest.approx(0.0)


def test_the_log_keeps_the_contract_of_reading(installed: Path) -> None:
    log: EventLog = open_log("memory://contract", create=True)
    log.create_topic("topic", 2)
    records = [Record(b"k%d" % i, b"v" * (1 + 99 * (i == 3)), i, 0) for i in range(6)]
    log.append("topic", records)
    log.trim("topic", 0, 2)
    assert (log.start_offsets("topic"), log.end_offsets("topic")) == ({0: 2, 1: 0}, {0: 6, 1: 0})
    reader = log.reader({TopicPartition("topic", 0): 2}, ReadLimits(record=50))
    entries = reader.poll(2, 0.0) + reader.poll(10, 0.0)
    assert [entry.offset for entry in entries] == [2, 3, 4, 5]
    assert [entry.unread is not None for entry in entries] == [False, True, False, False]
    with pytest.raises(UsageError, match=r"write sqlite:///path .* or kafka://.*, or memory://\.\.\."):
        open_log("memroy://contract")


def test_a_program_registers_without_a_package(installed: Path) -> None:
    lion = importlib.import_module("acme_ctr.lion").Lion
    fwfm = importlib.import_module("acme_ctr.fwfm").build
    assert registry.register("stream_ctr.rules", "own-lion")(lion) is lion
    registry.register("stream_ctr.backbones", "own-fwfm")(fwfm)
    registry.register("stream_ctr.presets", "own")(OptimizerConfig(method="base", row_rule="own-lion"))
    model = ModelConfig(backbone="own-fwfm", embedding=4, hidden=(8,))
    learner = build_learner(model, preset("own"), LearnerConfig(device="cpu"), [0, 1, 2], 3)
    assert learner.state().arrays["rows.mean"].shape == (3, 4)
    with pytest.raises(UsageError, match="'own-lion' is registered already"):
        registry.register("stream_ctr.rules", "own-lion")(fwfm)
    with pytest.raises(UsageError, match=r"no extension group named 'stream_ctr\.rule'"):
        registry.register("stream_ctr.rule", "x")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('[model]\nbackbone = "fwfn"', r"model\.backbone = 'fwfn' is unknown; choose dnn or .*fwfm; did you"),
        ('[optimizer]\nrow_rule = "lions"', r"row_rule = 'lions' is unknown; choose sgd or .*lion; did you"),
        ('[join]\npolicy = "up"', r"join\.policy = 'up' is unknown; choose wait or .* or pu"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(installed: Path, table: str, message: str) -> None:
    path = installed / "unknown.toml"
    path.write_text(table)
    with pytest.raises(ConfigError, match=message):
        load_settings(path)


def test_limits_are_one_clear_line(installed: Path) -> None:
    settings = ModelConfig(), OptimizerConfig()
    with pytest.raises(ModelError, match=r"not join\.policy = 'pu'; set learner\.kind = \"torch\""):
        build_learner(*settings, LearnerConfig("compiled"), [0, 1], 2, LabelLoss("pu"))
    with pytest.raises(ModelError, match=r"compiled learner does not support optimizer\.row_rule = 'lion'"):
        build_learner(settings[0], OptimizerConfig(row_rule="lion"), LearnerConfig("compiled"), [0, 1], 2)
    with pytest.raises(ModelError, match="needs at least 2 fields, got 1"):
        build_network(ModelConfig(backbone="fwfm"), 1)
    (installed / PACKAGE / "fwfm.py").write_text("import not_there")
    importlib.invalidate_caches()
    sys.modules.pop("acme_ctr.fwfm", None)
    registry._registered["stream_ctr.backbones"].clear()
    with pytest.raises(UsageError, match=r"'fwfm' \(acme_ctr\.fwfm:build\) cannot be imported: ModuleNotF"):
        build_network(ModelConfig(backbone="fwfm"), 3)
