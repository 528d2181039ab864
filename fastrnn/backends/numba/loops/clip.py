"""Clipping of the gradient of the states at a step of the backward pass."""

from ....codegen.integers import add_square, byte, clear, get, limit, raise_to, scale, shrink
from ....codegen.record import CARRY, DY, DY_STEP, STATES
from ....engine.flags import HOLD
from ..tables import STATES_COUNT
from .rows import SIZE, add_rows, entry


def clip_states(table, record, flags, clip, by_norm, spare, N, H, Hp):
    """Add the gradient of the outputs to that of the states, in the carries, and clip it, for every active sequence.

    Parameters
    ----------
    flags : address of the flags of the step, or 0
    clip : address of the bound
    by_norm : whether it bounds the norm of a sequence's gradient of all states, else each element
    spare : address of three elements
    """
    states, largest, squares, factor = entry(table, STATES_COUNT), spare, spare + SIZE, spare + 2 * SIZE
    for n in range(N):
        if flags == 0 or (byte(flags + n) & HOLD) == 0:
            dy = get(record + 8 * DY) + n * get(record + 8 * DY_STEP)
            add_rows(carried(record, 0, n, 0, Hp), 0, dy, 0, 1, H)
            clear(spare, 3 * SIZE)
            if by_norm:
                for i in range(states * H):
                    raise_to(largest, carried(record, i // H, n, i % H, Hp))
                # Squares of shares of the largest element do not overflow.
                for i in range(states * H):
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
