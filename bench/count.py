"""What a call must do at least: its operations, and the bytes of its arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .problems import CELLS, Shape

# Vectors of length H that BPTT needs of every step and every sequence, beside the outputs. RNN: none, the derivative
# of tanh is 1 - h². LSTM: i, f, g, o and c. GRU with the reset gate after the product: r, z, n and (Wh h + bh)_n.
KEPT = {"RNN": 0, "LSTM": 5, "GRU": 4}


class Bytes(NamedTuple):
    """Arrays of forward and BPTT, each counted once."""

    inputs: int  # x, initial states, gradient of the outputs
    weights: int
    outputs: int
    kept: int
    gradients: int  # of x, initial states, weights

    @property
    def all(self) -> int:
        """Bytes that are needed at the same time, at the end of the forward pass or of the backward one."""
        return sum(self)


def array_bytes(cell: str, shape: Shape, dtype: str) -> Bytes:
    """Bytes of forward and BPTT."""
    N, T, D, H = shape
    G, states = CELLS[cell], 2 if cell == "LSTM" else 1
    x, y, state = T * N * D, T * N * H, states * N * H
    weights = G * H * (D + H + 2)
    parts = (x + state + y, weights, y, KEPT[cell] * y, x + state + weights)
    return Bytes(*(np.dtype(dtype).itemsize * n for n in parts))


def forward_bytes(cell: str, shape: Shape, dtype: str) -> int:
    """Bytes of the arrays that inference reads and writes."""
    N, T, D, H = shape
    return np.dtype(dtype).itemsize * T * N * (D + H)


def operations(cell: str, shape: Shape, training: bool) -> int:
    """Operations of the matrix products; a multiply-add is two. BPTT has two products for each of forward's."""
    N, T, D, H = shape
    return (3 if training else 1) * 2 * N * T * CELLS[cell] * H * (D + H)


def recurrent_bytes(cell: str, H: int, dtype: str) -> int:
    """Bytes of the matrix that every step needs."""
    return CELLS[cell] * H * H * np.dtype(dtype).itemsize
