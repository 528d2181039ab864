"""The Numba backend: matrix products over many steps by BLAS, the recurrence by a compiled loop.

Forward, one product projects the input of a chunk of steps, then the kernel runs them. Backward, the kernel
runs a chunk, then one product each gives the chunk's part of ``dx``, ``dWx`` and ``dWh``. A chunk is short
enough to stay in cache, so the only large buffers are those that BPTT must keep.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, reduce
from typing import Any, NamedTuple

import numpy as np

from ...engine.call import Array, Call, Gradients, Layout, Result
from ...engine.memory import aligned_parts
from ...engine.plan import Plan
from ...engine.stack import LayerByLayer
from ...engine.threads import run_together
from .modules import compiled, project, vector_width
from .pack import pad_blocks, plain, strip_blocks
from .parts import split
from .path import BLAS_THREADS, NumbaPath, checked, choose, in_parts
from .subnormals import as_zeros


class Saved(NamedTuple):
    """What a forward pass keeps: states (T+1, N, Hp) and kept values (T, N, J*Hp), in time order, in one dimension."""

    states: list[Array]
    keep: Array


class NumbaBackend:
    """See :class:`fastrnn.engine.call.Backend`.

    blas_threads : threads of the BLAS that NumPy has, by which a batch is split or not
    """

    name = "numba"

    def __init__(self, blas_threads: int = BLAS_THREADS) -> None:
        self.blas_threads = blas_threads

    def supports(self, plan: Plan) -> bool:
        return True

    def prepare(self, layout: Layout, params: Mapping[str, Array]) -> LayerByLayer:
        return LayerByLayer(self, layout, params)

    def forward_path(self, call: Call) -> NumbaPath:
        T, N, _, _ = call.sizes
        return choose(T, N, _row_bytes(call, call.plan.n_gates), call.threads, self.blas_threads)

    def backward_path(self, call: Call) -> NumbaPath:
        T, N, _, _ = call.sizes
        return choose(T, N, _row_bytes(call, call.plan.n_da), call.threads, self.blas_threads)

    def forward(self, call: Call, keep: bool, path: NumbaPath | None = None) -> Result:
        T, N, _, H = call.sizes
        path = self.forward_path(call) if path is None else checked(path, T, N, call.threads)
        module = _module(call, "forward")
        if path.parts == 1:
            return self._forward(call, keep, module, path.chunk)
        y = np.empty((T, N, H), call.dtype)

        def work(part: tuple[slice, Call]) -> Result:
            rows, own = part
            result = self._forward(own, keep, module, path.chunk)
            y[:, rows] = result.y
            return result

        results = run_together(work, split(call, path.parts))
        last = tuple(np.concatenate(states) for states in zip(*(r.last for r in results), strict=True))
        saved = [kept for r in results for kept in r.saved] if keep else None
        return Result(y, last, saved, _whole([r.path for r in results]))

    def backward(
        self,
        call: Call,
        saved: list[Saved],
        dy: Array | None,
        dlast: tuple[Array, ...],
        truncate: int | None,
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
        module = _module(call, "backward")
        if parts == 1:
            return self._backward(call, saved[0], dy, dlast, truncate, module, path.chunk)
        dx = np.empty(call.x.shape, call.dtype)

        def work(part: tuple[tuple[slice, Call], Saved]) -> Gradients:
            (rows, own), kept = part
            own_dy = None if dy is None else dy[:, rows]
            own_dlast = tuple(d[rows] for d in dlast)
            result = self._backward(own, kept, own_dy, own_dlast, truncate, module, path.chunk)
            dx[:, rows] = result.dx
            return result

        results = run_together(work, zip(split(call, parts), saved, strict=True))
        dstate = tuple(np.concatenate(states) for states in zip(*(r.dstate for r in results), strict=True))
        # Added in the order of the parts: the same bits whichever thread was first.
        dWx, dWh, dslots = (reduce(np.add, sums) for sums in zip(*(r[2:5] for r in results), strict=True))
        return Gradients(dx, dstate, dWx, dWh, dslots, _whole([r.path for r in results]))

    @as_zeros
    def _forward(self, call: Call, keep: bool, module: Any, chunk: int) -> Result:
        plan, dtype = call.plan, call.dtype
        T, N, D, H = call.sizes
        Hp = _padded(call)
        rows = T + 1 if keep else 2
        sizes = [(rows if k else T + 1) * N * Hp for k in range(plan.n_states)]
        *states, kept = aligned_parts([*sizes, (T if keep else 1) * N * plan.n_keep * Hp], dtype)
        if call.lengths is not None:
            # An idle step keeps nothing, and what is kept goes into products with zeros: it must be finite.
            kept[:] = 0
        last = tuple(np.empty((N, H), dtype) for _ in states)
        # Where nothing is padded, the states after the steps are the output.
        y = np.empty((0, N, H) if Hp == H else (T, N, H), dtype)

        memory, x = aligned_parts((module.memory_size(H), chunk * N * plan.n_gates * Hp), dtype)
        first, Wx = [plain(a) for a in call.state], call.Wx
        given = [*_parameters(call), *first, *last, y, *states, kept, memory, _lengths(call)]
        most = 0
        for begin, end, low in _chunks(T, chunk, call.reverse):
            most = max(most, end - begin)
            steps = call.x[low : low + end - begin].reshape((end - begin) * N, D)
            out = x[: len(steps) * Wx.shape[1]].reshape(len(steps), Wx.shape[1]) if Hp == H else None
            module.forward(
                project(steps, Wx, out), x, *given,
                low, begin, end, T, N, -1 if keep else 1, -1 if keep else 0, int(call.reverse),
            )  # fmt: skip
        if Hp == H:
            y = states[0].reshape(T + 1, N, H)[:T] if call.reverse else states[0].reshape(T + 1, N, H)[1:]
        return Result(y, last, [Saved(states, kept)] if keep else None, NumbaPath(1, most))

    @as_zeros
    def _backward(
        self,
        call: Call,
        saved: Saved,
        dy: Array | None,
        dlast: tuple[Array, ...],
        truncate: int | None,
        module: Any,
        chunk: int,
    ) -> Gradients:
        plan, dtype = call.plan, call.dtype
        T, N, _, H = call.sizes
        Hp = _padded(call)
        sizes = (module.memory_size(H), chunk * N * plan.n_da * Hp, *[N * Hp] * len(dlast))
        memory, da, *carries = aligned_parts(sizes, dtype)
        strided = np.empty((1, 1, 1), dtype) if dy is None else _row_contiguous(dy, H, Hp)
        sums = _WeightSums(call, saved, Hp)
        dlast = tuple(plain(d) for d in dlast)
        given = [*_parameters(call), *dlast, *saved.states, saved.keep, *carries, da, memory, _lengths(call)]
        most = 0
        for begin, end, low in reversed(list(_chunks(T, chunk, call.reverse))):
            most = max(most, end - begin)
            module.backward(
                strided, *given,
                low, begin, end, T, N, truncate or 0, int(dy is not None), int(call.reverse),
            )  # fmt: skip
            steps = da[: (end - begin) * N * plan.n_da * Hp].reshape(end - begin, N, plan.n_da * Hp)
            sums.add(steps, low)
            _through_products(call, steps[-1 if call.reverse else 0], carries, Hp)
        dstate = tuple(np.array(carry.reshape(N, Hp)[:, :H]) for carry in carries)
        return sums.gradients(dstate, NumbaPath(1, most))


class _WeightSums:
    """Gradients of input and weights, chunk by chunk: products over all of a chunk's steps at once."""

    def __init__(self, call: Call, saved: Saved, Hp: int) -> None:
        plan, H = call.plan, call.Wh.shape[0]
        self._call, self._saved, self._Hp = call, saved, Hp
        self._Wx = pad_blocks(call.Wx, H, Hp)
        self._dx = np.empty(call.x.shape, call.dtype)
        self._dWx = np.zeros(self._Wx.shape, call.dtype)
        self._dWh = np.zeros((H, plan.n_matrices * Hp), call.dtype)
        self._dslots = np.zeros(plan.n_da * Hp, call.dtype)

    def add(self, da: Array, low: int) -> None:
        """The part of the steps from time `low` on, given their ``da`` (steps, N, M*Hp)."""
        plan, Hp = self._call.plan, self._Hp
        _, N, D, H = self._call.sizes
        high = low + len(da)
        rows = da.reshape(da.shape[0] * da.shape[1], da.shape[2])
        gates = rows[:, : plan.n_gates * Hp]
        np.matmul(gates, self._Wx.T, out=self._dx[low:high].reshape(len(rows), D))
        self._dWx += self._call.x[low:high].reshape(len(rows), D).T @ gates
        for vector, matrices, slots in _weight_blocks(plan):
            if vector.kind == "prev":
                shift = int(self._call.reverse)
                left = self._saved.states[vector.index].reshape(-1, Hp)[(low + shift) * N : (high + shift) * N, :H]
            else:
                at = vector.index * Hp
                left = self._saved.keep.reshape(-1, plan.n_keep * Hp)[low * N : high * N, at : at + H]
            right = rows[:, slots.start * Hp : slots.stop * Hp]
            self._dWh[:, matrices.start * Hp : matrices.stop * Hp] += left.T @ right
        self._dslots += rows.sum(axis=0)

    def gradients(self, dstate: tuple[Array, ...], path: NumbaPath) -> Gradients:
        """The sums, without padding."""
        H, Hp = self._call.Wh.shape[0], self._Hp
        dslots = self._dslots.reshape(-1, Hp)[:, :H]
        dWx, dWh = strip_blocks(self._dWx, H, Hp), strip_blocks(self._dWh, H, Hp)
        return Gradients(self._dx, dstate, dWx, dWh, dslots, path)


