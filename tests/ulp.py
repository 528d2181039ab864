"""Elementary functions against many digits: where to look, and how far off a result may be."""

from __future__ import annotations

import mpmath
import numpy as np


def points(dtype: type) -> np.ndarray:
    """Over the whole range: every magnitude, both signs, dense where the functions bend."""
    rng = np.random.default_rng(0)
    small = np.finfo(dtype).tiny
    wide = np.exp(rng.uniform(np.log(small), np.log(800), 400))
    near = rng.uniform(0, 20, 600)
    edges = [0.0, small, 0.625, 88.7, 103.9, 709.7, 745.1, np.inf]
    values = np.concatenate([wide, near, edges]).astype(dtype)
    return np.concatenate([values, -values])


def turns(dtype: type, limit: float) -> np.ndarray:
    """Up to `limit`: multiples of pi/2 and the numbers beside them, where sine or cosine is all but 0, and others."""
    rng = np.random.default_rng(0)
    quarters = np.unique(np.concatenate([np.arange(1, 300), rng.integers(1, int(limit * 2 / np.pi), 700)]))
    with mpmath.workprec(200):
        near = np.array([float(mpmath.pi * int(n) / 2) for n in quarters]).astype(dtype)
    beside = [np.nextafter(near, dtype(0)), np.nextafter(near, dtype(np.inf))]
    values = np.concatenate([near, *beside, rng.uniform(0, limit, 500).astype(dtype), [dtype(limit)]])
    return np.concatenate([values, -values])


EXACT = {
    "exp": mpmath.exp,
    "tanh": mpmath.tanh,
    "sigmoid": lambda a: 1 / (1 + mpmath.exp(-a)),
    "softplus": lambda a: mpmath.log1p(mpmath.exp(a)),
    "log": lambda a: mpmath.log(a) if a != 0 else mpmath.ninf,
    "sqrt": mpmath.sqrt,
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "hard_sigmoid": lambda a: min(max(a / 6 + mpmath.mpf(1) / 2, 0), 1),
}


def assert_four_ulp(name: str, a: np.ndarray, got: np.ndarray) -> None:
    """``got = EXACT[name](a)`` to four units in the last place.

    Infinite where the exact value is too large, NaN where there is no real one.
    """
    dtype = a.dtype.type
    largest = mpmath.mpf(float(np.finfo(dtype).max))
    with mpmath.workprec(200):
        for value, have in zip(a, got, strict=True):
            want = EXACT[name](mpmath.mpf(float(value)))
            if isinstance(want, mpmath.mpc) or mpmath.isnan(want):
                assert np.isnan(have), (name, value, have)
                continue
            if abs(want) > largest:
                assert np.isinf(have), (name, value, have)
                continue
            # Kernels take subnormal numbers for zeros.
            if have == 0 and abs(want) < float(np.finfo(dtype).tiny):
                continue
            unit = mpmath.mpf(float(np.spacing(np.abs(dtype(float(want))))))
            assert abs(mpmath.mpf(float(have)) - want) <= 4 * unit, (name, value, have, want)
