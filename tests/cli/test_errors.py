"""Every error that a user can cause gives one clear line and the right exit status, without a traceback."""

from __future__ import annotations

import errno
import json
import lzma
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stream_ctr.cli import main
from stream_ctr.config.settings import load_settings
from stream_ctr.events.open import open_log

ROW = "\t".join(["0", *["1"] * 13, *["05db9164"] * 26])


def outcome(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit status and the last line on standard error."""
    try:
        status = main(arguments)
    except SystemExit as usage:
        status = int(usage.code or 0)
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    lines = errors.strip().splitlines()
    return status, lines[-1] if lines else ""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with one good file and several bad ones."""
    monkeypatch.chdir(tmp_path)
    Path("good.tsv").write_text(f"{ROW}\n" * 3)
    Path("columns.tsv").write_text(f"{ROW}\n0\t1\n")
    Path("label.tsv").write_text(f"{ROW}\n2{ROW[1:]}\n")
    Path("empty.tsv").write_text("")
    Path("loop").symlink_to("loop")
    Path("cut.xz").write_bytes(lzma.compress(f"{ROW}\n".encode() * 500)[:-40])
    Path("broken.toml").write_text("x = [")
    Path("unknown.toml").write_text("[train]\nchunks = 3\n")
    Path("type.toml").write_text('[train]\nchunk = "many"\n')
    Path("range.toml").write_text("[train]\nchunk = 0\n")
    Path("weights.toml").write_text('[[experiment.arms]]\nname = "a"\nweight = 0.4\n')
    Path("weight.toml").write_text('[[experiment.arms]]\nname = "a"\nweight = nan\n')
    Path("topics.toml").write_text('[log]\ndead_letters = "impressions"\n')
    Path("wide.toml").write_text("[model]\nembedding = 99999999999999999999\n")
    Path("rate.toml").write_text("[optimizer]\nrow_rate = 1e308\n")
    Path("window.toml").write_text("[train]\nmetrics_window = 99999999999999999999\n")
    Path("poll.toml").write_text("[train]\npoll_seconds = nan\n")
    Path("deadline.toml").write_text("[serve]\ndeadline_seconds = -1\n")
    Path("null.toml").write_text('[train]\nstate = "a\\u0000b"\n')
    Path("deep.toml").write_text("x = " + "[" * 100_000)
    Path("digits.toml").write_text(f"[train]\nchunk = {'9' * 5000}\n")
    Path("mark.toml").write_text("\ufeff[train]\r\nchunk = 0\r\n")
    Path("nolog.toml").write_text('[log]\nurl = "sqlite:///none.db"\n')
    Path("nobroker.toml").write_text('[log]\nurl = "kafka://127.0.0.1:1"\n')
    Path("scheme.toml").write_text('[log]\nurl = "ftp://x"\n')
    Path("notopic.toml").write_text('[features]\npreset = "world"\n[log]\nurl = "sqlite:///topics.db"\n')
    Path("world.toml").write_text('[features]\npreset = "world"\n')
    Path("nofields.toml").write_text('[log]\nurl = "sqlite:///topics.db"\n')
    open_log("sqlite:///topics.db", create=True).close()
    return tmp_path


CASES = [
    ("evaluate nothing x", 2, "no dataset named 'nothing'"),
    ("evaluate criteo", 2, "needs the path"),
    ("evaluate criteo none.tsv", 2, "none.tsv"),
    ("evaluate criteo columns.tsv", 1, "columns.tsv, line 2 has 2 columns instead of 40"),
    ("evaluate criteo label.tsv", 1, "label.tsv, line 2"),
    ("evaluate criteo empty.tsv", 1, "empty.tsv"),
    ("evaluate criteo cut.xz", 1, "xz data ends in the middle: the file is truncated"),
    ("evaluate criteo good.tsv --optimizer nothing", 2, "unknown optimizer preset 'nothing'"),
    (
        "evaluate criteo good.tsv --policy fast --against river-ftrl",
        2,
        "river-ftrl cannot learn under join.policy = 'fast'",
    ),
    ("evaluate criteo good.tsv --policy naive --keep-negatives 0.5", 2, "which corrects nothing"),
    (
        "evaluate criteo good.tsv --keep-negatives nan",
        2,
        "join.keep_negatives must be above 0 and at most 1, got nan",
    ),
    ("bench labels --events 7", 2, "--events 7: must be from 20,000"),
    ("evaluate criteo good.tsv --against river-flt", 2, "did you mean 'river-ftrl'?"),
    ("evaluate criteo good.tsv --against river:tree.HoeffdingTree", 2, "similar ones are tree.HoeffdingTree"),
    ("evaluate criteo good.tsv --against river:stats.Mean", 2, "is not a single-label classifier"),
    (
        "evaluate criteo good.tsv --against river:ensemble.BaggingClassifier",
        2,
        "needs the arguments model",
    ),
    ("evaluate criteo good.tsv --limit 0", 2, "--limit 0"),
    ("evaluate criteo good.tsv --tail-from -1", 2, "--tail-from -1"),
    ("evaluate criteo good.tsv --chunk 0", 2, "--chunk 0"),
    ("evaluate criteo good.tsv --chunk 99999999999999999999", 2, "--chunk 99999999999999999999"),
    ("evaluate criteo good.tsv --limit 99999999999999999999", 2, "--limit 99999999999999999999"),
    ("replay criteo good.tsv --log sqlite:///o.db --limit 99999999999999999999", 2, "--limit 9999"),
    ("experiment off-policy good.tsv --limit 99999999999999999999", 2, "--limit must be from 1 to"),
    ("bench papers criteo good.tsv --limit 99999999999999999999", 2, "--limit 9999"),
    ("bench optimizers criteo good.tsv --test-to 99999999999999999999", 2, "--test-to 9999"),
    ("experiment off-policy loop", 1, "cannot read 'loop': Symlink loop"),
    ("experiment off-policy a\0b", 1, "embedded null byte"),
    ("bench experiment --alpha 1e-300", 2, "level alpha must be from 1e-12 to below 1, got 1e-300"),
    ("dead-letters list --limit -1", 2, "--limit must be 0 (no limit) or more, got -1"),
    ("demo --rate nan", 2, "--rate"),
    ("demo --metrics-port -1", 2, "--metrics-port -1"),
    ("evaluate criteo good.tsv --model nothing", 2, "invalid choice"),
    ("train --config none.toml", 2, "cannot read the configuration file none.toml"),
    ("train --config broken.toml", 2, "broken.toml is not TOML"),
    ("train --config unknown.toml", 2, "unknown key 'train.chunks'; did you mean 'train.chunk'?"),
    ("train --config type.toml", 2, "train.chunk must be a whole number between 1 and 1,000,000, got 'many'"),
    ("train --config range.toml", 2, "range.toml: train.chunk must be between 1 and 1,000,000, got 0"),
    ("train --config weights.toml", 2, "weights [0.4] must be 0 or more and sum to 1; they sum to 0.4"),
    ("train --config nolog.toml", 1, "the log does not exist"),
    ("train --config nobroker.toml --until-idle 0", 1, "no broker can be reached"),
    ("train --config scheme.toml", 2, "'ftp://x' is not a log URL"),
    ("train --config notopic.toml", 1, "impressions"),
    ("train --config nofields.toml", 2, "the configuration names no features: write a [[features.fields]]"),
    (
        "config check nofields.toml",
        2,
        "set [features] preset to one of criteo, avazu, taobao, open-bandit, world",
    ),
    ("train --config notopic.toml --arm b", 2, "no arm named 'b'; the arms are main"),
    ("train --config weight.toml", 2, "experiment.arms 'a': weight must be at least 0, got nan"),
    ("train --config topics.toml", 2, "'impressions' is named twice"),
    ("train --config wide.toml", 2, "model.embedding must be between 1 and 65,536, got 99999999999999999999"),
    ("train --config rate.toml", 2, "optimizer.row_rate must be between -1e+30 and 1e+30, got 1e+308"),
    (
        "train --config window.toml",
        2,
        "train.metrics_window must be between 1 and 100,000,000, got 9999999999",
    ),
    ("train --config poll.toml", 2, "train.poll_seconds must be between 0 and 60, got nan"),
    ("train --config null.toml", 2, "train.state must be the name of a folder, got 'a\\x00b'"),
    ("train --config deep.toml", 2, "deep.toml is not a configuration: its lists are nested too deeply"),
    ("train --config digits.toml", 2, "digits.toml is not TOML: Exceeds the limit"),
    ("train --config mark.toml", 2, "mark.toml: train.chunk must be between 1 and 1,000,000, got 0"),
    ("train --until-idle nan", 2, "--until-idle must be a number of seconds of at least 0, got nan"),
    ("train --until-idle -5", 2, "--until-idle must be a number of seconds of at least 0, got -5"),
    ("serve --config deadline.toml", 2, "serve.deadline_seconds must be between 0.001 and 1e+06, got -1"),
    ("serve --config none.toml", 2, "cannot read the configuration file none.toml"),
    ("replay criteo columns.tsv --log sqlite:///out.db", 1, "line 2 has 2 columns"),
    ("replay criteo good.tsv --log kafka://127.0.0.1:1", 1, "no broker can be reached"),
    ("simulate --log ftp://x --events 3", 2, "'ftp://x' is not a log URL"),
    ("checkpoint inspect none", 1, "no checkpoint in none"),
    ("config check unknown.toml", 2, "did you mean 'train.chunk'?"),
    ("dead-letters list --config nolog.toml", 1, "the log does not exist"),
    ("demo --events 0", 2, "--events"),
    ("nothing", 2, "invalid choice: 'nothing'"),
]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("command", "status", "words"), CASES, ids=[case[0] for case in CASES])
def test_one_line_and_the_right_status(
    capsys: pytest.CaptureFixture[str], command: str, status: int, words: str
) -> None:
    found, line = outcome(capsys, *command.split())
    assert found == status, line
    assert words in line


