"""Visits to the world: a user at a site, and the candidate ads.

Visit n and its click draw are pure functions of (settings, n). The chosen candidate is clicked if the visit's
uniform draw is below the candidate's true click probability. Two servers therefore see the same users with
the same random draws.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
import numpy as np

from simulators.world.draws import Floats, choose, gauss, uniforms
from simulators.world.population import DEVICE_NAMES, Integers
from simulators.world.world import HOUR_MS, Contexts, World, sigmoid
from stream_ctr.serving.ranking.request import Candidate, RankRequest

VISIT_BLOCK: Final = 256
"""Visits generated together; their content does not depend on how they are requested."""
_KEPT_BLOCKS: Final = 4


@dataclass(frozen=True)
class VisitBlock:
    """V visits with K candidates each, as arrays."""

    contexts: Contexts
    """Contexts of V visits; their discount is unused, since ``price`` holds each candidate's."""
    ad: Integers
    """[V, K]"""
    price: Floats
    """[V, K]"""
    bid: Floats
    """[V, K]"""
    truth: Floats
    """[V, K] true click probability of each candidate if it is shown."""
    click_draw: Floats
    """[V] uniform draw: the shown candidate is clicked if its truth is above this."""
    delay_ms: Integers
    """[V] delay from impression to click, if clicked."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One visit with its encoded request."""

    number: int
    event_id: str
    time_ms: int
    body: bytes
    """The JSON request for the server."""
    bid: tuple[float, ...]
    """[K]"""
    truth: tuple[float, ...]
    """[K]"""
    click_draw: float
    delay_ms: int

    def clicks(self, shown: int) -> bool:
        """Whether the user clicks if candidate ``shown`` is shown."""
        return self.click_draw < self.truth[shown]


class Visits:
    """The visits to a world, with ``candidates`` ads each.

    >>> from simulators.world.settings import WorldConfig
    >>> visits = Visits(World(WorldConfig(seed=7, users=50, ads=30, sites=10)), candidates=3)
    >>> visit = visits.visit(0)
    >>> visit.event_id, len(visit.truth)
    ('visit-7-0', 3)
    """

    def __init__(self, world: World, candidates: int) -> None:
        self.world = world
        self.candidates = candidates
        self._blocks: OrderedDict[int, VisitBlock] = OrderedDict()
        self._drawn: tuple[int, Floats] = -1, np.zeros((9, VISIT_BLOCK))

    @property
    def prefix(self) -> str:
        """Prefix of every event id; the visit's number follows."""
        return f"visit-{self.world.config.seed}-"

    def number_of(self, event_id: str) -> int | None:
        """The visit number of an event id; None if it is not a visit to this world.

        >>> visits = Visits(World(), candidates=1)
        >>> visits.number_of("visit-1-12"), visits.number_of("visit-2-12")
        (12, None)
        """
        digits = event_id.removeprefix(self.prefix)
        known = event_id.startswith(self.prefix) and digits.isascii() and digits.isdigit()
        return int(digits) if known else None

    def visit(self, number: int) -> Visit:
        """Visit number ``number``."""
        block, at = self.block(number // VISIT_BLOCK), number % VISIT_BLOCK
        event_id, time_ms = f"{self.prefix}{number}", int(block.contexts.time_ms[at])
        bid = tuple(block.bid[at].tolist())
        truth = tuple(block.truth[at].tolist())
        user = int(block.contexts.user[at])
        request = RankRequest(
            user=self.world.names["user"][user],
            candidates=self._candidates(block, at, bid, truth),
            features=self._context(block.contexts, at),
            event_id=event_id,
            ts_ms=time_ms,
        )
        return Visit(
            number,
            event_id,
            time_ms,
            msgspec.json.encode(request),
            bid,
            truth,
            float(block.click_draw[at]),
            int(block.delay_ms[at]),
        )

    def click_draw(self, number: int) -> tuple[float, int]:
        """The uniform click draw of a visit and its click delay in milliseconds."""
        draws = self._draws(number // VISIT_BLOCK)[:, number % VISIT_BLOCK]
        return float(draws[6]), int(self.world.delay_ms(draws[7:8], draws[8:9])[0])

    def block(self, index: int) -> VisitBlock:
        """Visits ``index * VISIT_BLOCK`` up to the next block, as arrays; the last few blocks are cached."""
        found = self._blocks.get(index)
        if found is None:
            found = self._blocks[index] = self._make(index)
            if len(self._blocks) > _KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        return found

    def _draws(self, index: int) -> Floats:
        """[9, VISIT_BLOCK] uniform draws of one block; those of the last block are cached."""
        if index != self._drawn[0]:
            found = uniforms(self.world.config.seed, "visits", index, 9 * VISIT_BLOCK)
            self._drawn = index, found.reshape(9, VISIT_BLOCK)
        return self._drawn[1]

    def _make(self, index: int) -> VisitBlock:
        world, seed, count = self.world, self.world.config.seed, VISIT_BLOCK
        numbers = np.arange(index * count, (index + 1) * count, dtype=np.int64)
        draws = self._draws(index)
        at = world.contexts(numbers, draws[:6])
        # Each candidate has its own draws, so adding candidates does not change the others.
        own = np.stack(
            [
                uniforms(seed, f"candidate {k}", index, 4 * count).reshape(4, count)
                for k in range(self.candidates)
            ],
            axis=-1,
        )
        ad = choose(world.ads.cumulative, own[0].ravel())
        discount = gauss(own[1].ravel(), own[2].ravel())
        shape = (count, self.candidates)
        each = _repeated(at, self.candidates, discount)
        truth = sigmoid(world.intercept + world.logits(each, ad).total)
        return VisitBlock(
            at,
            ad.reshape(shape),
            world.prices(ad, discount).reshape(shape),
            world.bids(ad, own[3].ravel()).reshape(shape),
            truth.reshape(shape),
            draws[6],
            world.delay_ms(draws[7], draws[8]),
        )

    def _context(self, at: Contexts, place: int) -> dict[str, Any]:
        names, user = self.world.names, int(at.user[place])
        return {
            "user": names["user"][user],
            "segment": names["segment"][user],
            "interests": self.world.interests[user],
            "site": names["site"][int(at.site[place])],
            "device": DEVICE_NAMES[int(at.device[place])],
            "hour": names["hour"][int(at.time_ms[place]) // HOUR_MS % 24],
            "visits": int(at.visits[place]),
        }

    def _candidates(
        self, block: VisitBlock, at: int, bid: tuple[float, ...], truth: tuple[float, ...]
    ) -> list[Candidate]:
        names = self.world.names
        columns = zip(block.ad[at].tolist(), block.price[at].tolist(), bid, truth, strict=True)
        return [
            Candidate(
                features={
                    "ad": names["ad"][ad],
                    "campaign": names["campaign"][ad],
                    "advertiser": names["advertiser"][ad],
                    "category": names["category"][ad],
                    "price": price,
                },
                bid=own_bid,
                truth=own_truth,
            )
            for ad, price, own_bid, own_truth in columns
        ]


def _repeated(at: Contexts, times: int, discount: Floats) -> Contexts:
    """The opportunities, each repeated ``times`` times in a row, with new discounts."""
    return replace(
        at,
        number=np.repeat(at.number, times),
        time_ms=np.repeat(at.time_ms, times),
        user=np.repeat(at.user, times),
        site=np.repeat(at.site, times),
        device=np.repeat(at.device, times),
        visits=np.repeat(at.visits, times),
        discount=discount,
    )
