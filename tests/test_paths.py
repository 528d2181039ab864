"""Every path of every backend, forced: against the NumPy backend and the naive oracle."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import fastrnn
from cases import CALLS, CELLS, call_id, reference, run
from conftest import PROMISED_BACKENDS
from fastrnn import thresholds
from fastrnn.backends.numba import backend as numba_backend
from fastrnn.backends.numba.path import NumbaPath, choose, in_parts
from fastrnn.backends.numba.short import ShortStack, takes
from fastrnn.backends.numpy_backend import NumpyPath
from fastrnn.backends.registry import load_backend
from fastrnn.cells import tanh
from fastrnn.codegen.numba_modules import forward_module
from fastrnn.engine.call import Call as EngineCall
from fastrnn.engine.plan import make_plan
from fastrnn.functional import cell_backward, cell_forward
from naive import Call
from paths import Forced, watched
from problems import ORACLE_RTOL, Problem, assert_close, oracle, problem

# Those of `problem`, and of `CALLS`.
T, N = 5, 4


def numpy_paths() -> list[Forced]:
    return [Forced(NumpyPath(), NumpyPath(), 1)]


def numba_paths() -> list[Forced]:
    """Each chunk on one thread and two, others back than forward, and parts of different sizes."""
    alike = [(parts, chunk, chunk) for parts in (1, 2) for chunk in (1, 2, 3, T)]
    others = [(1, 1, T), (1, T, 2), (2, 3, 1), (3, 2, 2), (N, 1, 1)]
    return [Forced(NumbaPath(p, ahead), NumbaPath(p, back), p) for p, ahead, back in alike + others]


# For each backend its paths for `T` steps of `N` sequences.
PATHS: dict[str, Callable[[], list[Forced]]] = {"numba": numba_paths, "numpy": numpy_paths}

each_backend = pytest.mark.parametrize("name", [name for name in PROMISED_BACKENDS if name in PATHS])
each_cell = pytest.mark.parametrize("cell", CELLS)
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
each_call = pytest.mark.parametrize("call", CALLS, ids=call_id)


def made(p: Problem) -> EngineCall:
    """What a backend is given of `p`."""
    with fastrnn.use_backend("numpy"):
        _, _, cache = cell_forward(CELLS[p.cell], p.x, p.state, p.params)
    assert cache is not None
    return cache.call


@each_call
@each_dtype
@each_cell
@each_backend
def test_every_path_is_right(name: str, cell: str, dtype: str, call: Call) -> None:
    # Rows to be padded, and a product of depth 1 with rows of whole vectors.
    small, whole = problem(cell, dtype=dtype), problem(cell, D=1, H=32, dtype=dtype)
    want, want_whole = reference(small, call), reference(whole, call)
    for forced in PATHS[name]():
        with watched(name, forced):
            got = run(small, call)
            assert_close(got, oracle(problem(cell), call), ORACLE_RTOL[dtype])
            assert_close(got, want, ORACLE_RTOL[dtype])
            assert_close(run(whole, call), want_whole, ORACLE_RTOL[dtype])


@pytest.mark.parametrize("call", [call for call in CALLS if not call.truncate], ids=call_id)
@each_dtype
@each_cell
@each_backend
def test_every_path_is_right_where_nothing_is_kept(name: str, cell: str, dtype: str, call: Call) -> None:
    def outputs(p: Problem) -> dict[str, np.ndarray]:
        y, last, _ = cell_forward(
            CELLS[cell], p.x, p.state, p.params, call.lengths and list(call.lengths), reverse=call.reverse, keep=False
        )
        return {"y": y, **{f"last.{k}": a for k, a in enumerate(last)}}

    for p in (problem(cell, dtype=dtype), problem(cell, D=1, H=32, dtype=dtype)):
        with fastrnn.use_backend("numpy"):
            want = outputs(p)
        for forced in PATHS[name]():
            with watched(name, forced):
                assert_close(outputs(p), want, ORACLE_RTOL[dtype])


@each_backend
@pytest.mark.parametrize("cell", ["lstm", "gru_before"])
def test_every_path_takes_no_gradient_of_the_outputs_for_zeros(name: str, cell: str) -> None:
    p = problem(cell)
    want = reference(replace(p, dhs=np.zeros_like(p.dhs)))
    for forced in PATHS[name]():
        with watched(name, forced):
            _, _, cache = cell_forward(CELLS[cell], p.x, p.state, p.params)
            dx, dstate, dparams = cell_backward(None, cache, p.dlast)
        got = {"dx": dx, **{f"dstate.{k}": a for k, a in enumerate(dstate)}}
        got |= {f"d{name}": a for name, a in dparams.items()}
        assert_close(got, {key: want[key] for key in got}, ORACLE_RTOL["float64"])


@pytest.mark.parametrize("call", [CALLS[0], Call((3, 5, 0, 1), reverse=True, truncate=2)], ids=call_id)
@each_cell
def test_what_numba_finds_in_memory_is_not_read(monkeypatch: pytest.MonkeyPatch, cell: str, call: Call) -> None:
    def full_of_nan(sizes: Sequence[int], dtype: np.dtype[Any]) -> list[np.ndarray]:
        return [np.full(size, np.nan, dtype) for size in sizes]

    monkeypatch.setattr(numba_backend, "aligned_parts", full_of_nan)
    p = problem(cell)
    for forced in numba_paths():
        with watched("numba", forced):
            assert_close(run(p, call), oracle(p, call), ORACLE_RTOL["float64"])


@each_backend
def test_every_path_is_told_in_words(name: str) -> None:
    for forced in PATHS[name]():
        for path in forced[:2]:
            assert path.describe() and all(isinstance(line, str) and line for line in path.describe())


# Sequences and units by which LSTM takes several chunks of 20 steps, both ways, or one.
@pytest.mark.parametrize(("sizes", "chunked"), [((20, 300, 2, 32), True), ((20, 3, 2, 32), False)])
@pytest.mark.parametrize("blas_threads", [1, 2])
def test_the_path_that_numba_tells_is_the_one_that_runs(
    monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int, int, int], chunked: bool, blas_threads: int
) -> None:
    monkeypatch.setattr(load_backend("numba"), "blas_threads", blas_threads)
    monkeypatch.setattr(thresholds, "WORTH_A_THREAD", 1)
    fastrnn.set_num_threads(2)
    p = problem("lstm", *sizes, dtype="float32", scale=0.5)
    with watched("numba") as backend:
        got = run(p)
    assert [path.parts for path in backend.ran] == ([2, 2] if blas_threads == 1 else [1, 1])
    assert [path.chunk < 20 for path in backend.ran] == [chunked, chunked]
    assert_close(got, reference(p), 4 * ORACLE_RTOL["float32"])


@pytest.mark.parametrize(
    ("sizes", "threads", "blas_threads", "path"),
    [
        # T, N, bytes of a row: as many steps as fit a chunk's bytes, of the larger part.
        ((100, 32, 2048), 1, 1, NumbaPath(1, 16)),
        ((100, 32, 2048), 2, 1, NumbaPath(2, 32)),
        ((100, 31, 2048), 2, 1, NumbaPath(2, 32)),
        ((100, 33, 2048), 2, 1, NumbaPath(2, 30)),
        ((100, 32, 2049), 1, 1, NumbaPath(1, 15)),
        ((10, 32, 2048), 1, 1, NumbaPath(1, 10)),
        # At least so many rows.
        ((1000, 1, 1 << 20), 1, 1, NumbaPath(1, 256)),
        ((1000, 100, 1 << 20), 1, 1, NumbaPath(1, 3)),
        ((1000, 256, 1 << 20), 1, 1, NumbaPath(1, 1)),
        ((1000, 255, 1 << 20), 1, 1, NumbaPath(1, 2)),
        # A BLAS with threads of its own is left alone; no more parts than sequences.
        ((100, 32, 2048), 2, 2, NumbaPath(1, 16)),
        ((100, 3, 2048), 8, 1, NumbaPath(3, 100)),
        ((100, 0, 2048), 2, 1, NumbaPath(1, 100)),
    ],
)
def test_numba_chooses_by_sizes_and_threads(
    sizes: tuple[int, int, int], threads: int, blas_threads: int, path: NumbaPath
) -> None:
    assert choose(*sizes, threads, blas_threads) == path
    assert in_parts(path.parts, *sizes) == path


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_numba_goes_back_by_the_parts_that_kept(parts: int) -> None:
    p = problem("gru_after")
    forced = Forced(NumbaPath(parts, T), NumbaPath(parts, T), N)
    with watched("numba", forced):
        want = run(p)
    call, backend = replace(made(p), threads=N), load_backend("numba")
    saved = backend.forward(call, True, forced.forward).saved
    got = backend.backward(call, saved, p.dhs, p.dlast, None)
    assert got.path == forced.backward
    np.testing.assert_array_equal(got.dx, want["dx"])
    for other in {1, 2, 3} - {parts}:
        with pytest.raises(ValueError, match=f"^path: expected {parts} parts as the forward pass had, got"):
            backend.backward(call, saved, p.dhs, p.dlast, None, NumbaPath(other, T))


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        (NumbaPath(0, 1), ValueError, r"path: expected 1 to 4 parts of 4 sequences for 8 threads, got NumbaPath"),
        (NumbaPath(5, 1), ValueError, r"path: expected 1 to 4 parts of 4 sequences for 8 threads, got NumbaPath"),
        (NumbaPath(1, 0), ValueError, r"path: expected a chunk of 1 to 5 steps, got NumbaPath\(parts=1, chunk=0\)"),
        (NumbaPath(1, T + 1), ValueError, r"path: expected a chunk of 1 to 5 steps, got NumbaPath"),
        ((1, 1), TypeError, "path: expected a NumbaPath, got tuple"),
        (NumpyPath(), TypeError, "path: expected a NumbaPath, got NumpyPath"),
    ],
)
def test_numba_refuses_a_path_that_does_not_fit(path: Any, error: type[Exception], message: str) -> None:
    p = problem("rnn_tanh")
    call, backend = replace(made(p), threads=8), load_backend("numba")
    saved = backend.forward(call, True, NumbaPath(1, T)).saved
    with pytest.raises(error, match=message):
        backend.forward(call, True, path)
    with pytest.raises(error, match=message):
        backend.backward(call, saved, p.dhs, p.dlast, None, path)


def test_no_more_parts_than_threads() -> None:
    call = replace(made(problem("rnn_tanh")), threads=2)
    with pytest.raises(ValueError, match="path: expected 1 to 2 parts of 4 sequences for 2 threads"):
        load_backend("numba").forward(call, True, NumbaPath(3, 1))


def test_numpy_refuses_the_path_of_another() -> None:
    p = problem("rnn_tanh")
    call, backend = made(p), load_backend("numpy")
    saved = backend.forward(call, True, NumpyPath()).saved
    with pytest.raises(TypeError, match="path: expected a NumpyPath, got NumbaPath"):
        backend.forward(call, True, NumbaPath(1, 1))
    with pytest.raises(TypeError, match="path: expected a NumpyPath, got NumbaPath"):
        backend.backward(call, saved, p.dhs, p.dlast, None, NumbaPath(1, 1))


@pytest.mark.parametrize(
    ("work", "sequences", "threads", "taken"),
    [
        (0, 1, 1, False),
        (1, 1, 1, True),
        (16_000_000, 1, 1, True),
        (16_000_001, 1, 1, False),
        (3_000_000, 2, 1, True),
        (3_000_000, 2, 2, False),
        (3_000_000, 1, 2, True),
    ],
)
def test_the_short_way_is_for_short_calls(work: int, sequences: int, threads: int, taken: bool) -> None:
    assert takes(work, sequences, threads) == taken


def test_a_stack_goes_the_short_way_if_it_takes_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = fastrnn.LSTM(3, 4, 2, seed=0)
    stack = load_backend("numba").stack(layer._layout())
    x = np.ones((T, N, 3), np.float32)
    # The upper layer has more to do.
    work = T * N * 4 * (4 * 4 + 4 * 4)

    def short(threads: int = 1) -> bool:
        return stack(layer.params, x, None, 3, lambda work: threads, 0) is not None

    monkeypatch.setattr(thresholds, "SHORT_WORK", work)
    assert short() and not short(threads=2)
    monkeypatch.setattr(thresholds, "SHORT_WORK", work - 1)
    assert not short()


@pytest.mark.parametrize(("rows", "kept"), [(1024, 1), (1025, 0)])
def test_a_stack_keeps_the_buffers_of_few_rows(rows: int, kept: int) -> None:
    layer = fastrnn.RNN(1, 1, seed=0)
    stack = load_backend("numba").stack(layer._layout())
    assert isinstance(stack, ShortStack)
    assert stack(layer.params, np.ones((rows, 1, 1), np.float32), None, 3, lambda work: 1, 0) is not None
    assert len(stack._idle) == kept


def test_the_tiles_of_the_compiled_loops() -> None:
    """The four sums of LSTM in a row of vectors, the one of RNN in up to four; the depth of small tiles in parts."""

    @fastrnn.cell(gates="a b c d e")
    def five(x: Any, U: Any, h: Any) -> Any:
        return tanh(x.a + U.a @ h) * tanh(x.b + U.b @ h) * tanh(x.c + U.c @ h) * tanh(x.d + U.d @ h) + x.e + U.e @ h

    def tiles(cell: fastrnn.Cell) -> list[tuple[int, ...]]:
        """Rows, columns, parts of the depth."""
        text = forward_module(make_plan(cell), "float32", 16)
        return [tuple(map(int, found)) for found in re.findall(r"= tile\((\d+), (\d+), 16, (\d+)\)", text)]

    one = [(1, 1, 8), (2, 1, 4), (4, 1, 2), (8, 1, 1)]
    two = [(1, 2, 4), (2, 2, 2), (4, 2, 1), (8, 2, 1)]
    four = [(1, 4, 2), (2, 4, 1), (4, 4, 1), (6, 4, 1)]
    assert tiles(CELLS["lstm"]) == four
    assert tiles(CELLS["gru_after"]) == [(1, 3, 2), (2, 3, 1), (4, 3, 1), (8, 3, 1)]
    assert tiles(CELLS["rnn_tanh"]) == sorted(one + two + four)
    assert tiles(five) == sorted([*four, *((rows, 1, 8 // rows) for rows, _, _ in four if rows < 6), (6, 1, 1)])
