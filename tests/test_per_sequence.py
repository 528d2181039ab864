"""Gradients of the parameters for each sequence: those of N calls of one sequence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastrnn
import user_cells
from fastrnn import GRU, LSTM, RNN, Recurrent
from fastrnn.engine.contract import Call, Clip
from fastrnn.engine.flags import flags_of
from fastrnn.engine.plan import make_plan

T, N, D = 7, 5, 3
KINDS: dict[str, Any] = {
    "lstm": lambda H, **o: LSTM(D, H, **o),
    "gru": lambda H, **o: GRU(D, H, 2, **o),
    "gru, reset before": lambda H, **o: GRU(D, H, bidirectional=True, reset_after=False, **o),
    "reverse": lambda H, **o: RNN(D, H, 2, reverse=True, bias=False, **o),
    "batch first": lambda H, **o: LSTM(D, H, 2, batch_first=True, **o),
    "peephole": lambda H, **o: Recurrent(user_cells.peephole_lstm, D, H, 2, **o),
    "indrnn": lambda H, **o: Recurrent(user_cells.indrnn, D, H, **o),
}
# Units that fill whole vectors are summed where they go; others are not.
SIZES = (5, 16)


@pytest.fixture(params=[(kind, H) for kind in KINDS for H in SIZES], ids=lambda p: f"{p[0]}-{p[1]}")
def layer(request: pytest.FixtureRequest) -> Recurrent:
    kind, H = request.param
    made: Recurrent = KINDS[kind](H, dtype="float64", seed=0)
    return made


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def arguments(layer: Recurrent) -> dict[str, Any]:
    outer = (N, T) if layer.batch_first else (T, N)
    count, rows = len(layer.cell.states), layer.num_layers * layer.directions
    states = [tuple(normal(seed + k, rows, N, layer.hidden_size) for k in range(count)) for seed in (10, 20, 30)]
    state, dstate, fresh = (s if count > 1 else s[0] for s in states)
    rng = np.random.default_rng(5)
    flags = {"mask": rng.random(outer) < 0.8, "resets": rng.random(outer) < 0.3, "lengths": np.array([T, 3, 0, 5, T])}
    y = normal(2, *outer, layer.directions * layer.hidden_size)
    return {"x": normal(1, *outer, D), "state": state, "reset_state": fresh, **flags, "dy": y, "dstate": dstate}


def of_sequence(value: Any, n: int, axis: int) -> Any:
    if isinstance(value, tuple):
        return tuple(of_sequence(part, n, axis) for part in value)
    return value.take([n], axis)


def alone(layer: Recurrent, a: dict[str, Any], names: tuple[str, ...], **back: Any) -> list[dict[str, np.ndarray]]:
    """The gradients of each sequence's own call."""
    axes = {"state": 1, "reset_state": 1, "dstate": 1, "lengths": 0}
    batch = 0 if layer.batch_first else 1
    result = []
    for n in range(N):
        own = {name: of_sequence(value, n, axes.get(name, batch)) for name, value in a.items()}
        _, _, pullback = layer.vjp(own["x"], **{name: own[name] for name in names})
        result.append(pullback(own["dy"], own["dstate"], **back)[2])
    return result


FLAGS = ("state", "mask", "resets", "lengths", "reset_state")


@pytest.mark.parametrize("names", [(), FLAGS], ids=["plain", "flags"])
def test_each_is_that_of_its_own_call(backend: str, layer: Recurrent, names: tuple[str, ...]) -> None:
    a = arguments(layer)
    _, _, pullback = layer.vjp(a["x"], **{name: a[name] for name in names})
    *inner, grads = pullback(a["dy"], a["dstate"], per_sequence=True)
    sums = pullback(a["dy"], a["dstate"])
    np.testing.assert_allclose(inner[0], sums[0], rtol=1e-12, atol=1e-14)
    want = alone(layer, a, names)
    assert grads.keys() == sums[2].keys() == want[0].keys()
    for name in layer.params:
        assert grads[name].shape == (N, *layer.params[name].shape) and grads[name].flags.c_contiguous
        scale = max(1.0, np.abs(sums[2][name]).max())
        for n in range(N):
            np.testing.assert_allclose(grads[name][n], want[n][name], rtol=1e-10, atol=1e-12 * scale)
        np.testing.assert_allclose(grads[name].sum(axis=0), sums[2][name], rtol=1e-10, atol=1e-12 * scale)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("N", [1, 2, 33])
