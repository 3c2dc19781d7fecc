"""``stream-ctr config check|show``: check a configuration, and show every key with its meaning."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stream_ctr.config.features import FieldConfig
    from stream_ctr.config.settings import Settings


class ConfigCheck:
    """``stream-ctr config``."""

    help = "check a configuration file and show every key with its value and meaning"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("action", choices=["check", "show"], help="check the file; show all keys")
        parser.add_argument("file", nargs="?", type=Path, help="TOML file; without it, the defaults")
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(self, arguments: argparse.Namespace) -> int:
        from stream_ctr.config.settings import load_settings
        from stream_ctr.datasets.base import resolve_fields

        settings = load_settings(arguments.file)
        if arguments.action == "check":
            fields = resolve_fields(settings.features)
            _check(settings, fields)
            arms = [arm.name for arm in settings.experiment.arms]
            summary = {
                "file": str(arguments.file) if arguments.file else None,
                "arms": arms,
                "fields": len(fields),
                "log": settings.log.url,
            }
            if arguments.json:
                print(json.dumps(summary))
            else:
                print(f"good: {len(fields)} fields, arms {', '.join(arms)}, log {settings.log.url}")
            return 0
        tables = {name: dataclasses.asdict(getattr(settings, name)) for name in type(settings).model_fields}
        if arguments.json:
            print(json.dumps(tables, indent=2))
        else:
            _show(settings)
        return 0


def _check(settings: Settings, fields: tuple[FieldConfig, ...]) -> None:
    """Refuse what the daemon and the server would refuse at their start, whatever this machine has.

    Raises:
        StreamCTRError: the first thing that cannot work.
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
            # Nothing is compiled to look at settings, and torch imported only for what needs it.
            learner = dataclasses.replace(arm.learner, kind="torch", device="cpu")
            optimizer = check_settings(arm.model, arm.optimizer, learner, len(fields))
            if why_not_compiled(arm.model, optimizer, learner) is None:
                build_pipeline(settings, arm, fields, 1)
                continue
            arm = dataclasses.replace(arm, learner=learner)
        Core(settings, arm, fields, 1)


def _show(settings: Any) -> None:
    for name in type(settings).model_fields:
        _show_table(name, getattr(settings, name))


def _show_table(name: str, table: Any) -> None:
    """One table of the file with the meaning of each key; tables inside it come after it."""
    import ast
    import inspect as source
    import itertools
    import textwrap

    tree = ast.parse(textwrap.dedent(source.getsource(type(table))))
    declared = tree.body[0]
    body = declared.body if isinstance(declared, ast.ClassDef) else []
    lines = {
        first.target.id: second.value.value
        for first, second in itertools.pairwise(body)
        if isinstance(first, ast.AnnAssign)
        and isinstance(first.target, ast.Name)
        and isinstance(second, ast.Expr)
        and isinstance(second.value, ast.Constant)
    }
    inner = []
    print(f"[{name}]")
    for field in dataclasses.fields(table):
        value = getattr(table, field.name)
        if dataclasses.is_dataclass(value):
            inner.append((f"{name}.{field.name}", value))
            continue
        meaning = " ".join(str(lines.get(field.name, "")).split())
        print(f"{field.name} = {value!r}  # {meaning}")
    print()
    for path, value in inner:
        _show_table(path, value)
