"""Reverse-mode differentiation of a cell's expression graph, from graph to graph.

With L the loss, the adjoint of a node v is dL/dv. A product ``U @ v`` passes ``U.T @ adjoint`` to v; the
sum of that over the products of one vector is a leaf ``dvec(v)`` of the result, because the engine
computes it as one matrix product of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .expr import Expr, const, is_const, leaf, positive, sigmoid, topological

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
