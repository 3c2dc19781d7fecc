"""One server process: listen, follow snapshots, log impressions, shut down in order."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import uvicorn

from stream_ctr.config.experiment import FOLDER, ExperimentConfig
from stream_ctr.config.features import UnknownFeatures
from stream_ctr.config.log import LogConfig
from stream_ctr.config.serve import TOKENS_VARIABLE, ServeConfig
from stream_ctr.errors import ConfigError
from stream_ctr.events.open import open_log
from stream_ctr.serving.app import AdminApp, RankApp
from stream_ctr.serving.http.admin_api import admin_routes
from stream_ctr.serving.http.certificates import Certificates, tls_context
from stream_ctr.serving.http.sockets import address, is_loopback, listen, same_socket, uvicorn_config
from stream_ctr.serving.http.tokens import Tokens
from stream_ctr.serving.job import Job
from stream_ctr.serving.metrics import ServeMetrics
from stream_ctr.serving.ranking.impression_log import ImpressionLog
from stream_ctr.serving.ranking.log_gaps import LogGaps
from stream_ctr.serving.ranking.shadows import Shadows
from stream_ctr.serving.routing.arm_predictors import ArmPredictors
from stream_ctr.serving.routing.config_reload import ConfigFile, ConfigSource, FixedSettings
from stream_ctr.serving.routing.routing import Routing

MAX_ACCEPTS: Final = 16
"""Connections that all workers together accept in one round of their event loops. libuv accepts one per
handle of a socket in each round. Under overload, rounds are long, and with a single handle the last of many
new connections would wait for seconds."""

BEATS: Final = 5
"""Minimum number of heartbeats of a worker within ``serve.hang_seconds``."""


def run_server(
    serve: ServeConfig,
    experiment: ExperimentConfig,
    log: LogConfig,
    state_folder: Path,
    config: ConfigSource | None = None,
    unknown: UnknownFeatures = "ignore",
) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status.

    Prints one line with the address when it listens, then one line per process with the address of its
    metrics. Snapshots are read from ``state_folder/<arm>/snapshots``. Changes of the experiment in the file
    ``config`` are applied while the server runs. ``unknown``: how features that are not in the schema are
    handled.

    Raises:
        UsageError: an address cannot be listened on.
        ConfigError: the experiment, the tokens or the certificates are unusable.
        StateError: the snapshot of a frozen arm is unusable.
        LogError, UsageError: the log's address is wrong. If the log is only unavailable, the server retries.
    """
    job = Job(serve, experiment, log, str(state_folder), config, unknown=unknown)
    encrypted = tls_context(serve) is not None
    tokens = Tokens(serve.token_file)
    if not is_loopback(serve.admin_host) and not tokens:
        raise ConfigError(
            f"serve.admin_host = {serve.admin_host!r} can be reached from other machines, which requires "
            f"bearer tokens; set serve.token_file or {TOKENS_VARIABLE}"
        )
    with ExitStack() as stack:
        listener = stack.enter_context(listen(serve.host, serve.port, "serve.port"))
        admins = [
            stack.enter_context(listen(serve.admin_host, port, "serve.admin_port"))
            for port in _admin_ports(serve)
        ]
        places = [address(admin, encrypted and not is_loopback(serve.admin_host)) for admin in admins]

        def announce() -> None:
            print(f"stream-ctr serves at {address(listener, encrypted)}", flush=True)
            for number, place in enumerate(places):
                of = f" of worker {number}" if serve.workers > 1 else ""
                print(f"metrics and admin{of} at {place}", flush=True)

        if serve.workers == 1:
            return run_process(job, listener, admins[0], announce)
        from stream_ctr.serving.workers import Workers

        return Workers(job, listener, admins, announce).run()


def _admin_ports(serve: ServeConfig) -> list[int]:
    """The admin port of each worker; 0 selects a free port."""
    return [serve.admin_port + number if serve.admin_port else 0 for number in range(serve.workers)]


def run_process(
    job: Job,
    listener: socket.socket,
    admin: socket.socket,
    listening: Callable[[], None],
    beat: Callable[[], None] = lambda: None,
) -> int:
    """Serve from this process on these sockets until SIGTERM or SIGINT. ``listening`` is called once when the
    server listens, ``beat`` periodically while the event loop runs.

    Raises:
        ConfigError, LogError, UsageError: as run_server does.
    """
    serve = job.serve
    metrics = ServeMetrics(job.unknown)
    for cause, count in job.replaced.items():
        metrics.replaced.labels(cause).inc(count)
    arms = ArmPredictors(job.experiment, Path(job.state), metrics)
    file = None if job.config is None else ConfigFile(job.config, FixedSettings(serve, job.log, job.state))
    routing = Routing(arms, Path(job.state), metrics, file)
    opener = partial(open_log, create=True, security=job.log.security)
    gaps = LogGaps(Path(job.state) / FOLDER, metrics.routing)
    impressions = ImpressionLog(job.log, serve.log_queue, serve.log_queue_bytes, opener, metrics, gaps)
    tokens = Tokens(serve.token_file)
    shadows = Shadows(impressions, routing, metrics)
    app = RankApp(serve, routing, shadows, metrics, tokens)
    certificates = Certificates(serve, metrics)
    tls = certificates.context
    with ExitStack() as stack:
        stack.enter_context(_reload_on_hangup(routing))
        impressions.start()
        stack.callback(impressions.close)
        stack.callback(shadows.close)
        arms.start(serve.poll_seconds)
        stack.callback(arms.stop)
        routing.start(serve.poll_seconds)
        stack.callback(routing.stop)
        server = _Server(uvicorn_config(app, tls, serve.header_seconds, app.load_shedder), listening)
        inner_tls = None if is_loopback(serve.admin_host) else tls
        inner_app = AdminApp(app, tokens, admin_routes(routing))
        inner = _AdminServer(uvicorn_config(inner_app, inner_tls, serve.header_seconds))
        stack.enter_context(_signals_to(server))
        with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
            places = (listener, *(same_socket(listener) for _ in range(MAX_ACCEPTS // serve.workers - 1)))
            companions = (
                inner.serve(sockets=[admin]),
                certificates.follow(),
                _beat(beat, serve.hang_seconds),
            )
            runner.run(_serve(server, places, inner, companions))
    return 0


async def _serve(
    server: uvicorn.Server,
    listeners: Sequence[socket.socket],
    inner: uvicorn.Server,
    companions: Sequence[Coroutine[None, None, None]],
) -> None:
    """Serve all listeners in one event loop; the admin server stops last."""
    metrics, *others = [asyncio.create_task(each) for each in companions]
    try:
        await server.serve(sockets=list(listeners))
    finally:
        inner.should_exit = True
        await metrics
        for task in others:
            task.cancel()


async def _beat(beat: Callable[[], None], hang_seconds: float) -> None:
    while hang_seconds > 0.0:
        beat()
        await asyncio.sleep(min(1.0, hang_seconds / BEATS))


class _Server(uvicorn.Server):
    """Calls ``listening`` once it listens."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._listening()


class _AdminServer(uvicorn.Server):
    """The server of the admin port. It leaves signals to the public server."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


@contextmanager
def _signals_to(server: uvicorn.Server) -> Iterator[None]:
    """Make SIGTERM and SIGINT stop the server only, not the process.

    After shutdown, uvicorn raises the signal again for the previous handler. The default handler would end
    the process before the queued impressions are in the log.
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
    """Make SIGHUP reload the configuration file."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, lambda _number, _frame: routing.reload_soon())
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
