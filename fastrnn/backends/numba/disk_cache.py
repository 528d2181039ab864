"""Generated modules on disk, so that Numba can cache their machine code between processes.

Numba caches only functions of real files, and looks only at the file itself to decide whether its cache is valid. So a
generated file never changes: its name has a hash of its text, of the helper modules that it imports, and of the
versions of Numba and NumPy.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType

import numba
import numpy as np

# Helper modules that generated modules import and inline.
_INLINED = ("pointers.py", "subnormals.py")


@cache
def cache_folder() -> Path:
    """The folder of generated modules: ``FASTRNN_CACHE_DIR``, or the user's cache folder.

    If that cannot be written, a temporary folder of this process.
    """
    folder = _wanted_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="fastrnn-"))


def _wanted_folder() -> Path:
    if given := os.environ.get("FASTRNN_CACHE_DIR"):
        return Path(given)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "~")
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(base)) / "fastrnn"


def load_module(name: str, text: str) -> ModuleType:
    """The module with source `text`, from the cache if it has a valid copy."""
    key = hashlib.sha256("\0".join([_helpers(), text]).encode()).hexdigest()[:16]
    path = cache_folder() / f"fastrnn_{name}_{key}.py"
    try:
        _write_once(path, text)
        return _execute(path)
    except Exception:
        # A damaged or foreign file in the cache: compile again elsewhere. If the error is ours, it is raised again.
        _forget(path)
        path = Path(tempfile.mkdtemp(prefix="fastrnn-")) / path.name
        _write_once(path, text)
        return _execute(path)


def _write_once(path: Path, text: str) -> None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if path.read_text(encoding="utf-8") == text:
            return
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write(text)
    os.replace(file.name, path)


def _execute(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Cached machine code names its module, and can only be loaded if that can be imported.
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module


def _forget(path: Path) -> None:
    for file in [path, *path.parent.glob(f"__pycache__/{path.stem}*")]:
        with contextlib.suppress(OSError):
            file.unlink()


@cache
def _helpers() -> str:
    here = Path(__file__).parent
    sources = [(here / name).read_text(encoding="utf-8") for name in _INLINED]
    return "\0".join([numba.__version__, np.__version__, sys.version, *sources])
