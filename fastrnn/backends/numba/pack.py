"""Arrays as compiled code reads them, and blocks of columns padded to whole vectors."""

from __future__ import annotations

import numpy as np

from ...engine.call import Array


def plain(array: Array) -> Array:
    """`array` as compiled code reads it: in C order, aligned, writeable; a copy where it is not."""
    return array if array.flags.carray else np.array(array, order="C")


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
