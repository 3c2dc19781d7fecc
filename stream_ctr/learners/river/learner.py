"""Any classifier of river as a learner: a peer in ``evaluate`` and, where its state can be saved, an arm.

For predictions, the weights of a model's rows are kept in an array.

river keeps its weights in dicts by feature. Making an array of all of them for every snapshot would hold the
learner up for as long as the vocabulary is large, so only the rows that were touched since are made again.
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
"""river clips gradients here: an event of more weight would be learned with another one, and is left out."""

SAVED: Final = "river-ftrl, river-lr and river-fm"


def click_probability(answer: Mapping[Any, float] | None) -> float:
    """The probability of a click, from whatever ``predict_proba_one`` answered.

    Nothing, as before the first event, is 0.5, and so is what is no number. An answer without True is 0.
    Values that do not add up to 1 are taken as shares of their sum; the result is kept inside (0, 1).

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
    """A classifier of river behind the learner contract.

    A classifier that gives no probabilities is taken at its word: its label as 1 or 0. One that takes no
    weights learns each event once, unless its weight is 0. An event is left out, and flagged as skipped,
    when its label or weight is no number, or its weight is above 1e12, where river clips gradients.
    """

    def __init__(
        self, name: str, classifier: base.Classifier, inputs: Inputs, codec: Codec | None = None
    ) -> None:
        """``codec`` is that of the classifier, which is then asked only about features that it knows."""
        self._name, self._classifier, self._inputs, self._codec = name, classifier, inputs, codec
        self._learn_one: Callable[..., None] = classifier.learn_one
        self._takes_weight = "w" in inspect.signature(classifier.learn_one).parameters
        self._gives_probability = True
        self._learned = 0
        self._pristine = True
        self._weights = RowWeights(codec) if codec is not None and isinstance(inputs, OneHot) else None

    @property
    def saved(self) -> bool:
        """Whether there is a state that :meth:`load_state` goes on from."""
        return self._codec is not None and isinstance(self._inputs, OneHot)

    def learn(self, batch: Batch) -> LearnResult:
        """See :class:`stream_ctr.learners.base.Learner`.

        Raises:
            ModelError: the classifier cannot learn the events; its own reason is given.
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
        """What the classifier learned, and which feature each row is.

        Before its first event there is a state of every classifier: that nothing was learned.

        Raises:
            StateError: nothing can be saved of this classifier.
        """
        if self._pristine and not self.saved:
            return State({}, {"river": self._name, "learned": 0})
        if self._codec is None or not isinstance(self._inputs, OneHot):
            raise StateError(
                f"{self._name} cannot be saved; use it in evaluate, or choose {SAVED} for an arm"
            )
        parts = State.gather({"classifier": self._codec.state(), "rows": self._inputs.state()})
        return State(parts.arrays, {**parts.values, "river": self._name, "learned": self._learned})

    def weights(self) -> State:
        """What predictions need: ``intercept`` float64 [1], ``rows`` float64 [R, 1 + factors], and the form
        of the model under ``river``.

        Raises:
            StateError: the classifier's answers are no sum over rows, so that no snapshot can give them.
        """
        codec, inputs = self._codec, self._inputs
        if codec is None or self._weights is None or not isinstance(inputs, OneHot):
            raise StateError(
                f"{self._name} cannot serve from a snapshot; an arm that serves takes a network or {SAVED}"
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
                f"{self._name} cannot be loaded; use it in evaluate, or choose {SAVED} for an arm"
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
            "leave it out, or choose another classifier"
        )


class RowWeights:
    """Weights float64 [R, codec.width] by row, of the features that the rows belong to."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._table = np.zeros((0, codec.width))
        self._stale: set[int] = set()
        self._rows = 0

    def touch(self, rows: Iterable[int]) -> None:
        """The model has learned of these rows, or they have become another feature's; negative ones are
        none."""
        self._stale.update(rows)

    def table(self, feature: Callable[[int], Feature]) -> NDArray[np.float64]:
        """A copy of all rows as of now, R the largest row touched so far plus 1."""
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
