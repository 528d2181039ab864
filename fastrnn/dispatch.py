"""Which backend runs a call. A backend's module is imported when it is first asked for.

Numba takes as long to import as NumPy several times over; a program that only loads a model, or runs on
another backend, need not wait for it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from functools import partial
from typing import Any

from .engine.contract import Backend
from .engine.plan import Plan
from .engine.settings import Setting, Use, set_unless_entered
from .errors import choice

# Best first: the default is the first that is available.
_BACKENDS = {
    "cpp": ("fastrnn.backends._cpp", "cpp_backend", "CppBackend"),
    "numba": ("numba", "numba.backend", "NumbaBackend"),
    "numpy": ("numpy", "numpy_backend", "NumpyBackend"),
}
_loaded: dict[str, Backend] = {}


def available_backends() -> tuple[str, ...]:
    """Names of the backends that can run here.

    Returns
    -------
    tuple of str
        Some of ``"cpp"``, ``"numba"``, ``"numpy"``, in this order: the first is the quickest.
    """
    return tuple(name for name, (needs, _, _) in _BACKENDS.items() if importlib.util.find_spec(needs))


def get_backend() -> str:
    """Name of the backend that the next call runs on.

    Returns
    -------
    str
        Inside ``with use_backend(name)`` that; else the name that :func:`set_backend` was last called with; else
        ``FASTRNN_BACKEND``, else the best that is available.

    Raises
    ------
    ValueError
        If the environment variable ``FASTRNN_BACKEND`` names one that is not available.
    """
    return BACKEND.get()


def set_backend(name: str) -> None:
    """Choose the backend for every call: the default of the process, in all its threads.

    Parameters
    ----------
    name : str
        One of :func:`available_backends`.

    Raises
    ------
    ValueError
        If there is no such backend.

    See Also
    --------
    use_backend : for some calls only.
    """
    BACKEND.set(choice("name", name, available_backends()))


def use_backend(name: str) -> Use[str]:
    """Context manager: another backend for the calls inside ``with``, in this thread or task of asyncio alone.

    Parameters
    ----------
    name : str
        One of :func:`available_backends`.

    Returns
    -------
    context manager
        For ``with``; it can be entered more than once.

    Raises
    ------
    ValueError
        If there is no such backend.

    Notes
    -----
    Called plainly, ``use_backend(name)`` once set the default, and still does, with a ``DeprecationWarning``: use
    :func:`set_backend`. Only what comes next tells the two apart, so the default is set, and the warning given, when
    this thread next calls or asks for a backend and `with` has not been reached.

    Examples
    --------
    >>> with use_backend("numpy"):
    ...     y, state = layer(x)
    """
    use = Use(BACKEND, choice("name", name, available_backends()))
    caller = sys._getframe(1)
    set_unless_entered(use, partial(_warn, name, caller.f_code.co_filename, caller.f_lineno, caller.f_globals))
    return use


def _warn(name: str, file: str, line: int, scope: dict[str, Any]) -> None:
    warnings.warn_explicit(
        f"use_backend({name!r}) without `with` sets the process's backend: use set_backend",
        DeprecationWarning,
        file,
        line,
        scope.get("__name__"),
        scope.setdefault("__warningregistry__", {}),
    )


def _first() -> str:
    wanted = os.environ.get("FASTRNN_BACKEND")
    return choice("FASTRNN_BACKEND", wanted, available_backends()) if wanted else available_backends()[0]


BACKEND: Setting[str] = Setting("backend", _first)


def load_backend(name: str | None = None) -> Backend:
    """The backend called `name`, or the current one, ready to run."""
    name = name or get_backend()
    if name not in _loaded:
        _, module, cls = _BACKENDS[name]
        _loaded[name] = getattr(importlib.import_module(f".backends.{module}", __package__), cls)()
    return _loaded[name]


def backend_for(plan: Plan, name: str) -> Backend:
    """The backend called `name`, or the next that knows the cell: not every backend compiles cells at run time."""
    backend = load_backend(name)
    if backend.supports(plan):
        return backend
    names = available_backends()
    later = (load_backend(name) for name in names[names.index(backend.name) + 1 :])
    return next(other for other in later if other.supports(plan))
