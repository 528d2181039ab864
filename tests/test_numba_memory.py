"""The compiled loops of the Numba backend stay inside their arrays, which lie beside pages that no one may touch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

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
KINDS = [PLAIN, Call((3, 5, 0), reverse=True, truncate=2), Call(reverse=True)]


class GuardedNumPy:
    """NumPy, but for the arrays that `empty` gives."""

    def __init__(self, at_end: bool) -> None:
        self.empty = partial(guarded.empty, at_end=at_end)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def beside_forbidden_pages(monkeypatch: pytest.MonkeyPatch, p: Problem, at_end: bool) -> Problem:
    """Makes all memory of calls such as :mod:`guarded` gives; `p` with its arrays there."""
    empty = partial(guarded.empty, at_end=at_end)

    def take(size: int, dtype: np.dtype[Any]) -> np.ndarray:
        return empty(size, dtype)

    def arrays(sizes: Sequence[int], dtype: np.dtype[Any]) -> list[np.ndarray]:
        return [empty(size, dtype) for size in sizes]

    monkeypatch.setattr(numba_run, "_take", take)
    monkeypatch.setattr(numba_run, "_give_back", lambda memory: None)
    monkeypatch.setattr(numba_run, "aligned_arrays", arrays)
    monkeypatch.setattr(numba_run, "np", GuardedNumPy(at_end))
    copy = partial(guarded.copy, at_end=at_end)
    return replace(p, x=copy(p.x), params={name: copy(a) for name, a in p.params.items()}, dhs=copy(p.dhs))


@pytest.mark.parametrize("at_end", [True, False], ids=["end", "begin"])
@pytest.mark.parametrize("call", KINDS, ids=["plain", "ragged", "reverse"])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("cell", ["lstm", "gru_before", "peephole_lstm", "coupled_lstm"])
def test_numba_stays_inside_its_arrays(
    monkeypatch: pytest.MonkeyPatch, cell: str, sizes: tuple[int, int, int, int], call: Call, at_end: bool
) -> None:
    p = problem(cell, *sizes)
    T, N, _, _ = sizes
    if call.lengths:
        call = replace(call, lengths=tuple(min(call.lengths[n % 3], T) for n in range(N)))
    want = reference(p, call)
    p = beside_forbidden_pages(monkeypatch, p, at_end)
    path = NumbaPath(1, min(2, T))
    with watched("numba", Forced(path, path)):
        assert_close(run(p, call), want, ORACLE_RTOL["float64"])
        lengths = call.lengths and list(call.lengths)
        y, _, _ = cell_forward(CELLS[cell], p.x, p.state, p.params, lengths, reverse=call.reverse, keep=False)
    assert_close({"hs": y}, {"hs": want["hs"]}, ORACLE_RTOL["float64"])
