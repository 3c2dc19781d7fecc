"""What everything in the world is called, and its events with those names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from simulators.population import DEVICE_NAMES, Ads, Places, Users
from stream_ctr.datasets.base import Example

if TYPE_CHECKING:
    from simulators.world import Block, World

HOUR_MS: Final = 3_600_000


def make_names(users: Users, ads: Ads, places: Places) -> dict[str, list[str]]:
    """See :attr:`simulators.world.World.names`."""
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


def to_examples(world: World, block: Block) -> Iterator[Example]:
    """The events of a block, as a data set gives them."""
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
