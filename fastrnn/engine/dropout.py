"""Dropout masks from a counter-based generator: a bit depends only on seed, call, layer and position of the element.

All backends draw the same bits, whatever the order in which they compute; the backward pass draws them again instead of
storing them. The generator is SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom
number generators"): a bijective hash of a counter that advances by an odd constant.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_ADVANCE = 0x9E3779B97F4A7C15
_BITS = (1 << 64) - 1


class Draw(NamedTuple):
    """The dropout of one call.

    seed, number : seed of the generator, and number of the call
    rate : probability that an element is set to zero, from 0 up to but not including 1
    begin : elements of the call before the first one here
    """

    seed: int
    number: int
    rate: float
    begin: int = 0

    def key(self, layer: int) -> int:
        """Start of the counter for the input of `layer`."""
        start = _hash(_hash(_hash(self.seed & _BITS) + self.number) + layer)
        return (start + self.begin * _ADVANCE) & _BITS

    def after(self, elements: int) -> Draw:
        """The rest of the draw, from so many elements on."""
        return self._replace(begin=self.begin + elements)

    @property
    def threshold(self) -> int:
        """An element is kept if the upper half of its hash is at least this."""
        return round(self.rate * (1 << 32))

    @property
    def scale(self) -> float:
        """Factor of the elements that are kept."""
        return 1 / (1 - self.rate)

    def applied(self, layer: int, x: NDArray[Any]) -> NDArray[Any]:
        """`x` (T, N, F), the input of `layer` or its gradient, with elements dropped and the others scaled."""
        places = np.arange(1, x.size + 1, dtype=np.uint64)
        hashed = places * np.uint64(_ADVANCE) + np.uint64(self.key(layer))
        hashed = (hashed ^ (hashed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        hashed = (hashed ^ (hashed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        kept = ((hashed ^ (hashed >> np.uint64(31))) >> np.uint64(32)) >= self.threshold
        # Not a product with 0: dropped elements are 0 even if they were infinite or NaN.
        result: NDArray[Any] = np.where(kept.reshape(x.shape), x * x.dtype.type(self.scale), x.dtype.type(0))
        return result


def _hash(value: int) -> int:
    value = (value + _ADVANCE) & _BITS
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _BITS
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _BITS
    return value ^ (value >> 31)
