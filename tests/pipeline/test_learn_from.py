"""learn_from = "own": an arm learns what it answered itself, and is scored on everything."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from stream_ctr.batch import ASIDE, LEARN, PREDICT, SETTLE
from stream_ctr.config.settings import load_settings
from stream_ctr.daemon.identity import check_identity, identity
from stream_ctr.datasets.base import resolve_fields
from stream_ctr.errors import StateError
from stream_ctr.events.log import TopicPartition
from stream_ctr.features.scan.scanner import RecordScanner
from stream_ctr.pipeline.ordering.entry import OrderedEntry
from stream_ctr.pipeline.ordering.journal import Journal
from stream_ctr.pipeline.ordering.order import Order
from stream_ctr.state.state import State
from stream_ctr.training.core import Core
from tests.support.faulty_streams import write_config
from tests.support.log_entries import CLICKS, IMPRESSIONS, TOPICS, fresh_state, log_of

ARMS = """
[[experiment.arms]]
name = "mine"
weight = 0.5
learn_from = "{learn_from}"
[[experiment.arms]]
name = "other"
weight = 0.5
"""
POLICIES = ("wait", "fast", "fnw", "naive")


def impressions(count: int) -> list[dict[str, object]]:
    """Impressions of two arms and of none; the other arms' show values that the arm itself never does."""
    draw = random.Random(5)
    found: list[dict[str, object]] = []
    for n in range(count):
        arm = "" if n == 0 else draw.choice(["mine", "mine", "other", ""])
        features = {
            "ad": f"{arm}{draw.randrange(4)}" if n % 3 else f"ad{draw.randrange(5)}",
            "price": draw.random() * (9.0 if arm == "mine" else 900.0),
            "tags": [f"t{draw.randrange(6)}" for _ in range(draw.randrange(4))],
        }
        found.append(
            {"v": 1, "event_id": f"e{n}", "ts_ms": 10**12 + 700 * n, "features": features, "arm": arm}
        )
    return found


def order_of(shown: list[dict[str, object]], core: Core, scanned: bool = False) -> list[OrderedEntry]:
    """Those impressions and every third one's click, in their order."""
    clicks = [
        json.dumps({"v": 1, "event_id": f"e{n}", "ts_ms": 10**12 + 700 * n + 9_000}).encode()
        for n in range(0, 400, 3)
    ]
    log = log_of(
        {
            TopicPartition(IMPRESSIONS, 0): [json.dumps(each).encode() for each in shown],
            TopicPartition(CLICKS, 0): clicks,
        }
    )
    scanner = RecordScanner(core.pipeline.key_encoder.fields) if scanned else None
    order = Order(TOPICS, fresh_state(1), Journal(), scanner=scanner)
    order.add(entry for entries in log.values() for entry in entries)
    return order.finish()


def core_of(folder: Path, learn_from: str, policy: str = "wait") -> Core:
    folder.mkdir(exist_ok=True)
    config = write_config(folder, "state", ARMS.format(learn_from=learn_from))
    text = config.read_text("utf-8").replace("[join]\n", f'[join]\npolicy = "{policy}"\n')
    config.write_text(text, "utf-8")
    settings = load_settings(config)
    return Core(settings, settings.arm("mine"), resolve_fields(settings.features), 1)


def learned_parts(core: Core) -> State:
    """What learning leaves behind: weights, rows, counts and bucket boundaries."""
    pipeline = core.pipeline
    parts = {"learner": core.learner.state(), "tables": pipeline.tables.state()}
    return State.gather({**parts, "keys": pipeline.key_encoder.state()})


@pytest.mark.parametrize("policy", POLICIES)
def test_an_arm_learns_as_if_its_own_impressions_were_all_there_are(tmp_path: Path, policy: str) -> None:
    shown = impressions(400)
    own = [each for each in shown if each["arm"] == "mine"]
    among, alone = core_of(tmp_path / "a", "own", policy), core_of(tmp_path / "b", "all", policy)
    among.apply(order_of(shown, among))
    alone.apply(order_of(own, alone))
    assert learned_parts(among).equals(learned_parts(alone))
    assert among.learned == alone.learned > 150
    assert among.metrics.events == len(shown), "everything is scored"
    assert alone.metrics.events == len(own)
    assert among.pipeline.outcomes["others"] == len(shown) - len(own)
    assert "others" not in alone.pipeline.outcomes


def test_all_traffic_leaves_other_weights(tmp_path: Path) -> None:
    """The test above would say nothing if the other arms' impressions did nothing anyway."""
    shown = impressions(400)
    everything, own = core_of(tmp_path / "a", "all"), core_of(tmp_path / "b", "own")
    everything.apply(order_of(shown, everything))
    own.apply(order_of(shown, own))
    assert everything.learned == len(shown) > own.learned
    assert everything.pipeline.tables.rows_in_use > own.pipeline.tables.rows_in_use


@pytest.mark.parametrize("policy", POLICIES)
def test_chunks_restarts_and_scans_change_no_bit(tmp_path: Path, policy: str) -> None:
    shown = impressions(160)
    whole = core_of(tmp_path / "a", "own", policy)
    whole.apply(order_of(shown, whole))
    core = core_of(tmp_path / "b", "own", policy)
    entries = order_of(shown, core, scanned=True)
    for start in range(0, len(entries), 7):
        core.apply(entries[start : start + 7])
        if start % 70 == 0:
            again = core_of(tmp_path / "b", "own", policy)
            again.load_parts(core.parts())
            core = again
    assert State.gather(core.parts()).equals(State.gather(whole.parts()))
    assert core.pipeline.outcomes == whole.pipeline.outcomes


def test_another_arms_impression_is_scored_and_settled_and_nothing_more(tmp_path: Path) -> None:
    core = core_of(tmp_path, "own", "fast")
    step = core.apply(order_of(impressions(60), core))
    batch = step.batch
    own = {int(n) for n in batch.impression[batch.action & LEARN != 0]}
    others = ~np.isin(batch.impression, sorted(own))
    assert 10 < others.sum() < len(batch)
    assert set(batch.action[others].tolist()) == {PREDICT, SETTLE}
    assert not (batch.action & ASIDE).any()
    assert not others[batch.changes.event[batch.changes.key != 0]].any(), "their values get no rows"
    assert np.isfinite(step.result.probability[others & (batch.action == PREDICT)]).all()


def test_a_state_cannot_change_what_it_learns_from(tmp_path: Path) -> None:
    found = {}
    for learn_from in ("all", "own"):
        settings = load_settings(write_config(tmp_path, learn_from, ARMS.format(learn_from=learn_from)))
        found[learn_from] = identity(settings, settings.arm("mine"), resolve_fields(settings.features))
    assert "learn_from" not in found["all"], "checkpoints from before the setting go on"
    with pytest.raises(StateError, match=r'was created with learn_from = "own" \(now "all"\)'):
        check_identity(found["own"], found["all"], tmp_path)
