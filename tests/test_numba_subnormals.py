"""Numbers below the least normal one are zeros within a call of the Numba backend, and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from numba import njit

import fastrnn
from cases import CELLS
from fastrnn.backends.numba import subnormals
from fastrnn.backends.numba.path import NumbaPath
from fastrnn.engine import threads
from fastrnn.functional import cell_backward, cell_forward
from paths import Forced, watched

pytestmark = pytest.mark.skipif(not subnormals.BITS, reason="fastrnn knows no such mode of this processor")

ALONE = Forced(NumbaPath(1, 1), NumbaPath(1, 2), 1)
TOGETHER = Forced(NumbaPath(2, 2), NumbaPath(2, 1), 2)
# Their product is subnormal.
TINY = {"float32": (1e-30, 1e-10), "float64": (1e-300, 1e-10)}

each_dtype = pytest.mark.parametrize("dtype", TINY)


@njit
def mode() -> int:
    # Without the flags of what has happened, which NumPy clears now and then.
    return subnormals.read_register() & ~0x3F


@njit
def write(value: int) -> None:
    subnormals.write_register(value)


def modes() -> list[int]:
    """Of this thread, and of all that parts of a call run on, when these have ended."""
    count = os.cpu_count() or 1
    all_here = Barrier(count)

    def in_pool(_: int) -> int:
        all_here.wait()
        return mode()

    return [mode(), *threads._pool().map(in_pool, range(count))]


@pytest.fixture
def unchanged() -> Iterator[None]:
    """The test leaves the mode of every thread as it was: here, one that has subnormal numbers."""
    before = modes()
    assert not any(value & subnormals.BITS for value in before)
    yield
    assert modes() == before


def identity(dtype: str, x: float, Wx: float, h: float, Wh: float) -> Callable[[], list[np.ndarray]]:
    """Both passes of a linear cell over two steps of two sequences, two features and one unit: outputs, gradients."""
    cell = CELLS["rnn_identity"]
    params = {"Wx": np.full((2, 1), Wx, dtype), "Wh": np.full((1, 1), Wh, dtype)}
    given, state = np.full((2, 2, 2), x, dtype), (np.full((2, 1), h, dtype),)

    def both() -> list[np.ndarray]:
        y, last, cache = cell_forward(cell, given, state, params)
        dx, dstate, dparams = cell_backward(np.full(y.shape, x, dtype), cache, None)
        return [y, *last, dx, *dstate, *dparams.values()]

    return both


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("forced", [ALONE, TOGETHER], ids=["alone", "together"])
@each_dtype
def test_products_below_the_least_normal_number_are_zeros(dtype: str, forced: Forced) -> None:
    small, smaller = TINY[dtype]
    # By the input's product, and by the state's; a product of a subnormal number is one.
    for arguments in ((small, smaller, 0, 0), (0, 0, small, smaller), (0, 0, np.finfo(dtype).tiny / 4, 0.5)):
        both = identity(dtype, *arguments)
        with fastrnn.use_backend("numpy"):
            assert both()[0][0].all()
        with watched("numba", forced):
            y, last, *_ = both()
        assert not y.any() and not last.any()


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("forced", [ALONE, TOGETHER], ids=["alone", "together"])
@each_dtype
def test_gradients_below_the_least_normal_number_are_zeros(dtype: str, forced: Forced) -> None:
    both = identity(dtype, TINY[dtype][0], TINY[dtype][1], 1, TINY[dtype][1])
    with fastrnn.use_backend("numpy"):
        _, _, dx, dstate, *_ = both()
    assert dx.all() and dstate.all() and np.abs([dx, dx]).max() < np.finfo(dtype).tiny
    with watched("numba", forced):
        _, _, dx, dstate, *_ = both()
    assert not dx.any() and not dstate.any()


@pytest.mark.usefixtures("unchanged")
@each_dtype
def test_products_of_a_short_call_are_zeros(dtype: str) -> None:
    small, smaller = TINY[dtype]
    layer = fastrnn.RNN(1, 1, nonlinearity="relu", bias=False, dtype=dtype, seed=0)
    layer.params["Wx_l0"][...] = smaller
    x = np.full((2, 1, 1), small, dtype)
    with fastrnn.use_backend("numpy"):
        assert layer(x)[0].all() and layer.step(x[0])[0].all()
    with fastrnn.use_backend("numba"):
        assert not layer(x)[0].any() and not layer.step(x[0])[0].any()


@pytest.mark.usefixtures("unchanged")
def test_after_a_call_numpy_has_subnormal_numbers() -> None:
    small, smaller = TINY["float32"]
    with watched("numba", TOGETHER):
        identity("float32", 1, 1, 1, 1)()
    many = np.full((128, 128), small, np.float32)
    assert (many * np.float32(smaller)).all() and (many @ np.full_like(many, smaller)).all()


def test_a_caller_keeps_a_mode_of_its_own() -> None:
    small, smaller = np.float32(TINY["float32"])
    layer = fastrnn.RNN(1, 1, seed=0)

    def flushing() -> list[Any]:
        before = mode()
        write(before | subnormals.BITS)
        try:
            own = mode()
            with watched("numba", ALONE):
                identity("float32", 1, 1, 1, 1)()
                layer(np.ones((2, 1, 1), np.float32))
            return [own, mode(), float(small * smaller)]
        finally:
            write(before)

    here = mode()
    with ThreadPoolExecutor(1) as pool:
        own, after, product = pool.submit(flushing).result()
    assert own & subnormals.BITS == subnormals.BITS and after == own and product == 0
    assert mode() == here and float(small * smaller) > 0
