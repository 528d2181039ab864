"""What the machine can do at most, measured: `python -m bench.roofline`.

Its rate of matrix products, and the bandwidth of its caches and of memory. The limit of a call is the largest of
three times: its matrix products at the rate of a large one; the recurrent weights, which every step reads, from the
cache that holds them; and every other array once, from the cache or memory that holds them all. Elementwise functions
count nothing, so small and narrow shapes cannot come near it. The large product is that of NumPy's BLAS: better
kernels exceed its rate, and so the limit, by some percent.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np

from . import tables
from .command import parser, run
from .count import array_bytes, forward_bytes, operations, recurrent_bytes
from .measure import Row, quiet, timed, undisturbed
from .problems import Shape

_LINE = 16  # float32 of a cache line


class Level(NamedTuple):
    """A cache, or memory as the last: bytes that it holds, bytes a second read from it, all threads together."""

    name: str
    size: float
    bandwidth: float


class Machine(NamedTuple):
    """Operations a second in products of large matrices, by dtype; the caches, quickest first."""

    operations: dict[str, float]
    levels: list[Level]

    def bandwidth(self, size: float) -> float:
        """Bytes a second from the quickest cache that holds `size` bytes."""
        return next(level.bandwidth for level in self.levels if size <= level.size)

    def row(self) -> Row:
        """The rates as a row holds them."""
        return {"rate": self.operations, "bandwidth": {level.name: level.bandwidth for level in self.levels}}


def main() -> None:
    """Measure and print; `bench.peers` measures the same before its grid."""
    run("roofline", parser(__doc__, threads=(1, 2)), rows, tables.limits)


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """One row."""
    limits, share = undisturbed(lambda: measure(options.worker, options.quick), options.attempts)
    yield {"mode": "machine", **limits.row(), "missing": {}, "others": share}


def measure(threads: int, quick: bool = False) -> Machine:
    """Measure this machine; NumPy's BLAS must have been given as many threads. `quick` is no more than an estimate."""
    rates = {dtype: _product_rate(dtype, 512 if quick else 2048) for dtype in ("float32", "float64")}
    quiet()
    return Machine(rates, list(_levels(threads, 1e8 if quick else 3e9)))


def bound(machine: Machine, cell: str, shape: Shape, dtype: str, training: bool) -> float:
    """Least seconds of a call."""
    products = operations(cell, shape, training) / machine.operations[dtype]
    weights = recurrent_bytes(cell, shape.H, dtype)
    # Forward and backward read the matrix once a step; its gradient is one product over all steps.
    steps = (2 if training else 1) * shape.T * weights / machine.bandwidth(weights)
    arrays = array_bytes(cell, shape, dtype).all if training else forward_bytes(cell, shape, dtype)
    return max(products, steps, arrays / machine.bandwidth(arrays))


def _product_rate(dtype: str, n: int) -> float:
    """Of the best of several: what the machine can do, not what it mostly does."""
    a, b = np.random.default_rng(0).standard_normal((2, n, n)).astype(dtype)
    out = np.empty_like(a)
    return 2 * n**3 / min(timed(lambda: np.dot(a, b, out=out)) for _ in range(6))


def _levels(threads: int, traffic: float) -> Iterator[Level]:
    for name, size in _cache_sizes().items():
        # The first two belong to a core, the others to all.
        total = size * threads if name in ("L1", "L2") else size
        yield Level(name, total, _read_rate(0.5 * total, threads, traffic))
    yield Level("memory", float("inf"), _read_rate(256e6, threads, traffic))


def _cache_sizes() -> dict[str, float]:
    """Bytes of each cache of the first core; typical ones where the system does not tell."""
    sizes = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (folder / "type").read_text().strip() != "Instruction":
            kilobytes = (folder / "size").read_text().strip().removesuffix("K")
            sizes[f"L{(folder / 'level').read_text().strip()}"] = 1024.0 * int(kilobytes)
    return sizes or {"L1": 32 * 1024.0, "L2": 1024 * 1024.0}


def _read_rate(size: float, threads: int, traffic: float) -> float:
    """Bytes a second that `threads` threads read together, each its part of `size` bytes until it is `traffic`."""
    parts = [_aligned(size / threads) for _ in range(threads)]
    total = sum(part.nbytes for part in parts)
    times = max(2, int(traffic / total))
    _sum(parts[0], 1)
    with ThreadPoolExecutor(threads) as pool:

        def read() -> None:
            list(pool.map(lambda part: _sum(part, times), parts))

        return total * times / min(timed(read) for _ in range(5))


def _aligned(size: float) -> Any:
    """Eight rows, about `size` bytes, each beginning with a cache line, and not all in the same sets of a cache."""
    columns = _LINE * (int(size / 8 / 64) | 1)
    flat = np.ones(8 * columns + _LINE, np.float32)
    start = -flat.ctypes.data % 64 // 4
    return flat[start : start + 8 * columns].reshape(8, columns)


@numba.njit(fastmath=True, nogil=True)  # type: ignore[misc]
def _sum(a: Any, times: int) -> Any:
    """Sum of `a` (8, n), `times` times. Eight sums at once: one would wait for its own additions, not for the reads."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = np.float32(0)
    for k in range(times):
        # Never the same range twice in a row, or the compiler could read it once.
        start = (k & 1) * _LINE
        a0, a1, a2, a3 = a[0][start:], a[1][start:], a[2][start:], a[3][start:]
        a4, a5, a6, a7 = a[4][start:], a[5][start:], a[6][start:], a[7][start:]
        for i in range(len(a0)):
            s0 += a0[i]
            s1 += a1[i]
            s2 += a2[i]
            s3 += a3[i]
            s4 += a4[i]
            s5 += a5[i]
            s6 += a6[i]
            s7 += a7[i]
    return s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7


if __name__ == "__main__":
    main()
