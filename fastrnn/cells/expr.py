"""The expression graph of a cell: H-vectors, elementwise operations, products with recurrent matrices.

The operations themselves are rows of a table: see :mod:`.operations`.

A node is interned: two expressions with the same operation and arguments are one object, so common
subexpressions are found by identity and every walk below is over a graph, not a tree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator
from threading import Lock
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakValueDictionary

import numpy as np

from .table import OPERATIONS


class Expr:
    """A node: an operation and its arguments (other nodes, or a leaf's name or value).

    Leaves are ``x`` (a gate's input projection), ``state``, ``unit`` (a per-unit parameter), ``const``
    and, in a backward pass, ``dstate`` and ``dvec``; ``product`` is a recurrent matrix times a vector.
    """

    __slots__ = ("__weakref__", "args", "op")

    def __init__(self, op: str, args: tuple[Any, ...]) -> None:
        self.op = op
        self.args = args

    def __repr__(self) -> str:
        return f"{self.op}({', '.join(map(str, self.args))})"


class Vector(Expr):
    """An H-vector of a cell: a state, a gate's input projection, a parameter, or what is computed of them."""

    __slots__ = ()

    def __add__(self, other: Operand) -> Vector:
        return _apply("add", self, other)

    def __radd__(self, other: Operand) -> Vector:
        return _apply("add", other, self)

    def __sub__(self, other: Operand) -> Vector:
        return _apply("sub", self, other)

    def __rsub__(self, other: Operand) -> Vector:
        return _apply("sub", other, self)

    def __mul__(self, other: Operand) -> Vector:
        return _apply("mul", self, other)

    def __rmul__(self, other: Operand) -> Vector:
        return _apply("mul", other, self)

    def __truediv__(self, other: Operand) -> Vector:
        return _apply("div", self, other)

    def __rtruediv__(self, other: Operand) -> Vector:
        return _apply("div", other, self)

    def __neg__(self) -> Vector:
        return _apply("neg", self)

    def __pos__(self) -> Vector:
        return self

    def __abs__(self) -> Vector:
        return _apply("abs", self)

    def __lt__(self, other: Operand) -> Condition:
        return _compare("lt", self, other)

    def __gt__(self, other: Operand) -> Condition:
        return _compare("lt", other, self)

    def __le__(self, other: Operand) -> Condition:
        return _compare("le", self, other)

    def __ge__(self, other: Operand) -> Condition:
        return _compare("le", other, self)

    if not TYPE_CHECKING:  # For a type checker these are what every object has.

        def __eq__(self, other: Any) -> NoReturn:
            # Without this a comparison would be decided by identity, and the branch taken silently.
            raise TypeError("== and != of traced values are not part of a cell: compare by < <= > >= in ops.where")

        __ne__ = __eq__

        def __bool__(self) -> NoReturn:
            raise TypeError(
                "a cell cannot branch on a traced value, as its code must be the same for every input: "
                "choose by ops.where(condition, a, b), ops.maximum or ops.minimum"
            )

        def __float__(self) -> NoReturn:
            raise TypeError("a traced value is not a number: use the functions of fastrnn.ops")

        def __array_ufunc__(self, function: Any, method: str, *operands: Any, **_: Any) -> Any:
            return _of_numpy(function, operands if method == "__call__" else ())

        def __array_function__(self, function: Any, types: Any, operands: Any, named: Any) -> Any:
            return _of_numpy(function, ())

    __hash__ = Expr.__hash__


class Rejecting:
    """What is no vector, and says so wherever it is used as one."""

    __slots__ = ()

    if not TYPE_CHECKING:  # A type checker finds that there are no such operators.

        def _reject(self, *_: Any, **__: Any) -> NoReturn:
            raise TypeError(self._advice())

        __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _reject
        __neg__ = __pos__ = __abs__ = __pow__ = __and__ = __or__ = __invert__ = __bool__ = __float__ = _reject
        __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = __matmul__ = __rmatmul__ = _reject
        __array_ufunc__ = __array_function__ = _reject
        __hash__ = object.__hash__

    def _advice(self) -> str:
        raise NotImplementedError


class Condition(Rejecting, Expr):
    """A comparison of two vectors, unit by unit: the first argument of ``ops.where``, and nothing else."""

    __slots__ = ()

    def _advice(self) -> str:
        return (
            "a condition (a comparison by < <= > >=) is no vector: it can only be given to ops.where(condition, a, b)"
        )


Operand = Vector | float


def _apply(op: str, *operands: Operand) -> Vector:
    return make(op, *map(as_vector, operands))


def _compare(op: str, *operands: Operand) -> Condition:
    node: Any = make(op, *map(as_vector, operands))
    assert isinstance(node, Condition)
    return node


_MIRRORED = {np.greater: np.less, np.greater_equal: np.less_equal}


def _of_numpy(function: Any, operands: tuple[Any, ...]) -> Any:
    """What NumPy's operators make of a number of its own and a vector; its functions are refused."""
    if function in _MIRRORED:
        return _of_numpy(_MIRRORED[function], operands[::-1])
    name = next((name for name, row in OPERATIONS.items() if row.numpy is function), "")
    if name and operands and (OPERATIONS[name].symbol or OPERATIONS[name].condition):
        # A number that is compared comes as an array without axes.
        numbers = [o.item() if isinstance(o, np.ndarray) and o.ndim == 0 else o for o in operands]
        return make(name, *map(as_vector, numbers))
    written = f"np.{getattr(function, '__name__', function)}"
    if name and OPERATIONS[name].doc:
        raise TypeError(f"{written} does not know a cell's vectors: use fastrnn.ops.{name}")
    known = ", ".join(sorted(name for name, row in OPERATIONS.items() if row.doc))
    raise TypeError(
        f"{written} does not know a cell's vectors and has no counterpart in fastrnn.ops, which has: {known}"
    )


# The nodes that are in use. Two threads that describe cells must not make one twice.
_nodes: WeakValueDictionary[tuple[str, tuple[Any, ...]], Any] = WeakValueDictionary()
_making = Lock()


def _intern(op: str, args: tuple[Any, ...]) -> Any:
    with _making:
        node = _nodes.get((op, args))
        if node is None:
            condition = op in OPERATIONS and OPERATIONS[op].condition
            node = _nodes[op, args] = (Condition if condition else Vector)(op, args)
        return node


def leaf(kind: str, name: Any) -> Vector:
    """A leaf of `kind` called `name`."""
    node: Vector = _intern(kind, (name,))
    return node


def const(value: float) -> Vector:
    """The constant `value` in every unit."""
    node: Vector = _intern("const", (float(value),))
    return node


def product(matrix: str, vector: Vector) -> Vector:
    """The recurrent matrix `matrix` applied to `vector`."""
    if vector.op == "const":
        raise ValueError(f"U.{matrix} @ takes a vector that depends on the step, got the constant {vector.args[0]}")
    node: Vector = _intern("product", (matrix, vector))
    return node


def as_vector(value: Any) -> Vector:
    """`value` itself if it is a vector, else the constant of that number."""
    if isinstance(value, Vector):
        return value
    if isinstance(value, Rejecting):
        raise TypeError(value._advice())
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(f"a constant of a cell must be finite, got {value}")
        return const(value)
    raise TypeError(f"a cell computes with its arguments and numbers, got {type(value).__name__}")


def as_condition(value: Any) -> Condition:
    """`value` itself, which must be a comparison."""
    if isinstance(value, Condition):
        return value
    raise TypeError(f"ops.where takes a comparison of vectors such as a < b first, got {type(value).__name__}")


def is_const(node: Expr, value: float | None = None) -> bool:
    """Whether `node` is a constant (equal to `value`, if given)."""
    return node.op == "const" and (value is None or node.args[0] == value)


def make(op: str, *args: Expr) -> Vector:
    """The node ``op(*args)``, a condition if it is a comparison; constants are folded and neutral elements dropped."""
    simpler = _simpler(op, args)
    node: Vector = _intern(op, args) if simpler is None else simpler
    return node


def _simpler(op: str, args: tuple[Any, ...]) -> Any:
    """The node that ``op(*args)`` is the same as, if there is one."""
    if op == "where":
        condition, a, b = args
        if all(is_const(c) for c in condition.args):
            return a if _fold(condition.op, condition.args) else b
        return a if a is b else None
    if OPERATIONS[op].condition:
        return None
    if all(a.op == "const" for a in args):
        return const(_fold(op, args))
    if op == "neg":
        return args[0].args[0] if args[0].op == "neg" else None
    return _without_neutral(op, *args) if OPERATIONS[op].symbol else None


def _without_neutral(op: str, a: Expr, b: Expr) -> Any:
    """``a op b`` of an arithmetic operation where one of them is 0 or 1."""
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
    return a if op in ("mul", "div") and is_const(b, 1) else None


def _fold(op: str, args: tuple[Expr, ...]) -> float:
    """The number that the operation gives for constants."""
    values = [a.args[0] for a in args]
    with np.errstate(all="ignore"):
        result = float(OPERATIONS[op].numpy(*values))
    if not math.isfinite(result):
        raise ValueError(f"{op} of the constant{'s' * (len(values) > 1)} {', '.join(map(str, values))} is {result}")
    return result


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
        new[node] = rule(make(node.op, *args) if node.op in OPERATIONS else _intern(node.op, args))
    return [new[output] for output in outputs]
