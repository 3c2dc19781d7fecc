"""The pipeline is a fold: chunks, restarts and waiting change no bit of what comes out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.batch import LEARN, PREDICT, Batch, RowChanges
from stream_ctr.config.features import FeaturesConfig, FieldConfig
from stream_ctr.config.join import JoinConfig
from stream_ctr.errors import StateError
from stream_ctr.events.log import Entry, TopicPartition
from stream_ctr.events.records import FeatureValue
from stream_ctr.pipeline.join_stage import JoinStage
from stream_ctr.pipeline.joining.joiner import OUTCOMES
from stream_ctr.pipeline.joining.memory import OPEN
from stream_ctr.pipeline.ordering.entry import OrderedEntry
from stream_ctr.pipeline.ordering.journal import Journal
from stream_ctr.pipeline.ordering.order import Order
from stream_ctr.pipeline.ordering.progress import entry_digest
from stream_ctr.pipeline.stream import Applied, Pipeline
from stream_ctr.state.state import Json, State
from tests.support.log_entries import (
    CLICKS,
    IMPRESSIONS,
    TOPICS,
    all_entries,
    click_value,
    fresh_order,
    impression_value,
    log_of,
    partitions,
)

FIELDS = (
    FieldConfig("site"),
    FieldConfig("tags", "multi", max_values=2),
    FieldConfig("price", "float", buckets=4),
)
FEATURES = FeaturesConfig(counts="decayed", half_life_seconds=0.01)
CLICK_OUTCOMES = [name for name in OUTCOMES if name.startswith("clicks_") and name != "clicks_first"]
JOIN = JoinConfig(window_seconds=0.005, grace_seconds=0.0, horizon_seconds=0.012)


def fresh_pipeline(count: int = 2, features: FeaturesConfig = FEATURES) -> Pipeline:
    return Pipeline(FIELDS, features, JOIN, "main", JoinStage(JOIN, IMPRESSIONS, CLICKS, count))


@st.composite
def ordered_entries(draw: st.DrawFn) -> list[OrderedEntry]:
    """The order of a small log with everything in it that can be wrong, and some ends of the log."""
    values: dict[TopicPartition, list[bytes | None]] = {}
    for tp in partitions(2):
        times = draw(st.lists(st.integers(0, 40), max_size=9))
        if draw(st.booleans()):
            times.sort()
        values[tp] = [draw(_values(tp, time)) for time in times]
    order = fresh_order(2)
    log = log_of(values)
    half = {tp: len(entries) // 2 for tp, entries in log.items()}
    emitted: list[OrderedEntry] = []
    if draw(st.booleans()):
        order.add(e for tp, entries in log.items() for e in entries[: half[tp]])
        emitted += order.finish()
        log = {tp: entries[half[tp] :] for tp, entries in log.items()}
    order.add(all_entries(log))
    return emitted + order.finish()


def _values(tp: TopicPartition, time: int) -> st.SearchStrategy[bytes | None]:
    name = st.sampled_from("abcdefgh")
    if tp.topic == CLICKS:
        good = name.map(lambda event_id: click_value(event_id, time))
    else:
        features = st.fixed_dictionaries(
            {
                "site": st.sampled_from(["x", "y", "z", None]),
                "tags": st.lists(st.sampled_from("pqr"), max_size=3),
                "price": st.floats(0, 9) | st.just("dear"),
            }
        )
        good = st.tuples(name, features).map(lambda pair: impression_value(pair[0], time, pair[1]))
    return st.one_of(good, good, good, good, st.sampled_from([None, b"broken"]))


def concatenated(batches: Sequence[Batch]) -> Batch:
    """The batches as one: columns end to end, events of changes counted on."""
    starts = np.cumsum([0, *(len(batch) for batch in batches)])
    changes = RowChanges(
        np.concatenate([b.changes.event + start for b, start in zip(batches, starts, strict=False)]),
        *(np.concatenate([getattr(b.changes, name) for b in batches]) for name in ("row", "field", "key")),
    )
    columns = [field.name for field in dataclasses.fields(Batch) if field.name != "changes"]
    return Batch(**{c: np.concatenate([getattr(b, c) for b in batches]) for c in columns}, changes=changes)


def assert_same(one: Batch, other: Batch) -> None:
    for a, b in ((one, other), (one.changes, other.changes)):
        for item in dataclasses.fields(a):
            if item.name != "changes":
                left, right = getattr(a, item.name), getattr(b, item.name)
                assert (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())


def run(pipeline: Pipeline, entries: Sequence[OrderedEntry], chunk: int) -> list[Applied]:
    return [pipeline.apply(entries[at : at + chunk]) for at in range(0, len(entries), chunk)]


@settings(max_examples=50, deadline=None)
@given(ordered_entries())
def test_chunks_of_any_size_come_to_the_same_bits(entries: list[OrderedEntry]) -> None:
    whole = fresh_pipeline()
    applied = whole.apply(entries)
    for chunk in (1, 7, 256):
        pipeline = fresh_pipeline()
        parts = run(pipeline, entries, chunk)
        assert_same(concatenated([part.batch for part in parts]), applied.batch)
        assert [item for part in parts for item in part.rejected] == applied.rejected
        assert pipeline.state().equals(whole.state())
        assert pipeline.outcomes == whole.outcomes


@settings(max_examples=50, deadline=None)
@given(ordered_entries(), st.lists(st.integers(0, 40), max_size=3))
def test_restart_from_any_state_comes_to_the_same_bits(entries: list[OrderedEntry], cuts: list[int]) -> None:
    whole = fresh_pipeline()
    applied = whole.apply(entries)
    places = [0, *sorted(min(cut, len(entries)) for cut in cuts), len(entries)]
    pipeline, batches = fresh_pipeline(), []
    for start, end in pairwise(places):
        loaded = fresh_pipeline()
        loaded.load_state(pipeline.state())
        assert loaded.state().equals(pipeline.state())
        assert loaded.stage.progress.positions() == pipeline.stage.progress.positions()
        pipeline = loaded
        batches.append(pipeline.apply(entries[start:end]).batch)
    assert_same(concatenated(batches), applied.batch)
    assert pipeline.state().equals(whole.state())


@settings(max_examples=50, deadline=None)
@given(ordered_entries())
def test_events_of_a_batch_belong_together(entries: list[OrderedEntry]) -> None:
    pipeline = fresh_pipeline()
    batch = pipeline.apply(entries).batch
    count = pipeline.outcomes
    predicted = batch.impression[batch.action == PREDICT]
    learned = batch.impression[batch.action == LEARN]
    assert predicted.tolist() == list(range(count["impressions"]))
    assert sorted(learned.tolist()) == predicted.tolist(), "the end of the log settles every label"
    assert np.isnan(batch.label[batch.action == PREDICT]).all()
    assert batch.label[batch.action == LEARN].sum() == count["positives"]
    for number in learned:
        predict, learn = np.flatnonzero(batch.impression == number)
        assert batch.action[[predict, learn]].tolist() == [PREDICT, LEARN]
        assert batch.time_ms[predict] == batch.time_ms[learn]
        assert batch.served[[predict, learn]].tolist() == [0.25, 0.25]
        assert batch.truth[[predict, learn]].tolist() == [0.125, 0.125]
    assert count["entries"] == len(entries)
    ends = sum(o.entry is None for o in entries)
    waiting = int(np.count_nonzero(pipeline.state().arrays["join.clicks.status"] == OPEN))
    settled = ("rejected", "impressions", "impressions_repeated", "impressions_late", *CLICK_OUTCOMES)
    assert len(entries) == ends + waiting + sum(count[name] for name in settled)
    assert count["rejected"] >= sum(o.record is None for o in entries) - ends


def one_partition(
    impressions: Sequence[bytes | None], clicks: Sequence[bytes | None]
) -> tuple[Pipeline, Applied, list[OrderedEntry]]:
    log = log_of(dict(zip(partitions(1), (impressions, clicks), strict=True)))
    order = fresh_order(1)
    order.add(all_entries(log))
    entries = order.finish()
    pipeline = fresh_pipeline(1, FeaturesConfig())
    return pipeline, pipeline.apply(entries), entries


GOOD: dict[str, FeatureValue] = {"site": "x", "tags": ["p"], "price": 1.0}


def test_an_impression_is_predicted_at_its_place_and_learned_at_its_windows_end() -> None:
    impressions = [impression_value(name, time, GOOD) for name, time in (("a", 1), ("b", 2), ("c", 3))]
    pipeline, applied, _ = one_partition(impressions, [click_value("b", 2)])
    batch = applied.batch
    assert list(zip(batch.action.tolist(), batch.impression.tolist(), strict=True)) == [
        (PREDICT, 0),
        (PREDICT, 1),
        (PREDICT, 2),
        (LEARN, 0),
        (LEARN, 1),
        (LEARN, 2),
    ]
    assert batch.label[[3, 4, 5]].tolist() == [0.0, 1.0, 0.0]
    assert batch.weight.tolist() == [1.0] * 6
    assert batch.rows.shape == (6, 4)
    assert (batch.rows[4] == batch.rows[1]).all()
    assert pipeline.stage.open_impressions == 0
    assert pipeline.stage.watermark_ms == 3 + 5


def test_events_without_a_server_have_no_served_probability() -> None:
    value = b'{"v":1,"event_id":"a","ts_ms":1,"features":{}}'
    _, applied, _ = one_partition([value], [])
    assert np.isnan(applied.batch.served).all()
    assert np.isnan(applied.batch.truth).all()


def test_bad_entries_are_rejected_with_their_reason_and_harm_nothing() -> None:
    good = [impression_value("a", 1, GOOD), impression_value("b", 9, GOOD)]
    bad = [
        impression_value("c", 2, {"tags": "red"}),
        impression_value("d", 2, {"price": "dear"}),
        b"broken",
        None,
    ]
    _, clean, _ = one_partition(good, [])
    pipeline, applied, _ = one_partition([good[0], *bad, good[1]], [])
    assert_same(applied.batch, clean.batch)
    assert [entry.value for entry, _ in applied.rejected] == bad
    reasons = [reason for _, reason in applied.rejected]
    for reason, part in zip(reasons, ("tags", "price", "malformed", "null"), strict=True):
        assert part in reason
    assert pipeline.outcomes["rejected"] == 4
    assert pipeline.stage.progress.positions()[TopicPartition(IMPRESSIONS, 0)] == 6


def test_rejected_impression_leaves_its_event_id_free() -> None:
    values = [impression_value("a", 1, {"tags": "red"}), impression_value("a", 2, GOOD)]
    pipeline, _, _ = one_partition(values, [])
    assert pipeline.outcomes["impressions"] == 1
    assert pipeline.outcomes["impressions_repeated"] == 0


def test_what_is_left_out_of_impressions_is_among_the_outcomes() -> None:
    long: dict[str, FeatureValue] = {**GOOD, "tags": ["p", "q", "r", "s"], "colour": "red"}
    pipeline, _, _ = one_partition([impression_value("a", 1, long), impression_value("a", 2, long)], [])
    assert pipeline.outcomes["features_ignored"] == 1
    width = next(item.max_values for item in FIELDS if item.name == "tags")
    assert pipeline.outcomes["values_truncated"] == 4 - width > 0


def test_repeated_impression_is_not_counted_again() -> None:
    once, _, _ = one_partition([impression_value("a", 1, GOOD)], [])
    twice, _, _ = one_partition([impression_value("a", 1, GOOD)] * 2, [])
    for name in ("keys", "tables"):
        assert once.state().part(name).equals(twice.state().part(name))
    assert twice.outcomes["impressions_repeated"] == 1


def test_positions_and_digests_are_of_the_last_applied_entries() -> None:
    clicks = [click_value("a", 1), b"broken"]
    pipeline, _, entries = one_partition([], clicks)
    assert pipeline.stage.progress.positions() == {
        TopicPartition(IMPRESSIONS, 0): 0,
        TopicPartition(CLICKS, 0): 2,
    }
    last = entries[1].entry
    assert last is not None
    assert pipeline.stage.progress.digests() == {TopicPartition(CLICKS, 0): entry_digest(last)}
    loaded = fresh_pipeline(1, FeaturesConfig())
    loaded.load_state(pipeline.state())
    assert loaded.stage.progress.digests() == pipeline.stage.progress.digests()


def test_digest_tells_keys_from_values_and_null_from_empty() -> None:
    entries = [
        Entry(CLICKS, 0, 0, 0, key, value)
        for key, value in [
            (b"ab", b"c"),
            (b"a", b"bc"),
            (None, b"abc"),
            (b"", b"abc"),
            (b"abc", None),
            (b"abc", b""),
        ]
    ]
    assert len({entry_digest(entry) for entry in entries}) == len(entries)
    assert entry_digest(entries[0]) == entry_digest(entries[0]._replace(offset=9, timestamp_ms=9))


def assert_goes_on_anywhere(
    log: dict[TopicPartition, list[Entry]], journal: Journal, entries: Sequence[OrderedEntry], count: int
) -> None:
    """What a restart reads from the checkpoint is enough for the same order."""
    for cut in range(len(entries) + 1):
        pipeline = fresh_pipeline(count)
        pipeline.apply(entries[:cut])
        again = Order(TOPICS, pipeline.stage.progress.order_state(), journal)
        positions = pipeline.stage.progress.positions()
        again.add(e for tp, items in log.items() for e in items[positions[tp] :])
        assert again.emit(100) == entries[cut:]


def test_order_goes_on_from_the_pipelines_state() -> None:
    times = [5, 1, 9, 2, 12]
    log = log_of(
        {
            TopicPartition(IMPRESSIONS, 0): [impression_value(f"a{n}", t, GOOD) for n, t in enumerate(times)],
            TopicPartition(CLICKS, 0): [click_value(f"a{n}", t) for n, t in enumerate(times)],
        }
    )
    journal = Journal()
    order = fresh_order(1, journal)
    order.add(all_entries(log))
    assert_goes_on_anywhere(log, journal, order.finish(), 1)


def test_order_goes_on_among_late_partitions() -> None:
    """Late entries keep the order of their own times, which are not the order's time."""
    times = {
        partitions(2)[0]: [100],
        partitions(2)[1]: [],
        partitions(2)[2]: [10, 15],
        partitions(2)[3]: [20],
    }
    log = log_of(
        {
            tp: [
                impression_value(f"a{t}", t, GOOD) if tp.topic == IMPRESSIONS else click_value(f"a{t}", t)
                for t in items
            ]
            for tp, items in times.items()
        }
    )
    journal = Journal()
    order = fresh_order(2, journal)
    for tp in partitions(2)[0], partitions(2)[3], partitions(2)[2]:
        order.add(log[tp])
        if tp.topic == IMPRESSIONS:
            order.idle(order.waiting_for())
            entries = order.emit(10)
    entries += order.finish()
    assert [o.partition_time_ms for o in entries if o.entry] == [100, 10, 15, 20]
    assert_goes_on_anywhere(log, journal, entries, 2)


