"""The cells that come with the library, each written as its paper writes it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from ..errors import choice, flag
from .cell import Cell, cell
from .operations import relu, sigmoid, tanh

NONLINEARITIES: dict[str, Callable[[Any], Any]] = {
    "tanh": tanh,
    "relu": relu,
    "sigmoid": sigmoid,
    "identity": lambda a: a,
}


def rnn(nonlinearity: str = "tanh") -> Cell:
    """Elman's simple recurrent network, ``h' = f(x + U h)`` (Elman 1990; Goodfellow et al. 2016, eq. 10.8-10.9).

    Parameters
    ----------
    nonlinearity : {"tanh", "relu", "sigmoid", "identity"}
        The function f.

    Returns
    -------
    Cell
        The same object at every call.

    Raises
    ------
    ValueError
        If `nonlinearity` is none of these.
    """
    return _rnn(choice("nonlinearity", nonlinearity, NONLINEARITIES))


@cache
def _rnn(nonlinearity: str) -> Cell:
    f = NONLINEARITIES[nonlinearity]

    def elman(x: Any, U: Any, h: Any) -> Any:
        return f(x.h + U.h @ h)

    # By this name the cell is pickled.
    elman.__qualname__ = name = f"rnn_{nonlinearity}"
    return cell(gates="h", name=name)(elman)


rnn_tanh, rnn_relu, rnn_sigmoid, rnn_identity = map(rnn, NONLINEARITIES)


@cell(gates="i f g o")
def lstm(x: Any, U: Any, h: Any, c: Any) -> Any:
    """Long short-term memory with forget gate (Hochreiter & Schmidhuber 1997; Gers et al. 2000)."""
    i, f = sigmoid(x.i + U.i @ h), sigmoid(x.f + U.f @ h)
    g, o = tanh(x.g + U.g @ h), sigmoid(x.o + U.o @ h)
    c = f * c + i * g
    return o * tanh(c), c


@cell(gates="r z n")
def gru_reset_after(x: Any, U: Any, h: Any) -> Any:
    """Gated recurrent unit, reset gate after the product (Cho et al. 2014 v3; cuDNN and PyTorch)."""
    r, z = sigmoid(x.r + U.r @ h), sigmoid(x.z + U.z @ h)
    n = tanh(x.n + r * (U.n @ h))
    return (1 - z) * n + z * h


@cell(gates="r z n")
def gru_reset_before(x: Any, U: Any, h: Any) -> Any:
    """Gated recurrent unit, reset gate before the product (Cho et al. 2014, eq. 5-8)."""
    r, z = sigmoid(x.r + U.r @ h), sigmoid(x.z + U.z @ h)
    n = tanh(x.n + U.n @ (r * h))
    return (1 - z) * n + z * h


def gru(reset_after: bool = True) -> Cell:
    """The gated recurrent unit (Cho et al. 2014, eq. 5-8).

    Parameters
    ----------
    reset_after : bool
        Whether the reset gate is applied after the recurrent product (cuDNN and PyTorch) or before it (the paper).

    Returns
    -------
    Cell
        The same object at every call.

    Raises
    ------
    TypeError
        If `reset_after` is not a bool.
    """
    return gru_reset_after if flag("reset_after", reset_after) else gru_reset_before


def built_in() -> list[Cell]:
    """Every cell that comes with the library."""
    return [*(rnn(f) for f in NONLINEARITIES), lstm, gru_reset_after, gru_reset_before]
