"""Base rules: how a gradient becomes a step. Each works in place on weights of any shape.

A rule receives weights, their gradient, their accumulators and the step number. The weights may be all dense
parameters as one vector, or the rows of one event. Rows are stepped lazily, only when an event touches them,
so each row has its own step count.

This module does not import torch: rules call methods of the tensors passed to them. The compiled learner can
therefore read their settings without torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

from stream_ctr.config.optimizer import OptimizerConfig
from stream_ctr.config.registry import RULES, find

if TYPE_CHECKING:
    from torch import Tensor

    Step = TypeVar("Step", float, Tensor)


class Rule(Protocol):
    """One base rule with its settings."""

    @property
    def accumulators(self) -> tuple[str, ...]:
        """Names of the arrays that the rule keeps, one number per weight in each."""
        ...

    @property
    def initial(self) -> float:
        """Initial value of the accumulators."""
        ...

    counts_steps: ClassVar[bool]
    """Whether the rule uses ``step``, so that a table must count the steps of each row."""

    def apply(
        self, weight: Tensor, gradient: Tensor, accumulators: Sequence[Tensor], step: float | Tensor
    ) -> None:
        """Take one step in place. ``step`` counts from 1: one number, or one per row as [n, 1]."""
        ...


@dataclass(frozen=True, slots=True)
class SGD:
    """w <- w - rate * g."""

    rate: float
    initial: ClassVar[float] = 0.0
    accumulators: ClassVar[tuple[str, ...]] = ()
    counts_steps: ClassVar[bool] = False

    def apply(
        self, weight: Tensor, gradient: Tensor, accumulators: Sequence[Tensor], step: float | Tensor
    ) -> None:
        weight.add_(gradient, alpha=-self.rate)


@dataclass(frozen=True, slots=True)
class AdaGrad:
    """a <- a + g^2;  w <- w - rate * g / (sqrt(a) + epsilon), a from ``initial`` on (Duchi et al. 2011)."""

    rate: float
    initial: float = 0.0
    epsilon: float = 1e-10
    accumulators: ClassVar[tuple[str, ...]] = ("square",)
    counts_steps: ClassVar[bool] = False

    def apply(
        self, weight: Tensor, gradient: Tensor, accumulators: Sequence[Tensor], step: float | Tensor
    ) -> None:
        (square,) = accumulators
        square.addcmul_(gradient, gradient)
        weight.addcdiv_(gradient, square.sqrt().add_(self.epsilon), value=-self.rate)


@dataclass(frozen=True, slots=True)
class RMSprop:
    """v <- decay v + (1 - decay) g^2;  w <- w - rate * g / (sqrt(v) + epsilon) (Tieleman and Hinton 2012)."""

    rate: float
    decay: float = 0.99
    epsilon: float = 1e-8
    initial: ClassVar[float] = 0.0
    accumulators: ClassVar[tuple[str, ...]] = ("square",)
    counts_steps: ClassVar[bool] = False

    def apply(
        self, weight: Tensor, gradient: Tensor, accumulators: Sequence[Tensor], step: float | Tensor
    ) -> None:
        (square,) = accumulators
        square.mul_(self.decay).addcmul_(gradient, gradient, value=1.0 - self.decay)
        weight.addcdiv_(gradient, square.sqrt().add_(self.epsilon), value=-self.rate)


@dataclass(frozen=True, slots=True)
class Adam:
    """Moments m and v with bias correction (Kingma and Ba 2015, algorithm 1)."""

    rate: float
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    initial: ClassVar[float] = 0.0
    accumulators: ClassVar[tuple[str, ...]] = ("mean", "square")
    counts_steps: ClassVar[bool] = True

    def apply(
        self, weight: Tensor, gradient: Tensor, accumulators: Sequence[Tensor], step: float | Tensor
    ) -> None:
        mean, square = accumulators
        mean.lerp_(gradient, 1.0 - self.beta_1)
        square.mul_(self.beta_2).addcmul_(gradient, gradient, value=1.0 - self.beta_2)
        # rate * (m / c1) / (sqrt(v / c2) + epsilon), both sides of the fraction times sqrt(c2).
        if isinstance(step, float | int):
            factor, root_2 = self._corrections(step)
            weight.addcdiv_(mean, square.sqrt().add_(self.epsilon * root_2), value=-factor)
        else:
            factor_N1, root_2_N1 = self._corrections(step.double())
            denominator = square.sqrt().add_((self.epsilon * root_2_N1).to(weight.dtype))
            weight.addcdiv_(mean * factor_N1.to(weight.dtype), denominator, value=-1.0)

    def _corrections(self, step: Step) -> tuple[Step, Step]:
        """rate * sqrt(c2) / c1 and sqrt(c2), with c_i = 1 - beta_i^step."""
        root_2 = (1.0 - self.beta_2**step) ** 0.5
        return self.rate * root_2 / (1.0 - self.beta_1**step), root_2


@dataclass(frozen=True, slots=True)
class NAdam:
    """Adam with Nesterov momentum (Dozat 2016), with mu_t = beta_1 (1 - 0.96^(t psi) / 2):

    w <- w - rate * (mu_(t+1) m / (1 - P_t mu_(t+1)) + (1 - mu_t) g / (1 - P_t)) / (sqrt(v / c2) + epsilon),
    where P_t = mu_1 ... mu_t.
    """

    rate: float
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    psi: float = 4e-3
    initial: ClassVar[float] = 0.0
    accumulators: ClassVar[tuple[str, ...]] = ("mean", "square")
    counts_steps: ClassVar[bool] = True

    def apply(
        self, weight: Tensor, gradient: Tensor, accumulators: Sequence[Tensor], step: float | Tensor
    ) -> None:
        mean, square = accumulators
        _moments(mean, square, gradient, self.beta_1, self.beta_2)
        t = _as_double(step, weight)
        product, mu, mu_next = self._product(t), self._momentum(t), self._momentum(t + 1.0)
        of_mean = (self.rate * mu_next / (1.0 - product * mu_next)).to(weight.dtype)
        of_gradient = (self.rate * (1.0 - mu) / (1.0 - product)).to(weight.dtype)
        root_2 = (1.0 - self.beta_2**t).sqrt().to(weight.dtype)
        weight.addcdiv_(
            mean * of_mean + gradient * of_gradient, (square.sqrt() / root_2).add_(self.epsilon), value=-1.0
        )

    def _momentum(self, t: Tensor) -> Tensor:
        return self.beta_1 * (1.0 - 0.5 * 0.96 ** (t * self.psi))

    def _product(self, t: Tensor) -> Tensor:
        """P_t. It depends on t alone, so rows need not store a running product.

        Every mu is below beta_1, so after ``places`` factors 1 - P_t equals 1 in double precision.
        """
        places = math.ceil(54.0 * math.log(0.5) / math.log(self.beta_1))
        each = self._momentum(t.new_ones(places).cumsum(0))
        return each.cumprod(0)[t.long().clamp(max=places) - 1]


@dataclass(frozen=True, slots=True)
class RAdam:
    """Adam that uses momentum alone in the first steps, while v is unreliable (Liu et al. 2020, alg. 2)."""

    rate: float
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    initial: ClassVar[float] = 0.0
    accumulators: ClassVar[tuple[str, ...]] = ("mean", "square")
    counts_steps: ClassVar[bool] = True

    def apply(
        self, weight: Tensor, gradient: Tensor, accumulators: Sequence[Tensor], step: float | Tensor
    ) -> None:
        mean, square = accumulators
        _moments(mean, square, gradient, self.beta_1, self.beta_2)
        t = _as_double(step, weight)
        rate = (self.rate / (1.0 - self.beta_1**t)).to(weight.dtype)
        length, longest = self._length(t), 2.0 / (1.0 - self.beta_2) - 1.0
        rectified = length > 5.0
        safe = length.clamp(min=5.0)
        share = (safe - 4.0) * (safe - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * safe)
        scale = (share * (1.0 - self.beta_2**t)).sqrt().to(weight.dtype)
        adaptive = scale / square.sqrt().add_(self.epsilon)
        weight.sub_(mean * rate * adaptive.where(rectified, 1.0))

    def _length(self, t: Tensor) -> Tensor:
        """rho_t: how many steps the second moment effectively averages over."""
        decayed = self.beta_2**t
        return 2.0 / (1.0 - self.beta_2) - 1.0 - 2.0 * t * decayed / (1.0 - decayed)


@dataclass(frozen=True, slots=True)
class FTRL:
    """FTRL-proximal for first-order weights (McMahan et al. 2013, algorithm 1).

    sigma = (sqrt(n + g^2) - sqrt(n)) / rate;  z <- z + g - sigma w;  n <- n + g^2;
    w = 0 where |z| <= l1, else -(z - sign(z) l1) / ((beta + sqrt(n)) / rate + l2). Weights start at 0, as
    first-order weights do.
    """

    rate: float
    beta: float = 1.0
    l1: float = 0.0
    l2: float = 0.0
    initial: ClassVar[float] = 0.0
    accumulators: ClassVar[tuple[str, ...]] = ("linear", "square")
    counts_steps: ClassVar[bool] = False

    def apply(
        self, weight: Tensor, gradient: Tensor, accumulators: Sequence[Tensor], step: float | Tensor
    ) -> None:
        linear, square = accumulators
        root = square.sqrt()
        square.addcmul_(gradient, gradient)
        new_root = square.sqrt()
        linear.add_(gradient).addcmul_(new_root - root, weight, value=-1.0 / self.rate)
        shrunk = linear.sign() * (linear.abs() - self.l1).clamp_(min=0.0)
        divisor = (new_root + self.beta) / self.rate + self.l2
        # With beta and l2 both 0, a weight that never had a gradient would be 0 / 0.
        weight.copy_((-shrunk / divisor).where(shrunk != 0.0, 0.0))


Rules = type[SGD] | type[AdaGrad] | type[RMSprop] | type[Adam] | type[NAdam] | type[RAdam]
_RULES: dict[str, Rules] = {
    "sgd": SGD,
    "adagrad": AdaGrad,
    "rmsprop": RMSprop,
    "adam": Adam,
    "nadam": NAdam,
    "radam": RAdam,
}


def build_rule(name: str, rate: float, initial: float = 0.0) -> Rule:
    """The base rule called ``name``, which must be valid. AdaGrad and rules of other packages use
    ``initial``."""
    if name == "adagrad":
        return AdaGrad(rate, initial)
    if name in _RULES:
        return _RULES[name](rate)
    added: Callable[[float, float], Rule] = find(RULES, name)
    return added(rate, initial)


def build_first_order_rule(config: OptimizerConfig) -> Rule | None:
    """The rule of the first-order weights; None if they use the rule of the embedding rows."""
    if config.first_order_rule == "rows":
        return None
    if config.first_order_rule == "ftrl":
        return FTRL(config.first_order_rate, config.ftrl_beta, config.ftrl_l1, config.ftrl_l2)
    return build_rule(config.first_order_rule, config.first_order_rate, config.first_order_initial)


def _moments(mean: Tensor, square: Tensor, gradient: Tensor, beta_1: float, beta_2: float) -> None:
    """m <- beta_1 m + (1 - beta_1) g;  v <- beta_2 v + (1 - beta_2) g^2."""
    mean.lerp_(gradient, 1.0 - beta_1)
    square.mul_(beta_2).addcmul_(gradient, gradient, value=1.0 - beta_2)


def _as_double(step: float | Tensor, weight: Tensor) -> Tensor:
    """The step number in float64: 1 - beta^t loses its digits in single precision at late steps."""
    if isinstance(step, float | int):
        return weight.new_zeros(()).double() + step
    return step.double()
