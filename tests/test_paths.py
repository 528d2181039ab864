"""Every path of every backend, forced: against the NumPy backend and the naive oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import fastrnn
from cases import CALLS, CELLS, call_id, reference, run
from conftest import PROMISED_BACKENDS
from fastrnn import thresholds
from fastrnn.backends.numba import run as numba_run
from fastrnn.backends.numba.path import NumbaPath, choose, in_parts
from fastrnn.backends.numba.tables import most_rows, tile_shapes, unit_vectors
from fastrnn.backends.numpy_backend import NumpyPath
from fastrnn.dispatch import load_backend
from fastrnn.engine.contract import Call as EngineCall
from fastrnn.engine.plan import make_plan
from fastrnn.engine.settings import current
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
    params = {name: value for name, value in p.params.items() if value.size}
    if "Wh" not in params:
        params["Wh"] = np.empty((p.state[0].shape[1], 0), p.x.dtype)
    return EngineCall(make_plan(CELLS[p.cell]), p.x, p.state, params, False, 1)


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

    def memory_full_of_nan(size: int, dtype: np.dtype[Any]) -> np.ndarray:
        return np.full(size, np.nan, dtype)

    monkeypatch.setattr(numba_run, "aligned_arrays", full_of_nan)
    monkeypatch.setattr(numba_run, "_take", memory_full_of_nan)
    p = problem(cell)
    for forced in numba_paths():
        with watched("numba", forced):
            assert_close(run(p, call), oracle(p, call), ORACLE_RTOL["float64"])


# Rows of the input from which Numba packs the input's weights, and one fewer; units that fill vectors.
@pytest.mark.parametrize("sizes", [(7, 1, 5, 32), (1, 7, 5, 32), (8, 1, 5, 32), (2, 4, 70, 64), (1, 1, 3, 16)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", ["lstm", "gru_after", "rnn_tanh"])
def test_few_rows_of_input(cell: str, dtype: str, sizes: tuple[int, int, int, int]) -> None:
    p = problem(cell, *sizes, dtype=dtype)
    with fastrnn.use_backend("numba"):
        assert_close(run(p), reference(p), ORACLE_RTOL[dtype])


@each_backend
def test_every_path_is_told_in_words(name: str) -> None:
    for forced in PATHS[name]():
        for path in forced[:2]:
            assert path.describe() and all(isinstance(line, str) and line for line in path.describe())


# Sequences and units by which LSTM takes several chunks of 20 steps, both ways, or one.
@pytest.mark.parametrize(("sizes", "chunked"), [((20, 300, 2, 32), True), ((20, 3, 2, 32), False)])
def test_the_path_that_numba_tells_is_the_one_that_runs(
    monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int, int, int], chunked: bool
) -> None:
    monkeypatch.setattr(thresholds, "WORTH_A_THREAD", 1)
    fastrnn.set_num_threads(2)
    p = problem("lstm", *sizes, dtype="float32", scale=0.5)
    with watched("numba") as backend:
        got = run(p)
    assert [path.parts for path in backend.ran] == [2, 2]
    assert [path.chunk < 20 for path in backend.ran] == [chunked, chunked]
    assert_close(got, reference(p), 4 * ORACLE_RTOL["float32"])


@pytest.mark.parametrize(
    ("sizes", "threads", "path"),
    [
        # T, N, bytes of a row: as many steps as fit a chunk's bytes, of the larger part.
        ((100, 32, 2048), 1, NumbaPath(1, 16)),
        ((100, 32, 2048), 2, NumbaPath(2, 32)),
        ((100, 31, 2048), 2, NumbaPath(2, 32)),
        ((100, 33, 2048), 2, NumbaPath(2, 30)),
        ((100, 32, 2049), 1, NumbaPath(1, 15)),
        ((10, 32, 2048), 1, NumbaPath(1, 10)),
        # At least so many rows.
        ((1000, 1, 1 << 20), 1, NumbaPath(1, 256)),
        ((1000, 100, 1 << 20), 1, NumbaPath(1, 3)),
        ((1000, 256, 1 << 20), 1, NumbaPath(1, 1)),
        ((1000, 255, 1 << 20), 1, NumbaPath(1, 2)),
        # No more parts than sequences.
        ((100, 3, 2048), 8, NumbaPath(3, 100)),
        ((100, 0, 2048), 2, NumbaPath(1, 100)),
    ],
)
def test_numba_chooses_by_sizes_and_threads(sizes: tuple[int, int, int], threads: int, path: NumbaPath) -> None:
    assert choose(*sizes, threads) == path
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


def quick(layer: fastrnn.Recurrent, x: np.ndarray, num_threads: int = 1) -> Any:
    """What the quick way makes of a call; None if it does not take it."""
    with fastrnn.use_backend("numba"), fastrnn.use_num_threads(num_threads):
        return layer._prepared.quick(x, None, 3, current(), False)


def test_a_stack_goes_the_quick_way_where_one_thread_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = fastrnn.LSTM(3, 4, 2, seed=0)
    # The upper layer has more to do.
    work = T * N * 4 * (4 * 4 + 4 * 4)
    several, one = np.ones((T, N, 3), np.float32), np.ones((T, 1, 3), np.float32)
    monkeypatch.setattr(thresholds, "WORTH_A_THREAD", work // 2)
    assert quick(layer, several) and quick(layer, one, 2) and not quick(layer, several, 2)
    monkeypatch.setattr(thresholds, "WORTH_A_THREAD", work // 2 + 1)
    assert quick(layer, several, 2)


@pytest.mark.parametrize("kept", [True, False])
def test_memory_up_to_a_size_is_kept_for_the_next_call(monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    layer, x, idle = fastrnn.RNN(1, 1, seed=0), np.ones((5, 1, 1), np.float32), numba_run._idle[np.dtype("float32")]
    idle.clear()
    monkeypatch.setattr(thresholds, "KEPT_BYTES", 1 << 20 if kept else 0)
    assert quick(layer, x) is not None
    assert len(idle) == kept
    before = [*idle]
    assert quick(layer, x) is not None
    assert all(memory is found for memory, found in zip(before, idle, strict=True))


def test_the_tiles_of_the_compiled_loops() -> None:
    """Their sums fit the registers, and small ones split the depth; as many units in one as its sums leave columns."""
    shapes = {(rows, columns): parts for rows, columns, parts in tile_shapes()}
    wide = [(1, 6), (1, 8)]
    assert sorted(shapes) == sorted(wide + [(r, c) for r in (1, 2, 4, 6, 8) for c in (1, 2, 3, 4) if (r, c) != (8, 4)])
    assert all(rows * columns * parts <= 24 for (rows, columns), parts in shapes.items())
    assert {key: parts for key, parts in shapes.items() if parts > 1} == {
        (1, 1): 8, (1, 2): 4, (1, 3): 2, (1, 4): 2, (2, 1): 4, (2, 2): 2, (4, 1): 2,
    }  # fmt: skip
    assert [most_rows(columns) for columns in (1, 2, 3, 4)] == [8, 8, 8, 6]
    assert [unit_vectors(sums, 4) for sums in (1, 2, 3, 4)] == [4, 2, 1, 1]
    assert [unit_vectors(sums, 8) for sums in (1, 2, 3, 4)] == [8, 4, 2, 2]
