"""river's classifiers by name, ready to learn beside ours."""

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
"""Models that are linear in one-hot features; every other one sees the click rate of each field's value."""


def _tree() -> tree.HoeffdingTreeClassifier:
    # Naive Bayes in the leaves multiplies the rates of fields that say the same: far too sure of itself.
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
"""Classifiers by name, made from a seed: FTRL-Proximal, SGD, factorisation machine, one Hoeffding tree, ten
bagged ones with drift detection, and an adaptive random forest."""


def check_river_name(name: str) -> None:
    """Check that the name means a classifier of river.

    Raises:
        ModelError: it does not; the nearest ones are named.
    """
    if name in NAMED:
        return
    if not name.startswith(PREFIX):
        near = difflib.get_close_matches(name, NAMED, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ModelError(
            f"no peer named {name!r}; {hint}Choose {', '.join(NAMED)}, or {PREFIX}MODULE.CLASS for any other"
        )
    path = name.removeprefix(PREFIX)
    if path in _classifiers():
        return
    raise ModelError(f"{name}: {_why_not(path)}")


def river_learner(name: str, seed: int = 1) -> RiverLearner:
    """The river classifier of that name as a learner; ``seed`` is for those that take one.

    >>> river_learner("river-lr").saved, river_learner("river:naive_bayes.GaussianNB").saved
    (True, False)

    Raises:
        ModelError: no classifier has that name.
    """
    check_river_name(name)
    seed %= 2**32  # what river's generators take
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
    except Exception as error:  # whatever the class itself asks of this machine
        raise ModelError(
            f"{name} cannot be made here ({' '.join(str(error).split())}); choose another"
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
    """The classifiers among them that need no argument."""
    return {path: made for path, made in _classes().items() if _is_classifier(made) and not _needs(made)}


def _is_classifier(made: type) -> bool:
    single = issubclass(made, base.Classifier) and not issubclass(made, base.MultiLabelClassifier)
    return single and not inspect.isabstract(made)


def _needs(made: type) -> list[str]:
    """Arguments without a default."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(made).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind not in kinds]


def _why_not(path: str) -> str:
    if path not in _classes():
        near = difflib.get_close_matches(path, _classifiers(), n=3, cutoff=0.4)
        known = ", ".join(near or list(_classifiers())[:3])
        return f"river has no class of that path; close ones are {known}"
    made = _classes()[path]
    if not _is_classifier(made):
        return "is not a classifier of one label; name one that is, such as naive_bayes.GaussianNB"
    return f"cannot be made without {', '.join(_needs(made))}; name a classifier that needs no argument"