@pytest.mark.usefixtures("folder")
def test_an_unknown_variable_is_an_error_and_a_known_one_overrides_the_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAM_CTR_TRAIN__CHUNKS", "3")
    status, line = outcome(capsys, "config", "check")
    assert status == 2
    assert "STREAM_CTR_TRAIN__CHUNKS" in line
    monkeypatch.delenv("STREAM_CTR_TRAIN__CHUNKS")
    monkeypatch.setenv("STREAM_CTR_OPTIMIZER__RHO", "0.5")
    assert main(["config", "show"]) == 0
    assert "rho = 0.5  # default: 0.001" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_a_failed_command_writes_no_state(capsys: pytest.CaptureFixture[str]) -> None:
    outcome(capsys, "train", "--config", "notopic.toml")
    assert not Path("state", "main", "checkpoints").exists()


@pytest.mark.usefixtures("folder")
def test_a_list_can_come_from_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file.toml").write_text("[model]\nhidden = [5]\nembedding = 3\n")
    monkeypatch.setenv("STREAM_CTR_MODEL__HIDDEN", "[8, 4]")
    monkeypatch.setenv("STREAM_CTR_EXPERIMENT__ARMS", '[{"name": "a"}]')
    settings = load_settings("file.toml")
    assert settings.model.hidden == (8, 4)
    assert settings.model.embedding == 3
    assert [arm.name for arm in settings.experiment.arms] == ["a"]
    monkeypatch.setenv("STREAM_CTR_EXPERIMENT__ARMS", '[{"name": "a", "weigth": 1}]')
    status, line = outcome(capsys, "config", "check", "file.toml")
    assert status == 2
    assert (
        "STREAM_CTR_EXPERIMENT__ARMS: unknown key 'weigth' in experiment.arms 'a'; did you mean 'weight'"
        in line
    )


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model]\nhidden = []", "model.sml = true needs hidden layers"),
        ('[model]\nbackbone = "xdeepfm"\ncin = []', "model.cin is empty"),
        ('[optimizer]\nmethod = "helen"\nrho = -1.0', "optimizer.rho must be a finite number"),
        ('[optimizer]\nrows = "dense"', "only available in the batch protocol"),
        ('[learner]\nkind = "compiled"\n[model]\nbackbone = "dcn"', "not support model.backbone = 'dcn'"),
        ('[learner]\nkind = "river"\nriver = "river-tree"', "cannot be saved, so it cannot serve as an arm"),
        ('[[experiment.arms]]\nname = "a"\nweight = 0.4', "they sum to 0.4"),
        ("[features]\nminimum_count = 0", "minimum_count"),
    ],
)
def test_config_check_rejects_what_the_trainer_rejects_at_its_start(
    capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    Path("file.toml").write_text(text if "[features]" in text else f'{text}\n[features]\npreset = "world"\n')
    status, line = outcome(capsys, "config", "check", "file.toml")
    assert status == 2
    assert message in line


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("text", ["junk", "[1]", "[" * 100_000])
def test_a_variable_for_a_table_must_be_a_json_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("STREAM_CTR_TRAIN", text)
    status, line = outcome(capsys, "config", "check")
    assert status == 2
    assert line.endswith(
        "environment variable STREAM_CTR_TRAIN names a table; name a key: STREAM_CTR_TRAIN__KEY"
    )


@pytest.mark.usefixtures("folder")
def test_a_plot_that_cannot_be_written_loses_no_results(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "criteo", "good.tsv", "--plot", "none/x.png", "--json"]) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["events"] == 3
    assert "none/x.png" in printed.err


