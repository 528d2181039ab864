"""Calls that take several threads, and several threads that call: each compiled backend."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastrnn
from cases import reference, run
from conftest import PROMISED_BACKENDS, in_use
from fastrnn import thresholds
from fastrnn.backends.registry import load_backend
from fastrnn.engine import threads as thread_module
from naive import Call
from paths import watched
from problems import ORACLE_RTOL, assert_close, assert_equal, problem
from processes import python

COMPILED = [name for name in PROMISED_BACKENDS if name != "numpy"]


@pytest.fixture(autouse=True)
def blas_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba splits the batch, as it does where BLAS has one thread."""
    monkeypatch.setattr(load_backend("numba"), "blas_threads", 1)


@pytest.fixture(params=COMPILED)
def compiled(request: pytest.FixtureRequest) -> Iterator[str]:
    with in_use(request.param):
        yield request.param


class threads_worth:
    """Let work of so many multiply-adds be worth a thread."""

    def __init__(self, work: int) -> None:
        self.work = work

    def __enter__(self) -> None:
        self.before = thresholds.WORTH_A_THREAD
        thresholds.WORTH_A_THREAD = self.work

    def __exit__(self, *_: object) -> None:
        thresholds.WORTH_A_THREAD = self.before


@contextmanager
def divided(backend: str, threads: int, N: int) -> Iterator[None]:
    """Every call of N sequences has work for so many threads, on `backend`; fails if Numba's had others."""
    with threads_worth(1), watched(backend) as seen:
        fastrnn.set_num_threads(threads)
        yield
    assert seen.ran
    if backend == "numba":
        assert {path.parts for path in seen.ran} == {min(threads, N)}


@pytest.mark.parametrize("backend", COMPILED)
@given(
    cell=st.sampled_from(["rnn_tanh", "lstm", "gru_after", "gru_before"]),
    sizes=st.tuples(st.integers(1, 12), st.integers(1, 20), st.integers(1, 20), st.integers(1, 40)),
    dtype=st.sampled_from(["float32", "float64"]),
    threads=st.integers(1, 3),
)
def test_any_shape(backend: str, cell: str, sizes: tuple[int, int, int, int], dtype: str, threads: int) -> None:
    p = problem(cell, *sizes, dtype, scale=0.7)
    with divided(backend, threads, sizes[1]):
        got = run(p)
    assert_close(got, reference(p), 4 * ORACLE_RTOL[dtype])


@pytest.mark.parametrize("backend", COMPILED)
@given(
    cell=st.sampled_from(["rnn_tanh", "lstm", "gru_after", "gru_before"]),
    sizes=st.tuples(st.integers(1, 12), st.integers(1, 5), st.sampled_from([1, 4, 20]), st.integers(90, 200)),
    dtype=st.sampled_from(["float32", "float64"]),
    threads=st.integers(2, 5),
    ragged=st.booleans(),
    reverse=st.booleans(),
    truncate=st.sampled_from([None, 2]),
)
def test_few_sequences_of_many_units(
    backend: str,
    cell: str,
    sizes: tuple[int, int, int, int],
    dtype: str,
    threads: int,
    ragged: bool,
    reverse: bool,
    truncate: int | None,
) -> None:
    p = problem(cell, *sizes, dtype, scale=0.7)
    T, N = sizes[:2]
    call = Call(tuple((T + n) % (T + 1) for n in range(N)) if ragged else None, reverse, truncate)
    with divided(backend, threads, N):
        got = run(p, call)
    assert_close(got, reference(p, call), 4 * ORACLE_RTOL[dtype])


@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru_before"])
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_the_same_bits_for_the_same_number_of_threads(compiled: str, cell: str, threads: int) -> None:
    p = problem(cell, 9, 11, 5, 20, "float32")
    call = Call(tuple(n % 10 for n in range(11)), True, 3)
    with divided(compiled, 1, 11):
        alone = run(p, call)
    with divided(compiled, threads, 11):
        first = run(p, call)
        for _ in range(5):
            assert_equal(run(p, call), first)
    # Parts of the batch take paths of their own, and gradients of the weights are summed over parts.
    assert_close(first, alone, 1e-5)


@pytest.mark.parametrize(("N", "H"), [(8, 32), (1, 110)])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_calls_from_several_threads_at_once(compiled: str, threads: int, N: int, H: int) -> None:
    p = problem("gru_after", 20, N, 16, H, "float32")
    with divided(compiled, threads, N), ThreadPoolExecutor(4) as pool:
        want = run(p)
        for got in pool.map(lambda _: run(p), range(40)):
            assert_equal(got, want)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize(("N", "H"), [(12, 32), (1, 120)])
