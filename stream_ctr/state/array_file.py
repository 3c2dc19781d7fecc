"""Writes arrays to a safetensors file piece by piece, without a second copy of the arrays or file in memory.

The format (https://huggingface.co/docs/safetensors) is the length of a header in 8 bytes, the header in
JSON, then the arrays one after the other without gaps. Arrays with the widest items come first and the
header is padded, so that each array is aligned in a mapped file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from stream_ctr.errors import StateError
from stream_ctr.state.frozen import Source, pieces_of

ALIGNMENT: Final = 64
DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "F64": np.dtype("<f8"), "I64": np.dtype("<i8"), "U64": np.dtype("<u8"),
    "F32": np.dtype("<f4"), "I32": np.dtype("<i4"), "U32": np.dtype("<u4"),
    "F16": np.dtype("<f2"), "I16": np.dtype("<i2"), "U16": np.dtype("<u2"),
    "I8": np.dtype("i1"), "U8": np.dtype("u1"), "BOOL": np.dtype("?"),
}  # fmt: skip
"""The supported dtypes, by their names in the safetensors format."""
_CODES: Final = {dtype: code for code, dtype in DTYPES.items()}


class Place(NamedTuple):
    """Position and type of one array in the file."""

    dtype: str
    """The format's name of the dtype."""
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the file to the array."""


class ArrayFile:
    """Layout of a file of named arrays, and its content in pieces.

    >>> file = ArrayFile({"a": np.zeros((2, 2), np.float32), "b": np.ones(3, np.int64)})
    >>> [(name, place.offset) for name, place in file.places.items()]
    [('b', 128), ('a', 152)]
    >>> file.size == sum(len(piece) for piece in file.pieces())
    True
    """

    def __init__(self, arrays: Mapping[str, Source]) -> None:
        """Raises StateError for a dtype that the format does not support."""
        self._arrays = arrays
        order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
        header: dict[str, Any] = {}
        end = 0
        for name in order:
            dtype, shape = arrays[name].dtype, tuple(arrays[name].shape)
            if dtype not in _CODES:
                raise StateError(f"array {name} has dtype {dtype}, which the array file does not support")
            start, end = end, end + math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": _CODES[dtype], "shape": shape, "data_offsets": (start, end)}
        text = msgspec.json.encode(header)
        text += b" " * (-(8 + len(text)) % ALIGNMENT)
        self._head = len(text).to_bytes(8, "little") + text
        self.size = len(self._head) + end
        """Size of the file in bytes."""
        self.places = {
            name: Place(entry["dtype"], entry["shape"], len(self._head) + entry["data_offsets"][0])
            for name, entry in header.items()
        }
        """Each array's place, in file order."""

    def pieces(
        self, seen: Callable[[str, memoryview], None] = lambda name, piece: None
    ) -> Iterator[bytes | memoryview]:
        """The file's bytes, in order; each piece is valid until the next one. Calls ``seen`` with the array's
        name and each of its pieces."""
        yield self._head
        for name in self.places:
            for piece in pieces_of(self._arrays[name]):
                if piece.size:
                    data = np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data
                    seen(name, data)
                    yield data
