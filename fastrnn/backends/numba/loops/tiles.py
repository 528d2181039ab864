"""Products by the microkernel's tiles, and how many rows and columns the next tile has."""

from ....codegen.integers import call, get
from ....thresholds import TILE_COLUMNS, TILE_ROWS
from ..tables import VECTORS, VECTORS_ALONE
from .rows import SIZE, entry

MOST_ROWS, MOST_ROWS_OF_FEW = TILE_ROWS


def stage_vectors(table, stage, N):
    """Vectors of hidden units in a tile of a stage."""
    return entry(table, stage + (VECTORS_ALONE if N == 1 else VECTORS))


def fitting(vectors, left):
    """Vectors in the next block, if `left` of them are left."""
    while vectors > left:
        vectors //= 2
    return vectors


def next_rows(rows, columns):
    """Rows of the largest tile that fits, if `rows` are left."""
    most = MOST_ROWS_OF_FEW if columns < TILE_COLUMNS else MOST_ROWS
    if rows >= most:
        return most
    return 4 if rows >= 4 else 2 if rows >= 2 else 1


def multiply(tiles, a, a_row, a_depth, b, b_depth, depth, c, c_row, rows, cols, more):
    """``C = A @ B``, or with `more` ``C += A @ B``, for a block of `cols` vectors of columns.

    Strides count elements, not bytes, as those of the tiles do.
    """
    r = 0
    while r < rows:
        n = next_rows(rows - r, cols)
        tile = get(tiles + 8 * (n * 16 + cols))
        call(tile, a + r * a_row * SIZE, a_row, a_depth, b, b_depth, depth, c + r * c_row * SIZE, c_row, more)
        r += n
    return 0
