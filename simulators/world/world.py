"""A simulated world with ground truth: every click is drawn with a known probability.

    logit p = intercept + first order + second order + daily rhythm

Event n is a pure function of (settings, n). A resumed simulator and a request for any part of the stream
therefore give the same events.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from os import PathLike
from typing import ClassVar, Final

import numpy as np

from simulators.world.draws import Floats, choose, gauss, uniforms
from simulators.world.population import (
    DEVICE_NAMES,
    Integers,
    make_ads,
    make_places,
    make_users,
)
from simulators.world.settings import WorldConfig
from stream_ctr.config.features import FieldConfig
from stream_ctr.datasets.base import Example
from stream_ctr.datasets.world import WORLD_FIELDS

HOUR_MS: Final = 3_600_000
BLOCK: Final = 4096
"""Events generated together; their content does not depend on how they are requested."""
CALIBRATION_EVENTS: Final = 16 * BLOCK
_DRAWS: Final = 12
_PAIRS: Final = {"user-ad": 1.0, "ad-site": 0.6, "ad-device": 0.5, "user-hour": 0.4}
"""Relative standard deviation of each interaction."""
_SINGLES: Final = {"user": 0.6, "ad": 1.0, "site": 0.5, "device": 0.4, "price": 0.6, "visits": 0.4}
"""Relative standard deviation of each first-order effect."""


@dataclass(frozen=True)
class Contexts:
    """E opportunities to show an ad: all of an event except the ad and the outcome."""

    number: Integers
    """[E] sequence number of the event."""
    time_ms: Integers
    user: Integers
    site: Integers
    device: Integers
    visits: Integers
    """[E] number of earlier visits of the user to the site."""
    discount: Floats
    """[E] standard normal; deviation of the price from the ad's usual price."""


@dataclass(frozen=True)
class Logits:
    """[E] parts of the logit, without the intercept."""

    first: Floats
    second: Floats
    rhythm: Floats

    @property
    def total(self) -> Floats:
        """[E] sum of the parts."""
        return self.first + self.second + self.rhythm


@dataclass(frozen=True)
class Block:
    """E events as arrays."""

    contexts: Contexts
    ad: Integers
    logits: Logits
    truth: Floats
    """[E] click probability."""
    label: Integers
    delay_ms: Integers
    bid: Floats


