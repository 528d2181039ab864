"""The time loops, forward and backward: the same for every cell.

Numba compiles them once for each type of numbers. What a cell is, its table says (:mod:`.tables`); its elementwise code
and the microkernel are machine code, called by address (:mod:`fastrnn.codegen.llvm`). Nothing is allocated here, and no
Python object is touched. Rows of H elements are padded to `Hp`, whole vectors, so that no loop has a remainder.

Arrays, in the order of their use, with what stands in front of ``:`` read or written:
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
    entering (S, rows, N, Hp)      in, flat: the state that enters each step, in time order
    dy       (T, N, H)             in, any strides; empty for zeros
    dlast    (S, N, H)             in
    dx, dstate, dWx, dWh           out, like what they are gradients of
    dslots   (M, H)                out: sums of `da`
    dreset   (S, N, H)             out; empty if nobody asks
In `memory`, which holds nothing between calls, are the packed matrices, the rows of the units (U, Hp), the projections of
a chunk (chunk, N, G, Hp) or its gradients (chunk + 2, N, M, Hp), a step before and one after it included, and the rest.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from fastrnn.backends.numba import tables as at
from fastrnn.backends.numba.pointers import call_stage, call_tile, clear, copy, get, put
from fastrnn.backends.numba.subnormals import BITS, read_register, write_register
from fastrnn.codegen import record as place
from fastrnn.engine.flags import CUT, HOLD, RESET
from fastrnn.thresholds import TILE_COLUMNS, TILE_ROWS

# Elements to begin at a multiple of: a cache line at least.
_LINE = 16
# Elements that the record takes besides the products' panels.
_RECORD = 2 * at.PANELS

helper = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)


@helper
def whole_lines(size: int) -> int:
    """`size`, or somewhat more, so that what follows begins at a cache line."""
    return (size + _LINE - 1) // _LINE * _LINE


@helper
def pack(
    to: Any, begin: int, step: int, source: Any, first: int, row: int, column: int, depth: int, inside: int, width: int
) -> None:
    """A block (depth, width) of a matrix, rows at distance `step`: `inside` columns, then zeros.

    Element (k, j) comes from ``source[first + k * row + j * column]``.
    """
    size = to.itemsize
    if column == 1:
        at_to, at_source = to.ctypes.data + begin * size, source.ctypes.data + first * size
        for k in range(depth):
            copy(at_to + k * step * size, at_source + k * row * size, inside * size)
            if inside < width:
                clear(at_to + (k * step + inside) * size, (width - inside) * size)
        return
    # A square at a time: the lines that it reads and writes stay in the first-level cache.
    for low in range(0, depth, _LINE):
        for k in range(low, min(depth, low + _LINE)):
            for j in range(inside):
                to[begin + k * step + j] = source[first + k * row + j * column]
            for j in range(inside, width):
                to[begin + k * step + j] = 0


@helper
def pack_panels(table: Any, to: Any, begin: int, Wh: Any, H: int, Hp: int, back: bool, record: int) -> int:
    """The panels of every product: for each block of units ``[depth][sum][vector]``; where they end.

    The depth is a source's H, or `Hp` for all sources but the last, zeros from H on. The record gets their addresses.
    """
    width, columns = table[at.WIDTH], Wh.shape[1]
    flat = Wh.reshape(-1)
    number = 0
    for stage in range(table[at.STAGES]):
        stage_at = table[at.STAGES_AT] + stage * at.STAGE
        for product in range(table[stage_at + at.PRODUCTS]):
            p = table[stage_at + at.PRODUCTS_AT] + product * at.PRODUCT
            sources, sums = table[p + at.SOURCES], table[p + at.COLUMNS]
            depth = (sources - 1) * Hp + H
            put(record + 8 * (at.PANELS + number), to.ctypes.data + begin * to.itemsize)
            u = 0
            while u < Hp:
                block = fitting(table[stage_at + at.VECTORS], (Hp - u) // width) * width
                inside = max(0, min(block, H - u))
                for source in range(sources):
                    for sum in range(sums):
                        matrix = table[table[p + at.MATRICES_AT] + source * sums + sum]
                        start = begin + u * depth * sums + (source * Hp * sums + sum) * block
                        row, column = (1, columns) if back else (columns, 1)
                        from_ = matrix * H + u * column
                        pack(to, start, sums * block, flat, from_, row, column, H, inside, block)
                        if source + 1 < sources:
                            below = start + H * sums * block
                            pack(to, below, sums * block, flat, 0, 0, 1, Hp - H, 0, block)
                u += block
            begin += whole_lines(depth * sums * Hp)
            number += 1
    return begin


@helper
def fitting(vectors: int, left: int) -> int:
    """Vectors of units that the next block takes."""
    while vectors > left:
        vectors //= 2
    return vectors


@helper
def fill_units(table: Any, to: Any, begin: int, bx: Any, bh: Any, own: Any, H: int, Hp: int) -> None:
    """The rows of biases and per-unit parameters."""
    for row in range(table[at.UNITS]):
        u = table[at.UNITS_AT] + row * at.UNIT
        start = begin + row * Hp
        clear(to.ctypes.data + start * to.itemsize, Hp * to.itemsize)
        gate, parameter = table[u + at.GATE], table[u + at.OWN]
        if parameter >= 0:
            for j in range(H):
                to[start + j] = own[parameter * H + j]
        if gate >= 0 and bx.size:
            for j in range(H):
                to[start + j] += bx[gate * H + j]
        if bh.size:
            for m in range(table[u + at.BIASES]):
                matrix = table[table[u + at.BIASES_AT] + m]
                for j in range(H):
                    to[start + j] += bh[matrix * H + j]


@helper
def next_rows(rows: int, columns: int) -> int:
    """Rows of the largest tile for what is left."""
    most = TILE_ROWS[1] if columns < TILE_COLUMNS else TILE_ROWS[0]
    if rows >= most:
        return most
    return 4 if rows >= 4 else 2 if rows >= 2 else 1


@helper
def multiply(
    tiles: Any, a: int, a_row: int, a_depth: int, b: int, depth: int, c: int, c_row: int, rows: int, cols: int,
    size: int, width: int, more: int,
) -> None:  # fmt: skip
    """``C = A @ B``, or with `more` ``C += A @ B``, for a block of `cols` vectors of columns, B packed."""
    r = 0
    while r < rows:
        n = next_rows(rows - r, cols)
        at_a, at_c = a + r * a_row * size, c + r * c_row * size
        call_tile(tiles[n * 8 + cols], at_a, a_row, a_depth, b, cols * width, depth, at_c, c_row, more)
        r += n


@helper
def run_stage(
    table: Any, tiles: Any, number: int, first_panel: int, record: int, scratch: int, N: int, H: int, Hp: int,
    reach: bool, size: int, memory: Any, base: int, flags: Any, held: int, here: int, after: int, carries: int,
    dreset: Any, back: bool,
) -> None:  # fmt: skip
    """A stage of one step, for every sequence: blocks of units and of sequences, products first, then its code.

    reach : whether the sources of the products are there; else the sums are zeros
    held : flags that some sequence of this step has, or of the step after it going back
    here, after : the times of these steps, whose flags are read where `held` says so
    """
    stage = table[at.STAGES_AT] + number * at.STAGE
    code, sums, products, v = (table[stage + at.CODE], table[stage + at.SUMS], table[stage + at.PRODUCTS],
                               table[stage + at.VECTORS])  # fmt: skip
    width = table[at.WIDTH]
    u = 0
    while u < Hp:
        vectors = fitting(v, (Hp - u) // width)
        n = 0
        while n < N:
            rows = next_rows(N - n, v * sums) if sums else N
            for i in range(products):
                p = table[stage + at.PRODUCTS_AT] + i * at.PRODUCT
                columns, step = table[p + at.COLUMNS], table[p + at.BLOCKS] * Hp
                depth = (table[p + at.SOURCES] - 1) * Hp + H
                a = get(record + 8 * table[p + at.PLACE]) + (n * step + table[p + at.BLOCK] * Hp) * size
                b = get(record + 8 * (at.PANELS + first_panel + i)) + u * depth * columns * size
                cols = columns * vectors
                call_tile(
                    tiles[rows * 8 + cols], a, step, 1, b, cols * width, depth if reach else 0,
                    scratch + table[p + at.FIRST] * vectors * width * size, sums * vectors * width, table[p + at.MORE],
                )  # fmt: skip
            if held == 0:
                call_stage(code, record, n, rows, u, vectors, scratch)
            else:
                for r in range(rows):
                    here_flags = HOLD if here < 0 else flags[here, n + r]
                    own = scratch + r * sums * vectors * width * size
                    if back and number == 0:
                        what = 0 if after < 0 else flags[after, n + r]
                        pass_on(table, memory, carries, (own - base) // size, what, n + r, u, vectors, N, H, Hp, dreset)
                    if (here_flags & HOLD) == 0:
                        call_stage(code, record, n + r, 1, u, vectors, own)
                    elif number == 0 and back:
                        hold_back(table, memory, carries, (own - base) // size, record, n + r, u, vectors, N, Hp, size)
                    elif number == 0:
                        hold(table, record, n + r, u, vectors, Hp, size)
            n += rows
        u += vectors * width


@helper
def hold(table: Any, record: int, n: int, u: int, vectors: int, Hp: int, size: int) -> None:
    """An inactive step: the state stays, and what is kept is finite."""
    bytes_ = vectors * table[at.WIDTH] * size
    for k in range(table[at.STATES]):
        slot = record + 8 * (place.STATES + 3 * k)
        offset = (n * Hp + u) * size
        copy(get(slot + 8 * place.NEXT) + offset, get(slot + 8 * place.PREV) + offset, bytes_)
    for j in range(table[at.KEEPS]):
        clear(get(record + 8 * place.KEEP) + ((n * table[at.KEEPS] + j) * Hp + u) * size, bytes_)


@helper
def pass_on(
    table: Any, memory: Any, carries: int, sums: int, what: int, n: int, u: int, vectors: int, N: int, H: int, Hp: int,
    dreset: Any,
) -> None:  # fmt: skip
    """The gradient of the state that enters the step after this one, whose flags are `what`, as it is passed on.

    It is that in `carries` plus the products' sums.
    """
    width = vectors * table[at.WIDTH]
    for k in range(table[at.STATES]):
        column = table[table[at.GRADS_AT] + k]
        carry, sum = carries + (k * N + n) * Hp + u, sums + column * width
        if what & HOLD and column >= 0:
            for j in range(width):
                memory[sum + j] = 0
        if what & (RESET | CUT):
            if what & RESET and dreset.size:
                for j in range(min(width, H - u)):
                    dreset[k, n, u + j] += memory[carry + j] + (memory[sum + j] if column >= 0 else 0)
            for j in range(width):
                memory[carry + j] = 0
                if column >= 0:
                    memory[sum + j] = 0


@helper
def hold_back(
    table: Any, memory: Any, carries: int, sums: int, record: int, n: int, u: int, vectors: int, N: int, Hp: int,
    size: int,
) -> None:  # fmt: skip
    """An inactive step: the state's gradient passes by."""
    width = vectors * table[at.WIDTH]
    for k in range(table[at.STATES]):
        column = table[table[at.GRADS_AT] + k]
        carry = carries + (k * N + n) * Hp + u
        if column >= 0:
            for j in range(width):
                memory[carry + j] += memory[sums + column * width + j]
    for m in range(table[at.SLOTS]):
        clear(get(record + 8 * place.DA) + ((n * table[at.SLOTS] + m) * Hp + u) * size, width * size)


