"""Checks of numbers and of arrays that are updated in place."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.contract import Array
from ..errors import float_array


def writable_float(name: str, value: Any) -> Array:
    """`value`, if it is a float array that can be updated in place."""
    array = float_array(name, value)
    if not array.flags.writeable:
        raise ValueError(f"{name}: expected an array that can be updated in place, got a read-only one")
    return array


def number(name: str, value: Any) -> float:
    """`value`, if it is a real number."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    return float(value)


def at_least(name: str, value: float, least: float) -> float:
    """`value`, if it is a number of at least `least`."""
    result = number(name, value)
    if not result >= least:
        raise ValueError(f"{name}: expected at least {least:g}, got {value!r}")
    return result


def fraction(name: str, value: float) -> float:
    """`value`, if it is a number from 0 up to but not including 1."""
    value = at_least(name, value, 0.0)
    if value >= 1:
        raise ValueError(f"{name}: expected less than 1, got {value!r}")
    return value
