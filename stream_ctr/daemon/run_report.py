"""Outcome report of one run, as a table and as JSON."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from rich.box import SIMPLE, Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stream_ctr.errors import NothingUsedError
from stream_ctr.monitoring.dead_letter_reasons import ReasonCount
from stream_ctr.monitoring.record_losses import LOSSES, Base, LossCounts

SHOWN_REASONS: Final = 10
"""Maximum number of dead-letter reasons in the table."""
_ROWS_OF_THEIR_OWN: Final = frozenset(
    {loss.name for loss in LOSSES}
    | {"entries", "rejected", "impressions", "positives", "negatives", "clicks_joined", "clicks_first"}
)
"""Pipeline counters that already have a row, or are part of another row."""
_TITLES: Final = {
    "skipped": "entries deleted by retention",
    "others": "impressions answered by other arms",
}
_PLAIN_WIDTH: Final = 200
"""Width in columns without a terminal: wide enough that no row wraps."""


class Warned(NamedTuple):
    """A warning about one loss."""

    loss: str
    """Name of the loss, as in the metrics."""
    share: float
    text: str


class Row(NamedTuple):
    """One row of the table."""

    title: str
    records: int
    share: float | None
    of: str
    warns: bool = False


@dataclass(frozen=True, slots=True)
class RunReport:
    """Counts of one run, from its start to its end."""

    labelled: bool
    """Whether labelled records were read instead of impressions and clicks."""
    counts: LossCounts
    outcomes: dict[str, int]
    """Increase of each pipeline counter."""
    used: int
    used_name: str
    """How impressions were used, such as "learned"; ``used`` is their number."""
    dead_letters: int
    reasons: list[ReasonCount]
    """Reasons of dead letters, most frequent first."""
    warnings: list[Warned]
    nothing: str
    """Why no record was used, if the run read records and failed for that; else empty."""
    listing: str
    """How to list the dead letters."""

    def check(self) -> None:
        """Raise NothingUsedError if the run read records and used none of them."""
        if self.nothing:
            raise NothingUsedError(self.nothing)

    def rows(self) -> Iterator[Row]:
        """The rows of the table."""
        bases: tuple[Base, ...] = ("impressions",) if self.labelled else ("impressions", "clicks")
        for of in bases:
            read = self.counts.read[of]
            noun = "labelled records" if self.labelled else of
            yield Row(f"{noun} read", read, None, "")
            if of == "impressions":
                yield Row(f"  {self.used_name}", self.used, None, "")
                yield self._share("  positives", self.outcomes.get("positives", 0), read, noun)
            else:
                yield self._share("  joined", self.outcomes.get("clicks_joined", 0), read, noun)
            warned = {each.loss for each in self.warnings}
            for loss in LOSSES:
                if loss.base == of and loss.name.startswith("labelled") <= self.labelled:
                    if self.labelled and loss.name.startswith("impressions"):
                        continue
                    lost = self.counts.lost[loss.name]
                    row = self._share(f"  {loss.title}", lost, read, noun)
                    yield row._replace(warns=loss.name in warned)
        for name, count in self.outcomes.items():
            if count and name not in _ROWS_OF_THEIR_OWN:
                yield Row(_TITLES.get(name, name.replace("_", " ")), count, None, "", name == "skipped")

    def as_dict(self) -> dict[str, Any]:
        """The report as ``--json`` prints it."""
        losses = {
            loss.name: {
                "count": self.counts.lost[loss.name],
                "share": self._of(self.counts.lost[loss.name], self.counts.read[loss.base]),
                "of": loss.base,
            }
            for loss in LOSSES
            if loss.name.startswith("labelled") <= self.labelled
        }
        return {
            "read": dict(self.counts.read),
            self.used_name: self.used,
            "positives": self.outcomes.get("positives", 0),
            "losses": losses,
            "dead_letters": {
                "count": self.dead_letters,
                "reasons": [
                    {"reason": item.reason, "count": item.count, "first": item.place} for item in self.reasons
                ],
            },
            "warnings": [
                {"loss": each.loss, "share": each.share, "reason": each.text} for each in self.warnings
            ],
        }

    def print(self, title: str, console: Console | None = None) -> None:
        """Print the table: with lines on a terminal, as plain text elsewhere."""
        console = console or Console()
        if console.is_terminal:
            self._render(title, console, SIMPLE)
            return
        text = io.StringIO()
        self._render(title, Console(file=text, width=_PLAIN_WIDTH, color_system=None), None)
        console.file.write("".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines()))

    def _render(self, title: str, console: Console, box: Box | None) -> None:
        table = Table(title=title, title_justify="left", box=box, show_edge=False, pad_edge=False)
        for name, justify in (("", "left"), ("records", "right"), ("share", "right"), ("", "left")):
            table.add_column(name, justify="right" if justify == "right" else "left", no_wrap=True)
        for row in self.rows():
            share = "" if row.share is None else f"{row.share:.2%}"
            of = f"of {row.of}" + (", above limit" if row.warns else "") if row.of else ""
            style = "bold yellow" if row.warns else ""
            table.add_row(Text(row.title), f"{row.records:,}", share, of, style=style)
        console.print(table)
        if self.reasons:
            self._print_reasons(console)

    def _print_reasons(self, console: Console) -> None:
        console.print(f"\nDead letters by reason ({self.dead_letters:,} in all):", highlight=False)
        for item in self.reasons[:SHOWN_REASONS]:
            line = f"  {item.count:>9,}  {item.reason} (first: {item.place})"
            console.print(Text(line), soft_wrap=True)
        more = sum(item.count for item in self.reasons[SHOWN_REASONS:])
        if more:
            console.print(f"  {more:>9,}  other reasons", highlight=False)
        console.print(f"{self.listing[0].upper()}{self.listing[1:]}.", highlight=False)

    def _share(self, title: str, count: int, read: int, of: str) -> Row:
        return Row(title, count, self._of(count, read), of)

    @staticmethod
    def _of(count: int, read: int) -> float | None:
        # Records read by an earlier run can be counted as lost in this one.
        return min(1.0, count / read) if read else None
