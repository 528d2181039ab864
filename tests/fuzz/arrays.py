"""Numbers of a case: where they lie in memory, and how far results may differ."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from test_bad_input import unaligned

Results = dict[str, np.ndarray]


def _gaps(a: np.ndarray) -> np.ndarray:
    room = np.full([2 * n for n in a.shape], np.nan, a.dtype)
    view = room[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def _wide_rows(a: np.ndarray) -> np.ndarray:
    room = np.full((*a.shape[:-1], a.shape[-1] + 3), np.nan, a.dtype)
    view = room[..., 1 : 1 + a.shape[-1]]
    view[...] = a
    return view


def _swapped(a: np.ndarray) -> np.ndarray:
    return a.swapaxes(0, 1).copy().swapaxes(0, 1) if a.ndim > 1 else a.copy()


def _mapped(a: np.ndarray) -> np.ndarray:
    if a.size == 0:
        return a.copy()
    with tempfile.TemporaryFile() as file:
        result = np.memmap(file, a.dtype, "w+", shape=a.shape)
    result[...] = a
    return result


# Ways to hold the same numbers; those of "repeated" along the first axis are the same.
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "C": np.array,
    "F": np.asfortranarray,
    "gaps": _gaps,
    "wide rows": _wide_rows,
    "negative": lambda a: np.flip(np.flip(a).copy()),
    "swapped": _swapped,
    "unaligned": lambda a: unaligned(a) if a.size else a.copy(),
    "repeated": lambda a: np.broadcast_to(a[:1], a.shape) if len(a) else a,
    "memmap": _mapped,
}


def placed(a: np.ndarray, layout: str) -> np.ndarray:
    """`a` as `layout` says, read-only: a write by NumPy shows at once, one by the engine at the end."""
    result = LAYOUTS[layout](a)
    result.flags.writeable = False
    return result


def normal(rng: np.random.Generator, shape: tuple[int, ...], deviation: float = 1.0) -> np.ndarray:
    """Normal numbers in float64 that float32 holds exactly."""
    return (deviation * rng.standard_normal(shape)).astype("f4").astype("f8")


# Relative to the largest number of an array; float32 and float64 as in the tests of variants.
RTOL = {"float32": 8e-6, "float64": 4e-12, "bf16": 2.0**-5}
# Rounding errors beside those of float32.
_EPSILON = {"float32": 1.0, "float64": 2.0**-29, "bf16": 2.0**16}


def assert_near(got: Results, exact: Mapping[str, np.ndarray], rough: Mapping[str, np.ndarray], kind: str) -> None:
    """`got` is as near to `exact` as numbers of this `kind` allow.

    `exact` is the reference in float64, `rough` the same in float32: what rounding costs there says how much a
    problem enlarges errors. Numbers that overflow float32 prove nothing.
    """
    assert got.keys() == exact.keys()
    for name, want in exact.items():
        have = got[name]
        assert have.shape == want.shape, f"{name}: shape {have.shape}, expected {want.shape}"
        if want.size == 0 or not np.isfinite(rough[name]).all():
            continue
        error = np.abs(have - want).max()
        own = np.abs(rough[name] - want).max() * _EPSILON[kind]
        bound = 0.1 * RTOL[kind] + RTOL[kind] * np.abs(want).max() + 16 * own
        assert error <= bound, f"{name}: error {error:.3g} > {bound:.3g}"


def assert_same_specials(got: Results, want: Mapping[str, np.ndarray]) -> None:
    """The same elements are NaN, infinite of either sign, and finite."""
    for name, expected in want.items():
        have = got[name]
        for what, test in (("NaN", np.isnan), ("inf", np.isposinf), ("-inf", np.isneginf)):
            differs = test(have) != test(expected)
            if differs.any():
                at = tuple(int(i) for i in np.argwhere(differs)[0])
                raise AssertionError(
                    f"{name}: {int(differs.sum())} of {differs.size} differ in {what}, first at {at}: "
                    f"{have[at]}, expected {expected[at]}"
                )


def assert_bits(got: Results, want: Mapping[str, np.ndarray], what: str) -> None:
    """The same bits (NaN equals NaN)."""
    for name, expected in want.items():
        np.testing.assert_array_equal(got[name], expected, err_msg=f"{what}: {name}")


def pick(rng: np.random.Generator, options: Any) -> Any:
    """One of `options`, as it is: not as a number of NumPy's."""
    options = list(options)
    return options[rng.integers(len(options))]


def often(rng: np.random.Generator, value: Any, otherwise: Any, share: float = 0.6) -> Any:
    """`value` in this share of all cases, else one of `otherwise`."""
    return value if rng.random() < share else pick(rng, otherwise)
