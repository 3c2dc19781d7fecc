"""The papers' tables computed from the cells of a grid, with the published results."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import asdict
from typing import Any

from stream_ctr.bench.papers.grid import META_TANH, Cell, Results
from stream_ctr.bench.papers.published import ABLATION, COMPONENTS, HELEN_OVER_ADAM, SML_GAIN
from stream_ctr.bench.papers.statistics import PairedTest, Spread, paired_test, spread, variance_across

Aucs = dict[Cell, float]


def cell_aucs(results: Results) -> Aucs:
    """AUC of every cell with a finite one: on the test rows, or on the validation rows without a test."""
    found: Aucs = {}
    for cell, result in results.items():
        scores = result.get("test") or result.get("validation") or {}
        if scores.get("auc") is not None:
            found[cell] = float(scores["auc"])
    return found


def optimizer_table(aucs: Aucs, dataset: str, skip: str) -> list[dict[str, Any]]:
    """Helen's main table: one row per optimizer, one AUC per model; ``skip`` selects with or without SML.

    ``variance`` is across models (section 4.2.5), ``over_adam`` the paired t-test over (model, seed), and
    ``papers_over_adam`` the published gain of Helen without SML on that dataset, averaged over its models.
    """
    chosen = {cell: auc for cell, auc in aucs.items() if cell.skip == skip}
    adam = _by_model_and_seed(chosen, "adam")
    rows = []
    for optimizer in _in_order(cell.optimizer for cell in chosen):
        models = {
            model: [a for c, a in chosen.items() if c.optimizer == optimizer and c.backbone == model]
            for model in _in_order(c.backbone for c in chosen)
        }
        compared = paired_test(adam, _by_model_and_seed(chosen, optimizer)) if optimizer != "adam" else None
        rows.append(
            {
                "optimizer": optimizer,
                "auc": {model: _spread(values) for model, values in models.items()},
                "variance": _finite(variance_across({m: v for m, v in models.items() if v})),
                "over_adam": _test(compared),
                "papers_over_adam": HELEN_OVER_ADAM.get(dataset)
                if (optimizer, skip) == ("helen", "")
                else None,
            }
        )
    return rows


def gain_table(aucs: Aucs, optimizer: str) -> list[dict[str, Any]]:
    """SML, Table 1: one row per model, AUC without and with Skip Meta Logit, for one optimizer."""
    rows = []
    of_optimizer = {cell: auc for cell, auc in aucs.items() if cell.optimizer == optimizer}
    for model in _in_order(cell.backbone for cell in of_optimizer):
        without, with_sml = (
            {c.seed: a for c, a in of_optimizer.items() if c.backbone == model and c.skip == skip}
            for skip in ("", META_TANH)
        )
        if without and with_sml:
            rows.append(
                {
                    "model": model,
                    "without": _spread(list(without.values())),
                    "with": _spread(list(with_sml.values())),
                    "difference": _test(paired_test(without, with_sml)),
                    "papers_criteo": SML_GAIN.get(model),
                }
            )
    return rows


def gain_test(aucs: Aucs) -> dict[str, Any] | None:
    """Paired test of with and without SML over all (model, optimizer, seed)."""
    without, with_sml = (
        {(c.backbone, c.optimizer, c.seed): a for c, a in aucs.items() if c.skip == skip}
        for skip in ("", META_TANH)
    )
    return _test(paired_test(without, with_sml))


def ablation_table(aucs: Aucs) -> list[dict[str, Any]]:
    """SML, Table 2: one row per form of the skip logits, for the DNN with Adam."""
    base = {c.seed: a for c, a in aucs.items() if (c.backbone, c.skip, c.optimizer) == ("dnn", "", "adam")}
    rows = []
    for form, papers in ABLATION.items():
        skip = "" if form == "without" else form
        own = {
            c.seed: a for c, a in aucs.items() if (c.backbone, c.skip, c.optimizer) == ("dnn", skip, "adam")
        }
        if own:
            rows.append(
                {
                    "form": form,
                    "auc": _spread(list(own.values())),
                    "difference": _test(paired_test(base, own)) if skip else None,
                    "papers_criteo": papers[0],
                    "papers_avazu": papers[1],
                }
            )
    return rows


def component_table(aucs: Aucs) -> list[dict[str, Any]]:
    """Helen, Table 4: one row per optimizer, for DeepFM without SML."""
    of_deepfm = {c: a for c, a in aucs.items() if c.backbone == "deepfm" and not c.skip}
    adam = _by_model_and_seed(of_deepfm, "adam")
    rows = []
    for optimizer, papers in COMPONENTS.items():
        own = _by_model_and_seed(of_deepfm, optimizer)
        if own:
            compared = paired_test(adam, own) if optimizer != "adam" else None
            rows.append(
                {
                    "optimizer": optimizer,
                    "auc": _spread(list(own.values())),
                    "over_adam": _test(compared),
                    "papers_criteo": papers,
                }
            )
    return rows


def _by_model_and_seed(aucs: Aucs, optimizer: str) -> dict[Hashable, float]:
    return {(c.backbone, c.seed): auc for c, auc in aucs.items() if c.optimizer == optimizer}


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _spread(values: list[float]) -> dict[str, Any] | None:
    return _plain(spread(values)) if values else None


def _test(found: PairedTest | None) -> dict[str, Any] | None:
    return _plain(found) if found else None


def _plain(value: Spread | PairedTest) -> dict[str, Any]:
    return {name: _finite(item) if isinstance(item, float) else item for name, item in asdict(value).items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
