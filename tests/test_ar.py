"""The autoregressive layer: a causal convolution with the face of a recurrent layer."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastrnn
from differences import assert_gradient
from fastrnn import AR, LSTM, Linear, Model, Recurrent, cell

T, N, D, O = 7, 3, 2, 4  # noqa: E741
ORDERS = (1, 2, 3, 9)
RNG = np.random.default_rng(0)
START = RNG.bit_generator.state
MASK = np.random.default_rng(1).random((T, N)) < 0.7
RESETS = np.random.default_rng(2).random((T, N)) < 0.3
FLAGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "lengths": {"lengths": [4, 7, 0]},
    "mask": {"mask": MASK},
    "resets": {"resets": RESETS},
    "all": {"lengths": [4, 7, 6], "mask": MASK, "resets": RESETS},
}


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Whatever ran before."""
    RNG.bit_generator.state = START


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape)


def layer_of(order: int, **options: Any) -> AR:
    return AR(order, D, O, dtype="float64", seed=0, **options)


@pytest.mark.parametrize("order", ORDERS)
def test_output_is_the_sum_over_the_window(order: int) -> None:
    layer, x, state = layer_of(order), normal(T, N, D), normal(order - 1, N, D)
    W, b = layer.params["W"], layer.params["b"]
    before = np.concatenate([state, x])
    for y, last in (layer(x, state), layer.forward(x, state)):
        for t in range(T):
            expected = b + sum(before[t + k] @ W[k] for k in range(order))
            np.testing.assert_allclose(y[t], expected, rtol=0, atol=1e-13)
        np.testing.assert_array_equal(last, before[T:])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", ORDERS)
def test_same_as_pytorch(torch: Any, order: int, dtype: str) -> None:
    layer = AR(order, D, O, batch_first=True, dtype=dtype, seed=0)
    conv = torch.nn.Conv1d(D, O, order, dtype=getattr(torch, dtype))
    conv.load_state_dict({name: torch.tensor(value) for name, value in layer.state_dict().items()})
    x, dy = (normal(N, T, size).astype(dtype) for size in (D, O))
    theirs = torch.tensor(x.swapaxes(1, 2), requires_grad=True)
    out = conv(torch.nn.functional.pad(theirs, (order - 1, 0)))
    out.backward(torch.tensor(dy.swapaxes(1, 2)))
    y, _ = layer.forward(x)
    dx, _ = layer.backward(dy)
    atol = 1e-12 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(y, out.detach().numpy().swapaxes(1, 2), rtol=0, atol=atol)
    np.testing.assert_allclose(dx, theirs.grad.numpy().swapaxes(1, 2), rtol=0, atol=atol)
    np.testing.assert_allclose(layer.grads["W"], conv.weight.grad.numpy().T, rtol=0, atol=10 * atol)
    np.testing.assert_allclose(layer.grads["b"], conv.bias.grad.numpy(), rtol=0, atol=10 * atol)


def test_weights_of_pytorch_load(torch: Any) -> None:
    conv, layer = torch.nn.Conv1d(D, O, 3), AR(3, D, O)
    layer.load_state_dict(conv.state_dict())
    np.testing.assert_array_equal(layer.params["W"][2], conv.weight.detach().numpy()[:, :, 2].T)


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("order", [1, 3])
def test_gradients_against_differences(order: int, flags: str) -> None:
    layer, x, state = layer_of(order), normal(T, N, D), normal(order - 1, N, D)
    given = dict(FLAGS[flags])
    if "resets" in given:
        given["reset_state"] = normal(order - 1, N, D)
    dy, dlast = normal(T, N, O), normal(order - 1, N, D)

    def loss() -> float:
        y, last = layer(x, state, **given)
        return float((y * dy).sum() + (last * dlast).sum())

    layer.forward(x, state, **given)
    dx, dfirst, *dreset = layer.backward(dy, dlast)
    assert_gradient(dx, loss, x)
    for name, value in layer.params.items():
        assert_gradient(layer.grads[name], loss, value, name)
    if order > 1:
        assert_gradient(dfirst, loss, state)
    if order > 1 and dreset:
        assert_gradient(dreset[0], loss, given["reset_state"])


