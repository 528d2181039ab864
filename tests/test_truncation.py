"""Truncated BPTT with k1 and k2: against the scalar oracle, and against a call of its own for every block."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastrnn
import user_cells
from cases import CELLS, run
from fastrnn import GRU, LSTM, RNN, Embedding, Linear, Model, Recurrent, losses, tbptt
from naive import Call
from problems import ORACLE_RTOL, assert_close, oracle, problem, reset_state
from test_flags import MASKED, RESET_THERE

T, N, D, H = 11, 3, 2, 4
KINDS: dict[str, Any] = {
    "one": lambda **o: LSTM(D, H, **o),
    "three": lambda **o: GRU(D, H, 3, **o),
    "batch first": lambda **o: GRU(D, H, 2, batch_first=True, **o),
    "user's": lambda **o: Recurrent(user_cells.peephole_lstm, D, H, 2, **o),
}
PAIRS = [(1, 1), (1, 4), (3, 3), (3, 5), (4, 8), (5, 6), (2, 10), (4, 11), (20, 30)]


@pytest.fixture(params=KINDS)
def layer(request: pytest.FixtureRequest) -> Recurrent:
    made: Recurrent = KINDS[request.param](dtype="float64", seed=0)
    return made


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def states(layer: Recurrent, seed: int) -> Any:
    made = tuple(normal(seed + k, layer.num_layers, N, H) for k in range(len(layer.cell.states)))
    return made if len(made) > 1 else made[0]


def assert_equal(got: Any, want: Any) -> None:
    """Gradients dx, dstate, grads, to rounding."""
    if isinstance(want, dict):
        assert got.keys() == want.keys()
        got, want = ([given[name] for name in sorted(given)] for given in (got, want))
    if isinstance(want, tuple | list):
        for one, other in zip(got, want, strict=True):
            assert_equal(one, other)
    else:
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


def by_blocks(layer: Recurrent, x: np.ndarray, state: Any, dy: np.ndarray, dlast: Any, k1: int, k2: int) -> Any:
    """A call of its own for each block, over its k2 steps, from a state that is a constant."""
    major = (lambda a: a.swapaxes(0, 1)) if layer.batch_first else (lambda a: a)
    dx, grads, dfirst = np.zeros_like(x), {n: np.zeros_like(v) for n, v in layer.params.items()}, None
    for begin in range(0, T, k1):
        end = min(begin + k1, T)
        first = 0 if end <= k2 else begin + k1 - k2
        before = layer(major(major(x)[:first]), state)[1] if first else state
        own = np.zeros((end - first, N, dy.shape[2]))
        own[begin - first :] = major(dy)[begin:end]
        _, _, pullback = layer.vjp(major(major(x)[first:end]), before)
        d, dstate, more = pullback(major(own), dlast if end == T else None)
        major(dx)[first:end] += major(d)
        if first == 0:
            parts = dstate if isinstance(dstate, tuple) else (dstate,)
            dfirst = parts if dfirst is None else tuple(a + b for a, b in zip(dfirst, parts, strict=True))
        for name, grad in more.items():
            grads[name] += grad
    assert dfirst is not None
    return dx, dfirst if len(dfirst) > 1 else dfirst[0], grads


# Of one call.


@pytest.mark.parametrize("truncate", [(1, 2), (2, 3), (2, 4), (3, 4), (1, 5)], ids=str)
@pytest.mark.parametrize("lengths", [None, (3, 5, 0, 1)], ids=["full", "ragged"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru_before", "peephole_lstm", "indrnn"])
def test_k1_and_k2_as_the_oracle(backend: str, cell: str, lengths: Any, reverse: bool, truncate: Any) -> None:
    p = problem(cell, H=3)
    call = Call(lengths, reverse, truncate)
    assert_close(run(p, call), oracle(p, call), ORACLE_RTOL["float64"])


@pytest.mark.parametrize("truncate", [(1, 2), (2, 3), (1, 4)], ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_k1_and_k2_over_masks_and_resets(backend: str, reverse: bool, truncate: Any) -> None:
    p = problem("gru_after", H=3)
    call = Call(None, reverse, truncate, MASKED, RESET_THERE)
    got = run(p, call, reset_state=reset_state(p))
    assert_close(got, oracle(p, call, True), ORACLE_RTOL["float64"])


@pytest.mark.parametrize("k1, k2", PAIRS)
def test_k1_and_k2_are_a_call_for_every_block(backend: str, layer: Recurrent, k1: int, k2: int) -> None:
    x, dy = (normal(s, *((N, T) if layer.batch_first else (T, N)), n) for s, n in ((0, D), (1, H)))
    state, dlast = states(layer, 10), states(layer, 20)
    got = layer.vjp(x, state)[2](dy, dlast, truncate=(k1, k2))
    assert_equal(got, by_blocks(layer, x, state, dy, dlast, k1, k2))


@pytest.mark.parametrize("k", [1, 2, 3, 5, T, 2 * T])
def test_equal_k1_and_k2_are_one_number(backend: str, layer: Recurrent, k: int) -> None:
    x, dy = (normal(s, *((N, T) if layer.batch_first else (T, N)), n) for s, n in ((0, D), (1, H)))
    pullback = layer.vjp(x)[2]
    for one, other in zip(flat(pullback(dy, truncate=(k, k))), flat(pullback(dy, truncate=k)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("k1, k2", [(1, T), (4, T), (4, T + 1), (5, 10**30), (T, T), (2 * T, 3 * T)])
def test_k2_of_all_steps_cuts_nothing(backend: str, layer: Recurrent, k1: int, k2: int) -> None:
    x, dy = (normal(s, *((N, T) if layer.batch_first else (T, N)), n) for s, n in ((0, D), (1, H)))
    pullback = layer.vjp(x)[2]
    for one, other in zip(flat(pullback(dy, truncate=(k1, k2))), flat(pullback(dy)), strict=True):
        np.testing.assert_array_equal(one, other)


def flat(value: Any) -> list[np.ndarray]:
    if isinstance(value, dict):
        value = [value[name] for name in sorted(value)]
    return [a for part in value for a in flat(part)] if isinstance(value, tuple | list) else [value]


def test_a_padded_sequence_is_cut_as_if_it_were_alone(backend: str) -> None:
    """Of 6 steps, k2=7 cuts nothing, however long the batch's other sequences are."""
    layer = LSTM(D, H, dtype="float64", seed=0)
    x, dy = normal(0, 9, 2, D), normal(1, 9, 2, H)
    dx = layer.vjp(x, lengths=[9, 6])[2](dy, truncate=(4, 7))[0]
    alone = layer.vjp(x[:6, 1:])[2](dy[:6, 1:])[0]
    np.testing.assert_allclose(dx[:6, 1:], alone, rtol=1e-12)


