"""The C++ engine's kernels, memory and threads as functions of arrays, compiled for the tests alone."""

from __future__ import annotations

import ctypes
import mmap
import os
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import REQUIRED

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).parent / "kernels"
SETUP = runpy.run_path(str(ROOT / "setup.py"))
# Compiler flags, bytes of a vector, vector registers.
VARIANTS = {name: rest for name, *rest in SETUP["variants"]()}
# A processor that has all that the kernels for AMX take but the tile registers tests them with those in software
# (optimized a little: the tiles in software take far longer to run than to compile).
WITHOUT_TILES = ("avx512bf16", ["-O1", "-include", str(HERE / "emulated_amx.h")])
# Without optimization: what is tested is the source, and compiled in seconds.
FLAGS = [flag for flag in SETUP["FLAGS"] if flag != "-O3"] + ["-O0", "-fPIC", "-shared", "-pthread"]


def not_here(reason: str) -> Any:
    """Skips what cannot be compiled, but where FASTRNN_REQUIRE_EXT=1 promises a compiler."""
    if REQUIRED:
        pytest.fail(f"{reason}; FASTRNN_REQUIRE_EXT=1 promises it")
    pytest.skip(reason)


def find_compiler() -> list[str]:
    """The command that ``CXX`` names, else one of the usual ones."""
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for command in map(shlex.split, wanted):
        if shutil.which(command[0]) and subprocess.run([*command, "--version"], capture_output=True).returncode == 0:
            return command
    return not_here(f"there is no C++ compiler: tried {', '.join(wanted)}")


class Engine:
    """The engine compiled into `folder`: its surroundings at once, kernels while the tests of others run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.compiler = folder, find_compiler()
        names = " ".join(f"X({name})" for name, *_ in SETUP["X86"] + SETUP["OTHER"])
        sources = [HERE / "host.cpp", *(ROOT / "csrc" / f"{name}.cpp" for name in ("runtime", "memory", "threads"))]
        self.host = Library(self._compile("host", sources, [f"-DFASTRNN_VARIANTS(X)={names}"]))
        self._pool = ThreadPoolExecutor(2)
        self._works = {name: self._pool.submit(self._compile_kernels, name) for name in VARIANTS}

    def kernels(self, name: str, format: str) -> Kernels:
        """Of an instruction set and a format of operands; skips the test if they cannot run here."""
        path = self._works[name].result()
        if isinstance(path, str):
            pytest.skip(path)
        return Kernels(path, format)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _compile_kernels(self, name: str) -> Path | str:
        """The library, or why there is none."""
        flags, vector_bytes, registers = VARIANTS[name]
        needed, more = name, []
        if name == "amx" and not self._can_run(name):
            needed, more = WITHOUT_TILES
            flags = [flag for flag in flags if "amx" not in flag]
        if not self._can_run(needed):
            return f"this processor does not have the instructions of {needed}"
        if name in SETUP["EXTRA"] and not self._knows(flags):
            return f"this compiler does not know the instructions of {needed}"
        macros = {"VARIANT": name, "VECTOR_BYTES": vector_bytes, "REGISTERS": registers}
        flags = [*flags, *more, *(f"-DFASTRNN_{key}={value}" for key, value in macros.items())]
        return self._compile(name, [HERE / "kernels.cpp", ROOT / "csrc" / "memory.cpp"], flags)

    def _can_run(self, name: str) -> bool:
        return bool(self.host.get("can_run", name.encode()))

    def _knows(self, flags: Sequence[str]) -> bool:
        command = [*self.compiler, *flags, "-E", "-xc++", os.devnull]
        return subprocess.run(command, capture_output=True).returncode == 0

    def _compile(self, name: str, sources: Sequence[Path], flags: Sequence[str]) -> Path:
        library = self.folder / f"{name}.so"
        command = [*self.compiler, *FLAGS, *flags, f"-I{ROOT / 'csrc'}", *map(str, sources), "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return library


class Library:
    """The functions of a library, by their names without ``test_``."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))

    def get(self, name: str, *arguments: Any) -> int:
        """What the function gives for integers, arrays, lists of either, and None."""
        function = getattr(self._library, f"test_{name}")
        function.restype = ctypes.c_ssize_t
        return function(*map(_for_c, arguments))

    def run(self, name: str, *arguments: Any) -> None:
        """The same of a function that says whether it kept within its arrays."""
        assert self.get(name, *arguments), f"{name} goes beyond an array"


