"""Arrays aligned to cache lines: a vector that straddles two lines is read at half the rate."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from .contract import Array

_LINE = 64


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An uninitialized array that begins at a cache line."""
    return aligned_arrays([math.prod(shape)], dtype)[0].reshape(shape)


def aligned_arrays(sizes: Sequence[int], dtype: np.dtype[Any]) -> list[Array]:
    """Uninitialized one-dimensional arrays of `sizes` elements in one allocation; each begins at a cache line."""
    line = _LINE // dtype.itemsize
    lines = [-(-size // line) * line for size in sizes]
    memory = np.empty(sum(lines) + line, dtype)
    at = -memory.__array_interface__["data"][0] % _LINE // dtype.itemsize
    begins = accumulate(lines, initial=at)
    return [memory[begin : begin + size] for begin, size in zip(begins, sizes, strict=False)]


# Copies of read-only arrays, by the identity of the original, as long as that is alive.
_copies: dict[int, Array] = {}


def writable(array: Array) -> Array:
    """`array`, or a copy if it is read-only: the same copy for all that share `array`, as long as that is alive.

    joblib passes large arrays to its workers as read-only memory maps.
    """
    if array.flags.writeable:
        return array
    key = id(array)
    if key not in _copies:
        copied = aligned(array.shape, array.dtype)
        copied[...] = array
        _copies[key] = copied
        weakref.finalize(array, _copies.pop, key)
    return _copies[key]
