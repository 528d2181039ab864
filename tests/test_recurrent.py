"""Recurrent layers: stacks and directions against PyTorch and by hand, gradients, dropout, streams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fastrnn
from cases import CELLS
from differences import assert_gradient
from fastrnn import GRU, LSTM, RNN, Recurrent, functional
from fastrnn.backends.numpy_backend import NumpyBackend

T, N, D, H = 6, 4, 3, 5
LENGTHS = [4, 6, 1, 6]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2},
    {"bidirectional": True},
    {"num_layers": 2, "bias": False},
    {"num_layers": 3, "bidirectional": True, "batch_first": True},
]


@pytest.fixture(autouse=True)
def reference_backend() -> Iterator[None]:
    """The quickest to load, for what no backend has a part in; the others ask for `backend`."""
    with fastrnn.use_backend("numpy"):
        yield


def inputs(layer: Recurrent, batch_first: bool = False) -> dict[str, Any]:
    """Input, state, and gradients of output and last state for `layer`."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(layer.dtype)

    def state() -> Any:
        parts = tuple(normal(layer.num_layers * layer.directions, N, H) for _ in layer.cell.states)
        return parts if len(parts) > 1 else parts[0]

    outer = (N, T) if batch_first else (T, N)
    return {
        "x": normal(*outer, D),
        "state": state(),
        "dy": normal(*outer, layer.directions * H),
        "dstate": state(),
    }


def parts(state: Any) -> tuple[np.ndarray, ...]:
    return state if isinstance(state, tuple) else (state,)


def assert_states_equal(got: Any, expected: Any, atol: float = 0.0) -> None:
    for have, want in zip(parts(got), parts(expected), strict=True):
        np.testing.assert_allclose(have, want, rtol=0, atol=atol)


# Against PyTorch.


def torch_run(torch: Any, module: Any, p: dict[str, Any], lengths: list[int] | None) -> tuple[Any, ...]:
    """Output, last state and gradients of input and state of a module; its parameters get theirs."""
    x = torch.tensor(p["x"], requires_grad=True)
    first = tuple(torch.tensor(s, requires_grad=True) for s in parts(p["state"]))
    given = first if len(first) > 1 else first[0]
    if lengths is None:
        y, last = module(x, given)
    else:
        rnn, order = torch.nn.utils.rnn, {"batch_first": module.batch_first}
        packed = rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False, **order)
        y, last = module(packed, given)
        y, _ = rnn.pad_packed_sequence(y, total_length=T, **order)
    pairs = zip((y, *parts(last)), (p["dy"], *parts(p["dstate"])), strict=True)
    sum((value * torch.tensor(weight)).sum() for value, weight in pairs).backward()
    return (
        y.detach().numpy(),
        tuple(s.detach().numpy() for s in parts(last)),
        x.grad.numpy(),
        tuple(s.grad.numpy() for s in first),
    )


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_same_as_pytorch(
    torch: Any, backend: str, kind: str, options: dict[str, Any], lengths: list[int] | None
) -> None:
    torch.manual_seed(0)
    theirs = getattr(torch.nn, kind)(D, H, dtype=torch.float64, **options)
    layer = getattr(fastrnn, kind)(D, H, dtype="float64", **options)
    layer.load_state_dict(theirs.state_dict())
    p = inputs(layer, layer.batch_first)
    y, last, dx, dfirst = torch_run(torch, theirs, p, lengths)
    got_y, got_last = layer.forward(p["x"], p["state"], lengths)
    got_dx, got_dfirst = layer.backward(p["dy"], p["dstate"])
    np.testing.assert_allclose(got_y, y, rtol=0, atol=1e-12)
    np.testing.assert_allclose(got_dx, dx, rtol=0, atol=1e-12)
    assert_states_equal(got_last, last, atol=1e-12)
    assert_states_equal(got_dfirst, dfirst, atol=1e-12)
    gradients = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    for name, grad in layer.grads.items():
        other, transposed = layer.torch_name(name)
        np.testing.assert_allclose(grad.T if transposed else grad, gradients[other], rtol=0, atol=1e-12)


