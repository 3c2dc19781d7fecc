"""The trainer on a real Kafka broker: the same events give the same bits as on the embedded log."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from stream_ctr.config.settings import load_settings
from stream_ctr.events.log import EventLog, Record, TopicPartition
from stream_ctr.events.open import open_log
from stream_ctr.reporting.progress import Reporter
from stream_ctr.training.core import Core
from stream_ctr.training.trainer import Trainer
from tests.support.faulty_streams import write_config, write_stream
from tests.support.kafka_broker import Broker

TOPICS = ("impressions", "clicks")


def copy(source: EventLog, target: EventLog) -> None:
    """Every entry of both topics, partition by partition."""
    for topic in TOPICS:
        count = source.partitions(topic)
        target.create_topic(topic, count)
        for partition in range(count):
            reader = source.reader({TopicPartition(topic, partition): 0})
            while entries := reader.poll(500, 0.0):
                target.append(topic, [Record(e.key, e.value, e.timestamp_ms, partition) for e in entries])
            reader.close()


def learn(config: Path) -> Core:
    settings = load_settings(config)
    log = open_log(settings.log.url)
    try:
        with Reporter("test", quiet=True) as reporter:
            trainer = Trainer(settings, settings.arm(None), log, reporter)
            trainer.run(threading.Event(), until_idle=0.0)
            return trainer.core
    finally:
        log.close()


@pytest.mark.kafka
@pytest.mark.slow
def test_kafka_and_the_embedded_log_give_equal_bits_even_if_the_broker_is_killed(
    tmp_path: Path, broker: Broker
) -> None:
    write_stream(tmp_path, 300)
    embedded = learn(write_config(tmp_path, "embedded"))
    source = open_log(f"sqlite:///{tmp_path}/clicks.db")
    target = open_log(broker.url)
    copy(source, target)
    ends = {topic: target.end_offsets(topic) for topic in TOPICS}
    assert ends == {topic: source.end_offsets(topic) for topic in TOPICS}
    source.close()
    target.close()
    config = write_config(tmp_path, "kafka")
    text = config.read_text("utf-8").replace(f"sqlite:///{tmp_path}/clicks.db", broker.url)
    config.write_text(text, "utf-8")
    settings = load_settings(config)
    log = open_log(broker.url)
    stop = threading.Event()
    steps = 0

    def on_step(step: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 5:
            stop.set()

    with Reporter("test", quiet=True) as reporter:
        Trainer(settings, settings.arm(None), log, reporter, on_step=on_step).run(stop)
    log.close()
    broker.kill()
    broker.start()
    resumed = learn(config)
    for name, state in embedded.parts().items():
        other = resumed.parts()[name]
        if name == "pipeline":
            assert state.part("join").equals(other.part("join"))
            assert state.part("tables").equals(other.part("tables"))
        else:
            assert state.equals(other), name
