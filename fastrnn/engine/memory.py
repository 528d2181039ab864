"""Memory that begins at a cache line: vectors that lie across two lines are read at half the rate."""

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
    """An array of whatever the memory held."""
    return aligned_arrays([math.prod(shape)], dtype)[0].reshape(shape)


def aligned_arrays(sizes: Sequence[int], dtype: np.dtype[Any]) -> list[Array]:
    """One-dimensional arrays of `sizes` numbers in one piece of memory; each begins at a cache line."""
    line = _LINE // dtype.itemsize
    lines = [-(-size // line) * line for size in sizes]
    memory = np.empty(sum(lines) + line, dtype)
    at = -memory.__array_interface__["data"][0] % _LINE // dtype.itemsize
    begins = accumulate(lines, initial=at)
    return [memory[begin : begin + size] for begin, size in zip(begins, sizes, strict=False)]


# Copies of arrays that are alive, by the arrays' identity.
_copies: dict[int, Array] = {}


def writable(array: Array) -> Array:
    """`array`, or if it is read-only a copy; the same copy as long as `array` lives, for all who share it.

    joblib hands large arrays to its workers as read-only memory maps.
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