def test_state_dict_has_pytorchs_names_order_and_layouts(torch: Any) -> None:
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True}
    theirs = torch.nn.LSTM(D, H, **options).state_dict()
    ours = LSTM(D, H, **options).state_dict()
    assert {k: tuple(v.shape) for k, v in theirs.items()} == {k: v.shape for k, v in ours.items()}
    assert all(v.flags.c_contiguous for v in ours.values())


# Stacks by hand: for cells that PyTorch has not.


@pytest.mark.parametrize("name", ["peephole_lstm", "indrnn", "relaxing"])
def test_a_stack_is_its_layers_one_after_the_other(name: str) -> None:
    layer = Recurrent(CELLS[name], D, H, 2, bidirectional=True, dtype="float64", seed=0)
    p = inputs(layer)
    out, last = p["x"], []
    for number in range(2):
        ys = []
        for direction, end in enumerate(("", "_reverse")):
            suffix = f"_l{number}{end}"
            params = {k.removesuffix(suffix): v for k, v in layer.params.items() if k.endswith(suffix)}
            first = tuple(s[2 * number + direction] for s in parts(p["state"]))
            hs, ends, _ = functional.cell_forward(layer.cell, out, first, params, LENGTHS, reverse=direction == 1)
            ys.append(hs)
            last.append(ends)
        out = np.concatenate(ys, axis=2)
    for run in (layer, layer.forward):
        y, state = run(p["x"], p["state"], LENGTHS)
        np.testing.assert_array_equal(y, out)
        assert_states_equal(state, tuple(np.stack(s) for s in zip(*last, strict=True)))


def test_per_unit_parameters_keep_their_names_in_a_state_dict() -> None:
    layer = Recurrent(CELLS["peephole_lstm"], D, H, 2, bidirectional=True, seed=0)
    state = layer.state_dict()
    assert {"weight_ih_l0", "bias_hh_l1_reverse", "pi_l0", "pf_l1_reverse"} <= state.keys()
    again = Recurrent(CELLS["peephole_lstm"], D, H, 2, bidirectional=True, seed=1)
    again.load_state_dict(state)
    for name, value in again.params.items():
        np.testing.assert_array_equal(value, layer.params[name])


def test_without_recurrent_matrices_or_bias() -> None:
    layer = Recurrent(CELLS["indrnn"], D, H, 2, bias=False, seed=0)
    assert list(layer.params) == ["Wx_l0", "u_l0", "Wx_l1", "u_l1"]
    y, _ = layer.forward(np.ones((T, N, D), np.float32))
    layer.backward(np.ones_like(y))
    assert all(g.any() for g in layer.grads.values())


# Gradients.


def test_gradients_of_a_bidirectional_stack_with_lengths(backend: str) -> None:
    layer = LSTM(2, 3, 2, bidirectional=True, dtype="float64", seed=0)
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((4, 3, 2)), rng.standard_normal((4, 3, 6))
    state, dstate = (tuple(rng.standard_normal((2, 4, 3, 3))) for _ in range(2))
    lengths = [2, 4, 3]

    def loss() -> float:
        y, last = layer(x, state, lengths)
        return float((y * dy).sum() + sum((s * d).sum() for s, d in zip(last, dstate, strict=True)))

    layer.forward(x, state, lengths)
    dx, dfirst = layer.backward(dy, dstate)
    assert_gradient(dx, loss, x)
    for got, s in zip(dfirst, state, strict=True):
        assert_gradient(got, loss, s)
    for name, value in layer.params.items():
        assert_gradient(layer.grads[name], loss, value)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_gradient_with_dropout(bidirectional: bool) -> None:
    """A layer made again with its seed drops the same outputs."""
    layer = GRU(2, 3, 3, dropout=0.4, bidirectional=bidirectional, dtype="float64", seed=7)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 2, 2))
    y, _ = layer.forward(x)
    dy = rng.standard_normal(y.shape)
    dx, _ = layer.backward(dy)

    def loss() -> float:
        again = GRU(2, 3, 3, dropout=0.4, bidirectional=bidirectional, dtype="float64", seed=7)
        again.load_state_dict(layer.state_dict())
        return float((again.forward(x)[0] * dy).sum())

    assert_gradient(dx, loss, x)
    for name in ("Wx_l0", "Wh_l1", "bh_l2"):
        assert_gradient(layer.grads[name], loss, layer.params[name])