@helper
def marks(flags: Any, t: int) -> int:
    """The flags that some sequence has at time `t`."""
    found = 0
    if flags.size:
        for n in range(flags.shape[1]):
            found |= flags[t, n]
    return found


@helper
def state_rows(k: int, T: int, keeps: int) -> int:
    """Rows of N vectors that come before those of state `k`."""
    return 0 if k == 0 else T + 1 + (k - 1) * (T + 1 if keeps else 2)


def forward(
    table, tiles, x, Wx, Wh, bx, bh, own, first, last, y, states, keep, memory, flags, reset, chunk, keeps, reverse
):  # type: ignore[no-untyped-def]
    """Every step of a call; see the module."""
    if BITS:
        mode = read_register()
        write_register(mode | BITS)
    T, N, D = x.shape
    H = Wh.shape[0]
    size, width, S, G, J = memory.itemsize, table[at.WIDTH], table[at.STATES], table[at.GATES], table[at.KEEPS]
    Hp = (H + width - 1) // width * width
    base = memory.ctypes.data
    record = base
    begin = whole_lines(_RECORD + 2 * count_products(table))
    panel_x, begin = begin, begin + whole_lines(D * G * Hp)
    begin = pack_panels(table, memory, begin, Wh, H, Hp, False, record)
    units, begin = begin, begin + whole_lines(table[at.UNITS] * Hp)
    scratch, begin = begin, begin + whole_lines(scratch_size(table))
    fresh, begin = begin, begin + (whole_lines(S * N * Hp) if flags.size else 0)
    projected = begin
    fill_units(table, memory, units, bx, bh, own, H, Hp)
    pack_input(table, memory, panel_x, Wx, H, Hp)
    put(record + 8 * place.X, 0)
    put(record + 8 * place.UNITS, base + units * size)
    put(record + 8 * place.CONSTANTS, table[at.CONSTANTS])
    put(record + 8 * place.H, H)
    put(record + 8 * place.HP, Hp)
    start, stop = (T, 0) if reverse else (0, T)
    rows = N * Hp
    state, kept = states.ctypes.data, keep.ctypes.data
    for k in range(S):
        row = state_rows(k, T, keeps) + (start if k == 0 or keeps else start & 1)
        pad(states, row * rows, first, k, H, Hp)
    low = 0
    for s in range(T):
        t = T - 1 - s if reverse else s
        if s % chunk == 0:
            steps = min(chunk, T - s)
            low = T - s - steps if reverse else s
            project(table, tiles, x.ctypes.data + low * N * D * size, D, base + panel_x * size, base + projected * size,
                    steps * N, Hp, size)  # fmt: skip
        prev, next = (t + 1, t) if reverse else (t, t + 1)
        put(record + 8 * place.X, base + (projected + (t - low) * N * G * Hp) * size)
        put(record + 8 * place.KEEP, kept + (t * rows * J if keeps else 0) * size)
        for k in range(S):
            whole = k == 0 or keeps
            slot, row = record + 8 * (place.STATES + 3 * k), state_rows(k, T, keeps)
            put(slot + 8 * place.PREV, state + (row + (prev if whole else prev & 1)) * rows * size)
            put(slot + 8 * place.NEXT, state + (row + (next if whole else next & 1)) * rows * size)
        now = marks(flags, t)
        if now & RESET:
            enter(table, memory, fresh, record, flags, t, reset, N, H, Hp, size)
        panel = 0
        for i in range(table[at.STAGES]):
            run_stage(table, tiles, i, panel, record, base + scratch * size, N, H, Hp, True, size, memory, base, flags,
                      now & HOLD, t, 0, 0, last, False)  # fmt: skip
            panel += table[table[at.STAGES_AT] + i * at.STAGE + at.PRODUCTS]
    if y.size:
        strip(y.reshape(T * N, H), states, (0 if reverse else 1) * rows, H, Hp)
        if flags.size:
            for t in range(T):
                for n in range(N):
                    if flags[t, n] & HOLD:
                        y[t, n] = 0
    for k in range(S):
        row = state_rows(k, T, keeps) + (stop if k == 0 or keeps else stop & 1)
        strip(last[k], states, row * rows, H, Hp)
    if BITS:
        write_register(mode)


