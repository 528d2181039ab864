"""Steps with flags: inactive ones, resets and cuts; see :mod:`fastrnn.engine.flags`."""

from ....codegen.integers import byte, clear, copy, get, put
from ....codegen.record import CARRY, DA, KEEP, NEXT, PREV, STATES
from ....engine.flags import CUT, HOLD, RESET
from ..tables import GRADS_AT, KEEPS, SLOTS, STATES_COUNT
from .rows import SIZE, WIDTH, add_rows, copy_rows, entry


def hold(table, record, n, u, vectors, Hp):
    """An inactive step, forward: the state stays, and the kept values are zeros, so that they are finite."""
    for k in range(entry(table, STATES_COUNT)):
        state = record + 8 * (STATES + 3 * k)
        offset = (n * Hp + u) * SIZE
        copy(get(state + 8 * NEXT) + offset, get(state + 8 * PREV) + offset, vectors * SIZE * WIDTH)
    keeps = entry(table, KEEPS)
    copy_rows(get(record + 8 * KEEP) + (n * keeps * Hp + u) * SIZE, Hp * SIZE, 0, 0, keeps, 0, vectors * SIZE * WIDTH)
    return 0


def pass_on(table, record, sums, what, n, u, vectors, N, H, Hp, dreset):
    """What this step receives of the gradient of the state that entered the step after it, whose flags are `what`.

    That gradient is the carry plus the sums of the products; both are changed in place.
    """
    size = vectors * SIZE * WIDTH
    for k in range(entry(table, STATES_COUNT)):
        column = entry(table, entry(table, GRADS_AT) + k)
        carry = get(record + 8 * (STATES + 3 * k + CARRY)) + (n * Hp + u) * SIZE
        sum = sums + column * size
        if what & HOLD and column >= 0:
            clear(sum, size)
        if what & RESET and dreset:
            to, elements = dreset + ((k * N + n) * H + u) * SIZE, min(vectors * WIDTH, H - u)
            add_rows(to, 0, carry, 0, 1, elements)
            if column >= 0:
                add_rows(to, 0, sum, 0, 1, elements)
        if what & (RESET | CUT):
            clear(carry, size)
            if column >= 0:
                clear(sum, size)
    return 0


def hold_back(table, record, sums, n, u, vectors, Hp):
    """An inactive step, backward: the gradient of the state passes on unchanged, and `da` is zero."""
    size = vectors * SIZE * WIDTH
    for k in range(entry(table, STATES_COUNT)):
        column = entry(table, entry(table, GRADS_AT) + k)
        if column >= 0:
            carry = get(record + 8 * (STATES + 3 * k + CARRY)) + (n * Hp + u) * SIZE
            add_rows(carry, 0, sums + column * size, 0, 1, vectors * WIDTH)
    slots = entry(table, SLOTS)
    copy_rows(get(record + 8 * DA) + (n * slots * Hp + u) * SIZE, Hp * SIZE, 0, 0, slots, 0, size)
    return 0


def marked(flags, t, N, which):
    """The address of the flags of time `t` if one of them has a bit of `which`, else 0."""
    if flags == 0:
        return 0
    row = flags + t * N
    for n in range(N):
        if byte(row + n) & which:
            return row
    return 0


def clear_held(flags, rows, to, size):
    """Set the rows of `size` bytes whose step is inactive to zero."""
    if flags:
        for i in range(rows):
            if byte(flags + i) & HOLD:
                clear(to + i * size, size)
    return 0


def enter(table, record, fresh, flags, reset, N, H, Hp):
    """Copy the states that enter a step at which some sequence is reset to `fresh`, and reset them there."""
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