@pytest.mark.parametrize("truncate", [2, 3])
def test_truncation_is_backward_through_pieces(truncate: int) -> None:
    """Each piece starts from the last state of the one before, as from a constant."""
    layer = LSTM(D, H, 2, dtype="float64", seed=0)
    p = inputs(layer)
    layer.forward(p["x"], p["state"])
    dx, _ = layer.backward(p["dy"], truncate=truncate)
    pieces = LSTM(D, H, 2, dtype="float64", seed=0)
    state = p["state"]
    for start in range(0, T, truncate):
        now = slice(start, start + truncate)
        _, state = pieces.forward(p["x"][now], state)
        part, _ = pieces.backward(p["dy"][now])
        np.testing.assert_allclose(part, dx[now], rtol=0, atol=1e-13)
    for name, grad in pieces.grads.items():
        np.testing.assert_allclose(layer.grads[name], grad, rtol=0, atol=1e-13)


def test_every_backward_adds_and_leaves_its_arguments() -> None:
    layer = GRU(D, H, 2, bidirectional=True, seed=0)
    p = inputs(layer)
    before = {k: np.copy(v) for k, v in p.items()}
    layer.forward(p["x"], p["state"], LENGTHS)
    arrays = dict(layer.grads)
    first = layer.backward(p["dy"], p["dstate"])
    once = {k: g.copy() for k, g in layer.grads.items()}
    layer.forward(p["x"], p["state"], LENGTHS)
    second = layer.backward(p["dy"], p["dstate"])
    for have, want in zip(second, first, strict=True):
        np.testing.assert_array_equal(have, want)
    for name, grad in layer.grads.items():
        assert grad is arrays[name]
        np.testing.assert_allclose(grad, 2 * once[name], rtol=1e-6)
    for name, value in before.items():
        np.testing.assert_array_equal(p[name], value)
    layer.zero_grad()
    assert not any(g.any() for g in arrays.values())


