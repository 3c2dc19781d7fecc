"""The forward pass of any network, by torch: for the backbones that have no compiled one."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from stream_ctr.config.features import FieldConfig, slot_fields
from stream_ctr.config.model import ModelConfig
from stream_ctr.errors import ModelError, StateError
from stream_ctr.models.build import build_network
from stream_ctr.predictors.compiled_forward import check_arrays, pool_rows, sigmoid
from stream_ctr.state.state import Arrays

EVENTS = 1024
"""Events of one pass: bounds its memory."""


class TorchForward:
    """Logits of rows, from the arrays of one snapshot; holds no state of its own.

    The events of a request go through matrix products together, so a candidate's probability may differ in
    its last bits with what else is asked for; the compiled forward pass has the same bits always.

    Raises:
        StateError: arrays are missing or their shapes are not those of the model.
    """

    def __init__(
        self,
        model: ModelConfig,
        fields: tuple[FieldConfig, ...],
        dense: Arrays,
        rows: NDArray[np.float32],
    ) -> None:
        try:
            self._network = build_network(model, len(fields))
        except ModelError as error:
            raise StateError(f"the snapshot's model cannot be built: {error}") from None
        expected = {item.name: item.shape for item in self._network.layout.parameters}
        check_arrays(expected, self._network.row_width, dense, rows)
        # torch wants arrays that it may write to; a snapshot's are mapped read-only.
        self._weights = {name: torch.from_numpy(array.copy()) for name, array in dense.items()}
        self._table = rows
        self._fields = len(fields)
        self._slot_field = np.array(slot_fields(fields), np.int64)
        self._mean = model.pooling == "mean"

    def logits(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """z float32 [B] of rows int64 [B, S], ABSENT where a slot is empty."""
        z = np.empty(len(rows), np.float32)
        with torch.inference_mode():
            for start in range(0, len(rows), EVENTS):
                chunk = rows[start : start + EVENTS]
                pooled = pool_rows(chunk, self._slot_field, self._table, self._mean)
                x = torch.from_numpy(pooled).view(len(chunk), self._fields, -1)
                z[start : start + len(chunk)] = self._network.logit(self._weights, x).numpy()
        return z

    def probabilities(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Click probabilities float32 [B] of rows int64 [B, S]."""
        return sigmoid(self.logits(rows))

    def prepare(self) -> None:
        """One request, one thread, as the compiled pass has it: requests do not fight over the cores."""
        torch.set_num_threads(1)
