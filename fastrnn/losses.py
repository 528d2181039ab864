"""Losses: each returns its value and its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import array_like, as_array, choice, float_array, integer

Array = NDArray[Any]
_REDUCTIONS = ("mean", "sum")


def softmax_cross_entropy(
    logits: Array, targets: Array, *, ignore_index: int | None = None, reduction: str = "mean"
) -> tuple[float, Array]:
    """Cross-entropy of the softmax of `logits` (Goodfellow et al. 2016, eq. 6.29-6.30), in nats.

    Parameters
    ----------
    logits : (..., C) float array
        Of any size: the largest is subtracted first.
    targets : (...) integer array
        Class of each row, from 0 to C-1.
    ignore_index : int, optional
        Rows with this target count for nothing.
    reduction : {"mean", "sum"}
        Over the rows that are not ignored; the mean over none is 0.

    Returns
    -------
    loss : float
    dlogits : array like `logits`

    Raises
    ------
    TypeError, ValueError
        If a dtype, shape or target does not fit.
    """
    logits = float_array("logits", logits)
    choice("reduction", reduction, _REDUCTIONS)
    targets = as_array("targets", targets)
    if ignore_index is not None:
        ignore_index = integer("ignore_index", ignore_index)
    if targets.dtype.kind not in "iu":
        raise TypeError(f"targets: expected integers, got dtype {targets.dtype}")
    if logits.ndim < 1 or logits.shape[-1] == 0:
        raise ValueError(f"logits: expected shape (..., C) of at least one class, got {logits.shape}")
    if targets.shape != logits.shape[:-1]:
        raise ValueError(f"targets: expected shape {logits.shape[:-1]} as logits have, got {targets.shape}")
    classes = logits.shape[-1]
    flat, wanted = logits.reshape(-1, classes), targets.reshape(-1)
    counted = np.ones(wanted.shape, bool) if ignore_index is None else wanted != ignore_index
    inside = (wanted >= 0) & (wanted < classes)
    if not inside[counted].all():
        worst = wanted[counted & ~inside][0]
        raise ValueError(f"targets: expected values from 0 to {classes - 1}, got {worst}")
    rows = np.flatnonzero(counted)
    # A difference beyond the largest number is -inf, as right as it gets; inf - inf shows as a loss of NaN.
    with np.errstate(over="ignore", invalid="ignore"):
        shifted = flat - flat.max(axis=1, keepdims=True)
    exponential = np.exp(shifted)
    total = exponential.sum(axis=1, keepdims=True)
    losses = np.log(total[rows, 0]) - shifted[rows, wanted[rows]]
    gradient = exponential / total
    gradient[rows, wanted[rows]] -= 1
    gradient[~counted] = 0
    scale = max(1, len(rows)) if reduction == "mean" else 1
    gradient /= scale
    return float(losses.sum(dtype=np.float64)) / scale, gradient.reshape(logits.shape)


def mse(y: Array, target: Array, *, reduction: str = "mean") -> tuple[float, Array]:
    """Squared error ``(y - target)**2``, averaged or summed over all elements; the mean over none is 0.

    Parameters
    ----------
    y, target : float arrays of one shape and dtype
    reduction : {"mean", "sum"}

    Returns
    -------
    loss : float
    dy : array like `y`

    Raises
    ------
    TypeError, ValueError
        If a dtype or shape does not fit.
    """
    y = float_array("y", y)
    target = array_like("target", target, y.shape, y.dtype, "y")
    choice("reduction", reduction, _REDUCTIONS)
    scale = max(1, y.size) if reduction == "mean" else 1
    difference = y - target
    loss = float(np.square(difference, dtype=np.float64).sum()) / scale
    return loss, difference * y.dtype.type(2.0 / scale)
