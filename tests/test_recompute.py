"""BPTT that computes a segment's steps again: the same gradients, in little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import fastrnn
import user_cells
from fastrnn import GRU, LSTM, RNN, Embedding, Linear, Model, Recurrent
from fastrnn.engine.dropout import Draw
from fastrnn.engine.recompute import segment_length

T, N, D, H = 26, 3, 2, 5
KINDS: dict[str, Any] = {
    "one": lambda **o: LSTM(D, H, **o),
    "three": lambda **o: GRU(D, H, 3, dropout=0.4, **o),
    "reverse": lambda **o: RNN(D, H, 2, reverse=True, dropout=0.3, **o),
    "both": lambda **o: LSTM(D, H, 3, bidirectional=True, dropout=0.4, **o),
    "batch first": lambda **o: GRU(D, H, 2, bidirectional=True, batch_first=True, reset_after=False, **o),
    "user's": lambda **o: Recurrent(user_cells.relaxing, D, H, 2, dropout=0.2, **o),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def made(kind: str, **options: Any) -> Recurrent:
    layer: Recurrent = KINDS[kind](**{"dtype": "float64", "seed": 0} | options)
    return layer


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def arguments(layer: Recurrent) -> dict[str, Any]:
    """Of a call and its pullback, with all that there is."""
    outer = (N, T) if layer.batch_first else (T, N)
    shape = (layer.num_layers * layer.directions, N, H)
    count = len(layer.cell.states)
    states = [tuple(normal(seed + k, *shape) for k in range(count)) for seed in (10, 20, 30)]
    state, dstate, fresh = (s if count > 1 else s[0] for s in states)
    rng = np.random.default_rng(5)
    return {
        "x": normal(1, *outer, D),
        "state": state,
        "lengths": [T, 4, 0],
        "mask": rng.random(outer) < 0.8,
        "resets": rng.random(outer) < 0.2,
        "reset_state": fresh,
        "dy": normal(2, *outer, layer.directions * H),
        "dstate": dstate,
    }


def both(kind: str, recompute: Any, some: tuple[str, ...], training: bool = True, **back: Any) -> list[Any]:
    """All that a call gives, plain and with segments; two layers, so that both draw the same."""
    result = []
    for option in (None, recompute):
        layer = made(kind)
        a = arguments(layer)
        given = {name: a[name] for name in ("x", *some)}
        y, last, pullback = layer.vjp(**given, training=training, recompute=option)
        result.append((y, last, *pullback(a["dy"], a["dstate"], **back)))
    return result


def flat(value: Any) -> list[np.ndarray]:
    if isinstance(value, dict):
        value = [value[name] for name in sorted(value)]
    return [a for part in value for a in flat(part)] if isinstance(value, tuple | list) else [value]


def assert_close(got: Any, want: Any) -> None:
    for one, other in zip(flat(got), flat(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12 * max(1.0, np.abs(other).max(initial=0)))


FLAGS = ("state", "lengths", "mask", "resets", "reset_state")


@pytest.mark.parametrize("recompute", [1, 4, T, 10**30, "sqrt"])
def test_gradients_are_the_plain_ones(backend: str, kind: str, recompute: Any) -> None:
    plain, again = both(kind, recompute, ("state",))
    assert_close(again, plain)


@pytest.mark.parametrize("recompute", [3, 5])
def test_flags_are_those_of_the_steps(backend: str, kind: str, recompute: int) -> None:
    plain, again = both(kind, recompute, FLAGS)
    assert_close(again, plain)


@pytest.mark.parametrize("truncate", [2, 3, 5])
@pytest.mark.parametrize("some", [(), FLAGS], ids=["plain", "flags"])
def test_cuts_are_where_they_were(backend: str, kind: str, some: Any, truncate: int) -> None:
    plain, again = both(kind, 4, some, truncate=truncate)
    assert_close(again, plain)


@pytest.mark.parametrize("kind", ["one", "three", "reverse", "user's"])
def test_k1_and_k2_in_segments(backend: str, kind: str) -> None:
    plain, again = both(kind, 4, FLAGS, truncate=(2, 5))
    assert_close(again, plain)


def test_bits_are_the_same_every_time(backend: str, kind: str) -> None:
    _, one = both(kind, 3, FLAGS)
    _, two = both(kind, 3, FLAGS)
    for first, second in zip(flat(one), flat(two), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("need", [("x",), ("state",), ("params",), ()])
def test_what_is_not_needed_is_not_given(backend: str, kind: str, need: Any) -> None:
    layer = made(kind)
    a = arguments(layer)
    dx, dstate, grads = layer.vjp(a["x"], a["state"])[2](a["dy"], a["dstate"])
    got = layer.vjp(a["x"], a["state"], need=need, recompute=4)[2](a["dy"], a["dstate"])
    assert (got[0] is None) == ("x" not in need) and (got[1] is None) == ("state" not in need)
    want = (dx if "x" in need else None, dstate if "state" in need else None, grads if "params" in need else {})
    for one, other in zip(got, want, strict=True):
        if other is not None:
            assert_close(one, other)


def test_a_pullback_can_be_called_again_and_writes_where_it_is_told(backend: str, kind: str) -> None:
    layer = made(kind)
    a = arguments(layer)
    _, _, pullback = layer.vjp(a["x"], training=True, recompute="sqrt")
    want = pullback(a["dy"])
    into = {name: np.ones_like(value) for name, value in layer.params.items()}
    got = pullback(a["dy"], into=into, add=True)
    for name, array in into.items():
        np.testing.assert_array_equal(array, want[2][name] + 1)
    np.testing.assert_array_equal(got[0], want[0])


def test_no_gradient_of_outputs_or_of_states(backend: str, kind: str) -> None:
    layer = made(kind)
    a = arguments(layer)
    assert_close(layer.vjp(a["x"], recompute=4)[2](None, a["dstate"]), layer.vjp(a["x"])[2](None, a["dstate"]))
    assert_close(layer.vjp(a["x"], recompute=4)[2](a["dy"]), layer.vjp(a["x"])[2](a["dy"]))


def test_layers_and_models_take_it() -> None:
    ids, dy = np.random.default_rng(0).integers(0, 7, (T, N)), normal(0, T, N, 4)
    results = []
    for recompute in (None, 3, "sqrt"):
        layers = [Embedding(7, D, dtype="float64", seed=1), LSTM(D, H, 2, dropout=0.3, dtype="float64", seed=2)]
        model = Model([*layers, GRU(H, H, dtype="float64", seed=3), Linear(H, 4, dtype="float64", seed=4)])
        y, state = model.forward(ids, recompute=recompute)
        model.backward(dy, truncate=5)
        results.append((y, state, dict(model.grads)))
    assert_close(results[1], results[0])
    assert_close(results[2], results[0])


def test_float32_agrees_to_rounding(backend: str) -> None:
    layer = LSTM(D, 20, 2, seed=0)
    x, dy = normal(0, 300, N, D).astype("f4"), normal(1, 300, N, 20).astype("f4")
    for one, other in zip(flat(layer.vjp(x, recompute="sqrt")[2](dy)), flat(layer.vjp(x)[2](dy)), strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


def test_the_rest_of_a_draw() -> None:
    draw, x = Draw(seed=3, number=2, rate=0.4), normal(0, 7, 3, 5)
    for begin in (0, 2, 6):
        rest = draw.after(begin * 15).applied(1, x[begin:])
        np.testing.assert_array_equal(rest, draw.applied(1, x)[begin:])
    assert draw.after(2**63).after(2**63).key(1) == draw.key(1)


def test_lengths_of_segments() -> None:
    assert [segment_length("sqrt")(n) for n in (1, 2, 16, 17, 25, 36, 37, 10**6)] == [1, 2, 16, 17, 20, 24, 28, 4000]
    assert [segment_length(3)(n) for n in (1, 3, 9)] == [1, 3, 3]


@pytest.mark.parametrize(
    "recompute, error", [(0, ValueError), (-3, ValueError), ("all", ValueError), (2.0, TypeError), (True, TypeError)]
)
def test_wrong_use(recompute: Any, error: type[Exception]) -> None:
    layer = LSTM(D, H, seed=0)
    x = np.zeros((T, N, D), "f4")
    for call in (layer.vjp, layer.forward, Model([layer]).forward, fastrnn.prepare(layer.cell, layer.params).vjp):
        with pytest.raises(error, match="recompute: expected"):
            call(x, recompute=recompute)


PEAK = """
import gc, json, sys
from pathlib import Path
import numpy as np, fastrnn
def peak():
    return 1024 * next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM"))
T, H = 30_000, 64
layer = fastrnn.LSTM(H, H, 2, seed=0)
x, dy = np.ones((T, 1, H), "f4"), np.ones((T, 1, H), "f4")
def run(x, dy):
    y, _, pullback = layer.vjp(x, recompute=json.loads(sys.argv[1]))
    return y, pullback(dy)
run(x[:3000], dy[:3000])
gc.collect()
Path("/proc/self/clear_refs").write_text("5")
before = peak()
result = run(x, dy)
print(peak() - before - 2 * x.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_memory_grows_as_the_root_of_the_steps() -> None:
    """Beyond y and dx, 8 MB each, the plain call keeps ten times as much."""

    def peak(recompute: str | None) -> int:
        command = [sys.executable, "-c", PEAK, json.dumps(recompute)]
        return int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)

    assert peak("sqrt") < 8e6 < 40e6 < peak(None)