@cell(gates="now keep", recurrent="A B")
def window_of_three(x, U, h, c, d):
    """An AR(3) as a recurrent cell: two states carry the inputs before the current one."""
    return x.now + U.A @ c + U.B @ d, x.keep, c


def as_recurrent(layer: AR) -> Recurrent:
    """A recurrent layer with the function of `layer`, of order 3 and as many outputs as inputs."""
    size, W, zeros = layer.input_size, layer.params["W"], np.zeros(layer.input_size)
    result = Recurrent(window_of_three, size, size, dtype="float64", seed=0)
    result.params["Wx_l0"] = np.concatenate([W[2], np.eye(size)], axis=1)
    result.params["Wh_l0"] = np.concatenate([W[1], W[0]], axis=1)
    result.params["bx_l0"] = np.concatenate([layer.params["b"], zeros])
    result.params["bh_l0"] = np.zeros(2 * size)
    return result


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("truncate", [None, 1, 2, 3, 100])
@pytest.mark.parametrize("flags", FLAGS)
def test_same_as_a_recurrent_layer_that_carries_the_window(flags: str, truncate: int | None, rows: bool) -> None:
    layer = AR(3, D, dtype="float64", seed=0)
    twin, given = as_recurrent(layer), FLAGS[flags]
    x, state, dy, dlast = normal(T, N, D), normal(2, N, D), normal(T, N, D), normal(2, N, D)
    reset = {"reset_state": normal(2, D) if rows else normal(2, N, D)} if "resets" in given else {}

    def states(array: np.ndarray) -> tuple[np.ndarray, ...]:
        # Newest first, and the output, which no step reads, in front.
        return np.zeros_like(array[:1]), array[1:2], array[0:1]

    with fastrnn.use_backend("numpy"):
        y, last, pullback = layer.vjp(x, state, **given, **reset)
        theirs = {name: states(value) for name, value in reset.items()}
        ty, tlast, tpullback = twin.vjp(x, states(state), **given, **theirs)
        dx, dfirst, grads = pullback(dy, dlast, truncate=truncate)
        tdx, tdfirst, tgrads = tpullback(dy, states(dlast), truncate=truncate)
    close = {"rtol": 0, "atol": 1e-12}
    np.testing.assert_allclose(y, ty, **close)
    np.testing.assert_allclose(last, np.concatenate([tlast[2], tlast[1]]), **close)
    np.testing.assert_allclose(dx, tdx, **close)
    np.testing.assert_allclose(dfirst, np.concatenate([tdfirst[2], tdfirst[1]]), **close)
    np.testing.assert_allclose(grads["W"][2], tgrads["Wx_l0"][:, :D], **close)
    np.testing.assert_allclose(grads["W"][1], tgrads["Wh_l0"][:, :D], **close)
    np.testing.assert_allclose(grads["W"][0], tgrads["Wh_l0"][:, D:], **close)
    np.testing.assert_allclose(grads["b"], tgrads["bx_l0"][:D], **close)
    if reset:
        dreset = tgrads["reset_state"]
        np.testing.assert_allclose(grads["reset_state"], np.concatenate([dreset[2], dreset[1]]), **close)


