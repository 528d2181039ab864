"""The reference backend: the loop over time in NumPy, as in a textbook.

A step is ``a = x_t @ Wx + h @ Wh + b`` and elementwise code (Goodfellow et al. 2016, eq. 10.8); in the backward pass,
each step adds its terms to the gradients of the weights (eq. 10.22-10.28). It is also the baseline of the benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from ..cells.table import OPERATIONS
from ..codegen.fused import FusedStage, Product, Sum, backward_stages, forward_stages
from ..codegen.python import Code, stage_code
from ..engine.contract import Array, Call, Clip, Gradients, Layout, Result
from ..engine.flags import CUT, HOLD, RESET, Flags
from ..engine.plan import Plan, Ref
from ..engine.stack import LayerByLayer

Values = dict[str, list[Any]]


# The branch that a `where` does not take may well be a logarithm of 0.
_QUIET = np.errstate(divide="ignore", invalid="ignore")


class Step(NamedTuple):
    """A stage ready to run."""

    sums: tuple[Sum, ...]
    products: tuple[Product, ...]
    loads: list[Ref]
    run: Callable[..., tuple[Any, ...]]
    stores: list[Ref]


class NumpyPath(NamedTuple):
    """The only path."""

    def describe(self) -> list[str]:
        """See :class:`fastrnn.engine.contract.Path`."""
        return ["a loop in Python: one product of NumPy and elementwise code a step, in the caller's thread"]


class NumpyBackend:
    """See :class:`fastrnn.engine.contract.Backend`."""

    name = "numpy"

    def supports(self, plan: Plan) -> bool:
        return True

    def prepare(self, layout: Layout, params: Mapping[str, Array]) -> LayerByLayer:
        return LayerByLayer(self, layout, params)

    def copies(self, call: Call) -> list[str]:
        return []

    def forward_path(self, call: Call) -> NumpyPath:
        return NumpyPath()

    def backward_path(self, call: Call) -> NumpyPath:
        return NumpyPath()

    @_QUIET
    def forward(self, call: Call, keep: bool, path: NumpyPath | None = None) -> Result:
        _check(path)
        T, N, _, H = call.sizes
        forward, _ = _steps(call.plan, call.dtype)
        y = np.empty((T, N, H), call.dtype)
        state = [np.array(s) for s in call.state]
        saved = []
        units = list(call.unit_rows)
        matrices = [_matrices(stage, call.Wh) for stage in forward]
        for _, t in _times(call):
            active, reset = _active(call.flags, t), _rows(call.flags, t, RESET)
            if reset is not None:
                state = _reset(state, reset, call.reset_state)
            values: Values = {
                "x": _split(_inside(call.x[t], active) @ call.Wx, call.plan.n_gates),
                "prev": state,
                "unit": units,
                "next": [None] * len(state),
                "keep": [None] * call.plan.n_keep,
            }
            for stage, blocks in zip(forward, matrices, strict=True):
                values["acc"] = _sums(stage, blocks, values)
                _run(stage, values, (N, H), call.dtype, active)
            if active is not None:
                values["next"] = [np.where(active, new, old) for new, old in zip(values["next"], state, strict=True)]
            state = values["next"]
            y[t] = _inside(state[0], active)
            if keep:
                saved.append(values)
        # Copies, as BPTT reads the states of the last step.
        return Result(y, tuple(map(np.array, state)), saved if keep else None, NumpyPath())

    @_QUIET
    def backward(
        self,
        call: Call,
        saved: list[Values],
        dy: Array | None,
        dlast: tuple[Array, ...],
        flags: Flags | None,
        path: NumpyPath | None = None,
        clip: Clip | None = None,
        per_sequence: bool = False,
    ) -> Gradients:
        _check(path)
        T, N, D, H = call.sizes
        plan, dtype = call.plan, call.dtype
        _, backward = _steps(plan, dtype)
        dx = np.empty((T, N, D), dtype)
        each = (N,) if per_sequence else ()
        dWx, dWh = (np.zeros((*each, *weights.shape), dtype) for weights in (call.Wx, call.Wh))
        dslots = np.zeros((*each, plan.n_da, H), dtype)
        dstate = [np.array(d) for d in dlast]
        matrices = [_transposed(stage, call.Wh) for stage in backward]
        dreset = None if call.reset_state is None else [np.zeros((N, H), dtype) for _ in dlast]
        for s, t in reversed(_times(call)):
            active, reset, cut = _active(flags, t), _rows(flags, t, RESET), _rows(flags, t, CUT)
            values = dict(saved[s])
            grad = dstate if dy is None else [dstate[0] + _inside(dy[t], active), *dstate[1:]]
            if clip is not None:
                grad = _clipped(grad, clip)
            values |= {"grad": grad, "carry": [None] * plan.n_states, "da": [None] * plan.n_da}
            for i, stage in enumerate(backward):
                # The products of the first stage are already in `grad`, from the step after.
                values["acc"] = _sums(stage, matrices[i], values) if i else []
                _run(stage, values, (N, H), dtype, active)
            da = values["da"]
            da_x = np.concatenate(da[: plan.n_gates], axis=1)
            dWx += _outer(_inside(call.x[t], active), da_x, per_sequence)
            dx[t] = _inside(da_x @ call.Wx.T, active)
            for p in plan.weight_terms:
                vector = _inside(_read(values, p.vector), active)
                dWh[..., p.matrix * H : (p.matrix + 1) * H] += _outer(vector, da[p.slot], per_sequence)
            dslots += np.stack(da, axis=1) if per_sequence else np.sum(da, axis=1)
            accs = _sums(backward[0], matrices[0], values)
            before = [c if i is None else c + accs[i] for c, i in zip(values["carry"], plan.grad_acc, strict=True)]
            if active is not None:
                before = [np.where(active, new, old) for new, old in zip(before, dstate, strict=True)]
            if reset is not None:
                if dreset is not None:
                    dreset = [sums + np.where(reset, d, 0) for sums, d in zip(dreset, before, strict=True)]
                before = _without(before, reset)
            dstate = before if cut is None else _without(before, cut)
        return Gradients(dx, tuple(dstate), dWx, dWh, dslots, None if dreset is None else tuple(dreset), NumpyPath())


def _outer(left: Array, right: Array, per_sequence: bool) -> Array:
    """The sum over sequences of the outer products of rows, or each of them."""
    return left[:, :, None] * right[:, None, :] if per_sequence else left.T @ right


def _clipped(grad: list[Array], clip: Clip) -> list[Array]:
    """Gradients (N, H) of the states, clipped by element or by the norm of each sequence's."""
    bound = grad[0].dtype.type(clip.bound)
    if not clip.by_norm:
        return [np.clip(g, -bound, bound) for g in grad]
    together = np.stack(grad)
    # Squares of shares of the largest element do not overflow. What is not finite stays as it is.
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        largest = np.abs(together).max(axis=(0, 2))
        most = bound / largest
        norm = np.sqrt(np.square(together / largest[:, None]).sum(axis=(0, 2)))
        factor = np.where(norm > most, most / norm, 1).astype(bound.dtype)
    return [g * factor[:, None] for g in grad]


