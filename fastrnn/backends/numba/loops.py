"""The time loops, forward and backward: the same for every cell.

They are compiled once for each type of numbers, by :mod:`fastrnn.codegen.integers`: everything here is an integer, an
address, a step or a size in bytes unless it counts something. What a cell is, its table says (:mod:`.tables`); its
elementwise code and the microkernel are machine code, called by address (:mod:`fastrnn.codegen.llvm`). Nothing is
allocated here, and no Python object is touched. Rows of H elements are padded to `Hp`, whole vectors, so that no loop
has a remainder.

The arrays of a call; the address of one that is not there is 0:
    x        (T, N, D)             in
    Wx, Wh   (D, G*H), (H, P*H)    in
    bx, bh   (G*H,), (P*H,)        in; empty if there is none
    own      (parameters, H)       in, flat: the cell's per-unit parameters
    first    (S, N, H)             in: the states before the first step
    last     (S, N, H)             out
    y        (T, N, H)             out; empty if nobody asks
    states   (S, rows, N, Hp)      out, flat: states before and after each step, in time order; T+1 rows each or, where
                                   nothing is kept, of all but the first state two
    keep     (T or 1, N, J, Hp)    out, flat: what the forward step keeps
    flags    (T, N)                in; empty if every step is plain
    reset    (S, N, H)             in; empty for zeros
    entering (S, rows, N, Hp)      in, flat: the state that enters each step, in time order, from row `entering_row` on
    dy       (T, N, H)             in, any strides; empty for zeros
    dlast    (S, N, H)             in
    dx, dstate, dWx, dWh           out, like what they are gradients of
    dslots   (M, H)                out: sums of `da`; like dWx and dWh once for each sequence, if `per_sequence`
    dreset   (S, N, H)             in and out: added to; empty if nobody asks
    clip     (1,)                  in: bound of the gradient of the states at each step; empty for none
In `memory`, which holds nothing between calls, are the packed matrices, the rows of the units (U, Hp), the projections
of a chunk (chunk, N, G, Hp) or its gradients (chunk + 2, N, M, Hp), a step before and one after it included, and more;
:func:`fastrnn.backends.numba.kernel.forward_memory` has the sizes.
"""

# mypy: ignore-errors

from ...codegen.integers import add, add_square, byte, call, clear, copy, get, limit, move, put, raise_to, scale, shrink
from ...codegen.record import CARRY, CONSTANTS, DA, DY, DY_STEP, KEEP, LENGTH, NEXT, PADDED, PREV, STATES, UNITS, X
from ...engine.flags import CUT, HOLD, RESET
from ...thresholds import TILE_COLUMNS, TILE_ROWS, WORTH_PACKING
from .tables import (
    AFTER,
    ALL_PRODUCTS,
    BIASES,
    BIASES_AT,
    BLOCK,
    BLOCKS,
    CODE,
    COLUMNS,
    CONSTANTS_AT,
    FIRST,
    GATE,
    GATES,
    GRADS_AT,
    KEEPS,
    MATRICES,
    MATRICES_AT,
    MATRIX,
    MORE,
    OF_STAGE,
    OWN,
    PANELS,
    PLACE,
    PRODUCT,
    PRODUCTS,
    PRODUCTS_AT,
    PRODUCTS_FROM,
    SCRATCH,
    SLOT,
    SLOTS,
    SOURCES,
    STAGE,
    STAGES_AT,
    STAGES_END,
    STATES_COUNT,
    SUMS,
    UNIT,
    UNITS_AT,
    UNITS_ROWS,
    USE,
    USES,
    USES_AT,
    VECTOR_BLOCK,
    VECTOR_PLACE,
    VECTORS,
    VECTORS_ALONE,
)

# Bytes of a number, numbers in a vector: given when this is compiled.
SIZE = WIDTH = 0
MOST_ROWS, MOST_ROWS_OF_FEW = TILE_ROWS


def lines(size):
    """`size`, or somewhat more, so that what follows begins at a cache line."""
    return (size + 63) // 64 * 64


def entry(table, place):
    """A number of the table."""
    return get(table + 8 * place)


def copy_rows(to, to_step, source, source_step, count, size, padding):
    """`count` rows of `size` bytes, each followed by `padding` zeros."""
    for i in range(count):
        copy(to + i * to_step, source + i * source_step, size)
        if padding:
            clear(to + i * to_step + size, padding)
    return 0


