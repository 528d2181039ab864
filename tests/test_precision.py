"""Products of float32 numbers that are split into bf16 numbers, where the processor has such products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

import fastrnn
from bf16 import product, split_reference
from cases import BUILT_IN, run
from conftest import PROMISED_BACKENDS, variants
from fastrnn.functional import rnn_backward, rnn_forward
from naive import PLAIN, Call
from problems import ORACLE_RTOL, Problem, Result, assert_close, assert_equal, problem

PRECISIONS = ("highest", "high", "medium")


@pytest.fixture(autouse=True)
def settings(number_of_threads: None) -> Iterator[None]:
    fastrnn.set_num_threads(1)
    yield
    fastrnn.set_matmul_precision("highest")


def parts_of(variant: str, precision: str, N: int = 64) -> int:
    """Bf16 numbers that a number is split into, in calls that are long enough and of `N` sequences; 0: none."""
    by_variant = {"amx": {"medium": 1, "high": 2, "highest": 3}, "avx512bf16": {"medium": 1}}
    parts = by_variant.get(variant, {}).get(precision, 0)
    # Tiles of few rows are of no use; one part is then that of avx512bf16.
    return 0 if parts > 1 and N < 4 else parts


def split_parts(variant: str, precision: str) -> int:
    """The same; without split numbers the test would compare a thing with itself and is skipped."""
    parts = parts_of(variant, precision)
    if not parts:
        pytest.skip(f"{variant} multiplies numbers as they are at precision {precision}")
    return parts


def at(precision: str, p: Problem, call: Call = PLAIN) -> Result:
    fastrnn.set_matmul_precision(precision)
    return dict(run(p, call))


def test_names() -> None:
    assert fastrnn.get_matmul_precision() == "highest"
    for precision in PRECISIONS:
        fastrnn.set_matmul_precision(precision)
        assert fastrnn.get_matmul_precision() == precision
    with pytest.raises(ValueError, match=r"precision: expected one of highest, high, medium, got 'low'"):
        fastrnn.set_matmul_precision("low")
    assert fastrnn.get_matmul_precision() == "medium"


# Rows of a tile, items of a row, units of a vector: on, below and above what the kernels cut products into.
SIZES = [(16, 1, 3), (17, 31, 16), (20, 32, 20), (32, 33, 48), (33, 64, 100), (50, 100, 70), (64, 1, 64), (79, 65, 81)]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("N, D, H", SIZES)
def test_every_product_is_of_the_parts(variant: str, precision: str, N: int, D: int, H: int) -> None:
    """One step of an RNN without a nonlinearity is nothing but products."""
    rng = np.random.default_rng([N, D, H])
    x, h, Wx, Wh, b, dh = (rng.standard_normal(s).astype("f4") for s in ((N, D), (N, H), (D, H), (H, H), (H,), (N, H)))
    parts = parts_of(variant, precision)
    fastrnn.set_matmul_precision(precision)
    hs, cache = rnn_forward(x[None], h, Wx, Wh, b, "identity")
    dx, dh0, dWx, dWh, db = rnn_backward(dh[None], cache)
    expected = {
        "hs": (b + product(x, Wx, parts) + product(h, Wh, parts))[None],
        "dx": product(dh, Wx.T, parts)[None],
        "dh0": product(dh, Wh.T, parts),
        "dWx": product(x.T, dh, parts),
        "dWh": product(h.T, dh, parts),
        "db": dh.astype("f8").sum(axis=0),
    }
    assert_close({"hs": hs, "dx": dx, "dh0": dh0, "dWx": dWx, "dWh": dWh, "db": db}, expected, 1e-6)


# Bounds, as a share of an array's norm, of the difference between the engine's sums of split numbers and those of the
# reference, which are added in another order. Of float32 numbers that differ in the last bits about one pair in 2**14
# is rounded to different bf16 numbers. These are 2**-8 of themselves apart, of an array of 16 numbers or more 2**-10
# or less; of two parts it is 2**-8 times less. What the tests look for is larger: a factor that is not split where it
# should be, or that lacks its second part, or one whose second part is left out of a product, costs 2**-9.3, as the
# rounding to 8 bits does.
APART = {0: 4 * ORACLE_RTOL["float32"], 1: 2**-10, 2: 2**-16, 3: 4 * ORACLE_RTOL["float32"]}


def assert_split(got: Result, p: Problem, call: Call, parts: int) -> None:
    """`got` is what products of numbers in `parts` parts make of `p`."""
    expected = split_reference(p, call, parts)
    assert got.keys() == expected.keys()
    for name, want in expected.items():
        error = np.linalg.norm(got[name] - want)
        assert error <= APART[parts] * np.linalg.norm(want), f"{name}: {error / np.linalg.norm(want):.3g}"


# Not of relu: a sum near zero may change its sign, and with it a whole gradient.
@pytest.mark.parametrize("cell", [name for name in BUILT_IN if name != "rnn_relu"])
@pytest.mark.parametrize("precision", ["high", "medium"])
def test_whole_calls_are_of_the_parts(variant: str, precision: str, cell: str) -> None:
    split_parts(variant, precision)
    for T, N, D, H in [(9, 1, 7, 16), (12, 2, 20, 33), (5, 9, 5, 20), (4, 17, 1, 31), (70, 10, 3, 8), (6, 40, 40, 64)]:
        p = problem(cell, T, N, D, H, "float32", scale=0.5)
        ragged = tuple((T - 2 * n) % (T + 1) for n in range(N))
        for call in (PLAIN, Call(reverse=True, truncate=2), Call(ragged), Call(ragged, True, 3)):
            got = at(precision, p, call)
            assert_split(got, p, call, parts_of(variant, precision, N))
            assert_equal(at(precision, p, call), got)


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_divided_between_threads(variant: str, precision: str) -> None:
    """By sequences and by units; a part's products are the whole's."""
    for cell, N, H in (("lstm", 64, 64), ("gru_after", 2, 160), ("gru_before", 1, 192)):
        p = problem(cell, 20, N, 48, H, "float32", scale=0.5)
        fastrnn.set_num_threads(3)
        three = at(precision, p)
        assert_split(three, p, PLAIN, parts_of(variant, precision, N))
        assert_equal(at(precision, p), three)


def test_layers_and_steps(variant: str) -> None:
    split_parts(variant, "medium")
    layer = fastrnn.GRU(12, 40, num_layers=2, seed=0)
    x = np.random.default_rng(0).standard_normal((30, 20, 12)).astype("f4")
    exact, _ = layer(x)
    fastrnn.set_matmul_precision("medium")
    y, state = layer(x)
    kept, _ = layer.forward(x)
    np.testing.assert_array_equal(kept, y)
    assert not np.array_equal(y, exact)
    np.testing.assert_allclose(y, exact, atol=0.02)
    after, _ = layer.step(x[0], state)
    np.testing.assert_allclose(after, layer(np.concatenate([x, x[:1]]))[0][-1], atol=1e-6)


def test_backward_is_as_precise_as_its_forward(variant: str) -> None:
    split_parts(variant, "medium")
    p = problem("lstm", 10, 8, 16, 32, "float32")
    call = (p.x, p.state[0], p.params["Wx"][:, :32], p.params["Wh"][:, :32], None)
    gradients = []
    for later in ("medium", "highest"):
        fastrnn.set_matmul_precision("medium")
        _, cache = rnn_forward(*call)
        fastrnn.set_matmul_precision(later)
        gradients.append(rnn_backward(p.dhs, cache))
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_numbers_that_bf16_does_not_have(variant: str, precision: str) -> None:
    fastrnn.set_matmul_precision(precision)
    x = np.array([np.inf, -np.inf, np.nan, 3.4e38, -3.4e38, 1e-39, 0.0, 1.0] * 2, "f4")
    hs, _ = rnn_forward(x[None, :, None], None, np.ones((1, 1), "f4"), np.zeros((1, 1), "f4"), None, "identity")
    parts = parts_of(variant, precision)
    big = np.inf if parts else x[3]
    expected = np.array([np.inf, -np.inf, np.nan, big, -big, 0, 0, 1] * 2, "f4")
    if parts == 2:  # the second part of 1 is 0, and its product with infinity no number
        expected[np.isinf(expected)] = np.nan
    np.testing.assert_array_equal(hs.ravel(), expected)


def powers(rng: np.random.Generator, shape: tuple[int, int], least: int, most: int) -> np.ndarray:
    return rng.standard_normal(shape) * 2.0 ** rng.integers(least, most + 1, shape)


def opposite(rng: np.random.Generator, left: tuple[int, int], right: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Sums of which next to nothing is left."""
    a, b = rng.standard_normal(left), rng.standard_normal(right)
    half = len(b) // 2
    a[:, half : 2 * half] = a[:, :half]
    b[half : 2 * half] = -b[:half] * (1 + 1e-6 * rng.standard_normal(b[:half].shape))
    return a, b


