"""Checks of arguments of public functions: each message names the argument, what was expected, and what was given."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
# Subclasses that compute differently: `*` of matrices is a matrix product, and masked elements do not count.
_UNLIKE_ARRAYS = (np.matrix, np.ma.MaskedArray)


def plain_array(name: str, value: Any) -> NDArray[Any]:
    """`value` as a plain array that shares its memory, if it is a NumPy array that computes like one."""
    if type(value) is np.ndarray:
        return value
    if not isinstance(value, np.ndarray) or isinstance(value, _UNLIKE_ARRAYS):
        raise TypeError(f"{name}: expected a NumPy array, got {type(value).__name__}")
    return np.asarray(value)


def as_array(name: str, value: Any) -> NDArray[Any]:
    """`value` as an array of any dtype, if NumPy can convert it."""
    if isinstance(value, _UNLIKE_ARRAYS):
        raise TypeError(f"{name}: expected a NumPy array, got {type(value).__name__}")
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: expected an array, got {value!r}") from error


def float_array(name: str, value: Any, ndim: int | None = None) -> NDArray[Any]:
    """`value`, if it is a float32 or float64 array of `ndim` dimensions (None for any number)."""
    array = plain_array(name, value)
    if array.dtype not in FLOATS:
        raise TypeError(f"{name}: expected dtype float32 or float64, got {array.dtype}")
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"{name}: expected {ndim} dimensions, got shape {array.shape}")
    return array


def array_like(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any], like: str) -> NDArray[Any]:
    """`value`, if it is an array of `shape` and `dtype`; the message says that `like` has this dtype."""
    array = plain_array(name, value)
    if array.dtype != dtype:
        raise TypeError(f"{name}: expected dtype {dtype} as {like} has, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    return array


def rows_array(name: str, value: Any, leading: str, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """`value`, if it is an array of the layer's `dtype` and of shape (`leading`, `size`).

    `leading` names the axes before the last, as ``"T, N"``; ``"..."`` stands for any number of them.
    """
    array = plain_array(name, value)
    if array.dtype != dtype:
        raise TypeError(f"{name}: expected dtype {dtype} as the layer has, got {array.dtype}")
    ndim = max(1, array.ndim) if leading == "..." else leading.count(",") + 2
    if array.ndim != ndim or array.shape[-1] != size:
        raise ValueError(f"{name}: expected shape ({leading}, {size}), got {array.shape}")
    return array


def choice(name: str, value: Any, options: Collection[str]) -> str:
    """`value`, if it is one of `options`."""
    # The type is checked first, as `in` compares an array element by element.
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name}: expected one of {', '.join(options)}, got {_shown(value)}")
    return value


def flag(name: str, value: Any) -> bool:
    """`value`, if it is True or False, Python's or NumPy's."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected True or False, got {_shown(value)}")
    return bool(value)


def integer(name: str, value: Any) -> int:
    """`value`, if it is an integer."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: expected an integer, got {_shown(value)}")
    return int(value)


def positive_int(name: str, value: Any) -> int:
    """`value`, if it is an integer of at least 1."""
    number = integer(name, value)
    if number < 1:
        raise ValueError(f"{name}: expected at least 1, got {number}")
    return number


def share(name: str, value: Any) -> float:
    """`value`, if it is a number from 0 up to but not including 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{name}: expected a number from 0 up to but not including 1, got {_shown(value)}")
    return float(value)


def generator(name: str, seed: Any) -> np.random.Generator:
    """A generator of random numbers with `seed`, if NumPy accepts that."""
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name}: expected an integer of at least 0, got {_shown(seed)}") from error


def file_path(name: str, value: Any) -> Path:
    """`value`, if it can be the path of a file."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name}: expected a path, got {_shown(value)}")
    path = Path(value)
    if "\0" in str(path):
        raise ValueError(f"{name}: expected a path, got {value!r}, which has a null character")
    return path


def sequence_lengths(name: str, value: Any, n: int, longest: int) -> NDArray[np.int64] | None:
    """`value` as int64 (`n`,), if its elements are from 0 to `longest`; None if it is None or all are `longest`."""
    if value is None:
        return None
    lengths = as_array(name, value)
    if lengths.dtype == bool:
        raise TypeError(f"{name}: expected integers, got booleans: which steps are active is what mask= says")
    if lengths.size and lengths.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got dtype {lengths.dtype}")
    if lengths.shape != (n,):
        raise ValueError(f"{name}: expected shape ({n},), one per sequence, got {lengths.shape}")
    if lengths.size and (lengths.min() < 0 or lengths.max() > longest):
        raise ValueError(f"{name}: expected values from 0 to {longest}, got {lengths.min()} to {lengths.max()}")
    return None if (lengths == longest).all() else lengths.astype(np.int64)


def booleans(name: str, value: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """`value` as an array of booleans, if it is one of `shape` or can be converted to one."""
    array = as_array(name, value)
    if array.dtype != bool and array.size:
        raise TypeError(f"{name}: expected booleans, got dtype {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    return array.astype(bool, copy=False)


def known_keys(name: str, given: Mapping[str, Any], required: Sequence[str], optional: Sequence[str]) -> None:
    """Checks that `given` has all keys of `required` and no keys but those and the ones of `optional`."""
    missing = [k for k in required if k not in given]
    unknown = [k for k in given if k not in required and k not in optional]
    if missing or unknown:
        parts = [f"expected {', '.join([*required, *optional])}"]
        parts += [f"missing {', '.join(missing)}"] if missing else []
        parts += [f"unknown {', '.join(map(str, unknown))}"] if unknown else []
        raise ValueError(f"{name}: {'; '.join(parts)}")


def _shown(value: Any) -> str:
    return f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else repr(value)
