"""Detects a file's format from its first bytes: text, compressed text, or an unsupported format.

The name is ignored: ``data.csv`` may be a zip archive, and ``data.gz`` may be plain text.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from os import PathLike
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple, cast

from stream_ctr.datasets.members import BUFFER_BYTES, COMPRESSIONS, CompressedDataError, Decompressed
from stream_ctr.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_ZIP: Final = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_ZIP_FAULTS: Final = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError),
    *(UnicodeError, OverflowError),
)
"""Exceptions of the zip library for a damaged archive."""
_TAR_AT: Final = 257
_UNPACK: Final = "unpack it first: "
_CONVERT: Final = "convert it to CSV or JSON lines first"
_EXPORT: Final = "export its table as CSV or JSON lines"
_WEB_PAGE: Final = "a server may have sent it in place of the data; download the file again"
_FOREIGN: Final[tuple[tuple[bytes, str, str], ...]] = (
    (b"PAR1\x15", "a Parquet file", f"Parquet is not supported yet; {_CONVERT}"),
    (b"PAR1\x00", "a Parquet file", f"Parquet is not supported yet; {_CONVERT}"),
    (b"PARE", "an encrypted Parquet file", _CONVERT),
    (b"ORC\x08", "an ORC file", _CONVERT),
    (b"ORC\x0a", "an ORC file", _CONVERT),
    (b"Obj\x01", "an Avro file", _CONVERT),
    (b"ARROW1\x00\x00", "an Arrow (Feather) file", _CONVERT),
    (b"FEA1\x00", "a Feather file", _CONVERT),
    (b"\x89HDF\r\n", "an HDF5 file", _EXPORT),
    (b"SQLite format 3\x00", "an SQLite database", _EXPORT),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook", "save its sheet as CSV"),
    (b"\x93NUMPY", "a NumPy array", "convert it to CSV first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", f"{_UNPACK}7z x FILE"),
    (b"Rar!\x1a\x07", "a RAR archive", f"{_UNPACK}unrar x FILE"),
    (b"\x04\x22\x4d\x18", "compressed by lz4", f"{_UNPACK}lz4 -d FILE"),
    (b"\xff\x06\x00\x00sNaPpY", "compressed by snappy", "unpack it first"),
    (b"\x1f\x9d", "compressed by compress (.Z)", f"{_UNPACK}uncompress FILE"),
    (b"%PDF-", "a PDF document", "give the data itself"),
    (b"\xff\xfe", "UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8 FILE"),
    (b"\xfe\xff", "UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8 FILE"),
    (b"<!DOCTYPE html", "a web page", _WEB_PAGE),
    (b"<!doctype html", "a web page", _WEB_PAGE),
    (b"<html", "a web page", _WEB_PAGE),
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the data: git lfs pull"),
)
"""First bytes, name and remedy of unsupported formats."""


class Opened(NamedTuple):
    """The content of an open file."""

    stream: io.BufferedReader
    kind: str
    """Name of the compression; ``plain`` without one."""
    members: Decompressed | None
    """The compressed members, which hold the bytes that follow the last one; None unless compressed."""


class _CarriageReturns(io.RawIOBase):
    """Replaces carriage returns by line feeds, for text whose lines end in a carriage return alone."""

    def __init__(self, source: io.BufferedReader) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        target = memoryview(buffer).cast("B")
        data = self._source.read1(len(target))
        target[: len(data)] = data.replace(b"\r", b"\n")
        return len(data)


@contextlib.contextmanager
def open_content(path: str | PathLike[str]) -> Iterator[Opened]:
    """The decompressed bytes of a text file; a zip archive of one file is read as that file.

    Only a zip archive must be seekable: any other content may come through a pipe.

    Raises:
        DataError: the file is an archive of several files or another format that is not text; the message
            names it.
        OSError: the file cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_buffered(io.FileIO(path)))
        head = file.peek(1)
        kind, content, members = "plain", file, None
        compression = next((found for found in COMPRESSIONS if head.startswith(found.magic)), None)
        if compression is not None:
            kind, members = compression.name, Decompressed(file, compression)
            content = stack.enter_context(_buffered(members))
        elif head.startswith(_ZIP):
            kind, content = "zip", stack.enter_context(_zip_member(path, file))
        if kind != "plain":
            head = content.peek(1)
        _reject_foreign(path, head, kind)
        lone = head.find(b"\r")
        if b"\n" not in head and 0 <= lone < len(head) - 1:
            content = stack.enter_context(_buffered(_CarriageReturns(content)))
        yield Opened(content, kind, members)


def _buffered(raw: io.RawIOBase) -> io.BufferedReader:
    return io.BufferedReader(raw, BUFFER_BYTES)


def _reject_foreign(path: str | PathLike[str], head: bytes, kind: str) -> None:
    inside = "" if kind == "plain" else f"{kind}-compressed; its content is "
    if head[_TAR_AT : _TAR_AT + 5] == b"ustar":
        command = "tar -xf" if kind == "plain" else "tar -xaf"
        raise DataError(f"{path} is {inside}a tar archive; {_UNPACK}{command} {path}")
    for magic, name, remedy in _FOREIGN:
        if head.startswith(magic):
            raise DataError(f"{path} is {inside}{name}; {remedy.replace('FILE', str(path))}")
    if kind != "plain":
        again = next((found.name for found in COMPRESSIONS if head.startswith(found.magic)), None)
        if head.startswith(_ZIP):
            again = "zip"
        if again is not None:
            raise DataError(f"{path} is compressed twice, by {kind} and {again}; decompress it once")


@contextlib.contextmanager
def _zip_member(path: str | PathLike[str], file: BinaryIO) -> Iterator[io.BufferedReader]:
    """The only file in a zip archive."""
    unpack = f"{_UNPACK}unzip {path}"
    if not file.seekable():
        raise DataError(f"{path} is a zip archive and cannot be read through a pipe; {unpack}")
    try:
        with zipfile.ZipFile(file) as archive:
            files = [item for item in archive.infolist() if not item.is_dir()]
            names = {item.filename for item in files}
            if any(name.startswith("xl/") for name in names):
                raise DataError(f"{path} is an Excel workbook; save its sheet as CSV and give that file")
            files = [item for item in files if not item.filename.startswith("__MACOSX/")]
            if len(files) != 1:
                listed = ", ".join(item.filename for item in files[:3]) + (", ..." if len(files) > 3 else "")
                raise DataError(f"{path} is a zip archive of {len(files)} files ({listed}); {unpack}")
            if files[0].flag_bits & 1:
                raise DataError(f"{path} is a zip archive with a password; {unpack}")
            # Other methods decompress without a bound on the size of one read.
            if files[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"{path} is a zip archive with an unusual compression; {unpack}")
            with archive.open(files[0]) as member:
                yield _buffered(cast("io.RawIOBase", member))
    except _ZIP_FAULTS as error:
        raise CompressedDataError("zip", f"is damaged ({str(error) or type(error).__name__})") from None
