"""An installation without the extension says why: setup.py writes it down, the package reads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

from fastrnn import dispatch, extension, info
from kernel_library import ROOT, SETUP
from processes import python


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a build writes, in a process that has not warned yet."""
    path = tmp_path / "_build.json"
    monkeypatch.setattr(extension, "_RECORD", path)
    monkeypatch.setattr(extension, "_warned", False)
    monkeypatch.setattr(dispatch, "available_backends", lambda: ("numba", "numpy"))
    return path


def test_a_failed_build_warns_once_when_the_backend_is_chosen_by_default(record: Path) -> None:
    record.write_text(json.dumps({"why": "its build failed (some reason)", "failed": True}))
    with pytest.warns(RuntimeWarning, match="the C\\+\\+ extension is missing and Numba .*some reason.*set_backend"):
        assert dispatch._first() == "numba"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dispatch._first() == "numba"


def test_a_backend_that_was_asked_for_does_not_warn(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record.write_text(json.dumps({"why": "its build failed", "failed": True}))
    monkeypatch.setenv("FASTRNN_BACKEND", "numba")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dispatch._first() == "numba"


@pytest.mark.parametrize("text", [None, "", "torn {", "[]", '{"why": "no compiler", "failed": false}'])
def test_nothing_but_a_failed_build_warns(record: Path, text: str | None) -> None:
    if text is not None:
        record.write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dispatch._first() == "numba"
    assert extension.why_missing() == ("no compiler" if text and "no compiler" in text else extension._UNKNOWN)


def test_info_tells_the_reason_and_does_not_warn(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record.write_text(json.dumps({"why": "its build failed (some reason)", "failed": True}))
    monkeypatch.setattr(info, "available_backends", lambda: ("numba", "numpy"))

    def load(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(info, "load_backend", load)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "missing: its build failed (some reason)" in info.describe()


def _build(folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = ["egg_info", "--egg-base", str(folder), "build", "--build-base", str(folder / "build")]
    unset = {name: value for name, value in os.environ.items() if not name.startswith("FASTRNN_")}
    command = [sys.executable, "setup.py", "-q", *command]
    return subprocess.run(command, cwd=ROOT, env={**unset, **env}, capture_output=True, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="CXX chooses no compiler there")
def test_without_a_compiler_the_package_is_built_and_knows_why(tmp_path: Path) -> None:
    done = _build(tmp_path, CXX="no-such-compiler")
    assert done.returncode == 0, done.stderr
    assert "no C++ compiler was found" in done.stderr
    (package,) = tmp_path.glob("build/lib*/fastrnn")
    code = f"import sys; sys.path.insert(0, {str(package.parent)!r})\nfrom fastrnn import info; print(info.describe())"
    done = python(code, FASTRNN_CACHE_DIR=str(tmp_path))
    assert "missing: no C++ compiler was found: no-such-compiler is not on the path" in done.stdout, done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="CXX chooses no compiler there")
def test_where_the_extension_is_required_the_missing_compiler_is_all_that_is_told(tmp_path: Path) -> None:
    done = _build(tmp_path, CXX="no-such-compiler", FASTRNN_REQUIRE_EXT="1")
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("fastrnn: FASTRNN_REQUIRE_EXT=1 asks for the C++ extension, but no C++ compiler was found")
    assert "no-such-compiler" in line


@pytest.mark.parametrize("inplace", [False, True])
def test_a_compiler_that_fails_is_written_down_and_a_later_success_removes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inplace: bool
) -> None:
    command = SETUP["build"](Distribution())
    command.build_lib, command.inplace = str(tmp_path / "built"), inplace
    record = tmp_path / ("." if inplace else "built") / "fastrnn" / "_build.json"
    monkeypatch.chdir(tmp_path)

    def fail(self: object) -> None:
        raise CompileError("command 'g++' failed\nwith exit code 1")

    monkeypatch.setitem(SETUP["extensions"].__globals__, "REQUIRED", False)
    monkeypatch.setitem(SETUP["extensions"].__globals__, "OUTCOME", SETUP["Outcome"]())
    monkeypatch.setattr(SETUP["build"], "_use_vector_compiler", fail)
    monkeypatch.setattr(build_ext, "run", lambda self: self.build_extension(Extension("_cpp", ["_cpp.cpp"])))
    command.run()
    why = "its build failed (CompileError: command 'g++' failed with exit code 1)"
    assert json.loads(record.read_text()) == {"why": why, "failed": True}
    monkeypatch.setitem(SETUP["extensions"].__globals__, "OUTCOME", SETUP["Outcome"]())
    monkeypatch.setattr(build_ext, "run", lambda self: None)
    command.run()
    assert not record.exists()
