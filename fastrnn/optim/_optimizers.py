"""Optimizers: each updates parameters in place from their gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..engine.contract import Array
from ..engine.memory import writable
from ..errors import array_like
from ..representation import as_call
from ._arguments import at_least, fraction, writable_float


class Optimizer:
    """Base class of the optimizers: updates parameters in place, one :meth:`step` for each set of gradients.

    A pickle of an optimizer has all its state. Pickled together with its model, in one pickle, it goes on updating
    the model's arrays; pickled alone, it updates copies of them.

    Parameters
    ----------
    params : mapping of str to array
        The arrays themselves are updated; float32 or float64, writable.
    lr : float
        Learning rate, at least 0.
    weight_decay : float
        L2 penalty, at least 0: ``weight_decay * parameter`` is added to each gradient.
    num_buffers : int
        Arrays that the optimizer keeps for each parameter, in its shape.

    Attributes
    ----------
    params : dict of str to array
        The parameters.
    lr, weight_decay : float
        May be changed between steps.
    steps : int
        Number of steps taken.

    Raises
    ------
    TypeError
        If a parameter is not a float32 or float64 array, or a number is not one.
    ValueError
        If a parameter is read-only, or a number is out of its range.
    """

    def __init__(self, params: Mapping[str, Array], lr: float, weight_decay: float, num_buffers: int) -> None:
        if not isinstance(params, Mapping):
            raise TypeError(f"params: expected a mapping of arrays, got {type(params).__name__}")
        self.lr = at_least("lr", lr, 0.0)
        self.weight_decay = at_least("weight_decay", weight_decay, 0.0)
        self.params = {key: writable_float(f"params[{key!r}]", p) for key, p in params.items()}
        self.steps = 0
        self._buffers = {k: [np.zeros_like(p) for _ in range(num_buffers)] for k, p in self.params.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.params = {key: writable(p) for key, p in self.params.items()}
        self._buffers = {key: [writable(a) for a in arrays] for key, arrays in self._buffers.items()}

    def __repr__(self) -> str:
        count = f"{len(self.params)} array{'s' if len(self.params) != 1 else ''}"
        return as_call(self, first=count, always=("lr",))

    def step(self, grads: Mapping[str, Array]) -> None:
        """Update every parameter from its gradient.

        Parameters
        ----------
        grads : mapping of str to array
            Same keys, shapes and dtypes as the parameters.

        Raises
        ------
        TypeError
            If `grads` is not a mapping, or a gradient has another dtype.
        ValueError
            If keys or shapes differ. No parameter has been changed then.
        """
        if not isinstance(grads, Mapping):
            raise TypeError(f"grads: expected a mapping of arrays, got {type(grads).__name__}")
        if grads.keys() != self.params.keys():
            odd = sorted(map(str, set(grads) ^ set(self.params)))
            raise ValueError(f"grads: expected the keys of params, got a difference in {', '.join(odd)}")
        given = {
            key: array_like(f"grads[{key!r}]", grads[key], p.shape, p.dtype, "the parameter")
            for key, p in self.params.items()
        }
        self.steps += 1
        for key, p in self.params.items():
            g = given[key] + self.weight_decay * p if self.weight_decay else given[key]
            self._update(p, g, *self._buffers[key])

    def _update(self, p: Array, g: Array, *buffers: Array) -> None:
        raise NotImplementedError


class SGD(Optimizer):
    """Stochastic gradient descent with momentum (Polyak 1964): ``v = momentum v + g``, ``p -= lr v``.

    Parameters
    ----------
    params, lr, weight_decay
        See :class:`Optimizer`.
    momentum : float
        At least 0.

    Raises
    ------
    TypeError, ValueError
        As for :class:`Optimizer`.
    """

    def __init__(
        self, params: Mapping[str, Array], lr: float = 1e-3, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        self.momentum = at_least("momentum", momentum, 0.0)
        super().__init__(params, lr, weight_decay, 1 if momentum else 0)

    def _update(self, p: Array, g: Array, *buffers: Array) -> None:
        if buffers:
            (v,) = buffers
            v *= self.momentum
            v += g
            g = v
        p -= self.lr * g


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1).

    With ``m`` and ``v`` the running means of ``g`` and ``g²``, corrected for their start at zero:
    ``p -= lr m / (sqrt(v) + eps)``.

    Parameters
    ----------
    params, lr, weight_decay
        See :class:`Optimizer`.
    betas : pair of float
        Decay rates of the two means, each from 0 up to but not including 1.
    eps : float
        At least 0.

    Raises
    ------
    TypeError, ValueError
        As for :class:`Optimizer`.
    """

    def __init__(
        self,
        params: Mapping[str, Array],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not isinstance(betas, tuple | list):
            raise TypeError(f"betas: expected a pair of numbers, got {betas!r}")
        if len(betas) != 2:
            raise ValueError(f"betas: expected a pair of numbers, got {betas!r}")
        self.betas = (fraction("betas[0]", betas[0]), fraction("betas[1]", betas[1]))
        self.eps = at_least("eps", eps, 0.0)
        super().__init__(params, lr, weight_decay, 2)

    def _update(self, p: Array, g: Array, *buffers: Array) -> None:
        m, v = buffers
        b1, b2 = self.betas
        m += (1 - b1) * (g - m)
        v *= b2
        v += (1 - b2) * g * g
        # The corrections 1 / (1 - b**t) multiply scalars: the paper's corrected arrays are never made.
        root = math.sqrt(1 - b2**self.steps)
        p -= (self.lr / (1 - b1**self.steps)) * m / (np.sqrt(v) / root + self.eps)


class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton 2012, lecture 6.5): ``p -= lr g / (sqrt(running mean of g²) + eps)``.

    Parameters
    ----------
    params, lr, weight_decay
        See :class:`Optimizer`.
    alpha : float
        Decay rate of the mean, from 0 up to but not including 1.
    eps : float
        At least 0.

    Raises
    ------
    TypeError, ValueError
        As for :class:`Optimizer`.
    """

    def __init__(
        self,
        params: Mapping[str, Array],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.alpha = fraction("alpha", alpha)
        self.eps = at_least("eps", eps, 0.0)
        super().__init__(params, lr, weight_decay, 1)

    def _update(self, p: Array, g: Array, *buffers: Array) -> None:
        (v,) = buffers
        v *= self.alpha
        v += (1 - self.alpha) * g * g
        p -= self.lr * g / (np.sqrt(v) + self.eps)


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan & Singer 2011, sec. 1.1, diagonal): ``p -= lr g / (sqrt(sum of g²) + eps)``.

    Parameters
    ----------
    params, lr, weight_decay
        See :class:`Optimizer`.
    eps : float
        At least 0.

    Raises
    ------
    TypeError, ValueError
        As for :class:`Optimizer`.
    """

    def __init__(
        self, params: Mapping[str, Array], lr: float = 1e-2, eps: float = 1e-10, weight_decay: float = 0.0
    ) -> None:
        self.eps = at_least("eps", eps, 0.0)
        super().__init__(params, lr, weight_decay, 1)

    def _update(self, p: Array, g: Array, *buffers: Array) -> None:
        (v,) = buffers
        v += g * g
        p -= self.lr * g / (np.sqrt(v) + self.eps)
