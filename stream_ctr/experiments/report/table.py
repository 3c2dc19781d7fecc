"""The report as a table on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from rich.console import Console
from rich.table import Table

from stream_ctr.experiments.report.model import Arm, Bounded, Comparison, Definition, Figure, Report
from stream_ctr.experiments.report.text import VERDICT_WORDS, moment, percent, reasons

_FORMS: Final[dict[str, Callable[[float], str]]] = {
    "share": lambda value: f"{100 * value:.3f} %",
    "relative": lambda value: f"{100 * value:+.1f} %",
    "per_mille": lambda value: f"{value:.2f}",
    "nats": lambda value: f"{value:.5f}",
    "ratio": lambda value: f"{value:.4f}",
    "area": lambda value: f"{value:.4f}",
}


def print_report(report: Report, console: Console | None = None) -> None:
    """Print verdict, arms, comparisons and notes."""
    console = console or Console()

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, highlight=False, markup=False)

    say(f"Experiment {report.experiment}, salt {report.salt}, {moment(report.generated_ms)}", "bold")
    say("")
    for line in report.verdict:
        say(line)
    for line in report.warnings:
        say(f"warning: {line}", "yellow")
    say("")
    console.print(_arms(report))
    for comparison in report.comparisons:
        if not comparison.figures:
            continue
        say("")
        console.print(_comparison(comparison, report.definitions))
    for line in _without(report):
        say(f"no interval: {line}")
    if report.exclusions:
        say("")
        console.print(_excluded(report))
    say("")
    for note in report.notes:
        say(f"note: {note}")


def arms_table(title: str, arms: Iterable[str]) -> Table:
    """An empty table with a column for each arm."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for arm in arms:
        table.add_column(arm, justify="right")
    return table


def _arms(report: Report) -> Table:
    table = arms_table("Arms", (arm.name for arm in report.arms))

    def row(name: str, cell: Callable[[Arm], str]) -> None:
        table.add_row(name, *(cell(arm) for arm in report.arms))

    row("role", _role)
    row("traffic split (expected)", lambda arm: f"{_percent(arm.share)} ({_percent(arm.weight)})")
    row("users", lambda arm: f"{arm.users:,}")
    row("effective users", lambda arm: _count(arm.effective_users))
    row("most active user", lambda arm: _percent(arm.heaviest_share))
    row("impressions", lambda arm: f"{arm.impressions:,}")
    if any(arm.over_cap for arm in report.arms):
        row("over the per-user cap (not counted)", lambda arm: f"{arm.over_cap:,}")
    row("clicks", lambda arm: f"{arm.clicks:,}")
    row("model version", lambda arm: arm.model.version or "unknown")
    row("model age", lambda arm: _age(arm.model.age_seconds))
    row("learns from", lambda arm: arm.learn_from)
    table.add_section()
    for definition in report.definitions:
        if any(definition.name in arm.figures for arm in report.arms):
            row(definition.title, partial(_own, definition))
    return table


def _without(report: Report) -> list[str]:
    """Figures without an interval, with the reasons."""
    found = []
    for definition in report.definitions:
        name, title = definition.name, definition.title
        whys = [each.figures[name].why for each in report.comparisons if name in each.figures]
        found += [(title, why) for why in (*whys, *(arm.why.get(name, "") for arm in report.arms))]
    return reasons(found)


def _excluded(report: Report) -> Table:
    names = [arm.name for arm in report.arms if not arm.shadow]
    table = arms_table("Excluded impressions", [*names, "all"])
    for each in report.exclusions:
        cells = [_of(each.arms.get(name, 0), each.arm_shares.get(name)) for name in names]
        table.add_row(each.reason.replace("_", " "), *cells, _of(each.impressions, each.share))
    return table


def _of(number: int, share: float | None) -> str:
    return f"{number:,}" if share is None else f"{number:,} ({percent(share)})"


def _comparison(comparison: Comparison, definitions: list[Definition]) -> Table:
    arm, control = comparison.arm, comparison.control
    title = f"{arm} minus {control} (uplift: {arm} / {control} - 1)"
    table = Table(title=title, title_justify="left")
    taken = comparison.horizon is not None and comparison.horizon.reached_ms is not None
    probability = f"{100 * (1 - comparison.level):.4g} %"
    columns = ["", "difference", f"always-valid {probability} CI", "p", "verdict"]
    if taken:
        columns += [f"pre-registered look, {probability} CI", "p", "verdict"]
    for column in columns:
        table.add_column(column, justify="left" if column in ("", "verdict") else "right")
    for definition in definitions:
        figure = comparison.figures.get(definition.name)
        if figure is None:
            continue
        cells = [
            definition.title,
            _value(figure.estimate, definition.unit),
            *_judged(figure, definition.unit),
        ]
        if taken and comparison.horizon is not None:
            cells += _judged(comparison.horizon.figures.get(definition.name, Figure()), definition.unit)
        table.add_row(*cells)
    return table


def _judged(figure: Figure, unit: str) -> list[str]:
    return [
        _span(figure, unit),
        "" if figure.p is None else f"{figure.p:.2g}",
        VERDICT_WORDS[figure.verdict] + ("" if figure.final else " (provisional)"),
    ]


def _own(definition: Definition, arm: Arm) -> str:
    return figure_text(arm.figures.get(definition.name), definition.unit)


def figure_text(figure: Bounded | None, unit: str) -> str:
    """A figure with its interval."""
    if figure is None or figure.estimate is None:
        return ""
    if figure.low is None or figure.high is None:
        return _value(figure.estimate, unit)
    half_width = (figure.high - figure.low) / 2.0
    # Not symmetric if an end was outside the possible range and cut off.
    if abs(figure.estimate - figure.low - half_width) > 1e-3 * half_width:
        return f"{_value(figure.estimate, unit)} ({_span(figure, unit)})"
    half = _value(half_width, unit).removesuffix(" %")
    return f"{_value(figure.estimate, unit).removesuffix(' %')} ± {half}{' %' if unit == 'share' else ''}"


def _span(figure: Bounded, unit: str) -> str:
    if figure.low is None or figure.high is None:
        return ""
    return f"{_value(figure.low, unit)} to {_value(figure.high, unit)}"


def _value(value: float | None, unit: str) -> str:
    return "" if value is None else _FORMS.get(unit, str)(value)


def _role(arm: Arm) -> str:
    if arm.shadow:
        return "shadow"
    if arm.killed:
        return "switched off"
    return "control" if arm.control else "treatment"


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.1f} %"


def _count(number: float | None) -> str:
    return "unknown" if number is None else f"{number:,.1f}"


def _age(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds:,.1f} s"
