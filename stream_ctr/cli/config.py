"""``stream-ctr config check|show``: check a configuration, or print every key with its meaning."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream_ctr.config.features import FieldConfig
    from stream_ctr.config.settings import Settings


class _ConfigCommand:
    """A command on one configuration."""

    help: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "file",
            nargs="?",
            type=Path,
            metavar="FILE",
            help="configuration file; without it, defaults and environment",
        )
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(self, arguments: argparse.Namespace) -> int:
        from stream_ctr.config.settings import load_settings

        print(self.result(load_settings(arguments.file), arguments))
        return 0

    def result(self, settings: Settings, arguments: argparse.Namespace) -> str:
        """The text to print."""
        raise NotImplementedError


class Check(_ConfigCommand):
    """``stream-ctr config check``."""

    help = "check that a trainer and a server could start with a configuration"

    def result(self, settings: Settings, arguments: argparse.Namespace) -> str:
        from stream_ctr.datasets.base import resolve_fields

        fields = resolve_fields(settings.features)
        _check(settings, fields)
        arms = [arm.name for arm in settings.experiment.arms]
        if arguments.json:
            file = str(arguments.file) if arguments.file else None
            return json.dumps({"file": file, "arms": arms, "fields": len(fields), "log": settings.log.url})
        return f"ok: {len(fields)} fields, arms {', '.join(arms)}, log {settings.log.url}"


class Show(_ConfigCommand):
    """``stream-ctr config show``."""

    help = "print every key with its meaning, value and default, as a configuration file"

    def result(self, settings: Settings, arguments: argparse.Namespace) -> str:
        if arguments.json:
            tables = {name: getattr(settings, name) for name in type(settings).model_fields}
            return json.dumps({name: dataclasses.asdict(table) for name, table in tables.items()}, indent=2)
        from stream_ctr.config.toml import as_toml

        return as_toml(settings).rstrip()


def _check(settings: Settings, fields: tuple[FieldConfig, ...]) -> None:
    """Reject what a trainer or server would reject at its start, whatever hardware this machine has.

    Raises:
        StreamCTRError: the first setting that cannot work.
    """
    from stream_ctr.config.experiment import intervals
    from stream_ctr.learners.build import check_settings
    from stream_ctr.learners.compiled.support import require_compiled, why_not_compiled
    from stream_ctr.optim.validation import for_stream
    from stream_ctr.serving.routing.arm_predictors import frozen_predictor
    from stream_ctr.training.core import Core, build_pipeline

    intervals(settings.experiment)
    for frozen in settings.experiment.arms:
        if frozen.snapshot:
            frozen_predictor(frozen)
    for arm in map(settings.arm, [arm.name for arm in settings.experiment.arms if not arm.snapshot]):
        if arm.learner.kind == "compiled":
            require_compiled(arm.model, for_stream(arm.optimizer), arm.learner)
        if arm.learner.kind != "river":
            # A check compiles nothing, and imports torch only for an arm that needs it.
            learner = dataclasses.replace(arm.learner, kind="torch", device="cpu")
            optimizer = check_settings(arm.model, arm.optimizer, learner, len(fields))
            if why_not_compiled(arm.model, optimizer, learner) is None:
                build_pipeline(settings, arm, fields, 1)
                continue
            arm = dataclasses.replace(arm, learner=learner)
        Core(settings, arm, fields, 1)
