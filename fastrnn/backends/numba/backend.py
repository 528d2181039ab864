"""The Numba backend: matrix products over many steps by BLAS, the recurrence by a compiled loop.

Forward, one product projects the input of a chunk of steps, then the kernel runs them. Backward, the kernel
runs a chunk, then one product each gives the chunk's part of ``dx``, ``dWx`` and ``dWh``. A chunk is short
enough to stay in cache, so the only large buffers are those that BPTT must keep.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, reduce
from typing import Any, NamedTuple

import numpy as np

from ...codegen.numba_kernels import (
    MatrixProduct,
    backward_module,
    forward_module,
    products,
    scratch_vectors,
    unit_vectors,
)
from ...engine.call import Array, Call, Gradients, Result, StackLayout
from ...engine.plan import Plan, Stage
from ...engine.threads import run_together
from .pack import aligned, pack, pad_blocks, strip_blocks
from .parts import several, split
from .simd import host_features
from .store import load_module

# A chunk's buffer should fit the second-level cache, and its products be large enough for BLAS to be fast.
_CHUNK_BYTES = 1 << 20
_CHUNK_ROWS = 256


class Saved(NamedTuple):
    """What a forward pass keeps: states (T+1, N, Hp) and kept values (T, N, J*Hp), in time order."""

    states: list[Array]
    keep: Array


class NumbaBackend:
    """See :class:`fastrnn.engine.call.Backend`."""

    name = "numba"

    def supports(self, plan: Plan) -> bool:
        return True

    def stack(self, layout: StackLayout) -> None:
        return None

    def forward(self, call: Call, keep: bool) -> Result:
        if not several(call):
            return self._forward(call, keep)
        parts = split(call)
        y = np.empty((*call.x.shape[:2], call.Wh.shape[0]), call.dtype)

        def work(part: tuple[slice, Call]) -> Result:
            result = self._forward(part[1], keep)
            y[:, part[0]] = result.y
            return result

        results = run_together(work, parts)
        last = tuple(np.concatenate(states) for states in zip(*(r.last for r in results), strict=True))
        return Result(y, last, [r.saved for r in results])

    def backward(
        self, call: Call, saved: Any, dy: Array | None, dlast: tuple[Array, ...], truncate: int | None
    ) -> Gradients:
        if not several(call):
            return self._backward(call, saved, dy, dlast, truncate)
        dx = np.empty(call.x.shape, call.dtype)

        def work(part: tuple[tuple[slice, Call], Saved]) -> Gradients:
            (rows, own), kept = part
            own_dy = None if dy is None else dy[:, rows]
            result = self._backward(own, kept, own_dy, tuple(d[rows] for d in dlast), truncate)
            dx[:, rows] = result.dx
            return result

        results = run_together(work, zip(split(call), saved, strict=True))
        dstate = tuple(np.concatenate(states) for states in zip(*(r.dstate for r in results), strict=True))
        # Added in the order of the parts: the same bits whichever thread was first.
        dWx, dWh, dslots = (reduce(np.add, sums) for sums in zip(*(r[2:] for r in results), strict=True))
        return Gradients(dx, dstate, dWx, dWh, dslots)

    def _forward(self, call: Call, keep: bool) -> Result:
        plan, dtype = call.plan, call.dtype
        T, N, D, H = call.sizes
        width = vector_width(dtype)
        Hp = -(-H // width) * width
        rows = T + 1 if keep else 2
        states = [_rows(T + 1 if k == 0 else rows, N, Hp, dtype) for k in range(plan.n_states)]
        begin = T if call.reverse else 0
        for state, initial in zip(states, call.state, strict=True):
            state[begin % len(state)] = 0
            state[begin % len(state), :, :H] = initial
        # An idle step keeps nothing, and what is kept goes into products with zeros: it must be finite.
        kept = _rows(T if keep else 1, N, plan.n_keep * Hp, dtype, zero=call.lengths is not None)

        kernel = _kernel(plan, "forward", dtype.name, width)
        units = pad_blocks(call.units.reshape(1, -1), H, Hp).ravel()
        panels, scratch = _panels(plan, "forward", call.Wh, Hp, width)
        Wx = pad_blocks(call.Wx, H, Hp)
        lengths = _lengths(call)
        x = aligned(_chunk_steps(call, plan.n_gates * Hp) * N * plan.n_gates * Hp, dtype)
        for first, end, low in _chunks(call, plan.n_gates * Hp):
            steps = call.x[low : low + end - first].reshape((end - first) * N, D)
            # A product of depth 1 is not one for BLAS.
            project = np.multiply if D == 1 else np.matmul
            project(steps, Wx, out=x[: len(steps) * Wx.shape[1]].reshape(len(steps), Wx.shape[1]))
            kernel(
                x, *(s.reshape(-1) for s in states), kept.reshape(-1), units, *panels, scratch, lengths,
                low, first, end, T, N, H, Hp, -1 if keep else 1, -1 if keep else 0, int(call.reverse),
            )  # fmt: skip
        y = states[0][:T] if call.reverse else states[0][1:]
        end = 0 if call.reverse else T
        last = tuple(np.array(state[end % len(state), :, :H]) for state in states)
        return Result(np.ascontiguousarray(y[..., :H]), last, Saved(states, kept) if keep else None)

    def _backward(
        self, call: Call, saved: Saved, dy: Array | None, dlast: tuple[Array, ...], truncate: int | None
    ) -> Gradients:
        plan, dtype = call.plan, call.dtype
        T, N, _, H = call.sizes
        width = vector_width(dtype)
        Hp = saved.states[0].shape[2]
        kernel = _kernel(plan, "backward", dtype.name, width)
        units = pad_blocks(call.units.reshape(1, -1), H, Hp).ravel()
        panels, scratch = _panels(plan, "backward", call.Wh, Hp, width)
        carries = [aligned(N * Hp, dtype) for _ in dlast]
        for carry, d in zip(carries, dlast, strict=True):
            carry[:] = 0
            carry.reshape(N, Hp)[:, :H] = d
        lengths = _lengths(call)
        strided = np.zeros((1, 1, 1), dtype) if dy is None else _row_contiguous(dy, H, Hp)
        sums = _WeightSums(call, saved, Hp)
        da = aligned(_chunk_steps(call, plan.n_da * Hp) * N * plan.n_da * Hp, dtype)
        states = [s.reshape(-1) for s in saved.states]
        for first, end, low in reversed(list(_chunks(call, plan.n_da * Hp))):
            kernel(
                strided, *states, saved.keep.reshape(-1), units, *carries, da, *panels, scratch, lengths,
                low, first, end, T, N, H, Hp, truncate or 0, int(dy is not None), int(call.reverse),
            )  # fmt: skip
            steps = da[: (end - first) * N * plan.n_da * Hp].reshape(end - first, N, plan.n_da * Hp)
            sums.add(steps, low)
            _through_products(call, steps[-1 if call.reverse else 0], carries, Hp)
        dstate = tuple(np.array(carry.reshape(N, Hp)[:, :H]) for carry in carries)
        return sums.gradients(dstate)


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
        _, _, D, H = self._call.sizes
        high = low + len(da)
        rows = da.reshape(da.shape[0] * da.shape[1], da.shape[2])
        gates = rows[:, : plan.n_gates * Hp]
        np.matmul(gates, self._Wx.T, out=self._dx[low:high].reshape(len(rows), D))
        self._dWx += self._call.x[low:high].reshape(len(rows), D).T @ gates
        for vector, matrices, slots in _weight_blocks(plan):
            if vector.kind == "prev":
                shift = int(self._call.reverse)
                buffer, at = self._saved.states[vector.index][low + shift : high + shift], 0
            else:
                buffer, at = self._saved.keep[low:high], vector.index * Hp
            left = buffer.reshape(len(rows), buffer.shape[2])[:, at : at + H]
            right = rows[:, slots.start * Hp : slots.stop * Hp]
            self._dWh[:, matrices.start * Hp : matrices.stop * Hp] += left.T @ right
        self._dslots += rows.sum(axis=0)

    def gradients(self, dstate: tuple[Array, ...]) -> Gradients:
        """The sums, without padding."""
        H, Hp = self._call.Wh.shape[0], self._Hp
        dslots = self._dslots.reshape(-1, Hp)[:, :H]
        return Gradients(self._dx, dstate, strip_blocks(self._dWx, H, Hp), strip_blocks(self._dWh, H, Hp), dslots)


def vector_width(dtype: np.dtype[Any]) -> int:
    """Numbers of `dtype` in the widest vector register of this processor."""
    return _vector_bytes() // dtype.itemsize


def _vector_bytes() -> int:
    if "avx512f" in host_features():
        return 64
    return 32 if "avx" in host_features() else 16


@cache
def _kernel(plan: Plan, direction: str, dtype: str, width: int) -> Any:
    text = (forward_module if direction == "forward" else backward_module)(plan, dtype, width)
    return getattr(load_module(f"{plan.cell.name}_{direction}_{dtype}", text), direction)


def _panels(plan: Plan, direction: str, Wh: Array, Hp: int, width: int) -> tuple[list[Array], Array]:
    """The packed matrices of a step, and room for the sums of a tile."""
    parts, vectors = _products(plan, direction)
    panels = [pack(product, Wh, Hp, sizes, width, direction == "backward") for product, sizes in parts]
    return panels, aligned(vectors * width, Wh.dtype)


@cache
def _products(plan: Plan, direction: str) -> tuple[list[tuple[MatrixProduct, tuple[int, ...]]], int]:
    """Products of the kernel, each with the sizes of its blocks; vectors of a tile's sums."""
    stages: tuple[Stage, ...] = getattr(plan, direction)
    parts = [(product, unit_vectors(stage)) for stage in stages for product in products(stage)]
    return parts, scratch_vectors(stages)


