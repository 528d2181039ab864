"""Forward and backward of one layer and direction: what is the same for every cell and backend.

Arrays arrive here checked, time-major, of one dtype; see :mod:`fastrnn.functional` for the public face.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backends.registry import backend_for
from ..cells.cell import Cell
from .call import Array, Backend, Call
from .flags import Flags, with_cuts
from .plan import make_plan
from .precision import PARTS
from .settings import current
from .threads import threads_up_to, work_of


@dataclass(frozen=True, eq=False)
class Cache:
    """What a forward pass keeps for its backward pass. It refers to the arrays of the call: leave them
    unchanged until the backward pass is done."""

    call: Call
    backend: Backend
    saved: Any
    params: Mapping[str, tuple[int, ...]]
    blocks: list[int] | None
    batch_first: bool
    reset_rows: tuple[bool, ...] = ()

    @property
    def cell(self) -> Cell:
        return self.call.plan.cell


def forward(
    cell: Cell,
    x: Array,
    state: tuple[Array, ...],
    params: Mapping[str, Array],
    flags: Flags | None,
    reset_state: tuple[Array, ...] | None,
    reverse: bool,
    keep: bool,
) -> tuple[Array, tuple[Array, ...], Call, Backend, Any]:
    """Outputs (T, N, H), last states, and what a backward pass needs."""
    plan = make_plan(cell)
    if "Wh" not in params:
        H = params["Wx"].shape[1] // plan.n_gates
        params = {**params, "Wh": np.empty((H, 0), x.dtype)}
    now = current()
    threads = threads_up_to(now.num_threads)(work_of(plan, x.shape, params["Wh"].shape[0]))
    call = Call(plan, x, state, params, reverse, threads, PARTS[now.matmul_precision], flags, reset_state)
    backend = backend_for(plan, now.backend)
    y, last, saved, _ = backend.forward(call, keep)
    if keep:
        y.flags.writeable = False
    return y, last, call, backend, saved


def backward(
    cache: Cache, dy: Array | None, dlast: tuple[Array, ...], truncate: int | None
) -> tuple[Array, tuple[Array, ...], dict[str, Array], tuple[Array, ...] | None]:
    """Gradients of the input, of the initial states, of the parameters that were given, and of the reset states."""
    call, plan = cache.call, cache.call.plan
    T, N, _, H = call.sizes
    flags = with_cuts(call.flags, T, N, call.reverse, truncate)
    dx, dstate, dWx, dWh, dslots, dreset, _ = cache.backend.backward(call, cache.saved, dy, dlast, flags)
    grads = {"Wx": dWx, "Wh": dWh}
    if "bx" in cache.params:
        grads["bx"] = dslots[: plan.n_gates].flatten()
    if "bh" in cache.params:
        dbh = np.zeros((plan.n_matrices, H), dslots.dtype)
        for p in plan.products:
            dbh[p.matrix] += dslots[p.slot]
        grads["bh"] = dbh.reshape(-1)
    # Two parameters can share a slot; their gradients are two arrays all the same.
    grads |= {unit: dslots[slot].copy() for unit, slot in zip(plan.cell.units, plan.unit_slots, strict=True)}
    return dx, dstate, {name: grads[name].reshape(shape) for name, shape in cache.params.items()}, dreset
