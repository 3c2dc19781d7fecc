"""Sorting by time in bounded memory, and a replay in that order."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.log_writer.sorting import TimeSort
from stream_ctr.datasets.base import Example
from stream_ctr.datasets.taobao import Taobao
from stream_ctr.errors import LogError, UsageError
from stream_ctr.events.records import FeatureValue
from tests.support.dataset_files import taobao_folder, write
from tests.support.simulated_logs import contents, copy_prefix, run, url_of

VALUE: st.SearchStrategy[FeatureValue] = (
    st.text(max_size=5)
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False)
    | st.lists(st.text(max_size=3), max_size=3)
)
EXAMPLE = st.builds(
    Example,
    event_id=st.text(max_size=8),
    time_ms=st.integers(0, 5) | st.integers(0, 253_402_300_799_999),
    user=st.text(max_size=3),
    features=st.dictionaries(st.text(max_size=4), VALUE, max_size=3),
    label=st.integers(0, 1),
    bid=st.floats(allow_nan=False),
    click_delay_ms=st.none() | st.integers(1, 10**9),
    truth=st.none() | st.floats(0, 1),
    propensity=st.none() | st.floats(0, 1),
)


@settings(max_examples=60, deadline=None)
@given(
    examples=st.lists(EXAMPLE, max_size=40),
    memory_bytes=st.sampled_from([1, 700, 3000, 1 << 20]),
    fan_in=st.integers(2, 4),
)
def test_the_order_is_that_of_a_stable_sort(examples: list[Example], memory_bytes: int, fan_in: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simulators.log_writer.sorting.FAN_IN", fan_in)
        found = list(TimeSort(memory_bytes=memory_bytes).sort(iter(examples)))
    assert found == sorted(examples, key=lambda example: example.time_ms)
    kinds = [[type(value) for value in example.features.values()] for example in found]
    wanted = sorted(examples, key=lambda example: example.time_ms)
    assert kinds == [[type(value) for value in example.features.values()] for example in wanted]


def _examples(count: int) -> Iterator[Example]:
    chance = random.Random(3)
    for number in range(count):
        yield Example(f"e{number}", chance.randrange(10**9), "", {"x": "y" * 50}, 0)


def test_open_files_are_bounded_and_none_remain(tmp_path: Path) -> None:
    """With one run per entry, the number of open files stays small, and no file remains."""

    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("this system does not list a process's open files")

    def opened() -> int:
        """Open files below the folder of this test; other tests' files may close meanwhile."""
        links = (os.path.realpath(each) for each in descriptors.iterdir())
        return sum(link.startswith(str(tmp_path)) for link in links)

    most = 0
    sort = TimeSort(tmp_path / "new", memory_bytes=1)
    for _ in sort.sort(_examples(1500)):
        most = max(most, opened())
    assert 1 < most <= 2 * 32 + 1
    assert opened() == 0
    assert list((tmp_path / "new").iterdir()) == []


def test_a_signal_ends_the_sorting_without_output() -> None:
    stop = threading.Event()
    taken = 0

    def source() -> Iterator[Example]:
        nonlocal taken
        for example in _examples(1000):
            taken += 1
            if taken == 100:
                stop.set()
            yield example

    assert list(TimeSort(stop=stop, memory_bytes=1).sort(source())) == []
    assert taken == 100


def test_an_unwritable_folder_is_reported_by_name(tmp_path: Path) -> None:
    place = write(tmp_path / "file", "")
    with pytest.raises(UsageError, match=r"cannot sort in .*file: .*--work"):
        list(TimeSort(place, memory_bytes=1).sort(_examples(3)))


def _shuffled(folder: Path, rows: int = 200) -> tuple[Path, Path]:
    """A file in time order and the same rows shuffled; ids are in the rows, and times occur in pairs."""
    lines = [f"{1000 * (n // 2)},id{n},{n % 3 // 2},x{n}\n" for n in range(rows)]
    header = "t,id,y,x\n"
    pairs = [lines[n] + lines[n + 1] for n in range(0, rows, 2)]
    random.Random(1).shuffle(pairs)
    return write(folder / "sorted.csv", header + "".join(lines)), write(
        folder / "shuffled.csv", header + "".join(pairs)
    )


