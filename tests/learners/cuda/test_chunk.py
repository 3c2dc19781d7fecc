"""The schedule of row changes: every event must see its rows as if changes were applied one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.learners.cuda.chunk import plan_starts

ROWS = 5
ONE_EVENT = st.tuples(
    st.lists(st.integers(0, ROWS - 1), max_size=4),  # rows that are initialised before it
    st.sets(st.integers(0, ROWS - 1), max_size=2),  # rows that it uses
)


@settings(max_examples=300, deadline=None)
@given(st.lists(ONE_EVENT, max_size=8))
def test_the_schedule_shows_every_event_the_same_rows_as_single_steps(
    stream: list[tuple[list[int], set[int]]],
) -> None:
    rows = np.full((len(stream), 2), -1, np.int64)
    changes = [(b, row) for b, (started, _) in enumerate(stream) for row in started]
    for b, (_, used) in enumerate(stream):
        rows[b, : len(used)] = sorted(used)
    event, row = (np.array([change[i] for change in changes], np.int64) for i in (0, 1))
    plan = plan_starts(rows, event, row)

    version, last, expected = dict.fromkeys(range(ROWS), -1), dict.fromkeys(range(ROWS), -1), []
    for b, (_, used) in enumerate(stream):
        for k in np.flatnonzero(event == b).tolist():
            last[int(row[k])] = k
        expected.append({r: last[r] for r in used})
    seen, places = [], dict(plan)
    for b, (_, used) in enumerate(stream):
        chosen = places.pop(b, np.zeros(0, np.int64))
        assert len(set(row[chosen].tolist())) == len(chosen)  # on a GPU the order of two writes is undefined
        version.update({int(row[k]): int(k) for k in chosen})
        seen.append({r: version[r] for r in used})
    assert seen == expected
    assert version == last
    assert not places


def test_unused_rows_are_initialised_together() -> None:
    rows = np.arange(40, dtype=np.int64).reshape(10, 4)
    ((front, changes),) = plan_starts(rows, np.repeat(np.arange(10), 4), rows.ravel())
    assert front == 0
    assert changes.tolist() == list(range(40))
