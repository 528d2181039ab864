"""Running a cell's description once on symbols, with errors that name the cell and the line."""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from .expr import Expr, Vector, as_vector, leaf, product, topological


class CellError(ValueError):
    """A cell's description is not one that can be compiled; the message names the cell and the line."""


class _Names:
    """Attribute access to a fixed set of names: ``x.i``, ``U.n``, ``p.tau``."""

    def __init__(self, what: str, names: Sequence[str], get: Callable[[str], Any]) -> None:
        self._what, self._names, self._get = what, names, get

    def __getattr__(self, name: str) -> Any:
        if name not in self._names:
            known = ", ".join(self._names) or "none"
            raise AttributeError(f"no {self._what} called {name!r}; the cell declares: {known}")
        return self._get(name)


class _Matrix:
    """A recurrent matrix, which can only be applied to a vector."""

    __array_ufunc__ = None

    def __init__(self, name: str) -> None:
        self._name = name

    def __matmul__(self, vector: Any) -> Expr:
        if not isinstance(vector, Vector):
            raise TypeError(f"U.{self._name} @ takes a vector of the cell, got {type(vector).__name__}")
        return product(self._name, vector)

    def __rmatmul__(self, vector: Any) -> NoReturn:
        raise TypeError(f"write U.{self._name} @ vector, the matrix first")


def trace(
    name: str,
    function: Callable[..., Any],
    arguments: Sequence[str],
    names: Mapping[str, Sequence[str]],
    constants: Mapping[str, float],
) -> tuple[Expr, ...]:
    """The expressions of a cell's new states.

    `names` holds what the description declares, by kind: ``gates``, ``recurrent``, ``units``, ``states``.
    """
    symbols: dict[str, Any] = {s: leaf("state", s) for s in names["states"]}
    symbols["x"] = _Names("gate", names["gates"], lambda n: leaf("x", n))
    symbols["U"] = _Names("recurrent matrix", names["recurrent"], _Matrix)
    symbols["p"] = _Names("per-unit parameter", names["units"], lambda n: leaf("unit", n))
    try:
        result = function(*(symbols[a] for a in arguments), **constants)
        values = result if isinstance(result, tuple | list) else (result,)
        outputs = tuple(as_vector(v) for v in values)
    except Exception as error:
        raise CellError(f"{where(name, function, error)}: {error}") from error
    _check_complete(f"{where(name, function)}:", outputs, names)
    return outputs


def _check_complete(place: str, outputs: tuple[Expr, ...], names: Mapping[str, Sequence[str]]) -> None:
    states = names["states"]
    if len(outputs) != len(states):
        raise CellError(
            f"{place} expected the new value of every state ({', '.join(states)}), in that order, "
            f"got {len(outputs)} value(s)"
        )
    reached = topological(list(outputs))
    used = {
        "gates": {n.args[0] for n in reached if n.op == "x"},
        "recurrent": {n.args[0] for n in reached if n.op == "product"},
        "units": {n.args[0] for n in reached if n.op == "unit"},
    }
    for kind, found in used.items():
        missing = [n for n in names[kind] if n not in found]
        if missing:
            raise CellError(f"{place} {kind} declared but never used in a new state: {', '.join(missing)}")


def where(name: str, function: Callable[..., Any], error: Exception | None = None) -> str:
    """``cell 'name' (file:line: source)``: where `error` left the description, or where it begins."""
    code = function.__code__
    line = code.co_firstlineno
    for frame in traceback.extract_tb(error.__traceback__) if error else ():
        if frame.filename == code.co_filename and frame.lineno is not None:
            line = frame.lineno
    source = linecache.getline(code.co_filename, line).strip()
    return f"cell {name!r} ({code.co_filename}:{line}{': ' + source if source else ''})"