def test_no_gradient_is_a_gradient_of_zeros() -> None:
    layer = LSTM(D, H, 2, bidirectional=True, dtype="float64", seed=0)
    p = inputs(layer)
    zeros = tuple(map(np.zeros_like, p["dstate"]))
    _, _, pullback = layer.vjp(p["x"])
    for one, other in (((p["dy"], None), (p["dy"], zeros)), ((None, p["dstate"]), (0 * p["dy"], p["dstate"]))):
        (dx, dstate, _), (dx2, dstate2, _) = pullback(*one), pullback(*other)
        np.testing.assert_array_equal(dx, dx2)
        assert_states_equal(dstate, dstate2)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_backward_that_does_not_end_adds_nothing(
    monkeypatch: pytest.MonkeyPatch, bidirectional: bool, error: type[BaseException]
) -> None:
    layer, x = GRU(D, H, 3, bidirectional=bidirectional, seed=0), np.ones((T, N, D), np.float32)
    y, _ = layer.forward(x)
    layer.backward(y)
    before = {name: grad.copy() for name, grad in layer.grads.items()}
    run, calls = NumpyBackend.backward, []

    def fail_at_the_second(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise error
        return run(*arguments, **options)

    layer.forward(x)
    with monkeypatch.context() as patch:
        patch.setattr(NumpyBackend, "backward", fail_at_the_second)
        with pytest.raises(error):
            layer.backward(y)
    for name, grad in layer.grads.items():
        np.testing.assert_array_equal(grad, before[name])
    layer.forward(x)
    layer.backward(y)
    for name, grad in layer.grads.items():
        np.testing.assert_array_equal(grad, 2 * before[name])


# Dropout, seeds, and what a call keeps.


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("options", [*OPTIONS, {"batch_first": True}, {"num_layers": 2, "dropout": 0.5}], ids=str)
def test_outputs_of_forward_are_read_only_and_those_of_a_call_are_not(
    backend: str, options: dict[str, Any], lengths: list[int] | None
) -> None:
    layer = LSTM(D, H, seed=0, **options)
    p = inputs(layer, layer.batch_first)
    y, _ = layer.forward(p["x"], None, lengths)
    with pytest.raises(ValueError, match="read-only"):
        y[...] = 0
    y, _ = layer(p["x"], None, lengths)
    y[...] = 0


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_last_states_of_forward_are_the_callers_to_change(backend: str, kind: Any, num_layers: int) -> None:
    layer = kind(D, H, num_layers, dtype="float64", seed=0)
    p = inputs(layer)
    layer.forward(p["x"])
    want = layer.backward(p["dy"])[0]
    _, last = layer.forward(p["x"])
    for state in parts(last):
        state[...] = np.nan
    np.testing.assert_array_equal(layer.backward(p["dy"])[0], want)


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: LSTM(D, H, **options),
        lambda **options: Recurrent(CELLS["mgu"], D, H, **options),
    ],
    ids=["LSTM", "Recurrent"],
)
def test_dropout_on_one_layer_warns_where_the_layer_is_made(make: Any) -> None:
    with pytest.warns(UserWarning, match=r"^dropout: .* 0.5 .* num_layers=1") as caught:
        make(dropout=0.5)
    assert [warning.filename for warning in caught] == [__file__]
    make(dropout=0.5, num_layers=2)
    make(dropout=0.0)


def test_dropout_is_between_layers_and_in_forward_only() -> None:
    plain, x = RNN(D, H, 2, seed=0), np.ones((T, N, D), np.float32)
    expected, _ = plain(x)
    dropping = RNN(D, H, 2, dropout=0.5, seed=0)
    np.testing.assert_array_equal(dropping(x)[0], expected)
    first, second = dropping.forward(x)[0], dropping.forward(x)[0]
    assert (first != expected).any() and (first != second).any()
    again = RNN(D, H, 2, dropout=0.5, seed=0)
    np.testing.assert_array_equal(again.forward(x)[0], first)
    np.testing.assert_array_equal(again.forward(x)[0], second)
    with pytest.warns(UserWarning, match="^dropout: acts between layers"):
        single = RNN(D, H, dropout=0.5, seed=0)
    np.testing.assert_array_equal(single.forward(x)[0], single(x)[0])


def test_dropout_keeps_the_mean() -> None:
    """Layers that pass their input on: what comes out is what was dropped, and the scale."""
    layer = RNN(1, 1, 2, nonlinearity="identity", bias=False, dropout=0.25, dtype="float64", seed=0)
    for name, value in layer.params.items():
        value[:] = 0 if name.startswith("Wh") else 1
    y, _ = layer.forward(np.ones((100, 100, 1)))
    assert set(np.unique(y)) == {0.0, 1 / 0.75}
    assert abs(y.mean() - 1) < 0.02


def test_a_seed_decides_the_initial_values() -> None:
    for name, value in LSTM(D, H, 2, seed=1).params.items():
        np.testing.assert_array_equal(value, LSTM(D, H, 2, seed=1).params[name])
        assert (value != LSTM(D, H, 2, seed=2).params[name]).any()
        assert np.abs(value).max() <= H**-0.5 and value.dtype == "float32"


def test_a_call_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, keeps = LSTM(D, H, 2), []
    run = NumpyBackend.forward

    def spy(self: Any, call: Any, keep: bool, path: Any = None) -> Any:
        keeps.append(keep)
        return run(self, call, keep, path)

    monkeypatch.setattr(NumpyBackend, "forward", spy)
    layer(np.ones((T, N, D), np.float32))
    assert keeps == [False, False]
    with pytest.raises(RuntimeError, match=r"LSTM.backward: call forward first"):
        layer.backward(None)


