"""Security settings of the log: contradictions are rejected, secrets stay out of files and messages."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from stream_ctr.cli import main
from stream_ctr.config.log import PASSWORD_VARIABLE, SecurityConfig
from stream_ctr.config.settings import load_settings
from stream_ctr.errors import ConfigError, UsageError
from stream_ctr.events.kafka.security import Access
from stream_ctr.events.open import open_log

LOGIN = SecurityConfig(protocol="SASL_PLAINTEXT", username="ada")


def test_the_password_of_the_environment_overrides_the_file_and_is_shown_nowhere(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(" from file \r\n", "utf-8")
    config = SecurityConfig(protocol="SASL_PLAINTEXT", username="ada", password_file=str(file))
    assert Access(config, {}).options()["sasl_plain_password"] == " from file "
    access = Access(config, {PASSWORD_VARIABLE: "from environment"})
    assert access.options()["sasl_plain_password"] == "from environment"
    for text in (repr(access), str(access), access.login_rejected(), repr(config), str(asdict(config))):
        assert "from environment" not in text
        assert "from file" not in text


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SecurityConfig(username="ada"), "log.security.username has no effect with .* 'PLAINTEXT'"),
        (
            SecurityConfig(ca_file="ca.pem"),
            "log.security.ca_file has no effect with .* set the protocol to SSL",
        ),
        (SecurityConfig(protocol="SSL", password_file="p"), "log.security.password_file has no effect"),
        (SecurityConfig(protocol="SASL_SSL"), "needs log.security.username"),
        (SecurityConfig(protocol="SSL", key_file="k"), "go together; set both or neither"),
        (
            SecurityConfig(protocol="SSL", ca_file="no.pem"),
            r"ca_file = 'no.pem' is not readable: No such file",
        ),
        (LOGIN, "user 'ada' has no password: set STREAM_CTR_LOG_PASSWORD"),
    ],
)
def test_settings_that_cannot_work_are_one_line(config: SecurityConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Access(config, {})


def test_files_of_another_kind_are_named(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("hello\n", "utf-8")
    with pytest.raises(ConfigError, match=r"ca_file = '.*notes.txt' is not a PEM file of certificates"):
        Access(SecurityConfig(protocol="SSL", ca_file=str(file)), {})
    own = SecurityConfig(protocol="SSL", certificate_file=str(file), key_file=str(file))
    with pytest.raises(ConfigError, match=r"certificate_file = '.*' is not a certificate with the"):
        Access(own, {})


@pytest.mark.parametrize("url", ["kafka://ada:s3cret@host:9092", "redis://ada:s3cret@host:1"])
def test_an_address_with_a_login_is_refused_without_repeating_it(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError) as raised:
        open_log(url)
    assert "s3cret" not in str(raised.value)
    assert "STREAM_CTR_LOG_PASSWORD" in str(raised.value)
    file = tmp_path / "F.toml"
    file.write_text(f'[log]\nurl = "{url}"\n', "utf-8")
    assert main(["config", "show", str(file)]) == 2
    shown = capsys.readouterr()
    assert "s3cret" not in shown.out + shown.err


def test_a_password_in_the_file_is_refused_without_repeating_it(tmp_path: Path) -> None:
    file = tmp_path / "F.toml"
    file.write_text('[log.security]\npassword = "s3cret"\n', "utf-8")
    with pytest.raises(ConfigError) as raised:
        load_settings(file)
    assert str(raised.value) == (
        f"{file}: unknown key 'log.security.password'; did you mean 'log.security.password_file'?"
    )


def test_the_password_variable_is_not_a_setting_and_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "s3cret")
    monkeypatch.setenv("STREAM_CTR_LOG__SECURITY__PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("STREAM_CTR_LOG__SECURITY__USERNAME", "ada")
    assert load_settings(None).log.security.username == "ada"
    for extra in ([], ["--json"]):
        assert main(["config", "show", *extra]) == 0
        shown = capsys.readouterr().out
        assert "ada" in shown
        assert "s3cret" not in shown
