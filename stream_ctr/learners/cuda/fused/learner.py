"""The CUDA graph learner with a fused step, for the dnn family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from subprocess import SubprocessError
from typing import ClassVar

import torch
from triton.errors import TritonError

from stream_ctr.config.label_policy import LabelLoss
from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import ModelError
from stream_ctr.learners.cuda.fused.plan import Blocks
from stream_ctr.learners.cuda.fused.step import FusedStep
from stream_ctr.learners.cuda.graph import Run, recorded
from stream_ctr.learners.cuda.learner import CudaGraphLearner, Kind
from stream_ctr.learners.cuda.support import why_not_fused
from stream_ctr.learners.torch.step import TorchStep


class FusedLearner(CudaGraphLearner):
    """Learns as :class:`CudaGraphLearner` does, with a tenth of the operations per step.

    It inherits chunks, recording, row initialisation, growth and states; see
    :class:`~stream_ctr.learners.cuda.fused.step.FusedStep` for the step.
    """

    kind: ClassVar[str] = "cuda-fused"

    def __init__(
        self,
        model: ModelConfig,
        optimizer: OptimizerConfig,
        learner: LearnerConfig,
        slot_field: Sequence[int],
        fields: int,
        *,
        dtype: torch.dtype = torch.float32,
        labels: LabelLoss | None = None,
        record: Callable[[Run], Run] = recorded,
        blocks: Blocks | None = None,
    ) -> None:
        """As :class:`CudaGraphLearner`; ``blocks`` are the tile sizes of the kernels.

        Raises:
            ModelError: as there, or the fused step does not support a setting, or Triton cannot compile here.
        """
        self._sizes = blocks
        super().__init__(
            model, optimizer, learner, slot_field, fields, dtype=dtype, labels=labels, record=record
        )

    def _make_step(self) -> TorchStep:
        reason = why_not_fused(self._model, self._optimizer)
        if reason is not None:
            raise ModelError(f'the fused step does not support {reason}; set learner.kind = "cuda"')
        self._cursor_step = FusedStep(
            self._model,
            self._network,
            self._optimizer,
            self._seed,
            self._slot_field,
            self._fields,
            self._dtype,
            self._labels,
            self._sizes,
        )
        return self._cursor_step

    def _ready(self, kinds: set[Kind]) -> None:
        """See :class:`CudaGraphLearner`; kernels are compiled in the warm-up runs before a recording."""
        try:
            super()._ready(kinds)
        except (RuntimeError, OSError, SubprocessError, TritonError) as error:
            cause = " ".join(str(error).split())[:160]
            raise ModelError(
                f'Triton cannot run the fused step here ({cause}); set learner.kind = "cuda"'
            ) from error
