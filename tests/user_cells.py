"""Cells that are not built in, written as a user would: any cell takes the same road."""

from __future__ import annotations

from fastrnn import cell
from fastrnn.ops import exp, maximum, relu, sigmoid, softplus, tanh, where


@cell(gates="a")
def leaky(x, U, h, *, tau=10.0, dt=1.0):
    """Leaky (continuous-time) RNN, Euler step dt of tau h' = -h + tanh(x + U h).

    Funahashi & Nakamura, Neural Networks 6 (1993), eq. 1, with the nonlinearity around the sum.
    """
    return h + dt / tau * (tanh(x.a + U.a @ h) - h)


@cell(gates="f n")
def mgu(x, U, h):
    """Minimal gated unit: Zhou, Wu, Zhang & Zhou, arXiv:1603.09420 (2016), table 1."""
    f = sigmoid(x.f + U.f @ h)
    n = tanh(x.n + U.n @ (f * h))
    return (1 - f) * h + f * n


@cell(gates="i g o")
def coupled_lstm(x, U, h, c):
    """LSTM whose forget gate is 1 - input gate: Greff et al., IEEE TNNLS 28 (2017), CIFG."""
    i, o = sigmoid(x.i + U.i @ h), sigmoid(x.o + U.o @ h)
    g = tanh(x.g + U.g @ h)
    c = (1 - i) * c + i * g
    return o * tanh(c), c


@cell(gates="i f g o", units="pi pf po")
def peephole_lstm(x, U, p, h, c):
    """LSTM whose gates see the cell state: Gers & Schmidhuber, IJCNN (2000)."""
    i = sigmoid(x.i + U.i @ h + p.pi * c)
    f = sigmoid(x.f + U.f @ h + p.pf * c)
    c = f * c + i * tanh(x.g + U.g @ h)
    o = sigmoid(x.o + U.o @ h + p.po * c)
    return o * tanh(c), c


@cell(gates="h", units="u")
def indrnn(x, p, h):
    """Independently recurrent network: Li et al., CVPR (2018), eq. 2."""
    return relu(x.h + p.u * h)


@cell(gates="r n", recurrent="R N S")
def relaxing(x, U, h):
    """A cell that nobody has named: three dependent products, and every operation that is left.

    h moves to a candidate n, the farther the larger S (n - h); the weight of h is exp(-softplus).
    """
    r = sigmoid(x.r + U.R @ h)
    n = tanh(x.n + U.N @ (r * h))
    k = exp(-softplus(U.S @ (n - h)))
    return (n + k * h) / (1 + k)


@cell(gates="f n", recurrent="n")
def choosing(x, U, h):
    """A cell that nobody has named: derivatives that are a gate and a state themselves; a choice of two branches."""
    n = where(h < 0.3, tanh(x.n + U.n @ (x.f * h)), 0.3 * h)
    return 0.9 * maximum(n, 0.5 * h)