@pytest.mark.usefixtures("folder")
@pytest.mark.slow
def test_a_terminal_that_lacks_a_character_shows_a_question_mark() -> None:
    text = '[features]\npreset = "world"\n[[experiment.arms]]\nname = "\u017elu\u0165"\nweight = 1\n'
    Path("name.toml").write_text(text, "utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "stream_ctr.cli", "config", "check", "name.toml"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "arms ?lu?" in ended.stdout


def test_an_interrupt_before_the_command_is_known_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stream_ctr.cli.dispatcher.commands", interrupted)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "stream-ctr: interrupted\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk without room")
@pytest.mark.parametrize("output", ["full", "pipe"])
@pytest.mark.slow
def test_output_that_cannot_be_written_is_reported_once(folder: Path, output: str) -> None:
    """Outside a terminal, output is buffered: the error occurs at the flush."""
    read, write = os.pipe() if output == "pipe" else (-1, os.open("/dev/full", os.O_WRONLY))
    if read >= 0:
        os.close(read)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "stream_ctr.cli", "config", "check", "world.toml"],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=folder,
            check=False,
        )
    finally:
        os.close(write)
    assert ended.returncode == 1
    full = f"stream-ctr config: {os.strerror(errno.ENOSPC)}\n"
    assert ended.stderr == (full if output == "full" else "")


