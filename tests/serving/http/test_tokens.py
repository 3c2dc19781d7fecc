"""Bearer tokens: who is authorized, the errors of others, and that no token is ever printed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import httpx
import pytest

from stream_ctr.config.serve import TOKENS_VARIABLE, ServeConfig
from stream_ctr.errors import ConfigError
from stream_ctr.serving.app import AdminApp
from stream_ctr.serving.http import tokens as module
from stream_ctr.serving.http.tokens import Tokens
from tests.support.served_arms import Served, constant, publish, request

OLD, NEW = "old-token-0123456789", "new+token/9876543210=="
VALID = {"authorization": f"Bearer {OLD}"}


def write(folder: Path, text: str) -> str:
    path = folder / "tokens"
    path.write_text(text)
    return str(path)


@pytest.fixture
def served(tmp_path: Path) -> Served:
    publish(tmp_path, "control", constant(0.5))
    publish(tmp_path, "new", constant(0.25))
    return Served(tmp_path, serve=ServeConfig(token_file=write(tmp_path, f"# clients\n\n{OLD}\n  {NEW}  \n")))


def status(served: Served, path: str, headers: dict[str, str] | None = None) -> int:
    return served.run(lambda client: client.get(path, headers=headers)).status_code


def test_one_of_the_tokens_opens_the_server(served: Served) -> None:
    for token in (OLD, NEW):
        assert served.rank(request(), {"authorization": f"Bearer {token}"}).status_code == 200
    assert served.rank(request(), {"authorization": f"bearer  {OLD}"}).status_code == 200


@pytest.mark.parametrize(
    "value",
    [f"Bearer {OLD}x", f"Bearer {OLD[:-1]}", f"Basic {OLD}", "Bearer", "Bearer ", OLD, f"Bearer {OLD} {NEW}",
     f"Bearer {OLD.upper()}", "Bearer !", "# clients", "Bearer # clients"],
)  # fmt: skip
def test_anything_else_is_401(served: Served, value: str) -> None:
    refused = served.rank(request(), {"authorization": value})
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == 'Bearer realm="stream-ctr", error="invalid_token"'
    assert refused.json().keys() == {"error"}
    assert OLD not in refused.text
    assert served.kept.records == []


def test_without_a_token_the_answer_asks_for_one(served: Served) -> None:
    refused = served.rank(request())
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Bearer realm="stream-ctr"')
    assert refused.headers["connection"] == "close", "the body was not read"
    for path in ("/metrics", "/openapi.json", "/v2", "/v2/models/new", "/v2/models/new/ready", "/nothing"):
        assert status(served, path) == 401, path
        assert status(served, path, VALID) in (200, 404), path


def test_health_needs_no_token(served: Served) -> None:
    for path in ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"):
        assert status(served, path) == 200, path


def test_tokens_in_the_environment_override_the_file(tmp_path: Path) -> None:
    tokens = Tokens(write(tmp_path, NEW), {TOKENS_VARIABLE: f" {OLD}, {'x' * 16}\n"})
    assert len(tokens) == 2
    scope = {"headers": [(b"authorization", f"Bearer {OLD}".encode())]}
    tokens.check(scope)
    with pytest.raises(Exception, match="not valid"):
        tokens.check({"headers": [(b"authorization", f"Bearer {NEW}".encode())]})
    assert OLD not in repr(tokens)


def test_a_changed_token_file_is_loaded_and_a_damaged_one_is_ignored(
    tmp_path: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.0)
    path = tmp_path / "tokens"

    def replace(text: str) -> None:
        beside = path.with_suffix(".new")
        beside.write_text(text)
        os.replace(beside, path)

    replace(f"{NEW}\n")
    assert served.rank(request(), VALID).status_code == 401
    valid = {"authorization": f"Bearer {NEW}"}
    assert served.rank(request(), valid).status_code == 200
    for damage in ("", "# nothing\n", "short\n", "\xff"):
        replace(damage)
        assert served.rank(request(), valid).status_code == 200
        assert served.rank(request()).status_code == 401
    path.unlink()
    assert served.rank(request(), valid).status_code == 200
    replace(f"{OLD}\n")
    assert served.rank(request(), VALID).status_code == 200


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no token"),
        ("#x\n", "no token"),
        ("too-short\n", "token 1"),
        (f"{OLD}\nwith spaces in it\n", "token 2"),
    ],
)
def test_invalid_tokens_are_rejected_without_being_printed(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        Tokens(write(tmp_path, text))
    assert "too-short" not in str(caught.value)
    assert "spaces in" not in str(caught.value)
    with pytest.raises(ConfigError, match=TOKENS_VARIABLE):
        Tokens("", {TOKENS_VARIABLE: text})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.*No such file"):
        Tokens(str(tmp_path / "nowhere"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        Tokens(str(tmp_path / "binary"))


def test_without_tokens_all_paths_are_open(tmp_path: Path) -> None:
    publish(tmp_path, "control", constant(0.5))
    answer: httpx.Response = Served(tmp_path).rank(request(), {"authorization": "Bearer whatever"})
    assert answer.status_code == 200


def test_the_admin_port_requires_a_token_too(served: Served, tmp_path: Path) -> None:
    app = AdminApp(served.app, Tokens(str(tmp_path / "tokens"), {}), {})

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            asked = [("/metrics", {}), ("/metrics", VALID), ("/health/ready", {}), ("/v1/rank", VALID)]
            return [(await client.get(path, headers=headers)).status_code for path, headers in asked]

    assert asyncio.run(ask()) == [401, 200, 200, 404]
