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
    parser.add_argument("--split", choices=["random", "time"], help="random 8:1:1 (default), or by time")
    parser.add_argument("--shares", metavar="T:V:T", help="parts of training, validation, test rows (8:1:1)")
    parser.add_argument("--split-seed", type=int, metavar="N", help="seed of the random split (1)")
    parser.add_argument("--epochs", type=int, metavar="N", help="most epochs (100)")
    parser.add_argument("--patience", type=int, metavar="N", help="epochs without a better AUC (2)")
    parser.add_argument(
        "--rate-factor", type=float, metavar="X", help="on learning rates after a worse epoch (0.1; 1: none)"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="rows of an update (10,000, or 1/200 of the rows if fewer)",
    )
    parser.add_argument(
        "--minimum-count", type=int, metavar="N", help="training rows that must hold a value for its own row"
    )
    parser.add_argument(
        "--dense-rows", action="store_const", const=True, help="every embedding row steps at every update"
    )
    parser.add_argument("--dropout", type=float, metavar="P", help="share of hidden units left out")
    parser.add_argument(
        "--set", action="append", metavar="KEY=VALUE", help="optimizer setting, such as rho=0.01"
    )
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="keep the encoded rows here, for reuse")


def protocol_of(arguments: argparse.Namespace) -> BatchProtocol:
    """The protocol of the arguments.

    Raises:
        UsageError: an argument is outside its range.
    """
    from stream_ctr.features.rows.admission import LARGEST_COUNT
    from stream_ctr.offline.protocol import BatchProtocol, check_protocol, parse_shares

    if arguments.batch_size is not None and arguments.batch_size < 1:
        raise UsageError(f"--batch-size {arguments.batch_size}: must be 1 or more")
    if arguments.dropout is not None and not 0.0 <= arguments.dropout < 1.0:
        raise UsageError(f"--dropout {arguments.dropout:g}: must be 0 or more, below 1")
    if arguments.minimum_count is not None and not 1 <= arguments.minimum_count <= LARGEST_COUNT:
        raise UsageError(f"--minimum-count {arguments.minimum_count}: must be from 1 to {LARGEST_COUNT}")
    names = ("split", "split_seed", "epochs", "patience", "rate_factor", "batch_size")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    protocol = BatchProtocol(**given)
    if arguments.shares is not None:
        protocol = replace(protocol, shares=parse_shares(arguments.shares))
    check_protocol(protocol)
    return protocol
