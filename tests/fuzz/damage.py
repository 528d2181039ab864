"""What may be wrong with an argument, by its kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fastrnn
from fastrnn import functional

# Steps, sequences, features and units of the calls, all different: no array fits in the place of another.
T, N, D, H = 5, 4, 3, 6
Change = Callable[[Any], Any]


def _masked(a: np.ndarray) -> Any:
    return np.ma.masked_array(a, a > 0)


# Never an array that a call takes, whatever it takes; sizes of the calls below are all different.
ARRAYS: dict[str, Change] = {
    "list": lambda a: a.tolist(),
    "number": lambda a: 1.0,
    "text": lambda a: "abc",
    "bytes": lambda a: a.tobytes(),
    "dict": lambda a: {"a": a},
    "tuple of one": lambda a: (a,),
    "class": lambda a: type(a),
    "object": lambda a: a.astype(object),
    "integer": lambda a: a.astype(int),
    "boolean": lambda a: a > 0,
    "float16": lambda a: a.astype("float16"),
    "complex": lambda a: a.astype(complex),
    "text array": lambda a: a.astype(str),
    "times": lambda a: a.astype("datetime64[s]"),
    "other float": lambda a: a.astype("float64"),
    "other byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "structured": lambda a: a.view([("real", a.dtype)]),
    "fewer dimensions": lambda a: a[..., 0],
    "more dimensions": lambda a: a[None, None],
    "no dimension": lambda a: a.reshape(-1)[0].reshape(()),
    "one column more": lambda a: np.concatenate([a, a[..., :1]], axis=-1),
    "one column less": lambda a: a[..., 1:],
    "no columns": lambda a: a[..., :0],
    "masked": _masked,
}
MATRICES: dict[str, Change] = {
    "matrix": lambda a: a.view(np.matrix),
    "transposed": lambda a: a.T,
    "one row less": lambda a: a[1:],
    "no rows": lambda a: a[:0],
    "twice": lambda a: np.concatenate([a, a]),
}
ODD: dict[str, Any] = {
    "nan": np.nan,
    "half": 2.5,
    "text": "2",
    "list": [1, 2],
    "dict": {},
    "function": np.tanh,
    "complex": 1j,
    "array": np.array([1, 2]),
    "array of one": np.array([3.5]),
    "float array": np.array([0.5, 0.5]),
    "empty array": np.empty(0),
    "object array": np.array([None, "a"], object),
    "object": object(),
}
STATES: dict[str, Change] = {
    "one less": lambda s: s[:-1],
    "one more": lambda s: (*s, s[0]),
    "array": lambda s: np.array(s),
    "text": lambda s: "abc",
    "number": lambda s: 3,
    "dict": lambda s: dict(enumerate(s)),
    "first a list": lambda s: (s[0].tolist(), *s[1:]),
    "last a row less": lambda s: (*s[:-1], s[-1][..., 1:, :]),
    "last of another float": lambda s: (*s[:-1], s[-1].astype("float64")),
    "last masked": lambda s: (*s[:-1], _masked(s[-1])),
}
MAPPINGS: dict[str, Change] = {
    "None": lambda m: None,
    "list": lambda m: list(m.values()),
    "text": lambda m: "abc",
    "array": lambda m: next(iter(m.values())),
    "one missing": lambda m: dict(list(m.items())[1:]),
    "one unknown": lambda m: {**m, "unknown": next(iter(m.values()))},
    "a key of another type": lambda m: {**m, 3: next(iter(m.values()))},
    "a list in it": lambda m: {k: a.tolist() for k, a in m.items()},
    "another float in it": lambda m: {k: a.astype("float16") for k, a in m.items()},
    "other shapes in it": lambda m: {k: a[..., 1:] for k, a in m.items()},
    "masked in it": lambda m: {k: _masked(a) for k, a in m.items()},
    "None in it": lambda m: dict.fromkeys(m),
}


def _others(**values: Any) -> dict[str, Change]:
    table = {**ODD, **{k.replace("_", " "): v for k, v in values.items()}}
    return {name: lambda _, value=value: value for name, value in table.items()}


def _without(table: dict[str, Change], *names: str) -> dict[str, Change]:
    return {name: change for name, change in table.items() if name not in names}


# By kind of argument what is wrong for it.
WRONG: dict[str, dict[str, Change]] = {
    "array": {**ARRAYS, "None": lambda a: None},
    "matrix": {**ARRAYS, **MATRICES, "None": lambda a: None},
    "square": {**ARRAYS, **_without(MATRICES, "transposed"), "None": lambda a: None},
    "optional array": ARRAYS,
    "optional matrix": {**ARRAYS, **MATRICES},
    "lengths": {
        **_without(_others(), "array"),
        "too long": lambda a: [T + 1] * N,
        "negative": lambda a: [-1] * N,
        "one less": lambda a: [1] * (N - 1),
        "two dimensions": lambda a: [[1] * N],
        "ragged": lambda a: [[1], [1, 2], 3, 4],
        "booleans": lambda a: [True] * N,
        "floats": lambda a: [1.0] * N,
        "past int64": lambda a: [2**64] * N,
        "past uint64": lambda a: np.array([2**63] * N, np.uint64),
        "number": lambda a: 3,
        "set": lambda a: {1, 2, 3, 4},
    },
    "count": _others(zero=0, negative=-1, true=True, none=None, long_double=np.longdouble(2)),
    "truncate": _without(
        _others(zero=0, negative=-1, true=True, backwards=(3, 2), alone=(3,), zeros=(0, 0), texts=("1", "2")), "list"
    ),
    "recompute": _others(zero=0, negative=-1, true=True, unknown="all"),
    "number": _without(_others(negative=-1.0, none=None, true=True, long_double=np.longdouble("nan")), "half"),
    "share": _others(one=1.0, negative=-0.1, none=None, true=True),
    "pair": _others(one=(0.9,), three=(0.9, 0.9, 0.9), too_large=(0.9, 1.5), texts=("a", "b"), none=None, number=3),
    "choice": _others(unknown="unknown", empty="", none=None, bytes=b"tanh", one=1, list_of_texts=["tanh"]),
    "order": _others(unknown="abcd", short="i", empty="", number=4, nested=[["i"]], numbers=(1, 2, 3, 4)),
    "dtype": _others(half="float16", integer="int64", unknown="unknown", whole=int, void="V4"),
    "cell": _others(text="lstm", none=None, type=fastrnn.Cell),
    "cache": _others(none=None, pair=(1, 2), type=functional.Cache),
    "layers": _others(none=None, empty=[], number=3, twice=[fastrnn.Linear(2, 2)] * 2, type=[fastrnn.Linear]),
    "tuple of states": STATES,
    "mapping": MAPPINGS,
    "parameters": _without(MAPPINGS, "a list in it", "another float in it", "masked in it"),
    "targets": {
        **_without(_others(), "array"),
        "too large": lambda a: np.full_like(a, 99),
        "negative": lambda a: np.full_like(a, -1),
        "one less": lambda a: a[1:],
        "floats": lambda a: a.astype(float),
        "booleans": lambda a: a > 0,
        "none": lambda a: None,
    },
    "indices": {
        **_without(_others(), "array", "list"),
        "too large": lambda a: np.full_like(a, 99),
        "negative": lambda a: np.full_like(a, -1),
        "floats": lambda a: a.astype(float),
        "none": lambda a: None,
    },
    "path": _without(_others(none=None, number=3.5, list_of_texts=["a"], bytes=b"a", null="a\0b"), "text"),
    "texts": _without(
        _others(numbers={"a": 1}, number_keys={1: "a"}, own={"fastrnn": "a"}, surrogate={"a": "\ud800"}), "dict"
    ),
    "cells": _without(_others(layers={"a": fastrnn.LSTM}, number=3), "dict", "empty array"),
}
# What says nothing wrong by itself, but may be refused: as a flag, or an index that no row has.
FREE: dict[str, dict[str, Change]] = {
    "flag": _others(none=None, number=7, empty=""),
    "index": _others(none=None, negative=-100),
    "seed": _others(negative=-1, number=7),
}
KINDS = WRONG | FREE

KINDS |= {
    "logits": _without(KINDS["array"], "other float", "fewer dimensions", "one column less", "one column more"),
    "rows": _without(KINDS["array"], "more dimensions"),
    "tensors": _without(KINDS["mapping"], "one missing", "one unknown", "a key of another type", "other shapes in it"),
    "list of states": _others(pair=[1, 2], number=3, empty=[], numbers=[3]),
}
