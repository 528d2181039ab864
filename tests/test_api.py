"""The public API: its names, their arguments and their docstrings.

What is public is what ``__all__`` of ``fastrnn`` and of its public modules lists, and the methods of those classes. The
list is ``tests/data/public_api.txt``; after a change that is meant, ``python tests/test_api.py`` writes it anew.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from numpydoc.docscrape import NumpyDocString
from numpydoc.validate import validate

import fastrnn

LIST = Path(__file__).parent / "data" / "public_api.txt"
MODULES = [fastrnn, *(found for name in fastrnn.__all__ if inspect.ismodule(found := getattr(fastrnn, name)))]
# What the arguments of a description are: nobody makes one.
TYPES = [getattr(fastrnn.typing, name) for name in fastrnn.typing.__all__]
# What numpydoc may not find: no docstring or summary, an argument that is missing or unknown, no Returns.
MISTAKES = {"GL08", "SS01", "SS03", "PR01", "PR02", "RT01"}
# The operations of a cell's description are mathematical functions of a vector: a line says which.
OPERATIONS = {f"fastrnn.cells.{name}" for name in fastrnn.ops.__all__} | {
    f"fastrnn.ops.{n}" for n in fastrnn.ops.__all__
}
# They only compute names or shapes, or hand on what has been checked.
NEVER_RAISE = ("fastrnn.Layer", ".param_shapes", ".torch_name", "Prepared.on", "Prepared.quick", "Prepared.stack")


def members() -> Iterator[tuple[str, Any]]:
    """Every public function, class, method and property, each under the first name that leads to it."""
    seen: set[int] = set()
    for module in MODULES:
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.ismodule(value) or id(value) in seen:
                continue
            seen.add(id(value))
            yield f"{module.__name__}.{name}", value
            if inspect.isclass(value):
                yield from ((f"{module.__name__}.{name}.{own}", member) for own, member in methods(value))


def methods(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties, without those that a public base class has documented."""
    for name in dir(cls):
        home = next(base for base in cls.__mro__ if name in vars(base))
        if home.__module__.startswith("fastrnn") and (name == "__call__" or name[0] != "_"):
            member = vars(home)[name]
            inherited = home is not cls and any(hasattr(base, name) for base in public_bases(cls))
            if not inherited and (isinstance(member, property) or callable(plain(member))):
                yield name, member


def public_bases(cls: type) -> list[type]:
    public = [getattr(module, name) for module in MODULES for name in module.__all__]
    return [base for base in cls.__mro__[1:] if base in public]


def refers(name: str, member: Any) -> bool:
    """Whether this is a method of a public base class over again, and its docstring says so."""
    doc = inspect.getdoc(plain(member)) or ""
    cls = functools.reduce(getattr, name.split(".")[1:-1], fastrnn)
    bases = public_bases(cls) if inspect.isclass(cls) else []
    return any(doc.startswith(f"See :meth:`{base.__name__}.{name.rpartition('.')[2]}`") for base in bases)


def plain(member: Any) -> Any:
    return member.__func__ if isinstance(member, staticmethod | classmethod) else member


def arguments(member: Any) -> list[inspect.Parameter]:
    """Without ``self`` and annotations."""
    return [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(plain(member)).parameters.values()
        if parameter.name not in ("self", "cls")
    ]


def described(name: str, member: Any) -> str:
    """A line of the list."""
    if isinstance(member, property | fastrnn.Cell) or is_result(member):
        return name
    return f"{name}{inspect.Signature(arguments(member))}"


def listed() -> str:
    return "".join(f"{line}\n" for line in sorted(described(*pair) for pair in members()))


def is_result(member: Any) -> bool:
    """Whether this is a class whose instances functions of the package make: its constructor is not for users."""
    if not inspect.isclass(member):
        return False
    return (
        is_dataclass(member)
        or member in TYPES
        or issubclass(member, tuple | Exception | fastrnn.Prepared | fastrnn.Pullback)
    )


CALLABLES = [pair for pair in members() if "(" in described(*pair)]


def test_the_public_api_is_the_one_that_is_listed() -> None:
    assert listed() == LIST.read_text(encoding="utf-8")


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_a_public_module_shows_nothing_but_its_public_names_and_its_own_modules(module: ModuleType) -> None:
    others = {name: getattr(module, name) for name in dir(module) if name[0] != "_" and name not in module.__all__}
    strays = {name for name, value in others.items() if getattr(value, "__name__", "") != f"{module.__name__}.{name}"}
    assert not strays
    assert module.__doc__ and len(set(module.__all__)) == len(module.__all__)


@pytest.mark.parametrize("name, member", [pytest.param(*pair, id=pair[0]) for pair in members()])
def test_every_docstring_says_what_goes_in_and_out(name: str, member: Any) -> None:
    if isinstance(member, fastrnn.Cell) or refers(name, member):
        return
    allowed = {"PR01", "RT01"} if name in OPERATIONS else {"PR01"} if is_result(member) else set()
    found = validate(name)
    if NumpyDocString(inspect.getdoc(plain(member)) or "")["Yields"]:
        allowed = {"RT01"}
    wrong = [error for error in found["errors"] if error[0] in MISTAKES - allowed]
    assert not wrong


@pytest.mark.parametrize("name, member", [pytest.param(*pair, id=pair[0]) for pair in CALLABLES if arguments(pair[1])])
def test_every_docstring_says_what_is_raised(name: str, member: Any) -> None:
    if name not in OPERATIONS and not name.endswith(NEVER_RAISE) and not refers(name, member):
        assert NumpyDocString(inspect.getdoc(plain(member)) or "")["Raises"]


def test_a_docstring_that_misses_an_argument_fails() -> None:
    """The check is able to find one."""
    errors = validate(f"{__name__}.undocumented")["errors"]
    assert {"PR01", "RT01"} <= {code for code, _ in errors}


def undocumented(x: int, y: int) -> int:
    """Add two numbers.

    Parameters
    ----------
    x : int
        A number.
    """
    return x + y


if __name__ == "__main__":
    LIST.write_text(listed(), encoding="utf-8")
