"""Learners of Stream CTR as a river classifier."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from river import base
from river.utils import dataframe

from stream_ctr.config.learner import LearnerConfig
from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import ModelError, UsageError
from stream_ctr.optim.presets import preset
from stream_ctr.river.dict_learner import DictLearner, DictLearnerConfig
from stream_ctr.state.state import State

if TYPE_CHECKING:
    import narwhals.stable.v2 as nw
    import pandas as pd


class CTRClassifier(base.MiniBatchClassifier):
    """A deep network with Skip Meta Logit, learned event by event, as a binary classifier of river.

    It accepts raw dicts of numbers, texts, bools and lists of these, without a schema, scaler or encoder.
    Features may appear and disappear at any time. :mod:`stream_ctr.river.encoding` describes the encoding of
    values. ``learn_many`` equals ``learn_one`` for each row in order, bit for bit, and is faster.

    Parameters
    ----------
    model
        The network. Default: a 128-64 tower with Skip Meta Logit.
    optimizer
        A configuration, or the name of a preset such as ``helen``. Default: the preset ``default``.
    kind
        Implementation of the learning step: ``compiled``, ``torch``, or ``auto``, which selects the
        compiled one if it supports the settings.
    device
        ``cpu``, ``cuda`` or ``cuda:N`` for the torch implementation; ``auto`` uses a GPU if there is one.
    fields
        Fields of the network. Each of the first ``fields - 1`` features has its own field; later features
        share the last one. Unused fields cost time, not quality.
    max_values
        Maximum number of values of one feature in one event, for lists; at least 2.
    buckets
        Quantile buckets of a numeric feature.
    seed
        Seed of the initial weights.

    Examples
    --------
    >>> from river import datasets, evaluate, metrics
    >>> model = CTRClassifier(fields=10)
    >>> evaluate.progressive_val_score(datasets.Phishing(), model, metrics.ROCAUC(n_thresholds=1000))
    ROCAUC: 96.64%

    References
    ----------
    Skip Meta Logit and Helen: see the product's documentation, ``docs/river.md``.
    """

    def __init__(
        self,
        model: ModelConfig | None = None,
        optimizer: OptimizerConfig | str | None = None,
        kind: Literal["auto", "compiled", "torch"] = "auto",
        device: str = "cpu",
        fields: int = 40,
        max_values: int = 4,
        buckets: int = 64,
        seed: int = 1,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.kind = kind
        self.device = device
        self.fields = fields
        self.max_values = max_values
        self.buckets = buckets
        self.seed = seed
        if kind not in ("auto", "compiled", "torch"):
            raise ModelError(f"kind = {kind!r} is unknown; choose auto, compiled or torch")
        if not isinstance(optimizer, OptimizerConfig):
            optimizer = preset(optimizer or "default")
        self._learner = DictLearner(
            DictLearnerConfig(
                model=ModelConfig() if model is None else model,
                optimizer=optimizer,
                learner=LearnerConfig(kind=kind, device=device, seed=seed),
                fields=fields,
                max_values=max_values,
                buckets=buckets,
            )
        )

    @classmethod
    def _unit_test_params(cls) -> Iterator[dict[str, Any]]:
        small = ModelConfig(embedding=4, hidden=(8,))
        yield {"model": small, "kind": "compiled", "fields": 12, "optimizer": "helen"}
        yield {"model": small, "kind": "torch", "fields": 12}

    @property
    def _multiclass(self) -> bool:
        return False

    @property
    def _raw_memory_usage(self) -> int:
        """Bytes: river's estimate plus the embedding rows, which it does not include."""
        return super()._raw_memory_usage + self._learner.row_bytes

    @property
    def feature_names(self) -> list[base.typing.FeatureName]:
        """Features with their own field, in the order of assignment."""
        return self._learner.names

    @property
    def skipped_updates(self) -> int:
        """Number of updates that were skipped because they were not finite."""
        return self._learner.skipped

    def learn_one(
        self, x: dict[base.typing.FeatureName, Any], y: base.typing.ClfTarget, w: float = 1.0
    ) -> None:
        """Learn one event with weight ``w``.

        Raises:
            RecordError: a feature has a name or value of an unsupported type.
            UsageError: the label is not True or False (1 or 0), or the weight is negative or not finite.
        """
        self._learner.learn([x], [_label(y)], [_weight(w)])

    def predict_proba_one(
        self, x: dict[base.typing.FeatureName, Any], **kwargs: Any
    ) -> dict[base.typing.ClfTarget, float]:
        """Probabilities of False and True; changes nothing.

        Raises:
            RecordError: a feature has a name or value of an unsupported type.
        """
        p = float(self._learner.predict([x])[0])
        return {False: 1.0 - p, True: p}

    def learn_many(self, X: pd.DataFrame, y: pd.Series, w: float | pd.Series = 1.0) -> None:
        """Learn the rows of a dataframe one by one, in order; a missing cell is a missing feature.

        On an error no row is learned.

        Raises:
            RecordError: a feature has a name or value of an unsupported type.
            UsageError: a label or weight is invalid, or their number differs from the number of rows.
        """
        events = _events(_frame(X))
        labels = [_label(each) for each in _values(y)]
        if isinstance(w, int | float):
            weights = [_weight(w)] * len(events)
        else:
            weights = [_weight(each) for each in _values(w)]
        if not len(events) == len(labels) == len(weights):
            raise UsageError(
                f"learn_many: {len(events)} rows, {len(labels)} labels, {len(weights)} weights do not match"
            )
        self._learner.learn(events, labels, weights)

    def predict_proba_many(self, X: pd.DataFrame) -> pd.DataFrame:
        """Probabilities of False and True for each row, as a dataframe of the same kind and index.

        Raises:
            RecordError: a feature has a name or value of an unsupported type.
        """
        frame = _frame(X)
        p = self._learner.predict(_events(frame))
        found: pd.DataFrame = cast(Any, dataframe.to_native_frame({False: 1.0 - p, True: p}, like=frame))
        return found

    def predict_many(self, X: pd.DataFrame) -> pd.Series:
        """Whether the probability of True exceeds 0.5, for each row.

        Raises:
            RecordError: a feature has a name or value of an unsupported type.
        """
        frame = _frame(X)
        clicked = self._learner.predict(_events(frame)) > 0.5
        found: pd.Series = cast(Any, dataframe.to_native_series(clicked, name=None, like=frame))
        return found

    def state(self) -> State:
        """The complete state as named arrays and JSON values; copies and pickles contain it."""
        return self._learner.state()

    def load_state(self, state: State) -> None:
        """Restore the classifier that produced ``state``; it must have the same parameters.

        Raises:
            StateError: the state is damaged, or belongs to other parameters.
        """
        self._learner.load_state(state)


def _frame(X: Any) -> nw.DataFrame[Any]:
    """A common interface to any kind of dataframe that river supports."""
    return dataframe.into_frame(X)


def _values(column: Any) -> list[Any]:
    """The values of any kind of series that river supports."""
    return dataframe.into_series(column).to_list()


def _events(frame: nw.DataFrame[Any]) -> Sequence[Mapping[Any, Any]]:
    """The rows as dicts; the encoder treats empty cells as missing."""
    columns = [(column.name, column.to_list()) for column in frame.iter_columns()]
    return [{name: values[row] for name, values in columns} for row in range(len(frame))]


def _label(y: Any) -> bool:
    """The label as a bool; raises UsageError if it is neither of the two."""
    try:
        known = y in (0, 1)  # False and True, numpy's and floats among them
    except (TypeError, ValueError):  # an array, or a value that cannot be compared
        known = False
    if not known:
        raise UsageError(f"y must be True or False (1 or 0) for this binary classifier, got {y!r}")
    return bool(y)


def _weight(w: float) -> float:
    """The weight as a float; raises UsageError if it is negative or not finite."""
    if not (math.isfinite(w) and w >= 0.0):
        raise UsageError(f"w must be a finite number of at least 0, got {w!r}")
    return float(w)
