"""Cells: the description language, its expression graph, differentiation, and the built-in cells."""

from .builtin import gru, lstm, rnn
from .cell import Cell, cell
from .operations import exp, relu, sigmoid, softplus, tanh
from .trace import CellError

__all__ = [
    "Cell",
    "CellError",
    "cell",
    "exp",
    "gru",
    "lstm",
    "relu",
    "rnn",
    "sigmoid",
    "softplus",
    "tanh",
]
