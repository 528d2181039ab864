"""The oracle itself: its tape against the complex step, its cells against PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import naive
from problems import assert_close, oracle, problem
from torch_reference import MODULES, torch_result

CALLS = [
    naive.Call(),
    naive.Call(lengths=(2, 3, 0), reverse=True),
]


def complex_step(p: Any, call: naive.Call) -> dict[str, np.ndarray]:
    """Gradients of the loss by Im f(v + ih) / h, exact to rounding for so small an h."""
    tiny = 1e-30
    inputs = {"dx": p.x, **{f"dstate.{k}": s for k, s in enumerate(p.state)}}
    inputs |= {f"d{name}": a for name, a in p.params.items()}
    values = {name: a.astype(complex) for name, a in inputs.items()}
    dhs, dlast = naive.nested(p.dhs), naive.nested(p.dlast)

    def loss() -> complex:
        lists = {name: naive.nested(a, complex) for name, a in values.items()}
        state = [lists[f"dstate.{k}"] for k in range(len(p.state))]
        params = {name: lists[f"d{name}"] for name in p.params}
        return naive.loss(*naive.run(naive.CELLS[p.cell].step, lists["dx"], state, params, call), dhs, dlast)

    gradients = {name: np.empty(a.shape) for name, a in inputs.items()}
    for name, a in values.items():
        for index in np.ndindex(a.shape):
            a[index] += 1j * tiny
            gradients[name][index] = loss().imag / tiny
            a[index] = a[index].real
    return gradients


@pytest.mark.parametrize("call", CALLS, ids=str)
@pytest.mark.parametrize("cell", naive.CELLS)
def test_tape_against_complex_step(cell: str, call: naive.Call) -> None:
    p = problem(cell, T=3, N=3, D=2, H=2)
    expected = complex_step(p, call)
    assert_close({name: oracle(p, call)[name] for name in expected}, expected, rtol=1e-13)


def test_truncation_equals_chunks_run_one_after_another() -> None:
    p = problem("lstm")
    step, k = naive.CELLS["lstm"].step, 2
    whole = oracle(p, naive.Call(truncate=k))
    starts = range(0, len(p.x), k)
    state, dWh = p.state, 0.0
    for start in starts:
        part = slice(start, start + k)
        is_last = start == starts[-1]
        dlast = p.dlast if is_last else np.zeros_like(p.dlast)
        r = naive.differentiate(step, p.x[part], state, p.params, p.dhs[part], dlast, naive.Call())
        np.testing.assert_array_equal(whole["dx"][part], r.dx)
        state, dWh = r.last, dWh + np.array(r.dparams["Wh"])
    np.testing.assert_allclose(whole["dWh"], dWh, rtol=1e-12)


@pytest.mark.parametrize("cell", MODULES)
def test_against_torch(torch: Any, cell: str) -> None:
    p = problem(cell)
    for reverse in (False, True):
        for lengths in (None, (2, 5, 1, 3)):
            call = naive.Call(lengths, reverse)
            assert_close(oracle(p, call), torch_result(torch, p, call), rtol=1e-12)
