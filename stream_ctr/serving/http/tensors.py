"""Input tensors of the Open Inference Protocol, converted to the features of B candidates.

One input tensor per field of the schema, with the field's name:

    kind of field   datatype   also accepted         shape
    categorical     BYTES      any number, BOOL      [B] or [B, 1]
    multi           BYTES      any number, BOOL      [B, K], or [B] for one value each
    integer         INT64      any number, if whole  [B] or [B, 1]
    float           FP64       any number            [B] or [B, 1]

BYTES that spell a number are read as that number. A value has the same key as everywhere else:
:mod:`stream_ctr.features.keys.values`.

A missing value is null, or equals the tensor's parameter ``missing``; an input that is not sent is missing in
every row. Missing values of a multi-valued row are omitted, so rows may have different numbers of values.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np

from stream_ctr.config.features import FieldConfig, FieldKind
from stream_ctr.events.records import FeatureValue
from stream_ctr.features.keys.column import shown
from stream_ctr.serving.api_error import ApiError
from stream_ctr.serving.ranking.request import Features

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64",
    "BYTES",
]  # fmt: skip
INTEGERS: Final = {
    **{f"INT{bits}": range(-(1 << (bits - 1)), 1 << (bits - 1)) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": range(1 << bits) for bits in (8, 16, 32, 64)},
}
"""The integer datatypes and their ranges of values."""
FLOATS: Final = ("FP16", "FP32", "FP64")
NARROW: Final = {"FP16": np.float16, "FP32": np.float32}
"""Floating-point datatypes with less precision than the numbers of JSON."""
DATATYPES: Final[dict[str, Datatype]] = {
    "categorical": "BYTES", "multi": "BYTES", "integer": "INT64", "float": "FP64",
}  # fmt: skip
"""Datatype in the model metadata, by kind of field."""


class InferInput(msgspec.Struct):
    """One input tensor: the values of one field for B rows, row by row."""

    name: str
    shape: list[int]
    datatype: Datatype
    data: list[Any] | None = None
    """The elements in row-major order, flat or nested according to ``shape``; null for a missing one. Absent
    if they follow the JSON as bytes."""
    parameters: dict[str, Any] | None = None
    """``missing``: the value that marks a missing one. ``binary_data_size``: length in bytes of the elements
    after the JSON."""


class TensorMetadata(msgspec.Struct):
    """Name, datatype and shape of a tensor; -1 is a variable size."""

    name: str
    datatype: Datatype
    shape: list[int]


def describe_inputs(fields: Sequence[FieldConfig]) -> list[TensorMetadata]:
    """The input tensors of a model over these fields."""
    return [
        TensorMetadata(item.name, DATATYPES[item.kind], [-1, -1] if item.kind == "multi" else [-1])
        for item in fields
    ]


def features_of(inputs: Sequence[InferInput], fields: Sequence[FieldConfig], max_rows: int) -> list[Features]:
    """The features of B candidates, one dict per row.

    Raises:
        ApiError: 400 if tensors do not match the fields or each other, 422 for too few or too many rows.
    """
    if not inputs:
        raise ApiError(400, "inputs is empty; send one tensor for each field that has values")
    kinds = {item.name: item.kind for item in fields}
    rows = _count_of(inputs[0])
    if rows == 0:
        raise ApiError(422, f"input {inputs[0].name[:60]!r} has no rows; send at least one")
    if rows > max_rows:
        raise ApiError(422, f"inputs have {rows} rows, the limit is {max_rows} (serve.max_candidates)")
    columns: dict[str, Sequence[FeatureValue]] = {}
    for tensor in inputs:
        if tensor.name not in kinds:
            raise ApiError(400, f"unknown input {tensor.name[:60]!r}{_nearest(tensor.name, kinds)}")
        if tensor.name in columns:
            raise ApiError(400, f"duplicate input {tensor.name!r}; send each input once")
        if _count_of(tensor) != rows:
            raise ApiError(
                400,
                f"input {tensor.name!r} has {_count_of(tensor)} rows, {inputs[0].name!r} has {rows}; "
                "all inputs must have the same number of rows",
            )
        columns[tensor.name] = _column(tensor, kinds[tensor.name])
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _count_of(tensor: InferInput) -> int:
    """B, the size of the first dimension."""
    if len(tensor.shape) not in (1, 2) or min(tensor.shape) < 0:
        raise ApiError(
            400,
            f"input {tensor.name[:60]!r} has shape {str(tensor.shape)[:60]}; "
            "it must be [rows] or [rows, values]",
        )
    return tensor.shape[0]


def _column(tensor: InferInput, kind: FieldKind) -> Sequence[FeatureValue]:
    """The values of one field, row by row; each a list if the field is multi-valued."""
    multi = kind == "multi"
    rows = tensor.shape[0]
    width = tensor.shape[1] if len(tensor.shape) == 2 else 1
    if width != 1 and not multi:
        raise ApiError(
            400, f"input {tensor.name!r} has shape {tensor.shape}; its field has one value per row: [{rows}]"
        )
    flat = _flat(tensor, rows, width)
    marker = (tensor.parameters or {}).get("missing")
    if marker is not None:
        flat = [None if type(item) is type(marker) and item == marker else item for item in flat]
    _check_elements(tensor, flat)
    if tensor.datatype in NARROW and kind in ("categorical", "multi"):
        # float32(0.1), widened to double, is not the double 0.1 and has another text.
        narrow = NARROW[tensor.datatype]
        flat = [None if item is None else float(str(narrow(item))) for item in flat]
    if not multi:
        return flat
    lists = (flat[row * width : (row + 1) * width] for row in range(rows))
    return [[item for item in values if item is not None] for values in lists]


def _flat(tensor: InferInput, rows: int, width: int) -> list[Any]:
    """The elements in row-major order, from flat or nested data."""
    data = tensor.data or []
    if data and isinstance(data[0], list):
        nested = len(tensor.shape) == 2 and len(data) == rows
        if not nested or not all(isinstance(row, list) and len(row) == width for row in data):
            raise ApiError(
                400, f"the data of input {tensor.name!r} are not nested according to shape {tensor.shape}"
            )
        return [item for row in data for item in row]
    if len(data) != rows * width:
        raise ApiError(
            400,
            f"input {tensor.name!r} has {len(data)} elements; its shape {tensor.shape} has {rows * width}",
        )
    return data


def _check_elements(tensor: InferInput, flat: list[Any]) -> None:
    """Raises ApiError 400 if an element does not match the tensor's datatype."""
    datatype = tensor.datatype
    allowed = INTEGERS.get(datatype)
    for place, item in enumerate(flat):
        if item is None:
            continue
        if allowed is not None:
            good = type(item) is int and item in allowed
        elif datatype == "BOOL":
            good = type(item) is bool
        elif datatype in FLOATS:
            good = type(item) in (int, float)
        else:
            good = type(item) is str
        if not good:
            raise ApiError(
                400, f"input {tensor.name!r}: element {place} is {shown(item)}, which is not {datatype}"
            )


def _nearest(name: str, known: dict[str, Any]) -> str:
    match = difflib.get_close_matches(name[:60], known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else f"; the inputs are {', '.join(known)}"
