"""What the machine can do at most: its rate of matrix products and the bandwidth of its caches, measured.

A point's bound is the larger of two times: its arithmetic at the rate of a large matrix product, and its recurrent
weights, which every step reads once, from the cache that holds them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .cases import CELLS, Shape
from .measure import medians, timed


class Level(NamedTuple):
    """A cache, or memory as the last: bytes that it holds, bytes a second that one core reads from it."""

    name: str
    size: float
    bandwidth: float


class Machine(NamedTuple):
    """Multiply-adds count as two operations."""

    operations: dict[str, float]  # a second, by dtype
    levels: list[Level]


def measure() -> Machine:
    """Measure this machine with as many threads as NumPy's BLAS has."""
    return Machine({dtype: _product_rate(dtype) for dtype in ("float32", "float64")}, _levels())


def bound(machine: Machine, cell: str, shape: Shape, dtype: str, training: bool) -> float:
    """Least seconds of a call by the two limits."""
    N, T, D, H = shape
    G, item = CELLS[cell], np.dtype(dtype).itemsize
    passes = 3 if training else 1
    arithmetic = 2 * passes * N * T * G * H * (D + H) / machine.operations[dtype]
    weights = G * H * H * item
    level = next(level for level in machine.levels if weights <= level.size)
    # Forward and backward read the matrix once a step; its gradient is one product over all steps.
    return max(arithmetic, (2 if training else 1) * T * weights / level.bandwidth)


def _product_rate(dtype: str) -> float:
    n = 1024
    a = np.ones((n, n), dtype)
    seconds = medians({"product": lambda: a @ a}, rounds=7)["product"]
    return 2 * n**3 / seconds


def _levels() -> list[Level]:
    levels = [Level(name, size, _read_rate(size * 0.5)) for name, size in _cache_sizes().items()]
    return [*levels, Level("memory", float("inf"), _read_rate(256e6))]


def _cache_sizes() -> dict[str, float]:
    """Bytes of each cache of the first core; typical ones where the system does not tell."""
    sizes = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (folder / "type").read_text().strip() != "Instruction":
            kilobytes = (folder / "size").read_text().strip().removesuffix("K")
            sizes[f"L{(folder / 'level').read_text().strip()}"] = 1024.0 * int(kilobytes)
    return sizes or {"L1": 32 * 1024.0, "L2": 1024 * 1024.0}


def _read_rate(size: float) -> float:
    """Bytes a second of sums over `size` bytes, read again and again."""
    import numba

    @numba.njit(fastmath=True)
    def read(a: Any, times: int) -> float:
        total = np.float32(0)
        for k in range(times):
            # Never the same range twice in a row, or the compiler would read it once.
            part = a[k & 1 :]
            for i in range(len(part)):
                total += part[i]
        return total

    a = np.ones(int(size) // 4, np.float32)
    times = max(1, int(2e8 / size))
    read(a, 1)
    return a.nbytes * times / min(timed(lambda: read(a, times)) for _ in range(5))
