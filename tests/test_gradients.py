"""Gradients against differences of the library's own forward pass, in float64.

Truncated gradients are not the gradient of the forward pass; test_functional compares them with the oracle.
"""

from __future__ import annotations

import pytest

from cases import CELLS, call_id, run
from differences import assert_gradient
from fastrnn import functional
from naive import Call
from problems import Problem, Result, problem

CALLS = [Call(), Call(reverse=True), Call(lengths=(2, 3, 0)), Call(lengths=(1, 2, 3), reverse=True)]


def inputs(p: Problem) -> Result:
    """Everything that has a gradient, under the gradient's name; writeable copies."""
    states = {f"dstate.{k}": s for k, s in enumerate(p.state)}
    return {name: a.copy() for name, a in ({"dx": p.x} | states | {f"d{k}": a for k, a in p.params.items()}).items()}


@pytest.mark.parametrize("call", CALLS, ids=call_id)
@pytest.mark.parametrize("cell", CELLS)
def test_against_differences(backend: str, cell: str, call: Call) -> None:
    p = problem(cell, T=3, N=3, D=2, H=3)
    values = inputs(p)
    state = tuple(values[f"dstate.{k}"] for k in range(len(p.state)))
    params = {name: values[f"d{name}"] for name in p.params}

    def loss() -> float:
        arguments = {"lengths": call.lengths, "reverse": call.reverse, "keep": False}
        hs, last, _ = functional.cell_forward(CELLS[p.cell], values["dx"], state, params, **arguments)
        return (hs * p.dhs).sum() + sum((s * d).sum() for s, d in zip(last, p.dlast, strict=True))

    got = run(p, call)
    for name, array in values.items():
        assert_gradient(got[name], loss, array, name)
