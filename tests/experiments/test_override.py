"""Overrides: valid only for the user and the experiment they were signed for."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_ctr.config.experiment import SECRET_VARIABLE
from stream_ctr.errors import ConfigError, UsageError
from stream_ctr.experiments.override import Override, check_override, read_secret, sign_override

SECRET = b"a secret of some length"
GOOD = Override("salt", "new", "tester", 1000)
HEADER = sign_override(SECRET, GOOD).encode()


def test_a_signed_header_is_valid_until_it_expires() -> None:
    assert check_override(SECRET, HEADER, "salt", "tester", 999.9) == "new"
    with pytest.raises(UsageError, match="expired"):
        check_override(SECRET, HEADER, "salt", "tester", 1000.0)


@pytest.mark.parametrize(
    ("secret", "salt", "user", "reason"),
    [
        (b"another secret, as long", "salt", "tester", "signature"),
        (SECRET, "other", "tester", "another experiment"),
        (SECRET, "salt", "somebody", "another user"),
        (b"", "salt", "tester", "no secret"),
    ],
)
def test_a_header_is_rejected_for_another_user_salt_or_secret(
    secret: bytes, salt: str, user: str, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason) as refused:
        check_override(secret, HEADER, salt, user, 0.0)
    assert "tester" not in str(refused.value)
    assert SECRET.decode() not in str(refused.value)


@given(st.integers(0, len(HEADER) - 1), st.integers(1, 255))
def test_a_header_with_a_changed_byte_is_rejected(place: int, change: int) -> None:
    altered = bytearray(HEADER)
    altered[place] ^= change
    with pytest.raises(UsageError):
        check_override(SECRET, bytes(altered), "salt", "tester", 0.0)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_rejected_without_a_crash(header: bytes) -> None:
    with pytest.raises(UsageError):
        check_override(SECRET, header, "salt", "tester", 0.0)


@pytest.mark.parametrize("payload", [b"", b"[]", b"{", b'{"salt":"salt","arm":1}', b"\xff", b"[" * 5000])
def test_a_signed_but_malformed_payload_is_rejected(payload: bytes) -> None:
    parts = (payload, hmac.new(SECRET, payload, hashlib.sha256).digest())
    header = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    with pytest.raises(UsageError, match=r"malformed|signature"):
        check_override(SECRET, header, "salt", "tester", 0.0)


def test_the_secret_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("from a file, long enough\n")
    assert read_secret("", {}) == b""
    assert read_secret(str(path), {}) == b"from a file, long enough"
    assert read_secret(str(path), {SECRET_VARIABLE: "0123456789abcdef"}) == b"0123456789abcdef"


@pytest.mark.parametrize("content", [b"", b"short"])
def test_a_secret_under_16_bytes_is_rejected(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="16") as refused:
        read_secret(str(path), {})
    assert "short" not in str(refused.value).replace("too short", "")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_secret(str(tmp_path / "none"), {})
    with pytest.raises(ConfigError, match=SECRET_VARIABLE):
        read_secret("", {SECRET_VARIABLE: "short"})
