"""Differentiation of a cell's expression graph, from graph to graph: reverse mode, forward mode, partial derivatives.

With L the loss, the adjoint of a node v is dL/dv. A product ``U @ v`` passes ``U.T @ adjoint`` to v; the
sum of that over the products of one vector is a leaf ``dvec(v)`` of the result, because the engine
computes it as one matrix product of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .expr import Expr, const, is_const, leaf, positive, product, sigmoid, topological

# For y = op(*args) with adjoint g: the adjoint that each argument gets. Written with y where that
# saves keeping the argument.
RULES: dict[str, Callable[..., tuple[Expr | None, ...]]] = {
    "add": lambda g, y, a, b: (g, g),
    "sub": lambda g, y, a, b: (g, -g),
    "mul": lambda g, y, a, b: (g * b, g * a),
    "div": lambda g, y, a, b: (g / b, -(g * y / b)),
    "neg": lambda g, y, a: (-g,),
    "tanh": lambda g, y, a: (g * (1 - y * y),),
    "sigmoid": lambda g, y, a: (g * (y * (1 - y)),),
    "relu": lambda g, y, a: (g * positive(y),),
    "exp": lambda g, y, a: (g * y,),
    "softplus": lambda g, y, a: (g * sigmoid(a),),
    "positive": lambda g, y, a: (None,),
}


@dataclass(frozen=True)
class Adjoints:
    """The backward step of a cell.

    Attributes
    ----------
    of : dict of Expr to Expr
        Adjoint of every forward node that the loss depends on, for states without the part that comes
        through products: that is ``dvec`` of the state.
    """

    of: dict[Expr, Expr]

    def __getitem__(self, node: Expr) -> Expr:
        return self.of.get(node, const(0))


def differentiate(states: tuple[str, ...], outputs: tuple[Expr, ...]) -> Adjoints:
    """Adjoints of every node below `outputs`, given leaves ``dstate(name)`` for the new states."""
    order = topological(list(outputs))
    products: dict[Expr, list[Expr]] = {}
    for node in order:
        if node.op == "product":
            products.setdefault(node.args[1], []).append(node)
    adjoint: dict[Expr, Expr] = {}

    def add(node: Expr, value: Expr | None) -> None:
        if value is not None and not is_const(value, 0):
            adjoint[node] = adjoint[node] + value if node in adjoint else value

    for name, output in zip(states, outputs, strict=True):
        add(output, leaf("dstate", name))
    for node in reversed(order):
        if node.op != "state" and any(p in adjoint for p in products.get(node, ())):
            add(node, leaf("dvec", node))
        if node.op in RULES and node in adjoint:
            for arg, value in zip(node.args, RULES[node.op](adjoint[node], node, *node.args), strict=True):
                add(arg, value)
    return Adjoints(adjoint)


def partials(node: Expr) -> tuple[Expr | None, ...]:
    """Partial derivative of an elementwise operation with respect to each of its arguments; None for 0."""
    # The rules are linear in the adjoint.
    return RULES[node.op](const(1), node, *node.args)


def tangents(
    outputs: Iterable[Expr], seeds: Mapping[Expr, Expr], matrices: Mapping[str, str] | None = None
) -> list[Expr]:
    """Directional derivative of each of `outputs`: forward mode.

    With ``v_dot`` the derivative of v along the direction, ``(U @ v)_dot = U @ v_dot + U_dot @ v``.

    Parameters
    ----------
    outputs : iterable of Expr
    seeds : mapping of Expr to Expr
        Derivative of each leaf along the direction; 0 for those that are missing.
    matrices : mapping of str to str, optional
        For each recurrent matrix U the name of ``U_dot``; without it, the matrices are constant.
    """
    outputs = list(outputs)
    dot: dict[Expr, Expr] = {}
    for node in topological(outputs):
        total = seeds.get(node, const(0))
        if node.op == "product":
            matrix, vector = node.args
            if not is_const(dot[vector], 0):
                total = product(matrix, dot[vector])
            if matrices is not None:
                total = total + product(matrices[matrix], vector)
        elif node.op in RULES:
            for arg, slope in zip(node.args, partials(node), strict=True):
                if slope is not None:
                    total = total + slope * dot[arg]
        dot[node] = total
    return [dot[output] for output in outputs]


def elementwise_derivatives(output: Expr) -> dict[Expr, Expr]:
    """Derivative of `output` with respect to each leaf and each product below it, unit by unit.

    Products count as leaves here: what passes through a recurrent matrix is left out.
    """
    adjoint = {output: const(1)}
    order = topological([output], stop=_Products())
    for node in reversed(order):
        if node.op in RULES and node in adjoint:
            for arg, value in zip(node.args, RULES[node.op](adjoint[node], node, *node.args), strict=True):
                if value is not None and not is_const(value, 0):
                    adjoint[arg] = adjoint[arg] + value if arg in adjoint else value
    ends = ("x", "state", "unit", "product")
    return {n: adjoint[n] for n in order if n.op in ends and n in adjoint and not is_const(adjoint[n], 0)}


class _Products:
    """The set of all products."""

    def __contains__(self, node: object) -> bool:
        return isinstance(node, Expr) and node.op == "product"
