"""Decompression of gzip, bzip2, xz and zstd streams in bounded memory.

The libraries' own file objects hide faults in the data: some read a truncated file as complete, some drop
data after the end, and zstd may return gigabytes from one read. :class:`Decompressed` does none of these.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple, Protocol

import zstandard

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BUFFER_BYTES: Final = 1 << 18
XZ_MEMORY_BYTES: Final = 1 << 28
"""Memory limit of an xz decoder: ``xz -9`` needs 65 MiB, a hostile header can request 4 GiB."""
ZSTD_WINDOW_BYTES: Final = 1 << 27
"""Largest zstd window: the limit of ``zstd`` itself without ``--long=31``."""
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE: Final = b"\x2a\x4d\x18"
"""Last three bytes of the magic number of a zstd frame without data; the first is 0x50 to 0x5f."""
_RLE_BLOCK: Final = 1


class CompressedDataError(Exception):
    """The compressed data is truncated, damaged, or needs too much memory; the message names the remedy."""

    def __init__(self, kind: str, fault: str, remedy: str = "fetch it again") -> None:
        super().__init__(f"its {kind} data {fault}; {remedy}")


class Decoder(Protocol):
    """One member (gzip), stream (bzip2, xz) or frame (zstd)."""

    @property
    def eof(self) -> bool:
        """Whether the end of the member was reached."""
        ...

    @property
    def unused_data(self) -> bytes:
        """Input after the member's end; valid only after ``eof``."""
        ...

    @property
    def needs_input(self) -> bool:
        """Whether more output requires more input."""
        ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Decompress at most ``max_length`` bytes, or one block of 128 KiB."""
        ...


class _GzipMember:
    """One gzip member; zlib checks its CRC and length."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        found = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        # After a full buffer, output may be pending even if all input is consumed.
        self.needs_input = not self._zlib.unconsumed_tail and len(found) < max_length
        return found


class _ZstdFrame:
    """One zstd frame, decompressed block by block: a block yields at most 128 KiB, whatever its input size.

    Source: RFC 8878, sections 3.1.1 (frames and blocks) and 3.1.2 (skippable frames).
    """

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES).decompressobj()
        self._data = b""
        self._at = 0
        self._step: Callable[[], bytes | None] = self._header
        self._checksum = False
        self.eof = False
        self.needs_input = True

    @property
    def unused_data(self) -> bytes:
        return self._data[self._at :]

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        if data:
            self._data, self._at = self._data[self._at :] + data, 0
        while not self.eof:
            found = self._step()
            if found is None:
                self.needs_input = True
                return b""
            if found:
                self.needs_input = False
                return found
        return b""

    def _take(self, count: int) -> bytes | None:
        """The next ``count`` bytes; None until they have arrived."""
        if len(self._data) - self._at < count:
            return None
        self._at += count
        return self._data[self._at - count : self._at]

    def _header(self) -> bytes | None:
        start = self._data[self._at : self._at + 18]
        if len(start) < 6:
            return None
        if start[1:4] == _SKIPPABLE:
            return self._skip(8 + int.from_bytes(start[4:8], "little")) if len(start) >= 8 else None
        size = zstandard.frame_header_size(start)
        if (header := self._take(size)) is None:
            return None
        self._checksum = zstandard.get_frame_parameters(header).has_checksum
        self._step = self._block
        return self._zstd.decompress(header)

    def _skip(self, count: int) -> bytes | None:
        here = min(count, len(self._data) - self._at)
        self._at += here
        if here < count:
            self._step = lambda: self._skip(count - here)
            return None
        self.eof = True
        return b""

    def _block(self) -> bytes | None:
        head = self._data[self._at : self._at + 3]
        if len(head) < 3:
            return None
        value = int.from_bytes(head, "little")
        last, kind, size = value & 1, value >> 1 & 3, value >> 3
        if (block := self._take(3 + (1 if kind == _RLE_BLOCK else size))) is None:
            return None
        if last:
            self._step = self._end
        return self._zstd.decompress(block)

    def _end(self) -> bytes | None:
        if (checksum := self._take(4 if self._checksum else 0)) is None:
            return None
        self.eof = True
        return self._zstd.decompress(checksum) if checksum else b""


class Compression(NamedTuple):
    """A compression format, identified by the first bytes of its members."""

    name: str
    magic: tuple[bytes, ...]
    decoder: Callable[[], Decoder]


COMPRESSIONS: Final = (
    Compression("gzip", (b"\x1f\x8b",), _GzipMember),
    Compression(
        "bzip2",
        tuple(b"BZh%d%s" % (level, body) for level in range(1, 10) for body in (b"1AY&SY", b"\x17rE8P\x90")),
        bz2.BZ2Decompressor,
    ),
    Compression(
        "xz",
        (b"\xfd7zXZ\x00", b"\x5d\x00\x00"),
        lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY_BYTES),
    ),
    Compression(
        "zstd", (ZSTD_MAGIC, *(bytes([first]) + _SKIPPABLE for first in range(0x50, 0x60))), _ZstdFrame
    ),
)
# bzip2 reports damaged data with an OSError.
_FAULTS: Final = (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError)
_LONGEST_MAGIC: Final = 10


class Decompressed(io.RawIOBase):
    """The concatenated members of a compressed file as raw bytes.

    Zero bytes between and after members are padding. ``trailing`` holds the beginning of any other data that
    follows the last member; it is not part of the content.

    Raises:
        CompressedDataError: a member is truncated or damaged.
    """

    def __init__(self, source: BinaryIO, compression: Compression) -> None:
        self._source = source
        self._kind = compression
        self._decoder = compression.decoder()
        self._input = b""
        self._ready = memoryview(b"")
        self._over = False
        self.trailing = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        target = memoryview(buffer).cast("B")
        while not self._ready:
            if self._over:
                return 0
            self._ready = memoryview(self._more())
        count = min(len(target), len(self._ready))
        target[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _more(self) -> bytes:
        """The next bytes; empty at the end of a member."""
        decoder = self._decoder
        if decoder.eof:
            self._next_member(decoder.unused_data)
            return b""
        data = b""
        if decoder.needs_input:
            data = self._input or self._source.read(BUFFER_BYTES)
            self._input = b""
            if not data:
                raise CompressedDataError(self._kind.name, "ends in the middle: the file is truncated")
        try:
            return decoder.decompress(data, BUFFER_BYTES)
        except _FAULTS as error:
            raise self._fault(str(error)) from None

    def _fault(self, text: str) -> CompressedDataError:
        name = self._kind.name
        if "too much memory" in text or "Memory usage limit" in text:
            return CompressedDataError(
                name, "needs too much memory", "compress it again with a smaller window or dictionary"
            )
        return CompressedDataError(name, f"is damaged ({text})")

    def _next_member(self, data: bytes) -> None:
        data = data.lstrip(b"\0")
        while len(data) < _LONGEST_MAGIC and (more := self._source.read(BUFFER_BYTES)):
            data = (data + more).lstrip(b"\0")
        if data.startswith(self._kind.magic):
            self._decoder, self._input = self._kind.decoder(), data
        else:
            self._over, self.trailing = True, data
