"""Validation of model settings, each by itself and in combination."""

from __future__ import annotations

import math
from typing import get_args, get_type_hints

from stream_ctr.config.model import BACKBONE_NAMES, ModelConfig, canonical, ranges
from stream_ctr.config.registry import BACKBONES, why_unknown
from stream_ctr.errors import ModelError

PRODUCTS = ("ipnn", "dlrm")
"""Backbones whose tower reads inner products of pairs of vectors."""


def check_model(config: ModelConfig, fields: int) -> None:
    """Reject settings that are invalid for ``fields`` fields.

    Raises:
        ModelError: a name is unknown, a number is out of range, or two settings are incompatible; the
            message names the setting and says what is allowed.
    """
    hints = get_type_hints(ModelConfig)
    unknown = why_unknown(BACKBONES, BACKBONE_NAMES, "model.backbone", config.backbone)
    if unknown:
        raise ModelError(unknown)
    for name in ("scale", "pooling", "skip"):
        value, allowed = getattr(config, name), get_args(hints[name])
        if value not in allowed:
            raise ModelError(f"model.{name} = {value!r} is unknown; choose {' or '.join(allowed)}")
    if fields < 1:
        raise ModelError("the schema has no fields; a model needs at least one")
    _check_numbers(config)
    if config.sml and not config.hidden:
        raise ModelError(
            "model.sml = true needs hidden layers, and model.hidden is empty; "
            "set at least one width, or set model.sml = false"
        )
    _check_backbone(config, fields)


def _check_numbers(config: ModelConfig) -> None:
    # Lists of widths first: a message with the whole list is more useful than one with the wrong entry.
    if config.embedding < 1:
        raise ModelError(f"model.embedding must be at least 1, got {config.embedding}")
    for key in ("hidden", "cin", "bottom"):
        widths = getattr(config, key)
        if any(width < 1 for width in widths):
            raise ModelError(f"every width in model.{key} must be at least 1, got {list(widths)}")
    for key, number, low, high in ranges(config):
        if not low <= number <= high:
            raise ModelError(f"model.{key} must be between {low:g} and {high:g}, got {number}")
    if not 0.0 < config.base_rate < 1.0:
        raise ModelError(f"model.base_rate must be above 0 and below 1, got {config.base_rate:g}")
    for name in ("slope", "beta", "embedding_scale"):
        value = getattr(config, name)
        if not math.isfinite(value):
            raise ModelError(f"model.{name} must be a finite number, got {value}")
    if config.embedding_scale < 0.0:
        raise ModelError(f"model.embedding_scale must be at least 0, got {config.embedding_scale:g}")


def _check_backbone(config: ModelConfig, fields: int) -> None:
    if config.backbone == "xdeepfm" and not config.cin:
        raise ModelError(
            "model.backbone = 'xdeepfm' needs an interaction network, and model.cin is empty; "
            "set at least one width, or choose wide_deep, which is xdeepfm without interaction network"
        )
    if config.backbone == "autoint" and config.attention_width % config.attention_heads:
        raise ModelError(
            f"model.attention_width must be a multiple of model.attention_heads = {config.attention_heads}, "
            f"got {config.attention_width}"
        )
    bottom = canonical(config).bottom_fields
    if bottom >= fields:
        raise ModelError(
            f"model.bottom_fields must be less than the number of fields, {fields}, got {bottom}; "
            f"choose {fields - 1} or fewer"
        )
    if config.backbone in PRODUCTS and fields < 2:
        raise ModelError(
            f"model.backbone = {config.backbone!r} needs at least two fields, and the schema has one; "
            "add a field, or choose dnn"
        )
