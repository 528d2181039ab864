"""The C++ backend: the built-in cells, compiled when the package is installed.

It uses the best instruction set that the processor supports, or the one named by the environment variable
``FASTRNN_CPU``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from ..cells import Cell
from ..cells.builtin import built_in
from ..engine.contract import Array, Call, Clip, Gradients, Layout, Result, Stack
from ..engine.flags import Flags
from ..engine.plan import Plan, make_plan
from . import _cpp


class Saved(NamedTuple):
    """What a forward pass saves: the outputs, and the engine's buffer of kept values."""

    y: Array
    buffer: Array


class CppPath(NamedTuple):
    """The path of the engine through one pass of a call; see ``csrc/path.h``.

    parts : parts that the work is split into, one for each thread
    by_units : whether these are parts of the hidden units, which synchronize at every step, or parts of the batch
    bf16_parts : bf16 terms that each factor of a product is split into; 0 for no split
    packed : whether the weights are packed first, or read in place
    input : when the input is projected: ``"step"``, at each step; ``"chunk"``, for a chunk of steps at once;
        ``"ahead"``, for the next steps, interleaved with the products of a step; ``"none"`` for BPTT
    merged : whether hidden units that do not fill a vector share vectors between the gates
    chunk : steps that are projected at once, or for BPTT the steps of one product for the gradients of the weights
    """

    parts: int = 1
    by_units: bool = False
    bf16_parts: int = 0
    packed: bool = True
    input: str = "none"
    merged: bool = False
    chunk: int = 1

    def describe(self) -> list[str]:
        """See :class:`fastrnn.engine.contract.Path`."""
        lines = [_THREADS[self.parts > 1, self.by_units].format(self.parts)]
        lines.append(_PACKED[self.packed])
        lines.append(_INPUT[self.input].format(self.chunk))
        if self.merged:
            lines.append("units: those that do not fill a vector share vectors between the gates")
        lines.append(_PRODUCTS[self.bf16_parts])
        return lines


_THREADS = {
    (False, False): "threads: one; the work is not worth a second, or one is what the call may take",
    (True, False): "threads: {}, each with a share of the sequences; none waits for another",
    (True, True): "threads: {}, each with a share of the hidden units, as sequences are few; they meet at every step",
}
_THREADS[False, True] = _THREADS[False, False]
_PACKED = {
    True: "weights: packed once a call, as they are read often enough or their rows are not contiguous",
    False: "weights: read where they are, as the call reads them only a few times",
}
_INPUT = {
    "none": "weight gradients: one product for {} steps",
    "step": "input: projected at each step, with the recurrent product",
    "chunk": "input: projected for {} steps at once",
    "ahead": "input: projected {} steps ahead, beside the recurrent products of one sequence",
}
_PRODUCTS = {
    0: "products: of the numbers as they are",
    1: "products: of numbers rounded to bf16 (set_matmul_precision)",
    2: "products: of numbers split into two bf16 numbers (set_matmul_precision)",
    3: "products: of numbers split into three bf16 numbers, as precise as float32",
}


class CppBackend:
    """See :class:`fastrnn.engine.contract.Backend`."""

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
        # By identity, as a user's cell may have the name of a built-in one.
        return plan.cell in _cells()

    def copies(self, call: Call) -> list[str]:
        x, params = call.x, call.params
        rows = x.flags.aligned and (x.strides[-1] == x.itemsize or x.shape[-1] == 1)
        biases = [name for name in ("bx", "bh") if name in params and not params[name].flags.carray]
        return ["x"] * (not rows) + [name for name in ("Wx", "Wh") if not params[name].flags.aligned] + biases

    def forward_path(self, call: Call) -> CppPath:
        return self._path(call, backward=False)

    def backward_path(self, call: Call) -> CppPath:
        return self._path(call, backward=True)

    def forward(self, call: Call, keep: bool, path: CppPath | None = None) -> Result:
        kernel = _kernel(call.plan, call.dtype.itemsize)
        y, last, buffer, taken = _cpp.forward(
            kernel,
            call.x,
            call.state,
            call.params,
            call.flags,
            call.reset_state,
            call.reverse,
            keep,
            call.threads,
            call.bf16_parts,
            _fields(path),
        )
        return Result(y, last, Saved(y, buffer) if keep else None, CppPath(*taken))

    def backward(
        self,
        call: Call,
        saved: Saved,
        dy: Array | None,
        dlast: tuple[Array, ...],
        flags: Flags | None,
        path: CppPath | None = None,
        clip: Clip | None = None,
        per_sequence: bool = False,
    ) -> Gradients:
        plan = call.plan
        kernel = _kernel(plan, call.dtype.itemsize)
        dx, dstate, dWx, dWh, dslots, dreset, taken = _cpp.backward(
            kernel,
            call.x,
            call.params,
            flags,
            call.reset_state,
            call.reverse,
            call.threads,
            call.bf16_parts,
            saved.y,
            saved.buffer,
            dy,
            dlast,
            plan.n_da,
            _fields(path),
            clip,
            per_sequence,
        )
        return Gradients(dx, dstate, dWx, dWh, dslots, dreset, CppPath(*taken))

    def _path(self, call: Call, backward: bool) -> CppPath:
        kernel = _kernel(call.plan, call.dtype.itemsize)
        return CppPath(*_cpp.path(kernel, call.x, call.params, call.threads, call.bf16_parts, backward))

    def prepare(self, layout: Layout, params: Mapping[str, Array]) -> Stack:
        plan = make_plan(layout.cell)
        arrays = [tuple(params.get(key) for key in names[:4]) for names in layout.names]
        terms = tuple((product.matrix, product.slot) for product in plan.weight_terms)
        sizes = (plan.n_states, plan.n_gates, plan.n_matrices)
        return _cpp.Stack(layout.cell.name, layout, arrays, *sizes, terms, plan.n_da)


def _fields(path: CppPath | None) -> Any:
    # The extension does not accept a subclass of tuple.
    return None if path is None else tuple(path)


@cache
def _cells() -> frozenset[Cell]:
    return frozenset(built_in())


@cache
def _kernel(plan: Plan, item_bytes: int) -> int:
    number: int = _cpp.kernel(plan.cell.name, item_bytes)
    return number