def test_batch_first_is_the_same_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "dtype": "float64", "seed": 0}
    time_major, batch_major = LSTM(D, H, **options), LSTM(D, H, batch_first=True, **options)
    p, seen = inputs(time_major), []
    run = NumpyBackend.forward

    def spy(self: Any, call: Any, keep: bool, path: Any = None) -> Any:
        seen.append(call.x)
        return run(self, call, keep, path)

    y, state = time_major.forward(p["x"], p["state"], LENGTHS)
    dx, dstate = time_major.backward(p["dy"], p["dstate"])
    monkeypatch.setattr(NumpyBackend, "forward", spy)
    x = p["x"].swapaxes(0, 1).copy()
    got, got_state = batch_major.forward(x, p["state"], LENGTHS)
    got_dx, got_dstate = batch_major.backward(p["dy"].swapaxes(0, 1), p["dstate"])
    assert seen[0].base is x
    np.testing.assert_allclose(got.swapaxes(0, 1), y, rtol=0, atol=1e-13)
    np.testing.assert_allclose(got_dx.swapaxes(0, 1), dx, rtol=0, atol=1e-13)
    assert_states_equal(got_state, state, atol=1e-13)
    assert_states_equal(got_dstate, dstate, atol=1e-13)


# Streams, sizes, configuration.


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", ["lstm", "gru_after", "mgu"])
def test_steps_make_the_sequence(name: str, batch_first: bool) -> None:
    layer = Recurrent(CELLS[name], D, H, 2, batch_first=batch_first, dtype="float64", seed=0)
    x = inputs(layer)["x"]
    y, last = layer(x.swapaxes(0, 1) if batch_first else x)
    state = None
    for t, expected in enumerate(y.swapaxes(0, 1) if batch_first else y):
        out, state = layer.step(x[t], state)
        assert out.shape == (N, H)
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-13)
    assert_states_equal(state, last, atol=1e-13)


def test_states_continue_a_sequence() -> None:
    layer = GRU(D, H, 2, dtype="float64", seed=0)
    x = inputs(layer)["x"]
    y, last = layer(x)
    first, middle = layer(x[:2])
    second, end = layer(x[2:], middle)
    np.testing.assert_allclose(np.concatenate([first, second]), y, rtol=0, atol=1e-13)
    assert_states_equal(end, last, atol=1e-13)


def test_an_empty_batch() -> None:
    layer = LSTM(D, H, 2, bidirectional=True)
    y, (h, c) = layer.forward(np.ones((T, 0, D), np.float32))
    assert y.shape == (T, 0, 2 * H) and h.shape == c.shape == (4, 0, H)
    dx, _ = layer.backward(y)
    assert dx.shape == (T, 0, D) and not any(g.any() for g in layer.grads.values())


@pytest.mark.parametrize(
    "layer",
    [
        RNN(D, H, 2, nonlinearity="relu", bias=False),
        LSTM(D, H, 2, batch_first=True, dropout=0.5, dtype="float64"),
        GRU(D, H, reset_after=False, bidirectional=True),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_config_makes_the_layer_again(layer: Any) -> None:
    again = type(layer)(**json.loads(json.dumps(layer.config())))
    assert again.config() == layer.config() and again.cell is layer.cell
    again.load_state_dict(layer.state_dict())
    x = np.ones((T, N, D), layer.dtype)
    np.testing.assert_array_equal(again(x)[0], layer(x)[0])


def test_config_of_a_users_cell_is_plain() -> None:
    config = Recurrent(CELLS["leaky"], D, H).config()
    assert (config["cell"], config["constants"]) == ("leaky", {"tau": 5.0, "dt": 0.5})
    assert json.loads(json.dumps(config)) == config
