"""Which negatives are learned is drawn by event id and seed, and nothing else."""

from __future__ import annotations

import dataclasses

from stream_ctr.config.join import JoinConfig
from stream_ctr.pipeline.label_actions import LabelPolicy

IDS = [f"event-{number}" for number in range(20_000)]


def kept(config: JoinConfig) -> set[str]:
    policy = LabelPolicy(config)
    return {event_id for event_id in IDS if policy.keeps(event_id)}


def test_share_kept_is_the_share_asked_for_and_grows_with_it() -> None:
    half = JoinConfig(keep_negatives=0.5)
    assert abs(len(kept(half)) / len(IDS) - 0.5) < 0.02
    assert kept(dataclasses.replace(half, keep_negatives=0.2)) < kept(half)
    assert kept(dataclasses.replace(half, policy="fast")) == kept(half)
    assert kept(dataclasses.replace(half, keep_negatives=1.0)) == set(IDS)


def test_seeds_draw_apart_and_one_draws_the_same_in_every_version() -> None:
    one, other = JoinConfig(keep_negatives=0.5), JoinConfig(keep_negatives=0.5, keep_seed=-2)
    both = len(kept(one) & kept(other)) / len(IDS)
    assert abs(both - 0.25) < 0.02
    policy = LabelPolicy(one)
    assert [policy.keeps(event_id) for event_id in IDS[:8]] == GOLDEN


GOLDEN = [False, False, False, True, False, False, False, True]
