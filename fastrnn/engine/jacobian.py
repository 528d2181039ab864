"""The partial derivatives of a step of a cell, as values that its forward step keeps.

Between products a cell works unit by unit, so a new state, or a vector that a later product multiplies, has for every
gate, product, bias, parameter and old state one H-vector of partial derivatives. With the matrices between them these
are the whole Jacobian of a step, which real-time recurrent learning carries along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..cells.cell import Cell
from ..cells.diff import elementwise_derivatives
from ..cells.expr import Expr, topological
from .contract import Array
from .plan import Plan, plan_keeping, with_biases


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
    vectors : those of the vector of each of ``plan.products``
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
    outputs, _, row = with_biases(cell)
    order = topological(outputs)
    # As the plan sorts them.
    products = sorted((n for n in order if n.op == "product"), key=lambda p: cell.recurrent.index(p.args[0]))
    number = {p: i for i, p in enumerate(products)}

    def leaf_of(node: Expr) -> Leaf:
        if node.op == "product":
            return Leaf("product", number[node])
        names: Mapping[str, int] = {
            "x": {g: i for i, g in enumerate(cell.gates)},
            "unit": row,
            "state": {s: i for i, s in enumerate(cell.states)},
        }[node.op]
        return Leaf(node.op, names[node.args[0]])

    of_states = [elementwise_derivatives(n) for n in outputs]
    of_vectors = [elementwise_derivatives(p.args[1]) for p in products]
    # A derivative of 1 of a vector that is a state itself need not be kept.
    plain = [p.args[1].op == "state" for p in products]
    more = [d for found in of_states for d in found.values()]
    more += [d for found, is_state in zip(of_vectors, plain, strict=True) if not is_state for d in found.values()]
    plan, keep = plan_keeping(cell, more)

    def slots(found: dict[Expr, Expr]) -> Partials:
        return {leaf_of(node): keep[value].index for node, value in found.items()}

    return Jacobian(
        plan,
        tuple(slots(found) for found in of_states),
        tuple(
            {leaf_of(p.args[1]): None} if is_state else slots(found)
            for p, found, is_state in zip(products, of_vectors, plain, strict=True)
        ),
        tuple(number[n] for n in order if n.op == "product"),
    )


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
