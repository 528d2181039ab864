"""What must hold for any shape, strides and lengths: properties of the engine."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cases import CELLS, run
from fastrnn import GRU, LSTM, RNN, functional
from fastrnn.functional import cell_forward
from naive import Call
from problems import ORACLE_RTOL, Problem, Result, assert_close, assert_equal, oracle, problem

# One cell of each kind of plan: one state, two states, two stages, unit parameters and no matrix.
FEW = ["rnn_tanh", "lstm", "gru_before", "indrnn"]
small = st.integers(1, 9)
sizes = st.tuples(small, small, small, small)
cells = st.sampled_from(FEW)
dtypes = st.sampled_from(list(ORACLE_RTOL))
some_truncate = st.none() | st.integers(1, 10)


def lengths_for(draw: Any, T: int, N: int) -> tuple[int, ...] | None:
    return draw(st.none() | st.tuples(*[st.integers(0, T)] * N))


def draw_call(draw: Any, T: int, N: int) -> Call:
    return Call(lengths_for(draw, T, N), draw(st.booleans()), draw(some_truncate))


@given(st.data())
def test_any_shape_against_oracle(backend: str, data: st.DataObject) -> None:
    # Scalars are slow: the full range of all four sizes is left to the tests below.
    T, N, D, H = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 3), small, st.integers(1, 6)))
    cell, dtype = data.draw(cells), data.draw(dtypes)
    call = draw_call(data.draw, T, N)
    got = run(problem(cell, T, N, D, H, dtype=dtype), call)
    assert_close(got, oracle(problem(cell, T, N, D, H), call), ORACLE_RTOL[dtype])


def alone(p: Problem, call: Call) -> Result:
    """Each sequence run by itself, without padding, put together again."""
    T, N, _ = p.x.shape
    hs, dx = np.zeros_like(p.dhs), np.zeros_like(p.x)
    states: dict[str, list[np.ndarray]] = {}
    grads = {f"d{name}": np.zeros_like(a) for name, a in p.params.items()}
    for n in range(N):
        own = T if call.lengths is None else call.lengths[n]
        one = slice(n, n + 1)
        state, dlast = tuple(s[one] for s in p.state), tuple(s[one] for s in p.dlast)
        if own == 0:
            r = {f"last.{k}": s for k, s in enumerate(state)} | {f"dstate.{k}": s for k, s in enumerate(dlast)}
        else:
            single = replace(p, x=p.x[:own, one], state=state, dhs=p.dhs[:own, one], dlast=dlast)
            r = run(single, replace(call, lengths=None))
            hs[:own, one], dx[:own, one] = r.pop("hs"), r.pop("dx")
        for name, a in r.items():
            if name in grads:
                grads[name] += a
            else:
                states.setdefault(name, []).append(a)
    return {
        "hs": hs,
        "dx": dx,
        **{name: np.concatenate(parts) for name, parts in states.items()},
        **grads,
    }


@given(st.data())
def test_any_call_is_a_batch_of_sequences(backend: str, data: st.DataObject) -> None:
    """A padded batch equals each of its sequences run alone."""
    T, N, D, H = data.draw(sizes)
    cell, dtype = data.draw(cells), data.draw(dtypes)
    call = draw_call(data.draw, T, N)
    p = problem(cell, T, N, D, H, dtype=dtype)
    assert_close(run(p, call), alone(p, call), ORACLE_RTOL[dtype])


@given(st.data())
def test_reverse_is_forward_on_flipped_sequences(backend: str, data: st.DataObject) -> None:
    T, N, D, H = data.draw(sizes)
    p = problem(data.draw(cells), T, N, D, H)
    call = replace(draw_call(data.draw, T, N), reverse=True)

    def flipped(a: np.ndarray) -> np.ndarray:
        ends = [T] * N if call.lengths is None else call.lengths
        result = a.copy()
        for n, end in enumerate(ends):
            result[:end, n] = a[:end, n][::-1]
        return result

    got = run(replace(p, x=flipped(p.x), dhs=flipped(p.dhs)), replace(call, reverse=False))
    got |= {name: flipped(got[name]) for name in ("hs", "dx")}
    assert_close(run(p, call), got, 1e-12)


def restrided(draw: Any, a: np.ndarray) -> np.ndarray:
    """The same numbers somewhere else in memory: other order of axes, negative steps, gaps."""
    order = draw(st.permutations(range(a.ndim)))
    steps = [draw(st.sampled_from([1, 2, -1, -3])) for _ in range(a.ndim)]
    room = np.full([a.shape[axis] * 3 for axis in order], np.nan, a.dtype)
    view = room.transpose(np.argsort(order))
    view = view[tuple(slice(None, None, step) for step in steps)][tuple(slice(n) for n in a.shape)]
    view[...] = a
    view.flags.writeable = False
    return view


@given(st.data())
def test_strides_do_not_matter(backend: str, data: st.DataObject) -> None:
    T, N, D, H = data.draw(sizes)
    dtype = data.draw(dtypes)
    p = problem(data.draw(cells), T, N, D, H, dtype=dtype)
    call = draw_call(data.draw, T, N)

    def move(a: np.ndarray) -> np.ndarray:
        return restrided(data.draw, a)

    moved = Problem(
        p.cell,
        move(p.x),
        tuple(map(move, p.state)),
        {name: move(a) for name, a in p.params.items()},
        move(p.dhs),
        tuple(map(move, p.dlast)),
    )
    assert_close(run(moved, call), run(p, call), ORACLE_RTOL[dtype])


@given(st.data())
def test_batch_first_is_time_major(backend: str, data: st.DataObject) -> None:
    T, N, D, H = data.draw(sizes)
    p = problem(data.draw(cells), T, N, D, H)
    call = draw_call(data.draw, T, N)
    contiguous = replace(p, x=p.x.swapaxes(0, 1).copy().swapaxes(0, 1))
    assert_close(run(contiguous, call, batch_first=True), run(p, call), 1e-12)


@given(st.data())
def test_truncation_longer_than_the_sequence_is_none(backend: str, data: st.DataObject) -> None:
    T, N, D, H = data.draw(sizes)
    p = problem(data.draw(cells), T, N, D, H)
    call = draw_call(data.draw, T, N)
    longer = replace(call, truncate=data.draw(st.integers(T, T + 9) | st.just(sys.maxsize)))
    assert_equal(run(p, longer), run(p, replace(call, truncate=None)))


@pytest.mark.filterwarnings("error")
@given(st.data())
def test_padding_may_hold_anything(backend: str, data: st.DataObject) -> None:
    """NaN or infinity past a sequence's end reaches nothing, in input or in output gradient."""
    T, N, D, H = data.draw(sizes)
    p = problem(data.draw(cells), T, N, D, H)
    call = replace(draw_call(data.draw, T, N), lengths=data.draw(st.tuples(*[st.integers(0, T)] * N)))
    padding = np.arange(T)[:, None] >= np.array(call.lengths)
    rubbish = data.draw(st.sampled_from([np.nan, np.inf, -np.inf, 1e308]))
    x, dhs = p.x.copy(), p.dhs.copy()
    x[padding] = dhs[padding] = rubbish
    got = run(replace(p, x=x, dhs=dhs), call)
    assert_equal(got, run(p, call))
    assert not got["hs"][padding].any()
    assert not got["dx"][padding].any()


