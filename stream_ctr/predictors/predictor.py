"""One snapshot as a predictor: features to keys, keys to rows, rows to probabilities.

Predicting changes no state: neither counts nor vocabulary. A value without its own row uses the default row
of its field.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_ctr.config.features import FieldConfig
from stream_ctr.errors import StateError
from stream_ctr.features.keys.encoder import KeyEncoder
from stream_ctr.features.keys.tally import Tally
from stream_ctr.features.keys.value_batch import Features
from stream_ctr.features.rows.vocabulary import lookup_rows
from stream_ctr.predictors.finite import check_finite
from stream_ctr.predictors.forward import build_forward
from stream_ctr.predictors.snapshot import LoadedSnapshot
from stream_ctr.state.state import Arrays


class Predictor:
    """The forward pass of one snapshot.

    Raises:
        StateError: the snapshot's arrays do not match its model or fields.
    """

    def __init__(self, snapshot: LoadedSnapshot, previous: Predictor | None = None) -> None:
        """``previous`` is the predictor that this one replaces; its encoder is reused if still valid."""
        self.snapshot = snapshot
        self.version = snapshot.version
        self.model_version = snapshot.manifest.model_version
        self.fields = snapshot.manifest.fields
        self._scheme = None if any(map(_learns, self.fields)) else msgspec.json.encode(self.fields)
        """The fields as bytes, compared at every request; None if keys depend on the stream."""
        self._encoder = self._encoder_after(previous)
        table = _checked_table(snapshot.vocabulary, len(self.fields), len(snapshot.rows))
        self._table_keys, self._table_rows = table
        self._forward = build_forward(snapshot.model, self.fields, snapshot.dense, snapshot.rows)

    def _encoder_after(self, previous: Predictor | None) -> KeyEncoder:
        if previous is not None and self.shares_keys(previous):
            return previous._encoder
        encoder = KeyEncoder(self.fields)
        encoder.load_state(self.snapshot.encoder)
        return encoder

    def warm_up(self) -> None:
        """Predict once, so that no request waits for compilation."""
        self._forward.prepare()
        self.probabilities(self.encode([{}]))

    def check_finite(self) -> None:
        """Raises StateError if predictions are not finite: the model has diverged."""
        check_finite(self.snapshot, self._forward)

    def shares_keys(self, other: Predictor) -> bool:
        """Whether both encode the same features to the same keys, so that they can share one encoding."""
        return self._scheme is not None and self._scheme == other._scheme

    def encode(self, features: Sequence[Features], tally: Tally | None = None) -> NDArray[np.uint64]:
        """Keys uint64 [B, S] of the features of B impressions. ``tally`` decides whether features outside the
        schema are ignored, and counts them; without it, they are rejected.

        Raises:
            RecordError: a name or value does not match the schema.
        """
        return self._encoder.peek_keys_many(features, tally)

    def encode_request(
        self, context: Features, candidates: Sequence[Features], tally: Tally | None = None
    ) -> NDArray[np.uint64]:
        """Keys uint64 [B, S] of B candidates in one context: a faster
        ``encode([{**context, **own} for own in candidates], tally)``.

        Raises:
            RecordError: a name or value does not match the schema.
        """
        return self._encoder.peek_request_keys(context, candidates, tally)

    def rows(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Rows int64 [B, S] of keys uint64 [B, S]; ABSENT for an empty slot."""
        return lookup_rows(keys, self._table_keys, self._table_rows, self._encoder.slot_field)

    def logits(self, keys: NDArray[np.uint64]) -> NDArray[np.float32]:
        """Logits float32 [B] of keys uint64 [B, S]."""
        return self._forward.logits(self.rows(keys))

    def probabilities(self, keys: NDArray[np.uint64]) -> NDArray[np.float32]:
        """Click probabilities float32 [B] of keys uint64 [B, S]."""
        return self._forward.probabilities(self.rows(keys))


def _checked_table(
    vocabulary: Arrays, fields: int, rows: int
) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """The vocabulary's keys and rows. Compiled code does not check them, so they are checked here once.

    Raises:
        StateError: a lookup would not terminate, or would return a row beyond the table.
    """
    if vocabulary.keys() != {"table_keys", "table_rows"}:
        names = ", ".join(sorted(vocabulary))
        raise StateError(f"the snapshot's vocabulary has the arrays {names}, not table_keys and table_rows")
    keys, table_rows = vocabulary["table_keys"], vocabulary["table_rows"]
    places = keys.size
    whole = keys.shape == table_rows.shape == (places,) and places > 0 and places & (places - 1) == 0
    if not whole or keys.dtype != np.uint64 or bool(keys.all()):
        raise StateError(f"the snapshot's vocabulary is {keys.dtype} {list(keys.shape)}, not a table of keys")
    used = table_rows[keys != 0]
    if max(fields - 1, int(used.max(initial=0))) >= rows or int(used.min(initial=0)) < 0:
        raise StateError(f"the snapshot's vocabulary refers to rows beyond its {rows} rows")
    return keys, table_rows


def _learns(field: FieldConfig) -> bool:
    """Whether the field's keys depend on the stream so far."""
    return field.kind == "float" and not field.boundaries
