"""Gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..engine.contract import Array
from ..errors import flag
from ._arguments import number, writable_float


class NonFiniteGradient(ValueError):
    """The norm of the gradients is infinite or NaN.

    Attributes
    ----------
    parameter : str
        Key of the first gradient that makes it so.
    """

    def __init__(self, parameter: str, norm: float) -> None:
        super().__init__(f"grads[{parameter!r}]: expected a gradient with a finite norm, got {norm}")
        self.parameter = parameter


def clip_grad_norm(grads: Mapping[str, Array], max_norm: float, *, error_if_nonfinite: bool = False) -> float:
    """Scale all gradients in place so that their common Euclidean norm is at most `max_norm`.

    Pascanu, Mikolov & Bengio (2013), "On the difficulty of training recurrent neural networks", algorithm 1. As
    ``torch.nn.utils.clip_grad_norm_`` does, 1e-6 is added to the norm before dividing.

    Parameters
    ----------
    grads : mapping of str to array
        Float32 or float64, writable.
    max_norm : float
        Greater than 0.
    error_if_nonfinite : bool
        Whether a norm that is NaN or infinite raises. Otherwise a NaN norm leaves the gradients unchanged, and an
        infinite norm sets the finite elements to zero.

    Returns
    -------
    float
        The norm before scaling.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If `max_norm` is not above 0, or a gradient is read-only.
    NonFiniteGradient
        A ValueError, with `error_if_nonfinite`: names the first gradient that makes the norm NaN or infinite. In all
        three cases no gradient has been changed.
    """
    if not isinstance(grads, Mapping):
        raise TypeError(f"grads: expected a mapping of arrays, got {type(grads).__name__}")
    if not number("max_norm", max_norm) > 0:
        raise ValueError(f"max_norm: expected a number above 0, got {max_norm!r}")
    strict = flag("error_if_nonfinite", error_if_nonfinite)
    arrays = {key: writable_float(f"grads[{key!r}]", g) for key, g in grads.items()}
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