def _module(call: Call, direction: str) -> Any:
    """The compiled loop of one direction, before any thread needs it."""
    return compiled(call.plan, direction, call.dtype.name, vector_width(call.dtype))


def _padded(call: Call) -> int:
    """Units of a row, in whole vectors."""
    width = vector_width(call.dtype)
    return -(-call.sizes[3] // width) * width


def _row_bytes(call: Call, blocks: int) -> int:
    """Bytes of a chunk's buffer that a step of one sequence takes, with so many numbers for each unit."""
    return blocks * _padded(call) * call.dtype.itemsize


def _whole(parts: list[Any]) -> NumbaPath:
    """The path of a call by those that its parts took."""
    return NumbaPath(sum(p.parts for p in parts), max(p.chunk for p in parts))


def _parameters(call: Call) -> list[Array]:
    """The weights of the states, the biases (empty for those that are not there), the cell's own parameters."""
    none = np.empty(0, call.dtype)
    # A bias may have come as a row.
    vectors = [call.params.get(name, none).reshape(-1) for name in ("bx", "bh", *call.plan.cell.units)]
    return [plain(a) for a in (call.Wh, *vectors)]


def _lengths(call: Call) -> Array:
    T, N, _, _ = call.sizes
    return np.full(N, T, np.int64) if call.lengths is None else call.lengths


def _chunks(T: int, size: int, reverse: bool) -> Iterator[tuple[int, int, int]]:
    """First step, end, and least time of each chunk, in the order of the steps."""
    for begin in range(0, T, size):
        end = min(T, begin + size)
        yield begin, end, T - end if reverse else begin


def _row_contiguous(dy: Array, H: int, Hp: int) -> Array:
    """`dy` with contiguous rows of at least `Hp` numbers."""
    if Hp == H:
        return dy if dy.strides[2] == dy.itemsize else np.ascontiguousarray(dy)
    padded = np.zeros((*dy.shape[:2], Hp), dy.dtype)
    padded[..., :H] = dy
    return padded


@cache
def _weight_blocks(plan: Plan) -> list[tuple[Any, range, range]]:
    """Vector, matrices and ``da`` slots of the weight gradient's products, neighbours taken at once."""
    blocks: list[tuple[Any, range, range]] = []
    for matrix, vector, slot in plan.products:
        if blocks:
            last, matrices, slots = blocks[-1]
            if (vector, matrix, slot) == (last, matrices.stop, slots.stop):
                blocks[-1] = (last, range(matrices.start, matrix + 1), range(slots.start, slot + 1))
                continue
        blocks.append((vector, range(matrix, matrix + 1), range(slot, slot + 1)))
    return blocks


def _through_products(call: Call, da: Array, carries: list[Array], Hp: int) -> None:
    """Add to the gradient of the states before a step what comes through the step's products."""
    N, H = da.shape[0], call.Wh.shape[0]
    for carry, acc in zip(carries, call.plan.grad_acc, strict=True):
        if acc is None:
            continue
        for slots, matrices in _term_blocks(call.plan, acc, joined=Hp == H):
            left = da[:, slots.start * Hp : (slots.stop - 1) * Hp + H]
            right = call.Wh[:, matrices.start * H : matrices.stop * H]
            carry.reshape(N, Hp)[:, :H] += left @ right.T


@cache
def _term_blocks(plan: Plan, acc: int, joined: bool) -> list[tuple[range, range]]:
    """Slots of ``da`` and matrices of the terms of a sum, neighbours as one where they may be `joined`."""
    blocks: list[tuple[range, range]] = []
    for source, m in sorted(plan.backward[0].products[acc]):
        if joined and blocks and (source.index, m) == (blocks[-1][0].stop, blocks[-1][1].stop):
            slots, matrices = blocks.pop()
            blocks.append((range(slots.start, source.index + 1), range(matrices.start, m + 1)))
        else:
            blocks.append((range(source.index, source.index + 1), range(m, m + 1)))
    return blocks
