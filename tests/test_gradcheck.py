"""`gradcheck`: right gradients pass, wrong ones are named by parameter and element."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import fastrnn
from cases import CELLS
from fastrnn import GRU, LSTM, Recurrent, cell, gradcheck
from fastrnn.cells.table import OPERATIONS
from fastrnn.ops import relu, sigmoid, tanh


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_passes(name: str) -> None:
    with fastrnn.use_backend("numpy"):
        check = gradcheck(CELLS[name], samples=12)
    assert check, check
    shapes = CELLS[name].param_shapes(3, 4)
    states = [f"state {s}" for s in CELLS[name].states]
    assert [row.name for row in check.rows] == [*(f"{p}_l0" for p in shapes), "x", *states]
    assert all(row.checked == min(12, np.prod(row.shape)) for row in check.rows)


@pytest.mark.parametrize(
    "layer",
    [
        LSTM(3, 4, 2, bidirectional=True, dropout=0.5, seed=0),
        GRU(3, 4, bias=False, batch_first=True, dtype="float64", seed=0),
        Recurrent(CELLS["peephole_lstm"], 2, 3, reverse=True, seed=0),
    ],
    ids=["stack", "batch-first", "reverse"],
)
def test_layers_are_checked_in_float64_and_stay_as_they_are(layer: Recurrent) -> None:
    before = {name: value.copy() for name, value in layer.params.items()}
    x = np.random.default_rng(0).standard_normal((3, 2, layer.input_size)).astype(layer.dtype)
    with fastrnn.use_backend("numpy"):
        for given in (None, x):
            check = gradcheck(layer, given, samples=5)
            assert check, check
            assert {row.name for row in check.rows} >= layer.params.keys()
    for name, value in layer.params.items():
        np.testing.assert_array_equal(value, before[name])
        assert not layer.grads[name].any()


def test_runs_on_the_backend_in_use(backend: str) -> None:
    assert gradcheck(fastrnn.cells.lstm, samples=5)


def test_a_wrong_rule_is_found_where_it_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    right = OPERATIONS["softplus"].derivative
    wrong = replace(OPERATIONS["softplus"], derivative=lambda *a: tuple(1.001 * part for part in right(*a)))
    monkeypatch.setitem(OPERATIONS, "softplus", wrong)

    # Nothing goes from one step to the next: the parameters of the gate `a` are those that the wrong rule reaches.
    @cell(gates="a b", recurrent="")
    def two_gates(x, h, c):
        return fastrnn.ops.softplus(x.a) + 0 * h, tanh(x.b) + 0.1 * c

    with fastrnn.use_backend("numpy"):
        check = gradcheck(two_gates, hidden_size=4)
    assert not check
    assert [row.name for row in check.wrong] == ["Wx_l0", "bx_l0", "x"]
    bias = next(row for row in check.rows if row.name == "bx_l0")
    assert bias.wrong == 4 and bias.index[0] < 4 and bias.smooth
    assert bias.analytic == pytest.approx(1.001 * bias.numeric, rel=1e-6)
    text = str(check)
    assert text.startswith("cell two_gates: gradients of Wx_l0, bx_l0, x are wrong")
    assert "bx_l0        (8,)           WRONG in 4 of 8 elements; least agreement at [" in text
    assert f"BPTT {bias.analytic:.10g}, differences {bias.numeric:.10g}" in text
    assert "state c      (1, 2, 4)      ok" in text


def test_a_kink_on_the_way_is_no_mistake_but_one_at_the_place_is() -> None:
    @cell(gates="a", recurrent="")
    def shifted(x, h):
        return relu(x.a) + 0.5 * h

    layer = Recurrent(shifted, 1, 1, dtype="float64", seed=0)
    layer.params["Wx_l0"], layer.params["bx_l0"] = np.ones((1, 1)), np.zeros(1)
    with fastrnn.use_backend("numpy"):
        # The first step of the differences crosses the kink, the second does not.
        assert gradcheck(layer, np.full((1, 1, 1), 1.5e-4))
        check = gradcheck(layer, np.zeros((1, 1, 1)))
    assert [row.name for row in check.wrong] == ["bx_l0", "x"]


def test_a_gradient_that_is_no_number_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(OPERATIONS["sigmoid"], derivative=lambda g, y, a: (g * y / (y - y),))
    monkeypatch.setitem(OPERATIONS, "sigmoid", wrong)

    @cell(gates="a")
    def broken(x, U, h):
        return sigmoid(x.a + U.a @ h)

    with fastrnn.use_backend("numpy"), np.errstate(all="ignore"):
        check = gradcheck(broken)
    assert {row.name for row in check.wrong} == {"Wx_l0", "bx_l0", "Wh_l0", "bh_l0", "x", "state h"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"layer_or_cell": "lstm"}, TypeError, "layer_or_cell: expected a Cell or a recurrent layer, got str"),
        ({"layer_or_cell": fastrnn.Linear(2, 2)}, TypeError, "layer_or_cell: expected .* got Linear"),
        ({"x": [1.0]}, TypeError, "x: expected a NumPy array"),
        ({"x": np.zeros((2, 2))}, ValueError, "x: expected 3 dimensions"),
        ({"x": np.zeros((2, 2, 5))}, ValueError, r"x: expected shape \(T, N, 3\)"),
        ({"hidden_size": 0}, ValueError, "hidden_size: expected at least 1"),
        ({"steps": 0}, ValueError, "steps: expected at least 1"),
        ({"batch": 1.5}, TypeError, "batch: expected an integer"),
        ({"samples": 0}, ValueError, "samples: expected at least 1"),
        ({"rtol": -1.0}, ValueError, "rtol: expected a finite number of at least 0"),
        ({"atol": "a"}, ValueError, "atol: expected a finite number of at least 0"),
        ({"seed": -1}, ValueError, "seed: expected"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gradcheck(**{"layer_or_cell": fastrnn.cells.lstm, **arguments})
