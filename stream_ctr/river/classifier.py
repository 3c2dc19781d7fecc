"""Every learner of Stream CTR as a classifier of river."""

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

    It takes dicts as they come: numbers, texts, bools and lists of them, without a schema, scaler or
    encoder before it, and features may appear and vanish at any time. :mod:`stream_ctr.river.encoding`
    tells what a value becomes. ``learn_many`` is ``learn_one`` of each row in order, bit for bit and faster.

    Parameters
    ----------
    model
        The network; the product's default, a 128-64 tower with Skip Meta Logit, if not given.
    optimizer
        A configuration, or the name of a preset such as ``helen``; the product's default if not given.
    kind
        Implementation of the learning step: ``compiled``, ``torch``, or ``auto``, which takes the
        compiled one where it can.
    device
        ``cpu``, ``cuda`` or ``cuda:N`` for the torch implementation; ``auto`` takes a GPU where there is one.
    fields
        Fields of the network. The first ``fields - 1`` features each have one of their own; those that come
        later share the last. Reserved fields that no feature uses cost time, not quality.
    max_values
        Values of one feature in one event that are told apart, for lists; at least 2.
    buckets
        Quantile buckets of a numeric feature.
    seed
        Seed of every initial weight.

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
            raise ModelError(f"kind = {kind!r} is no learner of ours; choose auto, compiled or torch")
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
        """Bytes: river's count, and the embedding rows, which it cannot see."""
        return super()._raw_memory_usage + self._learner.row_bytes

    @property
    def feature_names(self) -> list[base.typing.FeatureName]:
        """Features that have a field of their own, in the order in which they got it."""
        return self._learner.names

    @property
    def skipped_updates(self) -> int:
        """Updates that were left out because they were not finite."""
        return self._learner.skipped

    def learn_one(
        self, x: dict[base.typing.FeatureName, Any], y: base.typing.ClfTarget, w: float = 1.0
    ) -> None:
        """Learn one event with weight ``w``.

        Raises:
            RecordError: a feature's value has no meaning here.
            UsageError: the label is neither True nor False (1 nor 0), or the weight is no weight.
        """
        self._learner.learn([x], [_label(y)], [_weight(w)])

    def predict_proba_one(
        self, x: dict[base.typing.FeatureName, Any], **kwargs: Any
    ) -> dict[base.typing.ClfTarget, float]:
        """Probabilities of False and True; changes nothing.

        Raises:
            RecordError: a feature's value has no meaning here.
        """
        p = float(self._learner.predict([x])[0])
        return {False: 1.0 - p, True: p}

    def learn_many(self, X: pd.DataFrame, y: pd.Series, w: float | pd.Series = 1.0) -> None:
        """Learn the rows of a dataframe in order, each by itself; a missing cell is a missing feature.

        Raises:
            RecordError: a feature's value has no meaning here; no row is learned.
            UsageError: a label or weight is none, or there are more or fewer than rows; no row is learned.
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
        """Probabilities of False and True for each row, in a dataframe of the same kind and index.

        Raises:
            RecordError: a feature's value has no meaning here.
        """
        frame = _frame(X)
        p = self._learner.predict(_events(frame))
        found: pd.DataFrame = cast(Any, dataframe.to_native_frame({False: 1.0 - p, True: p}, like=frame))
        return found

    def predict_many(self, X: pd.DataFrame) -> pd.Series:
        """Whether a click is the likelier outcome, for each row.

        Raises:
            RecordError: a feature's value has no meaning here.
        """
        frame = _frame(X)
        clicked = self._learner.predict(_events(frame)) > 0.5
        found: pd.Series = cast(Any, dataframe.to_native_series(clicked, name=None, like=frame))
        return found

    def state(self) -> State:
        """Everything learned, as named arrays and JSON values: what a copy of the classifier is made of."""
        return self._learner.state()

    def load_state(self, state: State) -> None:
        """Become the classifier, of the same parameters, that handed out ``state``.

        Raises:
            StateError: it is damaged, or of other parameters.
        """
        self._learner.load_state(state)


def _frame(X: Any) -> nw.DataFrame[Any]:
    """The dataframe, of whatever kind that river takes, by one interface."""
    return dataframe.into_frame(X)


def _values(column: Any) -> list[Any]:
    """The values of a series of such a kind."""
    return dataframe.into_series(column).to_list()


def _events(frame: nw.DataFrame[Any]) -> Sequence[Mapping[Any, Any]]:
    """The rows as dicts; what a cell lacks is left to the encoder, which takes it as missing."""
    columns = [(column.name, column.to_list()) for column in frame.iter_columns()]
    return [{name: values[row] for name, values in columns} for row in range(len(frame))]


def _label(y: Any) -> bool:
    """Raises UsageError for what is neither of the two labels."""
    try:
        known = y in (0, 1)  # False and True, numpy's and floats among them
    except (TypeError, ValueError):  # an array, or a value that compares to nothing
        known = False
    if not known:
        raise UsageError(
            f"y = {y!r} is neither True nor False (1 nor 0): this classifier tells clicks from others"
        )
    return bool(y)


def _weight(w: float) -> float:
    """Raises UsageError for what is no weight."""
    if not (math.isfinite(w) and w >= 0.0):
        raise UsageError(f"w = {w!r} is no weight; choose a finite number, 0 or more")
    return float(w)
