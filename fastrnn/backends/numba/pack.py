"""Buffers aligned to a cache line, rows padded to whole vectors, and matrices packed for the microkernel."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...codegen.numba_kernels import MatrixProduct
from ...engine.call import Array

_LINE = 64


def aligned(size: int, dtype: np.dtype[Any], zero: bool = False) -> Array:
    """One-dimensional array of `size` numbers that begins at a cache line."""
    make = np.zeros if zero else np.empty
    extra = _LINE // dtype.itemsize
    buffer = make(size + extra, dtype)
    start = -buffer.__array_interface__["data"][0] % _LINE // dtype.itemsize
    return buffer[start : start + size]


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


def pack(product: MatrixProduct, Wh: Array, Hp: int, vectors: tuple[int, ...], width: int, back: bool) -> Array:
    """The panels of `product`: for each block of units ``[depth][acc][vector][width]``, contiguous.

    `vectors` are the sizes that a block of units may have, in vectors, largest first: as many blocks of the
    first size as fit, then of the next. The depth is the source's H, or ``Hp`` for all sources but the last.
    """
    H = Wh.shape[0]
    depth = (len(product.sources) - 1) * Hp + H
    accs = len(product.accs)
    full = np.zeros((depth, accs, Hp), Wh.dtype)
    for s, matrices in enumerate(product.matrices):
        for a, m in enumerate(matrices):
            block = Wh[:, m * H : (m + 1) * H]
            full[s * Hp : s * Hp + H, a, :H] = block.T if back else block
    panel = aligned(full.size, Wh.dtype)
    begin = 0
    for size in vectors:
        count = (Hp - begin) // (size * width)
        if count:
            end = begin + count * size * width
            part = full[:, :, begin:end].reshape(depth, accs, count, size, width)
            out = panel[begin * depth * accs : end * depth * accs].reshape(count, depth, accs, size, width)
            out[...] = part.transpose(2, 0, 1, 3, 4)
            begin = end
    return panel