def add_rows(to, to_step, source, source_step, count, numbers):
    """Add rows to rows."""
    for i in range(count):
        for j in range(0, numbers * SIZE, SIZE):
            add(to + i * to_step + j, source + i * source_step + j)
    return 0


def pack(to, step, source, row, column, depth, inside, width):
    """A block (depth, width) of a matrix, rows at distance `step`: `inside` numbers each, then zeros.

    Number (k, j) comes from ``source + k * row + j * column``.
    """
    if column == SIZE:
        copy_rows(to, step, source, row, depth, inside * SIZE, (width - inside) * SIZE)
        return 0
    # A square at a time: the lines that it reads and writes stay in the first-level cache.
    for low in range(0, depth, 16):
        for left in range(0, inside, 16):
            for k in range(low, min(depth, low + 16)):
                for j in range(left, min(inside, left + 16)):
                    move(to + k * step + j * SIZE, source + k * row + j * column)
    copy_rows(to + inside * SIZE, step, 0, 0, depth, 0, (width - inside) * SIZE)
    return 0


def stage_vectors(table, stage, N):
    """Vectors of units that a tile takes in a stage."""
    return entry(table, stage + (VECTORS_ALONE if N == 1 else VECTORS))


def fitting(vectors, left):
    """Vectors of units that the next block takes."""
    while vectors > left:
        vectors //= 2
    return vectors


def next_rows(rows, columns):
    """Rows of the largest tile for what is left."""
    most = MOST_ROWS_OF_FEW if columns < TILE_COLUMNS else MOST_ROWS
    if rows >= most:
        return most
    return 4 if rows >= 4 else 2 if rows >= 2 else 1


def pack_panels(table, to, Wh, columns, N, H, Hp, back, record):
    """The panels of every product: for each block of units ``[depth][sum][vector]``; where they end.

    The depth is a source's H, or `Hp` for all sources but the last, zeros from H on. The record gets their addresses.
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
    """The rows of biases and per-unit parameters; an address of 0 is of what is not there."""
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


def multiply(tiles, a, a_row, a_depth, b, b_depth, depth, c, c_row, rows, cols, more):
    """``C = A @ B``, or with `more` ``C += A @ B``, for a block of `cols` vectors of columns.

    Steps count numbers, as those of the tiles do.
    """
    r = 0
    while r < rows:
        n = next_rows(rows - r, cols)
        tile = get(tiles + 8 * (n * 16 + cols))
        call(tile, a + r * a_row * SIZE, a_row, a_depth, b, b_depth, depth, c + r * c_row * SIZE, c_row, more)
        r += n
    return 0


def run_stage(table, tiles, record, stage, panels, scratch, N, H, Hp, reach, here, after, dreset, back):
    """A stage of one step, for every sequence: blocks of units and of sequences, products first, then its code.

    Parameters
    ----------
    stage : place of its row in the table
    panels : address of those of its products in the record
    reach : whether the sources of the products are there; else the sums are zeros
    here, after : address of the flags of this step, and of the one after it going back; 0 where all are plain, -1 for
        a step at which every sequence is held
    dreset : address, or 0
    back : whether this is the first stage of a step back
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


def hold(table, record, n, u, vectors, Hp):
    """An inactive step: the state stays, and what is kept is finite."""
    for k in range(entry(table, STATES_COUNT)):
        state = record + 8 * (STATES + 3 * k)
        offset = (n * Hp + u) * SIZE
        copy(get(state + 8 * NEXT) + offset, get(state + 8 * PREV) + offset, vectors * SIZE * WIDTH)
    keeps = entry(table, KEEPS)
    copy_rows(get(record + 8 * KEEP) + (n * keeps * Hp + u) * SIZE, Hp * SIZE, 0, 0, keeps, 0, vectors * SIZE * WIDTH)
    return 0


