"""One server process: listen, follow the snapshots, log the impressions, end well."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import uvicorn

from stream_ctr.errors import UsageError
from stream_ctr.events.log import LogConfig
from stream_ctr.events.open import open_log
from stream_ctr.experiments.config import ExperimentConfig
from stream_ctr.serving.app import RankApp
from stream_ctr.serving.arms import Arms
from stream_ctr.serving.config import ServeConfig
from stream_ctr.serving.impressions import ImpressionLog
from stream_ctr.serving.metrics import ServeMetrics
from stream_ctr.serving.reload import ConfigFile, Running
from stream_ctr.serving.routing import Routing
from stream_ctr.serving.shadows import Shadows

GRACE_SECONDS = 5
"""Time that requests under way have to finish after SIGTERM."""


def run_server(
    serve: ServeConfig,
    experiment: ExperimentConfig,
    log: LogConfig,
    state_folder: Path,
    config_path: Path | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status.

    Prints one line with the address as soon as it listens. Snapshots are looked for in
    ``state_folder/<arm>/snapshots``. Changes of the experiment in ``config_path`` are taken while it serves.

    Raises:
        UsageError: the address cannot be listened on.
        ConfigError, StateError: the experiment, or the snapshot of a frozen arm, is unusable.
        LogError, UsageError: the log's address is wrong; a log that is only away is waited for.
    """
    metrics = ServeMetrics()
    arms = Arms(experiment, state_folder, metrics)
    config_file = config_path and ConfigFile(config_path, Running(serve, log, str(state_folder)))
    routing = Routing(arms, state_folder, metrics, config_file)
    opener = partial(open_log, create=True, security=log.security)
    impressions = ImpressionLog(log, serve.log_queue, opener, metrics)
    shadows = Shadows(impressions, routing, metrics)
    app = RankApp(serve, routing, shadows, metrics)
    with ExitStack() as stack:
        listener = stack.enter_context(_listen(serve.host, serve.port))
        impressions.start()
        stack.callback(impressions.close)
        stack.callback(shadows.close)
        arms.start(serve.poll_seconds)
        stack.callback(arms.stop)
        routing.start(serve.poll_seconds)
        stack.callback(routing.stop)
        stack.enter_context(_reload_on_hangup(routing))
        config = uvicorn.Config(
            app,
            loop="auto",
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        server = _Server(config, _address(listener))
        stack.enter_context(_signals_to(server))
        server.run(sockets=[listener])
    return 0


class _Server(uvicorn.Server):
    """Says where it listens."""

    def __init__(self, config: uvicorn.Config, address: str) -> None:
        super().__init__(config)
        self._address = address

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(f"stream-ctr serves at {self._address}", flush=True)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError, TypeError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"cannot listen on {host} port {port}: {reason}; choose another serve.host or serve.port"
        ) from None


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _signals_to(server: uvicorn.Server) -> Iterator[None]:
    """Let SIGTERM and SIGINT end the server and nothing more.

    When uvicorn has shut down it raises the signal again for whoever handled it before. By default that
    would end the process before the queued impressions are in the log.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, server.handle_exit) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _reload_on_hangup(routing: Routing) -> Iterator[None]:
    """Let SIGHUP read the configuration file anew."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, lambda _number, _frame: routing.reload_soon())
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
