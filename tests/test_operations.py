"""The operations of cells, each by itself: its values in the corners of its range, its gradient where it bends."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastrnn
from fastrnn import ops
from fastrnn.cells.expr import Vector, const, leaf, make
from fastrnn.cells.table import OPERATIONS
from fastrnn.functional import cell_backward, cell_forward
from ulp import assert_four_ulp, turns

BACKENDS = ["numpy", "numba"]
DTYPES = [np.float32, np.float64]
LIMIT = {np.float32: 1e4, np.float64: 1e6}
both = [pytest.mark.parametrize("backend", BACKENDS), pytest.mark.parametrize("dtype", DTYPES)]


def everywhere(test: Callable[..., None]) -> Callable[..., None]:
    """In each backend and type of numbers."""
    for mark in both:
        test = mark(test)
    return test


def run(function: Callable[..., Any], *operands: Any, dtype: type, backend: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """``y = function(*operands)`` and the gradients of ``sum(y)``: operands are states, which no sum touches."""
    a = [np.asarray(operand, dtype).reshape(1, -1) for operand in operands]
    a += [np.zeros_like(a[0])] * (2 - len(a))
    cell = fastrnn.cell(gates="i", recurrent=(), name="one_operation")(lambda x, a, b: (function(a, b), x.i))
    H = a[0].shape[1]
    with fastrnn.use_backend(backend):
        hs, _, cache = cell_forward(cell, np.zeros((1, 1, 1), dtype), tuple(a), {"Wx": np.zeros((1, H), dtype)})
        _, gradients, _ = cell_backward(np.ones_like(hs), cache)
    assert hs.dtype == dtype and all(g.dtype == dtype for g in gradients)
    return hs.reshape(-1), [g.reshape(-1) for g in gradients]


def one(name: str) -> Callable[..., Any]:
    function = abs if name == "abs" else getattr(ops, name)
    return lambda p, q: function(p)


@everywhere
@pytest.mark.parametrize("name", ["log", "sqrt", "sin", "cos", "abs", "exp", "tanh", "hard_sigmoid", "relu"])
def test_special_numbers_are_those_of_numpy(name: str, backend: str, dtype: type) -> None:
    least = np.finfo(dtype).smallest_subnormal
    a = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -1.0, -np.finfo(dtype).tiny, 1.0], dtype)
    # Kernels take subnormal numbers for 0; of these the result is normal.
    if name in ("log", "sqrt"):
        a = np.concatenate([a, np.array([least, -least, 12345 * least, np.finfo(dtype).tiny - least], dtype)])
    with np.errstate(all="ignore"):
        y, _ = run(one(name), a, dtype=dtype, backend=backend)
        want = OPERATIONS[name].numpy(a)
    np.testing.assert_allclose(y, want, rtol=4 * np.finfo(dtype).eps, atol=float(np.finfo(dtype).tiny))
    np.testing.assert_array_equal(np.isfinite(y), np.isfinite(want))


@everywhere
@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_nan_wins(name: str, backend: str, dtype: type) -> None:
    a, b = [np.nan, 1, np.nan, np.inf, -np.inf, 2], [1, np.nan, np.nan, 1, 1, -3]
    y, _ = run(getattr(ops, name), a, b, dtype=dtype, backend=backend)
    np.testing.assert_array_equal(y, getattr(np, name)(a, b).astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_sine_and_cosine_to_four_units_in_the_last_place_up_to_their_limit(name: str, dtype: type) -> None:
    a = turns(dtype, LIMIT[dtype])
    y, _ = run(one(name), a, dtype=dtype, backend="numba")
    assert_four_ulp(name, a, y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_beyond_it_they_are_the_c_librarys(name: str, dtype: type) -> None:
    largest = np.finfo(dtype).max
    a = np.array([np.nextafter(dtype(LIMIT[dtype]), dtype(np.inf)), -1e8, 1e22, 1e30, largest, -largest, 0.5], dtype)
    y, _ = run(one(name), a, dtype=dtype, backend="numba")
    np.testing.assert_array_equal(y[:-1], np.array([getattr(math, name)(float(v)) for v in a[:-1]], dtype))
    assert_four_ulp(name, a, y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sine_and_cosine_are_never_beyond_one(dtype: type) -> None:
    a = np.concatenate([np.linspace(-10, 10, 20001), np.pi / 2 * np.arange(9)]).astype(dtype)
    for name in ("sin", "cos"):
        y, _ = run(one(name), a, dtype=dtype, backend="numba")
        assert np.abs(y).max() == 1


@everywhere
def test_equal_operands_share_the_gradient(backend: str, dtype: type) -> None:
    a, b = [1, 2, 3, 0.0], [3, 2, 1, -0.0]
    _, (da, db) = run(ops.maximum, a, b, dtype=dtype, backend=backend)
    np.testing.assert_array_equal([da, db], [[0, 0.5, 1, 0.5], [1, 0.5, 0, 0.5]])
    _, (da, db) = run(ops.minimum, a, b, dtype=dtype, backend=backend)
    np.testing.assert_array_equal([da, db], [[1, 0.5, 0, 0.5], [0, 0.5, 1, 0.5]])


@everywhere
@pytest.mark.parametrize(
    "name, a, want",
    [
        ("abs", [-2, -0.0, 0, 3], [-1, 0, 0, 1]),
        ("relu", [-2, 0, 3], [0, 0, 1]),
        ("hard_sigmoid", [-4, -3, -2.5, 0, 2.5, 3, 4], [0, 0, 1 / 6, 1 / 6, 1 / 6, 0, 0]),
        ("sqrt", [0.25, 4, 0], [1, 0.25, np.inf]),
        ("log", [0.5, -2, 0], [2, -0.5, np.inf]),
    ],
)
def test_gradients_where_a_function_bends(name: str, a: list[float], want: list[float], backend: str, dtype: type):
    _, (da, _) = run(one(name), a, dtype=dtype, backend=backend)
    np.testing.assert_allclose(da, np.array(want, dtype), rtol=2 * np.finfo(dtype).eps)


@everywhere
def test_comparisons(backend: str, dtype: type) -> None:
    a, b = [1, 2, 3, np.nan, 1, np.inf, 0], [2, 2, 2, 1, np.nan, np.inf, -0.0]
    for compare in (np.less, np.less_equal, np.greater, np.greater_equal):
        operator = {
            "less": lambda p, q: p < q,
            "less_equal": lambda p, q: p <= q,
            "greater": lambda p, q: p > q,
            "greater_equal": lambda p, q: p >= q,
        }[compare.__name__]
        y, _ = run(lambda p, q, of=operator: ops.where(of(p, q), 1.0, 0.5), a, b, dtype=dtype, backend=backend)
        np.testing.assert_array_equal(y, np.where(compare(a, b), 1, 0.5), err_msg=compare.__name__)


NOT_TAKEN: dict[str, Callable[..., Any]] = {
    "sqrt": lambda p, q: ops.where(p > 0, ops.sqrt(p), q),
    "log": lambda p, q: ops.where(p > 0, ops.log(p), q),
    "division": lambda p, q: ops.where(p > 0, q / p, q),
    "on the right": lambda p, q: ops.where(p <= 0, q, ops.sqrt(p)),
    "deeper": lambda p, q: ops.where(p > 0, ops.tanh(2 * ops.sqrt(ops.log(1 + p)) + 1), q),
    "nested": lambda p, q: ops.where(p > 0, ops.where(q > -1, ops.sqrt(p), ops.log(p)), q),
    "of two uses": lambda p, q: ops.where(p > 0, 2 * ops.sqrt(p), 0) + ops.where(p > 0.5, 3 * ops.sqrt(p), 0) + q,
    "of two uses that exclude each other": lambda p, q: ops.where(
        q < 0, ops.where(p > 0, ops.sqrt(p), q), ops.where(p > 0, -ops.sqrt(p), q)
    ),
    "beneath a maximum": lambda p, q: ops.maximum(ops.where(p > 0, ops.sqrt(p), q), q - 1),
    "beneath relu": lambda p, q: ops.relu(ops.sqrt(p)) + q,
}


@everywhere
@pytest.mark.parametrize("what", NOT_TAKEN)
def test_what_is_not_taken_has_no_gradient_even_where_its_derivative_is_infinite(
    what: str, backend: str, dtype: type
) -> None:
    bad = [0.0] if what == "beneath relu" else [0.0, -0.0, -1.0, -2.0]
    y, (da, _) = run(NOT_TAKEN[what], bad, [2.0] * len(bad), dtype=dtype, backend=backend)
    np.testing.assert_array_equal(y, np.full(len(bad), 2, dtype))
    np.testing.assert_array_equal(da, np.zeros(len(bad), dtype))
    # Where it is taken, the derivative is that of central differences.
    good, q, step = np.array([0.25, 0.75, 1.5]), np.array([2.0, -0.5, 0.7]), 1e-6
    _, (da, dq) = run(NOT_TAKEN[what], good, q, dtype=dtype, backend=backend)
    for got, at in ((da, (step, 0)), (dq, (0, step))):
        up, down = (
            run(NOT_TAKEN[what], good + s * at[0], q + s * at[1], dtype=np.float64, backend="numpy")[0] for s in (1, -1)
        )
        np.testing.assert_allclose(got, (up - down) / (2 * step), rtol=1e-5, atol=1e-8)


@fastrnn.cell(gates="a", recurrent="m n")
def later(x: Any, U: Any, h: Any, c: Any) -> Any:
    """A condition on a product decides what enters a later one, and what leaves it."""
    a = x.a + U.m @ h
    low = a < c
    v = U.n @ ops.where(low, a * a, h)
    return ops.where(low, v, a) * c, ops.minimum(v, a)


def test_a_condition_lives_through_the_stages_of_a_step() -> None:
    rng = np.random.default_rng(0)
    params = {k: 0.5 * rng.standard_normal(s) for k, s in later.param_shapes(3, 7).items()}
    x, state = rng.standard_normal((5, 4, 3)), tuple(rng.standard_normal((4, 7)) for _ in range(2))
    weights = rng.standard_normal((5, 4, 7))
    results = []
    for backend in BACKENDS:
        with fastrnn.use_backend(backend):
            hs, _, cache = cell_forward(later, x, state, params)
            dx, _, _ = cell_backward(weights, cache)
        results += [hs, dx]
    np.testing.assert_allclose(results[2], results[0], rtol=1e-11)
    np.testing.assert_allclose(results[3], results[1], rtol=1e-9, atol=1e-11)
    step = 1e-6 * rng.standard_normal(x.shape)
    with fastrnn.use_backend("numpy"):
        up, down = (np.sum(weights * cell_forward(later, x + s * step, state, params)[0]) for s in (1, -1))
    np.testing.assert_allclose(np.sum(results[1] * step), (up - down) / 2, rtol=1e-6)


def test_constants_are_folded() -> None:
    assert make("log", const(1.0)) is const(0.0)
    assert ops.maximum(2, 3) is const(3.0)
    assert ops.hard_sigmoid(0) is const(0.5)
    a, b = leaf("state", "a"), leaf("state", "b")
    assert ops.where(const(1) < const(2), a, b) is a
    assert ops.where(const(1) >= const(2), a, b) is b
    assert ops.where(a < b, a, a) is a
    for op, value in (("log", 0.0), ("sqrt", -1.0), ("exp", 1000.0)):
        with pytest.raises(ValueError, match=rf"{op} of the constant {value} is (-inf|nan|inf)"):
            make(op, const(value))


def test_numbers_of_numpy_are_numbers() -> None:
    a = leaf("state", "a")
    two = np.float64(2)
    assert two * a is 2 * a and a / two is a / 2 and two - a is 2 - a
    assert (two < a) is (a > 2) and (two >= a) is (a <= 2)


@pytest.mark.parametrize("name", ops.__all__)
def test_every_function_takes_numbers_and_says_what_it_is(name: str) -> None:
    function = getattr(ops, name)
    operands = [leaf("state", c) for c in "ab"][: 2 if name in ("where", "maximum", "minimum") else 1]
    condition = [operands[0] < 1] if name == "where" else []
    node = function(*condition, *operands)
    assert isinstance(node, Vector) and node.op == name
    assert isinstance(function(*condition, *[0.5] * len(operands)), Vector)
    assert OPERATIONS[name].doc == function.__doc__
