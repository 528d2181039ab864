"""Gradients against differences of the library's own forward pass, in float64.

The fourth-order central difference (Fornberg, Math. Comp. 51 (1988), table 1) has an error of about
1e-12 with this step, so that the promised 1e-7 leaves no doubt. Truncated gradients are not the
gradient of the forward pass; test_functional compares them with the oracle.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cases import CELLS, call_id, run
from fastrnn import functional
from naive import Call
from problems import Problem, Result, problem

STEP = 1e-3
STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))
CALLS = [Call(), Call(reverse=True), Call(lengths=(2, 3, 0)), Call(lengths=(1, 2, 3), reverse=True)]


def inputs(p: Problem) -> Result:
    """Everything that has a gradient, under the gradient's name; writeable copies."""
    states = {f"dstate.{k}": s for k, s in enumerate(p.state)}
    return {name: a.copy() for name, a in ({"dx": p.x} | states | {f"d{k}": a for k, a in p.params.items()}).items()}


def differences(p: Problem, call: Call) -> Result:
    values = inputs(p)
    state = tuple(values[f"dstate.{k}"] for k in range(len(p.state)))
    params = {name: values[f"d{name}"] for name in p.params}

    def loss() -> Any:
        hs, last, _ = functional.cell_forward(
            CELLS[p.cell],
            values["dx"],
            state,
            params,
            lengths=call.lengths,
            reverse=call.reverse,
            keep=False,
        )
        return (hs * p.dhs).sum() + sum((s * d).sum() for s, d in zip(last, p.dlast, strict=True))

    gradients = {name: np.zeros_like(a) for name, a in values.items()}
    for name, a in values.items():
        for index in np.ndindex(a.shape):
            there = a[index]
            for offset, weight in STENCIL:
                a[index] = there + offset * STEP
                gradients[name][index] += weight * loss() / STEP
            a[index] = there
    return gradients


@pytest.mark.parametrize("call", CALLS, ids=call_id)
@pytest.mark.parametrize("cell", CELLS)
def test_against_differences(backend: str, cell: str, call: Call) -> None:
    p = problem(cell, T=3, N=3, D=2, H=3)
    got = run(p, call)
    for name, expected in differences(p, call).items():
        error = np.linalg.norm(got[name] - expected)
        assert error <= 1e-7 * np.linalg.norm(expected), name
