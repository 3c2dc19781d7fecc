"""A small dataset with planted effects, of every kind of field."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import ClassVar

from stream_ctr.config.features import FeaturesConfig, FieldConfig
from stream_ctr.datasets.base import Example
from stream_ctr.events.log import Record
from stream_ctr.events.open import open_log
from stream_ctr.events.records import FeatureValue
from stream_ctr.offline.encoded import EncodedRows, encoded_rows
from stream_ctr.offline.protocol import BatchProtocol
from stream_ctr.offline.run import Prepared, prepare

START_MS = 1_700_000_000_000
STEP_MS = 500
FIELDS = (
    FieldConfig("ad"),
    FieldConfig("age", "integer"),
    FieldConfig("price", "float", buckets=8),
    FieldConfig("tags", "multi", max_values=3),
)


@dataclass(frozen=True)
class Made:
    """``rows`` examples, half a second apart; the ad and the tags decide most of a click."""

    rows: int = 600
    seed: int = 0
    positive: bool = True
    """False: nobody ever clicks."""

    name: ClassVar[str] = "made"
    fields: ClassVar[tuple[FieldConfig, ...]] = FIELDS
    note: ClassVar[str] = ""

    def read(self, path: str | PathLike[str] = "", limit: int | None = None) -> Iterator[Example]:
        """The examples in the order of time."""
        for number in range(self.rows if limit is None else min(limit, self.rows)):
            yield example(self.seed, number, self.positive)


def example(seed: int, number: int, positive: bool = True) -> Example:
    """Example ``number`` of a world; a function of its arguments alone."""
    generator = random.Random(f"{seed}-{number}")
    ad = int(generator.paretovariate(0.8)) % 40
    tags = generator.sample(["x", "y", "z", "w"], generator.randrange(4))
    features: dict[str, FeatureValue] = {
        "ad": f"a{ad}",
        "age": generator.randrange(80),
        "price": round(generator.expovariate(0.1), 3),
        "tags": list(tags),
    }
    logit = -0.8 + 2.0 * math.sin(3.0 * ad + 1.0) + 1.2 * ("x" in tags) - 1.2 * ("w" in tags)
    click = positive and generator.random() < 1.0 / (1.0 + math.exp(-logit))
    return Example(f"e{number}", START_MS + STEP_MS * number, "", features, int(click))


def columns(tmp_path: Path, made: Made | None = None) -> EncodedRows:
    """The columns of a made dataset, kept under ``tmp_path``."""
    made = made or Made()
    with encoded_rows(made, "", made.fields, limit=None, work=tmp_path / "work") as encoded:
        return encoded


def prepared(
    tmp_path: Path,
    protocol: BatchProtocol | None = None,
    made: Made | None = None,
    features: FeaturesConfig | None = None,
) -> Prepared:
    """Split and counted columns."""
    return prepare(columns(tmp_path, made), protocol or BatchProtocol(), features or FeaturesConfig())


def write_rows(folder: Path, made: Made) -> list[str]:
    """JSON lines of a made dataset and their schema in ``folder``; the command line's words for them."""
    rows = [json.dumps({"click": e.label, "at": e.time_ms, **e.features}) for e in made.read()]
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    fields = [
        f'{{ name = "{f.name}", kind = "{f.kind}", max_values = {f.max_values}, buckets = {f.buckets} }},'
        for f in made.fields
    ]
    schema = ['label = "click"', 'time = "at"', "fields = [", *fields, "]"]
    (folder / "schema.toml").write_text("\n".join(schema), "utf-8")
    return ["jsonl", str(folder / "rows.jsonl"), "--option", f"schema={folder / 'schema.toml'}"]


def write_log(folder: Path, seed: int, start: int, stop: int) -> None:
    """Examples ``start`` to ``stop`` as impressions, and a click one second after each that has one."""
    log = open_log(f"sqlite:///{folder}/clicks.db", create=True)
    try:
        impressions, clicks = [], []
        for number in range(start, stop):
            made = example(seed, number)
            key = made.event_id.encode()
            shown = {"v": 1, "event_id": made.event_id, "ts_ms": made.time_ms, "features": made.features}
            impressions.append(Record(key, json.dumps(shown).encode(), made.time_ms))
            if made.label:
                clicked = {"v": 1, "event_id": made.event_id, "ts_ms": made.time_ms + 1000}
                clicks.append(Record(key, json.dumps(clicked).encode(), made.time_ms + 1000))
        for topic, records in (("impressions", impressions), ("clicks", clicks)):
            log.create_topic(topic, 2)
            log.append(topic, records)
    finally:
        log.close()
