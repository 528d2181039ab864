"""Elementary functions of SIMD vectors, accurate to a few units in the last place over the whole range.

The exponential reduces its argument to ``|r| <= log(2)/2`` (Cody & Waite 1980, ch. 6) and approximates there.
In float64 the rational functions are those of S. L. Moshier's Cephes library (*Methods and Programs for
Mathematical Functions*, 1989); in float32 the coefficients are fitted for the least largest relative error, by
Lawson's reweighted least squares (Lawson 1961). NaN stays NaN, infinities give the limits.

They are written once for every target: an operand notes down, as code of its target, what is done with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

LOG2_E = math.log2(math.e)
# Adding and subtracting 1.5 * 2**(mantissa bits) rounds to the nearest whole number.
ROUND_32, ROUND_64 = 1.5 * 2.0**23, 1.5 * 2.0**52
# log(2) in two parts, the first short enough that its product with a whole number is exact.
LN2_HIGH_32, LN2_LOW_32 = 0.693359375, -2.12194440e-4
LN2_HIGH_64, LN2_LOW_64 = 6.93145751953125e-1, 1.42860682030941723212e-6


def exp(a: Any) -> Any:
    """Exponential."""
    return a.call("exp")


def relu(a: Any) -> Any:
    """Positive part."""
    return a.call("relu")


def less(a: Any, b: Any, yes: Any, no: Any) -> Any:
    """``yes if a < b else no`` in every place; `b`, `yes` and `no` may be numbers. NaN is not less."""
    return a.call("less", b, yes, no)


def magnitude(a: Any) -> Any:
    """Absolute value."""
    return a.call("magnitude")


def with_sign(a: Any, b: Any) -> Any:
    """`a`, which has no sign, with the sign of `b`."""
    return a.call("with_sign", b)


def least(a: Any, bound: float) -> Any:
    """The lesser of `a` and `bound`; NaN where `a` is."""
    return a.call("least", bound)


def power_of_two(n: Any) -> Any:
    """``2**n`` for whole `n` within the exponents of normal numbers."""
    return n.call("power_of_two")


def scale(a: Any, n: Any) -> Any:
    """``a * 2**n`` for whole `n`; the result, but not `a`, may be subnormal."""
    return a.call("scale", n)


def _curve32(r: Any) -> Any:
    """``(exp(r) - 1 - r) / r**2`` for ``|r| <= log(2)/2``; ``exp(r) - 1`` is fitted to a relative error of 1.4e-8."""
    p = 1.3882516650483012e-3 * r + 8.366547524929047e-3
    p = p * r + 4.166720062494278e-2
    p = p * r + 1.666654348373413e-1
    return p * r + 4.999999701976776e-1


def _exp32(a: Any) -> Any:
    a = less(a, -104.0, -104.0, least(a, 89.0))
    n = (a * LOG2_E + ROUND_32) - ROUND_32
    r = a - n * LN2_HIGH_32 - n * LN2_LOW_32
    return scale((_curve32(r) * r + 1.0) * r + 1.0, n)


def _exp64(a: Any) -> Any:
    a = less(a, -746.0, -746.0, least(a, 710.0))
    n = (a * LOG2_E + ROUND_64) - ROUND_64
    r = a - n * LN2_HIGH_64 - n * LN2_LOW_64
    s = r * r
    p = r * ((1.26177193074810590878e-4 * s + 3.02994407707441961300e-2) * s + 9.99999999999999999910e-1)
    q = 3.00198505138664455042e-6 * s + 2.52448340349684104192e-3
    q = (q * s + 2.27265548208155028766e-1) * s + 2.0
    p = 1.0 + 2.0 * (p / (q - p))
    return scale(p, n)


def _tanh32(a: Any) -> Any:
    # tanh(a) = t / (t + 2) with t = exp(2 a) - 1 = 2**n (exp(r) - 1) + (2**n - 1): accurate for small t and large.
    m = least(magnitude(a), 9.1)
    m = m + m
    n = (m * LOG2_E + ROUND_32) - ROUND_32
    r = m - n * LN2_HIGH_32 - n * LN2_LOW_32
    power = power_of_two(n)
    t = ((_curve32(r) * r) * r + r) * power + (power - 1.0)
    return with_sign(t / (t + 2.0), a)


def _tanh64(a: Any) -> Any:
    m = magnitude(a)
    s = m * m
    p = (-9.64399179425052238628e-1 * s - 9.92877231001918586564e1) * s - 1.61468768441708447952e3
    q = ((s + 1.12811678491632931402e2) * s + 2.23548839060100448583e3) * s + 4.84406305325125486048e3
    near = (s * (p / q)) * m + m
    far = 1.0 - 2.0 / (exp(m + m) + 1.0)
    return with_sign(less(m, 0.625, near, far), a)


def _sigmoid32(a: Any) -> Any:
    # The exponential of -|a|: small results keep their relative accuracy.
    m = least(magnitude(a), 104.0)
    n = (m * -LOG2_E + ROUND_32) - ROUND_32
    r = (n * -LN2_HIGH_32 - m) - n * LN2_LOW_32
    e = scale((_curve32(r) * r + 1.0) * r + 1.0, n)
    return less(a, 0.0, e, 1.0) / (1.0 + e)


def _sigmoid64(a: Any) -> Any:
    e = exp(-magnitude(a))
    return less(a, 0.0, e, 1.0) / (1.0 + e)


def _relu(a: Any) -> Any:
    return less(a, 0.0, 0.0, a)


def _positive(a: Any) -> Any:
    return less(-a, 0.0, 1.0, 0.0)


def _softplus(terms: int) -> Any:
    # log(1 + e) = 2 artanh(s) with s = e / (2 + e), as a series (Abramowitz & Stegun 1964, 4.1.27); with e from
    # 0 to 1, s is at most 1/3 and each term adds almost a decimal digit.
    coefficients = tuple(2.0 / (2 * k + 1) for k in range(terms))[::-1]

    def softplus(a: Any) -> Any:
        e = exp(-magnitude(a))
        s = e / (2.0 + e)
        s2 = s * s
        p = 0.0 * s2
        for c in coefficients:
            p = p * s2 + c
        return relu(a) + s * p

    return softplus


# Of each function the version for float32 and the one for float64.
FUNCTIONS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "exp": (_exp32, _exp64),
    "tanh": (_tanh32, _tanh64),
    "sigmoid": (_sigmoid32, _sigmoid64),
    "relu": (_relu, _relu),
    "positive": (_positive, _positive),
    "softplus": (_softplus(8), _softplus(17)),
}
