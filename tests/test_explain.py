"""`fastrnn.explain`: the path in words is the path that runs."""

from __future__ import annotations

import numpy as np
import pytest

import fastrnn
import user_cells
from conftest import PROMISED_BACKENDS
from paths import watched


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("T, N, H", [(60, 1, 90), (60, 20, 33), (1, 1, 8), (300, 3, 40)])
@pytest.mark.parametrize("batch_first", [False, True])
def test_it_describes_what_runs(backend: str, T: int, N: int, H: int, batch_first: bool, threads: int) -> None:
    fastrnn.set_num_threads(threads)
    layer = fastrnn.LSTM(6, H, batch_first=batch_first, seed=0)
    x = np.zeros((N, T, 6) if batch_first else (T, N, 6), np.float32)
    with watched(backend) as watch:
        text = fastrnn.explain(layer, x)
        y, _ = layer.forward(x)
        layer.backward(y)
    assert f"backend {backend}" in text and f"T={T} steps, N={N} sequences, D=6 features, H={H}" in text
    described = [line.strip() for line in text.splitlines()]
    forward, bptt = watch.ran
    at, back = described.index("forward"), described.index("BPTT")
    assert described[at + 1 : back] == forward.describe()
    assert described[back + 1 :] == bptt.describe()


@pytest.mark.skipif("cpp" not in PROMISED_BACKENDS, reason="the extension was not built")
def test_it_names_the_instruction_set_and_the_threads(variant: str) -> None:
    fastrnn.set_num_threads(2)
    text = fastrnn.explain(fastrnn.GRU(6, 64), np.zeros((50, 32, 6), np.float32))
    assert f"instruction set {variant}" in text
    assert "threads: 2, each with a share of the sequences" in text and "may take 2 of 2 threads" in text
    text = fastrnn.explain(fastrnn.GRU(6, 200), np.zeros((50, 1, 6), np.float32))
    assert "threads: 2, each with a share of the hidden units" in text
    assert "precision 'highest'" in text


@pytest.mark.skipif("cpp" not in PROMISED_BACKENDS, reason="the extension was not built")
def test_it_tells_of_cells_that_the_extension_does_not_have() -> None:
    with fastrnn.use_backend("cpp"):
        text = fastrnn.explain(fastrnn.Recurrent(user_cells.mgu, 3, 4), np.zeros((5, 2, 3), np.float32))
    assert "backend numba (cpp does not have this cell)" in text


def test_it_tells_what_is_copied(backend: str) -> None:
    x = np.zeros((7, 2, 6), np.float32)
    layer = fastrnn.LSTM(3, 4, 2)
    assert "copied" not in fastrnn.explain(layer, x[..., :3].copy())
    text = fastrnn.explain(layer, x[..., ::2])
    assert ("copied first, as elements are not contiguous: x\n" in text) == (backend != "numpy")
    # That of the layer above is the layer's own.
    assert text.count("copied") == (backend != "numpy")


def test_every_recurrent_layer_of_a_model_is_told(backend: str) -> None:
    model = fastrnn.Model([fastrnn.Embedding(9, 3), fastrnn.LSTM(3, 4, 2), fastrnn.GRU(4, 5), fastrnn.Linear(5, 9)])
    text = fastrnn.explain(model, np.zeros((7, 2), np.int64))
    assert [line.strip().split(":")[0] for line in text.splitlines() if "layer " in line] == [
        "layer 0",
        "layer 1",
        "layer 0",
    ]
    assert "LSTM, cell lstm" in text and "GRU, cell gru_reset_after" in text


def test_two_directions_and_cells_without_matrices(backend: str) -> None:
    x = np.zeros((7, 2, 3), np.float32)
    assert "two directions" in fastrnn.explain(fastrnn.LSTM(3, 4, bidirectional=True), x)
    assert "cell indrnn" in fastrnn.explain(fastrnn.Recurrent(user_cells.indrnn, 3, 4), x)


@pytest.mark.parametrize(
    "layer, x, error, message",
    [
        (
            fastrnn.Linear(3, 4),
            np.zeros((7, 2, 3)),
            TypeError,
            "layer: expected a recurrent layer or a Model, got Linear",
        ),
        (fastrnn.LSTM(3, 4), [[1]], TypeError, "x: expected a NumPy array, got list"),
        (fastrnn.LSTM(3, 4), np.zeros(3), ValueError, "x: expected at least the axes T and N"),
        (fastrnn.LSTM(3, 4), np.zeros((0, 2, 3)), ValueError, "x: expected at least one step"),
    ],
)
def test_wrong_arguments(layer: object, x: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fastrnn.explain(layer, x)  # type: ignore[arg-type]
