"""``stream-ctr checkpoint attach-sml``: a trainer that learned without skip logits goes on with them."""

from __future__ import annotations

import time
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from stream_ctr.config.features import slot_fields
from stream_ctr.config.model import SML_KEYS
from stream_ctr.config.settings import load_settings
from stream_ctr.daemon.checkpoint import CheckpointStore
from stream_ctr.daemon.identity import identity, refuse_other
from stream_ctr.datasets.base import resolve_fields
from stream_ctr.errors import StateError, UsageError
from stream_ctr.learners.attach import attach_sml
from stream_ctr.learners.torch.learner import TorchLearner
from stream_ctr.training.lock import StateLock


def attach(store: CheckpointStore, config: str | None, arm_name: str | None) -> dict[str, Any]:
    """Write the next version of the newest checkpoint: the same state, its network with skip logits.

    The configuration describes the network as it is to become; all but its skip logits must be as saved.
    The trainer must not be running. Predictions do not change until the next events are learned.

    Raises:
        StateError: the folder is in use, the checkpoint is of another setup or has skip logits already.
        UsageError: no configuration, or one without skip logits.
    """
    settings = load_settings(config)
    arm = settings.arm(arm_name)
    if not arm.model.sml:
        raise UsageError(
            f"model.sml = false for arm {arm.name!r}; attach-sml needs the configuration of the network as "
            "it is to become: set model.sml = true"
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
            raise StateError(f"{place} is of a network that has skip logits already")
        wanted = identity(settings, arm, fields)
        wanted = {name: part for name, part in wanted.items() if name in saved}
        others = {key: value for key, value in saved["model"].items() if key not in SML_KEYS}
        skips = {key: value for key, value in wanted["model"].items() if key in SML_KEYS}
        refuse_other({**saved, "model": {**others, **skips}}, wanted, place)
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
