"""A description of this installation: versions, backends, CPU, threads, cache folder."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Callable
from functools import partial
from importlib import metadata

import numpy as np

from . import __version__
from .dispatch import _BACKENDS, available_backends, get_backend, load_backend
from .engine.threads import get_num_threads
from .extension import why_missing

_PACKAGES = ("numpy", "numba", "llvmlite", "safetensors", "tqdm", "matplotlib")


def describe() -> str:
    """A few lines of text to be pasted into a bug report."""
    with warnings.catch_warnings():
        # Why the extension is missing has a line of its own.
        warnings.simplefilter("ignore")
        in_use = _told(get_backend)
    rows = {
        "fastrnn": f"{__version__}, Python {platform.python_version()}, {platform.platform()}",
        "packages": ", ".join(f"{name} {_told(partial(_version, name))}" for name in _PACKAGES),
        **({} if in_use in _BACKENDS else {"backend": in_use}),
        **{f"backend {name}": _told(partial(_backend, name, in_use)) for name in _BACKENDS},
        "CPU": _told(_cpu),
        "threads": _told(_threads),
        "BLAS of NumPy": _told(_blas),
        "cache folder": _told(_cache_folder),
    }
    width = max(map(len, rows))
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows.items())


def _told(read: Callable[[], object]) -> str:
    """The result of `read`, or its error: this must not fail, as its reader already has a problem."""
    try:
        return str(read())
    except Exception as error:
        return f"unusable: {type(error).__name__}: {' '.join(str(error).split())}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _backend(name: str, in_use: str) -> str:
    try:
        backend = load_backend(name)
    except ImportError as error:
        built = name != "cpp" or name in available_backends()
        return f"missing: {error if built else why_missing()}"
    target = getattr(backend, "target", "")
    return ("in use" if name == in_use else "available") + (f" ({target})" if target else "")


def _cpu() -> str:
    try:
        from llvmlite import binding
    except ImportError:
        found = np.show_config(mode="dicts")["SIMD Extensions"]["found"]
        return f"{platform.processor() or platform.machine()}: {' '.join(found)}"
    features = binding.get_host_cpu_features()
    return f"{binding.get_host_cpu_name()}: {' '.join(sorted(name for name, on in features.items() if on))}"


def _threads() -> str:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    names = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    limits = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    return ", ".join([f"{_told(get_num_threads)}; {usable} of {os.cpu_count()} processors usable", *limits])


def _blas() -> str:
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{blas['name']} {blas.get('version', '')}".strip()


def _cache_folder() -> str:
    try:
        from .backends.numba.disk_cache import _wanted_folder, cache_folder
    except ImportError:
        return "none: only Numba compiles"
    folder, wanted = cache_folder(), _wanted_folder()
    return str(folder) if folder == wanted else f"{folder}, of this process alone: {wanted} cannot be written"
