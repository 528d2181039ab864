"""Saturated gates against ordinary ones: `python -m bench.saturated`.

Weights a hundred times as large saturate the gates, and the gradients that come back through them are full of
subnormal numbers. Time of a forward and a backward pass (LSTM, N=32, T=100, D=H=128, float32), in milliseconds, for
both compiled backends, on one thread and on two.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

import fastrnn

from .command import parser, run
from .measure import Row, medians
from .results import Result, all_rows
from .tables import table

BACKENDS = {"cpp": "C++", "numba": "Numba"}
FACTORS = {"ordinary": 1, "saturated": 100}


def main() -> None:
    """Measure and print; with ``--save``, keep the figures."""
    run("saturated", parser(__doc__, threads=(1, 2), rounds=7), rows, tables)


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """A row for each backend that is available."""
    fastrnn.set_num_threads(options.worker)
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((100, 32, 128)).astype("f4") for _ in range(2))
    for backend in BACKENDS:
        if backend not in fastrnn.available_backends():
            continue
        with fastrnn.use_backend(backend):
            runs = {name: partial(train_step, _layer(factor), x, dy) for name, factor in FACTORS.items()}
            seconds = medians(runs, options.rounds, 0.05)
        yield {"backend": backend, "ms": {name: 1e3 * s for name, s in seconds.items()}}


def _layer(factor: float) -> fastrnn.LSTM:
    """Weights `factor` times as large as usual."""
    layer = fastrnn.LSTM(128, 128, seed=0)
    for param in layer.params.values():
        param *= factor
    return layer


def train_step(layer: Any, x: Any, dy: Any) -> None:
    """Forward and BPTT."""
    layer.forward(x)
    layer.backward(dy)


def tables(results: list[Result]) -> list[str]:
    """A line for each backend and number of threads."""
    lines = []
    for row in all_rows(results):
        ms = row["ms"]
        figures = [f"{value:.1f}" for value in ms.values()] + [f"{ms['saturated'] / ms['ordinary']:.2f}"]
        lines.append([BACKENDS[row["backend"]], str(row["threads"]), *figures])
    return table(["backend", "threads", "ordinary, ms", "saturated, ms", "ratio"], lines)


if __name__ == "__main__":
    main()
