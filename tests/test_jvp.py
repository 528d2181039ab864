"""Forward mode against complex step, differences and BPTT, and Hessian-vector products from both modes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastrnn
import user_cells
from fastrnn import Embedding, Linear, Model, Recurrent
from fastrnn.cells import Cell
from fastrnn.cells.builtin import built_in

CELLS = [
    *built_in(),
    user_cells.leaky,
    user_cells.mgu,
    user_cells.peephole_lstm,
    user_cells.indrnn,
    user_cells.relaxing,
    user_cells.choosing,
]
SMOOTH = [c for c in CELLS if c.name not in ("rnn_relu", "indrnn", "choosing")]
STEP = 1e-3
STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))


def stack(cell: Cell, dtype: str = "float64", **options: Any) -> Recurrent:
    return Recurrent(cell, 3, 4, dtype=dtype, seed=7, **options)


def like(rng: np.random.Generator, value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(like(rng, v) for v in value)
    return rng.standard_normal(value.shape).astype(value.dtype)


def moved(value: Any, dot: Any, step: float) -> Any:
    if isinstance(value, tuple):
        return tuple(moved(v, d, step) for v, d in zip(value, dot, strict=True))
    return value + step * dot


def flat(values: Any) -> list[np.ndarray]:
    return [values] if isinstance(values, np.ndarray) else [a for v in values for a in flat(v)]


def direction(layer: Recurrent, N: int, T: int = 5) -> tuple[Any, ...]:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((T, N, layer.input_size)).astype(layer.dtype)
    shape = (layer.num_layers * layer.directions, N, layer.hidden_size)
    parts = tuple(rng.standard_normal(shape).astype(layer.dtype) * 0.5 for _ in layer.cell.states)
    state = parts if len(parts) > 1 else parts[0]
    return x, state, like(rng, x), like(rng, state), {name: like(rng, p) for name, p in layer.params.items()}


def by_differences(layer: Recurrent, given: tuple[Any, ...], **flags: Any) -> list[np.ndarray]:
    x, state, x_dot, state_dot, params_dot = given
    there = {name: p.copy() for name, p in layer.params.items()}
    total: list[Any] = []
    for offset, weight in STENCIL:
        step = offset * STEP
        for name, p in there.items():
            layer.params[name] = p + step * params_dot[name]
        found = flat(layer(moved(x, x_dot, step), moved(state, state_dot, step), **flags))
        total = [t + weight / STEP * f for t, f in zip(total or [0] * len(found), found, strict=True)]
    layer.params.update(there)
    return total


@pytest.mark.parametrize("cell", SMOOTH, ids=lambda c: c.name)
def test_is_the_derivative_along_the_direction(cell: Cell, backend: str) -> None:
    layer = stack(cell, num_layers=2)
    given = direction(layer, N=2)
    y, state, y_dot, state_dot = layer.jvp(*given)
    for new, old in zip(flat((y, state)), flat(layer(*given[:2])), strict=True):
        assert np.array_equal(new, old)
    for got, expected in zip(flat((y_dot, state_dot)), by_differences(layer, given), strict=True):
        assert np.linalg.norm(got - expected) <= 1e-8 * np.linalg.norm(expected)


def test_is_the_derivative_by_a_complex_step(backend: str) -> None:
    layer = stack(fastrnn.cells.rnn())
    x, h0, x_dot, h0_dot, dot = direction(layer, N=2)
    i = 1e-30j
    params = {name: p + i * dot[name] for name, p in layer.params.items()}
    h = h0[0] + i * h0_dot[0]
    for t in range(len(x)):
        a = (x[t] + i * x_dot[t]) @ params["Wx_l0"] + params["bx_l0"] + h @ params["Wh_l0"] + params["bh_l0"]
        h = np.tanh(a)
    _, _, y_dot, last_dot = layer.jvp(x, h0, x_dot, h0_dot, dot)
    expected = h.imag / 1e-30
    assert np.allclose(y_dot[-1], expected, rtol=1e-13, atol=1e-14)
    assert np.array_equal(last_dot[0], y_dot[-1])


@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.name)
def test_is_the_transpose_of_bptt(cell: Cell, backend: str) -> None:
    """``<dy, J v> = <J' dy, v>``, with lengths, masks, resets, both directions, batches first."""
    layer = stack(cell, num_layers=2, bidirectional=True, batch_first=True)
    x, state, x_dot, state_dot, dot = direction(layer, N=3, T=6)
    x, x_dot = x.swapaxes(0, 1), x_dot.swapaxes(0, 1)
    rng = np.random.default_rng(5)
    mask, resets = rng.random((3, 6)) < 0.8, rng.random((3, 6)) < 0.3
    flags = {"lengths": [6, 4, 0], "mask": mask, "resets": resets, "reset_state": like(rng, state)}
    y, last, pullback = layer.vjp(x, state, **flags)
    dy, dlast = like(rng, y), like(rng, last)
    dx, dfirst, grads = pullback(dy, dlast)
    y_, last_, y_dot, last_dot = layer.jvp(x, state, x_dot, state_dot, dot, **flags)
    for new, old in zip(flat((y_, last_)), flat((y, last)), strict=True):
        assert np.array_equal(new, old)
    forward = sum(np.vdot(a, b) for a, b in zip(flat((dy, dlast)), flat((y_dot, last_dot)), strict=True))
    back = np.vdot(dx, x_dot) + sum(np.vdot(a, b) for a, b in zip(flat(dfirst), flat(state_dot), strict=True))
    back += sum(np.vdot(grads[name], dot[name]) for name in dot)
    assert abs(forward - back) <= 1e-12 * abs(forward)
    assert abs(forward) > 1e-3


