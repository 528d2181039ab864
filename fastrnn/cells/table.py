"""The table of operations: what a row says. The rows themselves are in :mod:`.operations`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

Formula = Callable[..., Any]
_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Operation:
    """An elementwise operation of a cell.

    Attributes
    ----------
    numpy : callable
        The operation itself, on arrays and numbers: what the NumPy backend computes, and constants are folded by.
    vectors : callable or pair of callables
        What the compiled backends (Numba, C++) compute, as a formula of vectors that is traced into their code: see
        :mod:`.elementary`. Two formulas are the ones for float32 and for float64.
    derivative : callable
        For ``y = op(*args)`` with adjoint ``g``, ``derivative(g, y, *args)`` gives the adjoint of each argument, None
        for a condition. Linear in ``g`` and elementwise, so that tangents follow from it as well: that of ``y`` is the
        sum over the arguments of ``derivative(tangent of arg i, y, *args)[i]``. Written with ``y`` where that saves
        keeping an argument, and with ``where`` rather than a product where the derivative is 0.
    symbol : str
        How Python and C++ write it, if not as a function.
    transcendental : bool
        Costly enough that the backward pass keeps the result instead of computing it again.
    condition : bool
        Whether it gives a condition instead of a vector.
    doc : str
        What users read; empty for operations that they write as operators.
    """

    numpy: Callable[..., Any]
    vectors: Formula | tuple[Formula, Formula]
    derivative: Callable[..., tuple[Any, ...]]
    symbol: str = ""
    transcendental: bool = False
    condition: bool = False
    doc: str = ""

    def formula(self, double: bool) -> Formula:
        """What the compiled backends compute in float32, or in float64."""
        return self.vectors[double] if isinstance(self.vectors, tuple) else self.vectors


# Filled by `operations`, which the package imports before anything looks here.
OPERATIONS: dict[str, Operation] = {}


def operation(**row: Any) -> Callable[[_F], _F]:
    """Enter the decorated function, which users call, into the table under its name."""

    def enter(function: _F) -> _F:
        OPERATIONS[function.__name__] = Operation(**row, doc=function.__doc__ or "")
        return function

    return enter
