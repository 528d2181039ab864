"""What is made for a cell goes when the cell does, and cells that differ in numbers alone share their machine code."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

import fastrnn
from fastrnn.backends.numba import kernel, machine
from fastrnn.cells import sigmoid, tanh
from fastrnn.cells.expr import _nodes
from fastrnn.engine.plan import make_plan
from fastrnn.functional import cell_backward, cell_forward


@fastrnn.cell(gates="a")
def decaying(x: Any, U: Any, h: Any, *, tau: float = 3.0) -> Any:
    return h + 1 / tau * (tanh(x.a + U.a @ h) - h)


@fastrnn.cell(gates="a")
def creeping(x: Any, U: Any, h: Any, *, tau: float = 3.0, a: float = 0.5) -> Any:
    """Of the same form for all numbers; no other test has run it."""
    return h - 1 / tau * (h - a * sigmoid(x.a + U.a @ h))


def run(cell: fastrnn.Cell, dtype: str = "float64") -> list[np.ndarray]:
    """Both passes of a cell with one state and gate."""
    rng = np.random.default_rng(0)
    x, Wx, Wh = (rng.standard_normal(shape).astype(dtype) for shape in ((4, 2, 3), (3, 5), (5, 5)))
    y, last, cache = cell_forward(cell, x, None, {"Wx": Wx, "Wh": Wh})
    assert cache is not None
    dx, _, grads = cell_backward(np.ones_like(y), cache)
    return [y, *last, dx, *grads.values()]


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_cells_and_plans_that_nobody_uses_are_gone(backend: str) -> None:
    with fastrnn.use_backend(backend):
        run(decaying)
        gc.collect()
        nodes = len(_nodes)
        found: list[weakref.ref[Any]] = []
        for i in range(100):
            cell = decaying(tau=2.5 + i)
            run(cell)
            plan = make_plan(cell)
            found += [weakref.ref(cell), weakref.ref(plan)]
            found += [weakref.ref(k) for k in plan.__dict__.get("_kernels", {}).values()]
        assert all(ref() is not None for ref in found[-2:])
        del cell, plan
        gc.collect()
    assert not any(ref() is not None for ref in found)
    assert len(_nodes) <= nodes


def test_cells_that_differ_in_numbers_alone_share_their_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = machine.MachineCode.__init__

    def counted(self: machine.MachineCode, *given: Any) -> None:
        made.append(given)
        original(self, *given)

    monkeypatch.setattr(machine.MachineCode, "__init__", counted)
    results = {}
    with fastrnn.use_backend("numba"):
        kernel.shared("float64")
        cells = [creeping(tau=tau, a=a) for tau, a in ((5.0, 0.25), (7.0, 2.0), (11.5, -3.0))]
        made.clear()
        for cell in cells:
            results[cell] = run(cell)
    assert len(made) == 1
    for cell, got in results.items():
        with fastrnn.use_backend("numpy"):
            for have, want in zip(got, run(cell), strict=True):
                np.testing.assert_allclose(have, want, rtol=1e-12, atol=1e-13)


def test_machine_code_goes_with_the_last_cell_that_uses_it() -> None:
    with fastrnn.use_backend("numba"):
        first, second = decaying(tau=5.25), decaying(tau=7.25)
        run(first)
        run(second)
        code = weakref.ref(kernel.kernel_of(make_plan(first), np.dtype("float64")).code)
        del first
        gc.collect()
        run(second)
        assert code() is not None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_constants_are_rounded_to_the_type_of_the_arrays(dtype: str) -> None:
    cell = decaying(tau=3.7)
    plan = make_plan(cell)
    constants = kernel.kernel_of(plan, np.dtype(dtype)).constants
    np.testing.assert_array_equal(constants, np.array([1 / 3.7], dtype))
