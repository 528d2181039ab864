"""The Numba backend: one compiled loop for each pass, for any cell, with the batch divided between threads.

Forward, the loop projects the input of a chunk of steps and then runs them. Backward, it runs a chunk and then adds the
terms of the chunk to ``dx``, ``dWx`` and ``dWh``. A chunk is short enough to stay in cache, so the only large buffers
are those of the values that BPTT needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial, reduce

import numpy as np

from ...engine.contract import Array, Call, Clip, Gradients, Layout, Result
from ...engine.flags import Flags
from ...engine.plan import Plan
from ...engine.threads import run_together
from .kernel import Kernel, kernel_of
from .path import NumbaPath, checked, choose, in_parts
from .run import Saved, backward, forward, one_array, plain
from .split_batch import split
from .stack import NumbaStack


class NumbaBackend:
    """See :class:`fastrnn.engine.contract.Backend`."""

    name = "numba"

    def supports(self, plan: Plan) -> bool:
        return True

    def prepare(self, layout: Layout, params: Mapping[str, Array]) -> NumbaStack:
        return NumbaStack(self, layout, params)

    def copies(self, call: Call) -> list[str]:
        arrays = {"x": call.x, **call.params}
        return [name for name, array in arrays.items() if not array.flags.carray]

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
        return Result(y, last, [saved for r in results for saved in r.saved] if keep else None, path)

    def backward(
        self,
        call: Call,
        saved: list[Saved],
        dy: Array | None,
        dlast: tuple[Array, ...],
        flags: Flags | None,
        path: NumbaPath | None = None,
        clip: Clip | None = None,
        per_sequence: bool = False,
    ) -> Gradients:
        T, N, _, _ = call.sizes
        # Each part of the batch has saved its own values.
        parts = len(saved)
        if path is None:
            path = in_parts(parts, T, N, _row_bytes(call, call.plan.n_da), per_sequence)
        else:
            path = checked(path, T, N, call.threads)
        if path.parts != parts:
            raise ValueError(f"path: expected {parts} parts as the forward pass had, got {path}")
        kernel = kernel_of(call.plan, call.dtype)
        if parts == 1:
            return _backward(call, saved[0], dy, dlast, flags, kernel, path.chunk, clip, per_sequence)
        dx = np.empty(call.x.shape, call.dtype)

        def work(part: tuple[tuple[slice, Call], Saved]) -> Gradients:
            (rows, own), saved = part
            own_dy = None if dy is None else dy[:, rows]
            own_dlast = tuple(d[rows] for d in dlast)
            own_flags = None if flags is None else np.ascontiguousarray(flags[:, rows])
            result = _backward(own, saved, own_dy, own_dlast, own_flags, kernel, path.chunk, clip, per_sequence)
            dx[:, rows] = result.dx
            return result

        results = run_together(work, zip(split(call, parts), saved, strict=True))
        dstate = tuple(np.concatenate(states) for states in zip(*(r.dstate for r in results), strict=True))
        # Added in the order of the parts, so that the bits do not depend on which thread was first.
        both = np.concatenate if per_sequence else partial(reduce, np.add)
        dWx, dWh, dslots = (both(sums) for sums in zip(*(r[2:5] for r in results), strict=True))
        dreset = None
        if call.reset_state is not None:
            dreset = tuple(np.concatenate(states) for states in zip(*(r.dreset or () for r in results), strict=True))
        return Gradients(dx, dstate, dWx, dWh, dslots, dreset, path)


def _forward(call: Call, keep: bool, kernel: Kernel, chunk: int) -> Result:
    first, reset, given = _given(call)
    y, last, saved = forward(kernel, plain(call.x), given, first, call.flags, reset, chunk, call.reverse, keep)
    return Result(y, tuple(last), [saved] if keep else None, NumbaPath(1, chunk))


def _backward(
    call: Call,
    saved: Saved,
    dy: Array | None,
    dlast: tuple[Array, ...],
    flags: Flags | None,
    kernel: Kernel,
    chunk: int,
    clip: Clip | None,
    per_sequence: bool,
) -> Gradients:
    last, reset, given = _given(call, dlast)
    x = plain(call.x)
    found = backward(kernel, x, given, saved, dy, last, flags, reset, chunk, call.reverse, clip, per_sequence)
    dreset = None if reset is None else tuple(found.dreset)
    return Gradients(found.dx, tuple(found.dstate), *found[2:5], dreset, NumbaPath(1, chunk))


def _given(call: Call, states: tuple[Array, ...] | None = None) -> tuple[Array, Array | None, list[Array]]:
    """Arguments of the loops: `states` or those of the call, the reset state, (S, N, H) each, and the parameters."""
    (_, N, _, H), dtype, params = call.sizes, call.dtype, call.params
    none = np.empty(0, dtype)
    biases = [params[name].reshape(-1) if name in params else none for name in ("bx", "bh")]
    own = [params[name] for name in call.plan.cell.units]
    given = [plain(a) for a in (call.Wx, call.Wh, *biases, np.concatenate(own) if own else none)]
    reset = None if call.reset_state is None else one_array(call.reset_state, N, H, dtype)
    return one_array(call.state if states is None else states, N, H, dtype), reset, given


def _row_bytes(call: Call, blocks: int) -> int:
    """Bytes that a step of one sequence takes in the buffer of a chunk, with `blocks` elements per hidden unit."""
    return blocks * kernel_of(call.plan, call.dtype).padded(call.sizes[3]) * call.dtype.itemsize
