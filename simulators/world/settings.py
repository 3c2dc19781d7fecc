"""Settings of the simulated world."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Final

from stream_ctr.errors import UsageError

DELAYS: Final = ("exponential", "lognormal")


@dataclass(frozen=True)
class WorldConfig:
    """Settings of a world. Equal settings give equal events."""

    seed: int = 1
    """Seed of all random draws."""
    users: int = 20_000
    """Number of users; their frequencies follow a Zipf law."""
    ads: int = 2_000
    """Number of ads; Zipf frequencies as well."""
    sites: int = 300
    """Number of sites; Zipf frequencies as well."""
    click_rate: float = 0.2
    """Mean click probability at the start of the stream; the intercept is calibrated to it."""
    first_order: float = 0.9
    """Standard deviation, in logits, of the effects of single fields."""
    second_order: float = 1.2
    """Standard deviation, in logits, of the interactions of two fields."""
    rhythm: float = 0.3
    """Amplitude, in logits, of the daily rhythm; its peak is at 20:00."""
    turn_events: int = 4_000_000
    """Gradual drift: events per full cycle of the ads' effects; 0 disables it."""
    sudden_at: int = 300_000
    """Sudden drift: event from which half of the categories have new effects; 0 disables it."""
    events_per_second: float = 1.0
    """Events per second of event time."""
    start_ms: int = 1_735_689_600_000
    """Event time of event 0, in milliseconds since the epoch."""
    delay: str = "exponential"
    """Distribution of the time from impression to click: exponential or lognormal."""
    delay_seconds: float = 1.0
    """Mean delay, in seconds."""
    delay_spread: float = 1.0
    """lognormal: standard deviation of the logarithm of the delay."""
    longest_delay_seconds: float = 600.0
    """Longer delays are clipped to this."""

    def __post_init__(self) -> None:
        """Check the ranges of all settings.

        Raises:
            UsageError: a value is outside its range.
        """
        ranges: dict[str, tuple[float, float]] = {
            "seed": (0, 2**63 - 1),
            "users": (20, 10**8),
            "ads": (20, 10**7),
            "sites": (10, 10**7),
            "click_rate": (0.0001, 0.9),
            "first_order": (0, 10),
            "second_order": (0, 10),
            "rhythm": (0, 10),
            "turn_events": (0, 10**15),
            "sudden_at": (0, 10**15),
            "events_per_second": (1e-6, 1e6),
            "start_ms": (0, 10**14),
            "delay_seconds": (0.001, 10**7),
            "delay_spread": (0, 10),
            "longest_delay_seconds": (0.001, 10**7),
        }
        for item in fields(self):
            low, high = ranges.get(item.name, (0, 0))
            value = getattr(self, item.name)
            if item.name in ranges and not low <= value <= high:
                raise UsageError(f"world: {item.name} = {value!r}: must be from {low:g} to {high:g}")
        if self.delay not in DELAYS:
            raise UsageError(f"world: delay = {self.delay!r}: must be one of {', '.join(DELAYS)}")

    @property
    def event_prefix(self) -> str:
        """Prefix of every event id of this world; the event's number follows."""
        return f"world-{self.seed}-"

    def elapsed_ms(self, number: int) -> int:
        """Event time from event 0 to event ``number``."""
        return math.floor(number * (1000.0 / self.events_per_second))
