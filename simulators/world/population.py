"""Users, ads, sites and devices of the world, and their effects on clicks.

Every effect table is centred and scaled with the frequencies of its entries as weights, so the settings
``first_order`` and ``second_order`` are standard deviations over events.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulators.world.draws import Floats, choose, gauss, normals, uniforms, zipf
from simulators.world.settings import WorldConfig

Integers = NDArray[np.int64]

SEGMENTS, INTERESTS, CATEGORIES, TOPICS, DEVICES = 12, 24, 20, 10, 4
WIDTH = 3
"""Dimensions of the hidden vectors."""
DEVICE_NAMES = ("phone", "desktop", "tablet", "television")
DEVICE_SHARES = np.array([0.62, 0.26, 0.08, 0.04])


@dataclass(frozen=True)
class Users:
    """U users. Their tastes do not drift."""

    cumulative: Floats
    """[U] cumulative frequency."""
    segment: Integers
    """[U]"""
    interests: list[list[int]]
    """[U] lists of one to four interests."""
    effect: Floats
    """[U] first-order effect: the sum of the effects of segment, interests and user."""
    vector: Floats
    """[U, WIDTH] taste vector."""
    clock: Floats
    """[U, 2] weights of the cosine and sine of the time of day: when the user clicks more."""


@dataclass(frozen=True)
class Ads:
    """A ads. Effects exist per phase (before and after the sudden drift) and pole (of the gradual drift)."""

    cumulative: Floats
    """[A] cumulative frequency."""
    category: Integers
    """[A]"""
    advertiser: Integers
    """[A]"""
    campaign: Integers
    """[A]"""
    price: Floats
    """[A] natural logarithm of the usual price."""
    bid: Floats
    """[A] usual bid."""
    effect: Floats
    """[2 phases, 2 poles, A] first-order effect."""
    vector: Floats
    """[2 phases, 2 poles, A, WIDTH] appeal vector."""


@dataclass(frozen=True)
class Places:
    """P sites and D devices."""

    cumulative: Floats
    """[P] cumulative frequency of the sites."""
    effect: Floats
    """[P] first-order effect of a site."""
    vector: Floats
    """[P, WIDTH]"""
    device_cumulative: Floats
    """[D]"""
    device_effect: Floats
    """[D]"""
    device_vector: Floats
    """[D, WIDTH]"""


def standard(table: Floats, weight: Floats) -> Floats:
    """Centre and scale over the first axis, to mean 0 and mean square 1 under ``weight``.

    >>> import numpy as np
    >>> standard(np.array([1.0, 3.0]), np.array([0.5, 0.5])).tolist()
    [-1.0, 1.0]
    """
    table = table - np.average(table, axis=0, weights=weight)
    scale = np.sqrt(np.average(np.square(table), weights=weight, axis=0).mean())
    return np.asarray(table / scale, np.float64)


def make_users(config: WorldConfig) -> Users:
    """Users with a segment and interests; each segment prefers some interests."""
    seed, count = config.seed, config.users
    frequency = zipf(count, 1.0, 20.0)
    segment = choose(np.cumsum(zipf(SEGMENTS, 0.7, 1.0)), uniforms(seed, "segment", 0, count))
    draws = uniforms(seed, "interests", 0, 5 * count).reshape(5, count)
    favourites = np.argsort(normals(seed, "favourites", SEGMENTS, INTERESTS), axis=1)
    ranks = choose(np.cumsum(zipf(INTERESTS, 1.2, 0.5)), draws[:4].ravel()).reshape(4, count)
    chosen = favourites[segment, ranks]
    number = 1 + (draws[4] * 4).astype(np.int64)
    interests = [sorted(set(row[:n])) for row, n in zip(chosen.T.tolist(), number.tolist(), strict=True)]
    mean = np.zeros((count, 1 + WIDTH))
    table = np.concatenate(
        [normals(seed, "interest effect", INTERESTS, 1), normals(seed, "interest vector", INTERESTS, WIDTH)],
        1,
    )
    for user, own in enumerate(interests):
        mean[user] = table[own].mean(axis=0)
    effect = (
        normals(seed, "segment effect", SEGMENTS)[segment]
        + 0.5 * mean[:, 0]
        + 0.4 * normals(seed, "user effect", count)
    )
    vector = (
        normals(seed, "segment vector", SEGMENTS, WIDTH)[segment]
        + 0.6 * mean[:, 1:]
        + 0.2 * normals(seed, "user vector", count, WIDTH)
    )
    clock = normals(seed, "segment clock", SEGMENTS, 2)[segment]
    return Users(
        np.cumsum(frequency),
        segment,
        interests,
        standard(effect, frequency),
        standard(vector, frequency),
        standard(clock, frequency),
    )


def make_ads(config: WorldConfig) -> Ads:
    """Ads, each in a campaign of an advertiser; each advertiser has one category."""
    seed, count = config.seed, config.ads
    frequency = zipf(count, 1.0, 5.0)
    campaigns, advertisers = max(4, count // 5), max(4, count // 20)
    campaign = choose(np.cumsum(zipf(campaigns, 0.6, 2.0)), uniforms(seed, "campaign", 0, count))
    advertiser = choose(np.cumsum(zipf(advertisers, 0.6, 2.0)), uniforms(seed, "advertiser", 0, campaigns))[
        campaign
    ]
    category = choose(np.cumsum(zipf(CATEGORIES, 0.7, 1.0)), uniforms(seed, "category", 0, advertisers))[
        advertiser
    ]
    own = (advertiser, campaign, np.arange(count))
    sizes = (advertisers, campaigns, count)
    renewed = uniforms(seed, "renewed", 0, CATEGORIES).argsort() < CATEGORIES // 2
    effects, vectors = [], []
    for phase in range(2):
        for pole in range(2):
            shared = normals(seed, f"category {pole}", CATEGORIES, 1 + WIDTH)
            if phase == 1:
                fresh = normals(seed, f"category {pole} renewed", CATEGORIES, 1 + WIDTH)
                shared = np.where(renewed[:, None], fresh, shared)
            total = shared[category]
            for part, (index, size) in enumerate(zip(own, sizes, strict=True)):
                scale = (0.4, 0.2, 0.2)[part]
                total = total + scale * normals(seed, f"ad part {part} {pole}", size, 1 + WIDTH)[index]
            effects.append(standard(total[:, 0], frequency))
            vectors.append(standard(total[:, 1:], frequency))
    return Ads(
        np.cumsum(frequency),
        category,
        advertiser,
        campaign,
        normals(seed, "category price", CATEGORIES)[category] + 0.6 * normals(seed, "price", count) + 3.0,
        np.exp(0.5 * normals(seed, "advertiser bid", advertisers)[advertiser] - 0.5),
        np.stack(effects).reshape(2, 2, count),
        np.stack(vectors).reshape(2, 2, count, WIDTH),
    )


def make_places(config: WorldConfig) -> Places:
    """Sites of ten topics, which no field reveals, and devices."""
    seed, count = config.seed, config.sites
    frequency = zipf(count, 1.0, 2.0)
    u = uniforms(seed, "topic", 0, count)
    topic = (u * TOPICS).astype(np.int64)
    site = normals(seed, "topic", TOPICS, WIDTH)[topic] + 0.2 * normals(seed, "site", count, WIDTH)
    effect = gauss(uniforms(seed, "site effect", 0, count), uniforms(seed, "site effect", 1, count))
    return Places(
        np.cumsum(frequency),
        standard(effect, frequency),
        standard(site, frequency),
        np.cumsum(DEVICE_SHARES),
        standard(normals(seed, "device effect", DEVICES), DEVICE_SHARES),
        standard(normals(seed, "device vector", DEVICES, WIDTH), DEVICE_SHARES),
    )
