"""What everything in the world is called, and its events with those names."""

from __future__ import annotations

from typing import Final

from simulators.world.population import Ads, Places, Users

HOUR_MS: Final = 3_600_000


def make_names(users: Users, ads: Ads, places: Places) -> dict[str, list[str]]:
    """See :attr:`simulators.world.world.World.names`."""
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
