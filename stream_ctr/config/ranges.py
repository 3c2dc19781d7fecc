"""Value ranges of the configuration's keys, as annotations.

Pydantic checks them when a configuration is loaded. They are written with annotated-types, which pydantic
reads, because the server's workers import these tables and must not pay for importing pydantic.
"""

from __future__ import annotations

from typing import Annotated, Final

from annotated_types import Ge, Interval

LARGEST: Final = 1e30
"""Largest setting of a model or optimizer: about 1e8 below the largest 32-bit float."""
WIDEST: Final = 65_536
"""Widest layer and embedding: a mistyped width must not ask for all memory."""

Share = Annotated[float, Interval(ge=0, le=1)]
"""From 0 to 1."""
NotNegative = Annotated[float, Ge(0)]
"""From 0; infinity included."""
EventSeconds = Annotated[float, Interval(ge=0, le=1e9)]
"""Event time, up to about 30 years."""
OptionalPort = Annotated[int, Interval(ge=-1, le=65_535)]
"""A TCP port; 0 takes a free one, -1 opens none."""
FINITE: Final = Interval(ge=-LARGEST, le=LARGEST)
"""Numbers that stay finite in 32 bits."""
Number = Annotated[float, FINITE]
"""A number that stays finite in 32 bits."""
Width = Annotated[int, Interval(ge=1, le=WIDEST)]
"""Width of a layer or an embedding, and other sizes of a network."""
