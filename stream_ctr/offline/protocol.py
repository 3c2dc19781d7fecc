"""The settings of a batch run: how rows are split, shuffled, counted and stopped on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from stream_ctr.errors import UsageError

SplitKind = Literal["random", "time"]

PAPERS_BATCH = 10_000
"""Batch size of both papers and of BARS."""
UPDATES_PER_EPOCH = 200
"""Fewest updates of an epoch before the default batch size gets smaller than the papers'."""
SMALLEST_BATCH = 32
MINIMUM_RATE = 1e-6
"""Learning rates are not reduced below this."""


@dataclass(frozen=True, slots=True)
class BatchProtocol:
    """The protocol of FuxiCTR and BARS, as far as it is published; each choice is an option."""

    split: SplitKind = "random"
    """random: a hash of (split seed, row number); time: the earliest rows train, the latest test."""
    shares: tuple[int, int, int] = (8, 1, 1)
    """Parts of training, validation and test rows; with a test share of 0 nothing is tested."""
    split_seed: int = 1
    """Seed of the random split: the same for every model, optimizer and seed that is to be compared."""
    epochs: int = 100
    """Most passes over the training rows."""
    patience: int = 2
    """Stop after so many epochs in a row whose validation AUC is no better than the best."""
    rate_factor: float = 0.1
    """Every epoch that is no better multiplies the learning rates by this; 1 leaves them."""
    minimum_gain: float = 1e-6
    """An AUC must rise by more than this to count as better."""
    batch_size: int = 0
    """Rows of an update; 0: see :func:`batch_size_for`."""
    seed: int = 1
    """Seed of the order of the rows; the weights' own seed is the learner's."""


def batch_size_for(protocol: BatchProtocol, training_rows: int) -> int:
    """Rows of an update: what the protocol says, else 10,000, less where the data are small.

    With 10,000 rows an update, small data would see too few updates to learn anything; so an epoch has
    at least 200 of them, down to 32 rows each.

    >>> [batch_size_for(BatchProtocol(), rows) for rows in (36_672_493, 64_000, 1_000)]
    [10000, 320, 32]
    """
    if protocol.batch_size:
        return protocol.batch_size
    return min(PAPERS_BATCH, max(SMALLEST_BATCH, training_rows // UPDATES_PER_EPOCH))


def check_protocol(protocol: BatchProtocol) -> None:
    """Refuse settings that make no sense.

    Raises:
        UsageError: the option is named with what it may be.
    """
    if protocol.split not in get_args(SplitKind):
        raise UsageError(f"--split {protocol.split}: choose {' or '.join(get_args(SplitKind))}")
    training, validation, test = protocol.shares
    if training < 1 or validation < 1 or test < 0 or sum(protocol.shares) > 1000:
        raise UsageError(
            f"--shares {training}:{validation}:{test}: training and validation need 1 or more each, test 0 "
            "or more, 1000 in all"
        )
    for option, number, low, high in (
        ("--epochs", protocol.epochs, 1, 1_000_000),
        ("--patience", protocol.patience, 1, 1_000_000),
        ("--batch-size", protocol.batch_size, 0, 10_000_000),
        ("--seed", protocol.seed, 0, 2**63 - 1),
        ("--split-seed", protocol.split_seed, 0, 2**63 - 1),
    ):
        if not low <= number <= high:
            raise UsageError(f"{option} {number}: must be from {low} to {high}")
    if not (math.isfinite(protocol.rate_factor) and 0.0 < protocol.rate_factor <= 1.0):
        raise UsageError(
            f"--rate-factor {protocol.rate_factor:g}: must be above 0, at most 1 (1 leaves rates)"
        )


def parse_shares(text: str) -> tuple[int, int, int]:
    """Shares from ``8:1:1``.

    >>> parse_shares("8:1:1")
    (8, 1, 1)

    Raises:
        UsageError: it is not three whole numbers.
    """
    parts = text.split(":")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) < 5 for part in parts):
        raise UsageError(f"--shares {text!r} is not TRAINING:VALIDATION:TEST, such as 8:1:1")
    training, validation, test = map(int, parts)
    return training, validation, test