# Factors of products, as f(random, shape of the left side, of the right side): as they usually are, and where something
# could be lost. Of the last three some are too large to be split.
FACTORS = {
    "normal": lambda rng, a, b: (rng.standard_normal(a), rng.standard_normal(b)),
    "positive": lambda rng, a, b: (rng.random(a), rng.random(b)),
    "opposite": opposite,
    "of many sizes": lambda rng, a, b: (powers(rng, a, -30, 30), powers(rng, b, -30, 30)),
    "of all sizes": lambda rng, a, b: (powers(rng, a, -126, 20), powers(rng, b, -20, 20)),
    "small": lambda rng, a, b: (powers(rng, a, -126, -110), rng.standard_normal(b)),
    "subnormal": lambda rng, a, b: (powers(rng, a, -149, -130), powers(rng, b, -2, 4)),
    "of subnormal products": lambda rng, a, b: (powers(rng, a, -75, -60), powers(rng, b, -75, -60)),
    "with bits far apart": lambda rng, a, b: (1 + 2.0**-23 * rng.integers(0, 2, a), powers(rng, b, 0, 3)),
    "large": lambda rng, a, b: (powers(rng, a, 0, 60), powers(rng, b, 0, 55)),
    "one of them large": lambda rng, a, b: (powers(rng, a, 0, 120), powers(rng, b, -10, 0)),
    "against each other": lambda rng, a, b: (powers(rng, a, 60, 110), powers(rng, b, -110, -60)),
}


