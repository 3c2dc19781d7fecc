"""Triton's binary tensor data extension: tensors as bytes after the JSON of a request or a response.

The header ``Inference-Header-Content-Length`` is the length of the JSON. It is followed by the data of every
tensor with the parameter ``binary_data_size``, in the order of the tensors: little-endian, row-major, no
padding. An element of BYTES is its length as UINT32, then its bytes.
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from stream_ctr.serving.api_error import ApiError
from stream_ctr.serving.http.asgi import Scope, header, quoted
from stream_ctr.serving.http.tensors import InferInput

EXTENSION: Final = "binary_tensor_data"
"""Name of the extension in the server's metadata."""
LENGTH_HEADER: Final = b"inference-header-content-length"
DTYPES: Final = {
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    "BOOL": np.dtype("?"),
}
"""Datatypes whose elements have a fixed size."""
_LENGTH: Final = struct.Struct("<I")


class Parts(NamedTuple):
    """A body, split into its JSON and its binary tensor data."""

    json: bytes
    tensors: bytes | None
    """The bytes after the JSON; None without the header."""


def split_body(scope: Scope, body: bytes) -> Parts:
    """Split a body into its JSON and the tensor data after it.

    Raises:
        ApiError: 400 if the header is not a length within the body.
    """
    value = header(scope, LENGTH_HEADER)
    if value is None:
        return Parts(body, None)
    if not (value.isdigit() and len(value) < 20) or int(value) > len(body):
        raise ApiError(
            400,
            f"Inference-Header-Content-Length is {quoted(value)}; it must be the length of the JSON, at most "
            f"the {len(body)} bytes of the body",
        )
    return Parts(body[: int(value)], body[int(value) :])


def attach(inputs: Sequence[InferInput], tensors: bytes | None) -> None:
    """Set ``data`` of every binary input to the elements that JSON would have held.

    A NaN becomes None, a missing value, because binary tensors have no null.

    Raises:
        ApiError: 400 if the data do not match the inputs' sizes, shapes and datatypes.
    """
    at = 0
    for tensor in inputs:
        size = _size_of(tensor, tensors)
        if size is None:
            continue
        assert tensors is not None
        if size > len(tensors) - at:
            raise ApiError(
                400,
                f"input {tensor.name[:60]!r} has binary_data_size {size}, "
                f"but only {len(tensors) - at} bytes remain after the JSON",
            )
        tensor.data = _elements(tensor, tensors[at : at + size])
        at += size
    if tensors is not None and at < len(tensors):
        raise ApiError(
            400,
            f"{len(tensors)} bytes follow the JSON, but the inputs' binary_data_size add up to {at}",
        )


def _size_of(tensor: InferInput, tensors: bytes | None) -> int | None:
    """``binary_data_size`` of an input; None if its data are in the JSON."""
    parameters, name = tensor.parameters or {}, tensor.name[:60]
    if "shared_memory_region" in parameters:
        raise ApiError(400, f"input {name!r} uses shared memory, which is not supported; send its data")
    if "binary_data_size" not in parameters:
        if tensor.data is None:
            raise ApiError(
                400,
                f"input {name!r} has no data; send data, or binary_data_size and the bytes after the JSON",
            )
        return None
    size = parameters["binary_data_size"]
    if type(size) is not int or size < 0:
        raise ApiError(
            400, f"input {name!r}: binary_data_size must be a number of bytes, got {str(size)[:60]!r}"
        )
    if tensor.data is not None:
        raise ApiError(400, f"input {name!r} has both data and binary_data_size; send one of them")
    if tensors is None:
        raise ApiError(
            400,
            f"input {name!r} has binary_data_size; send the JSON's length in the header "
            "Inference-Header-Content-Length, or the data as JSON (tritonclient: binary_data=False)",
        )
    return size


def _elements(tensor: InferInput, data: bytes) -> list[Any]:
    if min(tensor.shape, default=0) < 0:
        raise ApiError(400, f"input {tensor.name[:60]!r} has shape {str(tensor.shape)[:60]}")
    count = math.prod(tensor.shape)
    if tensor.datatype == "BYTES":
        return _texts(tensor, data, count)
    dtype = DTYPES[tensor.datatype]
    if len(data) != count * dtype.itemsize:
        raise ApiError(
            400,
            f"input {tensor.name[:60]!r} has {len(data)} bytes; shape {str(tensor.shape)[:60]} of "
            f"{tensor.datatype} needs {str(count * dtype.itemsize)[:40]}",
        )
    elements: list[Any] = np.frombuffer(data, dtype).tolist()
    if dtype.kind == "f":
        return [None if math.isnan(element) else element for element in elements]
    return elements


def _texts(tensor: InferInput, data: bytes, count: int) -> list[Any]:
    texts: list[Any] = []
    at = 0
    while at < len(data) and len(texts) <= count:
        start = at + _LENGTH.size
        stop = start + (_LENGTH.unpack_from(data, at)[0] if start <= len(data) else 0)
        if max(start, stop) > len(data):
            raise ApiError(
                400, f"input {tensor.name[:60]!r}: element {len(texts)} ends beyond the tensor's bytes"
            )
        try:
            texts.append(data[start:stop].decode())
        except UnicodeDecodeError:
            raise ApiError(
                400, f"input {tensor.name[:60]!r}: element {len(texts)} is not valid UTF-8"
            ) from None
        at = stop
    if len(texts) != count:
        more = "more than " if len(texts) > count else ""
        raise ApiError(
            400,
            f"input {tensor.name[:60]!r} has {more}{min(len(texts), count)} elements; its shape "
            f"{str(tensor.shape)[:60]} has {str(count)[:40]}",
        )
    return texts


def float_bytes(values: Sequence[float]) -> bytes:
    """Values as the binary data of an FP32 tensor."""
    return np.asarray(values, "<f4").tobytes()
