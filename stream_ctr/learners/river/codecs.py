"""The state of river models that can serve as arms, as arrays and values; nothing is pickled.

river's models keep their parameters in dicts by feature. A codec writes each dict as an array over the
features in ascending order. After loading, learning continues bit for bit: the numbers are the same, and none
of these models depends on the order of its dicts.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Literal, Protocol

import numpy as np
from river import base, facto, linear_model, optim
from river.utils import VectorDict

from stream_ctr.errors import StateError
from stream_ctr.learners.river.inputs import feature_arrays, saved_array, saved_features
from stream_ctr.state.state import Json, State


class Codec(Protocol):
    """Saves and restores the parameters of one river model."""

    form: Literal["logistic", "factorisation"]
    """How the logit of an event is computed from its features."""

    def state(self) -> State:
        """A copy of the complete state of the model."""
        ...

    def load_state(self, state: State) -> None:
        """Restore the model that produced ``state``; on an error the model is unchanged."""
        ...

    def knows(self, feature: Hashable) -> bool:
        """Whether a prediction with this feature leaves the model unchanged."""
        ...

    @property
    def width(self) -> int:
        """Numbers per feature: its weight and its latent factors."""
        ...

    @property
    def intercept(self) -> float:
        """The intercept of the logit."""
        ...

    def row(self, feature: Hashable) -> list[float]:
        """[width] weight and factors of a feature; 0 for a feature that was never learned."""
        ...


class LogisticCodec:
    """``LogisticRegression`` with SGD or FTRL-Proximal, and no L1 penalty."""

    form: Literal["logistic", "factorisation"] = "logistic"

    def __init__(self, model: linear_model.LogisticRegression) -> None:
        self._model = model
        self._ftrl = model.optimizer if isinstance(model.optimizer, optim.FTRLProximal) else None

    def state(self) -> State:
        """field, key, weight, and with FTRL z and n: [K] each."""
        weights: dict[Any, float] = self._model.weights
        tables = {"weight": weights}
        if self._ftrl is not None:
            tables |= {"z": self._ftrl.z, "n": self._ftrl.n}
        features = sorted(set().union(*tables.values()))
        arrays = {
            name: np.array([table.get(feature, 0.0) for feature in features], np.float64)
            for name, table in tables.items()
        }
        values: dict[str, Json] = {
            "intercept": float(self._model.intercept),
            "iterations": int(self._model.optimizer.n_iterations),
        }
        return State({**feature_arrays(features), **arrays}, values)

    def load_state(self, state: State) -> None:
        """See :class:`Codec`.

        Raises:
            StateError: the arrays are inconsistent, or belong to another optimizer.
        """
        features = saved_features(state)
        names = ("weight", "z", "n") if self._ftrl is not None else ("weight",)
        tables = {
            name: dict(
                zip(features, saved_array(state, name, np.float64, (len(features),)).tolist(), strict=True)
            )
            for name in names
        }
        intercept, iterations = _number(state, "intercept", float), _number(state, "iterations", int)
        self._model._weights = VectorDict(tables["weight"])
        self._model.intercept = intercept
        self._model.optimizer.n_iterations = iterations
        if self._ftrl is not None:
            for table, name in ((self._ftrl.z, "z"), (self._ftrl.n, "n")):
                table.clear()
                table.update(tables[name])

    def knows(self, feature: Hashable) -> bool:
        """Always True: an unknown feature has weight 0."""
        return True

    @property
    def width(self) -> int:
        """See :class:`Codec`."""
        return 1

    @property
    def intercept(self) -> float:
        """See :class:`Codec`."""
        return float(self._model.intercept)

    def row(self, feature: Hashable) -> list[float]:
        """See :class:`Codec`."""
        return [float(self._model._weights.get(feature, 0.0))]


class FactorisationCodec:
    """``FMClassifier`` with SGD; the state includes its generator of initial factors."""

    form: Literal["logistic", "factorisation"] = "factorisation"

    def __init__(self, model: facto.FMClassifier) -> None:
        self._model = model

    def state(self) -> State:
        """field, key, weight [K]; latent [K, factors]; the generator's Mersenne twister, uint32 [624]."""
        model = self._model
        features = sorted(model.latents)
        latents = [model.latents[feature] for feature in features]
        _, twister, position, has_gauss, gauss = model.latent_initializer._rng.get_state()
        arrays = {
            **feature_arrays(features),
            "weight": np.array([model.weights[feature] for feature in features], np.float64),
            "latent": np.array(latents, np.float64).reshape(len(features), model.n_factors),
            "twister": np.array(twister, np.uint32),
        }
        values: dict[str, Json] = {
            "intercept": float(model.intercept),
            "weight_iterations": int(model.weight_optimizer.n_iterations),
            "latent_iterations": int(model.latent_optimizer.n_iterations),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "gauss": float(gauss),
        }
        return State(arrays, values)

    def load_state(self, state: State) -> None:
        """See :class:`Codec`.

        Raises:
            StateError: the arrays are inconsistent, or the number of factors differs.
        """
        model, features = self._model, saved_features(state)
        weight = saved_array(state, "weight", np.float64, (len(features),))
        latent = saved_array(state, "latent", np.float64, (len(features), model.n_factors))
        twister = saved_array(state, "twister", np.uint32, (624,))
        position, has_gauss = _number(state, "position", int), _number(state, "has_gauss", int)
        if not (0 <= position <= 624 and has_gauss in (0, 1)):
            raise StateError(f"the saved river model's generator is at {position}: the file is damaged")
        gauss, intercept = _number(state, "gauss", float), _number(state, "intercept", float)
        iterations = _number(state, "weight_iterations", int), _number(state, "latent_iterations", int)
        model.weights.clear()
        model.weights.update(zip(features, weight.tolist(), strict=True))
        model.latents.clear()
        model.latents.update(zip(features, (row.copy() for row in latent), strict=True))
        model.intercept = intercept
        model.weight_optimizer.n_iterations, model.latent_optimizer.n_iterations = iterations
        model.latent_initializer._rng.set_state(("MT19937", twister, position, has_gauss, gauss))

    def knows(self, feature: Hashable) -> bool:
        """True for learned features; for any other the model would draw new factors."""
        return feature in self._model.latents

    @property
    def width(self) -> int:
        """See :class:`Codec`."""
        return 1 + int(self._model.n_factors)

    @property
    def intercept(self) -> float:
        """See :class:`Codec`."""
        return float(self._model.intercept)

    def row(self, feature: Hashable) -> list[float]:
        """See :class:`Codec`."""
        if not self.knows(feature):
            return [0.0] * self.width
        return [float(self._model.weights[feature]), *map(float, self._model.latents[feature])]


def codec_of(model: base.Classifier) -> Codec | None:
    """The codec of a model; None if its state cannot be saved.

    >>> codec_of(linear_model.Perceptron()) is None
    True
    """
    if type(model) is linear_model.LogisticRegression and model.l1 == 0.0:
        return LogisticCodec(model) if type(model.optimizer) in (optim.SGD, optim.FTRLProximal) else None
    if type(model) is facto.FMClassifier:
        return FactorisationCodec(model)
    return None


def _number(state: State, name: str, kind: type[float] | type[int]) -> Any:
    """A saved number; raises StateError if it is missing or not a number."""
    value = state.values.get(name)
    if not isinstance(value, int if kind is int else int | float) or isinstance(value, bool):
        raise StateError(f"the saved river model's {name} is {value!r}, not a number: the file is damaged")
    return kind(value)
