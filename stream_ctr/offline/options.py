"""Command-line options of the batch protocol."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stream_ctr.errors import UsageError

if TYPE_CHECKING:
    from stream_ctr.offline.protocol import BatchProtocol


def add_protocol_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declare the options of the batch protocol. None has a default, so given options can be detected."""
    parser.add_argument("--split", choices=["random", "time"], help="split at random (default) or by time")
    parser.add_argument(
        "--shares", metavar="T:V:T", help="proportions of training, validation and test rows (8:1:1)"
    )
    parser.add_argument("--split-seed", type=int, metavar="N", help="seed of the random split (1)")
    parser.add_argument("--epochs", type=int, metavar="N", help="maximum number of epochs (100)")
    parser.add_argument(
        "--patience", type=int, metavar="N", help="stop after N epochs without a better validation AUC (2)"
    )
    parser.add_argument(
        "--rate-factor",
        type=float,
        metavar="FACTOR",
        help="multiply the learning rates by this after an epoch without a better AUC (0.1)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="rows per update (10,000, or 1/200 of the training rows if fewer)",
    )
    parser.add_argument(
        "--minimum-count",
        type=int,
        metavar="N",
        help="training rows with a value before it gets its own embedding",
    )
    parser.add_argument(
        "--dense-rows", action="store_const", const=True, help="update every embedding row at every step"
    )
    parser.add_argument("--dropout", type=float, metavar="RATE", help="dropout rate of hidden units")
    parser.add_argument(
        "--set", action="append", metavar="KEY=VALUE", help="optimizer setting, such as rho=0.01; repeatable"
    )
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="keep the encoded rows here for reuse")


def protocol_of(arguments: argparse.Namespace) -> BatchProtocol:
    """The protocol of the arguments.

    Raises:
        UsageError: an argument is outside its range.
    """
    from stream_ctr.features.rows.admission import LARGEST_COUNT
    from stream_ctr.offline.protocol import BatchProtocol, check_protocol, parse_shares

    if arguments.batch_size is not None and arguments.batch_size < 1:
        raise UsageError(f"--batch-size {arguments.batch_size}: must be at least 1")
    if arguments.dropout is not None and not 0.0 <= arguments.dropout < 1.0:
        raise UsageError(f"--dropout {arguments.dropout:g}: must be at least 0 and below 1")
    if arguments.minimum_count is not None and not 1 <= arguments.minimum_count <= LARGEST_COUNT:
        raise UsageError(f"--minimum-count {arguments.minimum_count}: must be from 1 to {LARGEST_COUNT}")
    names = ("split", "split_seed", "epochs", "patience", "rate_factor", "batch_size")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    protocol = BatchProtocol(**given)
    if arguments.shares is not None:
        protocol = replace(protocol, shares=parse_shares(arguments.shares))
    check_protocol(protocol)
    return protocol