def in_float32(a: np.ndarray, b: np.ndarray, fused: bool) -> np.ndarray:
    """a @ b by multiply-adds, one after the other, that take subnormal numbers for zeros; `fused` ones have no
    product of their own."""

    def flushed(value: np.ndarray) -> np.ndarray:
        return np.where(np.abs(value) < np.finfo("f4").tiny, np.float32(0), value)

    a, b = flushed(a), flushed(b)
    total = np.zeros((len(a), b.shape[1]), "f4")
    for k in range(len(b)):
        product = a[:, k, None].astype("f8") * b[k]
        total = flushed((total + (product if fused else flushed(product.astype("f4")))).astype("f4"))
    return total


def is_fused() -> bool:
    """Whether a product and a sum are rounded once: not without the instructions, nor in every build with them."""
    factor, bias = np.full((1, 1), 1 + 2.0**-12, "f4"), np.array([-1 - 2.0**-11], "f4")
    hs, _ = rnn_forward(factor[None], None, factor, np.zeros((1, 1), "f4"), bias, "identity")
    return bool(hs[0, 0, 0] > 0)


def errors(got: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Errors of a product, relative to its sums without signs: root of the mean square, and largest."""
    wide_a, wide_b = a.astype("f8"), b.astype("f8")
    error = np.abs(got - wide_a @ wide_b) / (np.abs(wide_a) @ np.abs(wide_b))
    return float(np.sqrt(np.mean(error**2))), float(error.max())


@pytest.mark.parametrize("factors", FACTORS)
def test_highest_is_as_precise_as_float32(variant: str, factors: str) -> None:
    """Forward, through the weights, and their gradients: one step of an RNN without a nonlinearity."""
    rng = np.random.default_rng(0)
    N, D, H = 64, 96, 80
    x, Wx = (a.astype("f4") for a in FACTORS[factors](rng, (N, D), (D, H)))
    dh, WxT = (a.astype("f4") for a in FACTORS[factors](rng, (N, H), (H, D)))
    xT, dh_of_x = (a.astype("f4") for a in FACTORS[factors](rng, (D, N), (N, H)))
    zeros = np.zeros((H, H), "f4")
    results = []
    for inputs, weights, gradient in ((x, Wx, dh), (x, WxT.T.copy(), dh), (xT.T.copy(), Wx, dh_of_x)):
        hs, cache = rnn_forward(inputs[None], None, weights, zeros, None, "identity")
        dx, _, dWx, _, _ = rnn_backward(gradient[None], cache)
        results.append((hs[0], dx[0], dWx))
    for got, a, b in ((results[0][0], x, Wx), (results[1][1], dh, WxT), (results[2][2], xT, dh_of_x)):
        assert np.isfinite(got).all()
        for ours, plain in zip(errors(got, a, b), errors(in_float32(a, b, is_fused()), a, b), strict=True):
            assert ours <= 1.5 * plain


def with_number(p: Problem, name: str, value: float) -> Problem:
    """The same with another number in one place."""
    array = (p.params[name] if name in p.params else getattr(p, name)).copy()
    array[..., 3, 0] = value
    return replace(p, params={**p.params, name: array}) if name in p.params else replace(p, **{name: array})


@pytest.mark.parametrize("cell", BUILT_IN)
def test_numbers_too_large_to_be_split(variant: str, cell: str) -> None:
    """A whole pass is then done with the numbers as they are."""
    split_parts(variant, "highest")
    from fastrnn.backends import _cpp

    def as_they_are(p: Problem) -> dict[str, np.ndarray]:
        assert _cpp.use_variant("avx512")
        result = at("highest", p, call)
        assert _cpp.use_variant(variant)
        return result

    p = problem(cell, 16, 16, 5, 64, "float32", scale=0.5)
    call = Call(lengths=tuple(range(16, 0, -1)), truncate=3)
    with np.errstate(all="ignore"):
        for name, value in (("x", np.inf), ("x", np.nan), ("x", 3e38), ("Wh", -np.inf)):
            changed = with_number(p, name, value)
            assert_equal(at("highest", changed, call), as_they_are(changed))
    if cell != "rnn_relu":  # a sum near zero may change its sign
        changed = with_number(p, "dhs", 1e33)
        assert_close(at("highest", changed, call), as_they_are(changed), 1e-5)


@pytest.mark.parametrize("backend", PROMISED_BACKENDS)
def test_float64_and_other_backends_stay_as_they_are(backend: str) -> None:
    if backend == "cpp" and not any(parts_of(variant, "medium") for variant in variants()):
        pytest.skip("no instruction set that was built and runs here has products of bf16 numbers")
    with fastrnn.use_backend(backend):
        p = problem("lstm", 10, 8, 16, 32, "float64" if backend == "cpp" else "float32")
        exact = at("highest", p)
        for precision in ("high", "medium"):
            assert_equal(at(precision, p), exact)


@pytest.mark.parametrize("T, N", [(7, 1), (3, 5), (1, 15)])
def test_short_calls_stay_as_they_are(variant: str, T: int, N: int) -> None:
    """Splitting the weights would cost more than the products."""
    split_parts(variant, "medium")
    layer = fastrnn.LSTM(8, 32, seed=0)
    x = np.random.default_rng(0).standard_normal((T, N, 8)).astype("f4")
    exact, _ = layer(x)
    fastrnn.set_matmul_precision("medium")
    np.testing.assert_array_equal(layer(x)[0], exact)