def _check(path: Any) -> None:
    if path is not None and not isinstance(path, NumpyPath):
        raise TypeError(f"path: expected a NumpyPath, got {type(path).__name__}")


def _times(call: Call) -> list[tuple[int, int]]:
    """The steps of the loop, each with its time index."""
    T = call.x.shape[0]
    return list(enumerate(reversed(range(T)) if call.reverse else range(T)))


def _rows(flags: Flags | None, t: int, flag: int) -> Array | None:
    """(N, 1), the sequences whose step at time `t` has `flag`; None if there are none."""
    if flags is None:
        return None
    rows: Array = (flags[t] & flag) != 0
    return rows[:, None] if rows.any() else None


def _active(flags: Flags | None, t: int) -> Array | None:
    """(N, 1), the sequences that are active at time `t`; None if all are."""
    held = _rows(flags, t, HOLD)
    return None if held is None else ~held


def _inside(rows: Array, active: Array | None) -> Array:
    """`rows` with zeros for inactive sequences, even where they are NaN."""
    return rows if active is None else np.where(active, rows, rows.dtype.type(0))


def _without(values: list[Array], rows: Array) -> list[Array]:
    """`values` with zeros for the sequences `rows`."""
    return [np.where(rows, v.dtype.type(0), v) for v in values]


