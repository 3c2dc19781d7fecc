"""``stream-ctr checkpoint attach-sml``: adds skip logits to a saved network that was trained without them."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from importlib.metadata import version
from typing import Any, cast

import numpy as np

from stream_ctr.config.features import slot_fields
from stream_ctr.config.model import SML_KEYS
from stream_ctr.config.settings import load_settings
from stream_ctr.daemon.checkpoint import CheckpointStore
from stream_ctr.daemon.identity import check_identity, identity
from stream_ctr.daemon.process import StateLock
from stream_ctr.datasets.base import resolve_fields
from stream_ctr.errors import StateError, UsageError
from stream_ctr.learners.torch.learner import TorchLearner
from stream_ctr.state.state import Json, State


def attach(store: CheckpointStore, config: str | None, arm_name: str | None) -> dict[str, Any]:
    """Write the next checkpoint version: the state of the newest one, with skip logits in its network.

    The configuration describes the resulting network; all settings except those of the skip logits must match
    the checkpoint. The trainer must not be running. Predictions do not change until further events are
    learned.

    Raises:
        StateError: the folder is in use, or the checkpoint has other settings or already has skip logits.
        UsageError: there is no configuration, or it has no skip logits.
    """
    settings = load_settings(config)
    arm = settings.arm(arm_name)
    if not arm.model.sml:
        raise UsageError(
            f"model.sml = false for arm {arm.name!r}; attach-sml needs the configuration of the "
            "resulting network: set model.sml = true"
        )
    fields = resolve_fields(settings.features)
    folder = store.folder.parent if store.folder.name == "checkpoints" else store.folder
    with StateLock(folder):
        loaded = store.load()
        if loaded is None:
            raise StateError(f"no checkpoint in {store.folder}; name an arm's state folder, like state/main")
        saved = loaded.manifest.identity
        place = store.path(loaded.manifest.version)
        if saved.get("model", {}).get("sml", False):
            raise StateError(f"the network in {place} already has skip logits")
        wanted = identity(settings, arm, fields)
        wanted = {name: part for name, part in wanted.items() if name in saved}
        others = {key: value for key, value in saved["model"].items() if key not in SML_KEYS}
        skips = {key: value for key, value in wanted["model"].items() if key in SML_KEYS}
        check_identity({**saved, "model": {**others, **skips}}, wanted, folder)
        cpu = replace(arm.learner, device="cpu")
        fresh = TorchLearner(arm.model, arm.optimizer, cpu, slot_fields(fields), len(fields)).state()
        learner = attach_sml(loaded.parts["learner"], fresh)
        store.kept = settings.train.checkpoints_kept
        manifest = store.save(
            {**loaded.parts, "learner": learner},
            created_ms=time.time_ns() // 1_000_000,
            software=f"stream-ctr {version('stream-ctr')}",
            identity=wanted,
            log=loaded.manifest.log,
            positions=loaded.manifest.positions,
            emitted=loaded.manifest.emitted,
            segments=loaded.manifest.segments,
        )
    before = loaded.parts["learner"].arrays["dense.weight"].size
    return {
        "from": str(place),
        "folder": str(store.path(manifest.version)),
        "dense_parameters": before,
        "skip_parameters": learner.arrays["dense.weight"].size - before,
    }


def attach_sml(base: State, fresh: State) -> State:
    """Add the skip logits of ``fresh`` to ``base``, with W_i = 0.

    ``base`` is the state of a learner without skip logits, ``fresh`` that of a new learner with the same
    network and skip logits. Rows, dense parameters and their optimizer state are kept bit for bit from
    ``base``; the new parameters except W_i start as in ``fresh``. With W_i = 0 every skip logit is 0, so all
    logits are those of ``base``.

    Raises:
        StateError: network or optimizer differ, or ``base`` already has skip logits.
    """
    old, new = _places(base), _places(fresh)
    if any(name.startswith("sml.") for name in old):
        raise StateError("the network already has skip logits; there is nothing to attach")
    kept = {name: place for name, place in new.items() if not name.startswith("sml.")}
    if [(n, s.stop - s.start) for n, s in old.items()] != [(n, s.stop - s.start) for n, s in kept.items()]:
        raise StateError(
            f"the saved network has the dense parameters {', '.join(old)}, the configured one "
            f"{', '.join(kept)} and skip logits; all settings except those of the skip logits must match"
        )
    arrays = dict(base.arrays)
    for key, array in fresh.arrays.items():
        if key.startswith("dense."):
            if key not in base.arrays:
                raise StateError(
                    f"the saved state has no {key}; configure the optimizer with which it was saved"
                )
            arrays[key] = array.copy()
            for name, place in kept.items():
                arrays[key][place] = base.arrays[key][old[name]]
    for name, place in new.items():
        if name.startswith("sml.") and name.endswith(".weight"):
            arrays["dense.weight"][place] = 0.0
    return State(arrays, {**base.values, "layout": fresh.values["layout"]})


def _places(state: State) -> dict[str, slice]:
    """Slice of each dense parameter in the flat vectors."""
    layout = cast("list[list[Json]]", state.values.get("layout") or [])
    sizes = [math.prod(cast("list[int]", shape)) for _, shape in layout]
    ends = np.cumsum(sizes).tolist()
    return {
        str(name): slice(end - size, end) for (name, _), size, end in zip(layout, sizes, ends, strict=True)
    }
