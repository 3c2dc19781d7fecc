"""Which network predicts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Final, Literal, get_args, get_origin, get_type_hints

from annotated_types import Interval

from stream_ctr.config.ranges import FINITE, WIDEST, Number, Width

BackboneName = Literal[
    "dnn", "wide_deep", "ipnn", "deepfm", "dcn", "dcnv2", "dlrm", "xdeepfm", "autoint"
]  # fmt: skip
SkipForm = Literal[
    "vanilla", "relu", "sigmoid", "tanh", "learned_scale",
    "meta_vanilla", "meta_relu", "meta_sigmoid", "meta_tanh",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Backbone and Skip Meta Logit (algorithms: SML eq. 5, 10, 16)."""

    backbone: BackboneName = "dnn"
    """The network whose logit z_0 the skip logits are added to."""
    embedding: Width = 16
    """Width d of an embedding row."""
    hidden: tuple[Width, ...] = (128, 64)
    """Widths of the deep tower's hidden layers, first to last. Empty: no tower beside the backbone's own
    part; dnn, ipnn and dlrm, which have no other part, become linear in the tower's inputs."""
    sml: bool = True
    """Add the meta skip logit of every hidden layer; false gives the backbone alone."""
    scale: Literal["unit", "scalar", "low_rank"] = "unit"
    """Shape of s_i(x): one scale per unit (w_i is h x h), one for the layer, or per unit with a w_i of low
    rank."""
    slope: Number = 0.2
    """Negative slope of the leaky ReLU in s_i (eq. 16)."""
    beta: Number = 1.0
    """Initial bias beta_i in s_i; 0 is the paper's literal mode."""
    pooling: Literal["mean", "sum"] = "mean"
    """How the values of a multi-valued field become one embedding."""
    embedding_scale: Number = 0.003
    """Standard deviation of a new embedding row."""
    base_rate: Number = 0.5
    """Click rate that is predicted before anything was learned: until the first label window has passed,
    nothing is known. Set it to what the stream is known to have."""
    skip: SkipForm = "meta_tanh"
    """What a hidden layer adds: W x, W relu(x), W sigmoid(x), W tanh(x), W tanh(s x) with a learned constant
    s, or the first four functions of s(x) x, where s(x) is the meta network of eq. 16."""
    scale_rank: Width = 8
    """scale = "low_rank": rank of w_i."""
    dropout: Annotated[float, Interval(ge=0, le=0.99)] = 0.0
    """Share of a hidden layer's outputs (autoint: of its attention, too) that training sets to 0. For the
    batch protocol only; a stream is learned without."""
    cross_layers: Annotated[int, Interval(ge=1, le=100)] = 3
    """dcn, dcnv2: number of cross layers."""
    cross_experts: Annotated[int, Interval(ge=0, le=1000)] = 0
    """dcnv2: experts of the low-rank mixture (published: 4); 0 takes full-rank cross layers."""
    cross_rank: Width = 32
    """dcnv2 with experts: rank of an expert."""
    cin: tuple[Width, ...] = (64, 64, 64)
    """xdeepfm: feature maps of each layer of the compressed interaction network."""
    attention_layers: Annotated[int, Interval(ge=1, le=100)] = 3
    """autoint: number of attention layers."""
    attention_heads: Width = 2
    """autoint: heads of a layer."""
    attention_width: Width = 64
    """autoint: width of a layer's output for each field, all heads together."""
    attention_scale: bool = False
    """autoint: divide the products of queries and keys by the square root of a head's width."""
    bottom_fields: Annotated[int, Interval(ge=0, le=WIDEST)] = 0
    """dlrm: how many of the first fields are the dense ones. Their embeddings go through the bottom tower,
    which gives one more vector to interact; 0 has no bottom tower."""
    bottom: tuple[Width, ...] = (512, 256, 64)
    """dlrm: widths of the bottom tower's hidden layers; an output layer of the embedding's width follows."""


OPTIONS: Final[dict[str, tuple[str, ...]]] = {
    "dcn": ("cross_layers",),
    "dcnv2": ("cross_layers", "cross_experts", "cross_rank"),
    "dlrm": ("bottom_fields", "bottom"),
    "xdeepfm": ("cin",),
    "autoint": ("attention_layers", "attention_heads", "attention_width", "attention_scale"),
}
"""Keys that one backbone alone reads."""
SML_KEYS: Final = ("sml", "skip", "scale", "scale_rank", "slope", "beta")
"""Keys of the skip logits."""
FIRST_KEYS: Final = (
    *("backbone", "embedding", "hidden", "sml", "scale", "slope", "beta"),
    *("pooling", "embedding_scale", "base_rate"),
)
"""Keys of the first version, which every saved state names."""


def canonical(config: ModelConfig) -> ModelConfig:
    """The same network with every key that it does not read at its default.

    >>> canonical(ModelConfig(backbone="dcn", cross_layers=2, cin=(8,))).cin
    (64, 64, 64)
    """
    own = OPTIONS.get(config.backbone, ())
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
    """What decides the shape and the meaning of a network's weights, as plain values.

    Keys that were added after the first version are left out at their default, where they change nothing:
    what was saved before they came still fits.
    """
    values, defaults = (dataclasses.asdict(each) for each in (canonical(config), ModelConfig()))
    return {key: value for key, value in values.items() if key in FIRST_KEYS or value != defaults[key]}


def ranges(config: ModelConfig) -> list[tuple[str, float, float, float]]:
    """Keys of whole numbers and rates, each with its value and the lowest and highest that makes sense.

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
            if limit != FINITE:  # any number that fits into 32 bits: nothing that a range could explain
                found += [(key, value, limit.ge, limit.le) for value in values]
    return found
