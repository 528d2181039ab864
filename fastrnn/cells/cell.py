"""`@cell`: a recurrent cell described once, as a function of vectors."""

from __future__ import annotations

import importlib
import inspect
import keyword
import pickle
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any
from uuid import uuid4
from weakref import WeakValueDictionary

from .expr import Expr
from .trace import RESERVED, CellError, names_used, trace, where


@dataclass(frozen=True, eq=False, repr=False)
class Cell:
    """A recurrent cell: what it is called, what it declares, and the expressions of its new states.

    Made by the decorator :func:`cell`. Calling a cell with new values for its keyword-only constants
    gives another cell, ``leaky(tau=5.0)``; with the same values, the same one.

    A cell is pickled by module and name, as a function is, with its constants. One that its function's name does not
    lead to (a local function, a lambda) can be pickled by `cloudpickle`, which takes the function itself along; so can
    one of a script or a notebook, where the other process has no such name.

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
    _description: _Description = field(repr=False)

    def __call__(self, **constants: float) -> Cell:
        """The same cell with other values for its constants.

        Parameters
        ----------
        **constants : float
            New values; the others stay.

        Returns
        -------
        Cell
            The same object for the same values.

        Raises
        ------
        TypeError
            If the description has no such keyword-only argument.
        """
        for key in constants:
            if key not in self.constants:
                known = ", ".join(self.constants) or "none"
                raise TypeError(f"cell {self.name!r} has no constant {key!r}; its constants: {known}")
        return self._description.cell({**self.constants, **constants})

    def __copy__(self) -> Cell:
        # Nothing in it changes, and backends know the built-in cells by identity.
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Cell:
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        description, constants = self._description, dict(self.constants)
        place = description.place()
        # Before protocol 4 a name with a dot, as that of `_source`, is looked up in the pickled cell itself.
        if place and (place[0] != "__main__" or protocol < 4):
            return _by_name, (*place, constants)
        again = description.trace(constants)
        if not all(new is old for new, old in zip(again, self.outputs, strict=True)):
            raise pickle.PicklingError(
                f"cell {self.name!r}: what its function refers to has changed since the cell was made, so that another "
                "process would make another cell of it; give such values as keyword-only constants"
            )
        return _by_source, (description.source if place else description.nameless_source(), self._token, constants)

    @property
    def _source(self) -> Callable[[], _Description]:
        return self._description.source

    @cached_property
    def _token(self) -> str:
        """By this a process knows a cell again that came without a name."""
        token = uuid4().hex
        _known[token] = self
        return token

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
    function: None = None,
    /,
    *,
    gates: str | Iterable[str] = (),
    recurrent: str | Iterable[str] | None = None,
    units: str | Iterable[str] = (),
    name: str | None = None,
) -> Callable[[Callable[..., Any]], Cell]:
    """Make a :class:`Cell` of a function from old states to new states.

    The function's arguments are, by name: ``x``, whose attributes are the gates' input projections;
    ``U``, whose attributes are recurrent matrices, to be applied with ``@``; ``p``, whose attributes are
    per-unit parameters; every other positional argument is a state, and keyword-only arguments are
    constants. It computes with ``+ - * /``, numbers, and the functions of :mod:`fastrnn.ops` (where
    ``< <= > >=`` compare), and returns the new states in the order of the old ones. It is run once, on
    symbols; :mod:`fastrnn.typing` has types for them.

    Parameters
    ----------
    function : None
        Not given: ``@cell`` without parentheses is an error that says what to write.
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

    if function is not None:
        raise _without_parentheses(function)

    def make(function: Callable[..., Any]) -> Cell:
        description = _Description(function, name or function.__name__, gates, recurrent, units)
        return description.cell(description.defaults)

    return make


def _without_parentheses(function: Any) -> Exception:
    """The error for ``@cell`` without parentheses, which says what to write.

    The names are not taken from there: their order is that of the parameters' columns, and of files of models.
    """
    if not inspect.isroutine(function):
        return TypeError(f"cell: expected the names of the gates as gates=, got {function!r} without a keyword")
    try:
        used = names_used(function, _signature(function.__name__, function)[0])
    except Exception:
        used = {"gates": "..."}
    if used.get("recurrent") == used.get("gates"):
        del used["recurrent"]
    declared = ", ".join(f'{keyword}="{names}"' for keyword, names in used.items() if names)
    return CellError(f"{where(function.__name__, function)}: a cell declares its names: write @cell({declared})")


