"""Checks that a Kafka broker answers, uses the configured encryption and accepts the login.

The check precedes the construction of a kafka-python client: a client whose construction fails leaves a
thread behind that keeps retrying.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct

from stream_ctr.errors import LogError, LogUnavailableError
from stream_ctr.events.kafka.client import sasl, servers_of
from stream_ctr.events.kafka.security import Access

_CORRELATION_ID = b"SCTR"
_LARGEST_ANSWER_BYTES = 65_536


def check_reachable(url: str, timeout_seconds: float, access: Access) -> None:
    """Check that one of the servers is a Kafka broker and accepts the login, if one is configured.

    Raises:
        LogError: no server answers, the server is not a Kafka broker, or the security settings do not match.
    """
    failure = ""
    for server in servers_of(url):
        try:
            if _answers_as_kafka(server, timeout_seconds, access):
                return
            failure = "the server is not a Kafka broker"
            if access.tls is None:
                failure += ", or expects encryption (log.security.protocol)"
        except LogError as refused:  # a rejected login; the cluster's other servers would reject it too
            raise LogError(f"{url}: {refused}") from None
        except TimeoutError:
            failure = "no answer in time"
        except ssl.SSLCertVerificationError as error:
            signers = access.config.ca_file or "the system's certificate authorities"
            raise LogError(
                f"{url}: the certificate of {server} is not accepted: {error.verify_message}; check "
                f"log.security.ca_file (now {signers}) and that the certificate is for that host"
            ) from error
        except ssl.SSLError as error:
            failure = f"no encrypted connection: {_tls_reason(error)}"
        except OSError as error:
            failure = (error.strerror or str(error)).lower()
    raise LogUnavailableError(
        f"{url}: no broker can be reached ({failure}); check the address and that Kafka is running"
    )


def _answers_as_kafka(server: str, timeout_seconds: float, access: Access) -> bool:
    """Whether a server answers an ApiVersions request."""
    host, _, port = server.rpartition(":")
    name = host.strip("[]")
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection((name, int(port)), timeout=timeout_seconds))
        if access.tls is not None:
            connection = stack.enter_context(access.tls.wrap_socket(connection, server_hostname=name))
        # An ApiVersions request: every broker answers it before any other request.
        if _request(connection, 18, 0, b"") is None:
            return False
        if access.config.logs_in:
            _log_in(connection, access)
        return True


def _request(connection: socket.socket, api: int, version: int, body: bytes) -> bytes | None:
    """The body of the answer to one request; None if the answer is not Kafka's."""
    header = struct.pack(">hh4sh", api, version, _CORRELATION_ID, -1)
    connection.sendall(struct.pack(">i", len(header) + len(body)) + header + body)
    start = _receive(connection, 8)
    if start[4:] != _CORRELATION_ID:
        return None
    return _receive(connection, struct.unpack_from(">i", start)[0] - 4)


def _receive(connection: socket.socket, size_bytes: int) -> bytes:
    """Receive ``size_bytes``, or fewer if the peer closes the connection; limited to a small answer."""
    received = b""
    while len(received) < min(size_bytes, _LARGEST_ANSWER_BYTES):
        part = connection.recv(size_bytes - len(received))
        if not part:
            break
        received += part
    return received


def _log_in(connection: socket.socket, access: Access) -> None:
    """Log in with kafka-python's own mechanisms, to learn at once whether the broker accepts the password.

    With a wrong password, its clients retry until their timeout and then report only the timeout.
    Formats: SaslHandshake 1 and SaslAuthenticate 0 of the Kafka protocol.
    """
    options = access.options()
    name = access.config.mechanism.encode()
    answer = _request(connection, 17, 1, struct.pack(">h", len(name)) + name)
    if answer is None or answer[:2] != b"\0\0":
        raise LogError(
            f"Kafka does not offer log.security.mechanism = {access.config.mechanism!r} on this port"
        )
    mechanism = sasl.get_sasl_mechanism(access.config.mechanism)(host="", **options)
    while not mechanism.is_done():
        token = mechanism.auth_bytes()
        answer = _request(connection, 36, 0, struct.pack(">i", len(token)) + token)
        if answer is None or answer[:2] != b"\0\0":
            raise LogError(access.login_rejected())
        try:
            # The code 0 and no message (length -1) precede the token's length.
            mechanism.receive(answer[8:])
        except (KeyError, ValueError) as error:
            # A server that does not know the password cannot sign its answer.
            raise LogError(access.login_rejected()) from error
    if not mechanism.is_authenticated():
        raise LogError(access.login_rejected())


def _tls_reason(error: ssl.SSLError) -> str:
    """The cause of an SSLError in terms of the settings."""
    text = str(error.reason or error).replace("_", " ").lower()
    if "wrong version" in text or "record layer" in text or "eof" in text:
        return "the server does not use encryption on this port (log.security.protocol)"
    if "certificate" in text:  # the broker's answer to our certificate, or to a missing one
        return f"the broker does not accept this client's certificate: {text} (log.security.certificate_file)"
    return text
