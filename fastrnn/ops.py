"""The functions that a cell's description may use, besides ``+ - * /`` and numbers."""

from .cells.expr import exp, relu, sigmoid, softplus, tanh

__all__ = ["exp", "relu", "sigmoid", "softplus", "tanh"]