@pytest.mark.parametrize("cell", [fastrnn.cells.lstm, user_cells.mgu], ids=lambda c: c.name)
def test_backends_agree_in_float32(cell: Cell, backend: str) -> None:
    layer = Recurrent(cell, 20, 33, dtype="float32", seed=1)
    given = direction(layer, N=3, T=20)
    with fastrnn.use_backend("numpy"):
        expected = flat(layer.jvp(*given))
    for got, want in zip(flat(layer.jvp(*given)), expected, strict=True):
        assert got.dtype == np.float32
        assert np.linalg.norm(got - want) <= 2e-5 * np.linalg.norm(want)


def test_what_is_none_is_zeros(backend: str) -> None:
    layer = stack(fastrnn.cells.lstm)
    x, state, x_dot, state_dot, dot = direction(layer, N=2)
    zeros = {name: np.zeros_like(p) for name, p in dot.items()}
    nothing = np.zeros_like(x), tuple(np.zeros_like(s) for s in state), zeros
    for given in (
        (x_dot, None, None),
        (None, state_dot, None),
        (None, None, dot),
        (None, None, {"Wh_l0": dot["Wh_l0"]}),
    ):
        full = [zero if value is None else value for value, zero in zip(given, nothing, strict=True)]
        full[2] = {**zeros, **full[2]}
        got, expected = layer.jvp(x, state, *given), layer.jvp(x, state, *full)
        assert all(np.allclose(a, b, rtol=1e-13) for a, b in zip(flat(got), flat(expected), strict=True))
    assert not any(a.any() for a in flat(layer.jvp(x, state)[2:]))


def test_without_biases_and_reversed(backend: str) -> None:
    layer = stack(fastrnn.cells.gru(), bias=False, reverse=True)
    given = direction(layer, N=2)
    _, _, y_dot, _ = layer.jvp(*given)
    expected = by_differences(layer, given)[0]
    assert np.linalg.norm(y_dot - expected) <= 1e-8 * np.linalg.norm(expected)


def model() -> Model:
    layers = [
        Embedding(5, 3, dtype="float64", seed=1),
        stack(fastrnn.cells.gru(reset_after=False), num_layers=2),
        Linear(4, 3, dtype="float64", seed=2),
        stack(user_cells.peephole_lstm),
        Linear(4, 2, dtype="float64", seed=3),
    ]
    return Model(layers)


def test_of_a_model(backend: str) -> None:
    net = model()
    rng = np.random.default_rng(0)
    x = rng.integers(0, 5, (4, 2))
    dot = {name: like(rng, p) for name, p in net.params.items()}
    y, last = net.forward(x)
    dy = like(rng, y)
    net.backward(dy)
    y_, last_, y_dot, _ = net.jvp(x, params_dot=dot)
    assert all(np.array_equal(a, b) for a, b in zip(flat((y, last)), flat((y_, last_)), strict=True))
    forward, back = np.vdot(dy, y_dot), sum(np.vdot(net.grads[name], dot[name]) for name in dot)
    assert abs(forward - back) <= 1e-12 * abs(forward)


def squared_error(target: np.ndarray) -> Any:
    return lambda y, y_dot: (2 / y.size * (y - target), 2 / y.size * y_dot)


