"""The expression graph of a cell: H-vectors, elementwise operations, products with recurrent matrices.

A node is interned: two expressions with the same operation and arguments are one object, so common
subexpressions are found by identity and every walk below is over a graph, not a tree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

UNARY = {
    "neg": lambda a: -a,
    "tanh": math.tanh,
    "sigmoid": lambda a: 0.5 * (1.0 + math.tanh(0.5 * a)),
    "relu": lambda a: max(a, 0.0),
    "exp": math.exp,
    "softplus": lambda a: max(a, 0.0) + math.log1p(math.exp(-abs(a))),
    "positive": lambda a: 1.0 if a > 0 else 0.0,
}
BINARY = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
}
# Costly enough that the backward pass keeps their result instead of computing it again.
TRANSCENDENTAL = frozenset({"tanh", "sigmoid", "exp", "softplus"})


class Expr:
    """One H-vector of a cell: an operation and its arguments (other nodes, or a leaf's name or value).

    Leaves are ``x`` (a gate's input projection), ``state``, ``unit`` (a per-unit parameter), ``const``
    and, in a backward pass, ``dstate`` and ``dvec``; ``product`` is a recurrent matrix times a vector.
    """

    __slots__ = ("__weakref__", "args", "op")

    def __init__(self, op: str, args: tuple[Any, ...]) -> None:
        self.op = op
        self.args = args

    def __repr__(self) -> str:
        return f"{self.op}({', '.join(map(str, self.args))})"

    def __add__(self, other: Any) -> Expr:
        return make("add", self, as_expr(other))

    def __radd__(self, other: Any) -> Expr:
        return make("add", as_expr(other), self)

    def __sub__(self, other: Any) -> Expr:
        return make("sub", self, as_expr(other))

    def __rsub__(self, other: Any) -> Expr:
        return make("sub", as_expr(other), self)

    def __mul__(self, other: Any) -> Expr:
        return make("mul", self, as_expr(other))

    def __rmul__(self, other: Any) -> Expr:
        return make("mul", as_expr(other), self)

    def __truediv__(self, other: Any) -> Expr:
        return make("div", self, as_expr(other))

    def __rtruediv__(self, other: Any) -> Expr:
        return make("div", as_expr(other), self)

    def __neg__(self) -> Expr:
        return make("neg", self)

    def __pos__(self) -> Expr:
        return self

    def _no_branch(self, *_: Any) -> Any:
        raise TypeError("a cell cannot branch on or compare a traced value: its code must be the same for every input")

    # Without these a comparison would be decided by identity, and the branch taken silently.
    __bool__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _no_branch  # type: ignore[assignment]
    __hash__ = object.__hash__
    # NumPy would otherwise try to loop over the node; None makes its functions raise TypeError.
    __array_ufunc__ = None

    def __float__(self) -> float:
        raise TypeError("a traced value is not a number: use the functions of fastrnn.ops")


# The nodes that are in use. Two threads that describe cells must not make one twice.
_nodes: WeakValueDictionary[tuple[str, tuple[Any, ...]], Expr] = WeakValueDictionary()
_making = Lock()


def _intern(op: str, args: tuple[Any, ...]) -> Expr:
    with _making:
        node = _nodes.get((op, args))
        if node is None:
            node = _nodes[op, args] = Expr(op, args)
        return node


def leaf(kind: str, name: Any) -> Expr:
    """A leaf of `kind` called `name`."""
    return _intern(kind, (name,))


def const(value: float) -> Expr:
    """The constant `value` in every unit."""
    return _intern("const", (float(value),))


def product(matrix: str, vector: Expr) -> Expr:
    """The recurrent matrix `matrix` applied to `vector`."""
    if vector.op == "const":
        raise ValueError(f"U.{matrix} @ takes a vector that depends on the step, got the constant {vector.args[0]}")
    return _intern("product", (matrix, vector))


def as_expr(value: Any) -> Expr:
    """`value` itself if it is a node, else the constant of that number."""
    if isinstance(value, Expr):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(f"a constant of a cell must be finite, got {value}")
        return const(value)
    raise TypeError(f"a cell computes with its arguments and numbers, got {type(value).__name__}")


def is_const(node: Expr, value: float | None = None) -> bool:
    """Whether `node` is a constant (equal to `value`, if given)."""
    return node.op == "const" and (value is None or node.args[0] == value)


def make(op: str, *args: Expr) -> Expr:
    """The node ``op(*args)``, with constants folded and neutral elements dropped."""
    if all(a.op == "const" for a in args):
        table: dict[str, Callable[..., float]] = {**UNARY, **BINARY}
        return const(table[op](*(a.args[0] for a in args)))
    if op in BINARY:
        a, b = args
        if op == "add" and is_const(a, 0):
            return b
        if op in ("add", "sub") and is_const(b, 0):
            return a
        if op == "sub" and is_const(a, 0):
            return make("neg", b)
        if op == "mul" and (is_const(a, 0) or is_const(b, 0)):
            return const(0)
        if op == "mul" and is_const(a, 1):
            return b
        if op in ("mul", "div") and is_const(b, 1):
            return a
    if op == "neg" and args[0].op == "neg":
        inner: Expr = args[0].args[0]
        return inner
    return _intern(op, args)


def _function(op: str) -> Callable[[Any], Expr]:
    def apply(value: Any) -> Expr:
        return make(op, as_expr(value))

    apply.__name__ = apply.__qualname__ = op
    return apply


tanh = _function("tanh")
tanh.__doc__ = "Hyperbolic tangent of every unit."
sigmoid = _function("sigmoid")
sigmoid.__doc__ = "Logistic function ``1 / (1 + exp(-a))`` of every unit."
relu = _function("relu")
relu.__doc__ = "``max(a, 0)`` of every unit; its derivative at 0 is 0."
exp = _function("exp")
exp.__doc__ = "Exponential of every unit."
softplus = _function("softplus")
softplus.__doc__ = "``log(1 + exp(a))`` of every unit."
positive = _function("positive")
positive.__doc__ = "1 where ``a > 0``, else 0: the derivative of `relu`; its own derivative is 0."


def children(node: Expr) -> Iterator[Expr]:
    """The nodes that `node` is computed from, each once."""
    return iter(dict.fromkeys(a for a in node.args if isinstance(a, Expr)))


def topological(outputs: list[Expr], stop: Container[Expr] = ()) -> list[Expr]:
    """Every node that `outputs` depend on, arguments before users; nothing below a node in `stop`."""
    order: dict[Expr, None] = {}

    def visit(node: Expr) -> None:
        if node not in order:
            if node not in stop:
                for child in children(node):
                    visit(child)
            order[node] = None

    for output in outputs:
        visit(output)
    return list(order)


def transform(outputs: list[Expr], rule: Callable[[Expr], Expr]) -> list[Expr]:
    """`outputs` rebuilt from the leaves up, every rebuilt node replaced by ``rule(node)``."""
    new: dict[Expr, Expr] = {}
    for node in topological(outputs):
        args = tuple(new[a] if isinstance(a, Expr) else a for a in node.args)
        computed = node.op in UNARY or node.op in BINARY
        new[node] = rule(make(node.op, *args) if computed else _intern(node.op, args))
    return [new[output] for output in outputs]
