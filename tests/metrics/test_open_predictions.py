"""The table of open impressions behaves like a dictionary for every order of keys."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.batch import LEARN, PREDICT
from stream_ctr.metrics.open_predictions import NOTHING, SCORED, UNMATCHED, Pending

Row = tuple[int, int, float]

# Few keys, so that they recur; some far apart, so that home places collide.
KEYS = st.one_of(st.integers(0, 40), st.integers(0, 2**62), st.integers(0, 40).map(lambda n: n << 40))
ROWS = st.lists(
    st.tuples(st.sampled_from([0, PREDICT, LEARN, PREDICT | LEARN]), KEYS, st.floats(0, 1, width=32))
)


def run(pending: Pending, rows: list[Row]) -> tuple[list[float], list[int]]:
    scored, outcome = pending.resolve(
        np.array([row[0] for row in rows], np.uint8),
        np.array([row[1] for row in rows], np.int64),
        np.array([row[2] for row in rows], np.float32),
    )
    return scored.tolist(), outcome.tolist()


@settings(max_examples=200, deadline=None)
@given(ROWS, st.integers(1, 7))
def test_pending_behaves_like_a_dictionary(rows: list[Row], chunk: int) -> None:
    pending, oracle = Pending(), dict[int, float]()
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        scored, outcome = run(pending, part)
        for (action, key, p), got, what in zip(part, scored, outcome, strict=True):
            if action == PREDICT | LEARN:
                assert (got, what) == (p, SCORED)
            elif action == PREDICT:
                oracle[key] = p
                assert what == NOTHING
            elif action == LEARN and key in oracle:
                assert (got, what) == (oracle.pop(key), SCORED)
            elif action == LEARN:
                assert what == UNMATCHED
            else:
                assert what == NOTHING
        assert pending.open == len(oracle)
    state = pending.state()
    assert state.arrays["impression"].tolist() == sorted(oracle)
    assert state.arrays["probability"].tolist() == [oracle[key] for key in sorted(oracle)]


def test_long_clusters_survive_growth_and_removal_in_any_order() -> None:
    rng = np.random.default_rng(1)
    keys = rng.permutation(20_000)
    pending = Pending()
    run(pending, [(PREDICT, int(key), float(np.float32(key / 20_000))) for key in keys])
    rng.shuffle(keys)
    gone, kept = keys[:15_000], keys[15_000:]
    scored, outcome = run(pending, [(LEARN, int(key), 0.0) for key in gone])
    assert scored == (gone / 20_000).astype(np.float32).tolist()
    assert set(outcome) == {SCORED}
    assert pending.open == 5_000
    again = Pending()
    again.load_state(pending.state())
    assert again.state().equals(pending.state())
    scored, outcome = run(again, [(LEARN, int(key), 0.0) for key in kept])
    assert scored == (kept / 20_000).astype(np.float32).tolist()
    assert again.open == 0


def test_a_nan_probability_is_stored() -> None:
    pending = Pending()
    run(pending, [(PREDICT, 3, float("nan"))])
    scored, outcome = run(pending, [(LEARN, 3, 0.5)])
    assert np.isnan(scored[0])
    assert outcome == [SCORED]


def test_memory_follows_the_open_impressions_not_the_stream() -> None:
    pending = Pending()
    for start in range(0, 100_000, 100):
        rows = [(PREDICT, n, 0.5) for n in range(start, start + 100)]
        run(pending, rows + [(LEARN, n, 0.5) for n in range(start, start + 100)])
    assert pending.open == 0
    assert len(pending._keys) == 1024
