"""What the demo sets up: a folder of its own, its configuration, and the world that its users live in."""

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
"""Users of the demo's world click within this long."""
GRACE_SECONDS: Final = 0.25
"""The demo's log is on the same machine, so clicks are hardly late."""
WORLD: Final = {"users": 2000, "ads": 200, "sites": 40, "delay_seconds": 0.5, "longest_delay_seconds": 2.5}
"""A world small enough that a minute of visits teaches something."""


def new_folder(out: Path) -> Path:
    """A folder that no earlier demo wrote to: its log and state are never overwritten."""
    out = out.resolve()
    number = 1
    while (out / f"demo-{number}").exists():
        number += 1
    folder = out / f"demo-{number}"
    folder.mkdir(parents=True)
    return folder


def write_config(folder: Path, port: int, page_port: int) -> Path:
    """The configuration file, written; port 0 takes a free one."""
    config = folder / "demo.toml"
    quoted = json.dumps(str(folder), ensure_ascii=False)[1:-1]  # a TOML text has the escapes of JSON's
    text = CONFIG.format(
        folder=quoted, window=LABEL_SECONDS, grace=GRACE_SECONDS, port=port, page_port=page_port
    )
    config.write_text(text, "utf-8")
    return config
