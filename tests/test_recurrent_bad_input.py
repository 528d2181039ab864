"""Recurrent layers: what each bad input gets. The functions beneath have their own table, test_bad_input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fastrnn
from conftest import PROMISED_BACKENDS
from fastrnn import GRU, LSTM, RNN, Recurrent

T, N, D, H = 6, 4, 3, 5


@pytest.fixture(autouse=True, params=[name for name in PROMISED_BACKENDS if name != "numba"])
def some_backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """Arguments are checked before a backend is asked, but for the C++ backend's quick way through a layer."""
    with fastrnn.use_backend(request.param):
        yield


def f4(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda m: m(np.zeros((T, N, D))), TypeError, "x"),
        (lambda m: m([[[1.0] * D]]), TypeError, "x"),
        (lambda m: m(f4(T, N, 4)), ValueError, r"x: expected shape \(T, N, 3\), got \(6, 4, 4\)"),
        (lambda m: m(f4(T, D)), ValueError, "x"),
        (lambda m: m(f4(0, N, D)), ValueError, "x"),
        (lambda m: m(f4(T, N, D), f4(1, N, H)), TypeError, r"state: expected a tuple of 2 arrays \(h, c\)"),
        (lambda m: m(f4(T, N, D), (f4(1, N, H),)), ValueError, r"state: expected a tuple of 2 .*, got 1"),
        (lambda m: m(f4(T, N, D), (f4(1, N, H), f4(N, H))), ValueError, r"state\[1\]"),
        (lambda m: m(f4(T, N, D), (np.zeros((1, N, H)), f4(1, N, H))), TypeError, r"state\[0\]"),
        (lambda m: GRU(D, H)(f4(T, N, D), (f4(1, N, H),)), TypeError, "state: expected a NumPy array"),
        (lambda m: m(f4(T, N, D), None, [1, 2]), ValueError, "lengths"),
        (lambda m: m(f4(T, N, D), None, [1, 2, 3, 7]), ValueError, "lengths"),
        (lambda m: m.backward(f4(T, N, H)), RuntimeError, "LSTM.backward"),
        (lambda m: m.step(f4(D)), ValueError, r"x: expected shape \(N, 3\)"),
        (lambda m: m.step(f4(N, 4)), ValueError, r"x: expected shape \(N, 3\)"),
        (lambda m: m.step(np.zeros((N, D))), TypeError, "x"),
        (lambda m: LSTM(D, H, bidirectional=True).step(f4(N, D)), ValueError, "step"),
        (lambda m: LSTM(0, H), ValueError, "input_size"),
        (lambda m: LSTM(D, 4.0), TypeError, "hidden_size"),
        (lambda m: LSTM(D, H, 0), ValueError, "num_layers"),
        (lambda m: LSTM(D, H, dropout=1.0), ValueError, "dropout"),
        (lambda m: LSTM(D, H, dropout=-0.1), ValueError, "dropout"),
        (lambda m: LSTM(D, H, dtype="float16"), TypeError, "dtype"),
        (lambda m: LSTM(D, H, seed="2"), TypeError, "seed"),
        (lambda m: LSTM(D, H, seed=-1), ValueError, "seed"),
        (lambda m: RNN(D, H, nonlinearity="sin"), ValueError, "nonlinearity"),
        (lambda m: RNN(D, H, nonlinearity=np.array(["tanh", "relu"])), ValueError, "nonlinearity"),
        (lambda m: LSTM(D, H, bias=np.array([True, False])), TypeError, "bias"),
        (lambda m: LSTM(D, H, batch_first=np.array([True, False])), TypeError, "batch_first"),
        (lambda m: LSTM(D, H, bidirectional=np.array([True, False])), TypeError, "bidirectional"),
        (lambda m: LSTM(D, H, bidirectional=2), TypeError, "bidirectional"),
        (lambda m: GRU(D, H, reset_after=np.array([True, False])), TypeError, "reset_after"),
        (lambda m: LSTM(D, H, dropout=np.array([0.1, 0.2])), ValueError, "dropout"),
        (lambda m: LSTM(D, H, np.array([1, 2])), TypeError, "num_layers"),
        (lambda m: Recurrent("lstm", D, H), TypeError, "cell"),
    ],
)
def test_bad_calls(call: Callable[[LSTM], Any], error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=rf"^{named}"):
        call(LSTM(D, H, seed=0))


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"dy": f4(T, N, H + 1)}, ValueError, "dy"),
        ({"dy": np.zeros((T, N, H))}, TypeError, "dy"),
        ({"dy": None, "dstate": f4(1, N, H)}, TypeError, "dstate"),
        ({"dy": None, "dstate": (f4(1, N, H), f4(2, N, H))}, ValueError, r"dstate\[1\]"),
        ({"dy": None, "truncate": 0}, ValueError, "truncate"),
        ({"dy": None, "truncate": 1.5}, TypeError, "truncate"),
        ({"dy": None, "truncate": np.array([1, 2])}, TypeError, "truncate"),
    ],
)
def test_bad_gradients_add_nothing(arguments: dict[str, Any], error: type[Exception], named: str) -> None:
    layer = LSTM(D, H)
    layer.forward(f4(T, N, D))
    with pytest.raises(error, match=rf"^{named}: expected"):
        layer.backward(**arguments)
    assert not any(g.any() for g in layer.grads.values())
