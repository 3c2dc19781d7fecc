"""The drift detector: which changes it detects, and that restarts do not affect detection."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream_ctr.errors import StateError
from stream_ctr.metrics.adwin_state import Detector, adwin_from_record, adwin_record, new_adwin
from stream_ctr.metrics.drift import BLOCK, CLOCK, DriftDetector, block_means


def losses(events: int, shift: float, seed: int) -> NDArray[np.float64]:
    """Log losses of a model whose logits are ``shift`` below those of the ground truth."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(-1.0, 1.0, events)
    label = rng.random(events) < 1 / (1 + np.exp(-(logit + shift)))
    return np.logaddexp(0, np.where(label, -logit, logit))


def feed(detector: DriftDetector, loss: NDArray[np.float64], chunk: int, start: int = 0) -> None:
    for begin in range(0, len(loss), chunk):
        part = loss[begin : begin + chunk]
        first = start + begin
        detector.update(part, np.arange(first, first + len(part), dtype=np.int64) * 1000)


def test_a_degrading_model_is_detected_and_a_stable_one_is_not() -> None:
    detector = DriftDetector(hold=10_000)
    feed(detector, losses(50_000, 0.0, seed=1), 256)
    assert (detector.worse, detector.better, detector.last, detector.detected) == (0, 0, None, False)
    feed(detector, losses(10_000, 1.0, seed=2), 256, start=50_000)
    assert detector.worse == 1
    assert detector.detected
    last = detector.last
    assert last is not None
    assert last.worse
    assert 50_000 < last.impressions < 53_000
    assert last.time_ms == (last.impressions - 1) * 1000
    assert last.after > last.before


def test_the_flag_goes_down_after_the_hold() -> None:
    detector = DriftDetector(hold=3_000)
    feed(detector, np.concatenate([losses(20_000, 0.0, 1), losses(3_000, 1.5, 2)]), 256)
    assert detector.detected
    feed(detector, losses(3_000, 1.5, seed=3), 256, start=23_000)
    assert not detector.detected
    assert detector.worse == 1


def test_a_falling_loss_raises_no_alarm() -> None:
    detector = DriftDetector(hold=100_000)
    feed(detector, np.concatenate([losses(20_000, 1.5, 1), losses(20_000, 0.0, 2)]), 256)
    assert detector.better >= 1
    assert detector.worse == 0
    assert not detector.detected


def test_river_sees_the_block_means_of_the_loss() -> None:
    """River's detector alone, fed with the same values, detects changes at the same positions."""
    loss = np.concatenate([losses(15_000, shift, seed) for seed, shift in enumerate((0, 1.5, 0, 1.5))])
    detector, seen = DriftDetector(hold=1), list[int]()
    for begin in range(0, len(loss), BLOCK):
        before = detector.worse + detector.better
        feed(detector, loss[begin : begin + BLOCK], BLOCK, begin)
        if detector.worse + detector.better > before:
            seen.append(begin // BLOCK)
    alone: Detector = new_adwin(delta=0.002, clock=CLOCK)
    expected = []
    for k, mean in enumerate(loss.reshape(-1, BLOCK).mean(axis=1).tolist()):
        alone.update(mean)
        if alone.drift_detected:
            expected.append(k)
    assert seen == expected
    assert len(seen) >= 3


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=20))
def test_block_means_do_not_depend_on_how_losses_arrive(sizes: list[int]) -> None:
    loss = np.random.default_rng(3).random(sum(sizes))
    block, found, start = np.zeros(2), list[float](), 0
    for size in sizes:
        means, ends = block_means(loss[start : start + size], block)
        assert all((start + end + 1) % BLOCK == 0 for end in ends.tolist())
        found += means.tolist()
        start += size
    whole, _ = block_means(loss, np.zeros(2))
    assert found == whole.tolist()
    expected = loss[: len(loss) // BLOCK * BLOCK].reshape(-1, BLOCK).mean(axis=1)
    np.testing.assert_allclose(whole, expected, rtol=1e-14)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 40_000), st.sampled_from([1, 7, 256]))
def test_a_restored_detector_continues_bit_for_bit(cut: int, chunk: int) -> None:
    loss = np.concatenate([losses(10_000, shift, seed) for seed, shift in enumerate((0, 1.5, 0, 2.0))])
    uninterrupted, before, after = (DriftDetector(hold=5000) for _ in range(3))
    feed(uninterrupted, loss, 256)
    feed(before, loss[:cut], chunk if cut < 2000 else 256)
    after.load_state(before.state())
    assert after.state().equals(before.state())
    feed(after, loss[cut:], 256, start=cut)
    assert after.state().equals(uninterrupted.state())
    assert after.last == uninterrupted.last
    assert uninterrupted.worse + uninterrupted.better >= 2


def test_the_record_is_small_however_long_the_stream() -> None:
    detector = DriftDetector(hold=1)
    feed(detector, np.resize(losses(50_000, 0.0, seed=1), 400_000), 4096)
    assert detector.state().arrays["adwin"].nbytes < 4096


@pytest.mark.parametrize("buckets", [2, 5, 9])
def test_any_adwin_of_river_can_be_rebuilt(buckets: int) -> None:
    make = {"delta": 0.01, "clock": 16, "max_buckets": buckets, "min_window_length": 3, "grace_period": 20}
    values = np.random.default_rng(1).random(3000)
    one: Detector = new_adwin(**make)
    for value in values[:1700]:
        one.update(float(value))
    other = adwin_from_record(adwin_record(one), one)
    for value in values[1700:]:
        one.update(float(value))
        other.update(float(value))
    assert adwin_record(one).tobytes() == adwin_record(other).tobytes()


def full_record() -> NDArray[np.uint8]:
    detector: Detector = new_adwin(clock=CLOCK)
    for value in np.random.default_rng(1).random(2000):
        detector.update(float(value))
    return adwin_record(detector)


def test_a_truncated_record_never_reaches_rivers_helper() -> None:
    record = full_record()
    like: Detector = new_adwin(clock=CLOCK)
    for size in range(len(record)):
        with pytest.raises(StateError, match="saved drift detector"):
            adwin_from_record(record[:size], like)
    with pytest.raises(StateError, match="invalid lengths"):
        adwin_from_record(np.concatenate([record, record[:1]]), like)


def test_a_flipped_bit_is_rejected_or_harmless() -> None:
    """Numbers may be wrong (the checkpoint's digest is for that); lengths and indexes may not."""
    record, like = full_record(), new_adwin(clock=CLOCK)
    for place in range(len(record)):
        for bit in (0, 3, 7):
            damaged = record.copy()
            damaged[place] ^= 1 << bit
            try:
                detector = adwin_from_record(damaged, like)
            except StateError:
                continue
            for value in (0.1, 0.9, 0.5):
                detector.update(value)


def test_other_parameters_are_rejected_with_both_named() -> None:
    with pytest.raises(StateError, match=r"parameters \(0\.002, 8, 5, 5, 10\).*this one has \(0\.05, 8"):
        adwin_from_record(full_record(), new_adwin(delta=0.05, clock=CLOCK))
