"""Optimizers over dictionaries of arrays, with PyTorch's formulas and defaults, and gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .engine.memory import writable
from .errors import array_like, flag, float_array

Array = NDArray[Any]


class Optimizer:
    """Updates parameters in place, one :meth:`step` for each set of gradients.

    A pickle of an optimizer has all its state. Pickled together with its model, in one pickle, it updates the model's
    arrays afterwards too; alone, copies of them.

    Parameters
    ----------
    params : mapping of str to array
        The arrays themselves are updated.
    lr : float
        Learning rate.
    weight_decay : float
        Added to each gradient as ``weight_decay * parameter`` (L2 penalty).

    Raises
    ------
    TypeError, ValueError
        If a parameter is not a writeable float32 or float64 array, or a number is out of its range.
    """

    def __init__(self, params: Mapping[str, Array], lr: float, weight_decay: float, buffers: int) -> None:
        if not isinstance(params, Mapping):
            raise TypeError(f"params: expected a mapping of arrays, got {type(params).__name__}")
        self.lr = _at_least("lr", lr, 0.0)
        self.weight_decay = _at_least("weight_decay", weight_decay, 0.0)
        self.params = {key: _writeable(f"params[{key!r}]", p) for key, p in params.items()}
        self.steps = 0
        self._buffers = {k: [np.zeros_like(p) for _ in range(buffers)] for k, p in self.params.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.params = {key: writable(p) for key, p in self.params.items()}
        self._buffers = {key: [writable(a) for a in arrays] for key, arrays in self._buffers.items()}

    def step(self, grads: Mapping[str, Array]) -> None:
        """Update every parameter by its gradient.

        Parameters
        ----------
        grads : mapping of str to array
            Same keys, shapes and dtypes as the parameters.

        Raises
        ------
        TypeError, ValueError
            If they do not fit. No parameter is changed then.
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
    """Stochastic gradient descent with momentum (Polyak 1964): ``v = momentum v + g``, ``p -= lr v``."""

    def __init__(
        self, params: Mapping[str, Array], lr: float = 1e-3, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        self.momentum = _at_least("momentum", momentum, 0.0)
        super().__init__(params, lr, weight_decay, 1 if momentum else 0)

    def _update(self, p: Array, g: Array, *buffers: Array) -> None:
        if buffers:
            (v,) = buffers
            v *= self.momentum
            v += g
            g = v
        p -= self.lr * g


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1)."""

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
        self.betas = (_fraction("betas[0]", betas[0]), _fraction("betas[1]", betas[1]))
        self.eps = _at_least("eps", eps, 0.0)
        super().__init__(params, lr, weight_decay, 2)

    def _update(self, p: Array, g: Array, *buffers: Array) -> None:
        m, v = buffers
        b1, b2 = self.betas
        m += (1 - b1) * (g - m)
        v *= b2
        v += (1 - b2) * g * g
        # As numbers, not arrays: m / (1 - b1**t) and v / (1 - b2**t) of the paper are never made.
        root = math.sqrt(1 - b2**self.steps)
        p -= (self.lr / (1 - b1**self.steps)) * m / (np.sqrt(v) / root + self.eps)


class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton 2012, lecture 6.5): ``p -= lr g / (sqrt(mean of g²) + eps)``."""

    def __init__(
        self,
        params: Mapping[str, Array],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.alpha = _fraction("alpha", alpha)
        self.eps = _at_least("eps", eps, 0.0)
        super().__init__(params, lr, weight_decay, 1)

    def _update(self, p: Array, g: Array, *buffers: Array) -> None:
        (v,) = buffers
        v *= self.alpha
        v += (1 - self.alpha) * g * g
        p -= self.lr * g / (np.sqrt(v) + self.eps)


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan & Singer 2011, sec. 1.1, diagonal): ``p -= lr g / (sqrt(sum of g²) + eps)``."""

    def __init__(
        self, params: Mapping[str, Array], lr: float = 1e-2, eps: float = 1e-10, weight_decay: float = 0.0
    ) -> None:
        self.eps = _at_least("eps", eps, 0.0)
        super().__init__(params, lr, weight_decay, 1)

    def _update(self, p: Array, g: Array, *buffers: Array) -> None:
        (v,) = buffers
        v += g * g
        p -= self.lr * g / (np.sqrt(v) + self.eps)


class NonFiniteGradient(ValueError):
    """The norm of gradients is infinite or not a number.

    Attributes
    ----------
    parameter : str
        Key of the first gradient that makes it so.
    """

    def __init__(self, parameter: str, norm: float) -> None:
        super().__init__(f"grads[{parameter!r}]: expected numbers of a finite norm, got {norm}")
        self.parameter = parameter


def clip_grad_norm(grads: Mapping[str, Array], max_norm: float, *, error_if_nonfinite: bool = False) -> float:
    """Scale all gradients in place so that their common Euclidean norm is at most `max_norm`.

    Pascanu, Mikolov & Bengio (2013), algorithm 1, with the 1e-6 that ``torch.nn.utils.clip_grad_norm_`` adds
    to the norm before dividing.

    Parameters
    ----------
    grads : mapping of str to array
        Float32 or float64, writeable.
    max_norm : float
        Greater than 0.
    error_if_nonfinite : bool
        Whether a norm that is NaN or infinite raises. Otherwise NaN leaves the gradients as they are, and an infinite
        norm makes zeros of the finite ones.

    Returns
    -------
    float
        The norm before scaling.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit. No gradient is changed then.
    NonFiniteGradient
        A ValueError, with `error_if_nonfinite`: names the first gradient that makes the norm NaN or infinite. No
        gradient is changed then.
    """
    if not isinstance(grads, Mapping):
        raise TypeError(f"grads: expected a mapping of arrays, got {type(grads).__name__}")
    if not _number("max_norm", max_norm) > 0:
        raise ValueError(f"max_norm: expected a number above 0, got {max_norm!r}")
    strict = flag("error_if_nonfinite", error_if_nonfinite)
    arrays = {key: _writeable(f"grads[{key!r}]", g) for key, g in grads.items()}
    total = 0.0
    for key, g in arrays.items():
        with np.errstate(over="ignore"):
            total += float(np.square(g, dtype=np.float64).sum())
        if strict and not math.isfinite(total):
            raise NonFiniteGradient(key, math.sqrt(total))
    norm = math.sqrt(total)
    scale = max_norm / (norm + 1e-6)
    if scale < 1:
        for g in arrays.values():
            g *= scale
    return norm


def _writeable(name: str, value: Any) -> Array:
    array = float_array(name, value)
    if not array.flags.writeable:
        raise ValueError(f"{name}: expected an array that can be updated in place, got a read-only one")
    return array


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    return float(value)


def _at_least(name: str, value: float, least: float) -> float:
    number = _number(name, value)
    if not number >= least:
        raise ValueError(f"{name}: expected at least {least:g}, got {value!r}")
    return number


def _fraction(name: str, value: float) -> float:
    value = _at_least(name, value, 0.0)
    if value >= 1:
        raise ValueError(f"{name}: expected less than 1, got {value!r}")
    return value
