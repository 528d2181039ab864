"""The prepared call: what it checks, what it keeps, where gradients go, what is dropped."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import fastrnn
import user_cells
from differences import assert_gradient
from fastrnn import GRU, LSTM, RNN, Prepared, Recurrent
from fastrnn.cells import gru, lstm
from fastrnn.engine.dropout import Draw
from fastrnn.functional import cell_backward, cell_forward

T, N, D, H = 6, 4, 3, 5
KINDS: dict[str, Any] = {
    "one": lambda **o: LSTM(D, H, **o),
    "two": lambda **o: GRU(D, H, 2, **o),
    "reverse": lambda **o: RNN(D, H, reverse=True, **o),
    "both": lambda **o: LSTM(D, H, 2, bidirectional=True, **o),
    "batch first": lambda **o: GRU(D, H, 2, bidirectional=True, batch_first=True, **o),
    "user's": lambda **o: Recurrent(user_cells.peephole_lstm, D, H, **o),
}


@pytest.fixture(params=KINDS)
def layer(request: pytest.FixtureRequest) -> Recurrent:
    made: Recurrent = KINDS[request.param](dtype="float64", seed=0)
    return made


@pytest.fixture
def reference_backend() -> Iterator[None]:
    with fastrnn.use_backend("numpy"):
        yield


def normal(seed: int, *shape: int, dtype: Any = np.float64) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def arguments(layer: Recurrent) -> dict[str, Any]:
    """An input, states and gradients for `layer`."""
    outer = (N, T) if layer.batch_first else (T, N)
    shape = (layer.num_layers * layer.directions, N, H)
    states = [tuple(normal(seed + k, *shape) for k in range(len(layer.cell.states))) for seed in (10, 20, 30)]
    state, dstate, reset = (s if len(s) > 1 else s[0] for s in states)
    dy = normal(2, *outer, layer.directions * H)
    return {"x": normal(1, *outer, D), "state": state, "dy": dy, "dstate": dstate, "reset": reset}


def flat(value: Any) -> list[np.ndarray]:
    """The arrays of a result, in order."""
    if isinstance(value, dict):
        return [array for name in sorted(value) for array in flat(value[name])]
    return [array for part in value for array in flat(part)] if isinstance(value, tuple | list) else [value]


def assert_same(got: Any, want: Any) -> None:
    for one, other in zip(flat(got), flat(want), strict=True):
        np.testing.assert_array_equal(one, other)


def assert_close(got: Any, want: Any, rtol: float = 1e-10) -> None:
    for one, other in zip(flat(got), flat(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=1e-12)


# The pullback.


def test_vjp_is_forward_and_backward(backend: str, layer: Recurrent) -> None:
    a = arguments(layer)
    y, state = layer.forward(a["x"], a["state"])
    dx, dstate = layer.backward(a["dy"], a["dstate"])
    got_y, got_state, pullback = layer.vjp(a["x"], a["state"])
    assert_same([got_y, got_state], [y, state])
    assert not got_y.flags.writeable
    got = pullback(a["dy"], a["dstate"])
    assert_same(got, (dx, dstate, dict(layer.grads)))
    assert got[2].keys() == layer.params.keys()


def test_a_pullback_can_be_called_again_and_adds_nothing(backend: str, layer: Recurrent) -> None:
    a = arguments(layer)
    _, _, pullback = layer.vjp(a["x"], a["state"])
    first = pullback(a["dy"], a["dstate"])
    before = [array.copy() for array in flat(first)]
    second = pullback(a["dy"], a["dstate"])
    assert_same(first, before)
    assert_same(second, before)
    assert not any(np.shares_memory(one, other) for one, other in zip(flat(first), flat(second), strict=True))
    assert not any(grad.any() for grad in layer.grads.values())


def test_calls_keep_what_is_their_own(backend: str, layer: Recurrent) -> None:
    """Two forward passes and then two backward ones gave wrong gradients without a word."""
    a = arguments(layer)
    _, _, one = layer.vjp(a["x"])
    _, _, other = layer.vjp(2 * a["x"], a["state"])
    got = one(a["dy"])
    assert_same(other(a["dy"]), layer.vjp(2 * a["x"], a["state"])[2](a["dy"]))
    assert_same(got, layer.vjp(a["x"])[2](a["dy"]))


def test_pullbacks_of_several_threads(backend: str) -> None:
    layer = LSTM(D, 40, 2, seed=0)
    x, dy = normal(0, 50, N, D, dtype="f4"), normal(1, 50, N, 40, dtype="f4")
    _, _, pullback = layer.vjp(x)
    want = pullback(dy)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: pullback(dy), range(12)):
            assert_same(got, want)


def test_backward_uses_up_what_forward_kept(backend: str, layer: Recurrent) -> None:
    a = arguments(layer)
    layer.forward(a["x"])
    with pytest.raises(ValueError, match="dy: expected shape"):
        layer.backward(a["dy"][:1])
    layer.backward(a["dy"])
    with pytest.raises(RuntimeError, match="call forward first"):
        layer.backward(a["dy"])


def test_truncation_of_one_call_is_of_that_call(backend: str, layer: Recurrent) -> None:
    a = arguments(layer)
    _, _, pullback = layer.vjp(a["x"], a["state"])
    whole, cut = pullback(a["dy"]), pullback(a["dy"], truncate=2)
    assert_same(pullback(a["dy"]), whole)
    assert (cut[0] != whole[0]).any()
    with fastrnn.use_backend("numpy"):
        assert_close(cut, layer.vjp(a["x"], a["state"])[2](a["dy"], truncate=2))


# Where gradients go, and which.


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_gradients_go_into_given_arrays(backend: str, layer: Recurrent, order: str, add: bool) -> None:
    a = arguments(layer)
    _, _, pullback = layer.vjp(a["x"], a["state"])
    want = pullback(a["dy"], a["dstate"])

    def room(value: np.ndarray) -> np.ndarray:
        base = np.full([2 * n for n in value.shape], 3.0)[tuple(slice(None, None, 2) for _ in value.shape)]
        return base if order == "strided" else np.full_like(value, 3.0, order=order)  # type: ignore[call-overload]

    into = {name: room(value) for name, value in layer.params.items()}
    dx, dstate, grads = pullback(a["dy"], a["dstate"], into=into, add=add)
    assert_same([dx, dstate], want[:2])
    for name, array in into.items():
        assert grads[name] is array
        np.testing.assert_allclose(array, want[2][name] + (3 if add else 0), rtol=1e-12)
        # One addition of the finished sum.
        np.testing.assert_array_equal(array, want[2][name] + (3.0 if add else 0.0))


def test_some_gradients_go_into_given_arrays(backend: str, layer: Recurrent) -> None:
    a = arguments(layer)
    _, _, pullback = layer.vjp(a["x"])
    want = pullback(a["dy"])[2]
    name = list(layer.params)[1]
    into = {name: np.empty_like(layer.params[name])}
    grads = pullback(a["dy"], into=into)[2]
    assert grads[name] is into[name]
    assert_same(grads, want)


@pytest.mark.parametrize("need", [("x",), ("state",), ("params",), ("x", "params"), ["state", "x"], frozenset(), ()])
def test_what_is_not_needed_is_not_given(backend: str, layer: Recurrent, need: Any) -> None:
    a = arguments(layer)
    dx, dstate, grads = layer.vjp(a["x"], a["state"])[2](a["dy"], a["dstate"])
    got = layer.vjp(a["x"], a["state"], need=need)[2](a["dy"], a["dstate"])
    want = (dx if "x" in need else None, dstate if "state" in need else None, grads if "params" in need else {})
    assert (got[0] is None) == ("x" not in need) and (got[1] is None) == ("state" not in need)
    for one, other in zip(got, want, strict=True):
        if other is not None:
            assert_close(one, other, rtol=1e-12)
    assert got[2].keys() == want[2].keys()


# Parameters of any strides.


@pytest.mark.parametrize("cell", [lstm, gru(True), gru(False), user_cells.peephole_lstm], ids=lambda c: c.name)
@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_prepared_on_parameters_of_any_strides(backend: str, cell: fastrnn.Cell, order: str) -> None:
    layer = Recurrent(cell, D, H, 2, bidirectional=True, dtype="float64", seed=0)

    def laid(value: np.ndarray) -> np.ndarray:
        if order != "strided":
            return value.copy(order=order)  # type: ignore[arg-type]
        base = np.zeros([3 * n for n in value.shape])
        view = base[tuple(slice(1, None, 3) for _ in value.shape)]
        view[...] = value
        return view

    params = {name: laid(value) for name, value in layer.params.items()}
    run = fastrnn.prepare(cell, params, 2, bidirectional=True)
    assert isinstance(run, Prepared) and all(run.params[name] is params[name] for name in params)
    a = arguments(layer)
    y, state, pullback = run.vjp(a["x"], a["state"])
    want_y, want_state, theirs = layer.vjp(a["x"], a["state"])
    assert_close([y, state, *pullback(a["dy"])], [want_y, want_state, *theirs(a["dy"])])
    # The arrays themselves: what is assigned to their elements counts.
    params["Wx_l0"][...] *= 2
    layer.params["Wx_l0"][...] *= 2
    assert_close(run(a["x"]), layer(a["x"]))


def test_biases_may_be_missing(backend: str) -> None:
    layer = LSTM(D, H, bias=False, dtype="float64", seed=0)
    run = fastrnn.prepare(lstm, {**layer.params, "bx_l0": None})
    x = normal(0, T, N, D)
    assert_same(run(x), layer(x))
    assert run.vjp(x)[2](normal(1, T, N, H))[2].keys() == {"Wx_l0", "Wh_l0"}


def test_a_unit_parameter_that_begins_like_a_bias_is_asked_for() -> None:
    @fastrnn.cell(gates="a", units="bhat")
    def cell(x: Any, U: Any, p: Any, h: Any) -> Any:
        return x.a + U.a @ h + p.bhat * h

    layer = Recurrent(cell, D, H, seed=0)
    with pytest.raises(ValueError, match="missing bhat_l0"):
        fastrnn.prepare(cell, {name: value for name, value in layer.params.items() if name != "bhat_l0"})


def test_outputs_go_into_a_given_array(backend: str, layer: Recurrent) -> None:
    a = arguments(layer)
    want, state = layer(a["x"], a["state"])
    out = np.full((*want.shape[:2], 2 * want.shape[2]), np.nan)[..., ::2]
    y, got = layer._prepared(a["x"], a["state"], out=out)
    assert y is out
    assert_same([y, got], [want, state])


# Flags through layers and directions.


def test_flags_reach_every_layer_and_direction(backend: str, layer: Recurrent) -> None:
    """Against the layers one by one, each direction a call of its own."""
    a = arguments(layer)
    rng = np.random.default_rng(5)
    mask, resets = rng.random((T, N)) < 0.7, rng.random((T, N)) < 0.3
    many = len(layer.cell.states) > 1
    state, reset = (s if many else (s,) for s in (a["state"], a["reset"]))
    x, outer = (a["x"].swapaxes(0, 1), (mask.T, resets.T)) if layer.batch_first else (a["x"], (mask, resets))
    last, index = [], 0
    suffixes = [f"_l{i}{end}" for i in range(layer.num_layers) for end in ("", "_reverse")[: layer.directions]]
    for _ in range(layer.num_layers):
        outputs = []
        for d in range(layer.directions):
            names = layer.cell.param_shapes(1, 1)
            params = {name: layer.params[name + suffixes[index]] for name in names}
            hs, ends, _ = cell_forward(
                layer.cell,
                x,
                tuple(s[index] for s in state),
                params,
                reverse=layer.reverse or d == 1,
                mask=mask,
                resets=resets,
                reset_state=tuple(s[index] for s in reset),
            )
            outputs.append(hs)
            last.append(ends)
            index += 1
        x = np.concatenate(outputs, axis=2)
    y, got = layer(a["x"], a["state"], mask=outer[0], resets=outer[1], reset_state=a["reset"])
    assert_close(y.swapaxes(0, 1) if layer.batch_first else y, x)
    assert_close(got, tuple(map(np.stack, zip(*last, strict=True))) if many else np.stack([e[0] for e in last]))


def test_gradients_with_flags(backend: str, layer: Recurrent) -> None:
    a = arguments(layer)
    rng = np.random.default_rng(6)
    mask, resets = rng.random(a["x"].shape[:2]) < 0.7, rng.random(a["x"].shape[:2]) < 0.3
    flags = {"mask": mask, "resets": resets, "reset_state": a["reset"]}

    def loss() -> float:
        y, last = layer(a["x"], a["state"], **flags)
        ends = zip(flat(last), flat(a["dstate"]), strict=True)
        return float((y * a["dy"]).sum() + sum((one * other).sum() for one, other in ends))

    _, _, pullback = layer.vjp(a["x"], a["state"], **flags)
    dx, dstate, grads = pullback(a["dy"], a["dstate"])
    assert_gradient(dx, loss, a["x"])
    for got, wanted in zip(flat(dstate), flat(a["state"]), strict=True):
        assert_gradient(got, loss, wanted)
    for got, wanted in zip(flat(grads.pop("reset_state")), flat(a["reset"]), strict=True):
        assert_gradient(got, loss, wanted)
    for name in ("Wx_l0", "Wh_l0"):
        assert_gradient(grads[name], loss, layer.params[name])
    layer.forward(a["x"], a["state"], **flags)
    theirs = layer.backward(a["dy"], a["dstate"])
    assert_same(theirs, (*pullback(a["dy"], a["dstate"])[:2], pullback(a["dy"], a["dstate"])[2]["reset_state"]))


def test_a_row_of_a_reset_state_for_each_layer(backend: str) -> None:
    layer = LSTM(D, H, 2, dtype="float64", seed=0)
    a = arguments(layer)
    rows = tuple(part[:, 0].copy() for part in a["reset"])
    spread = tuple(np.repeat(row[:, None], N, axis=1) for row in rows)
    resets = np.random.default_rng(0).random((T, N)) < 0.4
    one, all_ = (layer.vjp(a["x"], resets=resets, reset_state=r) for r in (rows, spread))
    assert_same(one[:2], all_[:2])
    dreset, spread_out = (v[2](a["dy"])[2]["reset_state"] for v in (one, all_))
    assert_close(dreset, tuple(part.sum(axis=1) for part in spread_out))


# Directions.


@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_a_reversed_layer_is_the_layer_on_flipped_sequences(backend: str, kind: Any) -> None:
    reverse, forward = kind(D, H, 2, reverse=True, seed=0, dtype="float64"), kind(D, H, 2, seed=0, dtype="float64")
    x, dy = normal(0, T, N, D), normal(1, T, N, H)
    y, last = reverse.forward(x)
    want, want_last = forward.forward(x[::-1])
    assert_close([y, last], [want[::-1], want_last])
    dx, dstate = reverse.backward(dy)
    want_dx, want_dstate = forward.backward(dy[::-1])
    assert_close([dx, dstate, dict(reverse.grads)], [want_dx[::-1], want_dstate, dict(forward.grads)])


def test_no_step_of_a_reversed_layer(backend: str) -> None:
    with pytest.raises(ValueError, match="step: expected layers that run forward in time, got reversed"):
        RNN(D, H, reverse=True, seed=0).step(np.zeros((N, D), "f4"))


# Dropout.


def test_the_same_is_dropped_on_every_backend() -> None:
    x, dy = normal(0, T, N, D), normal(1, T, N, 2 * H)
    found = []
    for name in fastrnn.available_backends():
        layer = LSTM(D, H, 3, bidirectional=True, dropout=0.4, dtype="float64", seed=3)
        with fastrnn.use_backend(name):
            # The second call draws anew.
            results = [layer.vjp(x, training=True) for _ in range(2)]
            found.append([[*one[:2], *one[2](dy)] for one in results])
    for other in found[1:]:
        assert_close(other, found[0], rtol=1e-9)
    assert (found[0][0][0] != found[0][1][0]).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_do_not_depend_on_threads(backend: str, dtype: str) -> None:
    x = normal(0, 30, 8, D, dtype=dtype)
    found = []
    for threads in (1, 2):
        layer = GRU(D, H, 2, dropout=0.5, dtype=dtype, seed=0)
        with fastrnn.use_num_threads(threads):
            found.append(layer.vjp(x, training=True)[0])
    assert_same(found[0], found[1])


def test_dropout_keeps_its_share_and_scales() -> None:
    ones = np.ones((100, 50, 40))
    for rate in (0.1, 0.5, 0.9):
        kept = Draw(7, 0, rate).applied(1, ones)
        assert set(np.unique(kept)) == {0, 1 / (1 - rate)}
        # Five standard deviations.
        assert abs((kept == 0).mean() - rate) < 5 * (rate * (1 - rate) / ones.size) ** 0.5
    keys = ((7, 0, 1), (8, 0, 1), (7, 1, 1), (7, 0, 2))
    draws = [Draw(seed, number, 0.5).applied(layer, ones) for seed, number, layer in keys]
    for other in draws[1:]:
        assert abs((draws[0] == other).mean() - 0.5) < 0.01


def test_what_is_dropped_is_zero_whatever_it_was() -> None:
    x = np.full((10, 10, 10), np.inf)
    dropped = Draw(0, 0, 0.5).applied(1, x)
    assert set(np.unique(dropped)) == {0, np.inf}


def test_gradients_through_dropout(backend: str) -> None:
    x, dy = normal(0, 4, 2, D), normal(1, 4, 2, H)
    layer = LSTM(D, H, 2, dropout=0.5, dtype="float64", seed=0)

    def loss() -> float:
        # The same draw: that of a new layer's first call.
        return float((LSTM(D, H, 2, dropout=0.5, dtype="float64", seed=0).vjp(x, training=True)[0] * dy).sum())

    y, _, pullback = layer.vjp(x, training=True)
    assert (y != layer(x)[0]).any(), "something is dropped"
    assert_gradient(pullback(dy)[0], loss, x)


def test_a_call_drops_nothing_unless_it_is_for_training(backend: str) -> None:
    layer = LSTM(D, H, 2, dropout=0.5, dtype="float64", seed=0)
    x = normal(0, T, N, D)
    plain = LSTM(D, H, 2, dtype="float64", seed=0)
    assert_same(layer(x), plain(x))
    assert_same(layer.vjp(x)[:2], plain(x))
    assert (layer.forward(x)[0] != plain(x)[0]).any()


# What is refused.

LAYER = LSTM(D, H, 2, dtype="float64", seed=0)
X = np.zeros((T, N, D))


def prepared(changes: dict[str, Any], **options: Any) -> Any:
    params = {name: value for name, value in {**LAYER.params, **changes}.items() if value is not ...}
    return fastrnn.prepare(options.pop("cell", lstm), options.pop("params", params), **{"num_layers": 2, **options})


REFUSED: list[tuple[Any, type[Exception], str]] = [
    (lambda: prepared({}, cell="lstm"), TypeError, "cell: expected a Cell"),
    (lambda: prepared({}, params=[]), TypeError, "params: expected a mapping"),
    (lambda: prepared({}, params={}), TypeError, r"params\['Wx_l0'\]: expected a NumPy array, got NoneType"),
    (lambda: prepared({"Wh_l1": ...}), ValueError, "params: .*missing Wh_l1"),
    (lambda: prepared({"Wh_l2": X}), ValueError, "params: .*unknown Wh_l2"),
    (lambda: prepared({"Wh_l0": np.zeros((H, H))}), ValueError, r"params\['Wh_l0'\]: expected shape \(5, 20\)"),
    (lambda: prepared({"Wx_l1": np.zeros((H, 20), "f4")}), TypeError, r"params\['Wx_l1'\]: expected dtype float64"),
    (lambda: prepared({"Wx_l0": np.zeros((D, 18))}), ValueError, "Wx_l0.*: expected a positive multiple of 4"),
    (lambda: prepared({"Wx_l0": np.zeros((D, 0))}), ValueError, "Wx_l0.*: expected a positive multiple of 4"),
    (lambda: prepared({}, num_layers=0), ValueError, "num_layers"),
    (lambda: prepared({}, dropout=1.0), ValueError, "dropout"),
    (lambda: prepared({}, batch_first=1), TypeError, "batch_first"),
    (lambda: prepared({}, bidirectional=True, reverse=True), ValueError, "reverse: expected False"),
    (lambda: LSTM(D, H, bidirectional=True, reverse=True), ValueError, "reverse: expected False"),
    (lambda: LAYER.vjp(X, need="x"), TypeError, "need: expected a set of x, state, params, got 'x'"),
    (lambda: LAYER.vjp(X, need=("y",)), ValueError, "need: expected some of x, state, params, got 'y'"),
    (lambda: LAYER.vjp(X, training=1), TypeError, "training: expected True or False"),
    (lambda: LAYER.vjp(X[:0]), ValueError, "x: expected at least one step"),
    (lambda: LAYER(X, mask=np.ones((N, T), bool)), ValueError, "mask: expected shape"),
    (lambda: LAYER(X, reset_state=(X, X)), ValueError, "reset_state: expected resets"),
    (lambda: LAYER(X, resets=np.zeros((T, N), bool), reset_state=X), TypeError, "reset_state: expected a tuple of 2"),
    (lambda: LAYER._prepared(X, out=X), ValueError, "out: expected shape"),
    (lambda: LAYER.vjp(X)[2](X), ValueError, "dy: expected shape"),
    (lambda: LAYER.vjp(X)[2](None, X), TypeError, "dstate: expected a tuple"),
    (lambda: LAYER.vjp(X)[2](truncate=0), ValueError, "truncate"),
    (lambda: LAYER.vjp(X)[2](into=[]), TypeError, "into: expected a mapping"),
    (lambda: LAYER.vjp(X)[2](into={"Wx": X}), ValueError, "into: .*unknown Wx"),
    (lambda: LAYER.vjp(X)[2](into={"bx_l0": np.zeros(3)}), ValueError, r"into\['bx_l0'\]: expected shape"),
    (lambda: LAYER.vjp(X)[2](into={"bx_l0": np.zeros(20, "f4")}), TypeError, r"into\['bx_l0'\]: expected dtype"),
    (lambda: LAYER.vjp(X)[2](into={"bx_l0": np.broadcast_to(0.0, 20)}), ValueError, "can be written to"),
    (lambda: LAYER.vjp(X)[2](add=1), TypeError, "add: expected True or False"),
    (lambda: LAYER.vjp(X, need=("x",))[2](into={"bx_l0": np.zeros(20)}), ValueError, "params are not needed"),
]


@pytest.mark.parametrize("call, error, message", REFUSED)
def test_wrong_use_raises_before_anything_runs(backend: str, call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.usefixtures("reference_backend")
def test_gradients_of_functions_and_layers_agree() -> None:
    layer = GRU(D, H, dtype="float64", seed=0)
    x, dy = normal(0, T, N, D), normal(1, T, N, H)
    params = {name[:2]: value for name, value in layer.params.items()}
    _, _, cache = cell_forward(layer.cell, x, None, params)
    dx, _, grads = cell_backward(dy, cache)
    got = layer.vjp(x)[2](dy)
    np.testing.assert_array_equal(got[0], dx)
    for name, value in grads.items():
        np.testing.assert_array_equal(got[2][f"{name}_l0"], value)