def pass_on(table, record, sums, what, n, u, vectors, N, H, Hp, dreset):
    """The gradient of the state that enters the step after this one, whose flags are `what`, as it is passed on.

    It is that in `carry` plus the products' sum.
    """
    size = vectors * SIZE * WIDTH
    for k in range(entry(table, STATES_COUNT)):
        column = entry(table, entry(table, GRADS_AT) + k)
        carry = get(record + 8 * (STATES + 3 * k + CARRY)) + (n * Hp + u) * SIZE
        sum = sums + column * size
        if what & HOLD and column >= 0:
            clear(sum, size)
        if what & RESET and dreset:
            to, numbers = dreset + ((k * N + n) * H + u) * SIZE, min(vectors * WIDTH, H - u)
            add_rows(to, 0, carry, 0, 1, numbers)
            if column >= 0:
                add_rows(to, 0, sum, 0, 1, numbers)
        if what & (RESET | CUT):
            clear(carry, size)
            if column >= 0:
                clear(sum, size)
    return 0


def hold_back(table, record, sums, n, u, vectors, Hp):
    """An inactive step: the state's gradient passes by."""
    size = vectors * SIZE * WIDTH
    for k in range(entry(table, STATES_COUNT)):
        column = entry(table, entry(table, GRADS_AT) + k)
        if column >= 0:
            carry = get(record + 8 * (STATES + 3 * k + CARRY)) + (n * Hp + u) * SIZE
            add_rows(carry, 0, sums + column * size, 0, 1, vectors * WIDTH)
    slots = entry(table, SLOTS)
    copy_rows(get(record + 8 * DA) + (n * slots * Hp + u) * SIZE, Hp * SIZE, 0, 0, slots, 0, size)
    return 0


