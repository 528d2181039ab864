"""Arrays beside a page that no one may touch: who reads or writes past their end, or before their begin, ends."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np

_PAGE = mmap.PAGESIZE
_NO_ACCESS = 0  # PROT_NONE
AVAILABLE = hasattr(mmap, "PROT_READ")  # mprotect is POSIX's


def empty(shape: int | tuple[int, ...], dtype: Any = np.float64, *, at_end: bool = True) -> np.ndarray:
    """An array, C-contiguous, that ends where a forbidden page begins; not `at_end`: that begins where one ends."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape))
    size = count * dtype.itemsize
    pages = -(-size // _PAGE)
    region = mmap.mmap(-1, (pages + 2) * _PAGE)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(region))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for page in (0, pages + 1):
        if protect(begin + page * _PAGE, _PAGE, _NO_ACCESS):
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = (pages + 1) * _PAGE - size if at_end else _PAGE
    return np.frombuffer(region, dtype, count, offset).reshape(shape)


def copy(array: np.ndarray, *, at_end: bool = True) -> np.ndarray:
    """`array` in such a place."""
    result = empty(array.shape, array.dtype, at_end=at_end)
    result[...] = array
    return result
