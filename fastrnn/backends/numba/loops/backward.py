"""The backward pass: BPTT."""

from ....codegen.integers import clear, copy, put
from ....codegen.record import CARRY, DA, DY, DY_STEP, KEEP, NEXT, PREV, STATES
from ....engine.flags import CUT, HOLD, RESET
from ....thresholds import TILE_COLUMNS
from ..tables import (
    AFTER,
    ALL_PRODUCTS,
    GATES,
    KEEPS,
    MATRICES,
    PANELS,
    PRODUCTS,
    SCRATCH,
    SLOTS,
    STAGE,
    STAGES_AT,
    STAGES_END,
    STATES_COUNT,
    UNITS_ROWS,
)
from .chunk import add_products, project_back
from .clip import clip_states
from .flagged import clear_held, marked
from .packing import fill_units, pack_back, pack_panels
from .rows import SIZE, WIDTH, add_rows, copy_rows, entry, lines, pack
from .stage import run_stage, start_record


def backward(
    table, tiles, x, Wx, Wh, bx, bh, own, dy, dlast, states, entering, keep, memory, flags, dx, dstate, dWx, dWh,
    dslots, dreset, clip, dy_time, dy_row, dy_unit, entering_row, entering_rows, by_norm, per_sequence, T, N, D, H,
    chunk, reverse
):  # fmt: skip
    """Every step of a call, from the last to the first; the arguments are those of :mod:`.loops`."""
    record = memory
    G, S, J = entry(table, GATES), entry(table, STATES_COUNT), entry(table, KEEPS)
    P, M = entry(table, MATRICES), entry(table, SLOTS)
    Hp = (H + WIDTH - 1) // WIDTH * WIDTH
    row = N * Hp * SIZE
    panels = record + 8 * PANELS
    scratch = record + lines(8 * (PANELS + entry(table, ALL_PRODUCTS)))
    units = scratch + entry(table, SCRATCH) * SIZE * WIDTH
    fill_units(table, units, bx, bh, own, H, Hp)
    start_record(table, record, units, H, Hp)
    carries = units + lines(entry(table, UNITS_ROWS) * Hp * SIZE)
    grads = carries + lines(S * row)
    zeros = grads + lines(row)
    spare = zeros + lines(Hp * SIZE)
    sums_x = spare + lines(3 * SIZE)
    # Sums over all sequences, or over the steps of each.
    each = N if per_sequence else 1
    sums_h = sums_x + lines(each * D * G * Hp * SIZE)
    sums = sums_h + lines(each * H * P * Hp * SIZE)
    # Summed by chunks first: a float32 sum of a million rows, one by one, would have a hundred times the error.
    of_chunk = sums + lines(each * M * Hp * SIZE)
    panel = of_chunk + lines(each * M * Hp * SIZE)
    clear(grads, panel - grads)
    pack_back(G, panel, Wx, D, H, Hp)
    end = panel + lines(G * Hp * ((D + WIDTH - 1) // WIDTH * SIZE * WIDTH))
    block = pack_panels(table, end, Wh, P * H, N, H, Hp, 1, record)
    da = block + lines(chunk * N * TILE_COLUMNS * SIZE * WIDTH)
    for k in range(S):
        put(record + 8 * (STATES + 3 * k + CARRY), carries + k * row)
    copy_rows(carries, Hp * SIZE, dlast, H * SIZE, S * N, H * SIZE, (Hp - H) * SIZE)
    in_place = dy and Hp == H and dy_unit == SIZE
    put(record + 8 * DY, grads)
    put(record + 8 * DY_STEP, Hp * SIZE)
    # Bytes from one state to the next.
    state_step, entered_step, entered = (T + 1) * row, entering_rows * row, entering + entering_row * row
    end, steps = T, 0
    while end > 0:
        before, steps = steps, min(chunk, end)
        begin = end - steps
        low = T - end if reverse else begin
        if end < T:
            # The step after this chunk is the first step of the chunk before.
            source, to = (before, 0) if reverse else (1, steps + 1)
            copy(da + to * M * row, da + source * M * row, M * row)
        # One step more than there are: it computes the gradient of the initial states.
        for s in range(end - 1, -2 if begin == 0 else begin - 1, -1):
            t = T - 1 - s if reverse else s
            at = da + (t - low + 1) * M * row
            put(record + 8 * DA, at)
            put(record + 8 * AFTER, at - M * row if reverse else at + M * row)
            put(record + 8 * KEEP, keep + t * J * row)
            for k in range(S):
                next = t if reverse else t + 1
                put(record + 8 * (STATES + 3 * k + NEXT), states + k * state_step + next * row)
                put(record + 8 * (STATES + 3 * k + PREV), entered + k * entered_step + t * row)
            here = -1 if s < 0 else marked(flags, t, N, HOLD)
            after = 0 if s == T - 1 else marked(flags, t - 1 if reverse else t + 1, N, HOLD | RESET | CUT)
            if clip:
                put(record + 8 * DY, grads)
                put(record + 8 * DY_STEP, Hp * SIZE)
            if s >= 0 and in_place:
                put(record + 8 * DY, dy + t * dy_time)
                put(record + 8 * DY_STEP, dy_row)
            elif s >= 0 and dy:
                for n in range(N):
                    source = dy + t * dy_time + n * dy_row
                    pack(grads + n * Hp * SIZE, 0, source, 0, dy_unit, 1, H, H)
            of_stage, first = panels, entry(table, STAGES_AT)
            clipped = clip and s >= 0
            if clipped:
                # A norm is of all units: the gradient of the states is complete before the elementwise code begins.
                if s < T - 1:
                    run_stage(table, tiles, record, first, panels, scratch, N, H, Hp, 1, -1, after, dreset, 1)
                clip_states(table, record, flags + t * N if flags else 0, clip, by_norm, spare, N, H, Hp)
                put(record + 8 * DY, zeros)
                put(record + 8 * DY_STEP, 0)
            for stage in range(first, first + STAGE if s < 0 else entry(table, STAGES_END), STAGE):
                back = stage == first
                reach = 0 if back and (s == T - 1 or clipped) else 1
                run_stage(table, tiles, record, stage, of_stage, scratch, N, H, Hp, reach, here,
                          after if back and clipped == 0 else 0, dreset, back)  # fmt: skip
                of_stage += 8 * entry(table, stage + PRODUCTS)
        inner = da + M * row
        project_back(tiles, inner, M * Hp, panel, dx + low * N * D * SIZE, D, G * Hp, steps * N, scratch)
        for n in range(each):
            add_products(
                table, tiles, block, inner + n * M * Hp * SIZE, steps * N // each, each,
                x + (low * N + n) * D * SIZE, D, sums_x + n * D * G * Hp * SIZE, entered + low * row + n * Hp * SIZE,
                entered_step, keep + low * J * row + n * J * Hp * SIZE, sums_h + n * H * P * Hp * SIZE,
                of_chunk + n * M * Hp * SIZE, H, Hp,
            )  # fmt: skip
        add_rows(sums, 0, of_chunk, 0, 1, each * M * Hp)
        clear(of_chunk, each * M * Hp * SIZE)
        end = begin
    copy_rows(dstate, H * SIZE, carries, Hp * SIZE, S * N, H * SIZE, 0)
    copy_rows(dWx, H * SIZE, sums_x, Hp * SIZE, each * D * G, H * SIZE, 0)
    copy_rows(dWh, H * SIZE, sums_h, Hp * SIZE, each * H * P, H * SIZE, 0)
    copy_rows(dslots, H * SIZE, sums, Hp * SIZE, each * M, H * SIZE, 0)
    clear_held(flags, T * N, dx, D * SIZE)
