"""
The chain rule on a graph
=========================

f = (x - y) z, its gradients, one step downhill; then the same on a tanh cell.

The graph and its differentiation are the ones that every cell of the library goes through (reverse mode:
Griewank & Walther, *Evaluating Derivatives*, 2008, ch. 3).
"""

from __future__ import annotations

import numpy as np

from fastrnn.cells import rnn
from fastrnn.cells.diff import differentiate
from fastrnn.cells.expr import Expr, leaf, topological
from fastrnn.cells.table import OPERATIONS


def evaluate(node: Expr, values: dict[Expr, float]) -> float:
    """The number that `node` stands for, given its leaves."""
    known = dict(values)
    for n in topological([node], stop=values):
        if n.op == "const":
            known[n] = n.args[0]
        elif n not in known:
            known[n] = float(OPERATIONS[n.op].numpy(*(known[a] for a in n.args)))
    return known[node]


def product_of_difference() -> None:
    """f = (x - y) z: df/dx = z, df/dy = -z, df/dz = x - y."""
    x, y, z = (leaf("state", name) for name in "xyz")
    f = (x - y) * z
    adjoints = differentiate(("f",), (f,))
    values = {x: 3.0, y: 1.0, z: -2.0, leaf("dstate", "f"): 1.0}
    gradient = {v.args[0]: evaluate(adjoints[v], values) for v in (x, y, z)}
    print(f"f = {f}\nf(3, 1, -2) = {evaluate(f, values)}, gradient {gradient}")
    assert gradient == {"x": -2.0, "y": 2.0, "z": 2.0}
    lower = {v: values[v] - 0.1 * gradient[v.args[0]] for v in (x, y, z)}
    print(f"after one step of size 0.1 against the gradient: f = {evaluate(f, lower):.4f}")
    assert evaluate(f, lower) < evaluate(f, values)


def tanh_cell() -> None:
    """h' = tanh(x + U h): the derivative with respect to x is 1 - h'²."""
    cell = rnn("tanh")
    (h_next,) = cell.outputs
    x = leaf("x", "h")
    adjoint = differentiate(cell.states, cell.outputs)[x]
    (product,) = (n for n in topological([h_next]) if n.op == "product")
    print(f"\nh' = {h_next}\ndL/dx = {adjoint}")
    values = {x: 0.3, product: 0.2, leaf("dstate", "h"): 1.0}
    got = evaluate(adjoint, {**values, h_next: evaluate(h_next, values)})
    print(f"at x = 0.3, U h = 0.2: {got:.6f}; 1 - tanh(0.5)² = {1 - np.tanh(0.5) ** 2:.6f}")
    assert abs(got - (1 - np.tanh(0.5) ** 2)) < 1e-15


if __name__ == "__main__":
    product_of_difference()
    tanh_cell()