@helper
def count_products(table: Any) -> int:
    count = 0
    for i in range(table[at.STAGES]):
        count += table[table[at.STAGES_AT] + i * at.STAGE + at.PRODUCTS]
    return count


@helper
def scratch_size(table: Any) -> int:
    """Elements that the sums of a tile may take."""
    most = 1
    for i in range(table[at.STAGES]):
        stage = table[at.STAGES_AT] + i * at.STAGE
        most = max(most, table[stage + at.SUMS] * table[stage + at.VECTORS])
    return most * TILE_ROWS[1] * table[at.WIDTH]


@helper
def pad(to: Any, begin: int, source: Any, k: int, H: int, Hp: int) -> None:
    """Rows of ``source[k]`` (N, H), each followed by zeros up to `Hp`."""
    size, N = to.itemsize, source.shape[1]
    for n in range(N):
        at_to = to.ctypes.data + (begin + n * Hp) * size
        copy(at_to, source.ctypes.data + (k * N + n) * H * size, H * size)
        clear(at_to + H * size, (Hp - H) * size)


@helper
def strip(to: Any, source: Any, begin: int, H: int, Hp: int) -> None:
    """Rows (n, H) without their padding."""
    size = to.itemsize
    for n in range(to.shape[0]):
        copy(to.ctypes.data + n * H * size, source.ctypes.data + (begin + n * Hp) * size, H * size)


