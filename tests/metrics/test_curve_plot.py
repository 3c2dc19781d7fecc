"""The plot of the learning curve."""

from __future__ import annotations

import builtins
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from stream_ctr.errors import StreamCTRError, UsageError
from stream_ctr.metrics.curve import CurvePoint
from stream_ctr.metrics.curve_plot import plot_curve

NAN = float("nan")


def points(count: int, bayes: float = 0.4) -> list[CurvePoint]:
    return [CurvePoint(1000 * n, 0.5 - 0.001 * n, 0.56, bayes, 0.6, 1.1) for n in range(1, count + 1)]


def size_of_png(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    return width, height


@pytest.mark.parametrize(
    "curve",
    [points(80), points(80, NAN), points(1), [CurvePoint(500, 0.1, 0.1, NAN, NAN, NAN)]],
    ids=["planted", "real", "one point", "no click yet"],
)
def test_any_curve_can_be_drawn(curve: list[CurvePoint], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra 'plots' is not installed")
    plot_curve(curve, tmp_path / "curve.png", "criteo, arm main, dnn 128-64", window=10_000)
    assert size_of_png(tmp_path / "curve.png") == (1350, 1200)


def test_the_bayes_optimum_is_drawn_if_known(tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image", reason="the extra 'plots' is not installed")
    green = np.array([0x00, 0x9E, 0x73]) / 255
    found = []
    for bayes in (0.4, NAN):
        plot_curve(points(80, bayes), tmp_path / "curve.png", "world", window=1000)
        pixels = image.imread(tmp_path / "curve.png")[..., :3]
        found.append(int((np.abs(pixels - green).max(axis=-1) < 0.02).sum()))
    assert found[0] > 100
    assert found[1] == 0


def test_an_empty_curve_and_an_unwritable_path_are_errors(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra 'plots' is not installed")
    with pytest.raises(UsageError, match="the learning curve has no points"):
        plot_curve([], tmp_path / "curve.png", "world", window=1000)
    with pytest.raises(StreamCTRError, match=r"cannot write the plot .*absent.*: No such file"):
        plot_curve(points(5), tmp_path / "absent" / "curve.png", "world", window=1000)


def test_without_matplotlib_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = builtins.__import__

    def without(
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> object:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, globals, locals, fromlist, level)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"pip install 'stream-ctr\[plots\]'"):
        plot_curve(points(5), tmp_path / "curve.png", "world", window=1000)
