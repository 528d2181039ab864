"""Gradients against differences of the function itself, in float64.

The fourth-order central difference (Fornberg, Math. Comp. 51 (1988), table 1) has an error of about
1e-12 with this step, so that the promised 1e-7 leaves no doubt.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

STEP = 1e-3
STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))


def differences(loss: Callable[[], float], array: np.ndarray) -> np.ndarray:
    """Gradient of `loss` with respect to `array`, which is moved and put back."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        there = array[index]
        for offset, weight in STENCIL:
            array[index] = there + offset * STEP
            gradient[index] += weight * loss() / STEP
        array[index] = there
    return gradient


def assert_gradient(got: np.ndarray, loss: Callable[[], float], array: np.ndarray, name: str = "") -> None:
    """`got` is the gradient of `loss` with respect to `array`, to a relative error of 1e-7."""
    assert got.shape == array.shape, name
    expected = differences(loss, array)
    assert np.linalg.norm(expected) > 0, f"{name}: a gradient of zeros proves nothing"
    assert np.linalg.norm(got - expected) <= 1e-7 * np.linalg.norm(expected), name
