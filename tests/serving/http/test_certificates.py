"""HTTPS with real certificates, made here by openssl."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from stream_ctr.config.serve import ServeConfig
from stream_ctr.errors import ConfigError
from stream_ctr.serving.http.certificates import tls_context
from tests.serving.ranking.test_impression_log import eventually
from tests.serving.test_server import run
from tests.support.served_arms import USERS, constant, publish, request
from tests.support.server_process import running

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


def test_invalid_certificate_files_are_one_clear_line(folder: Path) -> None:
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


def serial(url: str, context: ssl.SSLContext) -> str:
    """Serial number of the certificate that a new connection is shown."""
    host, port = url.removeprefix("https://").split(":")
    with (
        socket.create_connection((host, int(port)), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        shown = connection.getpeercert()
    assert shown is not None
    return str(shown["serialNumber"])


def test_a_renewed_certificate_is_loaded_and_an_unusable_one_rejected(folder: Path) -> None:
    old, new = certificate(folder, "old"), certificate(folder, "new")
    pem, key = folder / "server.pem", folder / "server.key"

    def put(source: tuple[str, str]) -> None:
        for path, content in ((pem, source[0]), (key, source[1])):
            beside = path.with_suffix(".beside")
            shutil.copy(content, beside)
            beside.rename(path)

    put(old)
    trusting = ssl.create_default_context(cafile=old[0])
    trusting.load_verify_locations(new[0])
    serve = {"tls_certificate": str(pem), "tls_key": str(key)}
    with running(folder / "state", f"sqlite:///{folder}/log.db", serve, tls=trusting) as server:
        first = serial(server.url, trusting)
        shutil.copy(new[0], pem)  # with the key of before
        eventually(lambda: server.metric("tls_stale") == 1)
        assert serial(server.url, trusting) == first, "the old pair serves on, certificate and key"
        put(new)
        eventually(lambda: serial(server.url, trusting) != first)
        eventually(lambda: server.metric("tls_stale") == 0)
        assert server.metric("tls_reloads_total") == 1
        assert server.rank(USERS["control"]).status_code == 200, "on a connection made before"
        with pytest.raises(ssl.SSLCertVerificationError):
            serial(server.url, ssl.create_default_context(cafile=old[0]))
        _, err = server.stop()
    assert "Traceback" not in err
    assert err.count("keeping the previous certificate") == 1
    assert err.count("new connections use the new certificate") == 1


def test_renewed_client_authorities_are_loaded_with_the_certificate(folder: Path) -> None:
    pem, key = certificate(folder, "server")
    first, second = certificate(folder, "first"), certificate(folder, "second")
    authority = folder / "clients.pem"
    shutil.copy(first[0], authority)
    contexts = []
    for client in (first, second):
        contexts.append(ssl.create_default_context(cafile=pem))
        contexts[-1].load_cert_chain(*client)
    serve = {"tls_certificate": pem, "tls_key": key, "tls_client_ca": str(authority)}
    with running(folder / "state", f"sqlite:///{folder}/log.db", serve, tls=contexts[0]) as server:

        def met(context: ssl.SSLContext) -> bool:
            try:
                return httpx.get(f"{server.url}/health/live", verify=context).status_code == 200
            except httpx.TransportError:
                return False

        assert [met(each) for each in contexts] == [True, False]
        shutil.copy(second[0], authority)
        eventually(lambda: met(contexts[1]))
        assert not met(contexts[0])
