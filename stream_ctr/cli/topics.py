"""``stream-ctr topics``: create the log's topics before anything is written to them."""

from __future__ import annotations

import argparse
import json


class Topics:
    """``stream-ctr topics``."""

    help = "create the topics of impressions and clicks, with unlimited retention"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--config", metavar="FILE", help="configuration file; without it, defaults and environment"
        )
        parser.add_argument("--json", action="store_true", help="machine-readable output")

    def run(self, arguments: argparse.Namespace) -> int:
        from stream_ctr.config.settings import load_settings
        from stream_ctr.events.open import open_log

        config = load_settings(arguments.config).log
        log = open_log(config.url, create=True, security=config.security)
        try:
            for topic in (config.impressions, config.clicks):
                log.create_topic(topic, config.partitions)
            ends = {t: sum(log.end_offsets(t).values()) for t in (config.impressions, config.clicks)}
        finally:
            log.close()
        if arguments.json:
            print(json.dumps({"log": config.url, "partitions": config.partitions, "entries": ends}, indent=2))
        else:
            for topic, end in ends.items():
                print(f"{config.url}: {topic}: {config.partitions} partitions, {end:,} entries so far")
        return 0
