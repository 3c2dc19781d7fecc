"""Published results of the two papers, printed next to measured ones. None was computed by this project.

Helen: Zhu et al., "Helen: Optimizing CTR Prediction Models with Frequency-wise Hessian Eigenvalue
Regularization", WWW 2024, arXiv 2403.00798. SML: Deng et al., "Enhance the Network Smoothness with Skip Meta
Logit for CTR Prediction", arXiv 2210.10725. All are test AUCs on the full public datasets, split 8:1:1.
"""

from __future__ import annotations

from typing import Final

HELEN_OVER_ADAM: Final = {"avazu": 0.0036, "criteo": 0.0007, "taobao": 0.0042}
"""Helen: mean gain in AUC over Adam, of seven models, by dataset; Helen is first in 15 of the 21 cells."""

HELEN_MODELS: Final = ("dnn", "wide_deep", "ipnn", "deepfm", "dcn", "dcnv2", "dlrm")
"""The seven models of Helen's main table."""

COMPONENTS: Final = {
    "adam": 0.81366,
    "sam": 0.81407,
    "helen-m": 0.81412,
    "helen-b": 0.81461,
    "helen": 0.81471,
}
"""Helen, Table 4: DeepFM on Criteo."""

SML_GAIN: Final = {
    "dnn": (0.80948, 0.81042),
    "dcn": (0.80936, 0.81021),
    "dcnv2": (0.81143, 0.81171),
    "deepfm": (0.80949, 0.81026),
    "xdeepfm": (0.81046, 0.81086),
    "autoint": (0.80947, 0.81025),
}
"""SML, Table 1: Criteo, without and with Skip Meta Logit."""

ABLATION: Final = {
    "without": (0.80948, 0.78376),
    "vanilla": (0.80985, 0.78409),
    "relu": (0.80963, 0.78357),
    "sigmoid": (0.80952, 0.78390),
    "tanh": (0.80978, 0.78407),
    "learned_scale": (0.80987, 0.78403),
    "meta_vanilla": (0.81024, 0.78426),
    "meta_relu": (0.80998, 0.78384),
    "meta_sigmoid": (0.80984, 0.78391),
    "meta_tanh": (0.81042, 0.78459),
}
"""SML, Table 2: DNN on Criteo and on Avazu, by form of the skip logits."""

NOT_COMPARABLE: Final = (
    "The published results are for the full Criteo and Avazu datasets with settings tuned on them. With "
    "other rows or settings, only the direction of differences is comparable."
)
