"""Products of a plan in groups: what is summed, and in which order, for every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cases
import fastrnn
import naive
from fastrnn import cell
from fastrnn.cells import sigmoid, tanh
from fastrnn.codegen.fused import Product, Sum, backward_stages, forward_stages
from fastrnn.engine.plan import Ref, make_plan
from naive import Call
from problems import ORACLE_RTOL, assert_close, oracle, problem


@cell(gates="a", recurrent="p q", units="u")
def two_into_one(x: Any, U: Any, p: Any, h: Any, c: Any) -> Any:
    """Products of two states in one gate."""
    h = tanh(x.a + U.p @ h + U.q @ c)
    return h, p.u * c + h


@cell(gates="a b", recurrent="p q r")
def twice_the_same(x: Any, U: Any, h: Any) -> Any:
    """Two matrices on one vector in one gate, one of them also in a product of its own."""
    return tanh(x.a + U.p @ h + U.q @ h) * sigmoid(x.b + U.r @ h)


@cell(gates="a", recurrent="p q s")
def stages_into_one(x: Any, U: Any, h: Any) -> Any:
    """A gate whose sum takes a product of the old state, and two of vectors made of it."""
    r = sigmoid(U.s @ h)
    return tanh(x.a + U.q @ (r * h) + U.p @ h) + tanh(U.s @ (1 - r))


@cell(gates="a b", recurrent="p q r", units="u")
def three_states(x: Any, U: Any, p: Any, h: Any, c: Any, s: Any) -> Any:
    """Three states, a parameter for each unit, and products of all of them."""
    g = sigmoid(x.a + U.p @ h + p.u * s)
    c = g * c + (1 - g) * tanh(x.b + U.q @ s)
    return tanh(c) + U.r @ c, c, (1 - g) * s + g * h


def naive_two_into_one(p: naive.Params, x: naive.Vector, h: naive.Vector, c: naive.Vector) -> naive.States:
    terms = naive.from_x(p, x, 0, len(h)), naive.from_vector(p, h, 0), naive.from_vector(p, c, 1)
    new = [naive.tanh(a + b + d) for a, b, d in zip(*terms, strict=True)]
    return new, [p["u"][i] * c[i] + new[i] for i in range(len(h))]


def naive_twice_the_same(p: naive.Params, x: naive.Vector, h: naive.Vector) -> naive.States:
    size = len(h)
    xs = [naive.from_x(p, x, g, size) for g in range(2)]
    us = [naive.from_vector(p, h, m) for m in range(3)]
    return ([naive.tanh(xs[0][i] + us[0][i] + us[1][i]) * naive.sigmoid(xs[1][i] + us[2][i]) for i in range(size)],)


def naive_stages_into_one(p: naive.Params, x: naive.Vector, h: naive.Vector) -> naive.States:
    size = len(h)
    r = [naive.sigmoid(v) for v in naive.from_vector(p, h, 2)]
    a, b = naive.from_x(p, x, 0, size), naive.from_vector(p, h, 0)
    q = naive.from_vector(p, [r[i] * h[i] for i in range(size)], 1)
    s = naive.from_vector(p, [1 - v for v in r], 2)
    return ([naive.tanh(a[i] + b[i] + q[i]) + naive.tanh(s[i]) for i in range(size)],)


def naive_three_states(
    p: naive.Params, x: naive.Vector, h: naive.Vector, c: naive.Vector, s: naive.Vector
) -> naive.States:
    size = len(h)
    a, b = naive.from_x(p, x, 0, size), naive.from_x(p, x, 1, size)
    u, q = naive.from_vector(p, h, 0), naive.from_vector(p, s, 1)
    g = [naive.sigmoid(a[i] + u[i] + p["u"][i] * s[i]) for i in range(size)]
    c = [g[i] * c[i] + (1 - g[i]) * naive.tanh(b[i] + q[i]) for i in range(size)]
    r = naive.from_vector(p, c, 2)
    return [naive.tanh(c[i]) + r[i] for i in range(size)], c, [(1 - g[i]) * s[i] + g[i] * h[i] for i in range(size)]


ORACLES = {
    "two_into_one": (two_into_one, naive.Naive(naive_two_into_one, 1, 2, 2, ("u",))),
    "twice_the_same": (twice_the_same, naive.Naive(naive_twice_the_same, 2, 3)),
    "stages_into_one": (stages_into_one, naive.Naive(naive_stages_into_one, 1, 3)),
    "three_states": (three_states, naive.Naive(naive_three_states, 2, 3, 3, ("u",))),
}


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("backend_name", ["numba", "numpy"])
def test_products_and_states_in_unusual_numbers(backend_name: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, expected = ORACLES[name]
    monkeypatch.setitem(naive.CELLS, name, expected)
    monkeypatch.setitem(cases.CELLS, name, mine)
    # Rows to be padded, and rows of whole vectors.
    for sizes in ((5, 4, 3, 4), (3, 2, 2, 16)):
        p = problem(name, *sizes)
        with fastrnn.use_backend(backend_name):
            for call in (Call(), Call(lengths=(1, 3, 2, 0)[: sizes[1]], reverse=True, truncate=2)):
                assert_close(cases.run(p, call), oracle(p, call), ORACLE_RTOL["float64"])


def test_the_sum_of_a_gate_takes_all_products_that_are_only_added_to_it() -> None:
    (forward,) = forward_stages(make_plan(two_into_one))
    assert forward.sums == (Sum(0, 0),)
    assert forward.products == (
        Product((Ref("prev", 0),), ((0,),), (0,)),
        Product((Ref("prev", 1),), ((1,),), (0,)),
    )
    loads = {ref for ref in forward.code.loads.values()}
    assert loads == {Ref("acc", 0), Ref("prev", 1), Ref("unit", 1)}


def test_a_product_has_each_of_its_sums_once() -> None:
    (forward,) = forward_stages(make_plan(twice_the_same))
    assert forward.products == (
        Product((Ref("prev", 0),), ((0, 2),), (0, 1)),
        Product((Ref("prev", 0),), ((1,),), (0,)),
    )
    (backward,) = backward_stages(make_plan(twice_the_same))
    (carried,) = {i for p in backward.products for i in p.sums}
    assert sorted(m for p in backward.products for row in p.matrices for m in row) == [0, 1, 2]
    assert carried == 0


def test_neighbouring_gradients_are_one_long_vector() -> None:
    (backward,) = backward_stages(make_plan(fastrnn.cells.lstm))
    assert backward.products == (Product(tuple(Ref("da", i) for i in range(4)), ((0,), (1,), (2,), (3,)), (0,)),)


def test_vectors_of_different_buffers_are_not_joined() -> None:
    (first, *_) = forward_stages(make_plan(three_states))
    assert all(len(product.sources) == 1 for product in first.products)


def test_forward_sums_of_one_vector_are_one_product() -> None:
    (forward,) = forward_stages(make_plan(fastrnn.cells.lstm))
    assert forward.products == (Product((Ref("prev", 0),), ((0, 1, 2, 3),), (0, 1, 2, 3)),)
    assert np.array_equal([s.gate for s in forward.sums], [0, 1, 2, 3])
