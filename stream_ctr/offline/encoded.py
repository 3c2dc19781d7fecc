"""A dataset encoded once into memory-mapped columns on disk, with value ids instead of values.

The same columns serve every split, seed and minimum count: each distinct value of a field gets an id here,
and the counts of the training rows decide later which values become embedding rows (:mod:`.vocabulary`).
Full Criteo has 45,840,617 x 39 ids of 4 bytes: 7.2 GB on disk, of which only the pages in use are in memory.
Encoding needs memory for one entry (about 50 bytes) per distinct value and one chunk of rows.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from stream_ctr.batch import Batch
from stream_ctr.config.features import FeaturesConfig, FieldConfig, UnknownFeatures
from stream_ctr.daemon.process import StateLock
from stream_ctr.datasets.base import Dataset
from stream_ctr.datasets.reader import read_report
from stream_ctr.errors import DataError, StateError
from stream_ctr.features.keys.encoder import KeyEncoder
from stream_ctr.features.keys.tally import Tally
from stream_ctr.features.rows.tables import FeatureTables
from stream_ctr.pipeline.from_examples import direct_batches
from stream_ctr.state.state import State

FORMAT: Final = 2
CHUNK: Final = 4096
"""Rows read and encoded at a time."""
PREFIX: Final = "encoded-"
_WRITING: Final = ".writing-"
_MANIFEST: Final = "manifest.json"
_COLUMNS: Final[dict[str, str]] = {
    "row": "<i4",
    "label": "|u1",
    "time_ms": "<i8",
    "key": "<u8",
    "field": "<i4",
}


@dataclass(frozen=True)
class EncodedRows:
    """N examples over S slots; V ids, of which the first F are the fields' default rows."""

    fields: tuple[FieldConfig, ...]
    slot_field: NDArray[np.int32]
    """[S]"""
    row: NDArray[np.int32]
    """[N, S] value ids: default rows 0 to F - 1, then values by first appearance; or ABSENT."""
    label: NDArray[np.uint8]
    """[N]"""
    time_ms: NDArray[np.int64]
    """[N]"""
    key: NDArray[np.uint64]
    """[V] 64-bit key of each id, 0 for default rows."""
    field: NDArray[np.int32]
    """[V] field of each id."""
    keys_state: State
    """State of the key encoder after the last row: quantile buckets of float fields."""
    digest: str
    """BLAKE2b of everything above: equal digests mean equal data."""
    name: str
    note: str
    bad_rows: dict[str, Any]
    """Report on skipped rows (:meth:`stream_ctr.datasets.read_report.ReadReport.as_dict`)."""

    def __len__(self) -> int:
        return len(self.label)

    def left_out(self) -> Tally:
        """Counts of features and values that the encoding left out."""
        tally = Tally()
        tally.load(self.keys_state.values)
        return tally


@contextmanager
def encoded_rows(
    dataset: Dataset,
    path: str,
    fields: tuple[FieldConfig, ...],
    *,
    limit: int | None,
    work: Path | None,
    unknown: UnknownFeatures = "refuse",
    progress: Callable[[int], None] = lambda rows: None,
) -> Iterator[EncodedRows]:
    """The columns of a dataset: from ``work`` if they exist there, otherwise encoded now and kept there.

    ``unknown`` is the policy for features without a field. Without ``work``, the columns are in a temporary
    folder that is removed at the end. ``progress`` is called with the number of rows read.

    Raises:
        DataError: the data cannot be read, does not fit the fields, or has no rows.
        StateError: another process uses ``work``, or the columns in it are damaged.
    """
    with ExitStack() as stack:
        folder = work or Path(stack.enter_context(TemporaryDirectory(prefix="stream-ctr-")))
        source = _source(dataset, path, fields, limit, unknown)
        place = folder / f"{PREFIX}{_text_digest(source)[:16]}"
        if not place.is_dir():
            with StateLock(folder):
                if not place.is_dir():  # another process may have written it meanwhile
                    encoder = KeyEncoder(fields, unknown)
                    _write(dataset, path, encoder, limit, source, place, progress)
        yield _load(place, source, fields, dataset)


