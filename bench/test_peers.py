"""Each library beside fastrnn on a few points, as pytest-benchmark groups: `pytest bench/test_peers.py`."""

from __future__ import annotations

from typing import Any

import pytest

from .cases import CELLS, Shape
from .contenders import OURS, PEERS, Problem, assert_same, choose, installed

SHAPES = [Shape(1, 1000, 1, 20), Shape(8, 100, 32, 64), Shape(32, 100, 128, 128)]
ALL = {**OURS, **PEERS}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("mode", ["forward", "training"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_speed(benchmark: Any, cell: str, shape: Shape, mode: str, name: str) -> None:
    if not installed(name):
        pytest.skip(f"{name} is not installed")
    problem = Problem(cell, shape)
    contender = ALL[name](problem, 1)
    if mode == "training" and not contender.trains:
        pytest.skip(f"{name} has no gradients")
    choose("NumPy")
    want = getattr(PEERS["NumPy"](problem, 1), mode)()
    choose(name)
    benchmark.group = f"{cell} {shape} {mode}"
    got = benchmark.pedantic(getattr(contender, mode), rounds=5, warmup_rounds=1)
    assert_same(name, got, want, problem.dtype)
