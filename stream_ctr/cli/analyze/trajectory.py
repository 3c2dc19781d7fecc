"""``stream-ctr analyze trajectory``: trajectories of several optimizers on one stream."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream_ctr.cli.analyze.options import add_data_arguments, add_output_arguments, at_least, check_plot
from stream_ctr.errors import UsageError

if TYPE_CHECKING:
    from stream_ctr.analysis.rows import Rows
    from stream_ctr.analysis.trajectory import Plane, Trajectory

OPTIMIZERS = ("default", "adam", "sam", "helen")


class TrajectoryCommand:
    """``stream-ctr analyze trajectory``."""

    help = "optimizer trajectories in weight space on one stream, with step lengths and loss"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_data_arguments(parser, events=20_000, held_out=0)
        parser.add_argument(
            "--optimizer",
            action="append",
            metavar="NAME",
            help=f"preset as in evaluate, repeatable (default: {', '.join(OPTIMIZERS)})",
        )
        parser.add_argument("--places", type=int, default=80, help="points per trajectory (80)")
        parser.add_argument("--device", default="auto", help="auto, cpu or cuda[:N]")
        add_output_arguments(parser)

    def run(self, arguments: argparse.Namespace) -> int:
        from stream_ctr.analysis.trajectory import common_plane

        at_least(arguments, "events", 1)
        at_least(arguments, "places", 2)
        at_least(arguments, "seed", 0)
        check_plot(arguments.plot)
        trajectories, rows = measure(arguments)
        plane = common_plane([trajectory.dense for trajectory in trajectories])
        found = as_json(arguments, rows, trajectories, plane)
        if arguments.json:
            print(json.dumps(found, indent=2))
        else:
            print_report(found)
        if arguments.plot:
            title = f"{rows.dataset}, {rows.events:,} events, one at a time"
            plot(trajectories, plane, arguments.plot, title)
        return 0


def measure(arguments: argparse.Namespace) -> tuple[list[Trajectory], Rows]:
    """Learn the same stream with every optimizer."""
    from stream_ctr.analysis.rows import open_rows
    from stream_ctr.analysis.training import progress_of
    from stream_ctr.analysis.trajectory import follow
    from stream_ctr.config.settings import load_settings
    from stream_ctr.optim.presets import preset
    from stream_ctr.reporting.progress import Reporter

    settings = load_settings(arguments.config)
    if settings.learner.kind == "river":
        raise UsageError("learner.kind = 'river' has no weights of a network; choose auto, compiled or torch")
    learner = dataclasses.replace(settings.learner, seed=arguments.seed, device=arguments.device)
    names = list(dict.fromkeys(arguments.optimizer or OPTIMIZERS))
    optimizers = {name: settings.optimizer if name == "default" else preset(name) for name in names}
    chunk = max(1, math.ceil(arguments.events / arguments.places))
    trajectories = []
    with Reporter("analyze trajectory") as reporter:
        rows = open_rows(arguments, settings, events=arguments.events, held_out=0, chunk=chunk)
        for name, optimizer in optimizers.items():
            trajectory = follow(
                rows,
                dataclasses.replace(settings.model, dropout=0.0),
                name,
                optimizer,
                learner,
                progress=progress_of(reporter, "events", rows.events, optimizer=name),
            )
            trajectories.append(trajectory)
    return trajectories, rows


def as_json(
    arguments: argparse.Namespace, rows: Rows, trajectories: list[Trajectory], plane: Plane
) -> dict[str, Any]:
    """One row per optimizer, with its points in the common plane and its values along the stream."""
    return {
        "dataset": rows.dataset,
        "note": rows.note,
        "events": rows.events,
        "seed": arguments.seed,
        "explained": [round(share, 4) for share in plane.explained],
        "rows": [_row(trajectory, plane, number) for number, trajectory in enumerate(trajectories)],
    }


def _row(trajectory: Trajectory, plane: Plane, number: int) -> dict[str, Any]:
    def listed(values: Any) -> list[float]:
        return [float(f"{value:.5g}") for value in values.tolist()]

    intervals = trajectory.events[1:] - trajectory.events[:-1]
    straightness = trajectory.straightness
    return {
        "optimizer": trajectory.optimizer,
        "log_loss": round(float((trajectory.loss * intervals).sum() / intervals.sum()), 5),
        "log_loss_last_half": round(_last_half(trajectory), 5),
        "length": float(f"{trajectory.move.sum():.5g}"),
        "distance": float(f"{trajectory.distance[-1]:.5g}"),
        "straightness": round(straightness, 4) if math.isfinite(straightness) else None,
        "row_length": float(f"{trajectory.row_move.sum():.5g}"),
        "skipped_updates": trajectory.skipped,
        "at_events": trajectory.events.tolist(),
        "place": [listed(place) for place in plane.places[number]],
        "move": listed(trajectory.move),
        "row_move": listed(trajectory.row_move),
        "loss": listed(trajectory.loss),
    }


def _last_half(trajectory: Trajectory) -> float:
    late = trajectory.events[:-1] >= trajectory.events[-1] // 2
    late[-1] = True
    intervals = (trajectory.events[1:] - trajectory.events[:-1])[late]
    return float((trajectory.loss[late] * intervals).sum() / intervals.sum())


def print_report(found: dict[str, Any]) -> None:
    """Print one row per optimizer."""
    from rich.table import Table

    from stream_ctr.reporting.console import new_console

    table = Table(title=f"{found['dataset']}: {found['events']:,} events, one at a time")
    table.add_column("optimizer")
    for column in (
        "log loss",
        "log loss, last half",
        "path length",
        "distance",
        "distance / path length",
        "path length, rows",
    ):
        table.add_column(column, justify="right")
    for row in found["rows"]:
        straight = row["straightness"]
        table.add_row(
            row["optimizer"],
            f"{row['log_loss']:.4f}",
            f"{row['log_loss_last_half']:.4f}",
            f"{row['length']:.3g}",
            f"{row['distance']:.3g}",
            "-" if straight is None else f"{straight:.3f}",
            f"{row['row_length']:.3g}",
        )
    console = new_console()
    console.print(table)
    first, second = found["explained"]
    intervals = len(found["rows"][0]["move"])
    console.print(
        f"path length: sum of the dense weights' moves over {intervals} intervals of the stream; distance: "
        f"from start to end. The plot's common plane explains {first + second:.0%} of the variance of all "
        f"points ({first:.0%} and {second:.0%}).",
        highlight=False,
    )
    console.print(f"note: {found['note']}", highlight=False)


def plot(trajectories: list[Trajectory], plane: Plane, path: Path, title: str) -> None:
    """Plot the trajectories in their common plane, and step lengths and loss along the stream."""
    import numpy as np

    from stream_ctr.reporting.figure import COLOURS, MARKERS, dress_panel, panels, write_figure

    figure, axes = panels(2, 2, title, "all optimizers from the same initial weights, on the same events")
    for number, (trajectory, place) in enumerate(zip(trajectories, plane.places, strict=True)):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        axes[0].plot(place[:, 0], place[:, 1], color=colour, linewidth=1, label=trajectory.optimizer)
        axes[0].plot(*place[-1], color=colour, marker=marker)
        at, width = trajectory.events[1:], max(1, len(trajectory.loss) // 20)
        axes[1].plot(at, _smooth(trajectory.loss, width), color=colour)
        intervals = np.diff(trajectory.events)
        whole = intervals == intervals[0]  # the last interval may be shorter, and so its move
        axes[2].plot(at[whole], trajectory.move[whole], color=colour)
        axes[3].plot(at[whole], trajectory.row_move[whole], color=colour)
    axes[0].plot(0.0, 0.0, marker="*", color=COLOURS[-2], markersize=10, linestyle="none", label="start")
    axes[0].legend(frameon=False, fontsize=8)
    first, second = plane.explained
    dress_panel(
        axes[0], "dense weights, common plane", f"component 1 ({first:.0%})", f"component 2 ({second:.0%})"
    )
    dress_panel(axes[1], "log loss, running mean", "events", "nats / event")
    dress_panel(axes[2], "change of the dense weights per interval", "events", "norm")
    dress_panel(axes[3], "change of the embedding rows per interval", "events", "norm")
    for panel in (axes[2], axes[3]):
        panel.set_yscale("log", nonpositive="mask")
    write_figure(figure, path)


def _smooth(values: Any, width: int) -> Any:
    """Running mean over the last ``width`` values, or over fewer at the beginning."""
    import numpy as np

    total = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(1, len(total)) - width, 0)
    return (total[1:] - total[low]) / (np.arange(1, len(total)) - low)
