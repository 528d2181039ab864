"""Running a cell's description once on symbols, with errors that name the cell and the line."""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .expr import Expr, as_vector, leaf, topological
from .symbols import Inputs, Matrices, Parameters

# Arguments of a description that are not states.
RESERVED = ("x", "U", "p")


class CellError(ValueError):
    """A cell's description is not one that can be compiled; the message names the cell and the line."""


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
    symbols = _symbols(names["states"], names["gates"], names["recurrent"], names["units"])
    try:
        result = function(*(symbols[a] for a in arguments), **constants)
        values = result if isinstance(result, tuple | list) else (result,)
        outputs = tuple(as_vector(v) for v in values)
    except Exception as error:
        raise CellError(f"{where(name, function, error)}: {error}") from error
    _check_complete(f"{where(name, function)}:", outputs, names)
    return outputs


def names_used(function: Callable[..., Any], arguments: Sequence[str]) -> dict[str, str]:
    """What a description that declares nothing would have to declare, by keyword of :func:`~.cell.cell`."""
    symbols = _symbols([a for a in arguments if a not in RESERVED], None, None, None)
    function(*(symbols[a] for a in arguments))
    return {symbols[a].keyword: " ".join(symbols[a].names) for a in RESERVED if a in arguments}


def _symbols(
    states: Iterable[str],
    gates: Iterable[str] | None,
    recurrent: Iterable[str] | None,
    units: Iterable[str] | None,
) -> dict[str, Any]:
    """What a description is run on, by the name of the argument."""
    named = {"x": Inputs(gates), "U": Matrices(recurrent), "p": Parameters(units)}
    return {**{state: leaf("state", state) for state in states}, **named}


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
