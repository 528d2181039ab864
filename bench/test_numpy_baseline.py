"""Forward, and forward with BPTT, of each cell on each backend: `pytest bench`."""

from __future__ import annotations

from typing import Any

import pytest

from .cases import CELLS, GRID, Case, Shape, assert_same, using


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "bptt"])
@pytest.mark.parametrize("shape", GRID, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_speed(benchmark: Any, cell: str, shape: Shape, backward: bool, backend: str) -> None:
    case = Case(cell, shape, backward)
    assert_same(case)
    with using(backend):
        benchmark.pedantic(case.run, rounds=5, warmup_rounds=1)
