"""One call of the compiled loops: its buffers and its results."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ... import thresholds
from ...engine.contract import Array, Clip
from ...engine.flags import HOLD, RESET, Flags, inactive
from ...engine.memory import aligned, aligned_arrays
from .kernel import Kernel, backward_memory, forward_memory


class Saved(NamedTuple):
    """What a forward pass saves: states (S, T+1, N, Hp) and kept values (T, N, J, Hp), in time order, flat."""

    states: Array
    keep: Array


class Sums(NamedTuple):
    """Gradients as in :class:`fastrnn.engine.contract.Gradients`, but `dstate` and `dreset` are (S, N, H)."""

    dx: Array
    dstate: Array
    dWx: Array
    dWh: Array
    dslots: Array
    dreset: Array


# Free list of buffers, by dtype, as new pages from the system are slow. Concurrent calls never share a buffer: a call
# that finds the list empty allocates one.
_idle: dict[Any, list[Array]] = {np.dtype(name): [] for name in ("float32", "float64")}
_MOST_IDLE = 8


def _take(size: int, dtype: np.dtype[Any]) -> Array:
    """Uninitialized memory of at least `size` elements."""
    try:
        memory = _idle[dtype].pop()
    except IndexError:
        return aligned((size,), dtype)
    return memory if memory.size >= size else aligned((size,), dtype)


def _give_back(memory: Array) -> None:
    idle = _idle[memory.dtype]
    if len(idle) < _MOST_IDLE and memory.nbytes <= thresholds.KEPT_BYTES:
        idle.append(memory)


def plain(array: Array) -> Array:
    """`array`, or a copy if it is not C-contiguous, aligned and writable, as compiled code requires."""
    return array if array.flags.carray else np.array(array, order="C")


def one_array(states: tuple[Array, ...], N: int, H: int, dtype: np.dtype[Any]) -> Array:
    """The states in one array (S, N, H)."""
    one = np.empty((len(states), N, H), dtype)
    for k, state in enumerate(states):
        one[k] = state
    return one


def forward(
    kernel: Kernel,
    x: Array,
    given: list[Array],
    first: Array,
    flags: Flags | None,
    reset: Array | None,
    chunk: int,
    reverse: bool,
    keep: bool,
) -> tuple[Array, Array, Saved]:
    """Outputs (T, N, H), last states (S, N, H), and what the backward pass needs.

    Parameters
    ----------
    x : (T, N, D)
    given : list of arrays
        Weights, biases and per-unit parameters, as the arguments of :mod:`.loops`.
    first, reset : (S, N, H)
    """
    (T, N, D), (S, _, H), dtype = x.shape, first.shape, x.dtype
    Hp = kernel.padded(H)
    needed = forward_memory(kernel, N, D, H, chunk, flags is not None)
    if keep:
        states, kept = aligned_arrays([S * (T + 1) * N * Hp, T * N * kernel.keeps * Hp], dtype)
        memory = whole = _take(needed, dtype)
    else:
        state_size, keep_size = (T + 1 + 2 * (S - 1)) * N * Hp, N * kernel.keeps * Hp
        whole = _take(state_size + keep_size + needed, dtype)
        states, kept, memory = whole[:state_size], whole[state_size:], whole[state_size + keep_size :]
    # Without padding and inactive steps, the kept states after each step are the output.
    own_y = not keep or Hp != H or flags is not None
    y, last = np.empty((T if own_y else 0, N, H), dtype), np.empty((S, N, H), dtype)
    kernel.run_forward(
        *kernel.to_forward, x, *given, first, last, y, states, kept, memory,
        kernel.no_flags if flags is None else flags, kernel.none if reset is None else reset,
        chunk, int(keep), int(reverse),
    )  # fmt: skip
    _give_back(whole)
    if not own_y:
        begin = 0 if reverse else 1
        y = states[: (T + 1) * N * H].reshape(T + 1, N, H)[begin : begin + T]
    return y, last, Saved(states, kept)


def backward(
    kernel: Kernel,
    x: Array,
    given: list[Array],
    saved: Saved,
    dy: Array | None,
    dlast: Array,
    flags: Flags | None,
    reset: Array | None,
    chunk: int,
    reverse: bool,
    clip: Clip | None = None,
    per_sequence: bool = False,
) -> Sums:
    """Gradients for `dy` (T, N, H), any strides, and `dlast` (S, N, H); the rest is as for :func:`forward`."""
    (T, N, D), (S, _, H), dtype = x.shape, dlast.shape, x.dtype
    entering, row, rows = saved.states, int(reverse), T + 1
    if flags is not None:
        held = inactive(flags)
        if held is not None:
            # Elements at inactive steps may be NaN, and must not enter the sums over the batch.
            x = np.where(held[..., None], dtype.type(0), x)
        if held is not None or (flags & RESET).any():
            entering, row, rows = _entering(kernel, saved, flags, reset, (S, T, N, H), reverse), 0, T
    dx, dstate = np.empty((T, N, D), dtype), np.empty((S, N, H), dtype)
    each = N if per_sequence else 1
    shapes = [given[0].shape, given[1].shape, (kernel.slots, H)]
    sums = [np.empty((each * depth, columns), dtype) for depth, columns in shapes]
    bound = np.array([] if clip is None else [clip.bound], dtype)
    dreset = kernel.none if reset is None else np.zeros((S, N, H), dtype)
    memory = _take(backward_memory(kernel, N, D, H, chunk, each), dtype)
    kernel.run_backward(
        *kernel.to_backward, x, *given, kernel.none if dy is None else dy, dlast, saved.states, entering, saved.keep,
        memory, kernel.no_flags if flags is None else flags, dx, dstate, *sums, dreset,
        bound, row, rows, int(clip is not None and clip.by_norm), int(per_sequence), chunk, int(reverse),
    )  # fmt: skip
    _give_back(memory)
    if per_sequence:
        sums = [one.reshape(N, *shape) for one, shape in zip(sums, shapes, strict=True)]
    dWx, dWh, dslots = sums
    return Sums(dx, dstate, dWx, dWh, dslots, dreset)


def _entering(
    kernel: Kernel, saved: Saved, flags: Flags, reset: Array | None, sizes: tuple[int, int, int, int], reverse: bool
) -> Array:
    """The states that enter each step, (S, T, N, Hp), flat; zeros at inactive steps, whose state may be infinite."""
    S, T, N, H = sizes
    Hp, shift = kernel.padded(H), int(reverse)
    entering = np.array(saved.states.reshape(S, T + 1, N, Hp)[:, shift : T + shift])
    there, held = ((flags & flag) != 0 for flag in (RESET, HOLD))
    fresh = np.zeros((S, N, Hp), saved.states.dtype)
    if reset is not None:
        fresh[..., :H] = reset
    for k in range(S):
        entering[k] = np.where(there[..., None], fresh[k], entering[k])
        entering[k][held] = 0
    return entering.reshape(-1)
