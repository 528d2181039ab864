"""The NumPy loop and other libraries beside fastrnn, as groups of pytest-benchmark: `pytest bench --benchmark-only`.

``-k "NumPy or fastrnn"`` leaves the other libraries out. Everything is compared before it is timed.
"""

from __future__ import annotations

from typing import Any

import pytest

from .contenders import ALL, compared, missing, take_turn, takes_part
from .problems import CELLS, GRID_NUMPY, MODES, Problem, Shape

# The whole grid for the loop and our backends; a few short points for the others, which have `bench.peers`.
SHORT = [Shape(1, 200, 1, 20), Shape(8, 50, 32, 64), Shape(32, 20, 128, 128)]
LOOP = ("fastrnn cpp", "fastrnn numba", "NumPy", "NumPy by hand")
POINTS = [(name, shape) for name in ALL for shape in (GRID_NUMPY if name in LOOP else SHORT)]
POINTS += [(name, shape) for name in LOOP for shape in SHORT]


@pytest.mark.parametrize(("name", "shape"), POINTS, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cell", CELLS)
def test_speed(benchmark: Any, cell: str, mode: str, name: str, shape: Shape) -> None:
    # PyTorch is promised by the extra `test`: without it this fails.
    if name != "PyTorch" and missing(name):
        pytest.skip(f"{name}: {missing(name)}")
    if name != "PyTorch" and not takes_part(name, cell, "float32", mode == "training"):
        pytest.skip(f"{name} has no {mode} of {cell}")
    run = compared(Problem(cell, shape), mode, [name], threads=1)[name]
    take_turn(name)
    benchmark.group = f"{cell} {shape} {mode}"
    benchmark.pedantic(run, rounds=5, iterations=1 if shape in GRID_NUMPY else 5, warmup_rounds=1)
