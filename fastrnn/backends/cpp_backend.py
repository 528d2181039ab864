"""The C++ backend: the built-in cells, compiled when the package was installed.

The best instruction set that the processor has is used, or the one that the environment variable ``FASTRNN_CPU``
names.
"""

from __future__ import annotations

import os
from functools import cache
from typing import NamedTuple

from ..cells import Cell
from ..cells.builtin import built_in
from ..engine.call import Array, Call, Gradients, Result, Stack, StackLayout
from ..engine.plan import Plan, make_plan
from . import _cpp


class Saved(NamedTuple):
    """What a forward pass keeps: the outputs, and the engine's own buffer."""

    y: Array
    buffer: Array


class CppBackend:
    """See :class:`fastrnn.engine.call.Backend`."""

    name = "cpp"

    def __init__(self) -> None:
        wanted = os.environ.get("FASTRNN_CPU")
        if wanted and not _cpp.use_variant(wanted):
            raise ValueError(f"FASTRNN_CPU: expected one of {', '.join(_cpp.variants())}, got {wanted!r}")

    @property
    def target(self) -> str:
        """Name of the instruction set in use."""
        return _cpp.variant_name()

    def supports(self, plan: Plan) -> bool:
        # By the cell itself: a user's cell may have the name of a built-in one.
        return plan.cell in _cells()

    def forward(self, call: Call, keep: bool) -> Result:
        kernel = _kernel(call.plan, call.dtype.itemsize)
        y, last, buffer = _cpp.forward(
            kernel,
            call.x,
            call.state,
            call.params,
            call.lengths,
            call.reverse,
            keep,
            call.threads,
            call.bf16_parts,
        )
        return Result(y, last, Saved(y, buffer) if keep else None)

    def backward(
        self, call: Call, saved: Saved, dy: Array | None, dlast: tuple[Array, ...], truncate: int | None
    ) -> Gradients:
        plan = call.plan
        kernel = _kernel(plan, call.dtype.itemsize)
        given = (call.x, call.params, call.lengths, call.reverse, call.threads, call.bf16_parts)
        gradients = (dy, dlast, truncate or 0, plan.n_da)
        return Gradients(*_cpp.backward(kernel, *given, saved.y, saved.buffer, *gradients))

    def stack(self, layout: StackLayout) -> Stack | None:
        plan = make_plan(layout.cell)
        if not self.supports(plan):
            return None
        sizes = (layout.input_size, layout.hidden_size, plan.n_states, plan.n_gates, plan.n_matrices)
        return _cpp.Stack(layout.cell.name, layout.names, *sizes, layout.dtype.itemsize, layout.batch_first)


@cache
def _cells() -> frozenset[Cell]:
    return frozenset(built_in())


@cache
def _kernel(plan: Plan, item_bytes: int) -> int:
    number: int = _cpp.kernel(plan.cell.name, item_bytes)
    return number