@pytest.mark.parametrize("truncate", [(2, 4), [1, 3]])
def test_layers_add_what_functions_give(truncate: Any) -> None:
    layer = LSTM(D, H, 2, dtype="float64", seed=0)
    x, dy = normal(0, T, N, D), normal(1, T, N, H)
    want = layer.vjp(x)[2](dy, truncate=tuple(truncate))
    for grad in layer.grads.values():
        grad += 1
    layer.forward(x)
    dx, dstate = layer.backward(dy, truncate=truncate)
    assert_equal((dx, dstate, {n: g - 1 for n, g in layer.grads.items()}), want)


# Of models and streams.


def model(**options: Any) -> Model:
    layers = [Linear(D, 3, dtype="float64", seed=1), LSTM(3, H, dtype="float64", seed=2, **options)]
    layers += [Linear(H, 3, dtype="float64", seed=3), GRU(3, H, 2, dtype="float64", seed=4, **options)]
    return Model([*layers, Linear(H, 2, dtype="float64", seed=5)])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("k1, k2", [(3, 5), (2, 6), (4, 4), (2, T)])
def test_all_layers_of_a_model_are_cut_alike(k1: int, k2: int, batch_first: bool) -> None:
    whole, blocks = model(batch_first=batch_first), model(batch_first=batch_first)
    major = (lambda a: a.swapaxes(0, 1)) if batch_first else (lambda a: a)
    x, dy = normal(0, T, N, D), normal(1, T, N, 2)
    dlast = [tuple(normal(s, 1, N, H) for s in (2, 3)), normal(4, 2, N, H)]
    whole.forward(major(x))
    got = whole.backward(major(dy), dlast, truncate=(k1, k2))
    dx = np.zeros_like(x)
    for begin in range(0, T, k1):
        end = min(begin + k1, T)
        first = 0 if end <= k2 else begin + k1 - k2
        before = blocks(major(x[:first]))[1] if first else None
        own = np.zeros((end - first, N, 2))
        own[begin - first :] = dy[begin:end]
        blocks.forward(major(x[first:end]), before)
        dx[first:end] += major(blocks.backward(major(own), dlast if end == T else None))
    assert_equal(major(got), dx)
    assert_equal(dict(whole.grads), dict(blocks.grads))


