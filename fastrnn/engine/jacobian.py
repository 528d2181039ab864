"""The partial derivatives of a step of a cell, as values that its forward step keeps.

Between products a cell works unit by unit, so a new state, or a vector that a later product multiplies, has for every
gate, product, bias, parameter and old state one H-vector of partial derivatives. With the matrices between them these
are the whole Jacobian of a step, which real-time recurrent learning carries along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..cells.cell import Cell
from ..cells.diff import elementwise_derivatives
from ..cells.expr import Expr, Vector, leaf, topological
from .contract import Array
from .plan import Plan, Ref, plan_keeping, with_biases


class Leaf(NamedTuple):
    """What elementwise code begins with: ``x`` gate, ``product``, ``unit`` row, or ``state`` number `index`."""

    kind: str
    index: int  # type: ignore[assignment]


Partials = dict[Leaf, int | None]
"""For each leaf the slot of what the forward step keeps where the partial derivative is; None if it is 1."""


@dataclass(frozen=True, eq=False)
class Jacobian:
    """Where the partial derivatives of a step are.

    plan : its forward step keeps them
    states : those of each new state
    vectors : those of the vector of each of ``plan.weight_terms``
    order : the products, each after those that its vector depends on
    """

    plan: Plan
    states: tuple[Partials, ...]
    vectors: tuple[Partials, ...]
    order: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Rows of the units."""
        return len(self.plan.unit_rows)


def make_jacobian(cell: Cell) -> Jacobian:
    """The Jacobian of `cell`: one object as long as the cell is there."""
    made: Jacobian | None = cell.__dict__.get("_jacobian")
    return cell.__dict__.setdefault("_jacobian", _jacobian(cell)) if made is None else made


def _jacobian(cell: Cell) -> Jacobian:
    traced = _Traced(cell)
    return traced.jacobian(*plan_keeping(cell, traced.values))


class _Traced:
    """The expressions of a cell and their derivatives between products."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.outputs, _, self.row = with_biases(cell)
        self.order = [n for n in topological(self.outputs) if n.op == "product"]
        # As the plan sorts them.
        self.products = sorted(self.order, key=lambda p: cell.recurrent.index(p.args[0]))
        # By a table, as nodes cannot be compared.
        self.number = {p: i for i, p in enumerate(self.products)}
        self.of_states = [elementwise_derivatives(n) for n in self.outputs]
        # A state that is multiplied itself has no derivative to be kept.
        self.of_vectors = [{} if p.args[1].op == "state" else elementwise_derivatives(p.args[1]) for p in self.products]

    @property
    def values(self) -> list[Expr]:
        """What a plan must keep."""
        return [value for found in (*self.of_states, *self.of_vectors) for value in found.values()]

    def leaf(self, node: Expr) -> Leaf:
        if node.op == "product":
            return Leaf("product", self.number[node])
        if node.op == "unit":
            return Leaf("unit", self.row[node.args[0]])
        return Leaf(node.op, (self.cell.gates if node.op == "x" else self.cell.states).index(node.args[0]))

    def jacobian(self, plan: Plan, keep: Mapping[Expr, Ref]) -> Jacobian:
        def slots(found: Mapping[Expr, Expr]) -> Partials:
            return {self.leaf(node): keep[value].index for node, value in found.items()}

        vectors: list[Partials] = [
            {self.leaf(p.args[1]): None} if p.args[1].op == "state" else slots(found)
            for p, found in zip(self.products, self.of_vectors, strict=True)
        ]
        order = tuple(self.number[p] for p in self.order)
        return Jacobian(plan, tuple(slots(found) for found in self.of_states), tuple(vectors), order)


@dataclass(frozen=True, eq=False)
class Traces:
    """How the influence of a parameter on its own unit goes on, as values that a step keeps.

    jacobian : its plan's forward step keeps them too; with `diagonals` that plan's last per-unit parameters are the
        diagonals of the matrices
    diagonals : whether what passes through those counts
    carry : ``[new state][old state]``: the slot of the derivative; None for 0
    direct : for each leaf but the states ``[new state]``: the slot of the derivative; None for 0
    """

    jacobian: Jacobian
    diagonals: bool
    carry: tuple[tuple[int | None, ...], ...]
    direct: dict[Leaf, tuple[int | None, ...]]


def make_traces(cell: Cell, diagonals: bool) -> Traces:
    """The traces of `cell`: one object as long as the cell is there."""
    key = f"_traces_{diagonals}"
    made: Traces | None = cell.__dict__.get(key)
    return cell.__dict__.setdefault(key, _traces(cell, diagonals)) if made is None else made


def _traces(cell: Cell, diagonals: bool) -> Traces:
    traced = _Traced(cell)
    names = {m: f"diagonal.{m}" for m in cell.recurrent if diagonals}
    found = [_within_units(output, traced.order, names) for output in traced.outputs]
    wider = replace(cell, units=(*cell.units, *names.values()))
    plan, keep = plan_keeping(wider, [*traced.values, *(value for own in found for value in own.values())])
    ends = [leaf("x", g) for g in cell.gates] + traced.products + [leaf("unit", name) for name in traced.row]

    def slots(node: Expr) -> tuple[int | None, ...]:
        return tuple(keep[own[node]].index if node in own else None for own in found)

    old = [slots(leaf("state", s)) for s in cell.states]
    carry: tuple[tuple[int | None, ...], ...] = tuple(zip(*old, strict=True))
    return Traces(traced.jacobian(plan, keep), diagonals, carry, {traced.leaf(node): slots(node) for node in ends})


def _within_units(output: Expr, products: list[Expr], diagonals: Mapping[str, str]) -> dict[Expr, Vector]:
    """Derivatives of `output` with respect to every leaf and product; matrices count as diagonal, or as 0."""
    found = elementwise_derivatives(output)
    for node in reversed(products):
        if node in found and diagonals:
            through = found[node] * leaf("unit", diagonals[node.args[0]])
            for below, value in elementwise_derivatives(node.args[1]).items():
                term = through * value
                found[below] = found[below] + term if below in found else term
    return found


def add_rows(plan: Plan, rows: Array, grads: dict[str, Array]) -> None:
    """Add the gradients of the rows of the units (U, H) to those of the biases and parameters that they come from."""
    H = rows.shape[1]
    blocks = {b: grads[b].reshape(-1, H) for b in ("bx", "bh") if b in grads}
    for d, source in zip(rows, plan.unit_rows, strict=True):
        if source.name:
            grads[source.name] += d
        if source.gate is not None and "bx" in blocks:
            blocks["bx"][source.gate] += d
        for m in source.matrices if "bh" in blocks else ():
            blocks["bh"][m] += d
