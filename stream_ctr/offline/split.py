"""The split into training, validation and test rows, and the order of the training rows.

Both are hashes of a seed and the row number, so they are the same on every machine and for every batch size.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_ctr.errors import DataError
from stream_ctr.kernels.splitmix64 import splitmix64
from stream_ctr.offline.protocol import BatchProtocol

TRAINING: Final = 0
VALIDATION: Final = 1
TEST: Final = 2
PARTS: Final = ("training", "validation", "test")
_BLOCK: Final = 1 << 20


def split_rows(protocol: BatchProtocol, time_ms: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Part of each of N rows, uint8 [N]: TRAINING, VALIDATION or TEST; ``time_ms`` is [N].

    random: each row independently, by a hash of (split seed, row number). time: exact shares in time order;
    rows with equal times keep the order of the file.

    Raises:
        DataError: a part with a positive share has no rows.
    """
    rows = len(time_ms)
    shares = np.cumsum(protocol.shares)
    part = np.empty(rows, np.uint8)
    if protocol.split == "random":
        for start in range(0, rows, _BLOCK):
            stop = min(rows, start + _BLOCK)
            place = mixed(protocol.split_seed, np.arange(start, stop, dtype=np.uint64)) % np.uint64(shares[2])
            part[start:stop] = np.searchsorted(shares, place.astype(np.int64), side="right")
    else:
        part.fill(TEST)
        # Mark the later boundary first; the earlier one then overwrites the earliest rows.
        for kind, share in ((VALIDATION, shares[1]), (TRAINING, shares[0])):
            _mark_earliest(part, time_ms, rows * int(share) // int(shares[2]), kind)
    for kind, wanted in enumerate(protocol.shares):
        if wanted and not np.any(part == kind):
            raise DataError(
                f"{rows} rows are too few to split {':'.join(map(str, protocol.shares))}: no row is left for "
                f"{PARTS[kind]}; provide more rows, or change --shares"
            )
    return part


def _mark_earliest(part: NDArray[np.uint8], time_ms: NDArray[np.int64], count: int, kind: int) -> None:
    """Assign the ``count`` earliest rows to part ``kind``; of equal times, the first rows in the file."""
    if count == 0:
        return
    last = np.partition(time_ms, count - 1)[count - 1]
    earlier = time_ms < last
    part[earlier] = kind
    part[np.flatnonzero(time_ms == last)[: count - int(earlier.sum())]] = kind


def shuffled(rows: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
    """The rows [N] in the order of epoch ``epoch``.

    >>> sorted(shuffled(np.arange(5), 1, 0).tolist())
    [0, 1, 2, 3, 4]
    """
    return rows[np.argsort(mixed(seed, rows.astype(np.uint64), epoch + 1), kind="stable")]


def mixed(seed: int, number: NDArray[Any], salt: int = 0) -> NDArray[np.uint64]:
    """64 bits for each number uint64 [N]: splitmix64 over seed, salt and number."""
    stream = splitmix64(np.array([seed], np.uint64))
    stream = splitmix64(stream ^ np.uint64(salt))
    return splitmix64(number.astype(np.uint64) ^ stream)