def _source(
    dataset: Dataset,
    path: str,
    fields: tuple[FieldConfig, ...],
    limit: int | None,
    unknown: UnknownFeatures,
) -> dict[str, Any]:
    """Identity of the columns: changed data or options give a different folder."""
    root = Path(path)
    files = sorted(item for item in root.rglob("*") if item.is_file()) if root.is_dir() else [root]
    found: dict[str, Any] = {
        "format": FORMAT,
        "dataset": dataset.name,
        "options": {name: str(value) for name, value in sorted(vars(dataset).items())},
        "fields": [asdict(item) for item in fields],
        "unknown": unknown,
        "limit": limit,
        "files": [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.exists()]
        if path
        else [],
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _text_digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def _write(
    dataset: Dataset,
    path: str,
    encoder: KeyEncoder,
    limit: int | None,
    source: dict[str, Any],
    place: Path,
    progress: Callable[[int], None],
) -> None:
    """Encode everything into a temporary folder, which is renamed when it is complete."""
    for left in place.parent.glob(f"{_WRITING}*"):
        shutil.rmtree(left)
    temporary = place.with_name(f"{_WRITING}{place.name}")
    temporary.mkdir()
    fields = encoder.fields
    tables = FeatureTables(encoder.slot_field, len(fields), replace(FeaturesConfig(), fields=fields))
    rows = 0
    digest = hashlib.blake2b(digest_size=16)
    with ExitStack() as stack:
        files = {name: stack.enter_context((temporary / name).open("wb")) for name in _COLUMNS}
        for batch in direct_batches(dataset.read(path, limit), encoder, tables, CHUNK):
            for name, column in _columns(batch).items():
                content = np.ascontiguousarray(column, _COLUMNS[name]).tobytes()
                files[name].write(content)
                digest.update(content)
            rows += len(batch)
            progress(rows)
    if not rows:
        shutil.rmtree(temporary)
        raise DataError(f"{path or dataset.name}: contains no rows to learn from")
    state = encoder.state()
    (temporary / "keys.safetensors").write_bytes(safetensors.numpy.save(state.arrays))
    digest.update(json.dumps([asdict(item) for item in fields]).encode())
    manifest = {
        "source": source,
        "rows": rows,
        "slots": encoder.slots,
        "values": tables.rows_in_use,
        "digest": digest.hexdigest(),
        "keys": state.values,
        "note": dataset.note,
        "bad_rows": read_report(dataset).as_dict(),
    }
    (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")
    temporary.rename(place)


def _columns(batch: Batch) -> dict[str, NDArray[Any]]:
    return {
        "row": batch.rows,
        "label": batch.label,
        "time_ms": batch.time_ms,
        "key": batch.changes.key,
        "field": batch.changes.field,
    }


def _load(
    place: Path, source: dict[str, Any], fields: tuple[FieldConfig, ...], dataset: Dataset
) -> EncodedRows:
    damaged = f"{place} is damaged; remove it to encode the data again"
    try:
        manifest = json.loads((place / _MANIFEST).read_text("utf-8"))
        arrays = safetensors.numpy.load((place / "keys.safetensors").read_bytes())
        rows, slots, values = manifest["rows"], manifest["slots"], manifest["values"]
        shapes = {
            "row": (rows, slots),
            "label": (rows,),
            "time_ms": (rows,),
            "key": (values,),
            "field": (values,),
        }
        columns: dict[str, NDArray[Any]] = {}
        for name, dtype in _COLUMNS.items():
            if (place / name).stat().st_size != np.dtype(dtype).itemsize * int(np.prod(shapes[name])):
                raise StateError(f"{damaged}: the size of {name} does not match shape {shapes[name]}")
            columns[name] = np.memmap(place / name, dtype, "r", shape=shapes[name])
        if manifest["source"] != source:
            raise StateError(f"{damaged}: its manifest describes other data")
        keys_state, digest = State(arrays, manifest["keys"]), str(manifest["digest"])
        note, bad_rows = str(manifest["note"]), dict(manifest["bad_rows"])
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise StateError(f"{damaged} ({type(error).__name__}: {error})") from None
    slot_field = KeyEncoder(fields).slot_field
    return EncodedRows(
        fields=fields,
        slot_field=slot_field,
        row=columns["row"],
        label=columns["label"],
        time_ms=columns["time_ms"],
        key=columns["key"],
        field=columns["field"],
        keys_state=keys_state,
        digest=digest,
        name=dataset.name,
        note=note,
        bad_rows=bad_rows,
    )
