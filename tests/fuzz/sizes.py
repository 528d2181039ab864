"""Sizes: small ones, and those on both sides of where the engines change their ways."""

from __future__ import annotations

import numpy as np

from .arrays import pick

Sizes = tuple[int, int, int, int]


def _tiny(rng: np.random.Generator) -> Sizes:
    return tuple(int(rng.integers(low, high)) for low, high in ((1, 10), (0, 10), (1, 10), (1, 21)))  # type: ignore[return-value]


def _one_sequence(rng: np.random.Generator) -> Sizes:
    T = pick(rng, (1, 2, 7, 8, 9, 47, 48, 49, 51, 60))
    return T, 1, pick(rng, (1, 4, 5, 33, 64, 70)), pick(rng, (1, 7, 33, 63, 64, 65, 100, 128))


def _few_sequences(rng: np.random.Generator) -> Sizes:
    """Whose weights are worth packing or not, whose units are divided between threads."""
    T, N = pick(rng, (1, 2, 3, 7, 8, 9, 16)), int(rng.integers(2, 10))
    return T, N, pick(rng, (1, 4, 5, 6, 40)), pick(rng, (30, 64, 90, 110, 129, 200, 255, 256, 257))


def _chunks(rng: np.random.Generator) -> Sizes:
    """Whose input is projected in several chunks of 512 rows, by steps of fewer than 8 sequences."""
    N = pick(rng, (0, 1, 1, 2, 3, 5, 7, 8))
    T = (512 * pick(rng, (1, 2, 3)) + int(rng.integers(-3, 12))) // max(1, N)
    return T + int(rng.integers(0, 3)), N, pick(rng, (4, 5, 9, 20)), pick(rng, (1, 3, 8, 20, 65))


def _many_sequences(rng: np.random.Generator) -> Sizes:
    T = int(rng.integers(1, 9))
    return T, pick(rng, (8, 15, 16, 17, 33, 64, 65, 100)), pick(rng, (1, 3, 16, 40)), pick(rng, (1, 5, 17, 63, 64, 70))


def _large(rng: np.random.Generator) -> Sizes:
    """Whose buffers are larger than a cache: Numba goes in chunks, and C++ keeps the memory for the next call."""
    return pick(rng, (40, 100, 300)), pick(rng, (4, 16, 32)), pick(rng, (1, 30)), pick(rng, (31, 64, 100))


def draw_sizes(rng: np.random.Generator) -> Sizes:
    """T, N, D, H."""
    ways = (_tiny, _one_sequence, _few_sequences, _chunks, _many_sequences, _large)
    sizes: Sizes = ways[rng.choice(len(ways), p=(0.55, 0.15, 0.12, 0.05, 0.11, 0.02))](rng)
    return sizes