def clip_states(table, record, flags, clip, by_norm, spare, N, H, Hp):
    """Add the gradient of the outputs to that of the states, in `carry`, and clip that, for every active sequence.

    Parameters
    ----------
    flags : address of those of the step, or 0
    clip : address of the bound
    by_norm : whether that is of the norm of a sequence's gradient of all states, else of each element
    spare : address of three numbers
    """
    states, largest, squares, factor = entry(table, STATES_COUNT), spare, spare + SIZE, spare + 2 * SIZE
    for n in range(N):
        if flags == 0 or (byte(flags + n) & HOLD) == 0:
            dy = get(record + 8 * DY) + n * get(record + 8 * DY_STEP)
            add_rows(get(record + 8 * (STATES + CARRY)) + n * Hp * SIZE, 0, dy, 0, 1, H)
            clear(spare, 3 * SIZE)
            if by_norm:
                for i in range(states * H):
                    raise_to(largest, carried(record, i // H, n, i % H, Hp))
                for i in range(states * H):
                    # Squares of shares of the largest element do not overflow.
                    add_square(squares, carried(record, i // H, n, i % H, Hp), largest)
                shrink(factor, clip, largest, squares)
            for i in range(states * H):
                if by_norm:
                    scale(carried(record, i // H, n, i % H, Hp), factor)
                else:
                    limit(carried(record, i // H, n, i % H, Hp), clip)
    return 0


def carried(record, k, n, u, Hp):
    """The address of the gradient of unit `u` of a sequence's state `k`."""
    return get(record + 8 * (STATES + 3 * k + CARRY)) + (n * Hp + u) * SIZE


def marked(flags, t, N, which):
    """The address of the flags of time `t`, if one of them is of `which`, else 0."""
    if flags == 0:
        return 0
    row = flags + t * N
    for n in range(N):
        if byte(row + n) & which:
            return row
    return 0


def clear_held(flags, rows, to, size):
    """Zeros for each of the rows of `size` bytes whose step is inactive."""
    if flags:
        for i in range(rows):
            if byte(flags + i) & HOLD:
                clear(to + i * size, size)
    return 0


def enter(table, record, fresh, flags, reset, N, H, Hp):
    """The states that enter a step at which some sequence is reset: in a place of their own."""
    for k in range(entry(table, STATES_COUNT)):
        state = record + 8 * (STATES + 3 * k + PREV)
        copy(fresh, get(state), N * Hp * SIZE)
        put(state, fresh)
        for n in range(N):
            if byte(flags + n) & RESET:
                clear(fresh, Hp * SIZE)
                if reset:
                    copy(fresh, reset + (k * N + n) * H * SIZE, H * SIZE)
            fresh += Hp * SIZE
    return 0


def pack_input(gates, to, Wx, D, H, Hp):
    """Wx, each gate's columns padded: for each block of vectors of columns ``[depth][vector]``."""
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
    """The transpose of Wx, each gate's rows padded with zeros: for each block of columns ``[depth][vector]``."""
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


def project(tiles, x, D, Wx, packed, to, rows, vectors):
    """The input's projections of a chunk, by Wx that is packed or whose columns are whole vectors."""
    v = 0
    while v < vectors:
        cols = min(TILE_COLUMNS, vectors - v)
        b, step = Wx + v * (D if packed else 1) * SIZE * WIDTH, (cols if packed else vectors) * WIDTH
        multiply(tiles, x, D, 1, b, step, D, to + v * SIZE * WIDTH, vectors * WIDTH, rows, cols, 0)
        v += cols
    return 0


def project_back(tiles, da, da_row, panel, dx, D, depth, rows, scratch):
    """The input's gradient of a chunk."""
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
    """A chunk's part of the weights' gradients: each block of columns of `da` is packed once and meets all vectors."""
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


def start_record(table, record, units, H, Hp):
    """What stays in the record for a whole call."""
    put(record + 8 * UNITS, units)
    put(record + 8 * CONSTANTS, entry(table, CONSTANTS_AT))
    put(record + 8 * LENGTH, H)
    put(record + 8 * PADDED, Hp)
    return 0


def forward(
    table, tiles, x, Wx, Wh, bx, bh, own, first, last, y, states, keep, memory, flags, reset, T, N, D, H, chunk, keeps,
    reverse
):  # fmt: skip
    """Every step of a call; see the module."""
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
    # Packed it is read faster, but not as much faster for few rows as packing takes.
    packed = Hp > H or T * N >= WORTH_PACKING
    if packed:
        pack_input(G, panel, Wx, D, H, Hp)
    end = pack_panels(table, panel + lines(D * G * Hp * SIZE), Wh, entry(table, MATRICES) * H, N, H, Hp, 0, record)
    projected = end
    start, stop = (T, 0) if reverse else (0, T)
    # Of a state of which not all is kept, times are even or odd.
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


def backward(
    table, tiles, x, Wx, Wh, bx, bh, own, dy, dlast, states, entering, keep, memory, flags, dx, dstate, dWx, dWh,
    dslots, dreset, clip, dy_time, dy_row, dy_unit, entering_row, entering_rows, by_norm, per_sequence, T, N, D, H,
    chunk, reverse
):  # fmt: skip
    """Every step of a call, from the last to the first; see the module."""
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
    # Of float32, the sum of a million rows one by one has a hundred times the error of that of the chunks' sums.
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
    # The rows of one state.
    state_step, entered_step, entered = (T + 1) * row, entering_rows * row, entering + entering_row * row
    end, steps = T, 0
    while end > 0:
        before, steps = steps, min(chunk, end)
        begin = end - steps
        low = T - end if reverse else begin
        if end < T:
            # The step after the chunk is the first of the chunk that was here before it.
            source, to = (before, 0) if reverse else (1, steps + 1)
            copy(da + to * M * row, da + source * M * row, M * row)
        # The step before the first one passes on the gradient of the states before that.
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
                # A norm is of all units: the gradient of the states is whole before the step's own code begins.
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
                x + (low * N + n) * D * SIZE, D,
                sums_x + n * D * G * Hp * SIZE, entered + low * row + n * Hp * SIZE, entered_step,
                keep + low * J * row + n * J * Hp * SIZE, sums_h + n * H * P * Hp * SIZE, of_chunk + n * M * Hp * SIZE,
                H, Hp,
            )  # fmt: skip
        add_rows(sums, 0, of_chunk, 0, 1, each * M * Hp)
        clear(of_chunk, each * M * Hp * SIZE)
        end = begin
    copy_rows(dstate, H * SIZE, carries, Hp * SIZE, S * N, H * SIZE, 0)
    copy_rows(dWx, H * SIZE, sums_x, Hp * SIZE, each * D * G, H * SIZE, 0)
    copy_rows(dWh, H * SIZE, sums_h, Hp * SIZE, each * H * P, H * SIZE, 0)
    copy_rows(dslots, H * SIZE, sums, Hp * SIZE, each * M, H * SIZE, 0)
    clear_held(flags, T * N, dx, D * SIZE)
