"""Layers without memory in a chain of an online learner."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Array
from ..layers import Embedding, Layer


class Memoryless:
    """A layer whose gradient is that of this step alone."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.x: Any = None

    def clear(self, rows: Array) -> None:
        """There is nothing of the past."""

    def forward(self, x: Array) -> Array:
        """The output for `x` (N, ...)."""
        self.x = x
        return self.layer(x)  # type: ignore[operator, no-any-return]

    def tangent(self, x_dot: Array | None) -> Array | None:
        """Derivative of the output along a direction in the input."""
        return None if x_dot is None else x_dot @ self.layer.params["W"]

    def back(self, dy: Array) -> Array | None:
        """Gradient of the input; None for integers."""
        return None if isinstance(self.layer, Embedding) else dy @ self.layer.params["W"].T

    def backward(self, dy: Array) -> Array | None:
        """The same, when the gradients of the parameters have been added."""
        self.add(dy)
        return self.back(dy)

    def add(self, dy: Array) -> None:
        """Add the gradients of the parameters to ``grads``."""
        grads = self.layer.grads
        if isinstance(self.layer, Embedding):
            np.add.at(grads["W"], self.x, dy)
            return
        grads["W"] += self.x.T @ dy
        if "b" in grads:
            grads["b"] += dy.sum(axis=0)


class Influenced(Memoryless):
    """A layer below one with memory: its parameters act on the states above, so they have an influence too.

    output_influence : (N, O, lower columns + own); own are the elements of W, those of b, and zeros
    """

    def __init__(self, layer: Layer, lower: int) -> None:
        super().__init__(layer)
        self.lower, self.own = lower, sizes(layer)[1]
        self.output_influence: Array = np.zeros(0)

    def step(self, x: Array, below: Array | None) -> Array:
        """The output for `x`; `below` (N, D, lower columns) is the influence of the parameters below on `x`."""
        y = self.forward(x)
        N, size = y.shape
        made = np.zeros((N, size, self.lower + self.own), y.dtype)
        if below is not None:
            made[:, :, : self.lower] = self.layer.params["W"].T @ below
        units, sequences = np.arange(size), np.arange(N)[:, None]
        if isinstance(self.layer, Embedding):
            made[sequences, units, x[:, None] * size + units] = 1
        else:
            of_W = made[:, :, self.lower : self.lower + x.shape[1] * size].reshape(N, size, -1, size)
            of_W[:, units, :, units] = x
            made[:, :, self.lower : self.lower + x.shape[1] * size] = of_W.reshape(N, size, -1)
            if "b" in self.layer.params:
                made[:, units, self.lower + x.shape[1] * size + units] = 1
        self.output_influence = made
        return y

    def add_columns(self, columns: Array) -> None:
        """Add the gradient of the own columns to ``grads``."""
        grads, at = self.layer.grads, 0
        for grad in grads.values():
            grad += columns[at : at + grad.size].reshape(grad.shape)
            at += grad.size


def sizes(layer: Layer) -> tuple[int, int]:
    """Outputs of a layer without memory, and columns of an influence for its parameters."""
    size = layer.embedding_size if isinstance(layer, Embedding) else layer.output_size  # type: ignore[attr-defined]
    # Whole vectors of any processor.
    return size, -(-sum(p.size for p in layer.params.values()) // 16) * 16
