"""Clipping of the gradient of the states inside BPTT: against loops over single steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastrnn
import naive
import user_cells
from cases import CELLS
from fastrnn import GRU, LSTM, RNN, Linear, Model, Recurrent
from problems import problem

T, N, D, H = 6, 3, 2, 5
CLIPS = [("value", 0.3), ("norm", 0.8), ("value", 1e9), ("norm", 1e9)]
KINDS: dict[str, Any] = {
    "lstm": lambda **o: LSTM(D, H, **o),
    "gru": lambda **o: GRU(D, H, 2, **o),
    "gru, reset before": lambda **o: GRU(D, H, bidirectional=True, reset_after=False, **o),
    "reverse": lambda **o: RNN(D, H, 2, reverse=True, nonlinearity="relu", **o),
    "batch first": lambda **o: LSTM(D, 16, 2, batch_first=True, **o),
    "peephole": lambda **o: Recurrent(user_cells.peephole_lstm, D, H, 2, **o),
    "relaxing": lambda **o: Recurrent(user_cells.relaxing, D, H, **o),
}


@pytest.fixture(params=KINDS)
def layer(request: pytest.FixtureRequest) -> Recurrent:
    made: Recurrent = KINDS[request.param](dtype="float64", seed=0)
    return made


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def naive_clip(grads: list[list[float]], kind: str, bound: float) -> list[list[float]]:
    """The gradient of each state of one sequence."""
    if kind == "value":
        return [[max(-bound, min(bound, g)) for g in state] for state in grads]
    norm = sum(g * g for state in grads for g in state) ** 0.5
    return [[g * min(1.0, bound / norm) if norm else g for g in state] for state in grads]


def oracle(p: Any, call: naive.Call, clip: tuple[str, float]) -> dict[str, np.ndarray]:
    """BPTT one scalar and one step at a time, with a tape of its own for every step of every sequence."""
    step, (steps, count, _) = naive.CELLS[p.cell].step, p.x.shape
    times = list(reversed(range(steps))) if call.reverse else list(range(steps))
    dx, dstate = np.zeros_like(p.x), [np.zeros_like(s) for s in p.state]
    params = {name: naive.nested(value, naive.Scalar) for name, value in p.params.items()}
    for n in range(count):
        tapes, now = [], [list(map(float, s[n])) for s in p.state]
        for t in times:
            if call.resets is not None and call.resets[t][n]:
                now = [[0.0] * len(s) for s in now]
            if not call.active(t, n):
                tapes.append(None)
                continue
            x, before = naive.nested(p.x[t, n], naive.Scalar), naive.nested(now, naive.Scalar)
            after = step(params, x, *before)
            tapes.append((x, before, after))
            now = [[naive.as_scalar(v).value for v in state] for state in after]
        grad = [list(map(float, d[n])) for d in p.dlast]
        for t, tape in zip(reversed(times), reversed(tapes), strict=True):
            if tape is not None:
                x, before, after = tape
                grad[0] = [a + b for a, b in zip(grad[0], p.dhs[t, n], strict=True)]
                grad = naive_clip(grad, *clip)
                total: Any = 0.0
                for values, own in zip(after, grad, strict=True):
                    total = total + sum(v * g for v, g in zip(values, own, strict=True))
                naive.as_scalar(total).backward()
                dx[t, n] = [v.grad for v in x]
                grad = [[v.grad for v in state] for state in before]
            if call.resets is not None and call.resets[t][n]:
                grad = [[0.0] * len(s) for s in grad]
        for k, own in enumerate(grad):
            dstate[k][n] = own

    def values(v: Any) -> Any:
        return [values(e) for e in v] if isinstance(v, list) else v.grad

    found = {f"d{name}": np.array(values(v)) for name, v in params.items()}
    return found | {"dx": dx} | {f"dstate.{k}": d for k, d in enumerate(dstate)}


MASK = ((True, False, True, False),) * 2 + ((False, True, True, False),) + ((True, True, True, False),) * 2
RESETS = ((False,) * 4, (True, True, False, True), (False,) * 4, (False, True, True, False), (False,) * 4)
CALLS = {
    "plain": naive.Call(),
    "reverse": naive.Call(lengths=(3, 5, 0, 2), reverse=True),
    "flags": naive.Call(mask=MASK, resets=RESETS),
}


@pytest.mark.parametrize("clip", CLIPS, ids=str)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru_before", "peephole_lstm", "indrnn"])
def test_clipping_as_the_oracle(backend: str, cell: str, call: naive.Call, clip: tuple[str, float]) -> None:
    p = problem(cell, H=3)
    params = {f"{name}_l0": value for name, value in p.params.items()}
    run = fastrnn.prepare(CELLS[cell], params, reverse=call.reverse)
    flags = {name: np.array(getattr(call, name)) for name in ("lengths", "mask", "resets") if getattr(call, name)}
    state, dlast = ([s[None] for s in states] for states in (p.state, p.dlast))
    one = len(state) == 1
    _, _, pullback = run.vjp(p.x, state[0] if one else tuple(state), **flags)
    dx, dstate, grads = pullback(p.dhs, dlast[0] if one else tuple(dlast), clip_state=clip)
    want = oracle(p, call, clip)
    got = {"dx": dx} | {f"d{name[:-3]}": g for name, g in grads.items()}
    got |= {f"dstate.{k}": d[0] for k, d in enumerate((dstate,) if one else dstate)}
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-11, atol=1e-12, err_msg=name)


def arguments(layer: Recurrent) -> dict[str, Any]:
    outer = (N, T) if layer.batch_first else (T, N)
    count, shape = len(layer.cell.states), (layer.num_layers * layer.directions, N, layer.hidden_size)
    states = [tuple(normal(seed + k, *shape) for k in range(count)) for seed in (10, 20, 30)]
    state, dstate, fresh = (s if count > 1 else s[0] for s in states)
    rng = np.random.default_rng(5)
    flags = {"mask": rng.random(outer) < 0.8, "resets": rng.random(outer) < 0.3, "reset_state": fresh}
    dy = 2 * normal(2, *outer, layer.directions * layer.hidden_size)
    return {"x": normal(1, *outer, D), "state": state, **flags, "dy": dy, "dstate": dstate}


def flat(value: Any) -> list[np.ndarray]:
    if isinstance(value, dict):
        value = [value[name] for name in sorted(value)]
    return [a for part in value for a in flat(part)] if isinstance(value, tuple | list) else [value]


def assert_close(got: Any, want: Any) -> None:
    for one, other in zip(flat(got), flat(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def pulled(layer: Recurrent, a: dict[str, Any], names: tuple[str, ...], recompute: Any = None, **back: Any) -> Any:
    _, _, pullback = layer.vjp(a["x"], **{name: a[name] for name in names}, recompute=recompute)
    return pullback(a["dy"], a["dstate"], **back)


@pytest.mark.parametrize("clip", CLIPS[:2], ids=str)
@pytest.mark.parametrize("names", [(), ("state", "mask", "resets", "reset_state")], ids=["plain", "flags"])
@pytest.mark.parametrize("truncate", [None, 2])
def test_backends_agree(layer: Recurrent, names: Any, clip: Any, truncate: Any) -> None:
    a = arguments(layer)
    results = []
    for name in fastrnn.available_backends():
        with fastrnn.use_backend(name):
            results.append(pulled(layer, a, names, truncate=truncate, clip_state=clip))
    for other in results[:-1]:
        assert_close(other, results[-1])
    assert any((one != two).any() for one, two in zip(flat(results[0]), flat(pulled(layer, a, names)), strict=True))


@pytest.mark.parametrize("kind", ["value", "norm"])
def test_a_wide_bound_clips_nothing(backend: str, layer: Recurrent, kind: str) -> None:
    a = arguments(layer)
    names = ("state", "mask", "resets", "reset_state")
    assert_close(pulled(layer, a, names, clip_state=(kind, 1e6)), pulled(layer, a, names))


@pytest.mark.parametrize("clip", CLIPS[:2], ids=str)
def test_with_segments_and_for_each_sequence(backend: str, layer: Recurrent, clip: Any) -> None:
    a = arguments(layer)
    assert_close(pulled(layer, a, (), 2, clip_state=clip), pulled(layer, a, (), clip_state=clip))
    each = pulled(layer, a, (), clip_state=clip, per_sequence=True)[2]
    assert_close({n: g.sum(axis=0) for n, g in each.items()}, pulled(layer, a, (), clip_state=clip)[2])


@pytest.mark.parametrize("clip", CLIPS[:2], ids=str)
@pytest.mark.parametrize("N", [1, 33])
def test_threads_chunks_and_float32(N: int, clip: Any) -> None:
    layer = LSTM(D, 72, seed=0)
    x, dy = normal(0, 60, N, D).astype("f4"), normal(1, 60, N, 72).astype("f4")
    with fastrnn.use_backend("numpy"):
        want = layer.vjp(x)[2](dy, clip_state=clip)
    for name in fastrnn.available_backends()[:-1]:
        for threads in (1, 2):
            with fastrnn.use_backend(name), fastrnn.use_num_threads(threads):
                got = layer.vjp(x)[2](dy, clip_state=clip)
            for one, other in zip(flat(got), flat(want), strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-4 * np.abs(other).max())


def test_against_hooks_of_torch(torch: Any, backend: str) -> None:
    """What a user of PyTorch writes: a hook on the state of every step."""
    layer = RNN(D, H, dtype="float64", seed=0)
    x, dy = normal(0, T, N, D), normal(1, T, N, H)
    p = {name: torch.tensor(value, requires_grad=True) for name, value in layer.params.items()}
    h, outputs = torch.zeros(N, H, dtype=torch.float64), []
    for t in range(T):
        h = torch.tanh(torch.tensor(x[t]) @ p["Wx_l0"] + h @ p["Wh_l0"] + p["bx_l0"] + p["bh_l0"])
        h.register_hook(lambda g: g * torch.clamp(0.5 / g.norm(dim=1, keepdim=True), max=1))
        outputs.append(h)
    (torch.stack(outputs) * torch.tensor(dy)).sum().backward()
    grads = layer.vjp(x)[2](dy, clip_state=("norm", 0.5))[2]
    for name, tensor in p.items():
        np.testing.assert_allclose(grads[name], tensor.grad.numpy(), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kind", ["value", "norm"])
@pytest.mark.parametrize("dtype, large", [("float32", 1e30), ("float64", 1e300)])
def test_what_explodes_is_clipped_and_what_is_not_finite_is_seen(
    backend: str, dtype: str, large: float, kind: str
) -> None:
    """Squares of the gradient overflow; a NaN is no large number."""
    layer = RNN(D, H, nonlinearity="identity", dtype=dtype, seed=0)
    x, dy = normal(0, T, 2, D).astype(dtype), np.full((T, 2, H), large, dtype)
    dx = layer.vjp(x)[2](dy, clip_state=(kind, 1.0))[0]
    assert np.isfinite(dx).all() and 0.01 < np.abs(dx).max() < 10
    dy[3, 0, 1] = np.nan
    dx = layer.vjp(x)[2](dy, clip_state=(kind, 1.0))[0]
    assert np.isnan(dx[:4, 0]).all() and np.isfinite(dx[4:]).all() and np.isfinite(dx[:, 1]).all()


def test_layers_and_models_take_it() -> None:
    def model() -> Model:
        return Model([LSTM(D, H, dtype="float64", seed=0), Linear(H, 2, dtype="float64", seed=1)])

    x, dy = normal(0, T, N, D), 3 * normal(1, T, N, 2)
    one, clipped = model(), model()
    for each, clip in ((one, None), (clipped, ("value", 0.05))):
        each.forward(x)
        each.backward(dy, clip_state=clip)
    assert_close(clipped.grads["1.W"], one.grads["1.W"])
    _, _, pullback = one.layers[0].vjp(x)  # type: ignore[attr-defined]
    d = dy @ one.params["1.W"].T
    assert_close(clipped.grads["0.Wx_l0"], pullback(d, clip_state=("value", 0.05))[2]["Wx_l0"])
    assert (clipped.grads["0.Wx_l0"] != one.grads["0.Wx_l0"]).any()


@pytest.mark.parametrize(
    "clip, error, message",
    [
        (0.5, TypeError, "clip_state: expected .* got float"),
        (("value",), ValueError, "clip_state: expected .* got 1 entries"),
        (("length", 1.0), ValueError, r"clip_state\[0\]: expected one of value, norm"),
        (("norm", "1"), TypeError, r"clip_state\[1\]: expected a number"),
        (("norm", True), TypeError, r"clip_state\[1\]: expected a number"),
        (("norm", 0), ValueError, r"clip_state\[1\]: expected a finite number above 0, got 0"),
        (("value", -1.0), ValueError, r"clip_state\[1\]: expected a finite number above 0"),
        (("value", np.nan), ValueError, r"clip_state\[1\]: expected a finite number above 0"),
        (("value", np.inf), ValueError, r"clip_state\[1\]: expected a finite number above 0"),
    ],
)
def test_wrong_use(clip: Any, error: type[Exception], message: str) -> None:
    layer = LSTM(D, H, seed=0)
    x = np.zeros((T, N, D), "f4")
    with pytest.raises(error, match=message):
        layer.vjp(x)[2](clip_state=clip)
    layer.forward(x)
    with pytest.raises(error, match=message):
        layer.backward(None, clip_state=clip)
