"""What is measured: the grid of shapes, the arrays, and one call of each cell."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import fastrnn
from fastrnn import functional as F

CELLS = {"RNN": 1, "LSTM": 4, "GRU": 3}


class Shape(NamedTuple):
    """N sequences of T steps, D features, H units."""

    N: int
    T: int
    D: int
    H: int

    def __str__(self) -> str:
        return f"N{self.N} T{self.T} D{self.D} H{self.H}"


GRID = [
    Shape(1, 1000, 1, 20),
    Shape(1, 100, 128, 128),
    Shape(8, 100, 32, 64),
    Shape(20, 35, 100, 100),
    Shape(32, 100, 128, 128),
    Shape(32, 100, 256, 256),
    Shape(64, 50, 256, 512),
    Shape(50, 2048, 1, 32),
]


class Case:
    """One cell at one shape; :meth:`run` is what a user would call."""

    def __init__(self, cell: str, shape: Shape, backward: bool) -> None:
        self.cell, self.shape, self.backward = cell, shape, backward
        rng = np.random.default_rng(0)
        N, T, D, H = shape
        G = CELLS[cell]

        def array(*size: int, scale: float = 1.0) -> Any:
            return (rng.standard_normal(size) * scale).astype(np.float32)

        self.x, self.h0, self.dhs = array(T, N, D), array(N, H), array(T, N, H)
        self.Wx, self.Wh = array(D, G * H, scale=D**-0.5), array(H, G * H, scale=H**-0.5)
        self.b = array(G * H, scale=0.1)

    def run(self) -> tuple[Any, ...]:
        """Outputs, or outputs and every gradient."""
        if self.cell == "RNN":
            hs, cache = F.rnn_forward(self.x, self.h0, self.Wx, self.Wh, self.b)
            back: Callable[..., Any] = F.rnn_backward
        elif self.cell == "LSTM":
            hs, _, cache = F.lstm_forward(self.x, self.h0, self.h0, self.Wx, self.Wh, self.b)
            back = F.lstm_backward
        else:
            hs, cache = F.gru_forward(self.x, self.h0, self.Wx, self.Wh, self.b, self.b)
            back = F.gru_backward
        return (hs, *back(self.dhs, cache)) if self.backward else (hs,)


def assert_same(case: Case) -> None:
    """Both backends give the same numbers: checked before anything is timed. Also compiles the kernels."""
    results = []
    for backend in ("numba", "numpy"):
        with using(backend):
            results.append(case.run())
    for ours, reference in zip(*results, strict=True):
        bound = 1e-4 * max(1e-3, float(np.abs(reference).max()))
        np.testing.assert_allclose(ours, reference, rtol=0, atol=bound)


@contextlib.contextmanager
def using(backend: str) -> Iterator[None]:
    """Run on `backend`."""
    with fastrnn.use_backend(backend):
        yield
