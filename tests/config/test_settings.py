"""Loading the configuration: every wrong key and value is one line that names file, key, value and remedy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stream_ctr.config.settings import Settings, load_settings
from stream_ctr.errors import ConfigError

ARM = '[[experiment.arms]]\nname = "a"\n'

WRONG = [
    ("[train]\nchunks = 3", "unknown key 'train.chunks'; did you mean 'train.chunk'?"),
    ("[train]\nxyzzy = 1", "unknown key 'train.xyzzy'; known here: state, chunk, checkpoint_seconds, "),
    ("[tran]", "unknown key 'tran'; did you mean 'train'?"),
    (f"{ARM}weigth = 1", "unknown key 'weigth' in experiment.arms 'a'; did you mean 'weight'?"),
    ("[[experiment.arms]]\nweigth = 1", "unknown key 'weigth' in experiment.arms[0]; did you mean 'weight'?"),
    (f"{ARM}guards = {{max_slw = 2}}", "unknown key 'max_slw' in experiment.arms 'a': guards; did you mean"),
    ("[log.security]\npassword = 'hunter2'", "unknown key 'log.security.password'; did you mean"),
    ("[train]\nchunk = 0", "train.chunk must be between 1 and 1,000,000, got 0"),
    ("[train]\nchunk = 1_000_001", "train.chunk must be between 1 and 1,000,000, got 1000001"),
    ("[train]\nchunk = 'many'", "train.chunk must be a whole number between 1 and 1,000,000, got 'many'"),
    ("[train]\nchunk = 1.5", "train.chunk must be a whole number between 1 and 1,000,000, got 1.5"),
    ("[train.chunk]\nx = 1", "train.chunk must be a whole number between 1 and 1,000,000, got a table"),
    ("[train]\npoll_seconds = nan", "train.poll_seconds must be between 0 and 60, got nan"),
    ("[train]\ncheckpoint_seconds = -1", "train.checkpoint_seconds must be at least 0, got -1"),
    ("[join]\nkeep_negatives = 0", "join.keep_negatives must be above 0 and at most 1, got 0"),
    ("[log]\nurl = 3", "log.url must be a string, got 3"),
    ("[model]\nhidden = 7", "model.hidden must be a list, got 7"),
    ("[model]\nhidden = [3, 0]", "model.hidden[1] must be between 1 and 65,536, got 0"),
    ("[model]\nsml = 'maybe'", "model.sml must be true or false, got 'maybe'"),
    (
        "[optimizer]\nrows = 'lasy'",
        "optimizer.rows must be 'lazy' or 'dense', got 'lasy'; did you mean 'lazy'?",
    ),
    ("[optimizer]\nrow_rate = 1e308", "optimizer.row_rate must be between -1e+30 and 1e+30, got 1e+308"),
    ("[[experiment.arms]]\nweight = 0.4", "experiment.arms[0].name is missing; add it"),
    (f"{ARM}weight = -1", "experiment.arms 'a': weight must be at least 0, got -1"),
    (
        f"{ARM}guards = {{max_slow = 2}}",
        "experiment.arms 'a': guards.max_slow must be between 0 and 1, got 2",
    ),
    (f"{ARM}shadow_sample = 1.5", "experiment.arms 'a': shadow_sample must be between 0 and 1, got 1.5"),
    ("[experiment]\narms = [3]", "experiment.arms[0] must be a table, got 3"),
    ("[experiment]\ncoverage = 1.5", "experiment.coverage must be between 0 and 1, got 1.5"),
    ("[experiment.guards]\nwindow = 0", "experiment.guards.window must be at least 1, got 0"),
    ("[experiment.thompson]\nshare = 2", "experiment.thompson.share must be between 0 and 1, got 2"),
    (
        "[serve]\nadmin_port = 65535\nworkers = 3",
        "serve.admin_port must be at most 65,533 with serve.workers",
    ),
    ("log = 'kafka://user:secret@host'", "log must be a table, got a string"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_wrong_file_gives_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"^{re.escape(f'{path}: {message}')}") as raised:
        load_settings(path)
    assert len(str(raised.value).splitlines()) == 1
    assert "hunter2" not in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        (
            "TRAIN__CHUNK",
            "0",
            "STREAM_CTR_TRAIN__CHUNK: train.chunk must be between 1 and 1,000,000, got '0'",
        ),
        ("TRAIN__CHUNKS", "3", "STREAM_CTR_TRAIN__CHUNKS: unknown key 'train.chunks'; did you mean"),
        ("TRAIN__CHUNK__X", "3", "unknown key 'train.chunk.x'; train.chunk has no keys of its own"),
        ("TRAIN", '{"chunk": 0}', "STREAM_CTR_TRAIN: train.chunk must be between 1 and 1,000,000, got 0"),
        ("EXPERIMENT__GUARDS", "x", "names a table; name a key: STREAM_CTR_EXPERIMENT__GUARDS__KEY"),
        (
            "MODEL__HIDDEN",
            "[0]",
            "STREAM_CTR_MODEL__HIDDEN: model.hidden[0] must be between 1 and 65,536, got 0",
        ),
        ("MODEL__HIDDEN", "wide", "STREAM_CTR_MODEL__HIDDEN: model.hidden must be a list, got 'wide'"),
        ("FEATURES__FIELDS__NAME", "x", "features.fields is a list: give all of it, as JSON"),
        (
            "JOIN__HORIZON_SECONDS",
            "1",
            "c.toml and the environment: join.horizon_seconds must be at least",
        ),
    ],
)
def test_a_wrong_variable_gives_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, text: str, message: str
) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[train]\nchunk = 5\n")
    monkeypatch.setenv(f"STREAM_CTR_{variable}", text)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_settings(path)


def test_the_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[train]\nchunk = 5\npoll_seconds = 2\n[model]\nhidden = [5]\n")
    monkeypatch.setenv("STREAM_CTR_TRAIN__CHUNK", "7")
    monkeypatch.setenv("STREAM_CTR_MODEL__HIDDEN", "[8, 4]")
    monkeypatch.setenv("STREAM_CTR_MODEL__SML", "false")
    monkeypatch.setenv("STREAM_CTR_TRAIN__STATE", '["not JSON')
    settings = load_settings(path)
    assert (settings.train.chunk, settings.train.poll_seconds) == (7, 2.0)
    assert (settings.model.hidden, settings.model.sml) == ((8, 4), False)
    assert settings.train.state == '["not JSON'


def test_the_defaults_are_valid() -> None:
    assert load_settings(None) == Settings()
