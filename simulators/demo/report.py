"""The result of the demo: the experiment's report, each arm compared with the ground truth, and a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from simulators.demo.freshness import Freshness
from stream_ctr.errors import StreamCTRError

TOO_SLOW: Final = (
    " This machine did not keep up with the rate, which makes freshness worse; try a lower --rate."
)


def make_result(
    config: Path, folder: Path, fresh: Mapping[str, Freshness], services: Mapping[str, str | None]
) -> dict[str, Any]:
    """The result for ``--json``; also draws the plot if matplotlib is installed."""
    import msgspec

    from simulators.demo.plot import plot_demo
    from stream_ctr.config.experiment import FOLDER
    from stream_ctr.config.settings import load_settings
    from stream_ctr.daemon.checkpoint import CheckpointStore
    from stream_ctr.experiments.report.model import read_report
    from stream_ctr.metrics.progressive import ProgressiveMetrics
    from stream_ctr.reporting.figure import why_no_pictures

    settings = load_settings(config)
    path = Path(settings.train.state) / FOLDER / "report.json"
    report = read_report(path)
    traffic = json.loads((folder / "traffic.out").read_text("utf-8"))
    arms, curves = {}, {}
    for arm in fresh:
        store = CheckpointStore(settings.arm_state(arm) / "checkpoints", 2)
        loaded = store.load()
        if loaded is None:
            raise StreamCTRError(f"no checkpoint in {store.folder}")
        metrics = ProgressiveMetrics(settings.train.metrics_window)
        metrics.load_state(loaded.parts["metrics"])
        curves[arm] = metrics.curve.points
        arms[arm] = {
            "lifetime": metrics.result("lifetime").as_dict(),
            "recent": metrics.result("window").as_dict(),
            "freshness": fresh[arm].as_dict(),
            "shown": traffic["arms"].get(arm),
            "checkpoint": str(store.path(loaded.manifest.version)),
        }
    picture = None if why_no_pictures() else folder / "demo.png"
    if picture is not None:
        plot_demo(report, curves, traffic["curve"], settings.train.metrics_window, picture)
    return {
        "experiment": msgspec.to_builtins(report),
        "arms": arms,
        "label_window_seconds": settings.join.window_seconds,
        "traffic": traffic,
        "plot": None if picture is None else str(picture),
        "report": str(path),
        "log": settings.log.url,
        "config": str(config),
        "addresses": dict(services),
    }


def print_result(result: Mapping[str, Any], config: Path) -> None:
    """Print the result as text."""
    import msgspec
    from rich.console import Console

    from stream_ctr.experiments.report.model import Report
    from stream_ctr.experiments.report.table import print_report
    from stream_ctr.reporting.figure import why_no_pictures

    console = Console()
    console.print()
    print_report(msgspec.convert(result["experiment"], Report), console)
    console.print()
    console.print(_ground_truth_table(result))
    traffic = result["traffic"]
    latency, behind = traffic["latency_ms"], traffic["behind_ms"]
    for line in (
        f"Freshness: time from an impression until the serving model has learned it, including the label "
        f"window of {result['label_window_seconds']:g} s.",
        f"Answers: {traffic['answered']:,} of {traffic['sent']:,} visits; client latency p50 "
        f"{latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms; visits were sent at most "
        f"{behind['longest']:.0f} ms late." + (TOO_SLOW if behind["p99"] > 1000 else ""),
        "",
    ):
        console.print(line, highlight=False)
    for name in ("plot", "report", "log", "config"):
        shown = result[name] or why_no_pictures()
        console.print(f"{name:10}{shown}", highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"again     stream-ctr experiment report --config {config}", highlight=False, soft_wrap=True
    )


def _ground_truth_table(result: Mapping[str, Any]) -> Any:
    from stream_ctr.experiments.report.table import arms_table

    title = "Compared with the ground truth (unknown in a real experiment)"
    table = arms_table(title, result["arms"])

    def row(name: str, part: str, key: str, form: str) -> None:
        found = [(arm[part] or {}).get(key) for arm in result["arms"].values()]
        table.add_row(name, *("-" if value is None else format(value, form) for value in found))

    row("impressions predicted", "lifetime", "events", ",d")
    row("log loss of the served predictions", "lifetime", "log_loss", ".4f")
    row("log loss, recent", "recent", "log_loss", ".4f")
    row("Bayes-optimal log loss, recent", "recent", "bayes_log_loss", ".4f")
    row("share of the achievable uplift in log loss, recent", "recent", "share_of_way", ".1%")
    row("calibration against the ground truth, recent", "recent", "planted_calibration", ".3f")
    table.add_section()
    row("visits answered", "shown", "visits", ",d")
    row("CTR", "shown", "ctr", ".2%")
    row("CTR of the most valuable candidates", "shown", "best_ctr", ".2%")
    row("expected value per 1,000 visits", "shown", "expected_value_per_thousand", ".2f")
    row("regret per 1,000 visits", "shown", "regret_per_thousand", ".2f")
    row("share of the achievable uplift in value", "shown", "share_of_way", ".1%")
    table.add_section()
    row("freshness, p50 (s)", "freshness", "p50_seconds", ".2f")
    row("freshness, p99 (s)", "freshness", "p99_seconds", ".2f")
    return table
