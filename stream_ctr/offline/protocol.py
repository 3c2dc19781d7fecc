"""Settings of a batch run: split, shuffling, batch size, learning-rate schedule and early stopping."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from stream_ctr.errors import UsageError

SplitKind = Literal["random", "time"]

PAPERS_BATCH = 10_000
"""Batch size of both papers and of BARS."""
UPDATES_PER_EPOCH = 200
"""Minimum updates per epoch; the default batch size is reduced below the papers' to reach it."""
SMALLEST_BATCH = 32
MINIMUM_RATE = 1e-6
"""Learning rates are not reduced below this."""


@dataclass(frozen=True, slots=True)
class BatchProtocol:
    """The published protocol of FuxiCTR and BARS; each choice is an option."""

    split: SplitKind = "random"
    """random: a hash of (split seed, row number); time: the earliest rows train, the latest test."""
    shares: tuple[int, int, int] = (8, 1, 1)
    """Proportions of training, validation and test rows; with a test share of 0 there is no test."""
    split_seed: int = 1
    """Seed of the random split: the same for all models, optimizers and seeds that are compared."""
    epochs: int = 100
    """Maximum number of passes over the training rows."""
    patience: int = 2
    """Stop after this many consecutive epochs without a better validation AUC."""
    rate_factor: float = 0.1
    """Every epoch without a better AUC multiplies the learning rates by this; 1 keeps them."""
    minimum_gain: float = 1e-6
    """An AUC must rise by more than this to count as better."""
    batch_size: int = 0
    """Rows per update; 0: see :func:`batch_size_for`."""
    seed: int = 1
    """Seed of the row order; the seed of the weights is a setting of the learner."""


def batch_size_for(protocol: BatchProtocol, training_rows: int) -> int:
    """Rows per update: the protocol's batch size, otherwise up to 10,000.

    With 10,000 rows per update, small datasets would get too few updates. The default is therefore reduced,
    down to 32 rows, until an epoch has at least 200 updates.

    >>> [batch_size_for(BatchProtocol(), rows) for rows in (36_672_493, 64_000, 1_000)]
    [10000, 320, 32]
    """
    if protocol.batch_size:
        return protocol.batch_size
    return min(PAPERS_BATCH, max(SMALLEST_BATCH, training_rows // UPDATES_PER_EPOCH))


def check_protocol(protocol: BatchProtocol) -> None:
    """Check the ranges of all settings.

    Raises:
        UsageError: a value is outside its range; the message names the option and its range.
    """
    if protocol.split not in get_args(SplitKind):
        raise UsageError(f"--split {protocol.split}: choose {' or '.join(get_args(SplitKind))}")
    training, validation, test = protocol.shares
    if training < 1 or validation < 1 or test < 0 or sum(protocol.shares) > 1000:
        raise UsageError(
            f"--shares {training}:{validation}:{test}: training and validation must be at least 1, test at "
            "least 0, and the sum at most 1000"
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
            f"--rate-factor {protocol.rate_factor:g}: must be above 0 and at most 1 (1 keeps the rates)"
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
        raise UsageError(f"--shares {text!r}: must be TRAINING:VALIDATION:TEST, such as 8:1:1")
    training, validation, test = map(int, parts)
    return training, validation, test