@pytest.mark.parametrize("order", ORDERS)
def test_pieces_and_steps_give_the_whole(order: int) -> None:
    layer, x, state = layer_of(order), normal(T, N, D), normal(order - 1, N, D)
    whole, last = layer(x, state)
    part, carried = layer(x[:4], state)
    rest, carried = layer(x[4:], carried)
    np.testing.assert_allclose(np.concatenate([part, rest]), whole, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(carried, last)
    carried = state
    for t in range(T):
        y, carried = layer.step(x[t], carried)
        np.testing.assert_allclose(y, whole[t], rtol=0, atol=1e-13)
    np.testing.assert_array_equal(carried, last)


def test_what_inactive_steps_hold_is_never_used() -> None:
    layer, x = layer_of(3), normal(T, N, D)
    odd = np.where(MASK[..., None], x, np.nan)
    dy = np.where(MASK[..., None], normal(T, N, O), np.nan)
    y, last, pullback = layer.vjp(odd, mask=MASK)
    dx, dstate, grads = pullback(dy)
    for got in (y, last, dx, dstate, *grads.values()):
        assert np.isfinite(got).all()
    assert not y[~MASK].any() and not dx[~MASK].any()


def test_batch_first_is_the_transpose() -> None:
    plain, other = layer_of(3), layer_of(3, batch_first=True)
    x, dy, state = normal(T, N, D), normal(T, N, O), normal(2, N, D)
    y, last, pullback = plain.vjp(x, state, mask=MASK)
    by, blast, bpullback = other.vjp(x.swapaxes(0, 1), state, mask=MASK.T)
    np.testing.assert_array_equal(by, y.swapaxes(0, 1))
    np.testing.assert_array_equal(blast, last)
    np.testing.assert_array_equal(bpullback(dy.swapaxes(0, 1))[0], pullback(dy)[0].swapaxes(0, 1))
    np.testing.assert_array_equal(other.step(x[0])[0], plain.step(x[0])[0])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("order", [1, 2, 5])
def test_fit_is_the_least_squares_solution(order: int, bias: bool) -> None:
    x = np.cumsum(normal(40, N, D), axis=0)
    layer = AR(order, D, bias=bias, dtype="float64", seed=0)
    assert layer.fit(x) is layer
    rows, targets = [], []
    for n in range(N):
        for t in range(order - 1, 39):
            rows.append([*x[t - order + 1 : t + 1, n].reshape(-1), *([1.0] if bias else [])])
            targets.append(x[t + 1, n])
    expected = np.linalg.lstsq(np.array(rows), np.array(targets), rcond=None)[0]
    np.testing.assert_allclose(layer.params["W"].reshape(-1, D), expected[: order * D], rtol=0, atol=1e-10)
    if bias:
        np.testing.assert_allclose(layer.params["b"], expected[-1], rtol=0, atol=1e-10)
    # No gradient is left at the minimum.
    y, _, pullback = layer.vjp(x[:-1])
    dy = y - x[1:]
    dy[: order - 1] = 0
    for grad in pullback(dy)[2].values():
        assert np.abs(grad).max() < 1e-8


def test_fit_finds_the_process_that_made_the_series() -> None:
    phi = np.array([0.5, -0.3, 0.2])
    x = np.zeros((4000, 2, 1), np.float32)
    for t in range(3, 4000):
        x[t, :, 0] = 1 + phi @ x[t - 3 : t, :, 0] + 0.1 * RNG.standard_normal(2)
    layer = AR(3, 1, batch_first=True).fit(x.swapaxes(0, 1))
    np.testing.assert_allclose(layer.params["W"][:, 0, 0], phi, atol=0.03)
    np.testing.assert_allclose(layer.params["b"], 1, atol=0.05)


def test_fit_leaves_out_what_is_past_a_sequence() -> None:
    x = normal(12, 3, 1)
    x[8:, 1], x[2:, 2] = np.nan, np.nan
    short = AR(2, 1, dtype="float64").fit(x, [12, 8, 2])
    by_hand = [np.stack([x[t, n, 0], x[t + 1, n, 0], 1.0]) for n, end in ((0, 12), (1, 8)) for t in range(end - 2)]
    targets = [x[t + 2, n, 0] for n, end in ((0, 12), (1, 8)) for t in range(end - 2)]
    expected = np.linalg.lstsq(np.array(by_hand), np.array(targets), rcond=None)[0]
    np.testing.assert_allclose([*short.params["W"].ravel(), *short.params["b"]], expected, rtol=0, atol=1e-10)


def test_window_or_recurrence_is_one_line_of_difference(tmp_path: Path) -> None:
    x, lengths = normal(T, N, D).astype("float32"), [7, 3, 0]
    for layers in ([AR(3, D, O, seed=0)], [LSTM(D, 5, seed=0), Linear(5, O, seed=1)], [AR(2, D, 5), LSTM(5, O)]):
        model = Model(layers)
        y, state = model.forward(x, lengths=lengths)
        dx = model.backward(np.ones_like(y), truncate=2)
        assert y.shape == (T, N, O) and dx is not None and dx.shape == x.shape
        assert all(g.any() for g in model.grads.values())
        model(x, state, mask=MASK, resets=RESETS)
        model.save(tmp_path / "m.safetensors")
        again = Model.load(tmp_path / "m.safetensors")
        assert [layer.config() for layer in again.layers] == [layer.config() for layer in layers]
        np.testing.assert_array_equal(again(x, lengths=lengths)[0], model(x, lengths=lengths)[0])


def test_copies_and_pickles_compute_the_same() -> None:
    layer, x = AR(3, D, O, seed=0), normal(T, N, D).astype("float32")
    layer.forward(x)
    for twin in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        np.testing.assert_array_equal(twin(x)[0], layer(x)[0])
        with pytest.raises(RuntimeError, match=r"AR\.backward: call forward first"):
            twin.backward(None)


def test_backward_adds_uses_up_and_changes_no_argument() -> None:
    layer, x, dy = layer_of(3), normal(T, N, D), normal(T, N, O)
    for array in (x, dy):
        array.flags.writeable = False
    layer.forward(x, mask=MASK)
    layer.backward(dy)
    once = layer.grads["W"].copy()
    layer.forward(x, mask=MASK)
    layer.backward(dy)
    np.testing.assert_allclose(layer.grads["W"], 2 * once, rtol=1e-12)
    with pytest.raises(RuntimeError, match="call forward first"):
        layer.backward(dy)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"order": 0}, ValueError, "order: expected at least 1, got 0"),
        ({"order": 2.0}, TypeError, "order: expected an integer"),
        ({"input_size": -1}, ValueError, "input_size: expected at least 1"),
        ({"output_size": 0}, ValueError, "output_size: expected at least 1"),
        ({"bias": 1}, TypeError, "bias: expected True or False"),
        ({"dtype": "int32"}, TypeError, "dtype: expected float32 or float64"),
        ({"seed": "a"}, TypeError, "seed: expected"),
    ],
)
def test_wrong_layers(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        AR(**{"order": 2, "input_size": D, **arguments})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": [[[1.0]]]}, TypeError, "x: expected a NumPy array"),
        ({"x": np.zeros((T, N, D), "float32")}, TypeError, "x: expected dtype float64"),
        ({"x": np.zeros((T, N, D + 1))}, ValueError, r"x: expected shape \(T, N, 2\)"),
        ({"x": np.zeros((0, N, D))}, ValueError, "x: expected at least one step"),
        ({"state": np.zeros((3, N, D))}, ValueError, r"state: expected shape \(2, 3, 2\), got \(3, 3, 2\)"),
        ({"lengths": [8, 1, 1]}, ValueError, "lengths: expected values from 0 to 7"),
        ({"mask": np.ones((N, T), bool)}, ValueError, "mask: expected shape"),
        ({"reset_state": np.zeros((2, N, D))}, ValueError, "reset_state: expected resets as well"),
        ({"resets": RESETS, "reset_state": np.zeros((2, 3))}, ValueError, r"reset_state: expected shape \(2, 2\)"),
    ],
)
def test_wrong_calls(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    layer = layer_of(3)
    for call in (layer, layer.forward, layer.vjp):
        with pytest.raises(error, match=message):
            call(**{"x": np.zeros((T, N, D)), **arguments})


def test_wrong_gradients_and_series() -> None:
    layer = layer_of(3)
    layer.forward(np.zeros((T, N, D)))
    with pytest.raises(ValueError, match=r"dy: expected shape \(7, 3, 4\)"):
        layer.backward(np.zeros((T, N, D)))
    with pytest.raises(ValueError, match="dstate: expected shape"):
        layer.backward(None, np.zeros((3, N, D)))
    with pytest.raises(ValueError, match="truncate: expected at least 1"):
        layer.backward(None, truncate=0)
    with pytest.raises(ValueError, match=r"output_size is its input_size, 2, .* got 4"):
        layer.fit(np.zeros((T, N, D)))
    square = AR(3, D, dtype="float64", seed=0)
    before = square.params["W"].copy()
    for x, lengths, message in (
        (np.zeros((3, N, D)), None, "x: expected at least 4 steps for order 3, got 3"),
        (np.zeros((T, N, D)), [3, 2, 0], "lengths: expected a sequence of at least 4 steps"),
        (np.full((T, N, D), np.nan), None, "x: expected finite numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            square.fit(x, lengths)
    np.testing.assert_array_equal(square.params["W"], before)
