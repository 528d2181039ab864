"""`@cell`: a recurrent cell described once, as a function of vectors."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .expr import Expr
from .trace import CellError, trace, where

_RESERVED = ("x", "U", "p")


@dataclass(frozen=True, eq=False, repr=False)
class Cell:
    """A recurrent cell: what it is called, what it declares, and the expressions of its new states.

    Made by the decorator :func:`cell`. Calling a cell with new values for its keyword-only constants
    gives a new cell: ``leaky(tau=5.0)``.

    Attributes
    ----------
    name : str
        Name of the description.
    gates : tuple of str
        Input projections, in the order of the column blocks of ``Wx`` (D, G*H).
    recurrent : tuple of str
        Recurrent matrices, in the order of the column blocks of ``Wh`` (H, P*H).
    units : tuple of str
        Per-unit parameters, each a vector (H,).
    states : tuple of str
        States, in the order in which they are taken and returned; the first is the output.
    constants : mapping of str to float
        Values of the keyword-only arguments.
    outputs : tuple of Expr
        The new states.
    """

    name: str
    gates: tuple[str, ...]
    recurrent: tuple[str, ...]
    units: tuple[str, ...]
    states: tuple[str, ...]
    constants: Mapping[str, float]
    outputs: tuple[Expr, ...]
    _again: Callable[[Mapping[str, float]], Cell] = field(repr=False)

    def __call__(self, **constants: float) -> Cell:
        """The same cell with other values for its constants.

        Raises
        ------
        TypeError
            If the description has no such keyword-only argument.
        """
        for key in constants:
            if key not in self.constants:
                known = ", ".join(self.constants) or "none"
                raise TypeError(f"cell {self.name!r} has no constant {key!r}; its constants: {known}")
        return self._again({**self.constants, **constants})

    def __deepcopy__(self, memo: dict[int, Any]) -> Cell:
        # Nothing in it changes, and backends know the built-in cells by identity.
        return self

    def __repr__(self) -> str:
        values = "".join(f", {k}={v}" for k, v in self.constants.items())
        return f"<cell {self.name}: states {' '.join(self.states)}, gates {' '.join(self.gates)}{values}>"

    def param_shapes(self, input_size: int, hidden_size: int) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter, by name.

        Parameters
        ----------
        input_size, hidden_size : int
            D and H.

        Returns
        -------
        dict
            ``Wx`` (D, G*H), ``Wh`` (H, P*H), ``bx`` (G*H,), ``bh`` (P*H,), each per-unit parameter (H,);
            without the parts that the cell does not have.
        """
        h = hidden_size
        shapes: dict[str, tuple[int, ...]] = {}
        if self.gates:
            shapes |= {"Wx": (input_size, len(self.gates) * h), "bx": (len(self.gates) * h,)}
        if self.recurrent:
            shapes |= {"Wh": (h, len(self.recurrent) * h), "bh": (len(self.recurrent) * h,)}
        return shapes | {unit: (h,) for unit in self.units}


def cell(
    *,
    gates: str | Iterable[str],
    recurrent: str | Iterable[str] | None = None,
    units: str | Iterable[str] = (),
    name: str | None = None,
) -> Callable[[Callable[..., Any]], Cell]:
    """Make a :class:`Cell` of a function from old states to new states.

    The function's arguments are, by name: ``x``, whose attributes are the gates' input projections;
    ``U``, whose attributes are recurrent matrices, to be applied with ``@``; ``p``, whose attributes are
    per-unit parameters; every other positional argument is a state, and keyword-only arguments are
    constants. It computes with ``+ - * /``, numbers, and the functions of :mod:`fastrnn.ops`, and returns
    the new states in the order of the old ones. It is run once, on symbols.

    Parameters
    ----------
    gates : str or iterable of str
        Names of the input projections (a string is split at blanks).
    recurrent : str or iterable of str, optional
        Names of the recurrent matrices; those of the gates by default, none if there is no ``U``.
    units : str or iterable of str, optional
        Names of the per-unit parameters.
    name : str, optional
        Name of the cell; the function's by default.

    Returns
    -------
    decorator
        From the function to its :class:`Cell`.

    Raises
    ------
    CellError
        If the description cannot be compiled; the message names the cell and the line.

    Examples
    --------
    The minimal gated unit (Zhou et al. 2016, eq. 6):

    >>> @cell(gates="f n")
    ... def mgu(x, U, h):
    ...     f = sigmoid(x.f + U.f @ h)
    ...     n = tanh(x.n + U.n @ (f * h))
    ...     return (1 - f) * h + f * n
    """

    def make(function: Callable[..., Any]) -> Cell:
        return _describe(function, name or function.__name__, gates, recurrent, units)

    return make


def _describe(
    function: Callable[..., Any],
    name: str,
    gates: str | Iterable[str],
    recurrent: str | Iterable[str] | None,
    units: str | Iterable[str],
) -> Cell:
    arguments, defaults = _signature(name, function)
    gate_names = _split(name, "gates", gates)
    matrices = gate_names if recurrent is None else _split(name, "recurrent", recurrent)
    names = {
        "gates": gate_names,
        "recurrent": matrices if "U" in arguments else (),
        "units": _split(name, "units", units),
        "states": tuple(a for a in arguments if a not in _RESERVED),
    }
    clash = {"Wx", "Wh", "bx", "bh"} & set(names["units"])
    if clash:
        raise CellError(f"cell {name!r}: units may not be called {', '.join(sorted(clash))}")
    for what, found in (("gate", gate_names), ("state argument", names["states"])):
        if not found:
            raise CellError(f"{where(name, function)}: expected at least one {what}")

    def build(constants: Mapping[str, float]) -> Cell:
        for key, value in constants.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise CellError(f"cell {name!r}: constant {key} must be a number, got {value!r}")
        outputs = trace(name, function, arguments, names, constants)
        return Cell(name, **names, constants=constants, outputs=outputs, _again=build)

    return build(defaults)


def _signature(name: str, function: Callable[..., Any]) -> tuple[tuple[str, ...], dict[str, float]]:
    """Positional argument names, and the constants with their defaults."""
    positional, constants = [], {}
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.KEYWORD_ONLY and p.default is not p.empty:
            constants[p.name] = p.default
        elif p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty:
            positional.append(p.name)
        else:
            raise CellError(
                f"{where(name, function)}: argument {p.name}: expected positional arguments without a default, "
                "keyword-only ones with one"
            )
    return tuple(positional), constants


def _split(cell_name: str, what: str, names: str | Iterable[str]) -> tuple[str, ...]:
    result = tuple(names.split() if isinstance(names, str) else names)
    for n in result:
        if not isinstance(n, str) or not n.isidentifier() or keyword.iskeyword(n) or n.startswith("_"):
            raise CellError(f"cell {cell_name!r}: {what}: {n!r} is not a name that can follow a dot")
    if len(set(result)) != len(result):
        raise CellError(f"cell {cell_name!r}: {what}: the names must differ, got {' '.join(result)}")
    return result
