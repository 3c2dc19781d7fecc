"""A daemon that starts while the log is away waits for it: live, not ready, with a growing pause."""

from __future__ import annotations

import contextlib
from threading import Event

from stream_ctr.config.settings import Settings
from stream_ctr.errors import LogAwayError
from stream_ctr.events.log import EventLog
from stream_ctr.events.open import open_log
from stream_ctr.monitoring.exposition import TrainerMetrics
from stream_ctr.monitoring.http_server import MetricsServer
from stream_ctr.reporting.progress import Reporter

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0


def wait_for_log(settings: Settings, stop: Event, reporter: Reporter, *, metrics: bool) -> EventLog | None:
    """The configured log as soon as it answers; None when ``stop`` is set before.

    With ``metrics``, /health and /metrics answer meanwhile.

    Raises:
        StreamCTRError: the log cannot be opened for a reason that waiting does not mend.
    """
    pause_seconds, said = FIRST_PAUSE_SECONDS, ""
    train = settings.train
    with contextlib.ExitStack() as stack:
        while not stop.is_set():
            try:
                return open_log(settings.log.url, security=settings.log.security)
            except LogAwayError as error:
                if not said and metrics and train.metrics_port >= 0:
                    server = MetricsServer(
                        train.metrics_host, train.metrics_port, TrainerMetrics(), lambda: "the log is away"
                    )
                    stack.callback(server.close)
                    reporter.say("metrics", url=f"http://{server.host}:{server.port}/metrics")
                if str(error) != said:
                    said = str(error)
                    reporter.say("waiting", reason=said)
            stop.wait(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
    return None