def test_a_sorted_replay_of_a_shuffled_file_is_that_of_the_sorted_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The topics are equal byte for byte, so joining them gives the same labels."""
    text = 'label = "y"\ntime = "t"\nevent_id = "id"\nfields = [{ name = "x" }]\n'
    schema = f"schema={write(tmp_path / 's.toml', text)}"
    delay = ("--click-delay", "exponential:3")
    options = ("--option", schema, "--partitions", "2", "--json", *delay)
    in_order, shuffled = _shuffled(tmp_path)
    wanted, found, limited = (url_of(tmp_path / f"{name}.db") for name in ("wanted", "found", "limited"))
    assert run("replay", "delimited", str(in_order), "--log", wanted, *options) == 0
    assert run("replay", "delimited", str(shuffled), "--log", found, "--sort", *options) == 0
    assert contents(found) == contents(wanted)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["out_of_order"] == 0
    # A resumed run sorts again and continues; without --sort the sequence differs.
    url = url_of(tmp_path / "resumed.db")
    copy_prefix(wanted, url, {place: len(entries) // 3 for place, entries in contents(wanted).items()}, 2)
    with pytest.raises(LogError, match="cannot resume"):
        run("replay", "delimited", str(shuffled), "--log", url, "--resume", *options)
    assert run("replay", "delimited", str(shuffled), "--log", url, "--resume", "--sort", *options) == 0
    assert contents(url) == contents(wanted)
    # A limit counts impressions in the order of time.
    assert (
        run("replay", "delimited", str(shuffled), "--log", limited, "--sort", "--limit", "7", *options) == 0
    )
    keys = {
        e.key for place, found in contents(limited).items() if place.topic == "impressions" for e in found
    }
    assert keys == {f"id{n}".encode() for n in range(7)}


def test_event_ids_of_a_sorted_replay_are_those_of_the_rows_of_the_file(tmp_path: Path) -> None:
    rows = "".join(f"501,{1494137600 + (n * 7) % 50},11,p,{1 - n % 2},{n % 2}\n" for n in range(50))
    folder = taobao_folder(tmp_path / "data", rows)
    url = url_of(tmp_path / "log.db")
    assert run("replay", "taobao", str(folder), "--log", url, "--sort", "--partitions", "1") == 0
    examples = sorted(Taobao().read(folder), key=lambda example: example.time_ms)
    (entries,) = (found for place, found in contents(url).items() if place.topic == "impressions")
    assert [entry.key for entry in entries] == [example.event_id.encode() for example in examples]


def test_an_unsorted_replay_reports_the_disorder_and_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = 'label = "y"\ntime = "t"\ntime_unit = "s"\nfields = [{ name = "x" }]'
    path = write(tmp_path / "data.csv", "y,t,x\n0,50,a\n0,40,b\n0,60,c\n0,10,d\n")
    options = ("--option", f"schema={write(tmp_path / 's.toml', text)}", "--json")
    assert run("replay", "delimited", str(path), "--log", url_of(tmp_path / "log.db"), *options) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert (found["out_of_order"], found["largest_step_back_ms"]) == (2, 50_000)
    assert "replay --sort" in captured.err
    with pytest.raises(UsageError, match="--work requires --sort"):
        run("replay", "delimited", str(path), "--log", url_of(tmp_path / "log.db"), "--work", "x", *options)


def test_a_replay_with_skipped_rows_resumes_and_keeps_every_id(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped by a bad row and resumed past it; the ids of later rows equal those of the corrected file."""
    text = 'label = "y"\nfields = [{ name = "x" }]'
    schema = ("--option", f"schema={write(tmp_path / 's.toml', text)}", "--partitions", "2", "--json")
    lines = [f"{n % 2},x{n}\n" for n in range(50)]
    url = url_of(tmp_path / "log.db")
    path = write(tmp_path / "data.csv", "y,x\n" + "".join(lines[:20]) + "bad\n" + "".join(lines[21:]))
    with pytest.raises(Exception, match="line 22 has 1 column"):
        run("replay", "delimited", str(path), "--log", url, *schema)
    command = ("replay", "delimited", str(path), "--log", url, "--resume", "--on-bad-row", "skip", *schema)
    capsys.readouterr()
    for impressions in (29, 0):
        assert run(*command) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["impressions"], found["bad_rows"]["skipped"]) == (impressions, 1)
    mended, other = (
        write(tmp_path / "other" / "data.csv", "y,x\n" + "".join(lines)),
        url_of(tmp_path / "o.db"),
    )
    assert run("replay", "delimited", str(mended), "--log", other, *schema) == 0
    wanted = {
        place: [entry.value for entry in entries if entry.key != b"data.csv-20"]
        for place, entries in contents(other).items()
    }
    assert {place: [entry.value for entry in entries] for place, entries in contents(url).items()} == wanted
