"""What is measured: one cell at one shape, and the grids of shapes that the commands go through."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np

# Gates of a cell: rows of its weights for each hidden unit.
CELLS = {"RNN": 1, "LSTM": 4, "GRU": 3}
# A call that keeps nothing, and one with every gradient.
MODES = {"forward": "forward", "training": "forward and backward"}


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
    Shape(1, 100, 64, 64),
    Shape(1, 100, 128, 128),
    Shape(1, 100, 256, 256),
    Shape(1, 100, 512, 512),
    Shape(8, 100, 32, 64),
    Shape(16, 128, 64, 128),
    Shape(20, 35, 100, 100),
    Shape(32, 100, 128, 128),
    Shape(32, 100, 256, 256),
    Shape(64, 50, 256, 512),
    Shape(128, 50, 512, 512),
    Shape(32, 784, 1, 128),
    Shape(50, 2048, 1, 32),
]
# Those that are measured in float64 as well, and those at which the NumPy loop stands beside Numba.
GRID_64 = [GRID[i] for i in (0, 2, 5, 7, 8, 12)]
GRID_NUMPY = [GRID[i] for i in (0, 2, 5, 7, 8, 9, 10, 13)]
# To see that a command runs.
QUICK = [Shape(1, 20, 1, 20), Shape(32, 4, 32, 128)]


class Problem:
    """Input, initial states, weights and the gradient of the output, in PyTorch's layouts and gate order."""

    def __init__(self, cell: str, shape: Shape, dtype: str = "float32") -> None:
        self.cell, self.shape, self.dtype = cell, shape, dtype
        rng = np.random.default_rng(0)
        N, T, D, H = shape
        G = CELLS[cell]

        def array(*size: int, scale: float = 1.0) -> Any:
            return (rng.standard_normal(size) * scale).astype(dtype)

        self.x, self.dy = array(T, N, D), array(T, N, H)
        self.state = [array(1, N, H, scale=0.5) for _ in range(2 if cell == "LSTM" else 1)]
        self.weights = {
            "weight_ih_l0": array(G * H, D, scale=D**-0.5),
            "weight_hh_l0": array(G * H, H, scale=H**-0.5),
            "bias_ih_l0": array(G * H, scale=0.1),
            "bias_hh_l0": array(G * H, scale=0.1),
        }

    def first(self, steps: int) -> Problem:
        """The same with the first `steps` steps only."""
        part = copy.copy(self)
        part.x, part.dy = self.x[:steps], self.dy[:steps]
        part.shape = self.shape._replace(T=steps)
        return part

    def in_float64(self) -> Problem:
        """The same numbers in float64."""
        exact = copy.copy(self)
        exact.dtype = "float64"
        exact.x, exact.dy = self.x.astype("float64"), self.dy.astype("float64")
        exact.state = [s.astype("float64") for s in self.state]
        exact.weights = {name: w.astype("float64") for name, w in self.weights.items()}
        return exact

    @property
    def initial(self) -> Any:
        """The initial states as layers take them."""
        return joined(self.state)


def joined(state: list[Any]) -> Any:
    """The states as layers take them: a tuple if there are several."""
    return tuple(state) if len(state) > 1 else state[0]
