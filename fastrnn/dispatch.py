"""Which backend runs a call. A backend's module is imported when the backend is first used.

Importing Numba takes several times as long as importing NumPy; a program that only loads a model, or uses another
backend, does not wait for it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from functools import partial
from typing import Any

from . import extension
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
    """Name of the backend that the next call will use.

    Returns
    -------
    str
        Inside ``with use_backend(name)`` that name; otherwise the argument of the last :func:`set_backend`; otherwise
        ``FASTRNN_BACKEND``, or the quickest one that is available.

    Raises
    ------
    ValueError
        If the environment variable ``FASTRNN_BACKEND`` names a backend that is not available.
    """
    return BACKEND.get()


def set_backend(name: str) -> None:
    """Set the backend of all calls: the default of the process, in all its threads.

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
    """Context manager: use another backend inside ``with``, in this thread or asyncio task only.

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
    A plain call ``use_backend(name)`` used to set the default, and still does, with a ``DeprecationWarning``: use
    :func:`set_backend` instead. As the two can only be told apart afterwards, the default is set and the warning given
    when this thread next uses a backend without having entered `with`.

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
    if wanted:
        return choice("FASTRNN_BACKEND", wanted, available_backends())
    best = available_backends()[0]
    if best != "cpp":
        extension.warn_if_failed()
    return best


BACKEND: Setting[str] = Setting("backend", _first)


def load_backend(name: str | None = None) -> Backend:
    """The backend called `name`, or the current one, ready to run."""
    name = name or get_backend()
    if name not in _loaded:
        _, module, cls = _BACKENDS[name]
        _loaded[name] = getattr(importlib.import_module(f".backends.{module}", __package__), cls)()
    return _loaded[name]


def backend_for(plan: Plan, name: str) -> Backend:
    """The backend called `name`, or the next one that supports the cell: not all compile cells at run time."""
    backend = load_backend(name)
    if backend.supports(plan):
        return backend
    names = available_backends()
    later = (load_backend(name) for name in names[names.index(backend.name) + 1 :])
    return next(other for other in later if other.supports(plan))