def test_entries_that_do_not_follow_are_refused() -> None:
    pipeline, _, entries = one_partition([impression_value("a", 1, GOOD)], [])
    before = pipeline.state()
    with pytest.raises(StateError, match=f"entry {len(entries)} of the order must follow, not 0"):
        pipeline.apply(entries)
    assert pipeline.state().equals(before)


def test_applying_nothing_changes_nothing() -> None:
    pipeline, _, _ = one_partition([impression_value("a", 1, GOOD)], [])
    before = pipeline.state()
    applied = pipeline.apply([])
    assert (len(applied.batch), applied.batch.rows.shape, applied.rejected) == (0, (0, 4), [])
    assert pipeline.state().equals(before)


def test_pipeline_begins_where_the_log_does() -> None:
    tp = TopicPartition(CLICKS, 0)
    pipeline = fresh_pipeline(1)
    pipeline.stage.progress.begin({tp: 70})
    assert pipeline.stage.progress.positions()[tp] == 70
    order = Order(TOPICS, pipeline.stage.progress.order_state(), Journal())
    order.add([Entry(CLICKS, 0, 70, -1, None, click_value("a", 1))])
    pipeline.apply(order.finish())
    assert pipeline.stage.progress.positions()[tp] == 71
    with pytest.raises(StateError, match="before any entry"):
        pipeline.stage.progress.begin({tp: 3})
    with pytest.raises(StateError, match="of its own partitions"):
        fresh_pipeline(1).stage.progress.begin({TopicPartition("else", 0): 3})


def test_state_of_other_partitions_is_refused() -> None:
    with pytest.raises(StateError, match=r"saved positions are of clicks\[0\], impressions\[0\], the"):
        fresh_pipeline(2).load_state(fresh_pipeline(1).state())


def test_damaged_order_state_is_refused() -> None:
    saved = fresh_pipeline(1).state()
    for name in ("applied", "time_ms", "decisions", "rejected", "partitions"):
        order = dict(saved.part("order").values)
        for damage in (None, "x"):
            values: dict[str, Json] = {**saved.values, "order": {**order, name: damage}}
            with pytest.raises(StateError, match="saved order is damaged"):
                fresh_pipeline(1).load_state(State(saved.arrays, values))
