"""A stage of one step: its products, then its elementwise code."""

from ....codegen.integers import byte, call, get, put
from ....codegen.record import CONSTANTS, LENGTH, PADDED, UNITS
from ....engine.flags import HOLD
from ..tables import (
    BLOCK,
    BLOCKS,
    CODE,
    COLUMNS,
    CONSTANTS_AT,
    FIRST,
    MORE,
    PLACE,
    PRODUCT,
    PRODUCTS,
    PRODUCTS_AT,
    SOURCES,
    STAGES_AT,
    SUMS,
)
from .flagged import hold, hold_back, pass_on
from .rows import SIZE, WIDTH, entry
from .tiles import fitting, next_rows, stage_vectors


def start_record(table, record, units, H, Hp):
    """Write the entries of the record that stay the same for the whole call."""
    put(record + 8 * UNITS, units)
    put(record + 8 * CONSTANTS, entry(table, CONSTANTS_AT))
    put(record + 8 * LENGTH, H)
    put(record + 8 * PADDED, Hp)
    return 0


def run_stage(table, tiles, record, stage, panels, scratch, N, H, Hp, reach, here, after, dreset, back):
    """Run a stage of one step for every sequence, by blocks of hidden units and of sequences.

    For each block the products are summed into `scratch` by the microkernel; then the stage's elementwise code runs.

    Parameters
    ----------
    stage : place of its row in the table
    panels : address of the panels of its products, in the record
    reach : whether the sources of the products exist; if not, the sums are zeros
    here, after : addresses of the flags of this step, and (backward) of the step after it in the order of the forward
        pass; 0 if all are plain, -1 for a step at which every sequence is held
    dreset : address of the gradient of the reset state, or 0
    back : whether this is the first stage of a step of the backward pass
    """
    code, sums, products = entry(table, stage + CODE), entry(table, stage + SUMS), entry(table, stage + PRODUCTS)
    v, first = stage_vectors(table, stage, N), table + 8 * entry(table, stage + PRODUCTS_AT)
    u = 0
    while u < Hp:
        vectors = fitting(v, (Hp - u) // WIDTH)
        sums_row = sums * vectors * WIDTH
        n = 0
        while n < N:
            rows = next_rows(N - n, v * sums) if sums else N
            p = first
            for i in range(products):
                columns, step = get(p + 8 * COLUMNS), get(p + 8 * BLOCKS) * Hp
                depth = (get(p + 8 * SOURCES) - 1) * Hp + H
                cols = columns * vectors
                call(
                    get(tiles + 8 * (rows * 16 + cols)),
                    get(record + 8 * get(p + 8 * PLACE)) + (n * step + get(p + 8 * BLOCK) * Hp) * SIZE, step, 1,
                    get(panels + 8 * i) + u * depth * columns * SIZE, cols * WIDTH, depth if reach else 0,
                    scratch + get(p + 8 * FIRST) * vectors * SIZE * WIDTH, sums_row, get(p + 8 * MORE),
                )  # fmt: skip
                p += 8 * PRODUCT
            if here == 0 and after == 0:
                call(code, record, n, rows, u, vectors, scratch)
            else:
                for r in range(rows):
                    own = scratch + r * sums_row * SIZE
                    if after:
                        pass_on(table, record, own, byte(after + n + r), n + r, u, vectors, N, H, Hp, dreset)
                    held = HOLD if here == -1 else byte(here + n + r) & HOLD if here else 0
                    if held == 0:
                        call(code, record, n + r, 1, u, vectors, own)
                    elif back:
                        hold_back(table, record, own, n + r, u, vectors, Hp)
                    elif entry(table, STAGES_AT) == stage:
                        hold(table, record, n + r, u, vectors, Hp)
            n += rows
        u += vectors * WIDTH
    return 0
