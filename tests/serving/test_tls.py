"""HTTPS with real certificates, made here by openssl."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from stream_ctr.errors import ConfigError
from stream_ctr.serving.config import ServeConfig
from stream_ctr.serving.listen import tls_context
from tests.serving.running import running
from tests.serving.support import USERS, constant, publish, request
from tests.serving.test_server import run

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl: install it")


def certificate(folder: Path, name: str, *options: str) -> tuple[str, str]:
    """A self-signed certificate and its key."""
    paths = str(folder / f"{name}.pem"), str(folder / f"{name}.key")
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2",
        "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
        "-out", paths[0], "-keyout", paths[1], *(options or ("-nodes",)),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return paths


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    publish(tmp_path / "state", "control", constant(0.5))
    return tmp_path


def test_rankings_over_tls_for_clients_that_are_known(folder: Path) -> None:
    log = f"sqlite:///{folder}/log.db"
    server_certificate, server_key = certificate(folder, "server")
    client_certificate, client_key = certificate(folder, "client")
    serve = {
        "tls_certificate": server_certificate,
        "tls_key": server_key,
        "tls_client_ca": client_certificate,
    }
    stranger = ssl.create_default_context(cafile=server_certificate)
    known = ssl.create_default_context(cafile=server_certificate)
    known.load_cert_chain(client_certificate, client_key)
    with running(folder / "state", log, serve, tls=known) as server:
        assert server.rank(USERS["control"]).json()["candidates"][0]["p"] == 0.5
        with pytest.raises(httpx.TransportError):
            httpx.post(f"{server.url}/v1/rank", json=request(), verify=stranger, timeout=60)
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            httpx.get(f"{server.url}/health/live", verify=ssl.create_default_context(), timeout=60)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{server.url.replace('https', 'http')}/health/live", timeout=60)
        assert httpx.get(f"{server.admin[0]}/health/live", timeout=60).status_code == 200, (
            "loopback speaks plain HTTP"
        )
        _, err = server.stop()
    assert "Traceback" not in err


def test_files_that_are_no_certificates_are_one_clear_line(folder: Path) -> None:
    good, key = certificate(folder, "good")
    _, other = certificate(folder, "other")
    _, locked = certificate(folder, "locked", "-passout", "pass:secret-0123")
    nothing = str(folder / "nothing")
    junk = folder / "junk.pem"
    junk.write_text("no certificate")
    for settings, said in (
        (ServeConfig(tls_certificate=nothing), "tls_certificate.*No such file"),
        (ServeConfig(tls_certificate=good, tls_key=nothing), "tls_key.*No such file"),
        (ServeConfig(tls_certificate=good, tls_key=other), "other.key"),
        (ServeConfig(tls_certificate=good, tls_key=locked), "unencrypted"),
        (ServeConfig(tls_certificate=str(junk), tls_key=key), "junk"),
        (ServeConfig(tls_certificate=good), "private key"),
        (ServeConfig(tls_certificate=good, tls_key=key, tls_client_ca=str(junk)), "tls_client_ca"),
        (ServeConfig(tls_key=key), "no effect"),
        (ServeConfig(tls_client_ca=good), "no effect"),
    ):
        with pytest.raises(ConfigError, match=said):
            tls_context(settings)
    ended = run(str(folder / "state"), f"sqlite:///{folder}/l.db", json.dumps({"tls_certificate": nothing}))
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    beyond = run(str(folder / "state"), f"sqlite:///{folder}/l.db", json.dumps({"admin_host": "0.0.0.0"}))
    assert (beyond.returncode, len(beyond.stderr.splitlines())) == (2, 1)
    assert "admin_host" in beyond.stderr
