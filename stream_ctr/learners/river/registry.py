"""river's classifiers by name, as learners."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable
from functools import cache
from typing import Final

from river import api, base, ensemble, facto, forest, linear_model, optim, tree

from stream_ctr.errors import ModelError
from stream_ctr.learners.river.codecs import codec_of
from stream_ctr.learners.river.inputs import ClickRates, OneHot
from stream_ctr.learners.river.learner import RiverLearner

PREFIX: Final = "river:"
_ONE_HOT: Final = ("linear_model.", "facto.")
_ONE_HOT_CLASSES: Final = tuple(
    f"naive_bayes.{name}NB" for name in ("Bernoulli", "Complement", "Multinomial")
)
"""Models that are linear in one-hot features; all others use the click rate of the value of each field."""


def _tree() -> tree.HoeffdingTreeClassifier:
    # Naive Bayes leaves multiply the rates of correlated fields, which makes predictions overconfident.
    return tree.HoeffdingTreeClassifier(leaf_prediction="mc")


NAMED: Final[dict[str, Callable[[int], base.Classifier]]] = {
    "river-ftrl": lambda seed: linear_model.LogisticRegression(optimizer=optim.FTRLProximal(alpha=0.1)),
    "river-lr": lambda seed: linear_model.LogisticRegression(optimizer=optim.SGD(0.01)),
    "river-fm": lambda seed: facto.FMClassifier(
        n_factors=8, latent_initializer=optim.initializers.Normal(sigma=0.01, seed=seed), seed=seed
    ),
    "river-tree": lambda seed: _tree(),
    "river-bagging": lambda seed: ensemble.ADWINBaggingClassifier(_tree(), n_models=10, seed=seed),
    "river-forest": lambda seed: forest.ARFClassifier(n_models=10, leaf_prediction="mc", seed=seed),
}
"""Factories of named classifiers, each taking a seed: logistic regression with FTRL-Proximal and with SGD,
factorisation machine, Hoeffding tree, ten bagged Hoeffding trees with drift detection, adaptive random
forest."""


def check_river_name(name: str) -> None:
    """Check that ``name`` refers to a classifier of river.

    Raises:
        ModelError: it does not; the message suggests similar names.
    """
    if name in NAMED:
        return
    if not name.startswith(PREFIX):
        near = difflib.get_close_matches(name, NAMED, n=1, cutoff=0.5)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ModelError(
            f"unknown river classifier {name!r}{hint}; choose {', '.join(NAMED)}, or {PREFIX}MODULE.CLASS"
        )
    path = name.removeprefix(PREFIX)
    if path in _classifiers():
        return
    raise ModelError(f"{name}: {_why_not(path)}")


def river_learner(name: str, seed: int = 1) -> RiverLearner:
    """The river classifier called ``name`` as a learner; ``seed`` is passed to classifiers that take one.

    >>> river_learner("river-lr").saved, river_learner("river:naive_bayes.GaussianNB").saved
    (True, False)

    Raises:
        ModelError: the name is unknown, or the classifier cannot be constructed on this machine.
    """
    check_river_name(name)
    seed %= 2**32  # the range of river's generators
    model = NAMED[name](seed) if name in NAMED else _make(name, seed)
    path = f"{type(model).__module__.removeprefix('river.')}.{type(model).__name__}"
    codec = codec_of(model)
    if path.startswith(_ONE_HOT) or f"naive_bayes.{type(model).__name__}" in _ONE_HOT_CLASSES:
        return RiverLearner(name, model, OneHot(as_text=path.startswith("facto.") and codec is None), codec)
    return RiverLearner(name, model, ClickRates())


def _make(name: str, seed: int) -> base.Classifier:
    made = _classifiers()[name.removeprefix(PREFIX)]
    takes_seed = "seed" in inspect.signature(made).parameters
    try:
        return made(seed=seed) if takes_seed else made()
    except Exception as error:  # constructors may raise anything
        raise ModelError(
            f"{name} cannot be constructed ({' '.join(str(error).split())}); choose another classifier"
        ) from error


@cache
def _classes() -> dict[str, type]:
    """Public classes of river by path, such as ``tree.HoeffdingTreeClassifier``."""
    found: dict[str, type] = {}
    for module in api.__all__:
        for name, value in vars(importlib.import_module(f"river.{module}")).items():
            if inspect.isclass(value) and not name.startswith("_"):
                found[f"{module}.{name}"] = value
    return found


@cache
def _classifiers() -> dict[str, Callable[..., base.Classifier]]:
    """The classifiers among them whose constructors need no arguments."""
    return {path: made for path, made in _classes().items() if _is_classifier(made) and not _needs(made)}


def _is_classifier(made: type) -> bool:
    single = issubclass(made, base.Classifier) and not issubclass(made, base.MultiLabelClassifier)
    return single and not inspect.isabstract(made)


def _needs(made: type) -> list[str]:
    """Required arguments of a constructor."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(made).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind not in kinds]


def _why_not(path: str) -> str:
    if path not in _classes():
        near = difflib.get_close_matches(path, _classifiers(), n=3, cutoff=0.4)
        known = ", ".join(near or list(_classifiers())[:3])
        return f"river has no class with this path; similar ones are {known}"
    made = _classes()[path]
    if not _is_classifier(made):
        return "is not a single-label classifier; choose one, e.g. naive_bayes.GaussianNB"
    return f"needs the arguments {', '.join(_needs(made))}; choose a classifier without required arguments"
