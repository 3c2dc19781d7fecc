"""Each kernel of the fused step against a transcription in NumPy, under Triton's interpreter.

``test_learner.py`` runs this file in a separate process, because the interpreter is enabled for a whole
process.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stream_ctr.config.label_policy import LabelLoss
from stream_ctr.learners.cuda.fused.head_kernel import head
from stream_ctr.learners.cuda.fused.pass_kernels import backward, forward, gather
from stream_ctr.learners.cuda.fused.step import launch
from stream_ctr.learners.cuda.fused.update_kernels import ascend, finish, update_dense, update_rows

Vector = NDArray[np.float64]
SPARE = 9
SLOTS = [0, 1, 1, 2, 4]
FIELD_SLOTS = [[0, -1], [1, 2], [3, -1], [-1, -1], [4, -1]]
ROWS = [5, 6, SPARE, SPARE, 7]  # of five slots in five fields: two have no row, and one field has no slot
MEMBERS = [1.0, 1.0, 0.0, 0.0, 1.0]
BOTH = [5, 6, 8, SPARE, 7]  # the second field has both of its rows
RNG = np.random.default_rng(11)
both_passes = pytest.mark.parametrize("second", [False, True], ids=["first", "second"])


def numbers(*shape: int) -> Vector:
    return RNG.normal(size=shape)


def tensor(values: Any, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(np.asarray(values), dtype=dtype)


def whole(values: Any) -> torch.Tensor:
    return tensor(values, torch.int64)


def empty(*shape: int) -> torch.Tensor:
    """Sentinel numbers: kernels must overwrite them, or must not read them."""
    return torch.full(shape, torch.nan, dtype=torch.float64)


def run(kernel: Any, programs: int, **arguments: Any) -> None:
    assert set(arguments) == set(kernel.arg_names)
    launch(kernel, programs, arguments)


def close(one: torch.Tensor, other: Any) -> None:
    np.testing.assert_allclose(one.numpy(), other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("mean", [True, False], ids=["mean", "sum"])
def test_gather(mean: bool) -> None:
    table, chunk = numbers(10, 3), np.array([[SPARE] * 5, BOTH])
    table[SPARE] = np.nan
    before, event, members, x = whole([7, 7]), whole([0] * 8), empty(5), empty(15)
    run(
        gather, 3, cursor=whole([1]), learned=whole([41]), rows=whole(chunk), before=before,
        table=tensor(table), field_slots=tensor(FIELD_SLOTS, torch.int32), event=event, members=members, x=x,
        slots=5, fields=5, width=3, spare=SPARE, most=2, mean=mean, s_block=8, f_block=2, k_block=4,
    )  # fmt: skip
    pair = (table[6] + table[8]) / (2.0 if mean else 1.0)
    zero = np.zeros(3)
    close(x, np.concatenate([table[5], pair, zero, zero, table[7]]))
    assert members.tolist() == [1, 2, 0, 0, 1]
    assert event.tolist() == [1, 41, 0, *BOTH]
    assert before.tolist() == [7, 41]


@both_passes
def test_forward(second: bool) -> None:
    tower, scale, bias, beta = numbers(5, 6), numbers(3, 6), numbers(5), numbers(3)
    w = np.concatenate([numbers(2), tower.ravel(), bias, scale.ravel(), beta])
    x, x_old, d_old, e_old, c = numbers(6), numbers(6), numbers(5), numbers(3), 0.7
    above, inner, norm = empty(5), empty(3), empty(1)
    run(
        forward, 5, w=tensor(w), x=tensor(x), above=above, inner=inner, x_old=tensor(x_old),
        d_old=tensor(d_old), e_old=tensor(e_old), state=tensor([c, 0, 0, 0]), norm=norm,
        size=6, tower=2, bias=32, rows=5, scale=37, beta=55, scales=3, second=second, o_block=2, k_block=4,
    )  # fmt: skip
    c = c if second else 0.0
    tower, bias = tower + c * np.outer(d_old, x_old), bias + c * d_old
    scale, beta = scale + c * np.outer(e_old, x_old), beta + c * e_old
    close(above, np.maximum(tower @ x + bias, 0.0))
    close(inner, scale @ x + beta)
    close(norm, [x @ x])


@both_passes
@pytest.mark.parametrize("lowest", [False, True], ids=["inner", "lowest"])
def test_backward(second: bool, lowest: bool) -> None:
    tower = numbers(6, 5)
    d, d_old, x, x_old, c = numbers(6), numbers(6), numbers(5), numbers(5), 0.7
    skips, below, norm = numbers(5), empty(5), empty(1)
    g = tensor(skips)
    run(
        backward, 3, w=tensor(np.concatenate([numbers(3), tower.ravel()])), d=tensor(d), x=tensor(x), g=g,
        below=below, d_old=tensor(d_old), x_old=tensor(x_old), state=tensor([c, 0, 0, 0]), norm=norm,
        size=5, tower=3, rows=6, second=second, lowest=lowest, skips=True, o_block=4, k_block=2,
    )  # fmt: skip
    tower = tower + (c * np.outer(d_old, x_old) if second else 0.0)
    if lowest:
        close(g, tower.T @ d)
    else:
        close(below, np.where(x > 0.0, tower.T @ d + skips, 0.0))
    close(norm, [d @ d])


@pytest.mark.parametrize(
    ("second", "per_unit", "labels"),
    [
        (False, True, LabelLoss()),
        (True, True, LabelLoss("fnw")),
        (False, False, LabelLoss("wait", 0.3)),
        (True, False, LabelLoss("fast", 0.5)),
    ],
    ids=["first-unit", "second-unit-fnw", "first-scalar-thinned", "second-scalar-fast"],
)
def test_head(second: bool, per_unit: bool, labels: LabelLoss) -> None:
    starts, slope, c, z_old = (0, 2, 5, 9), 0.2, 0.3, -0.4
    w, x, inner, x_old, t_old = numbers(20), numbers(9), numbers(9), numbers(9), numbers(9)
    x[3] = 0.0
    t, d, e, g, z, p = empty(9), empty(9), empty(9), empty(9), empty(1), torch.zeros(2)
    x_square = numbers(6) ** 2
    sums, cursor, policy = tensor(x_square), whole([1]), {"fast": 1, "fnw": 2}.get(labels.policy, 0)
    run(
        head, 1, w=tensor(w), x=tensor(x), inner=tensor(inner), t=t, d=d, e=e, g=g, z=z,
        x_old=tensor(x_old), t_old=tensor(t_old), z_old=tensor([z_old]), state=tensor([c, 0, 0, 0]),
        sums=sums, event=whole([1, 5, 0]), numbers=tensor([[0] * 3, [9, 1, 2.5]]), probability=p,
        cursor=cursor, starts=starts, skips=(3, 6), output=10, bias=14, layers=2, slots=1, slope=slope,
        per_unit=per_unit, policy=policy or (0 if labels.plain else 3), keep=labels.keep_negatives,
        second=second, learns=True, block=2,
    )  # fmt: skip
    climb = c * z_old if second else 0.0
    logit, squares, of_skips = w[14] + climb, 0.0, np.zeros(9)
    for begin, end, place in [(2, 5, 3), (5, 9, 6)]:
        raw = inner[begin:end] if per_unit else np.full(end - begin, inner[begin])
        s, own = np.where(raw > 0.0, raw, slope * raw), slice(begin, end)
        tanh, skip = np.tanh(s * x[own]), w[place : place + end - begin] + climb * t_old[own]
        close(t[own], tanh)
        logit += skip @ tanh
        of_skips[own] = skip * (1.0 - tanh**2)
        squares += float(tanh @ tanh)
    v = w[10:14] + climb * x_old[5:]
    logit += v @ x[5:]
    probability = 1.0 / (1.0 + math.exp(-logit))
    at_logit = 2.5 * labels.logit_gradient(probability, 1.0)
    close(z, [at_logit])
    squares = at_logit**2 * (1.0 + squares + float(x[5:] @ x[5:]))
    for i, (begin, end) in enumerate([(2, 5), (5, 9)], start=1):
        own = slice(begin, end)
        raw = inner[own] if per_unit else np.full(end - begin, inner[begin])
        rise = np.where(raw > 0.0, 1.0, slope)
        at_scale = at_logit * of_skips[own] * rise * x[own]
        at_x = at_logit * of_skips[own] * rise * raw
        at_scale = at_scale if per_unit else at_scale.sum(keepdims=True)
        close(e[begin : begin + len(at_scale)], at_scale)
        squares += float(at_scale @ at_scale * (1.0 + x_square[i]))
        if i == 1:
            close(g[own], at_x)
        else:
            close(d[own], np.where(x[own] > 0.0, at_logit * v + at_x, 0.0))
    close(sums, [*x_square[:5], squares])
    assert p.tolist() == ([0.0, 0.0] if second else [0.0, float(np.float32(probability))])
    assert cursor.tolist() == [1]


def test_head_of_a_linear_model_that_only_predicts() -> None:
    w, x, g, p, cursor = numbers(6), numbers(5), empty(5), torch.zeros(2), whole([1])
    none = empty(5)
    for learns in (False, True):
        run(
            head, 1, w=tensor(w), x=tensor(x), inner=none, t=none, d=none, e=none, g=g, z=empty(1),
            x_old=none, t_old=none, z_old=none, state=none, sums=empty(2), event=whole([1, 5, 0]),
            numbers=tensor([[0, 0], [0, 1]]), probability=p, cursor=cursor, starts=(0, 5), skips=(), output=0,
            bias=5, layers=0, slots=0, slope=0.2, per_unit=True, policy=0, keep=1.0, second=False,
            learns=learns, block=4,
        )  # fmt: skip
        assert cursor.tolist() == [2]
    probability = 1.0 / (1.0 + math.exp(-(w[:5] @ x + w[5])))
    assert p.tolist() == [0.0, float(np.float32(probability))]
    close(g, probability * w[:5])


def norms(x: Vector, d: Vector, rest: float) -> float:
    """Squared gradient norms of two layers: matrices and biases, plus the part of the head."""
    return float(d[0] * (1.0 + x[0]) + d[1] * (1.0 + x[1]) + rest)


@pytest.mark.parametrize(
    ("sam", "table", "everything", "mean", "learned"),
    [(0, 0, 0, 1, 3), (0, 1, 1, 1, 3), (0, 1, 0, 0, 30), (1, 0, 1, 1, 3), (1, 0, 1, 0, 0)],
    ids=["helen", "table", "sum", "sam", "sam-sum"],
)
def test_ascend(sam: int, table: int, everything: int, mean: int, learned: int) -> None:
    x, g, x_square, d_square, rest = numbers(15), numbers(15), numbers(3) ** 2, numbers(2) ** 2, 0.8
    g[:3] = 0.0  # a gradient of 0 moves nothing, whatever the radius
    ratio, rho, rho_dense, xi = np.array([1.0, 0.5, 0.1, 0.9, 0.0]), 0.3, 0.6, 0.2
    second, state = empty(15), empty(4)
    run(
        ascend, 1, x=tensor(x), g=tensor(g), x_second=second, sums=tensor([*x_square, *d_square, rest]),
        state=state, event=whole([1, learned, 0, *BOTH]), numbers=tensor([[0.0] * 7, [*ratio, 1, 1]]),
        members=tensor([1, 2, 0, 0, 1]), field_slots=tensor(FIELD_SLOTS, torch.int32), slots=5, fields=5,
        width=3, spare=SPARE, rho_rows=rho, rho_dense=rho_dense, xi=xi, warm_up=10, sam=bool(sam),
        table_norm=bool(table), global_norm=bool(everything), smallest=1e-30, largest=1e30, mean=bool(mean),
        most=2, layers=2, f_block=2, k_block=4,
    )  # fmt: skip
    share = min(learned / 10, 1.0)
    count = np.array([1, 2, 0, 0, 1])
    per_row = g.reshape(5, 3) / (np.maximum(count, 1)[:, None] if mean else 1.0)
    squares = (per_row**2).sum(1)
    dense, of_rows = norms(x_square, d_square, rest), float(count @ squares)
    close(state[0], rho_dense * share / math.sqrt(dense + of_rows if everything else dense))
    assert float(state[1]) == 1.0
    expected = x.reshape(5, 3).copy()
    for slot, row in enumerate(BOTH):
        field = SLOTS[slot]
        norm = dense + of_rows if sam else squares[field] * (count[field] if table else 1)
        radius = rho * share * (1.0 if sam else max(ratio[slot], xi))
        if row != SPARE and norm > 0.0:
            moved = radius / math.sqrt(norm) * per_row[field]
            expected[field] += moved / (count[field] if mean else 1)
    close(second, expected.ravel())


@pytest.mark.parametrize(
    ("rest", "first", "done"), [(0.8, 1.0, True), (0.8, 0.0, False), (np.nan, 1.0, False), (1e31, 1.0, False)]
)
def test_finish(rest: float, first: float, done: bool) -> None:
    state, event, learned, cursor = tensor([0, first, 0, 0]), whole([1, 8, 0]), whole([8]), whole([1])
    skipped = torch.zeros(2, dtype=torch.bool)
    rate, epsilon, beta_1, beta_2 = 0.1, 1e-8, 0.9, 0.999
    run(
        finish, 1, sums=tensor([1, 2, 3, 4, 5, rest]), g=tensor(numbers(15)), members=tensor(MEMBERS),
        state=state, event=event, learned=learned, cursor=cursor, skipped=skipped, fields=5, width=3,
        largest=1e30, second=True, rate=rate, epsilon=epsilon, log_beta_1=math.log(beta_1),
        log_beta_2=math.log(beta_2), rule=2, mean=True, layers=2, f_block=2, k_block=4,
    )  # fmt: skip
    assert event.tolist() == [1, 8, int(done)]
    assert learned.tolist() == [8 + done]
    assert (cursor.tolist(), skipped.tolist()) == ([2], [False, not done])
    root_2 = math.sqrt(1.0 - beta_2 ** (8 + done))
    close(state[2:], [rate * root_2 / (1.0 - beta_1 ** (8 + done)), epsilon * root_2])


def stepped(rule: int, w: Vector, m: Vector, v: Vector, g: Vector, every: bool) -> list[Vector]:
    """One step at a rate of 0.1 and an epsilon of 0.01, with decay rates of 0.9 and 0.99."""
    if rule == 0:
        return [w - 0.1 * g, m, v]
    if rule == 1:
        return [w - 0.1 * g / (np.sqrt(v + g * g) + 0.01), m, v + g * g]
    m_1, v_1 = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
    w_1 = w - 0.1 * m_1 / (np.sqrt(v_1) + 0.01)
    return [np.where((g != 0.0) | every, new, old) for new, old in ((w_1, w), (m_1, m), (v_1, v))]


@pytest.mark.parametrize(("rule", "every"), [(0, False), (1, False), (2, True), (2, False)])
def test_update_dense(rule: int, every: bool) -> None:
    d, x, w, m = numbers(3), numbers(5), numbers(20), numbers(20)
    v, d[1] = numbers(20) ** 2, 0.0
    tiles = [[2, 5, 2, 4, 0, 3], [6, 5, 2, 1, 0, 7], [12, 5, 1, 4, 2, 3], [16, 5, 1, 1, 2, 7]]
    for done in (0, 1):
        arrays = [tensor(each) for each in (w, m, v)]
        run(
            update_dense, 4, w=arrays[0], mean=arrays[1], square=arrays[2], tiles=whole(tiles),
            run=tensor([*d, *x]), state=tensor([0, 0, 0.1, 0.01]), event=whole([0, 0, done]), rule=rule,
            beta_1=0.9, beta_2=0.99, largest=1e30, every=every, o_block=2, k_block=4,
        )  # fmt: skip
        expected = [each.copy() for each in (w, m, v)]
        if done:
            own = slice(2, 17)
            new = stepped(rule, w[own], m[own], v[own], np.outer(d, x).ravel(), every)
            for array, values in zip(expected, new, strict=True):
                array[own] = values
        for kept, wanted in zip(arrays, expected, strict=True):
            close(kept, wanted)


@pytest.mark.parametrize("rule", [0, 1, 2])
def test_update_rows(rule: int) -> None:
    g, w, m, v, l2 = numbers(15), numbers(10, 3), numbers(10, 3), numbers(10, 3) ** 2, 0.01
    members, touched, steps = [1.0, 2.0, 1.0, 1.0, 1.0], np.arange(10), np.arange(10) * 2
    touched[8] = -1 - 3  # initialised in this chunk before event 3, after 40 updates
    for done in (0, 1):
        arrays, counts = [tensor(each) for each in (w, m, v)], [whole(each) for each in (steps, touched)]
        run(
            update_rows, 5, w=arrays[0], mean=arrays[1], square=arrays[2], step=counts[0], touched=counts[1],
            before=whole([9, 9, 9, 40]), g=tensor(g), members=tensor(members), slot_field=whole(SLOTS),
            event=whole([4, 49, done, *BOTH]), width=3, spare=SPARE, rate=0.1, epsilon=0.01,
            log_beta_1=math.log(0.9), log_beta_2=math.log(0.99), l2=l2, rule=rule, beta_1=0.9, beta_2=0.99,
            largest=1e30, every=True, shared=True, k_block=4,
        )  # fmt: skip
        expected, times, numbers_of = [each.copy() for each in (w, m, v)], touched.copy(), steps.copy()
        for slot, row in enumerate(BOTH if done else []):
            if row == SPARE:
                continue
            field, last = SLOTS[slot], 40 if row == 8 else row
            own = g[3 * field : 3 * field + 3] / members[field] + l2 * (50 - last) * w[row]
            times[row] = 50
            new = stepped(rule, w[row], m[row], v[row], own, True)
            if rule == 2:
                numbers_of[row] += 1
                root_2 = math.sqrt(1.0 - 0.99 ** numbers_of[row])
                rate = 0.1 * root_2 / (1.0 - 0.9 ** numbers_of[row])
                new[0] = w[row] - rate * new[1] / (np.sqrt(new[2]) + 0.01 * root_2)
            for array, values in zip(expected, new, strict=True):
                array[row] = values
        for kept, wanted in zip(arrays, expected, strict=True):
            close(kept, wanted)
        assert [each.tolist() for each in counts] == [numbers_of.tolist(), times.tolist()]