@given(st.data())
def test_last_state_is_the_output_of_the_last_step(backend: str, data: st.DataObject) -> None:
    T, N, D, H = data.draw(sizes)
    p = problem(data.draw(cells), T, N, D, H)
    call = draw_call(data.draw, T, N)
    got = run(p, call)
    for n, own in enumerate([T] * N if call.lengths is None else call.lengths):
        expected = p.state[0][n] if own == 0 else got["hs"][0 if call.reverse else own - 1, n]
        np.testing.assert_array_equal(got["last.0"][n], expected)


@pytest.mark.parametrize("cell", FEW)
def test_nan_stays_in_its_sequence(backend: str, cell: str) -> None:
    p = problem(cell)
    x = p.x.copy()
    x[2, 1] = np.nan
    hs, _, _ = functional.cell_forward(CELLS[cell], x, p.state, p.params)
    clean, _, _ = functional.cell_forward(CELLS[cell], p.x, p.state, p.params)
    others = [0, 2, 3]
    np.testing.assert_array_equal(hs[:, others], clean[:, others])
    np.testing.assert_array_equal(hs[:2], clean[:2])
    assert np.isnan(hs[2:, 1]).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("cell", CELLS)
def test_large_inputs_saturate_without_warning(backend: str, cell: str) -> None:
    p = problem(cell, dtype="float32")
    big = run(replace(p, x=p.x * np.float32(1e4)))
    assert all(np.isfinite(a).all() for a in big.values())
    if cell not in ("rnn_relu", "rnn_identity", "indrnn"):
        # Every other cell moves to a point of [-1, 1] from where it was.
        assert np.abs(big["hs"]).max() <= max(1.0, np.abs(p.state[0]).max())


