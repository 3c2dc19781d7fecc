"""Kafka with encryption and logins: a real broker with generated certificates."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest

from stream_ctr.config.log import PASSWORD_VARIABLE, SecurityConfig
from stream_ctr.errors import ConfigError, LogError
from stream_ctr.events.kafka.client import kafka, servers_of
from stream_ctr.events.kafka.log import KafkaLog
from stream_ctr.events.log import Record, TopicPartition
from stream_ctr.events.open import open_log
from tests.support.free_ports import free_port
from tests.support.kafka_broker import Broker

pytestmark = pytest.mark.kafka

Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

PASSWORD = "Spr1ng-tide-7431"

PROPERTIES = """\
ssl.keystore.type=PEM
ssl.keystore.location={folder}/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location={folder}/authority.pem
listener.name.ssl.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule \
required user_ada="{password}";
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
"""


@dataclass
class Secured:
    """A broker with three listeners."""

    plain: str
    encrypted: str
    """Also requires a client certificate."""
    login: str
    folder: Path

    def config(self, mechanism: Mechanism = "SCRAM-SHA-512") -> SecurityConfig:
        return SecurityConfig(
            protocol="SASL_SSL",
            ca_file=str(self.folder / "authority.pem"),
            mechanism=mechanism,
            username="ada",
            password_file=str(self.folder / "password"),
        )


def openssl(folder: Path, *arguments: str) -> None:
    command = [shutil.which("openssl") or "openssl", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def make_authority(folder: Path, name: str) -> None:
    openssl(
        folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
        "-keyout", f"{name}.key", "-out", f"{name}.pem",
    )  # fmt: skip


def make_certificate(folder: Path, name: str, alternative: str) -> None:
    openssl(
        folder, "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
        "-keyout", f"{name}.key", "-out", f"{name}.request",
    )  # fmt: skip
    (folder / "extensions").write_text(f"subjectAltName={alternative}\n", "utf-8")
    openssl(
        folder, "x509", "-req", "-in", f"{name}.request", "-CA", "authority.pem", "-CAkey", "authority.key",
        "-CAcreateserial", "-days", "2", "-extfile", "extensions", "-out", f"{name}.crt",
    )  # fmt: skip
    (folder / f"{name}.pem").write_text(
        (folder / f"{name}.key").read_text("utf-8") + (folder / f"{name}.crt").read_text("utf-8"), "utf-8"
    )


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    if os.environ.get("STREAM_CTR_TEST_KAFKA") != "start":
        pytest.skip("no broker to set up: set STREAM_CTR_TEST_KAFKA=start (needs Java 17, Maven and OpenSSL)")
    folder = tmp_path_factory.mktemp("certificates")
    make_authority(folder, "authority")
    make_authority(folder, "stranger")
    make_certificate(folder, "broker", "IP:127.0.0.1")
    make_certificate(folder, "client", "DNS:client")
    (folder / "password").write_text(PASSWORD + "\n", "utf-8")
    (folder / "properties").write_text(PROPERTIES.format(folder=folder, password=PASSWORD), "utf-8")
    ssl_port, sasl_port = free_port(), free_port()
    broker = Broker(
        tmp_path_factory.mktemp("secured"),
        ["--listener", f"SSL:{ssl_port}", "--listener", f"SASL_SSL:{sasl_port}",
         "--properties", str(folder / "properties")],
    )  # fmt: skip
    try:
        broker.start()
        admin = kafka.KafkaAdminClient(bootstrap_servers=servers_of(broker.url))
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            user = kafka.admin.UserScramCredentialUpsertion("ada", mechanism, PASSWORD)
            assert admin.alter_user_scram_credentials([user]) == {"ada": None}
        admin.close()
        yield Secured(broker.url, f"kafka://127.0.0.1:{ssl_port}", f"kafka://127.0.0.1:{sasl_port}", folder)
    finally:
        broker.kill()


def there_and_back(url: str, security: SecurityConfig) -> None:
    """Create, append, read and query, each over its own connection."""
    log = open_log(url, security=security)
    try:
        log.create_topic("events", 1)
        end = log.end_offsets("events")[0]
        log.append("events", [Record(b"k", b"v", 1, 0)])
        reader = log.reader({TopicPartition("events", 0): end})
        assert [entry.value for entry in reader.poll(10, 20.0)] == [b"v"]
        reader.close()
    finally:
        log.close()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_login_over_tls_writes_and_reads(secured: Secured, mechanism: Mechanism) -> None:
    there_and_back(secured.login, secured.config(mechanism))


def test_a_client_certificate_is_accepted(secured: Secured) -> None:
    folder = secured.folder
    config = SecurityConfig(
        protocol="SSL",
        ca_file=str(folder / "authority.pem"),
        certificate_file=str(folder / "client.crt"),
        key_file=str(folder / "client.key"),
    )
    there_and_back(secured.encrypted, config)
    with pytest.raises(LogError, match=r"client's certificate.*log\.security\.certificate_file"):
        open_log(secured.encrypted, security=SecurityConfig(protocol="SSL", ca_file=config.ca_file))


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_a_wrong_password_is_one_line_without_it(
    secured: Secured, mechanism: Mechanism, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "not-the-password")
    threads = threading.active_count()
    with pytest.raises(LogError) as raised:
        KafkaLog(secured.login, timeout_seconds=5, security=secured.config(mechanism))
    assert str(raised.value) == (
        f"{secured.login}: Kafka rejects user 'ada' with mechanism {mechanism}; check log.security.username, "
        "log.security.mechanism and the password (STREAM_CTR_LOG_PASSWORD or log.security.password_file)"
    )
    assert threading.active_count() == threads


def test_a_broker_of_another_authority_is_not_trusted(secured: Secured) -> None:
    stranger = str(secured.folder / "stranger.pem")
    with pytest.raises(LogError, match=r"certificate of 127\.0\.0\.1:\d+ is not accepted: .*stranger\.pem"):
        open_log(secured.login, security=replace(secured.config(), ca_file=stranger))


def test_a_certificate_for_another_host_is_rejected_unless_configured(secured: Secured) -> None:
    url = secured.login.replace("127.0.0.1", "localhost")
    with pytest.raises(LogError, match=r"[Hh]ostname mismatch|IP address mismatch"):
        open_log(url, security=secured.config())
    open_log(url, security=replace(secured.config(), check_hostname=False)).close()


def test_plain_and_encrypted_ports_are_distinguished(secured: Secured) -> None:
    with pytest.raises(LogError, match=r"expects encryption \(log\.security\.protocol\)"):
        open_log(secured.login)
    with pytest.raises(LogError, match=r"does not use encryption on this port \(log\.security\.protocol\)"):
        open_log(secured.plain, security=secured.config())


def test_the_commands_log_in_and_show_no_password(secured: Secured, tmp_path: Path) -> None:
    config = tmp_path / "F.toml"
    config.write_text(
        f'[log]\nurl = "{secured.login}"\n[log.security]\nprotocol = "SASL_SSL"\nusername = "ada"\n'
        f'ca_file = "{secured.folder}/authority.pem"\n[features]\npreset = "world"\n'
        f'[train]\nstate = "{tmp_path}/state"\nmetrics_port = -1\nsnapshot_seconds = 0\n',
        "utf-8",
    )

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "stream_ctr.cli", *arguments, "--config", str(config)],
            env={**os.environ, PASSWORD_VARIABLE: PASSWORD},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert PASSWORD not in done.stdout + done.stderr
        return done.stdout

    assert "200 impressions" in run("simulate", "--log", secured.login, "--events", "200")
    assert '"learned": 200' in run("train", "--until-idle", "0", "--json")
    assert "no dead letters" in run("dead-letters", "list")


@pytest.mark.parametrize("password", [None, ""])
def test_no_password_is_one_line(secured: Secured, password: str | None, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n", "utf-8")
    file = "" if password is None else str(tmp_path / "empty")
    with pytest.raises(ConfigError, match="user 'ada' has no password: set STREAM_CTR_LOG_PASSWORD"):
        open_log(secured.login, security=replace(secured.config(), password_file=file))
