"""Each network's logit as its paper writes it: numpy numbers in float64, loops, one event."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from stream_ctr.config.model import ModelConfig

Vector = NDArray[np.float64]
Table = Mapping[str, Vector]


def dot(a: Vector, b: Vector) -> float:
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def layer(p: Table, name: str, x: Vector) -> Vector:
    weight, bias = p[f"{name}.weight"], p[f"{name}.bias"]
    return np.array([max(0.0, dot(weight[o], x) + float(bias[o])) for o in range(len(bias))])


def tower(p: Table, x: Vector, layers: int, name: str = "tower") -> list[Vector]:
    outputs = []
    for i in range(1, layers + 1):
        x = layer(p, f"{name}.{i}", x)
        outputs.append(x)
    return outputs


def products(vectors: list[Vector]) -> list[float]:
    count = len(vectors)
    return [dot(vectors[i], vectors[j]) for i in range(count) for j in range(i + 1, count)]


def base_logit(c: ModelConfig, p: Table, rows: Vector) -> tuple[float, list[Vector]]:
    """z_0 of the pooled rows [F, D] of one event, and the tower's hidden outputs."""
    wide = c.backbone in ("wide_deep", "deepfm", "xdeepfm")
    e = [row[: c.embedding] for row in rows]
    z = float(p["output.bias"][0]) + (sum(float(row[c.embedding]) for row in rows) if wide else 0.0)
    flat = np.concatenate(e)
    beside: Vector = np.zeros(0)
    inputs = flat
    if c.backbone == "ipnn":
        inputs = np.concatenate([flat, products(e)])
    elif c.backbone == "dlrm":
        inputs = dlrm_inputs(c, p, e)
    elif c.backbone == "deepfm":
        z += sum(products(e))
    elif c.backbone == "xdeepfm":
        z += cin(c, p, e)
    elif c.backbone == "autoint":
        z += dot(np.concatenate(attention(c, p, e)), p["attention.output"])
    elif c.backbone == "dcn":
        beside = flat
        for i in range(1, c.cross_layers + 1):
            beside = flat * dot(p[f"cross.{i}.weight"], beside) + p[f"cross.{i}.bias"] + beside
    elif c.backbone == "dcnv2":
        beside = cross(c, p, flat)
    outputs = tower(p, inputs, len(c.hidden))
    without_tower = inputs if c.backbone in ("dnn", "ipnn", "dlrm") else np.zeros(0)
    last = outputs[-1] if outputs else without_tower
    last = np.concatenate([beside, last])
    return z + (dot(last, p["output.weight"]) if last.size else 0.0), outputs


def cross(c: ModelConfig, p: Table, x_0: Vector) -> Vector:
    """DCN-V2 eq. 1, or eq. 3 and 4."""
    x, width = x_0, len(x_0)
    for i in range(1, c.cross_layers + 1):
        bias = p[f"cross.{i}.bias"]
        if not c.cross_experts:
            matrix = p[f"cross.{i}.weight"]
            x = np.array([x_0[a] * (dot(matrix[a], x) + bias[a]) + x[a] for a in range(width)])
            continue
        scores = [math.exp(dot(gate, x)) for gate in p["cross.gate"]]
        after = x.copy()
        for k in range(c.cross_experts):
            down, core, up = (p[f"cross.{i}.{name}"][k] for name in ("down", "core", "up"))
            inner = np.array([math.tanh(dot(down[r], x)) for r in range(c.cross_rank)])
            inner = np.array([math.tanh(dot(core[r], inner)) for r in range(c.cross_rank)])
            for a in range(width):
                after[a] += scores[k] / sum(scores) * x_0[a] * (dot(up[a], inner) + bias[a])
        x = after
    return x


def dlrm_inputs(c: ModelConfig, p: Table, e: list[Vector]) -> Vector:
    if not c.bottom_fields:
        return np.array(products(e))
    y = tower(p, np.concatenate(e[: c.bottom_fields]), len(c.bottom) + 1, "bottom")[-1]
    return np.concatenate([products([*e[c.bottom_fields :], y]), y])


def cin(c: ModelConfig, p: Table, e: list[Vector]) -> float:
    """xDeepFM eq. 6 and 8."""
    maps, z, place = e, 0.0, 0
    for k, count in enumerate(c.cin, start=1):
        weight, bias = p[f"cin.{k}.weight"], p[f"cin.{k}.bias"]
        after = []
        for h in range(count):
            total = np.full(c.embedding, bias[h])
            for i, x_i in enumerate(e):
                for j, x_j in enumerate(maps):
                    total = total + weight[h, i, j] * x_i * x_j
            after.append(total)
            z += float(p["cin.output"][place]) * float(total.sum())
            place += 1
        maps = after
    return z


def attention(c: ModelConfig, p: Table, e: list[Vector]) -> list[Vector]:
    """AutoInt eq. 5 to 8."""
    size = c.attention_width // c.attention_heads
    for number in range(1, c.attention_layers + 1):
        query, key, value = (p[f"attention.{number}.{name}"] for name in ("query", "key", "value"))
        after = []
        for x_i in e:
            together: list[float] = []
            for head in range(c.attention_heads):
                part = slice(head * size, (head + 1) * size)
                scores = [dot(query[part] @ x_i, key[part] @ x_j) for x_j in e]
                if c.attention_scale:
                    scores = [score / math.sqrt(size) for score in scores]
                weights = np.exp(scores) / sum(np.exp(scores))
                mixed = sum(w * (value[part] @ x_j) for w, x_j in zip(weights, e, strict=True))
                together += list(np.asarray(mixed))
            residual = p.get(f"attention.{number}.residual")
            skipped = x_i if residual is None else residual @ x_i
            after.append(np.maximum(np.array(together) + skipped, 0.0))
        e = after
    return e


def skip_logit(c: ModelConfig, p: Table, i: int, x: Vector) -> float:
    """F_i of SML eq. 5, 10, 16 and of the forms of its ablation."""
    function = {
        "vanilla": lambda v: v,
        "relu": lambda v: max(v, 0.0),
        "sigmoid": lambda v: 1.0 / (1.0 + math.exp(-v)),
        "tanh": math.tanh,
        "learned_scale": math.tanh,
    }[c.skip.removeprefix("meta_")]
    total = 0.0
    for k, x_k in enumerate(x):
        s, line = 1.0, 0 if c.scale == "scalar" else k
        if c.skip == "learned_scale":
            s = float(p[f"sml.{i}.beta"][line])
        elif c.skip.startswith("meta_"):
            if c.scale == "low_rank":
                w = (p[f"sml.{i}.up"] @ p[f"sml.{i}.down"])[k]
            else:
                w = p[f"sml.{i}.scale"][line]
            s = dot(w, x) + float(p[f"sml.{i}.beta"][line])
            s = s if s > 0 else c.slope * s
        total += float(p[f"sml.{i}.weight"][k]) * function(s * float(x_k))
    return total


def logit(c: ModelConfig, p: Table, rows: Vector) -> float:
    """z of the pooled rows [F, D] of one event."""
    z, outputs = base_logit(c, p, rows)
    if c.sml:
        z += sum(skip_logit(c, p, i, x) for i, x in enumerate(outputs, start=1))
    return z
