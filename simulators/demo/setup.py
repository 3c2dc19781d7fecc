"""Setup of the demo: a new folder, its configuration, and the settings of the simulated world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

CONFIG: Final = """\
# Written by `stream-ctr demo`; `stream-ctr config show` explains every key.
[log]
url = "sqlite:///{folder}/events.db"

[features]
preset = "world"

[order]
idle_seconds = 0.5
max_lead_seconds = {grace}

[join]
window_seconds = {window}
grace_seconds = {grace}
horizon_seconds = 60.0

[train]
state = "{folder}/state"
checkpoint_seconds = 10.0
metrics_port = 0
metrics_window = 2500

[serve]
port = {port}

[watch]
port = {page_port}
window_seconds = 5.0
planned_impressions = 20_000

[experiment]
name = "demo"
salt = "demo-1"

[[experiment.arms]]
name = "control"
weight = 0.5
learner = {{kind = "river", river = "river-ftrl"}}  # logistic regression, FTRL-Proximal

[[experiment.arms]]
name = "treatment"
weight = 0.5
optimizer = {{method = "helen"}}  # of a deep network with Skip Meta Logit
"""
ARMS: Final = ("control", "treatment")
LABEL_SECONDS: Final = 3.0
"""Label window: every click of the demo's world comes within this time."""
GRACE_SECONDS: Final = 0.25
"""Short, because the demo's log is on the same machine and clicks are hardly late."""
WORLD: Final = {"users": 2000, "ads": 200, "sites": 40, "delay_seconds": 0.5, "longest_delay_seconds": 2.5}
"""A world small enough that models improve within a minute of visits."""


def new_folder(out: Path) -> Path:
    """Create a new folder, so that the log and state of an earlier demo are never overwritten."""
    out = out.resolve()
    number = 1
    while (out / f"demo-{number}").exists():
        number += 1
    folder = out / f"demo-{number}"
    folder.mkdir(parents=True)
    return folder


def write_config(folder: Path, port: int, page_port: int) -> Path:
    """Write the configuration file; port 0 selects a free port."""
    config = folder / "demo.toml"
    quoted = json.dumps(str(folder), ensure_ascii=False)[1:-1]  # TOML strings use the escapes of JSON
    text = CONFIG.format(
        folder=quoted, window=LABEL_SECONDS, grace=GRACE_SECONDS, port=port, page_port=page_port
    )
    config.write_text(text, "utf-8")
    return config
