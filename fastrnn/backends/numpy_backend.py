"""The reference backend: the loop over time as a textbook writes it, in NumPy.

A step is ``a = x_t @ Wx + h @ Wh + b`` and elementwise code (Goodfellow et al. 2016, eq. 10.8); going back,
each step adds its part to the weights' gradients (eq. 10.22-10.28). It is also the baseline of the benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..codegen.python import Code, stage_code
from ..engine.call import Array, Call, Gradients, Layout, Result
from ..engine.flags import CUT, HOLD, RESET, Flags
from ..engine.plan import Plan, Ref, Stage
from ..engine.stack import LayerByLayer

Slots = dict[str, list[Any]]


def _sigmoid(a: Array) -> Array:
    # exp of minus the magnitude cannot overflow.
    e = np.exp(-np.abs(a))
    y: Array = np.where(a >= 0, 1, e) / (1 + e)
    return y


_FUNCTIONS: dict[str, Any] = {
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "relu": lambda a: np.maximum(a, 0),
    "exp": np.exp,
    "softplus": lambda a: np.maximum(a, 0) + np.log1p(np.exp(-np.abs(a))),
    "positive": lambda a: (a > 0).astype(a.dtype),
}


class Block(NamedTuple):
    """Neighbouring blocks of ``Wh`` that meet one vector, or whose products are summed.

    Forward ``accs = source @ Wh[:, columns]``, backward ``acc += sources @ Wh[:, columns].T``.
    """

    sources: tuple[Ref, ...]
    matrices: range
    accs: tuple[int, ...]


class Step(NamedTuple):
    """A stage ready to run."""

    blocks: list[Block]
    loads: list[Ref]
    run: Callable[..., tuple[Any, ...]]
    stores: list[Ref]


class NumpyPath(NamedTuple):
    """The one way that there is."""

    def describe(self) -> list[str]:
        """See :class:`fastrnn.engine.call.Path`."""
        return ["a loop in Python: one product of NumPy and elementwise code a step, in the caller's thread"]


class NumpyBackend:
    """See :class:`fastrnn.engine.call.Backend`."""

    name = "numpy"

    def supports(self, plan: Plan) -> bool:
        return True

    def prepare(self, layout: Layout, params: Mapping[str, Array]) -> LayerByLayer:
        return LayerByLayer(self, layout, params)

    def forward_path(self, call: Call) -> NumpyPath:
        return NumpyPath()

    def backward_path(self, call: Call) -> NumpyPath:
        return NumpyPath()

    def forward(self, call: Call, keep: bool, path: NumpyPath | None = None) -> Result:
        _check(path)
        T, N, _, H = call.sizes
        forward, _ = _steps(call.plan)
        y = np.empty((T, N, H), call.dtype)
        state = [np.array(s) for s in call.state]
        saved = []
        units = list(call.units)
        for _, t in _times(call):
            active, reset = _active(call.flags, t), _rows(call.flags, t, RESET)
            if reset is not None:
                state = _reset(state, reset, call.reset_state)
            slots: Slots = {
                "x": _split(_inside(call.x[t], active) @ call.Wx, call.plan.n_gates),
                "prev": state,
                "unit": units,
                "next": [None] * len(state),
                "keep": [None] * call.plan.n_keep,
            }
            for stage in forward:
                slots["acc"] = _multiply(stage, slots, call.Wh)
                _run(stage, slots, (N, H), call.dtype, active)
            if active is not None:
                slots["next"] = [np.where(active, new, old) for new, old in zip(slots["next"], state, strict=True)]
            state = slots["next"]
            y[t] = _inside(state[0], active)
            if keep:
                saved.append(slots)
        # Copies: the last step's states are among what BPTT reads.
        return Result(y, tuple(map(np.array, state)), saved if keep else None, NumpyPath())

    def backward(
        self,
        call: Call,
        saved: list[Slots],
        dy: Array | None,
        dlast: tuple[Array, ...],
        flags: Flags | None,
        path: NumpyPath | None = None,
    ) -> Gradients:
        _check(path)
        T, N, D, H = call.sizes
        plan, dtype = call.plan, call.dtype
        _, backward = _steps(plan)
        dx = np.empty((T, N, D), dtype)
        dWx, dWh = np.zeros_like(call.Wx, order="C"), np.zeros_like(call.Wh, order="C")
        dslots = np.zeros((plan.n_da, H), dtype)
        dstate = [np.array(d) for d in dlast]
        dreset = None if call.reset_state is None else [np.zeros((N, H), dtype) for _ in dlast]
        for s, t in reversed(_times(call)):
            active, reset, cut = _active(flags, t), _rows(flags, t, RESET), _rows(flags, t, CUT)
            slots = dict(saved[s])
            grad = dstate if dy is None else [dstate[0] + _inside(dy[t], active), *dstate[1:]]
            slots |= {"grad": grad, "carry": [None] * plan.n_states, "da": [None] * plan.n_da}
            for i, stage in enumerate(backward):
                # The first stage's products went into `grad` with the step after.
                slots["acc"] = _multiply_back(stage, slots, call.Wh) if i else []
                _run(stage, slots, (N, H), dtype, active)
            da = slots["da"]
            da_x = np.concatenate(da[: plan.n_gates], axis=1)
            dWx += _inside(call.x[t], active).T @ da_x
            dx[t] = _inside(da_x @ call.Wx.T, active)
            for p in plan.products:
                dWh[:, p.matrix * H : (p.matrix + 1) * H] += _inside(_read(slots, p.vector), active).T @ da[p.slot]
            dslots += np.sum(da, axis=1)
            before = _through_products(call, backward[0], slots)
            if active is not None:
                before = [np.where(active, new, old) for new, old in zip(before, dstate, strict=True)]
            if reset is not None:
                if dreset is not None:
                    dreset = [sums + np.where(reset, d, 0) for sums, d in zip(dreset, before, strict=True)]
                before = _without(before, reset)
            dstate = before if cut is None else _without(before, cut)
        return Gradients(dx, tuple(dstate), dWx, dWh, dslots, None if dreset is None else tuple(dreset), NumpyPath())


def _check(path: Any) -> None:
    if path is not None and not isinstance(path, NumpyPath):
        raise TypeError(f"path: expected a NumpyPath, got {type(path).__name__}")


def _times(call: Call) -> list[tuple[int, int]]:
    """Steps of the loop with the time that each works on."""
    T = call.x.shape[0]
    return list(enumerate(reversed(range(T)) if call.reverse else range(T)))


def _rows(flags: Flags | None, t: int, flag: int) -> Array | None:
    """(N, 1) for which sequences the step at time `t` has `flag`; None if for none."""
    if flags is None:
        return None
    rows: Array = (flags[t] & flag) != 0
    return rows[:, None] if rows.any() else None


def _active(flags: Flags | None, t: int) -> Array | None:
    """(N, 1) which sequences are active at time `t`; None if all are."""
    held = _rows(flags, t, HOLD)
    return None if held is None else ~held


def _inside(rows: Array, active: Array | None) -> Array:
    """`rows` with zeros for inactive sequences, whatever stands there."""
    return rows if active is None else np.where(active, rows, rows.dtype.type(0))


def _without(values: list[Array], rows: Array) -> list[Array]:
    """`values` with zeros for the sequences `rows`."""
    return [np.where(rows, v.dtype.type(0), v) for v in values]


def _reset(state: list[Array], rows: Array, to: tuple[Array, ...] | None) -> list[Array]:
    """`state` with the reset state for the sequences `rows`."""
    if to is None:
        return _without(state, rows)
    return [np.where(rows, new, old) for new, old in zip(to, state, strict=True)]


def _through_products(call: Call, first: Step, slots: Slots) -> list[Array]:
    """Gradient of each old state: what came elementwise, and what comes through its products."""
    accs = _multiply_back(first, slots, call.Wh)
    return [
        carry if i is None else carry + accs[i] for carry, i in zip(slots["carry"], call.plan.grad_acc, strict=True)
    ]


def _split(a: Array, parts: int) -> list[Array]:
    size = a.shape[1] // parts
    return [a[:, i * size : (i + 1) * size] for i in range(parts)]


def _read(slots: Slots, ref: Ref) -> Any:
    return slots[ref.kind][ref.index]


def _multiply(step: Step, slots: Slots, Wh: Array) -> list[Array]:
    """Products of a forward stage."""
    H = Wh.shape[0]
    accs: list[Array] = []
    for (source,), matrices, _ in step.blocks:
        a = _read(slots, source) @ Wh[:, matrices.start * H : matrices.stop * H]
        accs += _split(a, len(matrices))
    return accs


def _multiply_back(step: Step, slots: Slots, Wh: Array) -> list[Array]:
    """Products of a backward stage: with the matrices transposed, summed over each ``acc``."""
    H = Wh.shape[0]
    accs: dict[int, Array] = {}
    for sources, matrices, (acc,) in step.blocks:
        da = np.concatenate([_read(slots, source) for source in sources], axis=1)
        a = da @ Wh[:, matrices.start * H : matrices.stop * H].T
        accs[acc] = accs[acc] + a if acc in accs else a
    return list(accs.values())


def _run(stage: Step, slots: Slots, shape: tuple[int, int], dtype: Any, active: Array | None) -> None:
    """The elementwise code of a stage; what idle sequences would store is 0."""
    values = stage.run(*(_read(slots, ref) for ref in stage.loads))
    for ref, value in zip(stage.stores, values, strict=True):
        if active is not None:
            value = np.where(active, value, 0).astype(dtype, copy=False)
        slots[ref.kind][ref.index] = value if np.shape(value) == shape else np.full(shape, value, dtype)


@cache
def _steps(plan: Plan) -> tuple[list[Step], list[Step]]:
    return [_step(stage, False) for stage in plan.forward], [_step(stage, True) for stage in plan.backward]


def _step(stage: Stage, back: bool) -> Step:
    code = stage_code(stage)
    return Step(_blocks(stage, back), [r for _, r in code.loads], _function(code), [r for r, _ in code.stores])


def _function(code: Code) -> Callable[..., tuple[Any, ...]]:
    """The code of a stage as a function from what it loads to what it stores."""
    arguments = ", ".join(name for name, _ in code.loads)
    results = "".join(f"{value}, " for _, value in code.stores)
    body = "".join(f"    {line}\n" for line in code.lines)
    scope = dict(_FUNCTIONS)
    exec(f"def stage({arguments}):\n{body}    return ({results})\n", scope)
    function: Callable[..., tuple[Any, ...]] = scope["stage"]
    return function


def _blocks(stage: Stage, back: bool) -> list[Block]:
    """Forward, neighbours that share their source; backward, neighbours that share their sum."""
    blocks: list[Block] = []
    for acc, terms in enumerate(stage.products):
        for source, matrix in terms:
            sources, matrices, accs = blocks[-1] if blocks else ((), range(0), ())
            joined = range(matrices.start, matrix + 1)
            if matrix == matrices.stop and not back and sources == (source,):
                blocks[-1] = Block(sources, joined, (*accs, acc))
            elif matrix == matrices.stop and back and accs == (acc,):
                blocks[-1] = Block((*sources, source), joined, accs)
            else:
                blocks.append(Block((source,), range(matrix, matrix + 1), (acc,)))
    return blocks
