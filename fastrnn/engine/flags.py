"""The table of flags: which steps of each sequence are special, made once for a call and read by every backend.

A table is (T, N) uint8, C-contiguous, in time order; None stands for a table of zeros, a plain call.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.uint8]

# The step is inactive: the state is held, the output is 0, and the state's gradient passes on unchanged.
HOLD = 1
# The step starts from the reset state, and no gradient passes to the step before.
RESET = 2
# For BPTT only: no gradient passes to the step before.
CUT = 4


def flags_of(
    T: int,
    N: int,
    lengths: NDArray[np.int64] | None,
    mask: NDArray[np.bool_] | None,
    resets: NDArray[np.bool_] | None,
) -> Flags | None:
    """The table of a call; None if it is plain.

    Parameters
    ----------
    T, N : int
        Steps and sequences.
    lengths : (N,) integers, optional
        Number of steps of each sequence; the steps after these are inactive.
    mask : (T, N) booleans, optional
        Which steps are active.
    resets : (T, N) booleans, optional
        Which steps start from the reset state.

    Returns
    -------
    (T, N) uint8 array or None
        The table.
    """
    if lengths is None and mask is None and resets is None:
        return None
    flags = np.zeros((T, N), np.uint8)
    if lengths is not None:
        flags[np.arange(T)[:, None] >= lengths] |= HOLD
    if mask is not None:
        flags[~mask] |= HOLD
    if resets is not None:
        flags[resets] |= RESET
    return flags if flags.any() else None


class Cuts(NamedTuple):
    """Where BPTT is cut: before a sequence's own active steps `first`, ``first + every``, and so on.

    A sequence of at most `whole` active steps is not cut.
    """

    first: int
    every: int
    whole: int = 0


def with_cuts(flags: Flags | None, T: int, N: int, reverse: bool, cuts: Cuts | None) -> Flags | None:
    """The table with `cuts`."""
    if cuts is None or cuts.first >= T or cuts.whole >= T:
        return flags
    first, every, whole = cuts
    if flags is None:
        cut = np.zeros((T, N), np.uint8)
        steps = cut[::-1] if reverse else cut
        steps[first::every] = CUT
        return cut
    active = (flags & HOLD) == 0
    in_order = active[::-1] if reverse else active
    # The number of a step is that of the active steps before it.
    number = np.cumsum(in_order, axis=0) - in_order
    cut = in_order & (number >= first) & ((number - first) % every == 0)
    if whole:
        cut &= in_order.sum(axis=0) > whole
    return flags | np.where(cut[::-1] if reverse else cut, np.uint8(CUT), np.uint8(0))


def inactive(flags: Flags | None) -> NDArray[np.bool_] | None:
    """(T, N), which steps are held; None if none is."""
    if flags is None:
        return None
    held: Any = (flags & HOLD) != 0
    return held if held.any() else None