WITHOUT_TORCH = """
import json, sys
from importlib.abc import MetaPathFinder
class Without(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Without())
from stream_ctr.cli import main
print([main(command.split()) for command in sys.argv[1:]])
"""
"""Runs commands as on a machine without torch."""


@pytest.mark.slow
def test_a_package_that_is_not_installed_is_named_in_one_line(tmp_path: Path) -> None:
    text = '[features]\npreset = "world"\n[optimizer]\nmethod = "asam"\n'
    text += f'[log]\nurl = "sqlite:///{tmp_path}/l.db"\n'
    (tmp_path / "asam.toml").write_text(text)
    log = open_log(f"sqlite:///{tmp_path}/l.db", create=True)
    for topic in ("impressions", "clicks"):
        log.create_topic(topic, 1)
    log.close()
    commands = [
        "evaluate world --limit 10 --optimizer asam",
        "config check asam.toml",
        "train --config asam.toml --until-idle 0",
    ]
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *commands],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "[1, 1, 1]\n"), ended.stderr
    expected = (
        "this needs the Python package torch, which is not installed; install it with: pip install torch"
    )
    for command in ("evaluate", "config", "train"):
        assert f"stream-ctr {command}: {expected}" in ended.stderr.splitlines()


@pytest.mark.usefixtures("folder")
def test_a_plot_without_matplotlib_fails_before_the_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, line = outcome(capsys, "evaluate", "criteo", "good.tsv", "--plot", "x.png")
    assert status == 2
    assert line.endswith("plots need matplotlib; install it with: pip install 'stream-ctr[plots]'")