class _Description:
    """The function of a cell with what it declares: makes the cell for any values of its constants."""

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        gates: str | Iterable[str],
        recurrent: str | Iterable[str] | None,
        units: str | Iterable[str],
    ) -> None:
        self.function, self.name = function, name
        self.arguments, self.defaults = _signature(name, function)
        gate_names = _split(name, "gates", gates)
        matrices = gate_names if recurrent is None else _split(name, "recurrent", recurrent)
        self.names = {
            "gates": gate_names,
            "recurrent": matrices if "U" in self.arguments else (),
            "units": _split(name, "units", units),
            "states": tuple(a for a in self.arguments if a not in RESERVED),
        }
        clash = {"Wx", "Wh", "bx", "bh"} & set(self.names["units"])
        if clash:
            raise CellError(f"cell {name!r}: units may not be called {', '.join(sorted(clash))}")
        for what, found in (("gate", gate_names), ("state argument", self.names["states"])):
            if not found:
                raise CellError(f"{where(name, function)}: expected at least one {what}")
        self._cells: WeakValueDictionary[tuple[Any, ...], Cell] = WeakValueDictionary()

    def __reduce__(self) -> tuple[Any, ...]:
        names = self.names
        return _Description, (self.function, self.name, names["gates"], names["recurrent"], names["units"])

    def cell(self, constants: Mapping[str, float]) -> Cell:
        """The cell with these constants, one object: what is compiled for it is found by identity."""
        for key, value in constants.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise CellError(f"cell {self.name!r}: constant {key} must be a number, got {value!r}")
        outputs = self.trace(constants)
        made = Cell(self.name, **self.names, constants=constants, outputs=outputs, _description=self)
        # By the text of the numbers, as 2 and 2.0 are equal; by the outputs, as a function may refer to what changes.
        return self._cells.setdefault((repr(constants), *map(id, outputs)), made)

    def trace(self, constants: Mapping[str, float]) -> tuple[Expr, ...]:
        """The expressions of the new states."""
        return trace(self.name, self.function, self.arguments, self.names, constants)

    def place(self) -> tuple[str, str] | None:
        """Module and name of a cell of this description, if the function's name leads to one."""
        module, path = self.function.__module__, self.function.__qualname__
        found = _at(sys.modules.get(module), path)
        return (module, path) if isinstance(found, Cell) and found._description is self else None

    @cached_property
    def source(self) -> Callable[[], _Description]:
        """This description as a function, which pickle finds by its name and cloudpickle takes along from a script."""
        return self._as_function(self.function.__module__, f"{self.function.__qualname__}._source")

    def nameless_source(self) -> Callable[[], _Description]:
        """The same for cloudpickle alone."""
        # pickle looks in vain for the name of the function, and shows it in its error: a place for what to do.
        why = "not at the top level of a module under its function's name: put it there, or use cloudpickle"
        return self._as_function(__name__, f"cell {self.name!r} ({why})")

    def _as_function(self, module: str, qualname: str) -> Callable[[], _Description]:
        def source() -> _Description:
            return self

        source.__module__, source.__qualname__ = module, qualname
        return source


# Cells that were pickled or unpickled with their function, by token.
_known: WeakValueDictionary[str, Cell] = WeakValueDictionary()


def _by_name(module: str, path: str, constants: Mapping[str, float]) -> Cell:
    found = _at(importlib.import_module(module), path)
    if not isinstance(found, Cell):
        got = "nothing" if found is None else f"an object of type {type(found).__name__}"
        raise pickle.UnpicklingError(f"expected the cell {path!r} in module {module!r}, found {got}")
    return found(**constants)


def _by_source(source: Callable[[], _Description], token: str, constants: Mapping[str, float]) -> Cell:
    if token not in _known:
        made = source().cell(constants)
        made.__dict__.setdefault("_token", token)
        return _known.setdefault(token, made)
    return _known[token]


def _at(module: Any, path: str) -> Any:
    """What `path`, names with dots between, leads to from `module`; None if nothing is there."""
    return reduce(lambda place, name: getattr(place, name, None), path.split("."), module)


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
