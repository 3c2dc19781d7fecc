"""The optimizers of the study and their search spaces."""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from stream_ctr.config.model import ModelConfig
from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.errors import UsageError
from stream_ctr.optim.validation import check_optimizer

Setting = dict[str, float]
"""Values of the tuned settings of :class:`~stream_ctr.config.optimizer.OptimizerConfig`, by name."""
WIDE: Final = (256, 128)
"""Hidden layers of the base at twice the compute: 2.2 times the dense weights of the default network."""


@dataclass(frozen=True)
class Range:
    """Values from ``low`` to ``high``, uniform on a logarithmic or linear scale."""

    low: float
    high: float
    scale: Literal["log", "linear"] = "log"

    def at(self, share: float) -> float:
        """The value at a fraction ``share``, 0 to 1, of the range.

        >>> Range(0.01, 1.0).at(0.5)
        0.1
        """
        if self.scale == "linear":
            value = self.low + share * (self.high - self.low)
        else:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        return float(f"{value:.3g}")  # rounded as printed, so that a printed setting is exactly the one used


_RATES: Final = {
    "row_rate": Range(0.012, 0.05),
    "row_initial": Range(3e-4, 4e-3),
    "dense_rate": Range(0.0015, 0.006),
    "dense_initial": Range(3e-5, 1e-3),
}
"""Ranges around the defaults, by a factor of two to four to each side."""
_ADAM_RATES: Final = {
    "row_rate": Range(0.012, 0.05),
    "row_initial": Range(3e-4, 4e-3),
    "dense_rate": Range(1e-5, 3e-4),
}
_RADIUS: Final = Range(3e-5, 1e-2)
_XI: Final = Range(0.0, 1.0, "linear")


@dataclass(frozen=True)
class Method:
    """One optimizer of the study."""

    name: str
    base: str
    """The method to compare with: the same base rules in one pass."""
    passes: int
    """Gradients per event."""
    optimizer: OptimizerConfig
    space: Mapping[str, Range]
    repeats: int = 1
    """Consecutive updates per event."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """Differences from the default model."""

    @property
    def key(self) -> str:
        """Name and a digest of all other settings, so results of another declaration are not reused."""
        return f"{self.name}-{hashlib.blake2b(repr(self).encode(), digest_size=4).hexdigest()}"

    def draw(self, seed: int, trial: int) -> Setting:
        """The setting of one trial: trial 0 is the declared setting, later ones are random.

        A setting's name determines its draw in all methods, so shared settings do not differ by chance.
        """
        if trial == 0:
            return {name: float(getattr(self.optimizer, name)) for name in self.space}
        return {name: space.at(_uniform(seed, trial, name)) for name, space in self.space.items()}


def _uniform(seed: int, trial: int, name: str) -> float:
    """A number in [0, 1): a hash of its arguments."""
    digest = hashlib.blake2b(f"{seed}/{trial}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2.0**64


_BASE: Final = OptimizerConfig(method="base")
_ADAM: Final = replace(_BASE, dense_rule="adam", dense_rate=1e-4, dense_initial=0.0)
_HELEN: Final = replace(_BASE, method="helen", rho=0.001, rho_dense=0.001)
_BOTH: Final = {"rho": _RADIUS, "rho_dense": _RADIUS}

METHODS: Final = (
    Method("base", "base", 1, _BASE, _RATES),
    Method("base-wide", "base", 1, _BASE, _RATES, model={"hidden": WIDE}),
    Method(
        "base-twice",
        "base",
        2,
        replace(_BASE, row_rate=0.0125, dense_rate=0.0015),
        {**_RATES, "row_rate": Range(0.004, 0.025), "dense_rate": Range(0.0005, 0.003)},
        repeats=2,
    ),
    Method("sam", "base", 2, replace(_BASE, method="sam"), {**_RATES, "rho": _RADIUS}),
    Method("sam-dense", "base", 2, replace(_HELEN, perturb="dense"), {**_RATES, "rho_dense": _RADIUS}),
    Method("helen", "base", 2, _HELEN, {**_RATES, **_BOTH, "xi": _XI}),
    Method(
        "helen-m",
        "base",
        2,
        replace(_HELEN, perturb="embedding", xi=0.5),
        {**_RATES, "rho": _RADIUS, "xi": _XI},
    ),
    Method("helen-b", "base", 2, replace(_HELEN, perturb="embedding"), {**_RATES, "rho": _RADIUS}),
    Method(
        "revisit",
        "base",
        2,
        replace(_BASE, method="revisit"),
        {
            **_RATES,
            "revisit_after": Range(1_500.0, 12_000.0),
            "revisit_rows": Range(0.2, 0.9, "linear"),
            "revisit_dense": Range(0.0, 1.0, "linear"),
        },
    ),
    Method("base-adam", "base-adam", 1, _ADAM, _ADAM_RATES),
    Method(
        "helen-adam",
        "base-adam",
        2,
        replace(_ADAM, method="helen", rho=0.001, rho_dense=0.001),
        {**_ADAM_RATES, **_BOTH, "xi": _XI},
    ),
)
"""base: one pass. base-wide, base-twice: base with twice the compute, in a wider network or by two
consecutive updates per event. sam, sam-dense: one radius for all parameters, or for the dense ones only.
helen: the published form; helen-m: embeddings only; helen-b: embeddings only, without the lower bound xi.
revisit: replays each event once later, removing the update it had caused in its rows before. base-adam,
helen-adam: Adam for the dense weights."""


def chosen_methods(names: Sequence[str] | None) -> tuple[Method, ...]:
    """The named methods and the bases that they are compared with; all methods without names.

    >>> [method.name for method in chosen_methods(["sam"])]
    ['base', 'sam']

    Raises:
        UsageError: a name is unknown.
    """
    known = {method.name: method for method in METHODS}
    for name in names or ():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? Otherwise " if near else ""
            raise UsageError(f"no method named {name!r}; {hint}choose from {', '.join(known)}")
    wanted = {known[name].base for name in names} | set(names) if names else set(known)
    return tuple(method for method in METHODS if method.name in wanted)


def configured(method: Method, setting: Setting) -> tuple[ModelConfig, OptimizerConfig]:
    """The model and optimizer of a method with a setting.

    Raises:
        UsageError: the setting contains values that the method does not tune.
    """
    unknown = sorted(setting.keys() - method.space.keys())
    if unknown:
        raise UsageError(
            f"{method.name} does not tune {', '.join(unknown)}; it tunes {', '.join(method.space)}"
        )
    changes: dict[str, Any] = {
        name: round(value) if isinstance(getattr(method.optimizer, name), int) else value
        for name, value in setting.items()
    }
    optimizer = replace(method.optimizer, **changes)
    check_optimizer(optimizer)
    return replace(ModelConfig(), **method.model), optimizer
