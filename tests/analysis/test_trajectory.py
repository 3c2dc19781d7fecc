"""Optimizer trajectories: the learner's own weights, and the plane of most variance."""

from __future__ import annotations

import numpy as np
import pytest

from stream_ctr.analysis.trajectory import Trajectory, common_plane


def test_the_plane_explains_as_much_as_the_first_two_singular_vectors() -> None:
    rng = np.random.default_rng(3)
    start = rng.standard_normal(30)
    steps = [np.concatenate([np.zeros((1, 30)), rng.standard_normal((n, 30))]) for n in (6, 4)]
    ways = [(start + step.cumsum(axis=0)).astype(np.float32) for step in steps]
    plane = common_plane(ways)
    stacked = np.concatenate(ways).astype(np.float64)
    centred = stacked - stacked.mean(axis=0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    share = values**2 / (values**2).sum()
    assert plane.explained == pytest.approx(tuple(share[:2]))
    places = np.concatenate(plane.places)
    expected = (stacked - ways[0][0]) @ axes[:2].T
    np.testing.assert_allclose(np.abs(places), np.abs(expected), atol=1e-5)
    assert [len(place) for place in plane.places] == [7, 5]
    np.testing.assert_allclose(plane.places[1][0], 0.0, atol=1e-6)


def test_constant_and_straight_trajectories_have_a_plane() -> None:
    still = np.ones((3, 4), np.float32)
    assert common_plane([still, still]).explained == (0.0, 0.0)
    line = np.arange(4, dtype=np.float32)[:, None] * np.array([[3.0, 4.0]], np.float32)
    plane = common_plane([line])
    assert plane.explained == pytest.approx((1.0, 0.0))
    np.testing.assert_allclose(plane.places[0][:, 0], [0.0, 5.0, 10.0, 15.0], rtol=1e-6)


def test_lengths_and_distances() -> None:
    dense = np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 0.0]], np.float32)
    way = Trajectory("sgd", np.array([0, 5, 10]), dense, np.zeros(2), np.zeros(2), 0)
    assert way.move.tolist() == [5.0, 4.0]
    assert way.distance.tolist() == [0.0, 5.0, 3.0]
    assert way.straightness == pytest.approx(3.0 / 9.0)
