"""Elementary functions of SIMD vectors, accurate to a few units in the last place over the whole range.

The exponential reduces its argument to ``|r| <= log(2)/2`` (Cody & Waite 1980, ch. 6) and approximates there.
In float64 the rational functions are those of S. L. Moshier's Cephes library (*Methods and Programs for
Mathematical Functions*, 1989); in float32 the coefficients are fitted for the least largest relative error, by
Lawson's reweighted least squares (Lawson 1961). NaN stays NaN, infinities give the limits.

They are written once for every target: an operand notes down, as code of its target, what is done with it.
"""

from __future__ import annotations

import math
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


def less_equal(a: Any, b: Any, yes: Any, no: Any) -> Any:
    """``yes if a <= b else no`` in the same way."""
    return a.call("less_equal", b, yes, no)


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


def exponent(a: Any) -> Any:
    """The whole n for which ``a / 2**n`` is from 1 to 2, of a positive normal number."""
    return a.call("exponent")


def significand(a: Any) -> Any:
    """That number from 1 to 2."""
    return a.call("significand")


def subnormal(a: Any) -> Any:
    """How often a subnormal number or 0 holds the least positive number, with its sign: kernels take it for 0."""
    return a.call("subnormal")


def root(a: Any) -> Any:
    """The processor's square root."""
    return a.call("root")


def library(name: str, a: Any, beyond: float = -1.0, near: Any = None) -> Any:
    """The function `name` of the C library, number by number, where ``|a| > beyond``; elsewhere `near`, or `a`."""
    return a.library(name, beyond, a if near is None else near)


def _curve32(r: Any) -> Any:
    """``(exp(r) - 1 - r) / r**2`` for ``|r| <= log(2)/2``; ``exp(r) - 1`` is fitted to a relative error of 1.4e-8."""
    p = 1.3882516650483012e-3 * r + 8.366547524929047e-3
    p = p * r + 4.166720062494278e-2
    p = p * r + 1.666654348373413e-1
    return p * r + 4.999999701976776e-1


def exp32(a: Any) -> Any:
    a = less(a, -104.0, -104.0, least(a, 89.0))
    n = (a * LOG2_E + ROUND_32) - ROUND_32
    r = a - n * LN2_HIGH_32 - n * LN2_LOW_32
    return scale((_curve32(r) * r + 1.0) * r + 1.0, n)


def exp64(a: Any) -> Any:
    a = less(a, -746.0, -746.0, least(a, 710.0))
    n = (a * LOG2_E + ROUND_64) - ROUND_64
    r = a - n * LN2_HIGH_64 - n * LN2_LOW_64
    s = r * r
    p = r * ((1.26177193074810590878e-4 * s + 3.02994407707441961300e-2) * s + 9.99999999999999999910e-1)
    q = 3.00198505138664455042e-6 * s + 2.52448340349684104192e-3
    q = (q * s + 2.27265548208155028766e-1) * s + 2.0
    p = 1.0 + 2.0 * (p / (q - p))
    return scale(p, n)


def tanh32(a: Any) -> Any:
    # tanh(a) = t / (t + 2) with t = exp(2 a) - 1 = 2**n (exp(r) - 1) + (2**n - 1): accurate for small t and large.
    m = least(magnitude(a), 9.1)
    m = m + m
    n = (m * LOG2_E + ROUND_32) - ROUND_32
    r = m - n * LN2_HIGH_32 - n * LN2_LOW_32
    power = power_of_two(n)
    t = ((_curve32(r) * r) * r + r) * power + (power - 1.0)
    return with_sign(t / (t + 2.0), a)


def tanh64(a: Any) -> Any:
    m = magnitude(a)
    s = m * m
    p = (-9.64399179425052238628e-1 * s - 9.92877231001918586564e1) * s - 1.61468768441708447952e3
    q = ((s + 1.12811678491632931402e2) * s + 2.23548839060100448583e3) * s + 4.84406305325125486048e3
    near = (s * (p / q)) * m + m
    far = 1.0 - 2.0 / (exp(m + m) + 1.0)
    return with_sign(less(m, 0.625, near, far), a)


def sigmoid32(a: Any) -> Any:
    # The exponential of -|a|: small results keep their relative accuracy.
    m = least(magnitude(a), 104.0)
    n = (m * -LOG2_E + ROUND_32) - ROUND_32
    r = (n * -LN2_HIGH_32 - m) - n * LN2_LOW_32
    e = scale((_curve32(r) * r + 1.0) * r + 1.0, n)
    return less(a, 0.0, e, 1.0) / (1.0 + e)


def sigmoid64(a: Any) -> Any:
    e = exp(-magnitude(a))
    return less(a, 0.0, e, 1.0) / (1.0 + e)