@helper
def enter(
    table: Any, memory: Any, fresh: int, record: int, flags: Any, t: int, reset: Any, N: int, H: int, Hp: int, size: int
) -> None:
    """The states that enter a step at which some sequence is reset: in a place of their own."""
    base = memory.ctypes.data
    for k in range(table[at.STATES]):
        slot = record + 8 * (place.STATES + 3 * k + place.PREV)
        before, block = get(slot), base + (fresh + k * N * Hp) * size
        copy(block, before, N * Hp * size)
        for n in range(N):
            if flags[t, n] & RESET:
                clear(block + n * Hp * size, Hp * size)
                if reset.size:
                    copy(block + n * Hp * size, reset.ctypes.data + (k * N + n) * H * size, H * size)
        put(slot, block)


@helper
def pack_input(table: Any, to: Any, begin: int, Wx: Any, H: int, Hp: int) -> None:
    """Wx, each gate's columns padded: for each block of vectors of columns ``[depth][vector]``."""
    width, D = table[at.WIDTH], Wx.shape[0]
    flat, per_gate = Wx.reshape(-1), Hp // width
    vectors = table[at.GATES] * per_gate
    v = 0
    while v < vectors:
        cols = min(TILE_COLUMNS, vectors - v)
        for j in range(cols):
            gate, u = (v + j) // per_gate, (v + j) % per_gate * width
            start = begin + v * D * width + j * width
            pack(to, start, cols * width, flat, gate * H + u, Wx.shape[1], 1, D, max(0, min(width, H - u)), width)
        v += cols


