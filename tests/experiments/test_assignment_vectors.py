"""The test vectors for other languages agree with this code and with an independent transcription."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from stream_ctr.config.experiment import ArmConfig, ExperimentConfig, intervals
from stream_ctr.experiments.assignment import bucket_of
from stream_ctr.experiments.override import Override, check_override, sign_override
from stream_ctr.experiments.statistics.thompson import uniform_of

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "assignment.json").read_text())


def digest(*texts: str) -> int:
    """As the vectors' own text says it, byte by byte."""
    content = b""
    for text in texts:
        raw = text.encode("utf-8")
        content += (
            bytes([len(raw) >> 24 & 255, len(raw) >> 16 & 255, len(raw) >> 8 & 255, len(raw) & 255]) + raw
        )
    number = 0
    for byte in hashlib.blake2b(content, digest_size=8).digest():
        number = number * 256 + byte
    return number


@pytest.mark.parametrize("vector", VECTORS["buckets"])
def test_buckets(vector: dict[str, Any]) -> None:
    assert bucket_of(vector["salt"], vector["unit"]) == vector["bucket"]
    assert digest(vector["salt"], vector["unit"]) % 10_000 == vector["bucket"]


@pytest.mark.parametrize("vector", VECTORS["intervals"])
def test_intervals(vector: dict[str, Any]) -> None:
    weights, coverage = vector["weights"], vector["coverage"]
    arms = tuple(ArmConfig(f"arm-{n}", weight) for n, weight in enumerate(weights))
    found = intervals(ExperimentConfig(coverage=coverage, arms=arms))
    assert [[each.start, each.stop] for each in found] == vector["intervals"]
    reached = Fraction(0)
    for weight, (start, stop) in zip(weights, vector["intervals"], strict=True):
        first = math.floor(10_000 * float(reached) + 0.5)
        reached += Fraction(weight)
        end = math.floor(10_000 * float(reached) + 0.5)
        assert (start, stop) == (first, first + math.floor(coverage * (end - first) + 0.5))


@pytest.mark.parametrize("vector", VECTORS["uniforms"])
def test_uniforms(vector: dict[str, Any]) -> None:
    parts = vector["salt"], vector["purpose"], vector["event_id"]
    assert uniform_of(*parts) == vector["uniform"]
    assert (digest(*parts) >> 11) / 2**53 == vector["uniform"]


def test_the_override_header() -> None:
    vector = VECTORS["override"]
    secret, said = vector["secret"].encode(), vector["payload"]
    assert sign_override(secret, Override(**said)) == vector["header"]
    payload, _, signature = vector["header"].partition(".")
    raw = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    assert json.loads(raw) == said
    own = base64.urlsafe_b64encode(hmac.digest(secret, raw, "sha256")).decode().rstrip("=")
    assert own == signature
    # A payload that another library wrote: other order, with spaces.
    other = json.dumps(dict(sorted(said.items())), indent=2).encode()
    mac = base64.urlsafe_b64encode(hmac.digest(secret, other, "sha256")).rstrip(b"=")
    header = base64.urlsafe_b64encode(other).rstrip(b"=") + b"." + mac
    assert check_override(secret, header, "main-1", "user-1", 1_899_999_999) == "new"
