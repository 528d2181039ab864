"""Shared set-up: the backends that tests run on, and a fresh cache for what they compile."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any

# Set before fastrnn is imported. A folder given from outside is kept: a second session is quick.
_fresh_cache = None
if "FASTRNN_CACHE_DIR" not in os.environ:
    _fresh_cache = tempfile.TemporaryDirectory(prefix="fastrnn-test-cache-")
    os.environ["FASTRNN_CACHE_DIR"] = _fresh_cache.name
os.environ.pop("FASTRNN_BACKEND", None)
# As in pyproject.toml, for the processes that tests start.
os.environ["PYTHONWARNINGS"] = "ignore:the C++ extension is missing"

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

import fastrnn  # noqa: E402

# A backend that is missing fails its tests; it never skips them. The extension is optional, and promised where it
# was built or FASTRNN_REQUIRE_EXT=1 says that it must be, with the compiler that it takes.
REQUIRED = os.environ.get("FASTRNN_REQUIRE_EXT") == "1"
_EXTENSION = "cpp" in fastrnn.available_backends() or REQUIRED
PROMISED_BACKENDS = (*(("cpp",) if _EXTENSION else ()), "numba", "numpy")

settings.register_profile(
    "deterministic",
    derandomize=True,
    # The first example of a kind may compile.
    deadline=None,
    max_examples=40,
    # The backend is the same for all examples of a test.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("deterministic")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of a cell go to one process, as they compile the same; those of no cell by their files."""
    from xdist.scheduler import LoadScopeScheduling

    from cases import CELLS

    class ByCell(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, test = nodeid.partition("::")
            values = test.partition("[")[2].rstrip("]").split("-")
            return next((value for value in values if value in CELLS), file)

    return ByCell(config, log)


@pytest.fixture(autouse=True)
def number_of_threads() -> Iterator[None]:
    """Every test leaves it as it was."""
    before = fastrnn.get_num_threads()
    yield
    fastrnn.set_num_threads(before)


@contextmanager
def in_use(name: str) -> Iterator[None]:
    """A backend for a test and for the threads that it starts, which begin from the process's default."""
    # The default, whatever a fixture has entered.
    before = Context().run(fastrnn.get_backend)
    fastrnn.set_backend(name)
    try:
        with fastrnn.use_backend(name):
            yield
    finally:
        fastrnn.set_backend(before)


@pytest.fixture(scope="session")
def torch() -> Any:
    """PyTorch, which the extra `test` promises: its absence fails what it is compared with."""
    return importlib.import_module("torch")


@pytest.fixture(params=PROMISED_BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Name of a backend, in use for the test."""
    with in_use(request.param):
        yield request.param


def variants() -> tuple[str, ...]:
    """Names of the instruction sets that this processor can run, best first."""
    if "cpp" not in fastrnn.available_backends():
        return ()
    from fastrnn.backends import _cpp

    return _cpp.variants()


def _variants_or_reason() -> tuple[Any, ...]:
    """What the tests of variants run on; without the extension one that fails, or is skipped where none is promised."""
    missing = pytest.mark.skipif(not _EXTENSION, reason="the extension was not built")
    return variants() or (pytest.param("no extension", marks=missing),)


@pytest.fixture(params=_variants_or_reason())
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    """Name of an instruction set, in use for the test."""
    from fastrnn.backends import _cpp

    before = _cpp.variant_name()
    assert _cpp.use_variant(request.param)
    with in_use("cpp"):
        yield request.param
    assert _cpp.use_variant(before)


def pytest_unconfigure() -> None:
    if _fresh_cache is not None:
        _fresh_cache.cleanup()
