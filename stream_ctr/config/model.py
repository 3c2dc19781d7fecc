"""The table [model]: the network that predicts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Final, Literal, get_args, get_origin, get_type_hints

from annotated_types import Interval

from stream_ctr.config.ranges import FINITE, WIDEST, Number, Width

BackboneName = Literal[
    "dnn", "wide_deep", "ipnn", "deepfm", "dcn", "dcnv2", "dlrm", "xdeepfm", "autoint"
]  # fmt: skip
BACKBONE_NAMES: Final[tuple[str, ...]] = get_args(BackboneName)
SkipForm = Literal[
    "vanilla", "relu", "sigmoid", "tanh", "learned_scale",
    "meta_vanilla", "meta_relu", "meta_sigmoid", "meta_tanh",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Backbone with Skip Meta Logit (SML; eq. 5, 10 and 16 of its paper)."""

    backbone: str = "dnn"
    """Network to whose logit z_0 the skip logits are added: dnn, wide_deep, ipnn, deepfm, dcn, dcnv2, dlrm,
    xdeepfm, autoint, or one that another package adds."""
    embedding: Width = 16
    """Width d of an embedding row."""
    hidden: tuple[Width, ...] = (128, 64)
    """Widths of the deep tower's hidden layers, first to last. Empty: no tower, only the
    backbone's own part; dnn, ipnn and dlrm, which have none, become linear in the tower's inputs."""
    sml: bool = True
    """Whether to add the meta skip logit of every hidden layer; false gives the backbone alone."""
    scale: Literal["unit", "scalar", "low_rank"] = "unit"
    """Shape of s_i(x). unit: one scale per unit (w_i is h x h). scalar: one for the layer. low_rank: one per
    unit, with a w_i of low rank."""
    slope: Number = 0.2
    """Negative slope of the leaky ReLU in s_i (eq. 16)."""
    beta: Number = 1.0
    """Initial bias beta_i in s_i; 0 as published."""
    pooling: Literal["mean", "sum"] = "mean"
    """How the values of a multi-valued field become one embedding."""
    embedding_scale: Number = 0.003
    """Standard deviation of a new embedding row."""
    base_rate: Number = 0.5
    """Click rate that is predicted before anything has been learned, at least until the first label window
    ends. Set it to the click rate of the stream."""
    skip: SkipForm = "meta_tanh"
    """Skip logit of a hidden layer: W x, W relu(x), W sigmoid(x), W tanh(x), W tanh(s x) with a learned
    constant s, or the first four functions of s(x) x, where s(x) is the meta network of eq. 16."""
    scale_rank: Width = 8
    """scale = "low_rank": rank of w_i."""
    dropout: Annotated[float, Interval(ge=0, le=0.99)] = 0.0
    """Share of a hidden layer's outputs (autoint: also of its attention) that training sets to 0. Batch
    protocol only; a stream is learned without dropout."""
    cross_layers: Annotated[int, Interval(ge=1, le=100)] = 3
    """dcn, dcnv2: number of cross layers."""
    cross_experts: Annotated[int, Interval(ge=0, le=1000)] = 0
    """dcnv2: experts of the low-rank mixture (published: 4); 0: full-rank cross layers."""
    cross_rank: Width = 32
    """dcnv2 with experts: rank of an expert."""
    cin: tuple[Width, ...] = (64, 64, 64)
    """xdeepfm: feature maps of each layer of the compressed interaction network."""
    attention_layers: Annotated[int, Interval(ge=1, le=100)] = 3
    """autoint: number of attention layers."""
    attention_heads: Width = 2
    """autoint: heads of a layer."""
    attention_width: Width = 64
    """autoint: width of a layer's output for each field, over all heads."""
    attention_scale: bool = False
    """autoint: whether to divide the products of queries and keys by the square root of a head's width."""
    bottom_fields: Annotated[int, Interval(ge=0, le=WIDEST)] = 0
    """dlrm: number of dense fields, the first ones. Their embeddings go through the bottom tower, which gives
    one more vector for the interactions; 0: no bottom tower."""
    bottom: tuple[Width, ...] = (512, 256, 64)
    """dlrm: widths of the bottom tower's hidden layers; an output layer of the embedding's width follows."""


OPTIONS: Final[dict[str, tuple[str, ...]]] = {
    "dcn": ("cross_layers",),
    "dcnv2": ("cross_layers", "cross_experts", "cross_rank"),
    "dlrm": ("bottom_fields", "bottom"),
    "xdeepfm": ("cin",),
    "autoint": ("attention_layers", "attention_heads", "attention_width", "attention_scale"),
}
"""Keys that only one backbone reads."""
SML_KEYS: Final = ("sml", "skip", "scale", "scale_rank", "slope", "beta")
"""Keys of the skip logits."""
FIRST_KEYS: Final = (
    *("backbone", "embedding", "hidden", "sml", "scale", "slope", "beta"),
    *("pooling", "embedding_scale", "base_rate"),
)
"""Keys of the first version; every saved state contains them."""


def canonical(config: ModelConfig) -> ModelConfig:
    """The same network, with every key that it does not read set to its default.

    >>> canonical(ModelConfig(backbone="dcn", cross_layers=2, cin=(8,))).cin
    (64, 64, 64)
    """
    if config.backbone in BACKBONE_NAMES:
        own = OPTIONS.get(config.backbone, ())
    else:  # a backbone of another package may read any of them
        own = tuple(key for keys in OPTIONS.values() for key in keys)
    idle = [key for keys in OPTIONS.values() for key in keys if key not in own]
    if config.backbone == "dcnv2" and not config.cross_experts:
        idle.append("cross_rank")
    if config.backbone == "dlrm" and not config.bottom_fields:
        idle.append("bottom")
    if config.scale != "low_rank":
        idle.append("scale_rank")
    if not config.sml:
        idle += ["skip", "scale_rank"]
    defaults = ModelConfig()
    return dataclasses.replace(config, **{key: getattr(defaults, key) for key in idle})


def model_identity(config: ModelConfig) -> dict[str, object]:
    """The settings that decide the shape and meaning of a network's weights, as plain values.

    Keys added after the first version are left out at their default, where they change nothing, so that
    states saved before they existed still match.
    """
    values, defaults = (dataclasses.asdict(each) for each in (canonical(config), ModelConfig()))
    return {key: value for key, value in values.items() if key in FIRST_KEYS or value != defaults[key]}


def ranges(config: ModelConfig) -> list[tuple[str, float, float, float]]:
    """Keys of whole numbers and rates, each with its value and its lowest and highest valid one.

    A list gives an entry for each element.

    >>> ranges(ModelConfig(hidden=(8, 0)))[:3]
    [('embedding', 16, 1, 65536), ('hidden', 8, 1, 65536), ('hidden', 0, 1, 65536)]
    """
    found = []
    for key, hint in get_type_hints(ModelConfig, include_extras=True).items():
        if get_origin(hint) is tuple:
            values, hint = getattr(config, key), get_args(hint)[0]
        else:
            values = (getattr(config, key),)
        for limit in getattr(hint, "__metadata__", ()):
            if limit != FINITE:  # which needs no message about a range
                found += [(key, value, limit.ge, limit.le) for value in values]
    return found
