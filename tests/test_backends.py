"""Choosing a backend, the cache of compiled kernels, and the vectors' elementary functions."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext

import fastrnn
from conftest import PROMISED_BACKENDS
from fastrnn import ops
from fastrnn.backends.numba import disk_cache as cache
from fastrnn.backends.numba.stack import NumbaStack
from fastrnn.dispatch import load_backend
from fastrnn.engine.contract import Backend, Stack
from fastrnn.functional import cell_forward
from kernel_library import ROOT, SETUP
from processes import python
from ulp import EXACT, assert_four_ulp, points

RUN = """
import numpy as np, fastrnn
cell = fastrnn.cell(gates="a")(lambda x, a: x.a + a)
print(fastrnn.functional.cell_forward(cell, np.ones((3, 1, 1)), None, {"Wx": np.ones((1, 1))})[0].ravel())
"""


def run(folder: Path | str, code: str = RUN, **env: str) -> subprocess.CompletedProcess[str]:
    return python(code, FASTRNN_CACHE_DIR=str(folder), **env)


def test_use_backend() -> None:
    before = fastrnn.get_backend()
    with fastrnn.use_backend("numpy"):
        assert fastrnn.get_backend() == "numpy"
    assert fastrnn.get_backend() == before
    assert fastrnn.available_backends() == PROMISED_BACKENDS
    with pytest.raises(ValueError, match=f"name: expected one of {', '.join(PROMISED_BACKENDS)}, got 'cuda'"):
        fastrnn.use_backend("cuda")


def test_nothing_is_built_where_it_is_not_wanted(tmp_path: Path) -> None:
    """With FASTRNN_NO_EXT=1 the package that is built has no extension, whatever else is asked for."""
    command = ["egg_info", "--egg-base", str(tmp_path), "build", "--build-base", str(tmp_path / "build")]
    env = {**os.environ, "FASTRNN_NO_EXT": "1", "FASTRNN_REQUIRE_EXT": "1"}
    subprocess.run([sys.executable, "setup.py", "-q", *command], cwd=ROOT, env=env, check=True, capture_output=True)
    (package,) = tmp_path.glob("build/lib*/fastrnn")
    assert not [file for file in tmp_path.rglob("*") if file.suffix in {".so", ".pyd", ".o", ".obj", ".cpp"}]
    code = f"import sys; sys.path.insert(0, {str(package.parent)!r})\nimport fastrnn\n"
    done = run(tmp_path, code + "print(fastrnn.__file__, *fastrnn.available_backends())")
    assert done.stdout.split() == [str(package / "__init__.py"), "numba", "numpy"], done.stderr


def test_what_a_build_compiles_it_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where only a header changed: the sources of the binding are then older than the extension that there is."""
    command, linked = SETUP["build"](Distribution()), []
    monkeypatch.setattr(SETUP["build"], "_use_vector_compiler", lambda self: None)
    monkeypatch.setattr(SETUP["build"], "_build_variants", lambda self: {"sse2": ["variant.o"]})
    monkeypatch.setattr(build_ext, "build_extension", lambda self, ext: linked.append((self.force, ext.extra_objects)))
    command.build_extension(Extension("_cpp", ["_cpp.cpp"]))
    assert linked == [(True, ["variant.o"])]


def test_importing_does_not_import_numba() -> None:
    done = run("unused", "import fastrnn, sys; print('numba' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize("name", PROMISED_BACKENDS)
def test_the_environment_chooses_a_backend(name: str) -> None:
    code = """
import fastrnn
from fastrnn.dispatch import load_backend
print(fastrnn.get_backend(), load_backend().name)
"""
    assert run("unused", code, FASTRNN_BACKEND=name).stdout.split() == [name, name]


def test_the_environment_is_named_where_it_is_wrong() -> None:
    done = run("unused", RUN, FASTRNN_BACKEND="nonsense")
    assert "FASTRNN_BACKEND: expected one of" in done.stderr


def signature(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def own_methods(protocol: type) -> dict[str, Any]:
    names = [name for name in vars(protocol) if not name.startswith("_") or name == "__call__"]
    return {name: getattr(protocol, name) for name in names if inspect.isfunction(getattr(protocol, name))}


@pytest.mark.parametrize("name", PROMISED_BACKENDS)
def test_backends_have_the_methods_of_the_contract(name: str) -> None:
    backend = type(load_backend(name))
    methods = own_methods(Backend)
    assert {"supports", "forward", "backward", "prepare"} <= methods.keys()
    for method, promised in methods.items():
        assert signature(getattr(backend, method)) == signature(promised), method


def test_a_stack_of_users_cells_has_the_methods_of_the_contract() -> None:
    for name, promised in own_methods(Stack).items():
        assert signature(getattr(NumbaStack, name)) == signature(promised), name


def test_the_second_process_compiles_nothing(tmp_path: Path) -> None:
    first, second = (run(tmp_path, NUMBA_DEBUG_CACHE="1") for _ in range(2))
    assert "data saved" in first.stdout and "data loaded" not in first.stdout, first.stderr
    assert "data loaded" in second.stdout and "data saved" not in second.stdout, second.stderr


def test_torn_cache_files_are_made_again(tmp_path: Path) -> None:
    assert run(tmp_path).stdout.strip() == "[1. 2. 3.]"
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert any(p.suffix == ".nbi" for p in files)
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    done = run(tmp_path)
    assert done.stdout.strip() == "[1. 2. 3.]", done.stderr


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    # A file where the folder should be: refused for every user, root included.
    (tmp_path / "file").write_text("")
    done = run(tmp_path / "file" / "cache")
    assert done.stdout.strip() == "[1. 2. 3.]", done.stderr


def test_a_broken_module_raises_its_own_error(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path)
    with pytest.raises(ZeroDivisionError):
        cache.load_module("broken", "1 / 0\n")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", EXACT)
def test_functions_to_four_units_in_the_last_place(name: str, dtype: type) -> None:
    """Of the Numba backend: a step of a cell that is the function, of what its input's weight of 1 projects."""
    function = getattr(ops, name)
    cell = fastrnn.cell(gates="a", name=name)(lambda x, h: function(x.a))

    def apply(a: np.ndarray) -> np.ndarray:
        with fastrnn.use_backend("numba"):
            y, _, _ = cell_forward(cell, a.reshape(1, -1, 1), None, {"Wx": np.ones((1, 1), dtype)}, keep=False)
        return y.reshape(-1)

    a = points(dtype)
    assert_four_ulp(name, a, apply(a))
    assert np.isnan(apply(np.full(4, np.nan, dtype))).all()


def test_what_is_kept_is_the_least() -> None:
    """LSTM: the gates and tanh(c). GRU: r, z, n and the product or the vector of n. RNN: nothing but h."""
    from fastrnn.cells import gru, lstm, rnn
    from fastrnn.engine.plan import make_plan

    kept = {c.name: make_plan(c).n_keep for c in (rnn(), rnn("identity"), lstm, gru(True), gru(False))}
    assert kept == {"rnn_tanh": 0, "rnn_identity": 0, "lstm": 5, "gru_reset_after": 4, "gru_reset_before": 4}
