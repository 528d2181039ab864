"""Optimizers over dictionaries of arrays, with PyTorch's formulas and defaults, and gradient clipping."""

from ._clipping import NonFiniteGradient, clip_grad_norm
from ._optimizers import SGD, Adagrad, Adam, Optimizer, RMSprop

__all__ = ["SGD", "Adagrad", "Adam", "NonFiniteGradient", "Optimizer", "RMSprop", "clip_grad_norm"]
