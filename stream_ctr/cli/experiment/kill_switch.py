"""``stream-ctr experiment arms|kill|revive``: the kill switch. It uses a file and needs no running server."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stream_ctr.experiments.shared_files import Kill


class ArmsCommand:
    """``stream-ctr experiment arms``."""

    help = "list the arms, their shares of users, and which are killed"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        _add_common(parser)

    def run(self, arguments: argparse.Namespace) -> int:
        from stream_ctr.config.experiment import BUCKETS, intervals
        from stream_ctr.config.settings import load_settings
        from stream_ctr.experiments.kill_file import ControlFile

        settings = load_settings(arguments.config)
        experiment = settings.experiment
        killed = ControlFile(Path(settings.train.state)).read().killed
        owned = {each.arm: (each.start, each.stop) for each in intervals(experiment)}
        rows: list[dict[str, Any]] = []
        for number, arm in enumerate(experiment.arms):
            role = "control" if number == 0 else "shadow" if arm.shadow else "arm"
            kill = killed.get(arm.name) if number else None
            row = {"name": arm.name, "role": role, "weight": arm.weight, "buckets": owned[arm.name]}
            rows.append({**row, "snapshot": arm.snapshot or None, "killed": _as_json(kill)})
        if arguments.json:
            head = {"experiment": experiment.name, "salt": experiment.salt, "coverage": experiment.coverage}
            print(json.dumps({**head, "arms": rows}, indent=2))
            return 0
        print(f"experiment {experiment.name}, salt {experiment.salt}, coverage {experiment.coverage:g}")
        width = max(len(row["name"]) for row in rows)
        for arm, row in zip(experiment.arms, rows, strict=True):
            start, stop = owned[arm.name]
            frozen = f"  frozen: {arm.snapshot}" if arm.snapshot else ""
            state = f"  killed {_kill_text(killed[arm.name])}" if row["killed"] else ""
            share = f"{(stop - start) / BUCKETS:.2%}"
            print(f"{arm.name:<{width}}  {row['role']:<7}  {share:>7} of users{frozen}{state}")
        return 0


class KillCommand:
    """``stream-ctr experiment kill``."""

    help = "stop an arm: the control answers its users from the servers' next poll on"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("arm", help="arm to stop; not the control, which serves in its place")
        parser.add_argument("--reason", default="", help="reason to record")
        _add_common(parser)

    def run(self, arguments: argparse.Namespace) -> int:
        from stream_ctr.config.settings import load_settings
        from stream_ctr.experiments.kill_file import ControlFile, check_killable

        settings = load_settings(arguments.config)
        arm: str = arguments.arm
        check_killable(settings.experiment, arm)
        file = ControlFile(Path(settings.train.state))
        done = file.kill(arm, arguments.reason or "by the command line")
        kill = file.read().killed.get(arm)
        if arguments.json:
            print(json.dumps({"arm": arm, "changed": done, "killed": _as_json(kill)}))
        elif done:
            print(f"arm {arm} is killed; servers on {settings.train.state} apply it {_delay(settings)}")
        else:
            print(f"arm {arm} was already killed {'' if kill is None else _kill_text(kill)}".rstrip())
        return 0


class ReviveCommand:
    """``stream-ctr experiment revive``."""

    help = "let a killed arm serve its users again"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("arm", help="arm that was killed")
        _add_common(parser)

    def run(self, arguments: argparse.Namespace) -> int:
        from stream_ctr.config.settings import load_settings
        from stream_ctr.errors import UsageError
        from stream_ctr.experiments.kill_file import ControlFile

        settings = load_settings(arguments.config)
        arm: str = arguments.arm
        file = ControlFile(Path(settings.train.state))
        names = [known.name for known in settings.experiment.arms]
        if arm not in names and arm not in file.read().killed:
            raise UsageError(f"no arm named {arm!r}; the arms are {', '.join(names)}")
        done = file.revive(arm)
        if arguments.json:
            print(json.dumps({"arm": arm, "changed": done, "killed": None}))
        elif done:
            print(f"arm {arm} is revived; servers on {settings.train.state} apply it {_delay(settings)}")
        else:
            print(f"arm {arm} was not killed")
        return 0


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", help="configuration file; without it, defaults and environment")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def _delay(settings: Any) -> str:
    return f"within {settings.serve.poll_seconds:g} s"


def _kill_text(kill: Kill) -> str:
    since = datetime.fromtimestamp(kill.since_ms / 1000, UTC).isoformat(timespec="seconds")
    return f"since {since} ({kill.cause}): {kill.reason}"


def _as_json(kill: Kill | None) -> dict[str, Any] | None:
    if kill is None:
        return None
    return {"cause": kill.cause, "reason": kill.reason, "since_ms": kill.since_ms}
