"""Checks of arguments at the public boundary: each message names the argument, what was expected, what came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def float_array(name: str, value: Any, ndim: int | None = None) -> NDArray[Any]:
    """`value`, if it is a float32 or float64 array of `ndim` dimensions (None: of any number)."""
    if type(value) is not np.ndarray and not isinstance(value, np.ndarray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(value).__name__}")
    if value.dtype not in FLOATS:
        raise TypeError(f"{name}: expected dtype float32 or float64, got {value.dtype}")
    if ndim is not None and value.ndim != ndim:
        raise ValueError(f"{name}: expected {ndim} dimensions, got shape {value.shape}")
    return value


def array_like(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any], why: str) -> NDArray[Any]:
    """`value`, if it is an array of `shape` and of the `dtype` that `why` has."""
    if type(value) is not np.ndarray and not isinstance(value, np.ndarray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(value).__name__}")
    if value.dtype != dtype:
        raise TypeError(f"{name}: expected dtype {dtype} as {why} has, got {value.dtype}")
    if value.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {value.shape}")
    return value


def rows_array(name: str, value: Any, leading: str, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """`value`, if it is an array of the layer's `dtype` and of shape (`leading`, `size`).

    `leading` names the axes before the last, as ``"T, N"``; ``"..."`` stands for any number of them.
    """
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(value).__name__}")
    if value.dtype != dtype:
        raise TypeError(f"{name}: expected dtype {dtype} as the layer has, got {value.dtype}")
    ndim = max(1, value.ndim) if leading == "..." else leading.count(",") + 2
    if value.ndim != ndim or value.shape[-1] != size:
        raise ValueError(f"{name}: expected shape ({leading}, {size}), got {value.shape}")
    return value


def choice(name: str, value: Any, options: Sequence[Any]) -> Any:
    """`value`, if it is one of `options`."""
    if value not in options:
        raise ValueError(f"{name}: expected one of {', '.join(map(str, options))}, got {value!r}")
    return value


def positive_int(name: str, value: Any) -> int:
    """`value`, if it is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, got {value}")
    return int(value)


def sequence_lengths(name: str, value: Any, n: int, longest: int) -> NDArray[np.int64] | None:
    """`value` as int64 (`n`,) with entries from 0 to `longest`; None if it is None or all are `longest`."""
    if value is None:
        return None
    lengths = np.asarray(value)
    if lengths.size and lengths.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got dtype {lengths.dtype}")
    if lengths.shape != (n,):
        raise ValueError(f"{name}: expected shape ({n},), one per sequence, got {lengths.shape}")
    if lengths.size and (lengths.min() < 0 or lengths.max() > longest):
        raise ValueError(f"{name}: expected values from 0 to {longest}, got {lengths.min()} to {lengths.max()}")
    return None if (lengths == longest).all() else lengths.astype(np.int64)


def known_keys(name: str, given: Mapping[str, Any], required: Sequence[str], optional: Sequence[str]) -> None:
    """Checks that `given` has all of `required` and nothing outside `required` and `optional`."""
    missing = [k for k in required if k not in given]
    unknown = [k for k in given if k not in required and k not in optional]
    if missing or unknown:
        parts = [f"expected {', '.join([*required, *optional])}"]
        parts += [f"missing {', '.join(missing)}"] if missing else []
        parts += [f"unknown {', '.join(map(str, unknown))}"] if unknown else []
        raise ValueError(f"{name}: {'; '.join(parts)}")
