"""The tables [order] and [join]: how log entries are ordered, and clicks joined to impressions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from stream_ctr.config.ranges import EventSeconds, NotNegative


@dataclass(frozen=True, slots=True)
class OrderConfig:
    """Merging the partitions of all topics into one order."""

    idle_seconds: NotNegative = 1.0
    """Wall time after which the merge stops waiting for an empty partition; the decision is journalled."""
    max_ahead_seconds: NotNegative = 86400.0
    """A record whose event time is further ahead of its log timestamp than this becomes a dead letter."""
    max_lead_seconds: EventSeconds = 5.0
    """A record whose event time is further ahead than this of the time that its partition and the order have
    reached does not advance time until other records confirm it: a gap in traffic and a wrong clock look the
    same. At most join.grace_seconds, which covers clocks that are ahead by less."""


@dataclass(frozen=True, slots=True)
class JoinConfig:
    """Joining clicks to impressions, in event time."""

    input: Literal["clicks", "labelled"] = "clicks"
    """Input of the trainer. clicks: impressions and clicks, which it joins. labelled: the topic log.labelled,
    which `stream-ctr join` or a stream engine writes; an impression is then counted, scored and learned once,
    when its label is known."""
    policy: str = "wait"
    """When an impression is learned. wait: once, when its label is final. fast, fnw: immediately as not
    clicked, and again as clicked when its click arrives; fast corrects for this in the logit of the loss, fnw
    by weights. naive: the same without correction, a baseline that underestimates. Other packages can add
    policies."""
    keep_negatives: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """Share of the negatives that is learned, sampled by a hash of the event id; the loss corrects for it."""
    keep_seed: Annotated[int, Interval(ge=-(2**63), le=2**63 - 1)] = 1
    """Seed of that hash."""
    release: Literal["window", "click"] = "window"
    """wait: when an impression is learned. window: at the end of its window, clicked or not, so that the
    stream is learned as it was, only later. click: a clicked one at its click; positives are fresher, but
    after the start of a stream and after each rise in traffic they arrive without their negatives."""
    window_seconds: EventSeconds = 60.0
    """Label window: an impression counts as clicked if its click follows within this time."""
    grace_seconds: EventSeconds = 10.0
    """A label is final this long after the end of its window, so that a click inside the window counts even
    if the log delivers it late or a clock is ahead. Must cover the sum of both."""
    horizon_seconds: EventSeconds = 600.0
    """How long repeats of an event id are recognised: at least the window, and in effect never less than
    window and grace together."""
    memory_bytes: Annotated[int, Interval(ge=2**14, le=2**50)] = 1_073_741_824
    """Memory of the joiner; beyond it, the oldest entries are spilled to files in the state folder."""
