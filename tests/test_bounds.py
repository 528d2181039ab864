"""Compiled loops stay inside their arrays, which lie beside pages that no one may touch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

import fastrnn
import guarded
from cases import CELLS, reference, run
from fastrnn.backends.numba import run as numba_run
from fastrnn.backends.numba.path import NumbaPath
from fastrnn.functional import cell_forward
from naive import PLAIN, Call
from paths import Forced, watched
from problems import ORACLE_RTOL, Problem, assert_close, problem

pytestmark = pytest.mark.skipif(not guarded.AVAILABLE, reason="memory is protected by POSIX's mprotect")

# Steps that whole chunks of 2 do not fill; units that fill vectors and that do not; features for more than one tile.
SIZES = [(5, 3, 3, 5), (5, 9, 40, 48), (1, 1, 1, 17)]
# Also weights that are read where they are, and a chunk of steps of which the input is projected at once.
SIZES_OF_CPP = [(2, 7, 5, 33), (12, 1, 9, 70), (600, 2, 5, 9)]
KINDS = [PLAIN, Call((3, 5, 0), reverse=True, truncate=2), Call(reverse=True)]


class GuardedNumPy:
    """NumPy, but for the arrays that `empty` gives."""

    def __init__(self, at_end: bool) -> None:
        self.empty = partial(guarded.empty, at_end=at_end)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def beside_forbidden_pages(p: Problem, at_end: bool) -> Problem:
    """`p` with its arrays in such places."""
    copy = partial(guarded.copy, at_end=at_end)
    return replace(p, x=copy(p.x), params={name: copy(a) for name, a in p.params.items()}, dhs=copy(p.dhs))


def guard_memory_of_numba(monkeypatch: pytest.MonkeyPatch, at_end: bool) -> None:
    """Makes what calls of the Numba backend allocate such as :mod:`guarded` gives."""
    empty = partial(guarded.empty, at_end=at_end)

    def take(size: int, dtype: np.dtype[Any]) -> np.ndarray:
        return empty(size, dtype)

    def arrays(sizes: Sequence[int], dtype: np.dtype[Any]) -> list[np.ndarray]:
        return [empty(size, dtype) for size in sizes]

    monkeypatch.setattr(numba_run, "_take", take)
    monkeypatch.setattr(numba_run, "_give_back", lambda memory: None)
    monkeypatch.setattr(numba_run, "aligned_arrays", arrays)
    monkeypatch.setattr(numba_run, "np", GuardedNumPy(at_end))


def for_batch(call: Call, T: int, N: int) -> Call:
    """`call` with lengths for N sequences of at most T steps."""
    return replace(call, lengths=call.lengths and tuple(min(call.lengths[n % 3], T) for n in range(N)))


def outputs(p: Problem, call: Call) -> dict[str, np.ndarray]:
    """Those of a call that saves nothing."""
    lengths = call.lengths and list(call.lengths)
    y, _, _ = cell_forward(CELLS[p.cell], p.x, p.state, p.params, lengths, reverse=call.reverse, keep=False)
    return {"hs": y}


each_end = pytest.mark.parametrize("at_end", [True, False], ids=["end", "begin"])
each_kind = pytest.mark.parametrize("call", KINDS, ids=["plain", "ragged", "reverse"])


@each_end
@each_kind
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("cell", ["lstm", "gru_before", "peephole_lstm", "coupled_lstm"])
def test_numba_stays_inside_its_arrays(
    monkeypatch: pytest.MonkeyPatch, cell: str, sizes: tuple[int, int, int, int], call: Call, at_end: bool
) -> None:
    T, N, _, _ = sizes
    p, call = problem(cell, *sizes), for_batch(call, T, N)
    want = reference(p, call)
    guard_memory_of_numba(monkeypatch, at_end)
    p = beside_forbidden_pages(p, at_end)
    path = NumbaPath(1, min(2, T))
    with watched("numba", Forced(path, path)):
        assert_close(run(p, call), want, ORACLE_RTOL["float64"])
        assert_close(outputs(p, call), {"hs": want["hs"]}, ORACLE_RTOL["float64"])


@each_end
@pytest.mark.parametrize("kind", ["value", "norm"])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("cell", ["lstm", "peephole_lstm"])
def test_gradients_of_each_sequence_and_clipped_ones_stay_inside(
    monkeypatch: pytest.MonkeyPatch, cell: str, sizes: tuple[int, int, int, int], kind: str, at_end: bool
) -> None:
    p = problem(cell, *sizes)

    def gradients(p: Problem) -> dict[str, np.ndarray]:
        prepared = fastrnn.prepare(CELLS[cell], {f"{name}_l0": value for name, value in p.params.items()})
        dx, _, grads = prepared.vjp(p.x)[2](p.dhs, clip_state=(kind, 0.5), per_sequence=True)
        return {"dx": dx, **grads}

    with fastrnn.use_backend("numpy"):
        want = gradients(p)
    guard_memory_of_numba(monkeypatch, at_end)
    path = NumbaPath(1, min(2, sizes[0]))
    with watched("numba", Forced(path, path)):
        assert_close(gradients(beside_forbidden_pages(p, at_end)), want, ORACLE_RTOL["float64"])


@each_end
@each_kind
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru_after", "gru_before"])
def test_the_extension_stays_inside_the_arrays_that_it_is_given(
    variant: str, cell: str, dtype: str, call: Call, at_end: bool
) -> None:
    for sizes in [*SIZES, *SIZES_OF_CPP]:
        T, N, _, _ = sizes
        p, made = problem(cell, *sizes, dtype=dtype), for_batch(call, T, N)
        want = reference(p, made)
        p = beside_forbidden_pages(p, at_end)
        assert_close(run(p, made), want, 4 * ORACLE_RTOL[dtype])
        assert_close(outputs(p, made), {"hs": want["hs"]}, 4 * ORACLE_RTOL[dtype])
