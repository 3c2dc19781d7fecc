"""Decompression of Kafka's record batches, up to a limit.

A few kilobytes can decompress to gigabytes, and kafka-python sets no limit. Here each codec stops as soon as
it exceeds the limit, and uses no more memory than that.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import zstandard

from stream_ctr.events.kafka.client import codec, errors

_STEP: Final = 1024 * 1024
_GZIP_WINDOW: Final = 31
"""zlib's code for a gzip header and the largest window."""
_XERIAL: Final = b"\x82SNAPPY\x00"
"""Start of the framing that Java clients put around snappy blocks; 8 bytes of versions follow."""


class TooLargeError(Exception):
    """The decompressed data is larger than the limit."""


def unpack(packed: bytes, kind: int, most_bytes: int) -> bytes:
    """Decompress the records of one batch.

    Args:
        packed: the compressed records.
        kind: the codec's number in the batch's attributes.
        most_bytes: limit on the decompressed size.

    Raises:
        TooLargeError: the result is larger than ``most_bytes``.
        UnsupportedCodecError: the codec is unknown, or its library is not installed.
        Exception: the data is damaged; each library raises its own exceptions.
    """
    if kind not in _CODECS:
        raise errors.UnsupportedCodecError(f"holds records with an unknown compression codec: {kind}")
    name, is_there, pieces = _CODECS[kind]
    if not is_there():
        raise errors.UnsupportedCodecError(
            f"holds records compressed by {name}, whose library is not installed; install stream-ctr[codecs]"
        )
    found: list[bytes] = []
    left = most_bytes
    for piece in pieces(packed, most_bytes):
        left -= len(piece)
        if left < 0:
            raise TooLargeError
        found.append(piece)
    return b"".join(found)


def codec_name(kind: int) -> str:
    """A codec's name by its number."""
    return _CODECS[kind][0] if kind in _CODECS else f"codec {kind}"


def _gzip(packed: bytes, most_bytes: int) -> Iterator[bytes]:
    yield from _members(packed, lambda: zlib.decompressobj(_GZIP_WINDOW), b"\x1f")


def _lz4(packed: bytes, most_bytes: int) -> Iterator[bytes]:
    yield from _members(packed, codec.lz4.LZ4FrameDecompressor, b"\x04")


def _members(packed: bytes, decompressor: Callable[[], Any], magic: bytes) -> Iterator[bytes]:
    """Decompress consecutive frames in pieces; trailing data that is not a frame is ignored."""
    rest = packed
    while True:
        one = decompressor()
        while not one.eof:
            piece = one.decompress(rest, _STEP)
            # zlib hands back unused input; lz4 keeps it and must not get it again.
            rest = getattr(one, "unconsumed_tail", b"")
            if not piece and not one.eof and not rest:
                raise EOFError("the data ends before its end mark")
            yield piece
        rest = one.unused_data or b""
        if not rest.startswith(magic):
            return


def _zstd(packed: bytes, most_bytes: int) -> Iterator[bytes]:
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed), read_across_frames=True) as reader:
        while piece := reader.read(_STEP):
            yield piece


def _snappy(packed: bytes, most_bytes: int) -> Iterator[bytes]:
    """Decompress blocks; each states its size first, so a block above the limit is not decompressed."""
    if not packed.startswith(_XERIAL):
        _checked_size(packed, most_bytes)
        yield codec.snappy.decompress(packed)
        return
    at, left = 16, most_bytes
    while at < len(packed):
        size = int.from_bytes(packed[at : at + 4], "big")
        block = packed[at + 4 : at + 4 + size]
        left -= _checked_size(block, left)
        yield codec.snappy.decompress(block)
        at += 4 + size


def _checked_size(block: bytes, most_bytes: int) -> int:
    """The decompressed size that a snappy block states as a plain varint; decoding does not exceed it.

    Raises:
        TooLargeError: the size is above ``most_bytes``.
    """
    size = shift = 0
    for byte in block[:5]:
        size |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    if size > most_bytes:
        raise TooLargeError
    return size


_CODECS: Final[dict[int, tuple[str, Callable[[], bool], Callable[[bytes, int], Iterator[bytes]]]]] = {
    1: ("gzip", codec.has_gzip, _gzip),
    2: ("snappy", codec.has_snappy, _snappy),
    3: ("lz4", lambda: codec.lz4 is not None, _lz4),
    4: ("zstd", codec.has_zstd, _zstd),
}
"""Name, whether its library is installed, and the function that decompresses in pieces."""
