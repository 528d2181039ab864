"""The path of a call: how many parts the batch is split into, and how many steps are a chunk."""

from __future__ import annotations

from typing import Any, NamedTuple

from ... import thresholds


class NumbaPath(NamedTuple):
    """The path of one pass of a call.

    parts : parts that the batch is split into, one thread each
    chunk : steps whose input projections, or products for the gradients of the weights, are computed at once
    """

    parts: int
    chunk: int

    def describe(self) -> list[str]:
        """See :class:`fastrnn.engine.contract.Path`."""
        if self.parts > 1:
            batch = f"the batch is split into {self.parts} parts, a thread each"
        else:
            batch = "the batch is not split: there is one sequence, or the work is not worth a second thread"
        return [batch, f"{self.chunk} steps at once: the products that do not depend on the steps before"]


def choose(T: int, N: int, row_bytes: int, threads: int) -> NumbaPath:
    """The path of a call.

    Parameters
    ----------
    T, N : int
        Steps and sequences.
    row_bytes : int
        Bytes that a step of one sequence takes in the buffer of a chunk.
    threads : int
        Threads that the call may use.
    """
    return in_parts(min(threads, N), T, N, row_bytes)


def in_parts(parts: int, T: int, N: int, row_bytes: int, per_sequence: bool = False) -> NumbaPath:
    """The path of a call whose batch is split into `parts`."""
    parts = max(1, parts)
    return NumbaPath(parts, chunk_of(T, -(-N // parts), row_bytes, per_sequence))


def chunk_of(T: int, N: int, row_bytes: int, per_sequence: bool = False) -> int:
    """Steps of a chunk: as many as fit the cache, but enough rows for the products to be deep."""
    rows = max(1, N)
    fitting = thresholds.CHUNK_BYTES // max(1, rows * row_bytes)
    least = thresholds.CHUNK_ROWS_OF_EACH if per_sequence else thresholds.CHUNK_ROWS
    return min(T, max(fitting, -(-least // rows)))


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
