"""Matrices packed in the order in which the tiles read them; the rows of biases and per-unit parameters."""

from ....codegen.integers import clear, copy, put
from ....thresholds import TILE_COLUMNS
from ..tables import (
    ALL_PRODUCTS,
    BIASES,
    BIASES_AT,
    COLUMNS,
    GATE,
    MATRICES_AT,
    OF_STAGE,
    OWN,
    PANELS,
    PRODUCT,
    PRODUCTS_FROM,
    SOURCES,
    STAGE,
    STAGES_AT,
    UNIT,
    UNITS_AT,
    UNITS_ROWS,
)
from .rows import SIZE, WIDTH, add_rows, copy_rows, entry, lines, pack
from .tiles import fitting, stage_vectors


def pack_panels(table, to, Wh, columns, N, H, Hp, back, record):
    """Pack the recurrent matrices into a panel per product; returns the address of the end of the panels.

    A panel is ``[depth][sum][vector]`` for each block of hidden units. Its depth is H for the last source of the
    product and Hp, with zeros from H on, for those before it. The record gets the addresses of the panels.
    """
    row, column = (SIZE, columns * SIZE) if back else (columns * SIZE, SIZE)
    p = entry(table, PRODUCTS_FROM)
    for number in range(entry(table, ALL_PRODUCTS)):
        sources, sums = entry(table, p + SOURCES), entry(table, p + COLUMNS)
        v = stage_vectors(table, entry(table, STAGES_AT) + entry(table, p + OF_STAGE) * STAGE, N)
        depth = (sources - 1) * Hp + H
        put(record + 8 * (PANELS + number), to)
        u = 0
        while u < Hp:
            block = fitting(v, (Hp - u) // WIDTH) * WIDTH
            inside = max(0, min(block, H - u))
            step = sums * block * SIZE
            for i in range(sources * sums):
                start = to + (u * depth + i // sums * Hp * block) * sums * SIZE + i % sums * block * SIZE
                matrix = entry(table, entry(table, p + MATRICES_AT) + i)
                pack(start, step, Wh + matrix * H * SIZE + u * column, row, column, H, inside, block)
                if i // sums + 1 < sources:
                    copy_rows(start + H * step, step, 0, 0, Hp - H, 0, block * SIZE)
            u += block
        to += lines(depth * sums * Hp * SIZE)
        p += PRODUCT
    return to


def fill_units(table, to, bx, bh, own, H, Hp):
    """Write the unit rows: sums of biases, and per-unit parameters. The address of a bias that is not there is 0."""
    size = H * SIZE
    for i in range(entry(table, UNITS_ROWS)):
        u = entry(table, UNITS_AT) + i * UNIT
        gate, parameter = entry(table, u + GATE), entry(table, u + OWN)
        clear(to, Hp * SIZE)
        if parameter >= 0:
            copy(to, own + parameter * size, size)
        if gate >= 0 and bx:
            add_rows(to, 0, bx + gate * size, 0, 1, H)
        if bh:
            for m in range(entry(table, u + BIASES)):
                add_rows(to, 0, bh + entry(table, entry(table, u + BIASES_AT) + m) * size, 0, 1, H)
        to += Hp * SIZE
    return 0


def pack_input(gates, to, Wx, D, H, Hp):
    """Pack Wx, with the columns of each gate padded: ``[depth][vector]`` for each block of vectors of columns."""
    per_gate = Hp // WIDTH
    vectors = gates * per_gate
    v = 0
    while v < vectors:
        cols = min(TILE_COLUMNS, vectors - v)
        for j in range(v, v + cols):
            u = j % per_gate * WIDTH
            source, inside = Wx + (j // per_gate * H + u) * SIZE, max(0, min(WIDTH, H - u))
            pack(to + (j - v) * SIZE * WIDTH, cols * SIZE * WIDTH, source, gates * H * SIZE, SIZE, D, inside, WIDTH)
        to += D * cols * SIZE * WIDTH
        v += cols
    return 0


def pack_back(gates, to, Wx, D, H, Hp):
    """Pack the transpose of Wx, with the rows of each gate padded: ``[depth][vector]`` for each block of columns."""
    d = 0
    while d < D:
        inside = min(TILE_COLUMNS * WIDTH, D - d)
        width = (inside + WIDTH - 1) // WIDTH * WIDTH
        for gate in range(gates):
            source = Wx + (d * gates * H + gate * H) * SIZE
            pack(to, width * SIZE, source, SIZE, gates * H * SIZE, H, inside, width)
            copy_rows(to + H * width * SIZE, width * SIZE, 0, 0, Hp - H, 0, width * SIZE)
            to += Hp * width * SIZE
        d += inside
    return 0
