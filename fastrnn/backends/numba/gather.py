"""What a call does before and after the time loop: rows padded and stripped, matrices packed for the microkernel.

Compiled with the loop: of a short call, NumPy's calls for it would take longer than all else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba.extending import register_jitable

from ...engine.call import Array
from .simd import clear, copy

Function = TypeVar("Function", bound=Callable[..., Any])
# For compiled code and, as they are, for Python.
compiled: Callable[[Function], Function] = register_jitable
# Numbers to begin at a multiple of.
_LINE = 16


@compiled
def place(memory: Array, at: int, size: int) -> tuple[Array, int]:
    """`size` numbers of `memory` from `at` on, and where the next whole cache line begins."""
    return memory[at : at + size], at + whole_lines(size)


@compiled
def whole_lines(size: int) -> int:
    """`size`, or somewhat more, so that what follows begins at a cache line."""
    return (size + _LINE - 1) // _LINE * _LINE


@compiled
def pad_rows(to: Array, at: int, rows: Array, H: int, Hp: int) -> None:
    """`rows` of H numbers to `to` from `at` on, each followed by zeros up to `Hp`."""
    source = rows.reshape(-1)
    for n in range(rows.size // H):
        copy(to, at + n * Hp, source, n * H, H)
        clear(to, at + n * Hp + H, Hp - H)


@compiled
def strip_rows(rows: Array, padded: Array, at: int, H: int, Hp: int) -> None:
    """The inverse of :func:`pad_rows`."""
    to = rows.reshape(-1)
    for n in range(rows.size // H):
        copy(to, n * H, padded, at + n * Hp, H)


@compiled
def add_unit(to: Array, row: int, Hp: int, source: Array, block: int, H: int) -> None:
    """Add block `block` of `source`, if it has any, to row `row` of `to`."""
    if source.size:
        for j in range(H):
            to[row * Hp + j] += source[block * H + j]


@compiled
def pack_panel(
    to: Array, Wh: Array, matrices: Any, accs: int, vectors: Any, width: int, Hp: int, transposed: bool
) -> None:
    """The panel of a product: for each block of units ``[depth][acc][vector][width]``, contiguous.

    `matrices` are the numbers of its matrices, ``[source][acc]`` in one tuple. `vectors` are the sizes that a block of
    units may have, in vectors, largest first: as many blocks of the first size as fit, then of the next. The depth is
    the source's H, or `Hp` for all sources but the last, zeros from H on.
    """
    H, columns = Wh.shape
    Wh = Wh.reshape(-1)
    sources = len(matrices) // accs
    start = begin = 0
    for size in vectors:
        block = size * width
        while begin + block <= Hp:
            inside = max(0, min(block, H - begin))
            for source in range(sources):
                for a in range(accs):
                    first = matrices[source * accs + a] * H
                    at = start + (source * Hp * accs + a) * block
                    if transposed:
                        _pack_transposed(to, at, accs * block, Wh, first + begin * columns, columns, H, inside, block)
                    else:
                        _pack_rows(to, at, accs * block, Wh, first + begin, columns, H, inside, block)
                    if source + 1 < sources:
                        for row in range(H, Hp):
                            clear(to, at + row * accs * block, block)
            start += ((sources - 1) * Hp + H) * accs * block
            begin += block


@compiled
def _pack_rows(
    to: Array, at: int, step: int, Wh: Array, first: int, columns: int, H: int, inside: int, block: int
) -> None:
    for row in range(H):
        copy(to, at + row * step, Wh, first + row * columns, inside)
        clear(to, at + row * step + inside, block - inside)


@compiled
def _pack_transposed(
    to: Array, at: int, step: int, Wh: Array, first: int, columns: int, H: int, inside: int, block: int
) -> None:
    # A square at a time: the lines that it reads and writes stay in the first-level cache.
    for low in range(0, H, _LINE):
        for row in range(low, min(H, low + _LINE)):
            to_row = at + row * step
            for j in range(inside):
                to[to_row + j] = Wh[first + j * columns + row]
            clear(to, to_row + inside, block - inside)