@helper
def project(table: Any, tiles: Any, x: int, D: int, panel: int, to: int, rows: int, Hp: int, size: int) -> None:
    """The input's projections of a chunk."""
    width = table[at.WIDTH]
    vectors = table[at.GATES] * Hp // width
    v = 0
    while v < vectors:
        cols = min(TILE_COLUMNS, vectors - v)
        b, c = panel + v * D * width * size, to + v * width * size
        multiply(tiles, x, D, 1, b, D, c, vectors * width, rows, cols, size, width, 0)
        v += cols


def backward(
    table, tiles, x, Wx, Wh, bx, bh, own, dy, dlast, states, entering, entering_row, keep, memory, flags, dx, dstate,
    dWx, dWh, dslots, dreset, chunk, reverse
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Every step of a call, from the last to the first; see the module."""
    if BITS:
        mode = read_register()
        write_register(mode | BITS)
    T, N, D = x.shape
    H = Wh.shape[0]
    size, width, S, G, P = memory.itemsize, table[at.WIDTH], table[at.STATES], table[at.GATES], table[at.MATRICES]
    J, M = table[at.KEEPS], table[at.SLOTS]
    Hp = (H + width - 1) // width * width
    rows = N * Hp
    base = memory.ctypes.data
    record = base
    begin = whole_lines(_RECORD + 2 * count_products(table))
    panel_x, begin = begin, begin + whole_lines(G * Hp * ((D + width - 1) // width * width))
    begin = pack_panels(table, memory, begin, Wh, H, Hp, True, record)
    units, begin = begin, begin + whole_lines(table[at.UNITS] * Hp)
    scratch, begin = begin, begin + whole_lines(max(scratch_size(table), TILE_COLUMNS * TILE_ROWS[1] * width))
    carries, begin = begin, begin + whole_lines(S * rows)
    grads, begin = begin, begin + whole_lines(rows)
    sums_x, begin = begin, begin + whole_lines(D * G * Hp)
    sums_h, begin = begin, begin + whole_lines(H * P * Hp)
    sums, begin = begin, begin + whole_lines(M * Hp)
    clear(base + sums_x * size, (begin - sums_x) * size)
    clear(base + grads * size, rows * size)
    block, begin = begin, begin + whole_lines(chunk * N * TILE_COLUMNS * width)
    da = begin
    fill_units(table, memory, units, bx, bh, own, H, Hp)
    pack_back(memory, panel_x, Wx, H, Hp, width)
    put(record + 8 * place.UNITS, base + units * size)
    put(record + 8 * place.CONSTANTS, table[at.CONSTANTS])
    put(record + 8 * place.H, H)
    put(record + 8 * place.HP, Hp)
    put(record + 8 * place.DY, base + grads * size)
    put(record + 8 * place.DY_STEP, Hp * size)
    for k in range(S):
        pad(memory, carries + k * rows, dlast, k, H, Hp)
        put(record + 8 * (place.STATES + 3 * k + place.CARRY), base + (carries + k * rows) * size)
    in_place = dy.size > 0 and Hp == H and dy.strides[2] == size
    state, entered, kept = states.ctypes.data, entering.ctypes.data, keep.ctypes.data
    state_step, entered_step = states.size // S, entering.size // S
    row_da = N * M * Hp
    end, steps = T, 0
    while end > 0:
        before, steps = steps, min(chunk, end)
        begin_step = end - steps
        low = T - end if reverse else begin_step
        if end < T:
            # The step after the chunk is the first of the chunk that was here before it.
            from_, to = (before, 0) if reverse else (1, steps + 1)
            copy(base + (da + to * row_da) * size, base + (da + from_ * row_da) * size, row_da * size)
        # The step before the first one passes on the gradient of the states before that.
        for s in range(end - 1, (-2 if begin_step == 0 else begin_step - 1), -1):
            t = T - 1 - s if reverse else s
            after = -1 if s == T - 1 else t - 1 if reverse else t + 1
            next = t if reverse else t + 1
            at_da = base + (da + (t - low + 1) * row_da) * size
            put(record + 8 * place.DA, at_da)
            put(record + 8 * at.AFTER, at_da - row_da * size if reverse else at_da + row_da * size)
            put(record + 8 * place.KEEP, kept + t * rows * J * size)
            for k in range(S):
                slot = record + 8 * (place.STATES + 3 * k)
                put(slot + 8 * place.NEXT, state + (k * state_step + next * rows) * size)
                put(slot + 8 * place.PREV, entered + (k * entered_step + (t + entering_row) * rows) * size)
            held = HOLD if s < 0 else marks(flags, t)
            if after >= 0:
                held |= marks(flags, after)
            if not flags.size:
                after = -1
            if s >= 0 and in_place:
                put(record + 8 * place.DY, dy.ctypes.data + t * dy.strides[0])
                put(record + 8 * place.DY_STEP, dy.strides[1])
            elif s >= 0 and dy.size:
                for n in range(N):
                    for j in range(H):
                        memory[grads + n * Hp + j] = dy[t, n, j]
            panel = 0
            for i in range(1 if s < 0 else table[at.STAGES]):
                run_stage(table, tiles, i, panel, record, base + scratch * size, N, H, Hp, i > 0 or s < T - 1, size,
                          memory, base, flags, held, -1 if s < 0 else t, after, carries, dreset, True)  # fmt: skip
                panel += table[table[at.STAGES_AT] + i * at.STAGE + at.PRODUCTS]
        inner = base + (da + row_da) * size
        project_back(tiles, inner, M * Hp, base + panel_x * size, dx, low * N, D, G * Hp, steps * N,
                     base + scratch * size, size, width)  # fmt: skip
        add_products(table, tiles, memory, block, da + row_da, steps * N, x.ctypes.data + low * N * D * size, D,
                     base + sums_x * size, entered + (low + entering_row) * rows * size, entered_step * size,
                     kept + low * rows * J * size, base + sums_h * size, base + sums * size, H, Hp, size)  # fmt: skip
        end = begin_step
    for k in range(S):
        strip(dstate[k], memory, carries + k * rows, H, Hp)
    strip(dWx.reshape(D * G, H), memory, sums_x, H, Hp)
    if P:
        strip(dWh.reshape(H * P, H), memory, sums_h, H, Hp)
    strip(dslots, memory, sums, H, Hp)
    if flags.size:
        for t in range(T):
            for n in range(N):
                if flags[t, n] & HOLD:
                    dx[t, n] = 0
    if BITS:
        write_register(mode)


@helper
def pack_back(to: Any, begin: int, Wx: Any, H: int, Hp: int, width: int) -> None:
    """The transpose of Wx, each gate's rows padded with zeros: for each block of columns ``[depth][vector]``."""
    D, columns = Wx.shape
    flat, gates = Wx.reshape(-1), Wx.shape[1] // H
    vectors = (D + width - 1) // width
    v = 0
    while v < vectors:
        cols = min(TILE_COLUMNS, vectors - v)
        inside = min(cols * width, D - v * width)
        for gate in range(gates):
            start = begin + (v * gates * Hp + gate * Hp * cols) * width
            pack(to, start, cols * width, flat, v * width * columns + gate * H, 1, columns, H, inside, cols * width)
            pack(to, start + H * cols * width, cols * width, flat, 0, 0, 1, Hp - H, 0, cols * width)
        v += cols


@helper
def project_back(
    tiles: Any, da: int, da_row: int, panel: int, dx: Any, first: int, D: int, depth: int, rows: int, scratch: int,
    size: int, width: int,
) -> None:  # fmt: skip
    """The input's gradient of a chunk."""
    vectors = (D + width - 1) // width
    v = 0
    while v < vectors:
        cols = min(TILE_COLUMNS, vectors - v)
        b, c = panel + v * depth * width * size, dx.ctypes.data + (first * D + v * width) * size
        inside = min(cols * width, D - v * width)
        if inside == cols * width:
            multiply(tiles, da, da_row, 1, b, depth, c, D, rows, cols, size, width, 0)
        else:
            r = 0
            while r < rows:
                n = next_rows(rows - r, cols)
                multiply(
                    tiles, da + r * da_row * size, da_row, 1, b, depth, scratch, cols * width, n, cols, size, width, 0
                )
                for i in range(n):
                    copy(c + (r + i) * D * size, scratch + i * cols * width * size, inside * size)
                r += n
        v += cols


@helper
def add_products(
    table: Any, tiles: Any, memory: Any, block: int, da: int, rows: int, x: int, D: int, sums_x: int, entered: int,
    entered_step: int, kept: int, sums_h: int, sums: int, H: int, Hp: int, size: int,
) -> None:  # fmt: skip
    """A chunk's part of the weights' gradients: each block of columns of `da` is packed once and meets all vectors."""
    width, G, P, M = table[at.WIDTH], table[at.GATES], table[at.MATRICES], table[at.SLOTS]
    base = memory.ctypes.data
    b = base + block * size
    for m in range(M):
        u = 0
        while u < Hp:
            cols = min(TILE_COLUMNS, (Hp - u) // width)
            count = cols * width
            pack(memory, block, count, memory, da + m * Hp + u, M * Hp, 1, rows, count, count)
            for k in range(rows):
                for j in range(count):
                    memory[(sums - base) // size + m * Hp + u + j] += memory[block + k * count + j]
            if m < G:
                c = sums_x + (m * Hp + u) * size
                multiply(tiles, x, 1, D, b, rows, c, G * Hp, D, cols, size, width, 1)
            for i in range(table[at.USES]):
                use = table[at.USES_AT] + i * at.USE
                if table[use + at.SLOT] == m:
                    c = sums_h + (table[use + at.MATRIX] * Hp + u) * size
                    if table[use + at.VECTOR_PLACE] == place.KEEP:
                        step = table[use + at.VECTOR_BLOCKS] * Hp
                        multiply(tiles, kept + table[use + at.VECTOR_BLOCK] * Hp * size, 1, step, b, rows, c, P * Hp, H,
                                 cols, size, width, 1)  # fmt: skip
                    else:
                        k = (table[use + at.VECTOR_PLACE] - place.STATES) // 3
                        multiply(tiles, entered + k * entered_step, 1, Hp, b, rows, c, P * Hp, H, cols, size, width, 1)
            u += count
