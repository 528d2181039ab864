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


EXACT = {
    "exp": mpmath.exp,
    "tanh": mpmath.tanh,
    "sigmoid": lambda a: 1 / (1 + mpmath.exp(-a)),
    "softplus": lambda a: mpmath.log1p(mpmath.exp(a)),
}


def assert_four_ulp(name: str, a: np.ndarray, got: np.ndarray) -> None:
    """``got = EXACT[name](a)`` to four units in the last place; infinite where the exact value is too large."""
    dtype = a.dtype.type
    largest = mpmath.mpf(float(np.finfo(dtype).max))
    with mpmath.workprec(200):
        for value, have in zip(a, got, strict=True):
            want = EXACT[name](mpmath.mpf(float(value)))
            if abs(want) > largest:
                assert np.isinf(have), (name, value, have)
                continue
            # Kernels take subnormal numbers for zeros.
            if have == 0 and abs(want) < float(np.finfo(dtype).tiny):
                continue
            unit = mpmath.mpf(float(np.spacing(np.abs(dtype(float(want))))))
            assert abs(mpmath.mpf(float(have)) - want) <= 4 * unit, (name, value, have, want)
