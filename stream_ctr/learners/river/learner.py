"""Any classifier of river as a learner: a baseline in ``evaluate`` and, if its state can be saved, an arm.

river keeps weights in dicts by feature; snapshots need them in an array by row. Rebuilding the whole array
for every snapshot would block the learner for a time proportional to the vocabulary, so only rows that were
touched since the previous snapshot are updated.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from river import base

from stream_ctr.batch import LEARN, PREDICT, Batch
from stream_ctr.errors import ModelError, StateError
from stream_ctr.learners.base import LearnResult
from stream_ctr.learners.river.codecs import Codec
from stream_ctr.learners.river.inputs import Feature, Inputs, OneHot
from stream_ctr.predictors.river_forward import LEAST, MOST, RiverModel
from stream_ctr.state.state import State

LARGEST_WEIGHT: Final = 1e12
"""river clips gradients at this value. Events with a larger weight would be learned with a smaller one, so
they are skipped."""

SAVED: Final = "river-ftrl, river-lr or river-fm"
"""The named classifiers whose state can be saved, for messages."""


def click_probability(answer: Mapping[Any, float] | None) -> float:
    """The probability of a click, from the result of ``predict_proba_one``.

    An empty result, as before the first event, and non-finite values give 0.5. A result without True gives 0.
    Values that do not add up to 1 are normalised by their sum. The result is clipped to stay inside (0, 1).

    >>> [click_probability(answer) for answer in (None, {}, {True: math.nan}, {False: 3.0, True: 1.0})]
    [0.5, 0.5, 0.5, 0.25]
    """
    if not answer:
        return 0.5
    p, total = float(answer.get(True, 0.0)), float(sum(answer.values()))
    if not (math.isfinite(p) and math.isfinite(total)):
        return 0.5
    if len(answer) > 1 and abs(total - 1.0) > 1e-9:
        p = p / total if total > 0.0 else 0.5
    return min(max(p, LEAST), MOST)


class RiverLearner:
    """Adapts a classifier of river to the learner contract.

    If a classifier gives no probabilities, its label counts as 1 or 0. If it takes no weights, it learns each
    event once, unless the weight is 0. An event is skipped and flagged if its label is not finite, or its
    weight is negative, NaN or above 1e12, where river clips gradients.
    """

    def __init__(
        self, name: str, classifier: base.Classifier, inputs: Inputs, codec: Codec | None = None
    ) -> None:
        """With ``codec``, predictions use only features that the classifier knows."""
        self._name, self._classifier, self._inputs, self._codec = name, classifier, inputs, codec
        self._learn_one: Callable[..., None] = classifier.learn_one
        self._takes_weight = "w" in inspect.signature(classifier.learn_one).parameters
        self._gives_probability = True
        self._learned = 0
        self._pristine = True
        self._weights = RowWeights(codec) if codec is not None and isinstance(inputs, OneHot) else None

    @property
    def saved(self) -> bool:
        """Whether the state can be saved and loaded."""
        return self._codec is not None and isinstance(self._inputs, OneHot)

    def learn(self, batch: Batch) -> LearnResult:
        """See :class:`stream_ctr.learners.base.Learner`.

        Raises:
            ModelError: the classifier failed; the message contains its error.
        """
        count = len(batch)
        self._pristine = self._pristine and not count
        result = LearnResult(np.zeros(count, np.float32), np.zeros(count, np.bool_), np.zeros(count))
        first = np.searchsorted(batch.changes.event, np.arange(count + 1)).tolist()
        learns = ((batch.action & LEARN) > 0).tolist()
        asks = ((batch.action & (PREDICT | LEARN)) > 0).tolist()
        for b in range(count):
            start = time.perf_counter()
            self._inputs.change(batch.changes, first[b], first[b + 1])
            if self._weights is not None and first[b] < first[b + 1]:
                self._weights.touch(batch.changes.row[first[b] : first[b + 1]].tolist())
            if not asks[b]:
                result.probability[b] = math.nan
                continue
            x = self._inputs.features(batch.rows[b])
            result.probability[b] = self._score(x)
            if learns[b]:
                label, weight = float(batch.label[b]), float(batch.weight[b])
                fit = math.isfinite(label) and 0.0 <= weight <= LARGEST_WEIGHT  # NaN is not
                result.skipped[b] = not fit
                if fit:
                    self._learn(x, label > 0.5, weight)
                    self._inputs.learned(batch.rows[b], label > 0.5)
                    if self._weights is not None:
                        self._weights.touch(batch.rows[b].tolist())
            result.seconds[b] = time.perf_counter() - start
        return result

    def predict(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """See :class:`stream_ctr.learners.base.Learner`."""
        return np.array([self._score(self._inputs.features(row)) for row in rows], np.float32)

    def state(self) -> State:
        """The parameters of the classifier, and the feature of each row.

        Before the first event, every classifier has a state, which is empty.

        Raises:
            StateError: this classifier cannot be saved.
        """
        if self._pristine and not self.saved:
            return State({}, {"river": self._name, "learned": 0})
        if self._codec is None or not isinstance(self._inputs, OneHot):
            raise StateError(
                f"the state of {self._name} cannot be saved; use it in evaluate, or choose {SAVED} for an arm"
            )
        parts = State.gather({"classifier": self._codec.state(), "rows": self._inputs.state()})
        return State(parts.arrays, {**parts.values, "river": self._name, "learned": self._learned})

    def weights(self) -> State:
        """The data that predictions need: ``intercept`` float64 [1], ``rows`` float64 [R, 1 + factors], and
        the form of the model under ``river``.

        Raises:
            StateError: the classifier has no logit that is a function of rows, so a snapshot cannot predict.
        """
        codec, inputs = self._codec, self._inputs
        if codec is None or self._weights is None or not isinstance(inputs, OneHot):
            raise StateError(
                f"{self._name} cannot serve from a snapshot; for a serving arm choose a network or {SAVED}"
            )
        model = RiverModel(self._name, codec.form, codec.width - 1)
        arrays = {"intercept": np.array([codec.intercept]), "rows": self._weights.table(inputs.feature)}
        return State(arrays, {"river": msgspec.to_builtins(model)})

    def load_state(self, state: State) -> None:
        """See :class:`stream_ctr.learners.base.Learner`."""
        name, learned = state.values.get("river"), state.values.get("learned")
        if self._codec is None or not isinstance(self._inputs, OneHot):
            if (name, learned, self._pristine) == (self._name, 0, True) and not state.arrays:
                return
            raise StateError(
                f"no state of {self._name} can be loaded; use it in evaluate, or choose {SAVED} for an arm"
            )
        if name != self._name or not isinstance(learned, int):
            raise StateError(
                f"the saved learner is {name or 'a network'}, this one is {self._name}; "
                "resume with the learner that saved it"
            )
        inputs = OneHot()
        inputs.load_state(state.part("rows"))
        self._codec.load_state(state.part("classifier"))
        self._inputs, self._learned = inputs, learned
        self._weights = RowWeights(self._codec)
        self._weights.touch(inputs.rows())

    def _learn(self, x: dict[Hashable, Any], clicked: bool, weight: float) -> None:
        try:
            if self._takes_weight:
                self._learn_one(x, clicked, w=weight)
            elif weight > 0.0:
                self._learn_one(x, clicked)
        except Exception as error:
            raise self._failure("learn", error) from error
        self._learned += 1

    def _score(self, x: dict[Hashable, Any]) -> float:
        if self._codec is not None:
            x = {feature: value for feature, value in x.items() if self._codec.knows(feature)}
        try:
            if self._gives_probability:
                try:
                    return click_probability(self._classifier.predict_proba_one(x))
                except NotImplementedError:
                    self._gives_probability = False
            label = self._classifier.predict_one(x)
        except Exception as error:
            raise self._failure("predict", error) from error
        return click_probability(None if label is None else {True: float(bool(label))})

    def _failure(self, verb: str, error: Exception) -> ModelError:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return ModelError(
            f"{self._name} could not {verb} event {self._learned + 1} ({type(error).__name__}: {reason}); "
            "skip the event, or choose another classifier"
        )


class RowWeights:
    """Weights float64 [R, codec.width] by row, those of the feature of each row."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._table = np.zeros((0, codec.width))
        self._stale: set[int] = set()
        self._rows = 0

    def touch(self, rows: Iterable[int]) -> None:
        """Mark rows whose weights or feature have changed; negative rows are ignored."""
        self._stale.update(rows)

    def table(self, feature: Callable[[int], Feature]) -> NDArray[np.float64]:
        """A current copy of all rows; R is the largest row touched so far plus 1."""
        self._stale.discard(-1)
        if self._stale:
            self._reserve(max(self._stale) + 1)
            for row in self._stale:
                self._table[row] = self._codec.row(feature(row))
            self._stale.clear()
        return self._table[: self._rows].copy()

    def _reserve(self, rows: int) -> None:
        self._rows = max(self._rows, rows)
        if rows > len(self._table):
            longer = np.zeros((max(rows, 2 * len(self._table)), self._table.shape[1]))
            longer[: len(self._table)] = self._table
            self._table = longer
