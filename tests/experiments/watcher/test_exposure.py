"""Counted impressions per user: against a loop, in chunks of any size, across a restart."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.errors import StateError
from stream_ctr.experiments.watcher import user_table
from stream_ctr.experiments.watcher.exposure import UNKNOWN_USER, Exposure
from stream_ctr.experiments.watcher.user_table import UserTable
from stream_ctr.experiments.watcher.users import DistinctUsers


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 12), max_size=120),
    st.integers(0, 6),
    st.lists(st.integers(1, 40), max_size=8),
)
def test_the_first_impressions_count_and_the_numbers_match_a_loop(
    who: list[int], cap: int, sizes: list[int]
) -> None:
    users, arms = np.array(who, np.uint64), np.array([user % 3 for user in who], np.int64)
    table = UserTable()
    exposure, distinct = Exposure(3, cap, table), DistinctUsers([1.0, 1.0, 1.0], table)
    found: list[bool] = []
    start = 0
    for size in [*sizes, len(who)]:
        part = slice(start, start + size)
        start += size
        if not len(users[part]):
            continue
        distinct.add(users[part], arms[part])
        found += exposure.take(users[part], arms[part]).tolist()
        saved, saved_users = exposure.state(), distinct.state()
        table = UserTable()
        exposure, distinct = Exposure(3, cap, table), DistinctUsers([1.0, 1.0, 1.0], table)
        exposure.load_state(saved)
        distinct.load_state(saved_users)
    met: Counter[int] = Counter()
    expected = []
    for user in who:
        met[user] += user != UNKNOWN_USER
        expected.append(user == UNKNOWN_USER or cap == 0 or met[user] <= cap)
    assert found == expected
    for arm in range(3):
        numbers = [count for user, count in met.items() if user % 3 == arm and count]
        counted = [min(count, cap) if cap else count for count in numbers]
        assert exposure.shown[arm] == sum(numbers)
        assert exposure.over[arm] == sum(numbers) - sum(counted)
        assert exposure.heaviest[arm] == max(numbers, default=0)
        squares = sum(count**2 for count in counted)
        assert exposure.effective_users(arm) == (sum(counted) ** 2 / squares if squares else None)
        assert exposure.heaviest_share(arm) == (max(numbers) / sum(numbers) if numbers else None)


def test_recent_users_are_merged_and_keep_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_table, "RECENT", 8)
    draws = np.random.default_rng(3)
    users = draws.integers(1, 300, 4_000).astype(np.uint64)
    exposure = Exposure(1, 5, UserTable())
    counts = np.concatenate(
        [exposure.take(u, np.zeros(len(u), np.int64)) for u in np.array_split(users, 200)]
    )
    assert counts.sum() == sum(min(5, count) for count in Counter(users.tolist()).values())


def test_saved_numbers_of_other_arms_are_rejected() -> None:
    with pytest.raises(StateError, match="of other arms"):
        Exposure(2, 0, UserTable()).load_state(Exposure(3, 0, UserTable()).state())
