"""Numbers of 8 bits: what products of split numbers are made of, and the NumPy backend with such products."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np

from cases import reference
from fastrnn.backends.numpy_backend import NumpyBackend
from naive import Call
from problems import Problem, Result


def nearest_bf16(a: np.ndarray) -> np.ndarray:
    """The nearest numbers of 8 bits, the even one where two are as near; float32."""
    bits = a.astype(np.float32).view(np.uint32).astype(np.uint64)
    bits += 0x7FFF + (bits >> 16 & 1)
    return (bits & 0xFFFF0000).astype(np.uint32).view(np.float32)


def split(a: np.ndarray, parts: int) -> list[np.ndarray]:
    """`parts` arrays of bf16 numbers, each nearest to what those before it leave of float32 `a`; 0: `a` itself."""
    left, taken = a, []
    for _ in range(parts):
        taken.append(nearest_bf16(left))
        left = (left - taken[-1]).astype(np.float32)
    return taken or [a]


def product(a: np.ndarray, b: np.ndarray, parts: int) -> np.ndarray:
    """a @ b of numbers in `parts` parts, in float64, without the products that are below the last part."""
    left, right = ([part.astype(np.float64) for part in split(number, parts)] for number in (a, b))
    return sum(one @ other for i, one in enumerate(left) for other in right[: len(right) - i])


class _Split(np.ndarray):
    """Arrays whose matrix products are those of numbers in `parts` parts, and so are those of what is made of them."""

    parts: int

    def __array_finalize__(self, other: Any) -> None:
        self.parts = getattr(other, "parts", 0)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = (), **options: Any) -> Any:
        plain = [np.asarray(a) if isinstance(a, np.ndarray) else a for a in inputs]
        if out:
            options["out"] = tuple(np.asarray(a) for a in out)
        if ufunc is np.matmul:
            result = product(*plain, self.parts).astype(self.dtype)
        else:
            result = getattr(ufunc, method)(*plain, **options)
        return self._like_this(result)

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        return self._like_this(super().__array_function__(function, types, arguments, options))

    def _like_this(self, result: Any) -> Any:
        if not isinstance(result, np.ndarray):
            return result
        result = result.view(_Split)
        result.parts = self.parts
        return result


def split_reference(p: Problem, call: Call, parts: int) -> Result:
    """`p` on the NumPy backend, all products those of numbers in `parts` parts; 0: of the numbers as they are."""

    def splitting(a: np.ndarray) -> _Split:
        own = a.view(_Split)
        own.parts = parts
        return own

    def with_split_products(method: Any) -> Any:
        def run(backend: Any, call: Any, *rest: Any, **options: Any) -> Any:
            state, params = tuple(map(splitting, call.state)), {k: splitting(a) for k, a in call.params.items()}
            result = method(backend, replace(call, x=splitting(call.x), state=state, params=params), *rest, **options)
            # Both kinds of results have one array first and the states' second.
            first, states, *others = result
            return type(result)(np.asarray(first), tuple(map(np.asarray, states)), *others)

        return run

    methods = {name: with_split_products(getattr(NumpyBackend, name)) for name in ("forward", "backward")}
    with mock.patch.multiple(NumpyBackend, **methods):
        return reference(p, call)
