"""The forward pass of any network in torch, for backbones without a compiled one."""

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
"""Events per pass; bounds its memory."""


class TorchForward:
    """Logits of rows, from the arrays of one snapshot. Stateless.

    The events of a request share matrix products, so the last bits of a candidate's probability may depend on
    the other candidates. The compiled forward pass does not have this effect.

    Raises:
        StateError: arrays are missing or do not have the shapes of the model.
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
        # torch needs writable arrays; those of a snapshot are mapped read-only.
        self._weights = {name: torch.from_numpy(array.copy()) for name, array in dense.items()}
        self._table = rows
        self._fields = len(fields)
        self._slot_field = np.array(slot_fields(fields), np.int64)
        self._mean = model.pooling == "mean"

    def logits(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """z float32 [B] of rows int64 [B, S], ABSENT for an empty slot."""
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
        """Use one thread per request, as the compiled pass does: requests must not compete for cores."""
        torch.set_num_threads(1)
