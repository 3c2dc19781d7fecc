"""Updates the assignment of users to arms at run time: kill switch, guards, configuration, sampling.

One thread follows the files. Requests only read the plan in :class:`.arm_predictors.ArmPredictors`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from stream_ctr.config.experiment import BUCKETS, FOLDER, ExperimentConfig
from stream_ctr.config.experiment_check import check_change
from stream_ctr.errors import ConfigError, StreamCTRError, UsageError
from stream_ctr.experiments.kill_file import check_killable
from stream_ctr.experiments.override import read_secret
from stream_ctr.experiments.shared_files import Kill
from stream_ctr.serving.metrics import ServeMetrics
from stream_ctr.serving.routing.arm_predictors import ArmPredictors, Source
from stream_ctr.serving.routing.config_reload import ConfigFile
from stream_ctr.serving.routing.guards import Trip
from stream_ctr.serving.routing.kill_switch import KillSwitch
from stream_ctr.serving.routing.outcomes import OutcomeMonitor
from stream_ctr.serving.routing.plan import Plan

logger = logging.getLogger("stream_ctr.serving")


class Routing:
    """The routing of one server process.

    This class makes all changes of the plan, under one lock. A kill takes effect in this process at once, is
    then written to the control file, and reaches every other process at its next poll.
    """

    def __init__(
        self, arms: ArmPredictors, state_folder: Path, metrics: ServeMetrics, config: ConfigFile | None = None
    ) -> None:
        """``config`` is the file that the experiment was loaded from, if any.

        Raises:
            ConfigError: the secret for override headers cannot be used.
        """
        self.arms = arms
        self.config = config
        self.config_error = ""
        """Why the present configuration file is not applied; empty if it is."""
        self.metrics = metrics.routing
        self.switch = KillSwitch(state_folder, self.metrics)
        self._observed = OutcomeMonitor(state_folder / FOLDER, self.metrics)
        self._secret = read_secret(self.plan.experiment.override_secret_file, os.environ)
        self._applied: dict[str, Kill] = {}
        """The kills that are part of the plan."""
        self._chances: Mapping[str, float] = {}
        self._unready: dict[str, float] = {}
        self._lock = threading.RLock()
        """Held only briefly, because requests acquire it when a guard trips."""
        self._wake = threading.Event()
        self._reload = self._stopping = False
        self._config_lock = threading.Lock()
        """Serializes reloads of the configuration."""
        self._thread: threading.Thread | None = None
        self._reload_thread: threading.Thread | None = None
        self._replan()

    @property
    def plan(self) -> Plan:
        """The current plan."""
        return self.arms.view.plan

    def start(self, poll_seconds: float) -> None:
        """Check the files now, and then every ``poll_seconds`` in a thread."""
        self.poll()
        self._thread = threading.Thread(target=self._run, args=(poll_seconds,), name="routing", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def reload_soon(self) -> None:
        """Reload the configuration file in the thread, even if it has not changed (SIGHUP)."""
        self._reload = True
        self._wake.set()

    def _run(self, poll_seconds: float) -> None:
        while True:
            self._wake.wait(poll_seconds)
            self._wake.clear()
            if self._stopping:
                return
            try:
                self._follow()
            except Exception:
                # A defect here must not stop the kill switch for good while the server seems healthy.
                logger.exception("checking the experiment's files failed; the plan is unchanged")

    def poll(self) -> None:
        """Check all files once, and replace the plan if they have changed."""
        self._follow()
        if self._reload_thread is not None:
            self._reload_thread.join()

    def _follow(self) -> None:
        """Check all files. A changed configuration is applied in a separate thread, because it loads the
        snapshots of new arms, and a kill must not wait for that."""
        self._follow_switch()
        self._judge_observed()
        self._judge_readiness()
        busy = self._reload_thread is not None and self._reload_thread.is_alive()
        if self.config is not None and not busy and (self._reload or self.config.changed()):
            self._reload = False
            self._reload_thread = threading.Thread(
                target=self._apply_or_log, name="configuration", daemon=True
            )
            self._reload_thread.start()

    # --- kill switch ---

    def kill(self, arm: str, reason: str) -> bool:
        """Kill an arm in all servers; False if it was killed already.

        Raises:
            UsageError: the arm is unknown or the control.
            StateError: the control file cannot be written.
        """
        check_killable(self.plan.experiment, arm)
        done = self.switch.kill(arm, reason)
        self._follow_switch()
        return done

    def revive(self, arm: str) -> bool:
        """Revive an arm in all servers; False if it was not killed.

        Raises:
            UsageError: the arm is unknown.
            StateError: the control file cannot be written.
        """
        names = [known.name for known in self.plan.experiment.arms]
        if arm not in names and arm not in self.switch.killed:
            raise UsageError(f"no arm named {arm!r}; the arms are {', '.join(names)}")
        done = self.switch.revive(arm)
        self._follow_switch()
        return done

    def trip(self, arm: str, trip: Trip) -> None:
        """Kill an arm whose guard tripped: here at once, elsewhere once the file is written."""
        with self._lock:
            plan = self.plan
            if arm == plan.control or arm in plan.killed or arm not in plan.guards:
                return
            self.switch.trip(arm, trip)
            self._replan()
        self._wake.set()

    def _follow_switch(self) -> None:
        self.switch.follow(self.plan.guards)
        if self.switch.killed != self._applied:
            self._replan()

    # --- configuration ---

    def reload(self) -> bool:
        """Reload the configuration file now; True if it changed the experiment.

        Raises:
            UsageError: there is no file, or it was rejected; the experiment is unchanged.
            StateError: a frozen arm's snapshot cannot be used; the experiment is unchanged.
        """
        if self.config is None:
            raise UsageError("the server was started without --config, so there is no file to reload")
        return self._apply(self.config)

    def _apply_or_log(self) -> None:
        assert self.config is not None
        try:
            self._apply(self.config)
        except StreamCTRError as error:
            logger.warning("configuration rejected, the experiment is unchanged: %s", error)
        except Exception:
            logger.exception("applying the configuration failed; the experiment is unchanged")

    def _apply(self, config: ConfigFile) -> bool:
        """Apply the experiment of the file as a whole, or raise and change nothing."""
        with self._config_lock:
            return self._apply_locked(config)

    def _apply_locked(self, config: ConfigFile) -> bool:
        old = self.plan.experiment
        try:
            new = config.read()
            check_change(old, new)
            control = new.arms[0].name
            secret = read_secret(new.override_secret_file, os.environ)
            sources = self.arms.prepare(new)
            if sources[control].predictor is None and control != old.arms[0].name:
                raise ConfigError(
                    f"arm {control!r} cannot become the control before it has a snapshot: "
                    f"{sources[control].reader.error}"
                )
            if control in self.switch.killed:
                raise ConfigError(f"arm {control!r} is killed and cannot become the control; revive it first")
        except StreamCTRError as error:
            self.config_error = str(error)
            self.metrics.config_stale.set(1)
            self.metrics.config_failures.inc()
            raise
        self.config_error = ""
        self.metrics.config_stale.set(0)
        if new == old and secret == self._secret:
            return False
        with self._lock:
            self._secret = secret
            self._chances = {}
            self._exchange(self._plan(new), sources)
        self.metrics.config_reloads.inc()
        logger.warning(
            "the experiment is now %s, salt %s, coverage %g, arms %s",
            new.name, new.salt, new.coverage, ", ".join(arm.name for arm in new.arms),
        )  # fmt: skip
        return True

    # --- checks at each poll ---

    def _judge_observed(self) -> None:
        plan, ready = self.plan, self.arms.current
        arms = [name for name in plan.live if name in ready]
        chances, trips = self._observed.look(plan.experiment, arms, plan.killed)
        for arm, trip in trips:
            self.trip(arm, trip)
        if chances != self._chances:
            with self._lock:
                if self.plan.experiment is not plan.experiment:
                    return  # another experiment was applied meanwhile, with other arms
                self._chances = chances
                self._replan()
            for name in plan.answering:
                self.metrics.sampling.labels(name).set(chances.get(name, 0.0))

    def _judge_readiness(self) -> None:
        now, plan, ready = time.monotonic(), self.plan, self.arms.current
        for name, guard in plan.guards.items():
            limit = guard.config.not_ready_seconds
            if name in ready or name in plan.killed or not limit:
                self._unready.pop(name, None)
            elif now - self._unready.setdefault(name, now) >= limit:
                self._unready.pop(name)
                reason = f"no usable snapshot for {limit:g} s: {self.arms.error(name)}"
                self.trip(name, Trip("not_ready", reason))

    # --- the plan ---

    def _replan(self) -> None:
        with self._lock:
            self._exchange(self._plan(self.plan.experiment))

    def _plan(self, experiment: ExperimentConfig) -> Plan:
        named = self._applied = self.switch.killed
        # The control always serves, whatever the file says: it has no fallback.
        killed = {arm.name: named[arm.name] for arm in experiment.arms[1:] if arm.name in named}
        return Plan(experiment, MappingProxyType(killed), self._secret, self._chances, self.plan)

    def _exchange(self, plan: Plan, sources: dict[str, Source] | None = None) -> None:
        """Replace the plan, and report the differences to the log and to Prometheus."""
        before = self.plan
        self.arms.exchange(plan, sources)
        for name, kill in plan.killed.items():
            if name not in before.killed:
                logger.warning("arm %s is killed (%s): %s", name, kill.cause, kill.reason)
                self.metrics.kills.labels(name, kill.cause).inc()
        for name in before.killed.keys() - plan.killed.keys():
            if name in plan.guards:
                logger.warning("arm %s is revived", name)
        for name in plan.guards:
            self.metrics.killed.labels(name).set(name in plan.killed)
        for interval in plan.intervals:
            self.metrics.share.labels(interval.arm).set((interval.stop - interval.start) / BUCKETS)
