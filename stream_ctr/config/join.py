"""How entries are ordered and joined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from stream_ctr.config.ranges import EventSeconds, NotNegative


@dataclass(frozen=True, slots=True)
class OrderConfig:
    """Merging partitions and topics into one order."""

    idle_seconds: NotNegative = 1.0
    """Wall time after which an empty partition is no longer waited for; the choice is journalled."""
    max_ahead_seconds: NotNegative = 86400.0
    """A record whose event time is further ahead of its log timestamp than this is a dead letter."""
    max_lead_seconds: EventSeconds = 5.0
    """A record whose event time is further ahead than this of what its partition and the order have reached
    moves nobody's time until other records confirm it: a silence and a wrong clock look alike. At most
    join.grace_seconds, which covers clocks that are ahead by less."""


@dataclass(frozen=True, slots=True)
class JoinConfig:
    """Joining clicks to impressions, in event time."""

    input: Literal["clicks", "labelled"] = "clicks"
    """What the trainer reads. clicks: impressions and clicks, which it joins. labelled: the topic
    log.labelled, which `stream-ctr join` or a stream engine writes; each impression is then counted, scored
    and learned in one place, when its label is known."""
    policy: Literal["wait", "fast", "fnw", "naive"] = "wait"
    """What the learner is shown. wait: each impression once, when its label is certain. fast, fnw: at once
    as not clicked and, when its click comes, again as clicked; fast corrects for that in the loss's logit,
    fnw by weights. naive: the same without any correction, a baseline that underestimates."""
    keep_negatives: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """Share of the negatives that is learned, drawn by a hash of the event id; the loss corrects for it."""
    keep_seed: Annotated[int, Interval(ge=-(2**63), le=2**63 - 1)] = 1
    """Seed of that hash."""
    release: Literal["window", "click"] = "window"
    """wait: when an impression is learned. window: at its window's end, clicked or not, so that what is
    learned is the stream as it was, only later. click: a clicked one at its click already; positives are
    fresher, but at the start of a stream and after each rise of traffic they come without their negatives."""
    window_seconds: EventSeconds = 60.0
    """A label means: clicked within this long after the impression."""
    grace_seconds: EventSeconds = 10.0
    """A window is settled this long after its end, so that a click inside the window counts although the log
    delivers it late or a clock is ahead: it must cover the sum of both."""
    horizon_seconds: EventSeconds = 600.0
    """Repeats of an event id are recognised for this long, at least the window; never for less than the
    window and the grace together."""
    memory_bytes: Annotated[int, Interval(ge=2**14, le=2**50)] = 1_073_741_824
    """Memory for what the joiner remembers; beyond it the oldest goes to files in the state folder."""
