"""Forward mode through time: the derivative of a call along one direction, by the backends' own loops.

The states and their derivatives along a direction follow a recurrence of the same kind as the states alone, so they
are a plain cell again: with both for its states, twice the gates, and for its matrices those of the cell and those of
the direction. Any backend runs it, and goes back through it: reverse mode over forward mode gives Hessian-vector
products (Pearlmutter, Neural Computation 6 (1994), "R{BPTT}").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..cells.cell import Cell
from ..cells.diff import tangents
from ..cells.expr import Expr, leaf, topological, transform
from .contract import Array, Backend, Call, Given, Gradients, Layout
from .jacobian import add_rows
from .plan import make_plan, with_biases
from .precision import PARTS
from .settings import Settings
from .stack import joined, names_of, parameter_gradients
from .threads import threads_up_to, work_of


def tangent_cell(cell: Cell, weights: bool) -> Cell:
    """The cell of `cell`'s derivative along a direction: its states are that derivative, then those of `cell`.

    Its gates are those of `cell` and their derivatives, its per-unit parameters the rows of ``make_plan(cell)`` and,
    with `weights`, their derivatives; with `weights` its matrices are those of `cell` and their derivatives.
    """
    key = f"_tangent_{weights}"
    made: Cell | None = cell.__dict__.get(key)
    return cell.__dict__.setdefault(key, _tangent_cell(cell, weights)) if made is None else made


def _tangent_cell(cell: Cell, weights: bool) -> Cell:
    outputs, _, row = with_biases(cell)

    def renamed(node: Expr) -> Expr:
        return leaf("unit", f"unit{row[node.args[0]]}") if node.op == "unit" else node

    outputs = transform(outputs, renamed)
    moving = ("x", "state", "unit") if weights else ("x", "state")
    seeds = {n: leaf(n.op, _dot(n.args[0])) for n in topological(outputs) if n.op in moving}
    matrices = {m: _dot(m) for m in cell.recurrent} if weights else None
    units = tuple(f"unit{i}" for i in range(len(row)))
    return Cell(
        name=f"{cell.name}.tangent",
        gates=_doubled(cell.gates),
        recurrent=_doubled(cell.recurrent) if weights else cell.recurrent,
        units=_doubled(units) if weights else units,
        states=(*map(_dot, cell.states), *cell.states),
        constants=cell.constants,
        outputs=(*tangents(outputs, seeds, matrices), *outputs),
        _description=cell._description,
    )


def _dot(name: str) -> str:
    # A name with a dot cannot be one of the cell's own.
    return f"{name}.dot"


def _doubled(names: tuple[str, ...]) -> tuple[str, ...]:
    return (*names, *map(_dot, names))


class Direction(NamedTuple):
    """Derivatives along a direction; None for zeros.

    x : (T, N, D)
    state : for each state (num_layers*directions, N, H)
    params : by the keys of the parameters; zeros for those that are missing
    """

    x: Array | None
    state: tuple[Array, ...] | None
    params: Mapping[str, Array] | None


class Kept(NamedTuple):
    """What :meth:`TangentStack.forward` keeps for each layer and direction: of the cell and of its tangent."""

    calls: list[Call]
    saved: list[Any]
    tangent_calls: list[Call]
    tangent_saved: list[Any]


class TangentStack:
    """Layers over each other with their derivatives along a direction; `weights`: whether parameters move along it."""

    def __init__(self, layout: Layout, params: Mapping[str, Array], weights: bool) -> None:
        self.layout, self.params, self.weights = layout, params, weights
        self.plan = make_plan(layout.cell)
        self.tangent_plan = make_plan(tangent_cell(layout.cell, weights))

    def forward(
        self,
        backends: tuple[Backend, Backend],
        given: Given,
        along: Direction,
        now: Settings,
        keep: bool,
    ) -> tuple[Array, tuple[Array, ...], Array, tuple[Array, ...], Kept | None]:
        """Outputs and last states, their derivatives along the direction, and what :meth:`backward` needs if `keep`.

        backends : those of the cell and of its tangent
        """
        layout = self.layout
        x, x_dot = given.x, _or_zeros(along.x, given.x)
        kept = Kept([], [], [], [])
        ends, ends_dot = [], []
        for layer in range(layout.num_layers):
            outputs, outputs_dot = [], []
            for i in range(layer * layout.directions, (layer + 1) * layout.directions):
                call, tangent_call = self._calls(i, x, x_dot, given, along, now)
                result = backends[0].forward(call, keep)
                tangent = backends[1].forward(tangent_call, keep)
                for held, value in zip(kept, (call, result.saved, tangent_call, tangent.saved), strict=True):
                    held.append(value)
                outputs.append(result.y)
                outputs_dot.append(tangent.y)
                ends.append(result.last)
                ends_dot.append(tangent.last[: self.plan.n_states])
            x, x_dot = (np.concatenate(ys, axis=2) if len(ys) > 1 else ys[0] for ys in (outputs, outputs_dot))
        return x, joined(ends), x_dot, joined(ends_dot), kept if keep else None

    def backward(
        self, backends: tuple[Backend, Backend], kept: Kept, dy: Array, dy_dot: Array
    ) -> tuple[Array, Array, dict[str, Array]]:
        """Gradient of ``sum(dy * y) + sum(dy_dot * y_dot)`` with respect to ``x``, ``x_dot`` and every parameter."""
        layout, H = self.layout, self.layout.hidden_size
        grads: dict[str, Array] = {}
        for layer in reversed(range(layout.num_layers)):
            dx = dx_dot = np.zeros(0)
            for d in range(layout.directions):
                i, own = layer * layout.directions + d, slice(d * H, (d + 1) * H)
                call, tangent_call = kept.calls[i], kept.tangent_calls[i]
                zeros = (np.zeros_like(call.state[0]),) * (2 * self.plan.n_states)
                first = backends[0].backward(call, kept.saved[i], dy[..., own], zeros[: self.plan.n_states], call.flags)
                second = backends[1].backward(tangent_call, kept.tangent_saved[i], dy_dot[..., own], zeros, call.flags)
                D = call.x.shape[2]
                dx = first.dx + second.dx[..., :D] + (dx if d else 0)
                dx_dot = second.dx[..., D:] + (dx_dot if d else 0)
                names, params = names_of(layout, i), call.params
                total = self._gradients(second, params)
                for name, value in parameter_gradients(self.plan, first, params).items():
                    grads[names[name]] = value + total[name]
            dy, dy_dot = dx, dx_dot
        return dy, dy_dot, grads

    def _calls(
        self, i: int, x: Array, x_dot: Array, given: Given, along: Direction, now: Settings
    ) -> tuple[Call, Call]:
        """The call of a layer and direction, and that of its tangent."""
        layout, plan, N = self.layout, self.plan, x.shape[1]
        names = names_of(layout, i)
        params = {name: self.params[key] for name, key in names.items() if key in self.params}
        params.setdefault("Wh", np.empty((layout.hidden_size, 0), layout.dtype))
        zeros = (np.zeros((N, layout.hidden_size), layout.dtype),) * plan.n_states
        state = zeros if given.state is None else tuple(part[i] for part in given.state)
        state_dot = zeros if along.state is None else tuple(part[i] for part in along.state)
        fresh = None if given.reset_state is None else tuple(part[i] for part in given.reset_state)
        reverse = layout.reverse if layout.directions == 1 else i % 2 == 1
        threads = threads_up_to(now.num_threads)(work_of(plan, x.shape, layout.hidden_size))
        more = reverse, threads, PARTS[now.matmul_precision], given.flags
        call = Call(plan, x, state, params, *more, fresh)
        dots = {name: (along.params or {}).get(names.get(name, "")) for name in params}
        tangent = Call(
            self.tangent_plan,
            np.concatenate([x, x_dot], axis=2),
            (*state_dot, *state),
            self._tangent_params(call, {n: _or_zeros(dot, params[n]) for n, dot in dots.items()}),
            *more,
            None if fresh is None else (*zeros, *fresh),
        )
        return call, tangent

    def _tangent_params(self, call: Call, dots: dict[str, Array]) -> dict[str, Array]:
        Wx, Wx_dot, Wh = call.Wx, dots["Wx"], call.Wh
        made = {f"unit{i}": row for i, row in enumerate(call.unit_rows)}
        if self.weights:
            along = Call(call.plan, call.x, call.state, dots, call.reverse, call.threads)
            made |= {f"unit{i}.dot": row for i, row in enumerate(along.unit_rows)}
            Wh = np.concatenate([Wh, dots["Wh"]], axis=1)
        return {"Wx": np.block([[Wx, Wx_dot], [np.zeros_like(Wx), Wx]]), "Wh": Wh, **made}

    def _gradients(self, found: Gradients, params: Mapping[str, Array]) -> dict[str, Array]:
        """Gradients of `params` by those of the tangent's parameters."""
        plan, tangent = self.plan, self.tangent_plan
        D, columns = params["Wx"].shape
        grads = {name: np.zeros(value.shape, value.dtype) for name, value in params.items()}
        grads["Wx"] += found.dWx[:D, :columns] + found.dWx[D:, columns:]
        grads["Wh"] += found.dWh[:, : params["Wh"].shape[1]]
        rows = tangent.unit_slots[: len(plan.unit_rows)]
        add_rows(plan, found.dslots[list(rows)], grads)
        return grads


def _or_zeros(value: Array | None, like: Array) -> Array:
    return np.zeros(like.shape, like.dtype) if value is None else value
