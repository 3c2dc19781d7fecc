"""Report of ``stream-ctr bench step``: JSON and tables."""

from __future__ import annotations

from typing import Any

import numpy as np

from stream_ctr.bench.machine import describe_machine, load_average, print_machine
from stream_ctr.bench.step.entries import Entry
from stream_ctr.bench.step.measure import CHUNK, WARM_UP_CHUNKS, StepBench


def as_json(bench: StepBench) -> list[dict[str, Any]]:
    """One row per entry with its data and machine; missing values are null."""
    common = {
        "data": bench.data,
        "events": bench.events,
        "log_loss_events": bench.scored,
        "threads": 1,
        "chunk_events": CHUNK,
        "warm_up_chunks": WARM_UP_CHUNKS,
        "machine": {**describe_machine(), "load": load_average()},
    }
    return [{**row(bench, entry), **common} for entry in bench.entries]


def row(bench: StepBench, entry: Entry) -> dict[str, Any]:
    """The results of one entry."""
    eager = bench.eager(entry)
    median = entry.median()
    low, high = np.quantile(entry.seconds, [0.1, 0.9]).tolist() if entry.seconds else (None, None)
    return {
        "name": entry.name,
        "learner": entry.learner,
        "model": entry.model,
        "optimizer": entry.optimizer,
        "rules": entry.rules or None,
        "events_per_second": None if median is None else round(1.0 / median, 1),
        "microseconds": _microseconds(median),
        "microseconds_low": _microseconds(low),
        "microseconds_high": _microseconds(high),
        "chunks": len(entry.seconds),
        "ratio_to_eager": _ratio(eager, entry),
        "eager": None if eager is None else eager.learner,
        "ratio_to_floor": _ratio(entry, bench.floor(entry)),
        "log_loss": _rounded(entry.log_loss),
        "log_loss_all": _rounded(entry.log_loss_all),
        "missing": entry.missing or None,
    }


def variants_json(bench: StepBench, tail_from: int) -> list[dict[str, Any]]:
    """As :func:`as_json`, with a comparison of each entry with the default optimizer."""
    from stream_ctr.bench.step.variants import against_default

    plain = as_json(bench)
    return [
        {**each, **against_default(bench, entry, tail_from)}
        for each, entry in zip(plain, bench.entries, strict=True)
    ]


def print_variants(bench: StepBench, tail_from: int) -> None:
    """Print the variants as a table."""
    from rich.table import Table

    from stream_ctr.reporting.console import new_console

    table = Table(title=f"fewer bytes per step: {bench.events:,} events, {bench.data}")
    for column in ("model", "optimizer"):
        table.add_column(column)
    for column in ("us (median)", "10 % to 90 %", "x default", "tail log loss", "minus the default's (95 %)"):
        table.add_column(column, justify="right")
    for each in variants_json(bench, tail_from):
        low, high = each["difference_low"], each["difference_high"]
        table.add_row(
            each["model"],
            each["optimizer"],
            _text(each["microseconds"], ",.1f"),
            f"{_text(each['microseconds_low'], ',.1f')} to {_text(each['microseconds_high'], ',.1f')}",
            _text(each["ratio_to_default"], ".2f"),
            _text(each["log_loss_tail"], ".5f"),
            "" if low is None else f"{each['difference']:+.5f} ({low:+.5f} to {high:+.5f})",
        )
    console = new_console(150)
    console.print(table)
    console.print(
        "revisit, helen, base: AdaGrad for the dense weights; -adam, -sgd: that rule instead; rows always "
        "use AdaGrad. bfloat16: optimizer.moments. skip: optimizer.dense_idle. x default: time relative to "
        f"the first line, by chunk, from its first second turn on. tail: events from {tail_from:,} on.",
        highlight=False,
    )
    print_machine(console)


def print_table(bench: StepBench) -> None:
    """Print the results as a table, with the machine below."""
    from rich.table import Table

    from stream_ctr.reporting.console import new_console

    title = f"learning step, batch size 1, one thread: {bench.events:,} events, {bench.data}"
    table = Table(title=title)
    for column in ("learner", "model", "optimizer"):
        table.add_column(column)
    for column in ("events/s", "us (median)", "10 % to 90 %", "x eager", "x floor", "log loss", "all events"):
        table.add_column(column, justify="right")
    missing = []
    for entry in bench.entries:
        figures = row(bench, entry)
        names = (figures["learner"], figures["model"], figures["optimizer"])
        if entry.missing:
            table.add_row(*names, "missing")
            missing.append(f"{', '.join(names)}: {entry.missing}")
            continue
        table.add_row(
            *names,
            _text(figures["events_per_second"], ",.0f"),
            _text(figures["microseconds"], ",.1f"),
            f"{_text(figures['microseconds_low'], ',.1f')} to {_text(figures['microseconds_high'], ',.1f')}",
            _text(figures["ratio_to_eager"], ".1f"),
            _text(figures["ratio_to_floor"], ".2f"),
            _text(figures["log_loss"], ".4f"),
            _text(figures["log_loss_all"], ".4f"),
        )
    console = new_console(150)
    console.print(table)
    for line in missing:
        console.print(f"missing: {line}", highlight=False, markup=False)
    console.print(
        f"x eager: speedup over torch with the same model and optimizer, eager or torch.compile, whichever "
        f"is faster; by chunk. x floor: time relative to moving the state alone. log loss: over the first "
        f"{bench.scored:,} events; all events: over all. helen, base: AdaGrad for rows and dense weights; "
        "-adam: Adam for the dense weights. revisit: the default, timed from its first second turn on.",
        highlight=False,
    )
    print_machine(console)


def _ratio(slow: Entry | None, fast: Entry | None) -> float | None:
    """Median ratio of chunk times, over the chunks that both learned directly after each other."""
    if slow is None or fast is None:
        return None
    both = min(len(slow.seconds), len(fast.seconds))
    if not both:
        return None
    return round(float(np.median(np.divide(slow.seconds[:both], fast.seconds[:both]))), 2)


def _microseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e6, 2)


def _rounded(loss: float | None) -> float | None:
    return None if loss is None else round(loss, 5)


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
