"""Detection of file formats by their first bytes, and decompression in bounded memory."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ctr.datasets.files import read_lines
from stream_ctr.datasets.members import BUFFER_BYTES, COMPRESSIONS, Decompressed
from stream_ctr.datasets.read_report import ReadReport
from stream_ctr.errors import DataError

CSV = b"click,ad\n1,a\n0,b\n"


def _zip(*names: str, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name in names:
            archive.writestr(name, CSV)
    return target.getvalue()


def _tar() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        info = tarfile.TarInfo("d.csv")
        info.size = len(CSV)
        archive.addfile(info, io.BytesIO(CSV))
    return target.getvalue()


def _texts(path: Path, content: bytes, report: ReadReport | None = None) -> list[str]:
    path.write_bytes(content)
    return [row.text for row in read_lines(path, report)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_zip("a.csv", "b.csv"), r"is a zip archive of 2 files \(a\.csv, b\.csv\); unpack it first: unzip"),
        (_zip("d.csv", method=zipfile.ZIP_BZIP2), "zip archive with an unusual compression; unpack it first"),
        (_zip("[Content_Types].xml", "xl/workbook.xml"), "is an Excel workbook; save its sheet as CSV"),
        (_tar(), "is a tar archive; unpack it first: tar -xf"),
        (
            gzip.compress(_tar(), mtime=0),
            "gzip-compressed; its content is a tar archive; unpack it first: tar -xaf",
        ),
        (bz2.compress(_tar()), "bzip2-compressed; its content is a tar archive"),
        (gzip.compress(lzma.compress(CSV), mtime=0), "compressed twice, by gzip and xz"),
        (b"PAR1\x15\x04\x15\x80", "is a Parquet file; Parquet is not supported yet; convert it"),
        (gzip.compress(b"PAR1\x15\x04\x15\x80", mtime=0), "gzip-compressed; its content is a Parquet file"),
        (b"7z\xbc\xaf\x27\x1c\x00\x04", "is a 7z archive; unpack it first: 7z x"),
        (b"Rar!\x1a\x07\x01\x00", "is a RAR archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old Excel workbook"),
        (CSV.decode().encode("utf-16"), "is UTF-16 text; convert it: iconv"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ],
)
def test_unsupported_formats_are_named_with_a_remedy(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        _texts(tmp_path / "data.csv", content)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("first", ["PAR1", "ORCID", "ARROW1", "BZh9", "Obj", "7z", "PK"])
def test_text_that_begins_like_a_format_is_text(first: str, tmp_path: Path) -> None:
    assert _texts(tmp_path / "data.csv", f"{first},click\n".encode()) == [f"{first},click"]


@pytest.mark.parametrize("content", [_zip("d.csv"), _zip("d.csv", "__MACOSX/._d.csv"), bz2.compress(CSV)])
def test_a_zip_archive_of_one_file_and_bzip2_are_read(content: bytes, tmp_path: Path) -> None:
    assert _texts(tmp_path / "data", content) == CSV.decode().splitlines()


def test_a_damaged_zip_archive_is_an_error(tmp_path: Path) -> None:
    content = bytearray(_zip("d.csv", method=zipfile.ZIP_STORED))
    at = content.index(b"1,a")
    content[at] ^= 1
    with pytest.raises(DataError, match="zip data is damaged"):
        _texts(tmp_path / "data", bytes(content))


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}


@pytest.mark.parametrize("kind", COMPRESS)
def test_trailing_bytes_are_noted_and_all_lines_are_read(kind: str, tmp_path: Path) -> None:
    report = ReadReport()
    lines = b"".join(b"%d\n" % n for n in range(3000))
    found = _texts(tmp_path / "data", COMPRESS[kind](lines) + b"garbage \x1b[31m", report)
    assert len(found) == 3000
    (note,) = report.notes.values()
    assert f"its {kind} data ends after line 3,000, but other bytes follow" in note
    assert r"b'garbage \x1b[31m'" in note


@pytest.mark.parametrize("kind", COMPRESS)
def test_members_with_padding_are_one_text_and_no_note(kind: str, tmp_path: Path) -> None:
    report = ReadReport()
    content = (
        COMPRESS[kind](b"one\ntw") + bytes(8) + COMPRESS[kind](b"") + COMPRESS[kind](b"o\n") + bytes(512)
    )
    assert _texts(tmp_path / "data", content, report) == ["one", "two"]
    assert not report.notes


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_decompression_bomb_uses_bounded_memory(kind: str, tmp_path: Path) -> None:
    """Zeros without a line end: hundreds of MB from a few kB, rejected after one maximal line."""
    if kind == "zstd":
        packer = zstandard.ZstdCompressor(level=3).compressobj()
        content = b"".join(packer.compress(bytes(1 << 24)) for _ in range(16)) + packer.flush()
    else:
        content = COMPRESS[kind](bytes(1 << 24)) * 2
    path = tmp_path / "data"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="line 1 is longer than"):
            list(read_lines(path))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_a_zstd_window_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, compression_level=1)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(DataError, match="zstd data needs too much memory; compress it again"):
        _texts(tmp_path / "data", packer.compress(CSV) + packer.flush())


def test_zstd_frames_without_data_are_skipped(tmp_path: Path) -> None:
    skippable = b"\x5a\x2a\x4d\x18" + (7).to_bytes(4, "little") + b"nothing"
    frame = zstandard.compress(b"one\n")
    assert _texts(tmp_path / "data", skippable + frame + skippable + frame) == ["one", "one"]


class _Slow(io.BytesIO):
    """Returns a few bytes per read, so that headers and blocks arrive in pieces."""

    def __init__(self, content: bytes, most: int) -> None:
        super().__init__(content)
        self._most = most

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(self._most)


@settings(max_examples=30, deadline=None)
@given(
    data=st.binary(max_size=2000),
    times=st.integers(1, 100),
    checksum=st.booleans(),
    level=st.sampled_from([-5, 1, 3, 19]),
    flushes=st.integers(0, 3),
    read=st.sampled_from([1, 7, 100, BUFFER_BYTES]),
)
def test_zstd_frames_decompress_as_the_library_does(
    data: bytes,
    times: int,
    checksum: bool,
    level: int,
    flushes: int,
    read: int,
) -> None:
    packer = zstandard.ZstdCompressor(level=level, write_checksum=checksum).compressobj()
    parts = [packer.compress(data * times)]
    for _ in range(flushes):
        parts += [packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK), packer.compress(data)]
    parts.append(packer.flush())
    source = _Slow(b"".join(parts), read)
    (compression,) = (found for found in COMPRESSIONS if found.name == "zstd")
    with io.BufferedReader(Decompressed(source, compression)) as stream:
        assert stream.read() == data * (times + flushes)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from([*COMPRESS, "zip"]),
    cut=st.integers(0, 10_000),
    flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), max_size=3),
)
def test_damage_of_any_kind_is_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, kind: str, cut: int, flips: list[tuple[int, int]]
) -> None:
    text = b"".join(b"%d\n" % (n * n) for n in range(2000))
    content = bytearray(_zip("d.csv") if kind == "zip" else COMPRESS[kind](text))
    for at, change in flips:
        content[at % len(content)] ^= change
    path = tmp_path_factory.mktemp("damaged") / "data"
    path.write_bytes(content[: len(content) - cut % len(content)])
    with contextlib.suppress(DataError):
        list(read_lines(path))


def test_lines_that_end_in_carriage_returns_alone(tmp_path: Path) -> None:
    assert _texts(tmp_path / "mac.csv", b"click,ad\r1,a\r0,b\r") == ["click,ad", "1,a", "0,b"]


def test_a_pipe_is_read_like_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(gzip.compress(CSV),))
    writer.start()
    assert [row.text for row in read_lines(path)] == CSV.decode().splitlines()
    writer.join()
