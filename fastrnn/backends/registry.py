"""Which backend runs a call. A backend's module is imported when it is first asked for.

Numba takes as long to import as NumPy several times over; a program that only loads a model, or runs on
another backend, need not wait for it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from types import TracebackType

from ..engine.call import Backend
from ..engine.plan import Plan

# Best first: the default is the first that is available.
_BACKENDS = {
    "cpp": ("fastrnn.backends._cpp", "cpp_backend", "CppBackend"),
    "numba": ("numba", "numba.backend", "NumbaBackend"),
    "numpy": ("numpy", "numpy_backend", "NumpyBackend"),
}
_loaded: dict[str, Backend] = {}
_current: str | None = None


def available_backends() -> tuple[str, ...]:
    """Names of the backends that can run here, best first."""
    return tuple(name for name, (needs, _, _) in _BACKENDS.items() if importlib.util.find_spec(needs))


def get_backend() -> str:
    """Name of the backend that the next call runs on.

    Raises
    ------
    ValueError
        If the environment variable ``FASTRNN_BACKEND`` names one that is not available.
    """
    global _current
    if _current is None:
        wanted = os.environ.get("FASTRNN_BACKEND")
        _current = _checked(wanted, "FASTRNN_BACKEND") if wanted else available_backends()[0]
    return _current


class use_backend:
    """Choose the backend for the calls that follow; as a context manager, for those inside it.

    Parameters
    ----------
    name : str
        One of :func:`available_backends`.

    Raises
    ------
    ValueError
        If there is no such backend.

    Examples
    --------
    >>> use_backend("numba")            # from here on
    >>> with use_backend("numpy"):      # here only
    ...     ...
    """

    def __init__(self, name: str) -> None:
        global _current
        name = _checked(name, "name")
        self._before = get_backend()
        _current = name

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        global _current
        _current = self._before

    def __repr__(self) -> str:
        return f"<fastrnn backend: {_current}>"


def load_backend(name: str | None = None) -> Backend:
    """The backend called `name`, or the current one, ready to run."""
    name = name or get_backend()
    if name not in _loaded:
        _, module, cls = _BACKENDS[name]
        _loaded[name] = getattr(importlib.import_module(f".{module}", __package__), cls)()
    return _loaded[name]


def backend_for(plan: Plan) -> Backend:
    """The current backend, or the next that knows the cell: not every backend compiles cells at run time."""
    backend = load_backend()
    if backend.supports(plan):
        return backend
    names = available_backends()
    later = (load_backend(name) for name in names[names.index(backend.name) + 1 :])
    return next(other for other in later if other.supports(plan))


def _checked(name: str, argument: str) -> str:
    known = available_backends()
    if name not in known:
        raise ValueError(f"{argument}: expected one of {', '.join(known)}, got {name!r}")
    return name
