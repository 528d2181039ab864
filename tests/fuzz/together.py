"""Calls at the same time from several threads: each gives the bits that it gives alone."""

from __future__ import annotations

import contextvars
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from . import cells, layers
from .arrays import Results, assert_bits
from .settings import DEFAULTS as SETTINGS
from .settings import draw as draw_settings
from .settings import settings

DEFAULTS: dict[str, Any] = {**SETTINGS, "calls": [], "rounds": 3, "callers": 2}


def draw(rng: np.random.Generator, quick: bool) -> dict[str, Any]:
    common = draw_settings(rng) | {"precision": "highest"}
    calls = []
    for _ in range(int(rng.integers(1, 4))):
        name = "layer" if rng.random() < 0.5 else "cell"
        module = layers if name == "layer" else cells
        call = module.draw(rng, quick) | common
        if common["backend"] == "numba" and call["cell"] not in cells.QUICK:
            call["cell"] = "lstm"  # compiled once, not with every case
        shorter = {"T": min(call["T"], 70), "N": min(call["N"], 20)}
        calls.append({k: v for k, v in (call | shorter).items() if k not in SETTINGS} | {"kind": name})
    return common | {"calls": calls, "rounds": int(rng.integers(2, 6)), "callers": int(rng.integers(2, 5))}


def run(case: dict[str, Any]) -> None:
    own = {k: case[k] for k in SETTINGS}
    calls = [(layers if c["kind"] == "layer" else cells).DEFAULTS | c | own for c in case["calls"]]
    # The settings of a thread are those of whoever started it, by a context that the thread has for itself.
    with np.errstate(all="ignore"), settings(case), ThreadPoolExecutor(case["callers"]) as pool:
        shared = [layers.build(c) if c["kind"] == "layer" else None for c in calls]
        alone = [_results(c, layer) for c, layer in zip(calls, shared, strict=True)]
        work = [
            (pool.submit(contextvars.copy_context().run, _results, c, layer), want)
            for _ in range(case["rounds"])
            for c, layer, want in zip(calls, shared, alone, strict=True)
        ]
        for done, want in work:
            assert_bits(done.result(), want, "beside other calls")


def _results(case: dict[str, Any], layer: Any) -> Results:
    """A layer keeps what its backward pass needs, so training takes one of its own."""
    if case["kind"] == "cell":
        return cells.results(case, cells.arrays_of(case))
    return layers.results(case, layers.build(case) if case["mode"] == "train" else layer, case["mode"])
