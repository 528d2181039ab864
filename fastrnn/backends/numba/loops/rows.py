"""Rows of bytes and of elements, and entries of the table."""

from ....codegen.integers import add, clear, copy, get, move

# Bytes of an element, and elements of a vector: replaced when this is compiled.
SIZE = WIDTH = 0


def lines(size):
    """`size` rounded up to whole cache lines."""
    return (size + 63) // 64 * 64


def entry(table, place):
    """An entry of the table."""
    return get(table + 8 * place)


def copy_rows(to, to_step, source, source_step, count, size, padding):
    """`count` rows of `size` bytes, each followed by `padding` zeros."""
    for i in range(count):
        copy(to + i * to_step, source + i * source_step, size)
        if padding:
            clear(to + i * to_step + size, padding)
    return 0


def add_rows(to, to_step, source, source_step, count, elements):
    """Add `count` rows of `elements` elements to others."""
    for i in range(count):
        for j in range(0, elements * SIZE, SIZE):
            add(to + i * to_step + j, source + i * source_step + j)
    return 0


def pack(to, step, source, row, column, depth, inside, width):
    """Pack a block (depth, width) of a matrix: rows at distance `step`, of `inside` elements and then zeros.

    Element (k, j) is read from ``source + k * row + j * column``.
    """
    if column == SIZE:
        copy_rows(to, step, source, row, depth, inside * SIZE, (width - inside) * SIZE)
        return 0
    # In blocks of 16 by 16, whose source and destination lines fit the first-level cache.
    for low in range(0, depth, 16):
        for left in range(0, inside, 16):
            for k in range(low, min(depth, low + 16)):
                for j in range(left, min(inside, left + 16)):
                    move(to + k * step + j * SIZE, source + k * row + j * column)
    copy_rows(to + inside * SIZE, step, 0, 0, depth, 0, (width - inside) * SIZE)
    return 0