def _rows(steps: int, N: int, columns: int, dtype: np.dtype[Any], zero: bool = False) -> Array:
    return aligned(steps * N * columns, dtype, zero).reshape(steps, N, columns)


def _lengths(call: Call) -> Array:
    T, N, _, _ = call.sizes
    return np.full(N, T, np.int64) if call.lengths is None else call.lengths


def _chunk_steps(call: Call, columns: int) -> int:
    """Steps that one pass of the kernel takes, for a buffer of `columns` numbers a row."""
    T, N, _, _ = call.sizes
    row = max(1, N)
    steps = max(_CHUNK_BYTES // (row * columns * call.dtype.itemsize), -(-_CHUNK_ROWS // row))
    return min(T, steps)


def _chunks(call: Call, columns: int) -> Iterator[tuple[int, int, int]]:
    """First step, end, and least time of each chunk, in the order of the steps."""
    T, size = call.x.shape[0], _chunk_steps(call, columns)
    for first in range(0, T, size):
        end = min(T, first + size)
        yield first, end, T - end if call.reverse else first


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
        for source, m in call.plan.backward[0].products[acc]:
            part = da[:, source.index * Hp : source.index * Hp + H] @ call.Wh[:, m * H : (m + 1) * H].T
            carry.reshape(N, Hp)[:, :H] += part
