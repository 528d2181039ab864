"""Buffers aligned to a cache line, and blocks of columns padded to whole vectors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from ...engine.call import Array

_LINE = 64


def plain(array: Array) -> Array:
    """`array` as compiled code reads it: in C order, aligned, writeable; a copy where it is not."""
    return array if array.flags.carray else np.array(array, order="C")


def aligned_parts(sizes: Sequence[int], dtype: np.dtype[Any]) -> list[Array]:
    """One-dimensional arrays of `sizes` numbers in one piece of memory; each begins at a cache line."""
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