def cubic(y: np.ndarray, y_dot: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The loss ``sum(y**3)``."""
    return 3 * y**2, 6 * y * y_dot


@pytest.mark.parametrize("cell", SMOOTH, ids=lambda c: c.name)
def test_hessian_vector_product_is_the_derivative_of_the_gradient(cell: Cell, backend: str) -> None:
    layer = stack(cell, num_layers=2)
    x, state, _, _, v = direction(layer, N=3)
    lengths = [5, 3, 4]
    got = fastrnn.hvp(layer, cubic, x, v, state, lengths)
    assert got.keys() == layer.params.keys()
    expected = {name: np.zeros_like(p) for name, p in v.items()}
    there = {name: p.copy() for name, p in layer.params.items()}
    for offset, weight in STENCIL:
        for name, p in there.items():
            layer.params[name] = p + offset * STEP * v[name]
        y, _, pullback = layer.vjp(x, state, lengths)
        for name, grad in pullback(3 * y**2)[2].items():
            expected[name] += weight / STEP * grad
    norm = np.sqrt(sum(np.sum(e**2) for e in expected.values()))
    assert norm > 1e-3
    for name, value in expected.items():
        assert np.linalg.norm(got[name] - value) <= 1e-7 * norm, name


def test_hessian_of_a_model_is_symmetric_and_right(backend: str) -> None:
    net = model()
    rng = np.random.default_rng(0)
    x, target = rng.integers(0, 5, (4, 2)), rng.standard_normal((4, 2, 2))
    u, v = ({name: like(rng, p) for name, p in net.params.items()} for _ in range(2))
    Hu, Hv = (fastrnn.hvp(net, squared_error(target), x, w) for w in (u, v))
    uHv, vHu = (sum(np.vdot(a[name], b[name]) for name in a) for a, b in ((u, Hv), (v, Hu)))
    assert abs(uHv - vHu) <= 1e-11 * abs(uHv)
    there = {name: p.copy() for name, p in net.params.items()}
    slope = 0.0
    for offset, weight in STENCIL:
        for name, p in there.items():
            net.params[name] = p + offset * STEP * v[name]
        net.zero_grad()
        y, _ = net.forward(x)
        net.backward(2 / y.size * (y - target))
        slope += weight / STEP * sum(np.vdot(u[name], net.grads[name]) for name in u)
    assert abs(slope - uHv) <= 1e-7 * abs(uHv)


def test_hessian_of_relu_has_no_part_at_the_kink() -> None:
    layer = stack(fastrnn.cells.rnn("relu"))
    x, _, _, _, v = direction(layer, N=2)
    assert all(np.isfinite(value).all() for value in fastrnn.hvp(layer, cubic, x, v).values())


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x_dot": np.zeros((5, 2, 2))}, ValueError, "x_dot: expected shape"),
        ({"x_dot": np.zeros((5, 2, 3), "float32")}, TypeError, "x_dot: expected dtype float64"),
        ({"state_dot": np.zeros((1, 3, 4))}, ValueError, "state_dot: expected shape"),
        ({"params_dot": [1]}, TypeError, "params_dot: expected a mapping"),
        ({"params_dot": {"W": np.zeros(3)}}, ValueError, "params_dot: .*unknown W"),
        ({"params_dot": {"bx_l0": np.zeros(3)}}, ValueError, r"params_dot\['bx_l0'\]: expected shape"),
    ],
)
def test_wrong_directions_are_named(change: dict[str, Any], error: type[Exception], words: str) -> None:
    layer = stack(fastrnn.cells.rnn())
    with pytest.raises(error, match=words):
        layer.jvp(np.zeros((5, 2, 3)), **change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layer": Linear(3, 4)}, "layer: expected a recurrent layer or a Model"),
        ({"gradient": 3}, "gradient: expected a function"),
        ({"gradient": lambda y, y_dot: y}, "gradient: expected two arrays"),
        ({"gradient": lambda y, y_dot: (y, y_dot.astype("float32"))}, r"gradient\(\.\.\.\)\[1\]: expected dtype"),
    ],
)
def test_wrong_arguments_of_a_hessian_are_named(change: dict[str, Any], words: str) -> None:
    layer = stack(fastrnn.cells.rnn())
    given = {"layer": layer, "gradient": cubic, "x": np.zeros((5, 2, 3)), "params_dot": {}, **change}
    with pytest.raises(TypeError, match=words):
        fastrnn.hvp(**given)
