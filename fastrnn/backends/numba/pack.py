"""Buffers aligned to a cache line, and blocks of columns padded to whole vectors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from ...engine.call import Array

_LINE = 64


def aligned(size: int, dtype: np.dtype[Any]) -> Array:
    """One-dimensional array of `size` numbers that begins at a cache line."""
    return aligned_parts((size,), dtype)[0]


def aligned_parts(sizes: Sequence[int], dtype: np.dtype[Any]) -> list[Array]:
    """The same for several sizes, in one piece of memory."""
    line = _LINE // dtype.itemsize
    lines = [-(-size // line) * line for size in sizes]
    memory = np.empty(sum(lines) + line, dtype)
    at = -memory.__array_interface__["data"][0] % _LINE // dtype.itemsize
    begins = accumulate(lines, initial=at)
    return [memory[begin : begin + size] for begin, size in zip(begins, sizes, strict=False)]


def pad_blocks(matrix: Array, H: int, Hp: int) -> Array:
    """`matrix` (R, B*H) as (R, B*Hp), each block of columns followed by zeros; itself if nothing is to pad."""
    if Hp == H:
        return matrix
    rows, blocks = matrix.shape[0], matrix.shape[1] // H
    padded = np.zeros((rows, blocks, Hp), matrix.dtype)
    padded[..., :H] = matrix.reshape(rows, blocks, H)
    return padded.reshape(rows, blocks * Hp)


def strip_blocks(matrix: Array, H: int, Hp: int) -> Array:
    """The inverse of :func:`pad_blocks`."""
    if Hp == H:
        return matrix
    rows, blocks = matrix.shape[0], matrix.shape[1] // Hp
    return np.ascontiguousarray(matrix.reshape(rows, blocks, Hp)[..., :H]).reshape(rows, blocks * H)