def test_threads_and_many_steps(backend: str, N: int, threads: int) -> None:
    """More steps than a chunk and a block of float32 sums have; work enough to be shared."""
    T, H = (2500 if backend == "cpp" and N < 3 else 300), (64 if backend == "cpp" else 8)
    layer = LSTM(D, H, seed=0)
    x, dy = normal(0, T, N, D).astype("f4"), normal(1, T, N, H).astype("f4")
    with fastrnn.use_num_threads(threads):
        grads = layer.vjp(x)[2](dy, per_sequence=True)[2]
        for n in {0, N // 2, N - 1}:
            want = layer.vjp(x[:, n : n + 1])[2](dy[:, n : n + 1])[2]
            for name, each in grads.items():
                np.testing.assert_allclose(each[n], want[name], rtol=0, atol=2e-5 * np.abs(want[name]).max())


@pytest.mark.parametrize("dtype, parts", [("float64", 0), ("float32", 0), ("float32", 3)])
@pytest.mark.parametrize("H", [5, 40])
@pytest.mark.parametrize("threads, by_units", [(1, False), (3, False), (2, True)])
def test_every_path_of_the_extension(
    variant: str, H: int, threads: int, by_units: bool, dtype: str, parts: int
) -> None:
    """With clipping, which meets at every step where units are divided between threads."""
    from fastrnn.backends import _cpp
    from fastrnn.backends.cpp_backend import CppBackend, CppPath

    if parts and parts not in _cpp.bf16_parts():
        pytest.skip("this processor multiplies no bf16 numbers")
    backend, clip = CppBackend(), Clip(0.7, True)
    layer = GRU(D, H, reset_after=False, dtype=dtype, seed=0)
    params = {name.removesuffix("_l0"): value for name, value in layer.params.items()}
    x, dy, h0 = (normal(s, *shape).astype(dtype) for s, shape in enumerate([(T, N, D), (T, N, H), (N, H)]))
    flags = flags_of(T, N, np.array([T, 3, 0, 5, T]), None, None)
    call = Call(make_plan(layer.cell), x, (h0,), params, False, threads, parts, flags)
    _, _, saved, _ = backend.forward(call, True, None)
    for chunk in (2, T):
        path = CppPath(threads, by_units, parts, True, "none", False, chunk)
        got = backend.backward(call, saved, dy, (h0,), flags, path, clip, True)
        assert got.path == path
        with fastrnn.use_backend("numpy"):
            _, _, pullback = layer.vjp(x, h0[None], [T, 3, 0, 5, T])
            dx, _, grads = pullback(dy, h0[None], clip_state=("norm", 0.7), per_sequence=True)
        atol = 1e-12 if dtype == "float64" else 1e-5
        for one, other in ((got.dx, dx), (got.dWx, grads["Wx_l0"]), (got.dWh, grads["Wh_l0"])):
            np.testing.assert_allclose(one, other, rtol=0, atol=atol * max(1, np.abs(other).max()))


def test_the_reset_state_of_all_sequences_has_a_gradient_for_each(backend: str) -> None:
    layer = LSTM(D, 5, 2, dtype="float64", seed=0)
    a = arguments(layer)
    rows = tuple(s[:, 0] for s in a["reset_state"])
    _, _, pullback = layer.vjp(a["x"], resets=a["resets"], reset_state=rows)
    each, whole = (pullback(a["dy"], per_sequence=p)[2]["reset_state"] for p in (True, False))
    for one, other in zip(each, whole, strict=True):
        assert one.shape == (N, 2, 5)
        np.testing.assert_allclose(one.sum(axis=0), other, rtol=1e-12)
    own = layer.vjp(a["x"][:, 1:2], resets=a["resets"][:, 1:2], reset_state=rows)[2](a["dy"][:, 1:2])[2]["reset_state"]
    np.testing.assert_allclose(each[0][1], own[0], rtol=1e-12)


@pytest.mark.parametrize("truncate", [2, (2, 3)])
def test_with_truncation(backend: str, truncate: Any) -> None:
    layer = GRU(D, 5, 2, dtype="float64", seed=0)
    a = arguments(layer)
    grads = layer.vjp(a["x"])[2](a["dy"], a["dstate"], truncate=truncate, per_sequence=True)[2]
    for n, want in enumerate(alone(layer, a, (), truncate=truncate)):
        for name, grad in want.items():
            np.testing.assert_allclose(grads[name][n], grad, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_in_segments(backend: str, bidirectional: bool) -> None:
    layer = LSTM(D, 5, 2, bidirectional=bidirectional, dtype="float64", seed=0)
    a = arguments(layer)
    want = layer.vjp(a["x"])[2](a["dy"], per_sequence=True)[2]
    got = layer.vjp(a["x"], recompute=3)[2](a["dy"], per_sequence=True)[2]
    for name, each in want.items():
        np.testing.assert_allclose(got[name], each, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("add", [False, True])
def test_into_given_arrays(backend: str, add: bool) -> None:
    layer = LSTM(D, 5, dtype="float64", seed=0)
    a = arguments(layer)
    _, _, pullback = layer.vjp(a["x"])
    want = pullback(a["dy"], per_sequence=True)[2]
    into = {name: np.ones((N, *value.shape)) for name, value in layer.params.items()}
    grads = pullback(a["dy"], per_sequence=True, into=into, add=add)[2]
    for name, array in into.items():
        assert grads[name] is array
        np.testing.assert_array_equal(array, want[name] + add)
    with pytest.raises(ValueError, match=r"into\['Wx_l0'\]: expected shape \(5, 3, 20\)"):
        pullback(a["dy"], per_sequence=True, into={"Wx_l0": np.zeros((D, 20))})


def test_what_is_held_counts_as_zeros(backend: str) -> None:
    layer = GRU(D, 16, reset_after=False, dtype="float64", seed=0)
    a = arguments(layer)
    a["x"][~a["mask"]] = np.nan
    grads = layer.vjp(a["x"], mask=a["mask"])[2](a["dy"], per_sequence=True)[2]
    assert all(np.isfinite(grad).all() for grad in grads.values())


def test_no_sequence_and_no_parameters(backend: str) -> None:
    layer = LSTM(D, 5, seed=0)
    grads = layer.vjp(np.zeros((T, 0, D), "f4"))[2](per_sequence=True)[2]
    assert {name: g.shape for name, g in grads.items()} == {n: (0, *p.shape) for n, p in layer.params.items()}
    assert layer.vjp(np.zeros((T, 2, D), "f4"), need={"x"})[2](per_sequence=True)[2] == {}


def test_wrong_use() -> None:
    pullback = LSTM(D, 5, seed=0).vjp(np.zeros((T, N, D), "f4"))[2]
    with pytest.raises(TypeError, match="per_sequence: expected True or False"):
        pullback(per_sequence=1)  # type: ignore[arg-type]
