"""What a cell's description is run on, besides states: ``x``, ``U`` and ``p``, whose attributes the cell declares."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from .expr import Rejecting, Vector, leaf, product


class _Names(Rejecting):
    """Attributes by declared name; without a declaration any name will do, and is noted in `names`."""

    symbol, what, keyword = "", "", ""

    def __init__(self, declared: Iterable[str] | None) -> None:
        self._open = declared is None
        self.names = dict.fromkeys(declared or ())

    def _declared(self, name: str) -> str:
        """`name`, if there is such an attribute."""
        if self._open and not name.startswith("_"):
            self.names[name] = None
        if name not in self.names:
            raise AttributeError(
                f"{self.symbol}.{name}: the cell has no {self.what} called {name!r}; "
                f"it declares {self.keyword}={' '.join(self.names)!r}: add the name there"
            )
        return name

    def _advice(self) -> str:
        written = " or ".join(f"{self.symbol}.{name}" for name in self.names) or f"{self.symbol}.name"
        return (
            f"{self.symbol} is not a vector: its attributes are the {self.what}s that {self.keyword}= declares; "
            f"write {written}"
        )


class Inputs(_Names):
    """``x``: its attributes are the gates' projections of the input."""

    symbol, what, keyword = "x", "gate", "gates"

    def __getattr__(self, name: str) -> Vector:
        return leaf("x", self._declared(name))


class Parameters(_Names):
    """``p``: its attributes are the per-unit parameters."""

    symbol, what, keyword = "p", "per-unit parameter", "units"

    def __getattr__(self, name: str) -> Vector:
        return leaf("unit", self._declared(name))


class Matrix(Rejecting):
    """A recurrent matrix, which can only be applied to a vector: ``U.f @ h``."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __matmul__(self, vector: Vector) -> Vector:
        if not isinstance(vector, Vector):
            raise TypeError(f"U.{self._name} @ takes a vector of the cell, got {type(vector).__name__}")
        return product(self._name, vector)

    if not TYPE_CHECKING:

        def __rmatmul__(self, vector: Any) -> NoReturn:
            raise TypeError(f"write U.{self._name} @ vector, the matrix first")

    def _advice(self) -> str:
        return f"U.{self._name} is a matrix, to be applied to a vector by @: write U.{self._name} @ h"


class Matrices(_Names):
    """``U``: its attributes are the recurrent matrices."""

    symbol, what, keyword = "U", "recurrent matrix", "recurrent"

    def __getattr__(self, name: str) -> Matrix:
        return Matrix(self._declared(name))

    def _advice(self) -> str:
        first = next(iter(self.names), "name")
        return f"U is not a matrix: its attributes are those that recurrent= declares; write U.{first} @ h"
