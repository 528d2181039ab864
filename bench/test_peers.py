"""Each library beside fastrnn on a few points, as pytest-benchmark groups: `pytest bench/test_peers.py`."""

from __future__ import annotations

from typing import Any

import pytest

from .cases import CELLS, Shape
from .contenders import ALL, Problem, assert_same, choose, missing, reference, take_turn, takes_part

SHAPES = [Shape(1, 200, 1, 20), Shape(8, 50, 32, 64), Shape(32, 20, 128, 128)]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("mode", ["forward", "training"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_speed(benchmark: Any, cell: str, shape: Shape, mode: str, name: str) -> None:
    if name != "PyTorch" and missing(name):
        pytest.skip(f"{name}: {missing(name)}")
    if not takes_part(name, cell, "float32", mode == "training"):
        pytest.skip(f"{name} has no {mode} of {cell}")
    problem = Problem(cell, shape)
    want = reference(problem, mode)
    run = getattr(ALL[name](problem, 1), mode)
    choose(name)
    assert_same(name, run(), want, problem.dtype)
    take_turn(name)
    benchmark.group = f"{cell} {shape} {mode}"
    benchmark.pedantic(run, rounds=5, iterations=5, warmup_rounds=1)