def _for_c(argument: Any) -> Any:
    match argument:
        case Placed():
            return ctypes.c_void_p(argument.view.ctypes.data)
        case np.ndarray():
            return ctypes.c_void_p(argument.ctypes.data)
        case list() | tuple():
            values = [_for_c(item) for item in argument]
            kind = type(values[0]) if values else ctypes.c_ssize_t
            return (kind * len(values))(*(value.value for value in values))
        case bytes():
            return ctypes.c_char_p(argument)
        case None:
            return ctypes.c_void_p()
        case _:
            return ctypes.c_ssize_t(int(argument))


FORMATS = {"float32": 4, "float64": 8, "bf16 x 1": 1, "bf16 x 2": 2, "bf16 x 3": 3}


class Kernels(Library):
    """Those of an instruction set for one format of operands.

    format : float32, float64: numbers as they are; ``bf16 x n``: float32 numbers that are the sum of n bf16 numbers
    parts : arrays that hold the numbers of one
    bf16 : n, or 0
    """

    def __init__(self, path: Path, format: str) -> None:
        super().__init__(path)
        self.format = FORMATS[format]
        self.bf16 = self.format if self.format < 4 else 0
        self.parts = max(self.bf16, 1)
        self.dtype = np.dtype(np.float64 if format == "float64" else np.float32)
        self.item = np.dtype(np.int32) if self.bf16 else self.dtype
        self.width = self.get("vector_bytes") // self.dtype.itemsize

    @cached_property
    def whole_numbers(self) -> int:
        """Numbers that a row of operands is filled up to a multiple of."""
        return self.get("whole_numbers", self.format)

    @cached_property
    def max_sums(self) -> int:
        """Sums that one tile takes at once."""
        return self.get("max_sums")

    def padded(self, columns: int) -> int:
        """Columns in whole vectors."""
        return -(-columns // self.width) * self.width


class Placed:
    """An array of its own memory, which ends where nobody may read or write; between and before its numbers are NaN.

    strides : numbers from one index to the next, for every axis; None: no gaps
    """

    GUARD = 16

    def __init__(self, values: Any, strides: Sequence[int] | None = None) -> None:
        values = np.asarray(values)
        bytes_ = values.itemsize
        if strides is None:
            strides = [step // bytes_ for step in np.empty(values.shape, values.dtype).strides]
        size = 1 + sum((n - 1) * step for n, step in zip(values.shape, strides, strict=True)) if values.size else 0
        self.memory = _before_the_end(self.GUARD + size, values.dtype)
        self.memory[:] = np.nan if values.dtype.kind == "f" else np.iinfo(values.dtype).min
        self.strides = tuple(strides)
        self.shape = values.shape
        self.view = self._view(self.memory)
        self.view[...] = values
        self._before = self.memory.copy()

    def _view(self, memory: np.ndarray) -> np.ndarray:
        steps = [step * memory.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(memory[self.GUARD :], self.shape, steps)

    def assert_holds(self, expected: Any, message: str = "") -> None:
        """The numbers are those expected, and nothing else was written."""
        self._view(self._before)[...] = expected
        np.testing.assert_array_equal(self.memory, self._before, err_msg=message)


def _before_the_end(count: int, dtype: np.dtype[Any]) -> np.ndarray:
    """A vector that ends at the end of a page; the next one is no one's."""
    size, page = count * dtype.itemsize, mmap.PAGESIZE
    if sys.platform == "win32":
        return np.empty(count, dtype)
    pages = -(-size // page) * page
    memory = mmap.mmap(-1, pages + page)
    whole = np.frombuffer(memory, np.uint8)
    protect = ctypes.CDLL(None).mprotect
    assert protect(ctypes.c_void_p(whole.ctypes.data + pages), ctypes.c_size_t(page), 0) == 0
    return whole[pages - size : pages].view(dtype)
