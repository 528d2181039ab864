"""The Numba backend: one compiled loop each way, for any cell; the batch divided between threads.

Forward, the loop projects the input of a chunk of steps, then runs them. Backward, it runs a chunk, then adds the
chunk's part to ``dx``, ``dWx`` and ``dWh``. A chunk is short enough to stay in cache, so the only large buffers are
those that BPTT must keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from ...engine.call import Array, Call, Gradients, Layout, Result
from ...engine.flags import RESET, Flags, inactive
from ...engine.memory import aligned_parts
from ...engine.plan import Plan
from ...engine.threads import run_together
from .kernel import Kernel, backward_memory, forward_memory, kernel_of
from .parts import split
from .path import NumbaPath, checked, choose, in_parts
from .stack import NumbaStack, flat, plain


class Saved(NamedTuple):
    """What a forward pass keeps: states (S, T+1, N, Hp) and kept values (T, N, J, Hp), in time order, flat."""

    states: Array
    keep: Array


class NumbaBackend:
    """See :class:`fastrnn.engine.call.Backend`."""

    name = "numba"

    def supports(self, plan: Plan) -> bool:
        return True

    def prepare(self, layout: Layout, params: Mapping[str, Array]) -> NumbaStack:
        return NumbaStack(self, layout, params)

    def forward_path(self, call: Call) -> NumbaPath:
        T, N, _, _ = call.sizes
        return choose(T, N, _row_bytes(call, call.plan.n_gates), call.threads)

    def backward_path(self, call: Call) -> NumbaPath:
        T, N, _, _ = call.sizes
        return choose(T, N, _row_bytes(call, call.plan.n_da), call.threads)

    def forward(self, call: Call, keep: bool, path: NumbaPath | None = None) -> Result:
        T, N, _, H = call.sizes
        path = self.forward_path(call) if path is None else checked(path, T, N, call.threads)
        kernel = kernel_of(call.plan, call.dtype)
        if path.parts == 1:
            return _forward(call, keep, kernel, path.chunk)
        y = np.empty((T, N, H), call.dtype)

        def work(part: tuple[slice, Call]) -> Result:
            rows, own = part
            result = _forward(own, keep, kernel, path.chunk)
            y[:, rows] = result.y
            return result

        results = run_together(work, split(call, path.parts))
        last = tuple(np.concatenate(states) for states in zip(*(r.last for r in results), strict=True))
        return Result(y, last, [kept for r in results for kept in r.saved] if keep else None, path)

    def backward(
        self,
        call: Call,
        saved: list[Saved],
        dy: Array | None,
        dlast: tuple[Array, ...],
        flags: Flags | None,
        path: NumbaPath | None = None,
    ) -> Gradients:
        T, N, _, _ = call.sizes
        # A part goes back over what it kept itself.
        parts = len(saved)
        path = (
            in_parts(parts, T, N, _row_bytes(call, call.plan.n_da))
            if path is None
            else checked(path, T, N, call.threads)
        )
        if path.parts != parts:
            raise ValueError(f"path: expected {parts} parts as the forward pass had, got {path}")
        kernel = kernel_of(call.plan, call.dtype)
        if parts == 1:
            return _backward(call, saved[0], dy, dlast, flags, kernel, path.chunk)
        dx = np.empty(call.x.shape, call.dtype)

        def work(part: tuple[tuple[slice, Call], Saved]) -> Gradients:
            (rows, own), kept = part
            own_dy = None if dy is None else dy[:, rows]
            own_dlast = tuple(d[rows] for d in dlast)
            own_flags = None if flags is None else np.ascontiguousarray(flags[:, rows])
            result = _backward(own, kept, own_dy, own_dlast, own_flags, kernel, path.chunk)
            dx[:, rows] = result.dx
            return result

        results = run_together(work, zip(split(call, parts), saved, strict=True))
        dstate = tuple(np.concatenate(states) for states in zip(*(r.dstate for r in results), strict=True))
        # Added in the order of the parts: the same bits whichever thread was first.
        dWx, dWh, dslots = (reduce(np.add, sums) for sums in zip(*(r[2:5] for r in results), strict=True))
        dreset = None
        if call.reset_state is not None:
            dreset = tuple(np.concatenate(states) for states in zip(*(r.dreset or () for r in results), strict=True))
        return Gradients(dx, dstate, dWx, dWh, dslots, dreset, path)


def _forward(call: Call, keep: bool, kernel: Kernel, chunk: int) -> Result:
    plan, dtype = call.plan, call.dtype
    T, N, D, H = call.sizes
    Hp, S = kernel.padded(H), plan.n_states
    rows = S * (T + 1) if keep else T + 1 + 2 * (S - 1)
    flagged = call.flags is not None
    size = forward_memory(kernel, plan, N, D, H, chunk, flagged)
    states, kept, memory = aligned_parts([rows * N * Hp, (T if keep else 1) * N * plan.n_keep * Hp, size], dtype)
    # Where nothing is padded and no output is 0, the states after the steps are the output.
    own_y = Hp != H or flagged
    y, last = np.empty((T if own_y else 0, N, H), dtype), np.empty((S, N, H), dtype)
    kernel.run_forward(
        *kernel.to_forward, plain(call.x), *_parameters(call), flat(call.state, N, H, dtype), last,
        y, states, kept, memory, *_flags(call.flags, call.reset_state, N, H, dtype),
        chunk, int(keep), int(call.reverse),
    )  # fmt: skip
    if not own_y:
        first = 0 if call.reverse else 1
        y = states[: (T + 1) * N * H].reshape(T + 1, N, H)[first : first + T]
    return Result(y, tuple(last), [Saved(states, kept)] if keep else None, NumbaPath(1, chunk))


def _backward(
    call: Call,
    saved: Saved,
    dy: Array | None,
    dlast: tuple[Array, ...],
    flags: Flags | None,
    kernel: Kernel,
    chunk: int,
) -> Gradients:
    plan, dtype = call.plan, call.dtype
    T, N, D, H = call.sizes
    S = plan.n_states
    (memory,) = aligned_parts([backward_memory(kernel, plan, N, D, H, chunk)], dtype)
    x, entering, row = call.x, saved.states, int(call.reverse)
    held = inactive(flags)
    if held is not None:
        # What stands there, NaN included, must not reach a sum over the batch.
        x = np.where(held[..., None], dtype.type(0), x)
    if flags is not None and (flags & RESET).any():
        entering, row = _entering(call, saved, flags, kernel.padded(H)), 0
    dx, dstate = np.empty((T, N, D), dtype), np.empty((S, N, H), dtype)
    dWx, dWh, dslots = (np.empty(shape, dtype) for shape in (call.Wx.shape, call.Wh.shape, (plan.n_da, H)))
    dreset = np.zeros((S, N if call.reset_state is not None else 0, H), dtype)
    kernel.run_backward(
        *kernel.to_backward, plain(x), *_parameters(call),
        np.empty((0, 0, 0), dtype) if dy is None else dy, flat(dlast, N, H, dtype), saved.states, entering,
        saved.keep, memory, *_flags(flags, None, N, H, dtype)[:1], dx, dstate, dWx, dWh, dslots, dreset,
        row, len(entering) // (S * N * kernel.padded(H) or 1), chunk, int(call.reverse),
    )  # fmt: skip
    fresh = None if call.reset_state is None else tuple(dreset)
    return Gradients(dx, tuple(dstate), dWx, dWh, dslots, fresh, NumbaPath(1, chunk))


def _entering(call: Call, saved: Saved, flags: Flags, Hp: int) -> Array:
    """The states that entered each step, (S, T, N, Hp), in one dimension."""
    T, N, _, H = call.sizes
    S, shift = call.plan.n_states, int(call.reverse)
    entering = np.array(saved.states.reshape(S, T + 1, N, Hp)[:, shift : T + shift])
    reset = (flags & RESET) != 0
    for k in range(S):
        fresh = np.zeros((N, Hp), call.dtype)
        if call.reset_state is not None:
            fresh[:, :H] = call.reset_state[k]
        entering[k] = np.where(reset[..., None], fresh, entering[k])
    return entering.reshape(-1)


def _row_bytes(call: Call, blocks: int) -> int:
    """Bytes of a chunk's buffer that a step of one sequence takes, with so many numbers for each unit."""
    return blocks * kernel_of(call.plan, call.dtype).padded(call.sizes[3]) * call.dtype.itemsize


def _parameters(call: Call) -> list[Array]:
    """The weights, the biases (empty for those that are not there), the cell's own parameters."""
    none, params = np.empty(0, call.dtype), call.params
    biases = [params[name].reshape(-1) if name in params else none for name in ("bx", "bh")]
    own = [params[name] for name in call.plan.cell.units]
    return [plain(a) for a in (call.Wx, call.Wh, *biases, np.concatenate(own) if own else none)]


def _flags(flags: Flags | None, reset: tuple[Array, ...] | None, N: int, H: int, dtype: Any) -> tuple[Array, Array]:
    """The table of flags and the states of resets, empty where there is none."""
    table = np.empty((0, 0), np.uint8) if flags is None else flags
    return table, np.empty((0, 0, 0), dtype) if reset is None else flat(reset, N, H, dtype)
