"""Which way a call takes: how many parts of the batch, and how many steps at once."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from ... import thresholds

_LIMITS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


def _blas_threads() -> int:
    """Threads of NumPy's BLAS: as many as the least of its variables says, else as there are processors."""
    given = (os.environ.get(name, "") for name in _LIMITS)
    return min((int(n) for n in given if n.isdecimal() and int(n)), default=os.cpu_count() or 1)


# BLAS reads the variables once, when NumPy is imported.
BLAS_THREADS = _blas_threads()


class NumbaPath(NamedTuple):
    """The way through one direction of a call.

    parts : parts that the batch is split into, one thread each
    chunk : steps that one pass of the compiled loop takes; the last pass may take fewer
    """

    parts: int
    chunk: int

    def describe(self) -> list[str]:
        """See :class:`fastrnn.engine.call.Path`."""
        if self.parts > 1:
            batch = f"the batch is split into {self.parts} parts, a thread each"
        else:
            batch = "the batch is not split: there is one thread or sequence, or BLAS has threads of its own"
        return [batch, f"{self.chunk} steps at once: BLAS's products of all of them, and one pass of the compiled loop"]


def choose(T: int, N: int, row_bytes: int, threads: int, blas_threads: int) -> NumbaPath:
    """The path of a call.

    The batch is split only where BLAS has one thread: several calls at once of a BLAS with threads of its own take
    turns, and wait for each other on processors that the parts need. A small batch was then ten times slower than on
    one thread.

    Parameters
    ----------
    T, N : int
        Steps and sequences.
    row_bytes : int
        What a step of one sequence takes in the chunk's buffer.
    threads, blas_threads : int
        Threads that the call may use, and those that BLAS has.
    """
    return in_parts(min(threads, N) if blas_threads == 1 else 1, T, N, row_bytes)


def in_parts(parts: int, T: int, N: int, row_bytes: int) -> NumbaPath:
    """The path of a call whose batch is split into `parts`."""
    rows = max(1, -(-N // max(1, parts)))
    fitting = thresholds.CHUNK_BYTES // max(1, rows * row_bytes)
    return NumbaPath(max(1, parts), min(T, max(fitting, -(-thresholds.CHUNK_ROWS // rows))))


def checked(path: Any, T: int, N: int, threads: int) -> NumbaPath:
    """`path`, if a call of these sizes can take it."""
    if not isinstance(path, NumbaPath):
        raise TypeError(f"path: expected a NumbaPath, got {type(path).__name__}")
    most = max(1, min(threads, N))
    if not 1 <= path.parts <= most:
        raise ValueError(f"path: expected 1 to {most} parts of {N} sequences for {threads} threads, got {path}")
    if not 1 <= path.chunk <= T:
        raise ValueError(f"path: expected a chunk of 1 to {T} steps, got {path}")
    return path