def of_stream(x: np.ndarray, target: np.ndarray, k1: int, axis: int = 0) -> Any:
    cut = (lambda a, t: a[:, t : t + k1]) if axis else (lambda a, t: a[t : t + k1])
    return ((cut(x, t), cut(target, t)) for t in range(0, x.shape[axis], k1))


def summed(y: np.ndarray, target: np.ndarray) -> Any:
    return losses.mse(y, target, reduction="sum")


@pytest.mark.parametrize("k1, k2", PAIRS)
def test_a_stream_adds_up_to_one_call(layer: Recurrent, k1: int, k2: int) -> None:
    outer = (N, T) if layer.batch_first else (T, N)
    x, target, state = normal(0, *outer, D), normal(1, *outer, H), states(layer, 2)
    y, last, pullback = layer.vjp(x, state)
    loss, dy = summed(y, target)
    want = pullback(dy, truncate=(k1, k2))[2]
    axis = int(layer.batch_first)
    made = list(tbptt(layer, of_stream(x, target, k1, axis), summed, k1=k1, k2=k2, state=state))
    assert_equal(dict(layer.grads), want)
    assert_equal(np.concatenate([block.y for block in made], axis), y)
    assert_equal(made[-1].state, last)
    assert sum(block.loss for block in made) == pytest.approx(loss)
    assert [block.steps for block in made] == [*range(k1, T, k1), T]


@pytest.mark.parametrize("k1, k2", [(3, 3), (3, 7), (2, 5)])
def test_a_stream_through_a_model_with_resets(k1: int, k2: int) -> None:
    layers = lambda: [Embedding(5, D, dtype="float64", seed=1), RNN(D, H, 2, dtype="float64", seed=2)]  # noqa: E731
    whole, parts = Model(layers()), Model(layers())
    ids = np.random.default_rng(0).integers(0, 5, (T, N))
    resets, target = np.random.default_rng(1).random((T, N)) < 0.2, normal(2, T, N, H)
    y, _ = whole.forward(ids, resets=resets)
    whole.backward(summed(y, target)[1], truncate=(k1, k2))
    blocks = ((ids[t : t + k1], target[t : t + k1], resets[t : t + k1]) for t in range(0, T, k1))
    for _ in tbptt(parts, blocks, summed, k1=k1, k2=k2):
        pass
    assert_equal(dict(parts.grads), dict(whole.grads))


