"""What `repr` shows: how the thing was made, without what has its default value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastrnn
from fastrnn import GRU, LSTM, RNN, Embedding, Linear, Model, Recurrent, functional, optim, prepare

PARAMS = {"a": np.zeros(2), "b": np.zeros(3)}
LSTM_CELL = repr(fastrnn.cells.lstm)


@pytest.mark.parametrize(
    "made, text",
    [
        (Linear(3, 4), "Linear(input_size=3, output_size=4, dtype=float32)"),
        (Linear(3, 4, bias=False, seed=1), "Linear(input_size=3, output_size=4, bias=False, dtype=float32)"),
        (Embedding(9, 4, dtype="float64"), "Embedding(num_embeddings=9, embedding_size=4, dtype=float64)"),
        (RNN(3, 4, nonlinearity="relu"), "RNN(input_size=3, hidden_size=4, nonlinearity='relu', dtype=float32)"),
        (GRU(3, 4, reset_after=False), "GRU(input_size=3, hidden_size=4, reset_after=False, dtype=float32)"),
        (
            LSTM(8, 32, 2, bidirectional=True, dropout=0.1),
            "LSTM(input_size=8, hidden_size=32, num_layers=2, dropout=0.1, bidirectional=True, dtype=float32)",
        ),
        (
            Recurrent(fastrnn.cells.lstm, 3, 4, reverse=True, batch_first=True),
            f"Recurrent(cell={LSTM_CELL}, input_size=3, hidden_size=4, batch_first=True, reverse=True, dtype=float32)",
        ),
        (
            Model([Embedding(9, 3), GRU(3, 4)]),
            "Model(\n"
            "  (0) Embedding(num_embeddings=9, embedding_size=3, dtype=float32)\n"
            "  (1) GRU(input_size=3, hidden_size=4, dtype=float32)\n"
            ")",
        ),
        (optim.SGD(PARAMS), "SGD(2 arrays, lr=0.001)"),
        (optim.Adam({"a": np.zeros(2)}, 0.1, weight_decay=0.5), "Adam(1 array, lr=0.1, weight_decay=0.5)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_layers_models_and_optimizers_show_their_arguments(made: Any, text: str) -> None:
    assert repr(made) == text


def test_an_optimizer_shows_what_was_changed_later() -> None:
    optimizer = optim.Adam(PARAMS)
    optimizer.lr = 0.5
    assert repr(optimizer) == "Adam(2 arrays, lr=0.5)"


def test_what_is_between_forward_and_backward_shows_cell_and_sizes() -> None:
    layer = LSTM(3, 4, 2, reverse=True, batch_first=True, dropout=0.5, dtype="float64")
    prepared = prepare(fastrnn.cells.lstm, layer.params, 2, reverse=True, batch_first=True, dropout=0.5)
    text = (
        f"Prepared({LSTM_CELL}, input_size=3, hidden_size=4, num_layers=2, reverse=True, batch_first=True, "
        "dropout=0.5, dtype=float64)"
    )
    assert repr(prepared) == text
    _, _, pullback = prepared.vjp(np.zeros((2, 5, 3)), need={"x"})
    assert repr(pullback) == f"Pullback(shape=(2, 5), need={{x}}, {text})"
    _, cache = functional.rnn_forward(np.zeros((5, 2, 3)), None, np.zeros((3, 4)), np.zeros((4, 4)), None)
    assert repr(cache) == f"Cache({fastrnn.cells.rnn()!r}, T=5, N=2)"
