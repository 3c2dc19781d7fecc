"""Opening logs by URL."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stream_ctr.errors import LogError, UsageError
from stream_ctr.events.open import open_log
from stream_ctr.events.sqlite.log import SqliteLog


def test_a_path_opens_the_embedded_log(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/events.db"
    with pytest.raises(LogError, match="the log does not exist"):
        open_log(url)
    log = open_log(url, create=True)
    assert isinstance(log, SqliteLog)
    assert log.url == url
    log.close()
    again = open_log(url)
    assert again.log_id() == log.log_id()
    again.close()


@pytest.mark.parametrize(
    "url", ["", "events.db", "redis://localhost:1", "SQLITE:///x", "http://kafka://one:1"]
)
def test_an_error_about_an_unknown_scheme_names_the_known_ones(url: str) -> None:
    with pytest.raises(UsageError) as raised:
        open_log(url, create=True)
    assert str(raised.value) == (
        f"{url!r} is not a log URL; write sqlite:///path for a file or kafka://host:port for a Kafka cluster"
    )


def test_the_embedded_log_does_not_load_kafka(tmp_path: Path) -> None:
    code = (
        "import sys; from stream_ctr.events.open import open_log; "
        "open_log(sys.argv[1], create=True).close(); print('kafka' in sys.modules)"
    )
    command = [sys.executable, "-c", code, f"sqlite:///{tmp_path}/events.db"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