class World:
    """The world of one configuration.

    >>> example = next(World(WorldConfig(seed=7)).examples(0, 1))
    >>> example.event_id, sorted(example.features)[:3]
    ('world-7-0', ['ad', 'advertiser', 'campaign'])
    """

    def __init__(self, config: WorldConfig | None = None) -> None:
        self.config = config or WorldConfig()
        self.users = make_users(self.config)
        self.ads = make_ads(self.config)
        self.places = make_places(self.config)

    def examples(self, start: int, stop: int | None) -> Iterator[Example]:
        """Events ``start`` to ``stop`` (exclusive; None: unbounded), in order."""
        number = start
        while stop is None or number < stop:
            first = number - number % BLOCK
            end = first + BLOCK if stop is None else min(first + BLOCK, stop)
            yield from islice(to_examples(self, self.block(first // BLOCK)), number - first, end - first)
            number = end

    def block(self, index: int) -> Block:
        """Events ``index * BLOCK`` up to the next block, as arrays."""
        numbers = np.arange(index * BLOCK, (index + 1) * BLOCK, dtype=np.int64)
        return self._block(numbers, "events", index)

    def contexts(self, numbers: Integers, draws: Floats) -> Contexts:
        """The opportunities ``numbers`` [E], from uniform draws [6, E]."""
        config = self.config
        return Contexts(
            numbers,
            config.start_ms + np.floor(numbers * (1000.0 / config.events_per_second)).astype(np.int64),
            choose(self.users.cumulative, draws[0]),
            choose(self.places.cumulative, draws[1]),
            choose(self.places.device_cumulative, draws[2]),
            np.floor(-6.0 * np.log1p(-draws[3])).astype(np.int64),
            gauss(draws[4], draws[5]),
        )

    def logits(self, at: Contexts, ad: Integers) -> Logits:
        """Logits of ads ``ad`` [E], one shown at each of these opportunities."""
        config, users, ads, places = self.config, self.users, self.ads, self.places
        phase = ((at.number >= config.sudden_at) & (config.sudden_at > 0)).astype(np.int64)
        turn = 2.0 * np.pi * at.number / config.turn_events if config.turn_events else 0.0 * at.number
        near, far = np.cos(turn), np.sin(turn)
        effect = near * ads.effect[phase, 0, ad] + far * ads.effect[phase, 1, ad]
        appeal = near[:, None] * ads.vector[phase, 0, ad] + far[:, None] * ads.vector[phase, 1, ad]
        day = 2.0 * np.pi * (at.time_ms % (24 * HOUR_MS)) / (24 * HOUR_MS)
        taste, clock = users.vector[at.user], users.clock[at.user]
        singles = {
            "user": users.effect[at.user],
            "ad": effect,
            "site": places.effect[at.site],
            "device": places.device_effect[at.device],
            # Low and very high prices both attract clicks: a quadratic effect, not a linear one.
            "price": (np.square(self._price_level(at, ad)) - 1.0) / np.sqrt(2.0),
            "visits": 1.0 - np.log1p(at.visits) / 1.5,
        }
        pairs = {
            "user-ad": _dot(taste, appeal),
            "ad-site": _dot(appeal, places.vector[at.site]),
            "ad-device": _dot(appeal, places.device_vector[at.device]),
            "user-hour": clock[:, 0] * np.cos(day) + clock[:, 1] * np.sin(day),
        }
        return Logits(
            config.first_order * _mix(singles, _SINGLES),
            config.second_order * _mix(pairs, _PAIRS),
            config.rhythm * np.cos(day - 2.0 * np.pi * 20.0 / 24.0),
        )

    def probability(self, at: Contexts, ad: Integers) -> Floats:
        """[E] click probabilities of ads ``ad`` [E], one shown at each of these opportunities."""
        return sigmoid(self.intercept + self.logits(at, ad).total)

    @cached_property
    def intercept(self) -> float:
        """The intercept at which the mean click probability is ``click_rate``, before any drift."""
        numbers = np.zeros(CALIBRATION_EVENTS, np.int64)
        draws = uniforms(self.config.seed, "calibration", 0, 7 * CALIBRATION_EVENTS).reshape(7, -1)
        at = self.contexts(numbers, draws[:6])
        spread = np.arange(CALIBRATION_EVENTS) * (24 * HOUR_MS // CALIBRATION_EVENTS)
        total = self.logits(
            replace(at, time_ms=at.time_ms + spread), choose(self.ads.cumulative, draws[6])
        ).total
        low, high = -40.0, 40.0
        for _ in range(60):
            middle = (low + high) / 2.0
            if sigmoid(middle + total).mean() < self.config.click_rate:
                low = middle
            else:
                high = middle
        return (low + high) / 2.0

    def _block(self, numbers: Integers, name: str, index: int) -> Block:
        config = self.config
        draws = uniforms(config.seed, name, index, _DRAWS * len(numbers)).reshape(_DRAWS, -1)
        at = self.contexts(numbers, draws[:6])
        ad = choose(self.ads.cumulative, draws[6])
        logits = self.logits(at, ad)
        truth = sigmoid(self.intercept + logits.total)
        return Block(
            at,
            ad,
            logits,
            truth,
            (draws[7] < truth).astype(np.int64),
            self.delay_ms(draws[8], draws[9]),
            self.bids(ad, draws[10]),
        )

    def delay_ms(self, u: Floats, v: Floats) -> Integers:
        """[E] milliseconds from impression to click, at least 1, from uniform draws."""
        config = self.config
        if config.delay == "exponential":
            delay = -config.delay_seconds * np.log1p(-u)
        else:
            spread = config.delay_spread
            delay = config.delay_seconds * np.exp(spread * gauss(u, v) - spread**2 / 2.0)
        delay = np.minimum(delay, config.longest_delay_seconds)
        return np.asarray(np.maximum(1, np.rint(1000.0 * delay)), np.int64)

    def bids(self, ad: Integers, u: Floats) -> Floats:
        """[E] bids for ads ``ad`` [E] from uniform draws: each ad's usual bid +- 20 %."""
        return np.asarray(np.round(self.ads.bid[ad] * (0.8 + 0.4 * u), 4), np.float64)

    def prices(self, ad: Integers, discount: Floats) -> Floats:
        """[E] prices of ads ``ad`` [E]; ``discount`` [E] moves each away from the ad's usual price."""
        return np.asarray(np.round(np.exp(self.ads.price[ad] + 0.4 * discount), 2), np.float64)

    def _price_level(self, at: Contexts, ad: Integers) -> Floats:
        """[E] standardised log price: approximately standard normal."""
        level = (self.ads.price[ad] - 3.0 + 0.4 * at.discount) / np.sqrt(1.0 + 0.36 + 0.16)
        return np.asarray(level, np.float64)

    @cached_property
    def names(self) -> dict[str, list[str]]:
        """Names by kind and number; segments by user, campaigns, advertisers and categories by ad."""
        users, ads, places = self.users, self.ads, self.places
        return {
            "user": [f"u{user}" for user in range(len(users.segment))],
            "segment": [f"s{segment}" for segment in users.segment.tolist()],
            "ad": [f"ad{ad}" for ad in range(len(ads.category))],
            "campaign": [f"c{campaign}" for campaign in ads.campaign.tolist()],
            "advertiser": [f"v{advertiser}" for advertiser in ads.advertiser.tolist()],
            "category": [f"k{category}" for category in ads.category.tolist()],
            "site": [f"site{site}" for site in range(len(places.effect))],
            "hour": [str(hour) for hour in range(24)],
        }

    @cached_property
    def interests(self) -> list[list[str]]:
        """[U] names of each user's interests."""
        return [[f"i{interest}" for interest in own] for own in self.users.interests]


@dataclass(frozen=True)
class WorldDataset(WorldConfig):
    """The first ``events`` events of a world as a dataset. It is generated, not read from a path."""

    events: int = 100_000
    """Number of events without a limit."""

    name: ClassVar[str] = "world"
    fields: ClassVar[tuple[FieldConfig, ...]] = WORLD_FIELDS

    @property
    def note(self) -> str:
        """States that the data is simulated."""
        return (
            f"The world is simulated (seed {self.seed}): its click probabilities are known, and so is the "
            "best possible log loss."
        )

    def read(self, path: str | PathLike[str] = "", limit: int | None = None) -> Iterator[Example]:
        """The first events; ``path`` is ignored."""
        return World(self).examples(0, self.events if limit is None else limit)


def sigmoid(logit: Floats) -> Floats:
    """1 / (1 + e^-logit)."""
    return np.asarray(1.0 / (1.0 + np.exp(-logit)), np.float64)


def _dot(a: Floats, b: Floats) -> Floats:
    """[E] scaled dot products of [E, WIDTH] rows: variance 1 if both inputs have variance 1."""
    return np.asarray(np.einsum("ek,ek->e", a, b) / np.sqrt(a.shape[1]), np.float64)


def _mix(parts: dict[str, Floats], weight: dict[str, float]) -> Floats:
    """Weighted sum, scaled to standard deviation 1 if the parts are independent and have it too."""
    norm = float(np.sqrt(sum(value**2 for value in weight.values())))
    total = sum((weight[name] / norm * part for name, part in parts.items()), np.zeros(1))
    return np.asarray(total, np.float64)


def to_examples(world: World, block: Block) -> Iterator[Example]:
    """The events of a block, as a dataset yields them."""
    at, names = block.contexts, world.names
    user_name, segment, ad_name, site_name = (names[n] for n in ("user", "segment", "ad", "site"))
    campaign, advertiser, category = (names[n] for n in ("campaign", "advertiser", "category"))
    prefix = world.config.event_prefix
    hour = (at.time_ms // HOUR_MS % 24).tolist()
    price = world.prices(block.ad, at.discount).tolist()
    columns = (at.number, at.time_ms, at.user, at.site, at.device, at.visits, block.ad, block.label)
    numbers = zip(*(column.tolist() for column in columns), strict=True)
    rest = zip(block.delay_ms.tolist(), block.bid.tolist(), block.truth.tolist(), hour, price, strict=True)
    for (n, time_ms, user, site, device, visits, ad, label), (delay, bid, truth, h, cost) in zip(
        numbers, rest, strict=True
    ):
        yield Example(
            f"{prefix}{n}",
            time_ms,
            user_name[user],
            {
                "user": user_name[user],
                "segment": segment[user],
                "interests": world.interests[user].copy(),
                "ad": ad_name[ad],
                "campaign": campaign[ad],
                "advertiser": advertiser[ad],
                "category": category[ad],
                "site": site_name[site],
                "device": DEVICE_NAMES[device],
                "hour": names["hour"][h],
                "price": cost,
                "visits": visits,
            },
            label,
            bid,
            delay if label else None,
            truth,
        )
