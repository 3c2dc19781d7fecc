"""Report of ``stream-ctr bench serve``: JSON and tables."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from stream_ctr.bench.machine import describe_machine, load_average, print_machine
from stream_ctr.bench.serve.client import LATE_SECONDS, QUANTILES
from stream_ctr.bench.serve.measure import (
    BESIDE_CONNECTIONS,
    BESIDE_RATE,
    CONNECTIONS,
    EMPTY,
    OVERLOAD,
    Measured,
)

if TYPE_CHECKING:
    from rich.table import Table


def as_json(measured: list[Measured], seconds: float, learned: int) -> list[dict[str, Any]]:
    """One row per server and load; each value is the median over rounds, with minimum and maximum."""
    machine = {**describe_machine(), "load": load_average()}
    common = {"seconds": seconds, "learned": learned, "workers": 1}
    return [{**row(each, measured), **common, "machine": machine} for each in measured]


def row(each: Measured, all_measured: list[Measured]) -> dict[str, Any]:
    """The results of one server under one load."""
    (empty,) = (other for other in all_measured if other.kind == each.kind and other.server == EMPTY)
    figures: dict[str, Any] = {
        "name": f"{each.server}: {each.kind.name}",
        "server": each.server,
        "candidates": each.kind.candidates,
        "rate": each.kind.rate or None,
        "connections": each.kind.connections,
    }
    for name in QUANTILES:
        found = [one[name] for one in each.rounds if one[name] is not None]
        base = [one[name] for one in empty.rounds if one[name] is not None]
        figures[f"{name}_ms"] = round(median(found), 3) if found else None
        figures[f"{name}_ms_low"] = round(min(found), 3) if found else None
        figures[f"{name}_ms_high"] = round(max(found), 3) if found else None
        pairs = [a / b for a, b in zip(found, base, strict=False)]
        figures[f"{name}_ratio_to_empty"] = round(median(pairs), 2) if pairs else None
    refused = sum(_refused(one) for one in each.rounds)
    late = [one["client_late_share"] for one in each.rounds if one["client_late_share"] is not None]
    return {
        **figures,
        "per_second": round(median(one["per_second"] for one in each.rounds), 1),
        "answered": sum(one["answered"] for one in each.rounds),
        "failed": sum(one["failed"] for one in each.rounds) - refused,
        "refused": refused,
        "client_late_share": round(median(late), 4) if late else None,
        "client_lag_p99_ms": _median(each.rounds, "client_lag_p99"),
        "rounds": len(each.rounds),
        **_beside(each),
    }


def _refused(one: dict[str, Any]) -> int:
    return int(one.get("statuses", {}).get("503", 0))


def _median(rounds: list[dict[str, Any]], name: str) -> float | None:
    found = [one[name] for one in rounds if one.get(name) is not None]
    return round(median(found), 3) if found else None


def _beside(each: Measured) -> dict[str, Any]:
    """Results of the second client and the health checks, if the load has them."""
    if not each.kind.beside:
        return {}
    figures: dict[str, Any] = {}
    for name in ("beside", "health"):
        found = [one[name] for one in each.rounds]
        asked = sum(one["answered"] + one["failed"] for one in found)
        refused = sum(map(_refused, found))
        figures |= {
            f"{name}_p50_ms": _median(found, "p50"),
            f"{name}_p99_ms": _median(found, "p99"),
            f"{name}_refused_share": round(refused / asked, 4) if asked else None,
            f"{name}_failed": sum(one["failed"] for one in found) - refused,
        }
    return figures


def print_table(measured: list[Measured], seconds: float) -> None:
    """Print the results as tables, with the machine and its load below."""
    from rich.table import Table

    from stream_ctr.reporting.console import new_console

    rounds = len(measured[0].rounds)
    table = Table(title=f"HTTP, one worker: {rounds} rounds of {seconds:g} s each, latencies in ms")
    for column in ("load", "server"):
        table.add_column(column)
    for column in (
        "due/s",
        "answered/s",
        "p50",
        "p99",
        "p99.9",
        "p99 by round",
        "p50 x",
        "p99 x",
        "rejected",
        "failed",
    ):
        table.add_column(column, justify="right")
    table.add_column("client late", justify="right")
    for each in measured:
        figures = row(each, measured)
        table.add_row(
            each.kind.name,
            each.server,
            f"{each.kind.rate:,.0f}" if each.kind.rate else "maximum",
            f"{figures['per_second']:,.0f}",
            *(_text(figures[f"{name}_ms"], ".2f") for name in QUANTILES),
            f"{_text(figures['p99_ms_low'], '.2f')} to {_text(figures['p99_ms_high'], '.2f')}",
            _text(figures["p50_ratio_to_empty"], ".1f"),
            _text(figures["p99_ratio_to_empty"], ".1f"),
            f"{figures['refused']:,}",
            f"{figures['failed']:,}",
            "" if figures["client_late_share"] is None else f"{figures['client_late_share']:.0%}",
        )
    console = new_console(170)
    console.print(table)
    console.print(_overload_table(measured, seconds))
    console.print(
        "Medians over rounds; x: ratio to the empty handler, by round. due/s: requests are due at fixed "
        "times, and latencies count from the due time, including the wait for a free connection; maximum: "
        f"each of {CONNECTIONS} connections sends its next request after each response; overload: the same "
        f"with {OVERLOAD} times the server's maximum of concurrent requests.\n"
        "rejected: status 503; latencies are of accepted requests only. 2nd client: a client with "
        f"{BESIDE_CONNECTIONS} connections that sends {BESIDE_RATE:g} requests per second and honours "
        "Retry-After, while the main load retries immediately; health: GET /health/live. client lag p99: the "
        "99th percentile of the load generator's own lag, which may be part of a latency. client late: share "
        f"of requests that the load generator sent more than {LATE_SECONDS * 1e3:g} ms after they were due; "
        "that time is part of the latencies of both servers.",
        highlight=False,
    )
    print_machine(console)


def _overload_table(measured: list[Measured], seconds: float) -> Table:
    """Accepted and rejected requests at and above capacity, and their effect on other clients."""
    from rich.table import Table

    table = Table(title="Maximum concurrency and overload; latencies in ms")
    for column in ("load", "server"):
        table.add_column(column)
    for column in (
        "accepted/s", "rejected/s", "p50", "p99", "2nd client p50", "2nd client p99", "2nd client rejected",
        "health p50", "health p99", "all failed", "client lag p99",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    for each in measured:
        if not each.kind.beside:
            continue
        figures = row(each, measured)
        table.add_row(
            each.kind.name,
            each.server,
            f"{figures['per_second']:,.0f}",
            f"{figures['refused'] / figures['rounds'] / seconds:,.0f}",
            *(_text(figures[f"{name}_ms"], ".1f") for name in ("p50", "p99", "beside_p50", "beside_p99")),
            _text(figures["beside_refused_share"], ".0%"),
            *(_text(figures[f"health_{name}_ms"], ".1f") for name in ("p50", "p99")),
            str(figures["failed"] + figures["beside_failed"] + figures["health_failed"]),
            _text(figures["client_lag_p99_ms"], ".1f"),
        )
    return table


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