def test_a_stream_learns_between_blocks_and_reads_one_at_a_time() -> None:
    layer, read = LSTM(D, H, seed=0), []
    data = np.random.default_rng(0).standard_normal((40, N, D)).astype("f4")
    buffer = np.empty((4, N, D), "f4")

    def blocks() -> Any:
        for t in range(0, 40, 4):
            read.append(t)
            # One array for all blocks: what outlives a block is copied.
            buffer[...] = data[t : t + 4]
            yield buffer, np.repeat(buffer[..., :1], H, axis=2) * np.float32(0.1)

    optimizer = fastrnn.optim.Adam(layer.params, lr=0.02)
    seen = []
    for block in tbptt(layer, blocks(), losses.mse, k1=4, k2=10):
        seen.append(block.loss)
        assert read[-1] == block.steps - 4
        optimizer.step(layer.grads)
        layer.zero_grad()
    assert len(seen) == 10
    assert np.mean(seen[-3:]) < np.mean(seen[:3])


# Wrong use.

LAYER = LSTM(D, H, seed=0)
X = np.zeros((4, N, D), "f4")


def stream(**changes: Any) -> None:
    given: dict[str, Any] = {"model": LAYER, "blocks": [(X, X)], "loss": lambda y, t: (0, y), "k1": 4}
    given |= changes
    for _ in tbptt(given.pop("model"), given.pop("blocks"), given.pop("loss"), **given):
        pass


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: LAYER.vjp(X)[2](truncate=(3, 2)), ValueError, "truncate: expected .* k1=3 and k2=2"),
        (lambda: LAYER.vjp(X)[2](truncate=(0, 2)), ValueError, r"truncate\[0\]: expected at least 1, got 0"),
        (lambda: LAYER.vjp(X)[2](truncate=(1, 2.0)), TypeError, r"truncate\[1\]: expected an integer"),
        (lambda: LAYER.vjp(X)[2](truncate=(1, 2, 3)), ValueError, "truncate: expected .* got 3 entries"),
        (lambda: LSTM(D, H, bidirectional=True).vjp(X)[2](truncate=(1, 2)), ValueError, "truncate: .* bidirectional"),
        (lambda: model().backward(np.zeros((1, 1, 2)), truncate=(2, 1)), ValueError, "truncate: .* k1=2 and k2=1"),
        (lambda: stream(k2=3), ValueError, "k2: expected at least k1=4, got 3"),
        (lambda: stream(k1=0), ValueError, "k1: expected at least 1"),
        (lambda: stream(k1=3), ValueError, "blocks: expected k1=3 steps"),
        (lambda: stream(k1=5, blocks=[(X, X)] * 2), ValueError, "blocks: expected k1=5 .* after a shorter one"),
        (lambda: stream(blocks=[X]), TypeError, "blocks: expected"),
        (lambda: stream(blocks=3), TypeError, "blocks: expected an iterable"),
        (lambda: stream(blocks=[(X, X, np.zeros((3, N), bool))]), ValueError, "blocks: resets: expected shape"),
        (lambda: stream(loss=None), TypeError, "loss: expected a function"),
        (lambda: stream(loss=lambda y, t: (0, y[:1])), ValueError, "loss: the gradient: expected shape"),
        (lambda: stream(model=3), TypeError, "model: expected"),
        (lambda: stream(model=LSTM(D, H, reverse=True)), ValueError, "model: expected layers that run forward"),
    ],
)
def test_wrong_use(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_wrong_arguments_of_a_stream_raise_before_the_first_block() -> None:
    with pytest.raises(ValueError, match="k2"):
        tbptt(LAYER, iter([]), losses.mse, k1=2, k2=1)


@pytest.mark.parametrize("cell", ["lstm", "leaky"])
def test_cuts_leave_what_does_not_depend_on_them(backend: str, cell: str) -> None:
    """The gradient of a block's own steps in an input is that of its k2 steps alone: k2 = k1 + 1 is one step more."""
    layer = Recurrent(CELLS[cell], D, H, dtype="float64", seed=0)
    x, dy = normal(0, 6, 1, D), np.zeros((6, 1, H))
    dy[4] = 1
    reach = lambda k2: np.flatnonzero(layer.vjp(x)[2](dy, truncate=(2, k2))[0].any(axis=(1, 2)))  # noqa: E731
    assert [list(reach(k2)) for k2 in (2, 3, 4, 5)] == [[4], [3, 4], [2, 3, 4], [1, 2, 3, 4]]