# Steps and features: of few features the input is projected at every step, of many for several steps at once.
@pytest.mark.parametrize("T, D", [(5, 3), (3, 8), (60, 8), (1, 8)])
@pytest.mark.parametrize("dtype", ORACLE_RTOL)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("cell", FEW)
def test_no_sequences(backend: str, cell: str, batch_first: bool, dtype: str, T: int, D: int) -> None:
    """N = 0, as in PyTorch: empty outputs, and weights' gradients of zero. (With D > 4 this once ended the process.)"""
    p = problem(cell, T=T, N=0, D=D, dtype=dtype)
    for call in (Call(), Call(lengths=(), reverse=True, truncate=2)):
        got = run(p, call, batch_first)
        expected = {"hs": p.dhs, "dx": p.x}
        expected |= {f"last.{k}": s for k, s in enumerate(p.state)}
        expected |= {f"dstate.{k}": s for k, s in enumerate(p.state)}
        expected |= {f"d{name}": np.zeros_like(a) for name, a in p.params.items()}
        assert_equal(got, expected)
        assert {a.dtype for a in got.values()} == {np.dtype(dtype)}
        assert {name: a.shape for name, a in got.items()} == {name: a.shape for name, a in expected.items()}


@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
@pytest.mark.parametrize("layers, bidirectional", [(1, False), (2, False), (2, True)])
def test_no_sequences_through_layers(backend: str, kind: type, layers: int, bidirectional: bool) -> None:
    layer = kind(8, 5, layers, bidirectional=bidirectional)
    x, H = np.zeros((3, 0, 8), "f4"), 5 * layer.directions
    assert layer(x)[0].shape == layer.forward(x)[0].shape == (3, 0, H)
    dx, _ = layer.backward(np.zeros((3, 0, H), "f4"))
    assert dx.shape == x.shape and not any(grad.any() for grad in layer.grads.values())
    if not bidirectional:
        assert layer.step(x[0])[0].shape == (0, 5)


# Sequences and units by which units that do not fill a vector share vectors between the gates, and not.
@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul")  # BLAS multiplies zeros of its own
@pytest.mark.parametrize("N, H", [(20, 70), (4, 9), (3, 70), (1, 9), (20, 64)])
@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru_after", "gru_before"])
def test_infinite_inputs_saturate(backend: str, cell: str, value: float, N: int, H: int) -> None:
    """As with numbers that are merely huge. (The GRU once made NaN of the last units.)"""
    p = problem(cell, T=9, N=N, D=12, H=H, dtype="float32")
    infinite, huge = p.x.copy(), p.x.copy()
    infinite[4, 0, 1], huge[4, 0, 1] = value, np.copysign(np.float32(1e30), value)
    outputs = [cell_forward(CELLS[cell], x, p.state, p.params)[0] for x in (infinite, huge)]
    np.testing.assert_array_equal(*outputs)
    assert np.isfinite(outputs[0]).all()


def test_gradients_over_very_long_sequences(backend: str) -> None:
    """Sums over a hundred thousand steps keep the precision of sums over a few. (C++ lost two digits of float32.)"""
    T = 100_000 if backend != "numpy" else 1_000
    p = problem("rnn_tanh", T=T, N=1, D=2, H=3)
    # Of one sign, so that the sums grow all the way.
    p = replace(p, x=np.abs(p.x), dhs=np.abs(p.dhs), params={**p.params, "Wh": 0 * p.params["Wh"]})
    exact, got = run(p), run(p.astype("float32"))
    for name in ("dWx", "dWh", "dbx"):
        assert np.abs(got[name] - exact[name]).max() <= 5e-6 * np.abs(exact[name]).max()


@pytest.mark.parametrize("batch_first", [False, True])
def test_no_steps(backend: str, batch_first: bool) -> None:
    """T = 0 is an error, as in PyTorch."""
    p = problem("lstm", T=0)
    with pytest.raises(ValueError, match=r"\bx\b.*length 0"):
        run(p, batch_first=batch_first)