def hard_sigmoid(a: Any) -> Any:
    # The sum is exact where the result is small.
    slope = (a + 3.0) / 6.0
    return less(slope, 0.0, 0.0, least(slope, 1.0))


def _artanh(s: Any, terms: int) -> Any:
    """``2 artanh(s) / s`` as a series (Abramowitz & Stegun 1964, 4.6.22)."""
    s2 = s * s
    p: Any = 2.0 / (2 * terms - 1)
    for k in reversed(range(terms - 1)):
        p = p * s2 + 2.0 / (2 * k + 1)
    return p


def _softplus(a: Any, terms: int) -> Any:
    # log(1 + e) = 2 artanh(s) with s = e / (2 + e); with e from 0 to 1, s is at most 1/3 and each term adds almost a
    # decimal digit.
    e = exp(-magnitude(a))
    s = e / (2.0 + e)
    return relu(a) + s * _artanh(s, terms)


def softplus32(a: Any) -> Any:
    return _softplus(a, 8)


def softplus64(a: Any) -> Any:
    return _softplus(a, 17)


def _log(a: Any, least_normal: float, least_exponent: int, ln2: tuple[float, float], terms: int) -> Any:
    # Subnormal numbers would count as 0: they enter as whole multiples of the least one.
    size = magnitude(a)
    whole = less(size, least_normal, subnormal(a), a)
    n = exponent(whole) + less(size, least_normal, float(least_exponent), 0.0)
    m = significand(whole)
    # a = m 2**n with m from sqrt(1/2) to sqrt(2), and log(m) = 2 artanh(s) with s = (m - 1) / (m + 1), at most 0.172.
    n = less(m, math.sqrt(2), n, n + 1.0)
    f = less(m, math.sqrt(2), m, 0.5 * m) - 1.0
    s = f / (2.0 + f)
    result = n * ln2[0] + (s * _artanh(s, terms) + n * ln2[1])
    result = less(-whole, 0.0, result, less(whole, 0.0, math.nan, -math.inf))
    return less(whole, math.inf, result, whole)


def log32(a: Any) -> Any:
    return _log(a, 2.0**-126, -149, (LN2_HIGH_32, LN2_LOW_32), 5)


def log64(a: Any) -> Any:
    return _log(a, 2.0**-1022, -1074, (LN2_HIGH_64, LN2_LOW_64), 11)


def sqrt32(a: Any) -> Any:
    # Of the subnormal numbers, which would count as 0, as whole multiples of 2**-149 = 2**-150 * 2.
    return less(magnitude(a), 2.0**-126, root(2.0 * subnormal(a)) * 2.0**-75, root(a))


def sqrt64(a: Any) -> Any:
    return less(magnitude(a), 2.0**-1022, root(subnormal(a)) * 2.0**-537, root(a))


# pi in parts (Cody & Waite 1980, ch. 8). All but the last are so short that their products with n and with n + 1/2 are
# exact, for n up to 1e4 / pi in float32 and up to 1e6 / pi in float64.
PI_32 = (3.140625, 0.0009675025939941406, 1.5099067240953445e-07, 5.126565838509123e-12, 1.2246468525851679e-16)
PI_64 = (3.1415926534682512, 1.2154201012607932e-10, 4.044532497422333e-21, 1.69568553207378e-31)


def _sine(r: Any, terms: int) -> Any:
    """The sine from -pi/2 to pi/2, as a series (Abramowitz & Stegun 1964, 4.3.65)."""
    s = r * r
    p: Any = (-1) ** terms / math.factorial(2 * terms + 1)
    for k in reversed(range(1, terms)):
        p = p * s + (-1) ** k / math.factorial(2 * k + 1)
    value = r * (1.0 + s * p)
    return with_sign(least(magnitude(value), 1.0), value)


def _periodic(a: Any, shift: float, pi: tuple[float, ...], rounding: float, terms: int) -> Any:
    """``(-1)**n sin(r)`` for ``a = (n + shift) pi + r``."""
    n = (a * (1.0 / math.pi) - shift + rounding) - rounding
    r = a
    for part in pi:
        r = r - (n + shift) * part
    odd = n - 2.0 * ((0.5 * n + rounding) - rounding)
    return (1.0 - 2.0 * (odd * odd)) * _sine(r, terms)


def sin32(a: Any) -> Any:
    return library("sin", a, 1e4, _periodic(a, 0.0, PI_32, ROUND_32, 6))


def sin64(a: Any) -> Any:
    return library("sin", a, 1e6, _periodic(a, 0.0, PI_64, ROUND_64, 10))


def cos32(a: Any) -> Any:
    return library("cos", a, 1e4, -_periodic(a, 0.5, PI_32, ROUND_32, 6))


def cos64(a: Any) -> Any:
    return library("cos", a, 1e6, -_periodic(a, 0.5, PI_64, ROUND_64, 10))
