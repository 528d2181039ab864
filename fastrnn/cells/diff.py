"""Differentiation of a cell's expression graph, from graph to graph: reverse mode, forward mode, partial derivatives.

With L the loss, the adjoint of a node v is dL/dv. A product ``U @ v`` passes ``U.T @ adjoint`` to v; the
sum of that over the products of one vector is a leaf ``dvec(v)`` of the result, because the engine
computes it as one matrix product of its own.

The derivative of a ``where`` that is not taken is 0, and so must be what flows on from there: 0 times an infinite
derivative would be NaN. As every rule is linear in the adjoint, ``rule(where(c, g, 0)) = where(c, rule(g), 0)``: the
conditions of an adjoint are carried beside it, through the rules, and end where it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from .expr import Expr, Vector, const, is_const, leaf, make, product, topological
from .table import OPERATIONS

# Conditions, and whether each must hold for an adjoint that is not 0.
Guards = tuple[tuple[Expr, bool], ...]


@dataclass(frozen=True)
class Adjoints:
    """The backward step of a cell.

    Attributes
    ----------
    of : dict of Expr to Expr
        Adjoint of every forward node that the loss depends on, for states without the part that comes
        through products: that is ``dvec`` of the state.
    """

    of: dict[Expr, Vector]

    def __getitem__(self, node: Expr) -> Vector:
        return self.of.get(node, const(0))


def differentiate(states: tuple[str, ...], outputs: tuple[Expr, ...]) -> Adjoints:
    """Adjoints of every node below `outputs`, given leaves ``dstate(name)`` for the new states."""
    order = topological(list(outputs))
    products: dict[Expr, list[Expr]] = {}
    for node in order:
        if node.op == "product":
            products.setdefault(node.args[1], []).append(node)
    seeds = [(output, leaf("dstate", name)) for name, output in zip(states, outputs, strict=True)]
    return Adjoints(_adjoints(order, seeds, products))


def _adjoints(
    order: Sequence[Expr], seeds: Iterable[tuple[Expr, Vector]], products: Mapping[Expr, Sequence[Expr]]
) -> dict[Expr, Vector]:
    """Adjoints of the nodes in `order` by those of some, `seeds`; `products` are those of each vector that has any."""
    parts: dict[Expr, dict[Guards, Vector]] = {}

    def add(node: Expr, value: Vector, guards: Guards = ()) -> None:
        guards, value = _unwrapped(value, guards)
        if not is_const(value, 0):
            sums = parts.setdefault(node, {})
            sums[guards] = sums[guards] + value if guards in sums else value

    for node, value in seeds:
        add(node, value)
    adjoint: dict[Expr, Vector] = {}
    for node in reversed(order):
        if node.op != "state" and any(p in adjoint for p in products.get(node, ())):
            add(node, leaf("dvec", node))
        if node not in parts:
            continue
        guards, value = _joined(parts[node])
        adjoint[node] = _wrapped(value, guards)
        if node.op in OPERATIONS:
            for arg, part in zip(node.args, OPERATIONS[node.op].derivative(value, node, *node.args), strict=True):
                if part is not None:
                    add(arg, part, guards)
    return adjoint


def elementwise_derivatives(output: Expr) -> dict[Expr, Vector]:
    """Derivative of `output` with respect to each leaf and each product below it, unit by unit.

    Products count as leaves here: what passes through a recurrent matrix is left out.
    """
    order = topological([output], stop=_Products())
    adjoint = _adjoints(order, [(output, const(1))], {})
    ends = ("x", "state", "unit", "product")
    return {n: adjoint[n] for n in order if n.op in ends and n in adjoint and not is_const(adjoint[n], 0)}


class _Products:
    """The set of all products."""

    def __contains__(self, node: object) -> bool:
        return isinstance(node, Expr) and node.op == "product"


def tangents(
    outputs: Iterable[Expr], seeds: Mapping[Expr, Vector], matrices: Mapping[str, str] | None = None
) -> list[Vector]:
    """Directional derivative of each of `outputs`: forward mode.

    With ``v_dot`` the derivative of v along the direction, ``(U @ v)_dot = U @ v_dot + U_dot @ v``.

    Parameters
    ----------
    outputs : iterable of Expr
    seeds : mapping of Expr to Vector
        Derivative of each leaf along the direction; 0 for those that are missing.
    matrices : mapping of str to str, optional
        For each recurrent matrix U the name of ``U_dot``; without it, the matrices are constant.
    """
    outputs = list(outputs)
    dot: dict[Expr, Vector] = {}
    for node in topological(outputs):
        total = seeds.get(node, const(0))
        if node.op == "product":
            matrix, vector = node.args
            if not is_const(dot[vector], 0):
                total = product(matrix, dot[vector])
            if matrices is not None:
                total = total + product(matrices[matrix], vector)
        elif node.op in OPERATIONS:
            for i, arg in enumerate(node.args):
                # The rules are linear in the adjoint and elementwise, so they are their own transposes.
                part = OPERATIONS[node.op].derivative(dot[arg], node, *node.args)[i]
                total = total if part is None else total + part
        dot[node] = total
    return [dot[output] for output in outputs]


def _unwrapped(value: Vector, guards: Guards) -> tuple[Guards, Vector]:
    """`value` without the ``where(c, ..., 0)`` around it, whose conditions join `guards`."""
    required = dict(guards)
    while value.op == "where" and any(is_const(branch, 0) for branch in value.args[1:]):
        condition, yes, no = value.args
        holds = is_const(no, 0)
        if required.setdefault(condition, holds) is not holds:
            return (), const(0)
        value = yes if holds else no
    return tuple(required.items()), value


def _wrapped(value: Vector, guards: Guards) -> Vector:
    """`value` where all `guards` hold, else 0."""
    for condition, holds in reversed(guards):
        value = make("where", condition, *((value, const(0)) if holds else (const(0), value)))
    return value


def _joined(parts: dict[Guards, Vector]) -> tuple[Guards, Vector]:
    """The sum of the parts of an adjoint, and where it is not 0: where any of them is not."""
    if len(parts) == 1:
        return next(iter(parts.items()))
    # Sets, as nodes are compared by identity.
    shared = frozenset.intersection(*map(frozenset, parts))
    common = tuple(guard for guard in next(iter(parts)) if guard in shared)
    own = [tuple(guard for guard in guards if guard not in shared) for guards in parts]
    total = reduce(lambda a, b: a + b, map(_wrapped, parts.values(), own))
    single = {guards[0] for guards in own if len(guards) == 1}
    if () in own or any((condition, not holds) in single for condition, holds in single):
        return common, total
    anywhere = make("lt", const(0), reduce(lambda a, b: a + b, (_wrapped(const(1), guards) for guards in own)))
    return (*common, (anywhere, True)), total
