"""Products over all steps of a chunk: the input's projections and their gradients."""

from ....codegen.record import KEEP, STATES
from ....thresholds import TILE_COLUMNS
from ..tables import GATES, KEEPS, MATRICES, MATRIX, SLOT, SLOTS, USE, USES, USES_AT, VECTOR_BLOCK, VECTOR_PLACE
from .rows import SIZE, WIDTH, add_rows, copy_rows, entry
from .tiles import MOST_ROWS, multiply


def project(tiles, x, D, Wx, packed, to, rows, vectors):
    """The input projections of a chunk, ``x @ Wx``; Wx is packed, or its gates fill whole vectors."""
    v = 0
    while v < vectors:
        cols = min(TILE_COLUMNS, vectors - v)
        b, step = Wx + v * (D if packed else 1) * SIZE * WIDTH, (cols if packed else vectors) * WIDTH
        multiply(tiles, x, D, 1, b, step, D, to + v * SIZE * WIDTH, vectors * WIDTH, rows, cols, 0)
        v += cols
    return 0


def project_back(tiles, da, da_row, panel, dx, D, depth, rows, scratch):
    """The gradient of the input of a chunk, ``dx = da @ Wx^T``."""
    d = 0
    while d < D:
        inside = min(TILE_COLUMNS * WIDTH, D - d)
        cols = (inside + WIDTH - 1) // WIDTH
        b, c = panel + d * depth * SIZE, dx + d * SIZE
        if inside == cols * WIDTH:
            multiply(tiles, da, da_row, 1, b, cols * WIDTH, depth, c, D, rows, cols, 0)
        else:
            for r in range(0, rows, MOST_ROWS):
                n = min(MOST_ROWS, rows - r)
                a, step = da + r * da_row * SIZE, cols * WIDTH
                multiply(tiles, a, da_row, 1, b, step, depth, scratch, step, n, cols, 0)
                copy_rows(c + r * D * SIZE, D * SIZE, scratch, cols * SIZE * WIDTH, n, inside * SIZE, 0)
        d += inside
    return 0


def add_products(
    table, tiles, block, da, rows, apart, x, D, sums_x, entered, entered_step, kept, sums_h, sums, H, Hp
):  # fmt: skip
    """Add a chunk to the gradients of the weights: ``dWx += x^T @ da``, ``dWh += vector^T @ da``.

    Each block of columns of `da` is packed once and multiplied by all vectors. Every `apart`-th row counts: all rows,
    or those of one sequence.
    """
    G, P, M, uses = entry(table, GATES), entry(table, MATRICES), entry(table, SLOTS), entry(table, USES)
    for m in range(M):
        u = 0
        while u < Hp:
            cols = min(TILE_COLUMNS, (Hp - u) // WIDTH)
            at = (m * Hp + u) * SIZE
            copy_rows(block, cols * SIZE * WIDTH, da + at, apart * M * Hp * SIZE, rows, cols * SIZE * WIDTH, 0)
            add_rows(sums + at, 0, block, cols * SIZE * WIDTH, rows, cols * WIDTH)
            if m < G:
                multiply(tiles, x, 1, apart * D, block, cols * WIDTH, rows, sums_x + at, G * Hp, D, cols, 1)
            for i in range(uses):
                use = entry(table, USES_AT) + i * USE
                if entry(table, use + SLOT) == m:
                    c = sums_h + (entry(table, use + MATRIX) * Hp + u) * SIZE
                    if entry(table, use + VECTOR_PLACE) == KEEP:
                        a, step = kept + entry(table, use + VECTOR_BLOCK) * Hp * SIZE, entry(table, KEEPS) * Hp
                    else:
                        a, step = entered + (entry(table, use + VECTOR_PLACE) - STATES) // 3 * entered_step, Hp
                    multiply(tiles, a, 1, apart * step, block, cols * WIDTH, rows, c, P * Hp, H, cols, 1)
            u += cols * WIDTH
    return 0