def test_a_forked_child_runs(compiled: str, N: int, H: int) -> None:
    code = """
import os, numpy as np, fastrnn, warnings
from fastrnn import thresholds
warnings.simplefilter("ignore")
thresholds.WORTH_A_THREAD = 1
fastrnn.set_backend(BACKEND); fastrnn.set_num_threads(3)
layer = fastrnn.LSTM(8, H, seed=0); x = np.ones((9, N, 8), np.float32)
want, _ = layer(x)
child = os.fork()
same = (layer(x)[0] == want).all() and (layer(x)[0] == want).all()
if not child:
    os._exit(0 if same else 3)
print(same, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = python(f"BACKEND, N, H = {compiled!r}, {N}, {H}" + code, OPENBLAS_NUM_THREADS="1")
    assert done.stdout.strip() == "True 0", done.stderr


def test_number_of_threads() -> None:
    fastrnn.set_num_threads(3)
    assert fastrnn.get_num_threads() == 3
    for wrong, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match=r"^n: expected"):
            fastrnn.set_num_threads(wrong)
    code = "import fastrnn; print(fastrnn.get_num_threads())"
    assert python(code, FASTRNN_NUM_THREADS="5").stdout.strip() == "5"
    refused = python(code, FASTRNN_NUM_THREADS="many").stderr
    assert "FASTRNN_NUM_THREADS: expected a positive integer, got 'many'" in refused


@pytest.mark.parametrize(
    ("work", "threads"), [(0, 1), (1_999_999, 1), (2_000_000, 2), (3_999_999, 3), (4_000_000, 4), (9_000_000, 4)]
)
def test_a_call_takes_the_threads_that_it_is_worth(work: int, threads: int) -> None:
    assert thread_module.threads_up_to(4)(work) == threads
    assert thread_module.threads_up_to(1)(work) == 1


@pytest.mark.parametrize(
    ("N", "work", "apart"),
    [(1, 999_999, False), (1, 1_000_000, True), (1, 9_000_000, True), (2, 1_999_999, True), (2, 2_000_000, False)],
)
def test_directions_are_apart_where_the_batch_cannot_be_split(N: int, work: int, apart: bool) -> None:
    assert thread_module.apart(2, N, work) == apart
    assert not thread_module.apart(1, N, work)


@pytest.mark.parametrize(("granted", "processors"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", None)])
def test_a_container_has_its_share(
    granted: str, processors: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(granted + "\n")
    monkeypatch.setattr(thread_module, "Path", lambda _: file)
    assert thread_module._quota() == (processors or os.cpu_count())


@pytest.mark.parametrize(("processors", "cores"), [(3, 3), (None, 1)])
def test_a_system_without_affinity_counts_its_processors(
    processors: int | None, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    assert thread_module.physical_cores.__wrapped__() == cores


@pytest.mark.parametrize("N", [1, 3])
def test_directions_in_threads_of_their_own(compiled: str, N: int) -> None:
    x = np.random.default_rng(0).standard_normal((6, N, 3)).astype(np.float32)

    def results() -> list[np.ndarray]:
        layer = fastrnn.LSTM(3, 5, 2, bidirectional=True, seed=0)
        y, last = layer.forward(x)
        dx, first = layer.backward(y)
        return [y, *last, dx, *first, *(g.copy() for g in layer.grads.values())]

    fastrnn.set_num_threads(1)
    alone = results()
    # Of three sequences the second layer is worth a thread, not two.
    with threads_worth(1 if N == 1 else 3000):
        fastrnn.set_num_threads(2)
        with watched(compiled) as seen:
            for got, want in zip(results(), alone, strict=True):
                np.testing.assert_array_equal(got, want)
        assert len(seen.threads) > 1
        if compiled == "cpp":
            from fastrnn.backends import _cpp

            # Its own way through the layers, which is not watched.
            for got, want in zip(results(), alone, strict=True):
                np.testing.assert_array_equal(got, want)
            assert _cpp.last_call()[1] == 2


# Numba runs one layer after the other.
@pytest.mark.parametrize("compiled", [name for name in COMPILED if name == "cpp"], indirect=True)
@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("layers", [2, 3, 5])
@pytest.mark.parametrize("H", [9, 70])
@pytest.mark.parametrize("kind", [fastrnn.RNN, fastrnn.LSTM, fastrnn.GRU])
def test_layers_at_the_same_time(
    compiled: str, kind: type[fastrnn.Recurrent], H: int, layers: int, threads: int
) -> None:
    layer = kind(3, H, layers, seed=0)
    x = np.random.default_rng(0).standard_normal((100, 1, 3)).astype(np.float32)
    fastrnn.set_num_threads(1)
    alone, _ = layer(x)
    with threads_worth(1), ThreadPoolExecutor(3) as pool:
        fastrnn.set_num_threads(threads)
        first, last = layer(x)
        np.testing.assert_allclose(first, alone, rtol=0, atol=1e-6)
        for got, _ in pool.map(layer, [x] * 12):
            np.testing.assert_array_equal(got, first)
        longer, _ = layer(np.concatenate([x, x]))
        np.testing.assert_allclose(layer(x, last)[0], longer[100:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("N", [1, 3])
def test_a_layer_called_from_several_threads_at_once(compiled: str, N: int) -> None:
    layer = fastrnn.LSTM(3, 40, 3, seed=0)
    inputs = np.random.default_rng(0).standard_normal((8, 100, N, 3)).astype(np.float32)
    fastrnn.set_num_threads(1)
    want = [layer(x)[0] for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for i, (got, _) in enumerate(pool.map(layer, np.concatenate([inputs] * 5))):
            np.testing.assert_array_equal(got, want[i % 8])


def test_layers_of_which_only_the_upper_are_worth_dividing(compiled: str) -> None:
    # One feature: the first layer alone is not worth a thread.
    layer = fastrnn.LSTM(1, 60, 4, seed=0)
    rng = np.random.default_rng(0)
    # New numbers each time: what an earlier call left in memory would be right.
    for _ in range(100):
        x = rng.standard_normal((64, 2, 1)).astype(np.float32)
        fastrnn.set_num_threads(1)
        alone, _ = layer(x)
        with watched(compiled) as seen:
            fastrnn.set_num_threads(2)
            np.testing.assert_allclose(layer(x)[0], alone, rtol=0, atol=1e-6)
        if compiled == "numba":
            assert [path.parts for path in seen.ran] == [1, 2, 2, 2]
