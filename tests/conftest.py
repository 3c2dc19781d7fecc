"""Fixtures for all tests: one thread for the numerics, real data and a real Kafka broker where there are."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.kafka_broker import Broker
from tests.support.slow_files import SLOW_FILES

# Before a test module imports NumPy, Numba or torch: nothing may depend on the number of threads.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# A busy machine must fail no test, and a run must repeat; STREAM_CTR_TEST_EXPLORE=1 looks for new examples.
settings.register_profile(
    "stream-ctr",
    deadline=None,
    derandomize=not os.environ.get("STREAM_CTR_TEST_EXPLORE"),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("fast", settings.get_profile("stream-ctr"), max_examples=10)  # make test-fast
settings.load_profile("stream-ctr")

_ROOT = Path(__file__).parents[1]
_KAFKA = os.environ.get("STREAM_CTR_TEST_KAFKA", "")


_SLOW = frozenset(_ROOT / "tests" / name for name in SLOW_FILES)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Without the slow tests, do not even import their files: that takes seconds, too."""
    return True if config.option.markexpr == "not slow" and collection_path in _SLOW else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of slow files, which ``make test-fast`` leaves out."""
    for item in items:
        if item.path in _SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real datasets beside the repository."""
    folder = _ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not there")
    return folder


@pytest.fixture(scope="session")
def kafka_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running Kafka broker, or of one started for this session."""
    if not _KAFKA:
        pytest.skip(
            "no Kafka: run deploy/kafka/start --port 9092 and set STREAM_CTR_TEST_KAFKA=127.0.0.1:9092, "
            "or set STREAM_CTR_TEST_KAFKA=start"
        )
    if _KAFKA != "start":
        yield f"kafka://{_KAFKA}"
        return
    broker = Broker(tmp_path_factory.mktemp("kafka"))
    try:
        broker.start()
        yield broker.url
    finally:
        broker.kill()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker of the test's own, running, to be killed and started again."""
    if _KAFKA != "start":
        pytest.skip("no broker to kill: set STREAM_CTR_TEST_KAFKA=start (needs Java 17 and Maven)")
    # kafka-python leaves the socket of a refused connection to the garbage collector. The filter holds
    # until the test is over, as pytest puts the old ones back then.
    warnings.filterwarnings("ignore", "unclosed <socket", ResourceWarning)
    broker = Broker(tmp_path / "kafka")
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()
        gc.collect()