def _reset(state: list[Array], rows: Array, to: tuple[Array, ...] | None) -> list[Array]:
    """`state` with the reset state for the sequences `rows`."""
    if to is None:
        return _without(state, rows)
    return [np.where(rows, new, old) for new, old in zip(to, state, strict=True)]


def _split(a: Array, parts: int) -> list[Array]:
    size = a.shape[1] // parts
    return [a[:, i * size : (i + 1) * size] for i in range(parts)]


def _read(values: Values, ref: Ref) -> Any:
    return values[ref.kind][ref.index]


def _matrices(stage: Step, Wh: Array) -> list[Array]:
    """The matrix (sources * H, sums * H) of each product of a forward stage."""
    return [np.block([[_block(Wh, m) for m in row] for row in p.matrices]) for p in stage.products]


def _transposed(stage: Step, Wh: Array) -> list[Array]:
    """The matrices of a backward stage, whose blocks are transposed."""
    return [np.block([[_block(Wh, m).T for m in row] for row in p.matrices]) for p in stage.products]


def _block(Wh: Array, matrix: int) -> Array:
    H = Wh.shape[0]
    return Wh[:, matrix * H : (matrix + 1) * H]


def _sums(stage: Step, matrices: list[Array], values: Values) -> list[Any]:
    """Every sum of a stage: bias, input projection and products."""
    sums: list[Any] = [_begin(sum, values) for sum in stage.sums]
    for product, matrix in zip(stage.products, matrices, strict=True):
        sources = [_read(values, source) for source in product.sources]
        left = sources[0] if len(sources) == 1 else np.concatenate(sources, axis=1)
        for i, part in zip(product.sums, _split(left @ matrix, len(product.sums)), strict=True):
            sums[i] = sums[i] + part
    return sums


def _begin(sum: Sum, values: Values) -> Any:
    bias = 0 if sum.row is None else values["unit"][sum.row]
    return bias if sum.gate is None else values["x"][sum.gate] + bias


def _run(stage: Step, values: Values, shape: tuple[int, int], dtype: Any, active: Array | None) -> None:
    """Run the elementwise code of a stage; inactive sequences store 0."""
    results = stage.run(*(_read(values, ref) for ref in stage.loads))
    for ref, value in zip(stage.stores, results, strict=True):
        if active is not None:
            value = np.where(active, value, 0).astype(dtype, copy=False)
        values[ref.kind][ref.index] = value if np.shape(value) == shape else np.full(shape, value, dtype)


_by_plan: WeakKeyDictionary[Plan, dict[Any, tuple[list[Step], list[Step]]]] = WeakKeyDictionary()


def _steps(plan: Plan, dtype: np.dtype[Any]) -> tuple[list[Step], list[Step]]:
    found = _by_plan.setdefault(plan, {})
    if dtype not in found:
        both = forward_stages(plan), backward_stages(plan)
        found[dtype] = [_step(stage, dtype) for stage in both[0]], [_step(stage, dtype) for stage in both[1]]
    return found[dtype]


def _step(stage: FusedStage, dtype: np.dtype[Any]) -> Step:
    code = stage_code(stage.code)
    loads, stores = [ref for _, ref in code.loads], [ref for ref, _ in code.stores]
    return Step(stage.sums, stage.products, loads, _function(code, dtype), stores)


def _function(code: Code, dtype: np.dtype[Any]) -> Callable[..., tuple[Any, ...]]:
    """The code of a stage as a function from its loads to its stores."""
    scope: dict[str, Any] = {line.op: OPERATIONS[line.op].numpy for line in code.lines}

    def number(value: float) -> str:
        return f"({value!r})"

    def typed(value: float) -> str:
        # Of two numbers of Python NumPy's where makes float64.
        name = f"k{len(scope)}"
        scope[name] = dtype.type(value)
        return name

    body = "".join(f"    {line.name} = {line.right_side(number, typed)}\n" for line in code.lines)
    arguments = ", ".join(name for name, _ in code.loads)
    results = "".join(f"{value}, " for _, value in code.stores)
    exec(f"def stage({arguments}):\n{body}    return ({results})\n", scope)
    function: Callable[..., tuple[Any, ...]] = scope["stage"]
    return function
