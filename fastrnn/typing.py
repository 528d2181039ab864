"""Types for annotating the description of a cell, so that a type checker understands it.

The minimal gated unit, annotated:

>>> from fastrnn.typing import Inputs, Matrices, Vector
>>> @fastrnn.cell(gates="f n")
... def mgu(x: Inputs, U: Matrices, h: Vector) -> Vector:
...     f = sigmoid(x.f + U.f @ h)
...     n = tanh(x.n + U.n @ (f * h))
...     return (1 - f) * h + f * n

Inputs
    ``x``: attributes are the gates' projections of the input, each a `Vector`.
Matrices
    ``U``: attributes are the recurrent matrices, each a `Matrix`, to be applied with ``@``.
Parameters
    ``p``: attributes are the per-unit parameters, each a `Vector`.
Vector
    A state, and everything that is computed from it.
Condition
    A comparison of vectors, the first argument of :func:`fastrnn.ops.where`.
Matrix
    One of the recurrent matrices.
"""

from .cells.expr import Condition, Vector
from .cells.symbols import Inputs, Matrices, Matrix, Parameters

__all__ = ["Condition", "Inputs", "Matrices", "Matrix", "Parameters", "Vector"]
