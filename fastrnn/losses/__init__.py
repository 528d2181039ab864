"""Losses: each returns its value and its gradient."""

from ._losses import mse, softmax_cross_entropy

__all__ = ["mse", "softmax_cross_entropy"]
