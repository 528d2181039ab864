"""The functional interface against the naive oracle: every cell, backend, dtype, kind of call."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import fastrnn
import naive
import user_cells
from cases import CALLS, CELLS, call_id, reference, run
from conftest import PROMISED_BACKENDS
from fastrnn import functional
from naive import Call
from problems import ORACLE_RTOL, Problem, assert_close, assert_equal, named, oracle, problem

each_cell = pytest.mark.parametrize("cell", CELLS)
each_dtype = pytest.mark.parametrize("dtype", ORACLE_RTOL)
each_call = pytest.mark.parametrize("call", CALLS, ids=call_id)
RAGGED = Call(lengths=(3, 5, 0, 1), reverse=True, truncate=2)


def dtypes(result: dict[str, np.ndarray]) -> set[str]:
    return {str(a.dtype) for a in result.values()}


@each_cell
def test_param_shapes(cell: str) -> None:
    assert CELLS[cell].param_shapes(3, 4) == naive.CELLS[cell].param_shapes(3, 4)


@each_call
@each_dtype
@each_cell
def test_against_oracle(backend: str, cell: str, dtype: str, call: Call) -> None:
    got = run(problem(cell, dtype=dtype), call)
    assert dtypes(got) == {dtype}
    assert_close(got, oracle(problem(cell), call), ORACLE_RTOL[dtype])


# One of everything, and the neighbours of vector widths and register tiles.
SIZES = [
    (3, 1, 1, 1),
    (7, 1, 3, 20),
    (2, 12, 5, 16),
    (3, 13, 2, 33),
    (2, 5, 17, 31),
    (2, 33, 4, 65),
]


@each_dtype
@pytest.mark.parametrize("sizes", SIZES, ids=lambda s: "x".join(map(str, s)))
@each_cell
def test_backends_agree(cell: str, sizes: tuple[int, int, int, int], dtype: str) -> None:
    T, N, _, _ = sizes
    p = problem(cell, *sizes, dtype=dtype)
    call = Call(tuple(n % (T + 1) for n in range(1, N + 1)), truncate=2)
    want = reference(p, call)
    for name in PROMISED_BACKENDS[:-1]:
        with fastrnn.use_backend(name):
            assert_close(run(p, call), want, ORACLE_RTOL[dtype])


@each_dtype
@each_cell
def test_step_equals_sequence_of_one(backend: str, cell: str, dtype: str) -> None:
    p = problem(cell, T=1, dtype=dtype)
    last, cache = functional.cell_step_forward(CELLS[cell], p.x[0], p.state, p.params)
    dx, dstate, dparams = functional.cell_step_backward(p.dlast, cache)
    whole = run(replace(p, dhs=np.zeros_like(p.dhs)))
    assert_close(named(last[0][None], last, dx[None], dstate, dparams), whole, ORACLE_RTOL[dtype])


@each_cell
def test_steps_one_by_one_equal_the_sequence(backend: str, cell: str) -> None:
    p = problem(cell)
    state: Any = p.state
    hs, caches = [], []
    for x_t in p.x:
        state, cache = functional.cell_step_forward(CELLS[cell], x_t, state, p.params)
        hs.append(state[0])
        caches.append(cache)
    dx, dparams, dstate = [], dict.fromkeys(p.params, 0.0), p.dlast
    for dh, cache in zip(reversed(p.dhs), reversed(caches), strict=True):
        dx_t, dstate, d = functional.cell_step_backward((dstate[0] + dh, *dstate[1:]), cache)
        dx.insert(0, dx_t)
        dparams = {name: total + d[name] for name, total in dparams.items()}
    assert_close(named(np.array(hs), state, np.array(dx), dstate, dparams), oracle(p), 1e-12)


@each_cell
def test_a_cache_serves_any_number_of_backward_calls(backend: str, cell: str) -> None:
    p = problem(cell)
    _, _, cache = functional.cell_forward(CELLS[cell], p.x, p.state, p.params, lengths=RAGGED.lengths)
    results = []
    for truncate in (None, 2, None):
        dx, dstate, dparams = functional.cell_backward(p.dhs, cache, p.dlast, truncate)
        results.append(named(p.dhs, p.dlast, dx, dstate, dparams))
    assert_equal(results[2], results[0])
    # The results are the caller's own: writing into them must not reach the cache.
    for a in results[0].values():
        if a.flags.writeable:
            a[...] = np.nan
    dx, dstate, dparams = functional.cell_backward(p.dhs, cache, p.dlast)
    assert_equal(named(p.dhs, p.dlast, dx, dstate, dparams), results[2])


@each_cell
def test_none_stands_for_zeros(backend: str, cell: str) -> None:
    p = problem(cell)
    zero = replace(
        p,
        state=tuple(map(np.zeros_like, p.state)),
        params={k: np.zeros_like(v) if k in ("bx", "bh") else v for k, v in p.params.items()},
        dhs=np.zeros_like(p.dhs),
        dlast=(np.zeros_like(p.dlast[0]), *p.dlast[1:]),
    )
    expected = {name: a for name, a in run(zero).items() if name not in ("dbx", "dbh")}
    params = {k: v for k, v in p.params.items() if k not in ("bx", "bh")}
    hs, last, cache = functional.cell_forward(CELLS[cell], p.x, None, params | {"bx": None})
    dlast = (None, *p.dlast[1:])
    dx, dstate, dparams = functional.cell_backward(None, cache, dlast)
    assert_equal(named(hs, last, dx, dstate, dparams), expected)
    assert_equal(
        named(hs, last, *functional.cell_backward(None, cache, None)),
        {k: a if k == "hs" or k.startswith("last") else 0 * a for k, a in expected.items()},
    )


@each_cell
def test_keep_false_gives_the_same_and_no_cache(backend: str, cell: str) -> None:
    p = problem(cell)
    kept = functional.cell_forward(CELLS[cell], p.x, p.state, p.params, lengths=[2, 0, 5, 3])
    bare = functional.cell_forward(CELLS[cell], p.x, p.state, p.params, lengths=[2, 0, 5, 3], keep=False)
    assert bare[2] is None
    assert not kept[0].flags.writeable
    assert_equal(dict(enumerate([bare[0], *bare[1]])), dict(enumerate([kept[0], *kept[1]])))


def test_last_states_are_not_views_of_the_cache(backend: str) -> None:
    p = problem("lstm")
    hs, last, cache = functional.cell_forward(CELLS["lstm"], p.x, p.state, p.params)
    before = functional.cell_backward(p.dhs, cache, p.dlast)[0]
    for s in last:
        s[...] = np.nan
    assert np.isfinite(hs).all()
    np.testing.assert_array_equal(functional.cell_backward(p.dhs, cache, p.dlast)[0], before)


@each_cell
def test_threads_do_not_disturb_each_other(backend: str, cell: str) -> None:
    problems = [problem(cell, T, N) for T in (3, 7) for N in (1, 2, 5)]
    alone = [run(p) for p in problems]
    with ThreadPoolExecutor(4) as pool:
        for got, expected in zip(pool.map(run, problems * 4), alone * 4, strict=True):
            assert_equal(got, expected)


def test_constants_of_a_cell_matter(backend: str) -> None:
    p = problem("leaky")
    hs, _, _ = functional.cell_forward(user_cells.leaky, p.x, p.state, p.params)
    slow = naive.run(naive.leaky(10.0, 1.0), *(naive.nested(a) for a in (p.x, p.state)), p.params, Call())
    assert_close({"hs": hs}, {"hs": np.array(slow[0])}, 1e-12)


# The functions that are named after a cell.

PUBLIC: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"rnn_{f}": ("rnn", {"nonlinearity": f}) for f in ("tanh", "relu", "sigmoid", "identity")},
    "lstm": ("lstm", {}),
    "gru_after": ("gru", {}),
    "gru_before": ("gru", {"reset_after": False}),
}


def weights(p: Problem) -> tuple[np.ndarray, ...]:
    """Weights in the order of the public signatures; rnn and lstm have one bias, the sum."""
    w = p.params
    if p.cell.startswith("gru"):
        return w["Wx"], w["Wh"], w["bx"], w["bh"]
    return w["Wx"], w["Wh"], w["bx"] + w["bh"]


def public_names(p: Problem) -> list[str]:
    """What the backward functions return, in order."""
    states = [f"dstate.{k}" for k in range(len(p.state))]
    biases = ["dbx", "dbh"] if p.cell.startswith("gru") else ["dbx"]
    return ["dx", *states, "dWx", "dWh", *biases]


def flatten(values: tuple[Any, ...]) -> list[Any]:
    return [v for value in values for v in (value if isinstance(value, tuple) else (value,))]


def public_sequence(p: Problem, call: Call, batch_first: bool = False, **options: Any) -> dict[str, Any]:
    """`p` through e.g. lstm_forward and lstm_backward."""
    prefix, fixed = PUBLIC[p.cell]

    def major(a: Any) -> Any:
        return a.swapaxes(0, 1) if batch_first else a

    forward = getattr(functional, f"{prefix}_forward")
    options |= {"lengths": call.lengths, "reverse": call.reverse, "batch_first": batch_first}
    hs, *last, cache = flatten(forward(major(p.x), *p.state, *weights(p), **fixed, **options))
    backward = getattr(functional, f"{prefix}_backward")
    gradients = backward(major(p.dhs), cache, *p.dlast, truncate=call.truncate)
    result = dict(zip(public_names(p), gradients, strict=True))
    result |= {f"last.{k}": a for k, a in enumerate(last)} | {"hs": hs}
    return {name: major(a) if name in ("hs", "dx") else a for name, a in result.items()}


@pytest.mark.parametrize("batch_first", [False, True])
@each_dtype
@pytest.mark.parametrize("cell", PUBLIC)
def test_public_functions(backend: str, cell: str, dtype: str, batch_first: bool) -> None:
    for call in (Call(), RAGGED):
        got = public_sequence(problem(cell, dtype=dtype), call, batch_first)
        expected = oracle(problem(cell), call)
        assert_close(got, {name: expected[name] for name in got}, ORACLE_RTOL[dtype])


@each_dtype
@pytest.mark.parametrize("cell", PUBLIC)
def test_public_step_functions(backend: str, cell: str, dtype: str) -> None:
    p = problem(cell, T=1, dtype=dtype)
    prefix, fixed = PUBLIC[cell]
    forward = getattr(functional, f"{prefix}_step_forward")
    *last, cache = forward(p.x[0], *p.state, *weights(p), **fixed)
    gradients = getattr(functional, f"{prefix}_step_backward")(*p.dlast, cache)
    got = dict(zip(public_names(p), gradients, strict=True)) | {f"last.{k}": a for k, a in enumerate(last)}
    reference = problem(cell, T=1)
    expected = oracle(replace(reference, dhs=np.zeros_like(reference.dhs)))
    got["dx"] = got["dx"][None]
    assert_close(got, {name: expected[name] for name in got}, ORACLE_RTOL[dtype])


def permuted(a: np.ndarray, order: str, new_order: str) -> np.ndarray:
    """Column blocks of `a`, one per letter of `order`, in `new_order`."""
    blocks = dict(zip(order, np.split(a, len(order), axis=-1), strict=True))
    return np.concatenate([blocks[letter] for letter in new_order], axis=-1)


ORDERS = [
    (cell, "".join(new))
    for cell, order in (("lstm", "ifgo"), ("gru_after", "rzn"), ("gru_before", "rzn"))
    for new in itertools.permutations(order)
]


@pytest.mark.parametrize(("cell", "order"), ORDERS)
def test_gate_order(backend: str, cell: str, order: str) -> None:
    p = problem(cell)
    own = "ifgo" if cell == "lstm" else "rzn"
    plain = public_sequence(p, RAGGED)
    moved = replace(p, params={name: permuted(a, own, order) for name, a in p.params.items()})
    got = public_sequence(moved, RAGGED, gate_order=order)
    back = {name: permuted(a, order, own) if name in ("dWx", "dWh", "dbx", "dbh") else a for name, a in got.items()}
    assert_equal(back, plain)


@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru_after"])
def test_bias_as_a_row_and_no_bias(backend: str, cell: str) -> None:
    """b (1, G*H), as notebooks write it, gets a gradient of the same shape; None gets None."""
    p = problem(cell)
    row = {name: a[None] if name in ("bx", "bh") else a for name, a in p.params.items()}
    got = public_sequence(replace(p, params=row), Call())
    expected = {n: a[None] if n in ("dbx", "dbh") else a for n, a in public_sequence(p, Call()).items()}
    assert_equal(got, expected)
    prefix, fixed = PUBLIC[cell]
    none = [None] * (2 if prefix == "gru" else 1)
    first = (p.params["Wx"], p.params["Wh"], *none)
    cache = getattr(functional, f"{prefix}_forward")(p.x, *p.state, *first, **fixed)[-1]
    assert getattr(functional, f"{prefix}_backward")(p.dhs, cache)[-1] is None
