"""The operations of cells, a row each: the only place that a new operation is written in.

A row is a function that users call, under what the rest of the library knows of it (see
:class:`~.table.Operation`); those that users write as operators stand at the end. ``a``, ``b`` are operands, ``y`` the
result, ``g`` its adjoint. A formula of vectors may use the operations above it.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from . import elementary as e
from .expr import Condition, Operand, Vector, as_condition, as_vector, make
from .table import OPERATIONS, Operation, operation


def _sigmoid(a: Any) -> Any:
    # exp of minus the magnitude cannot overflow.
    small = np.exp(-np.abs(a))
    return np.where(np.greater_equal(a, 0), 1, small) / (1 + small)


def _vector(op: str, *operands: Operand) -> Vector:
    return make(op, *map(as_vector, operands))


def _select(condition: Condition, a: Operand, b: Operand) -> Vector:
    return make("where", as_condition(condition), as_vector(a), as_vector(b))


@operation(
    numpy=np.where,
    vectors=lambda c, a, b: e.less(c, 0.5, b, a),
    derivative=lambda g, y, c, a, b: (None, _select(c, g, 0), _select(c, 0, g)),
)
def where(condition: Condition, a: Operand, b: Operand) -> Vector:
    """`a` in the units where `condition` holds, `b` in the others.

    `condition` is a comparison of vectors or numbers by ``<``, ``<=``, ``>`` or ``>=``. What is not taken has no
    influence: not its value, and its gradient is 0 even where its derivative is infinite or NaN.
    """
    return _select(condition, a, b)


@operation(
    numpy=np.exp,
    vectors=(e.exp32, e.exp64),
    derivative=lambda g, y, a: (g * y,),
    transcendental=True,
)
def exp(a: Operand) -> Vector:
    """Exponential of every unit."""
    return _vector("exp", a)


@operation(
    numpy=np.tanh,
    vectors=(e.tanh32, e.tanh64),
    derivative=lambda g, y, a: (g * (1 - y * y),),
    transcendental=True,
)
def tanh(a: Operand) -> Vector:
    """Hyperbolic tangent of every unit."""
    return _vector("tanh", a)


@operation(
    numpy=_sigmoid,
    vectors=(e.sigmoid32, e.sigmoid64),
    derivative=lambda g, y, a: (g * (y * (1 - y)),),
    transcendental=True,
)
def sigmoid(a: Operand) -> Vector:
    """Logistic function ``1 / (1 + exp(-a))`` of every unit."""
    return _vector("sigmoid", a)


@operation(
    numpy=lambda a: np.clip((a + 3) / 6, 0, 1),
    vectors=e.hard_sigmoid,
    derivative=lambda g, y, a: (where(a > -3, where(a < 3, g / 6, 0), 0),),
)
def hard_sigmoid(a: Operand) -> Vector:
    """``a / 6 + 1/2`` between the limits 0 and 1, for every unit; its derivative at -3 and 3 is 0.

    The definition of PyTorch and of Keras 3; that of earlier versions of Keras has the slope 1/5.
    """
    return _vector("hard_sigmoid", a)


@operation(
    numpy=lambda a: np.maximum(a, 0),
    vectors=lambda a: e.less(a, 0.0, 0.0, a),
    derivative=lambda g, y, a: (where(y > 0, g, 0),),
)
def relu(a: Operand) -> Vector:
    """``max(a, 0)`` of every unit; its derivative at 0 is 0."""
    return _vector("relu", a)


@operation(
    numpy=lambda a: np.maximum(a, 0) + np.log1p(np.exp(-np.abs(a))),
    vectors=(e.softplus32, e.softplus64),
    derivative=lambda g, y, a: (g * sigmoid(a),),
    transcendental=True,
)
def softplus(a: Operand) -> Vector:
    """``log(1 + exp(a))`` of every unit."""
    return _vector("softplus", a)


@operation(
    numpy=np.log,
    vectors=(e.log32, e.log64),
    derivative=lambda g, y, a: (g / a,),
    transcendental=True,
)
def log(a: Operand) -> Vector:
    """Natural logarithm of every unit; minus infinity at 0, NaN below."""
    return _vector("log", a)


@operation(
    numpy=np.sqrt,
    vectors=(e.sqrt32, e.sqrt64),
    derivative=lambda g, y, a: (0.5 * g / y,),
)
def sqrt(a: Operand) -> Vector:
    """Square root of every unit; NaN below 0. Its derivative at 0 is infinite."""
    return _vector("sqrt", a)


@operation(
    numpy=np.sin,
    vectors=(e.sin32, e.sin64),
    derivative=lambda g, y, a: (g * _vector("cos", a),),
    transcendental=True,
)
def sin(a: Operand) -> Vector:
    """Sine of every unit, in radians."""
    return _vector("sin", a)


@operation(
    numpy=np.cos,
    vectors=(e.cos32, e.cos64),
    derivative=lambda g, y, a: (-(g * _vector("sin", a)),),
    transcendental=True,
)
def cos(a: Operand) -> Vector:
    """Cosine of every unit, in radians."""
    return _vector("cos", a)


@operation(
    numpy=np.abs,
    vectors=e.magnitude,
    derivative=lambda g, y, a: (where(a > 0, g, where(a < 0, -g, 0)),),
)
def abs(a: Operand) -> Vector:
    """Absolute value of every unit; its derivative at 0 is 0."""
    return _vector("abs", a)


@operation(
    numpy=np.maximum,
    vectors=lambda a, b: e.less_equal(b, b, e.less(a, b, b, a), b),
    derivative=lambda g, y, a, b: (_of_the_first(g, b, a), _of_the_first(g, a, b)),
)
def maximum(a: Operand, b: Operand) -> Vector:
    """The larger of `a` and `b` in every unit, NaN if either is; where they are equal each gets half the gradient."""
    return _vector("maximum", a, b)


@operation(
    numpy=np.minimum,
    vectors=lambda a, b: e.less_equal(b, b, e.less(b, a, b, a), b),
    derivative=lambda g, y, a, b: (_of_the_first(g, a, b), _of_the_first(g, b, a)),
)
def minimum(a: Operand, b: Operand) -> Vector:
    """The smaller of `a` and `b` in every unit, NaN if either is; where they are equal each gets half the gradient."""
    return _vector("minimum", a, b)


def _of_the_first(g: Vector, a: Vector, b: Vector) -> Vector:
    """`g` where ``a < b``, half of it where they are equal, else 0."""
    return where(b < a, 0, where(a < b, g, 0.5 * g))


OPERATIONS |= {
    "add": Operation(np.add, operator.add, lambda g, y, a, b: (g, g), symbol="+"),
    "sub": Operation(np.subtract, operator.sub, lambda g, y, a, b: (g, -g), symbol="-"),
    "mul": Operation(np.multiply, operator.mul, lambda g, y, a, b: (g * b, g * a), symbol="*"),
    "div": Operation(np.divide, operator.truediv, lambda g, y, a, b: (g / b, -(g * y / b)), symbol="/"),
    "neg": Operation(np.negative, operator.neg, lambda g, y, a: (-g,), symbol="-"),
    # To the compiled backends a condition is a vector of ones and zeros, which they can keep like any other.
    "lt": Operation(np.less, lambda a, b: e.less(a, b, 1.0, 0.0), lambda g, y, a, b: (None, None), condition=True),
    "le": Operation(
        np.less_equal, lambda a, b: e.less_equal(a, b, 1.0, 0.0), lambda g, y, a, b: (None, None), condition=True
    ),
}

if not TYPE_CHECKING:  # A type checker reads literal lists only; without one it finds every function.
    # What users call.
    __all__ = [name for name, row in OPERATIONS.items() if row.doc]
