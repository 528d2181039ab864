"""Linear and Embedding against PyTorch and differences, and what every layer promises."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from differences import assert_gradient
from fastrnn import Embedding, Linear
from fastrnn.layers import Layer

MAKE: dict[str, Callable[..., Any]] = {
    "linear": lambda **options: Linear(3, 2, **options),
    "linear-no-bias": lambda **options: Linear(3, 2, bias=False, **options),
    "embedding": lambda **options: Embedding(4, 3, **options),
}


def problem(layer: Any, leading: tuple[int, ...] = (4, 5)) -> tuple[np.ndarray, np.ndarray]:
    """An input of `layer` and a gradient of its output."""
    rng = np.random.default_rng(0)
    if isinstance(layer, Embedding):
        x = rng.integers(0, layer.num_embeddings, leading)
    else:
        x = rng.standard_normal((*leading, layer.input_size)).astype(layer.dtype)
    return x, rng.standard_normal(layer(x).shape).astype(layer.dtype)


@pytest.mark.parametrize("leading", [(), (1,), (4,), (2, 3, 2)], ids=str)
@pytest.mark.parametrize("kind", MAKE)
def test_gradients(kind: str, leading: tuple[int, ...]) -> None:
    layer = MAKE[kind](dtype="float64", seed=0)
    x, dy = problem(layer, leading)
    np.testing.assert_array_equal(layer.forward(x), layer(x))
    dx = layer.backward(dy)

    def loss() -> float:
        return float((layer(x) * dy).sum())

    for name, value in layer.params.items():
        assert_gradient(layer.grads[name], loss, value)
    if kind == "embedding":
        assert dx is None
    else:
        assert_gradient(dx, loss, x)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", MAKE)
def test_same_as_pytorch(torch: Any, kind: str, dtype: str) -> None:
    layer = MAKE[kind](dtype=dtype, seed=0)
    theirs = torch.nn.Embedding(4, 3) if kind == "embedding" else torch.nn.Linear(3, 2, bias=kind == "linear")
    theirs = theirs.to(getattr(torch, dtype))
    layer.load_state_dict(theirs.state_dict())
    x, dy = problem(layer)
    expected = theirs(torch.tensor(x))
    expected.backward(torch.tensor(dy))
    rtol = {"float32": 2e-6, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(layer.forward(x), expected.detach().numpy(), rtol=rtol, atol=rtol)
    layer.backward(dy)
    for name, parameter in theirs.named_parameters():
        grad = layer.grads["b" if name == "bias" else "W"]
        grad = grad.T if kind != "embedding" else grad
        np.testing.assert_allclose(grad, parameter.grad.numpy(), rtol=rtol, atol=rtol)
    theirs.load_state_dict({k: torch.tensor(v) for k, v in layer.state_dict().items()})


def test_embedding_adds_repeated_rows() -> None:
    layer = Embedding(4, 3, dtype="float64", seed=0)
    dy = np.arange(9.0).reshape(1, 3, 3)
    layer.forward([[1, 1, 3]])
    layer.backward(dy)
    np.testing.assert_array_equal(layer.grads["W"], [[0] * 3, dy[0, 0] + dy[0, 1], [0] * 3, dy[0, 2]])


@pytest.mark.parametrize("kind", MAKE)
def test_every_backward_adds(kind: str) -> None:
    layer = MAKE[kind](seed=0)
    assert layer.grads.keys() == layer.params.keys()
    assert not any(g.any() for g in layer.grads.values())
    x, dy = problem(layer)
    layer.forward(x)
    arrays = dict(layer.grads)
    layer.backward(dy)
    once = {k: g.copy() for k, g in layer.grads.items()}
    with pytest.raises(RuntimeError, match="call forward first"):
        layer.backward(dy)
    layer.forward(x)
    layer.backward(dy)
    for name, grad in layer.grads.items():
        assert grad is arrays[name] and grad.dtype == layer.params[name].dtype
        np.testing.assert_allclose(grad, 2 * once[name], rtol=1e-6)
    layer.zero_grad()
    assert not any(g.any() for g in arrays.values())


@pytest.mark.parametrize("kind", MAKE)
def test_a_call_keeps_nothing(kind: str) -> None:
    layer = MAKE[kind](seed=0)
    x, dy = problem(layer)
    layer(x)
    with pytest.raises(RuntimeError, match=r"backward: call forward first"):
        layer.backward(dy)


@pytest.mark.parametrize("kind", MAKE)
def test_a_seed_decides_the_initial_values(kind: str) -> None:
    make = MAKE[kind]
    for name, value in make(seed=1).params.items():
        np.testing.assert_array_equal(value, make(seed=1).params[name])
        np.testing.assert_array_equal(value, make(seed=1, dtype="float64").params[name].astype("float32"))
        assert (value != make(seed=2).params[name]).any()
        assert value.dtype == "float32" and value.flags.c_contiguous


def test_initial_values_are_pytorchs_distribution() -> None:
    W = Linear(100, 50, seed=0).params["W"]
    assert 0.095 < np.abs(W).max() <= 0.1
    W = Embedding(100, 50, seed=0).params["W"]
    assert abs(W.mean()) < 0.05 and abs(W.std() - 1) < 0.05


@pytest.mark.parametrize("kind", MAKE)
def test_config_makes_the_layer_again(kind: str) -> None:
    layer = MAKE[kind](dtype="float64", seed=0)
    again = type(layer)(**json.loads(json.dumps(layer.config())))
    assert {k: (v.shape, v.dtype) for k, v in again.params.items()} == {
        k: (v.shape, v.dtype) for k, v in layer.params.items()
    }
    assert again.config() == layer.config()


@pytest.mark.parametrize("kind", MAKE)
def test_state_dict_is_a_copy_that_loads(kind: str) -> None:
    layer, other = MAKE[kind](seed=0), MAKE[kind](seed=1, dtype="float64")
    arrays, state = dict(other.params), layer.state_dict()
    other.load_state_dict(state)
    for name, value in other.params.items():
        assert value is arrays[name] and value.dtype == "float64"
        np.testing.assert_array_equal(value, layer.params[name])
    for value in state.values():
        assert value.flags.c_contiguous
        value += 1
    for name, value in other.params.items():
        np.testing.assert_array_equal(value, layer.params[name])


def test_parameters_that_require_gradients_load(torch: Any) -> None:
    """np.asarray refuses them as they are."""
    theirs, layer = torch.nn.Linear(3, 2), Linear(3, 2)
    layer.load_state_dict(dict(theirs.named_parameters()))
    np.testing.assert_array_equal(layer.params["W"].T, theirs.weight.detach().numpy())


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"bias": None}, ValueError, "missing bias"),
        ({"extra": np.zeros(2)}, ValueError, "unknown extra"),
        ({"bias": np.zeros(3)}, ValueError, r"state_dict\['bias'\]: expected shape \(2,\), got \(3,\)"),
        ({"weight": np.zeros((3, 2))}, ValueError, r"state_dict\['weight'\]: expected shape \(2, 3\)"),
        ({"bias": np.zeros(2, int)}, TypeError, r"state_dict\['bias'\]: expected a floating-point"),
        ({"bias": np.zeros(2, complex)}, TypeError, r"state_dict\['bias'\]"),
        ({"bias": np.array(["a", "b"])}, TypeError, r"state_dict\['bias'\]"),
        ({"bias": np.ma.array([1.0, 2.0], mask=[0, 1])}, TypeError, r"state_dict\['bias'\]"),
    ],
)
def test_load_state_dict_checks_everything_first(change: dict[str, Any], error: type[Exception], named: str) -> None:
    layer = Linear(3, 2, seed=0)
    before = layer.state_dict()
    new = {"weight": np.zeros((2, 3)), "bias": np.zeros(2)} | change
    with pytest.raises(error, match=named):
        layer.load_state_dict({k: v for k, v in new.items() if v is not None})
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def forwarded(layer: Layer) -> Any:
    layer.forward(problem(layer, (2,))[0])  # type: ignore[attr-defined]
    return layer


X = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda: Linear(3, 2)(X.astype("float64")), TypeError, "x"),
        (lambda: Linear(3, 2)(X.tolist()), TypeError, "x"),
        (lambda: Linear(3, 2)(X[:, 1:]), ValueError, "x"),
        (lambda: Linear(1, 2)(np.array(1, np.float32)), ValueError, "x"),
        (lambda: forwarded(Linear(3, 2)).backward(X), ValueError, "dy"),
        (lambda: forwarded(Linear(3, 2)).backward(np.ones((2, 2))), TypeError, "dy"),
        (lambda: forwarded(Linear(3, 2)).backward(None), TypeError, "dy"),
        (lambda: Linear(3, 2)(np.ma.array(X, mask=X > 0)), TypeError, "x"),
        (lambda: Linear(3, 2)(X.view(np.matrix)), TypeError, "x"),
        (lambda: forwarded(Linear(3, 2)).backward(np.ones((2, 2), "f").view(np.matrix)), TypeError, "dy"),
        (lambda: Linear(3, 2, bias=np.array([True, False])), TypeError, "bias"),
        (lambda: Embedding(3, 2)(np.ma.array([0, 9], mask=[0, 1])), TypeError, "x"),
        (lambda: Linear(0, 2), ValueError, "input_size"),
        (lambda: Linear(3, 2.0), TypeError, "output_size"),
        (lambda: Linear(3, 2, dtype="float16"), TypeError, "dtype"),
        (lambda: Linear(3, 2, dtype="real"), TypeError, "dtype"),
        (lambda: Linear(3, 2, seed="2"), TypeError, "seed"),
        (lambda: Embedding(3, 2, seed=2.5), TypeError, "seed"),
        (lambda: Embedding(3, 2, seed=-1), ValueError, "seed"),
        (lambda: Linear(3, 2).load_state_dict([X]), TypeError, "state_dict"),
        (lambda: Embedding(3, 2)(np.array([3])), ValueError, "x"),
        (lambda: Embedding(3, 2)(np.array([-1])), ValueError, "x"),
        (lambda: Embedding(3, 2)(np.array([1.0])), TypeError, "x"),
        (lambda: Embedding(3, 2)(np.array([True])), TypeError, "x"),
        (lambda: forwarded(Embedding(3, 2)).backward(X), ValueError, "dy"),
        (lambda: forwarded(Embedding(3, 3)).backward(X.astype("float64")), TypeError, "dy"),
        (lambda: Embedding(-1, 2), ValueError, "num_embeddings"),
        (lambda: Embedding(3, True), TypeError, "embedding_size"),
    ],
)
def test_bad_calls(call: Callable[[], Any], error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=rf"^{named}: expected"):
        call()
