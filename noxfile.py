"""The commands of contributors: `nox -l` lists them, `nox -s quick` runs one, what follows `--` is handed on.

They run in the environment that is active, which `pip install -e '.[dev]'` has made ready: nothing is installed or
built behind your back, and all works alike on Linux, macOS and Windows but for the sanitizers.
"""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "quick"]
nox.needs_version = ">=2024.4.15"

# A quarter of a minute: the reference, the extension and what leads to them. What Numba compiles takes longer.
QUICK = ["bad_descriptions", "bad_input", "cpp", "functional", "losses", "plan", "stack"]
# With figures in the tables, and without.
MEASURED = ["peers", "numpy_baseline", "precision", "memory", "recompute", "saturated", "interrupt", "online"]
OTHERS = ["streams", "roofline", "thresholds"]


@nox.session
def build(session: nox.Session) -> None:
    """Generate the headers of the built-in cells and build the C++ extension in place."""
    session.run("python", "-m", "fastrnn.codegen.cpp")
    session.run("python", "setup.py", "-q", "build_ext", "--inplace", env={"FASTRNN_REQUIRE_EXT": "1"})


@nox.session
def test(session: nox.Session) -> None:
    """The whole suite, some minutes; -- PATHS AND OPTIONS OF PYTEST."""
    session.run("pytest", "-n", "auto", *session.posargs)


@nox.session
def quick(session: nox.Session) -> None:
    """The part of the suite that takes a quarter of a minute: reference and extension."""
    files = [f"tests/test_{name}.py" for name in QUICK]
    session.run("pytest", "-n", "auto", *files, "-k", "not numba", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff, mypy, and the layout of Python and C++."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("clang-format", "--dry-run", "-Werror", *_cpp_files())
    session.run("mypy")


@nox.session
def format(session: nox.Session) -> None:
    """Lay out Python and C++, and make the repairs that ruff knows."""
    session.run("ruff", "check", "--fix", ".")
    session.run("ruff", "format", ".")
    session.run("clang-format", "-i", *_cpp_files())


@nox.session
def fuzz(session: nox.Session) -> None:
    """The attack with random cases, five minutes; -- OPTIONS OF tests/fuzz."""
    session.run("python", "tests/fuzz", *(session.posargs or ["--minutes", "5"]))


@nox.session
def sanitize(session: nox.Session) -> None:
    """Suite and attack under sanitizers (GCC, Linux); -- address or -- thread for one of them."""
    for sanitizer in session.posargs or ["address", "thread"]:
        session.run("python", "tests/fuzz/sanitize.py", sanitizer)


@nox.session
def mutations(session: nox.Session) -> None:
    """Changes of the code that no test sees; -- OPTIONS OF tests/mutations.py."""
    session.run("python", "tests/mutations.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Every benchmark once and short, to see that it runs, and whether the tables are those of the figures."""
    session.run("pytest", "bench", "--benchmark-disable")
    for command in [*MEASURED, *OTHERS]:
        session.run("python", "-m", f"bench.{command}", "--quick")
    session.run("python", "-m", "bench.report", "--check")


@nox.session
def figures(session: nox.Session) -> None:
    """Measure everything anew on a quiet machine (half an hour), keep the figures, write the tables."""
    for command in MEASURED:
        session.run("python", "-m", f"bench.{command}", "--save")
    session.run("python", "-m", "bench.report")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into docs/_build/html; needs the extra docs."""
    session.run("python", "-m", "sphinx", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")


def _cpp_files() -> list[str]:
    found = (path for folder in ("csrc", "tests") for path in Path(folder).rglob("*"))
    return sorted(str(path) for path in found if path.suffix in (".h", ".cpp"))
