"""The forward pass."""

from ....codegen.integers import put
from ....codegen.record import KEEP, NEXT, PREV, STATES, X
from ....engine.flags import HOLD, RESET
from ....thresholds import WORTH_PACKING
from ..tables import (
    ALL_PRODUCTS,
    GATES,
    KEEPS,
    MATRICES,
    PANELS,
    PRODUCTS,
    SCRATCH,
    STAGE,
    STAGES_AT,
    STAGES_END,
    STATES_COUNT,
    UNITS_ROWS,
)
from .chunk import project
from .flagged import clear_held, enter, marked
from .packing import fill_units, pack_input, pack_panels
from .rows import SIZE, WIDTH, copy_rows, entry, lines
from .stage import run_stage, start_record


def forward(
    table, tiles, x, Wx, Wh, bx, bh, own, first, last, y, states, keep, memory, flags, reset, T, N, D, H, chunk, keeps,
    reverse
):  # fmt: skip
    """Every step of a call; the arguments are those of :mod:`.loops`."""
    record = memory
    G, S, J = entry(table, GATES), entry(table, STATES_COUNT), entry(table, KEEPS)
    Hp = (H + WIDTH - 1) // WIDTH * WIDTH
    row = N * Hp * SIZE
    panels = record + 8 * PANELS
    scratch = record + lines(8 * (PANELS + entry(table, ALL_PRODUCTS)))
    units = scratch + entry(table, SCRATCH) * SIZE * WIDTH
    fill_units(table, units, bx, bh, own, H, Hp)
    start_record(table, record, units, H, Hp)
    fresh = units + lines(entry(table, UNITS_ROWS) * Hp * SIZE)
    panel = fresh + (lines(S * row) if flags else 0)
    # A packed matrix is read faster, but for a few rows that does not make up for the packing.
    packed = Hp > H or T * N >= WORTH_PACKING
    if packed:
        pack_input(G, panel, Wx, D, H, Hp)
    end = pack_panels(table, panel + lines(D * G * Hp * SIZE), Wh, entry(table, MATRICES) * H, N, H, Hp, 0, record)
    projected = end
    start, stop = (T, 0) if reverse else (0, T)
    # A state whose past is not kept has two rows, for even and for odd times.
    mask = -1 if keeps else 1
    after_first = (T + 1 if keeps else 2) * row
    for k in range(S):
        at = states + (start * row if k == 0 else (T + 1) * row + (k - 1) * after_first + (start & mask) * row)
        copy_rows(at, Hp * SIZE, first + k * N * H * SIZE, H * SIZE, N, H * SIZE, (Hp - H) * SIZE)
    low = 0
    for s in range(T):
        t = T - 1 - s if reverse else s
        if s % chunk == 0:
            steps = min(chunk, T - s)
            low = T - s - steps if reverse else s
            of = panel if packed else Wx
            project(tiles, x + low * N * D * SIZE, D, of, packed, projected, steps * N, G * Hp // WIDTH)
        prev, next = (t + 1, t) if reverse else (t, t + 1)
        put(record + 8 * X, projected + (t - low) * G * row)
        put(record + 8 * KEEP, keep + (t * J * row if keeps else 0))
        put(record + 8 * (STATES + PREV), states + prev * row)
        put(record + 8 * (STATES + NEXT), states + next * row)
        at = states + (T + 1) * row
        for k in range(1, S):
            put(record + 8 * (STATES + 3 * k + PREV), at + (prev & mask) * row)
            put(record + 8 * (STATES + 3 * k + NEXT), at + (next & mask) * row)
            at += after_first
        here = 0
        if flags:
            if marked(flags, t, N, RESET):
                enter(table, record, fresh, flags + t * N, reset, N, H, Hp)
            here = marked(flags, t, N, HOLD)
        of_stage = panels
        for stage in range(entry(table, STAGES_AT), entry(table, STAGES_END), STAGE):
            run_stage(table, tiles, record, stage, of_stage, scratch, N, H, Hp, 1, here, 0, 0, 0)
            of_stage += 8 * entry(table, stage + PRODUCTS)
    if y:
        after = states + (0 if reverse else row)
        copy_rows(y, H * SIZE, after, Hp * SIZE, T * N, H * SIZE, 0)
        clear_held(flags, T * N, y, H * SIZE)
    for k in range(S):
        at = states + (stop * row if k == 0 else (T + 1) * row + (k - 1) * after_first + (stop & mask) * row)
        copy_rows(last + k * N * H * SIZE, H * SIZE, at, Hp * SIZE, N, H * SIZE, 0)
