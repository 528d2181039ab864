"""Losses: each returns its value and its gradient."""

from __future__ import annotations

import numpy as np

from ..engine.contract import Array
from ..errors import array_like, as_array, choice, float_array, integer

_REDUCTIONS = ("mean", "sum")


def softmax_cross_entropy(
    logits: Array, targets: Array, *, ignore_index: int | None = None, reduction: str = "mean"
) -> tuple[float, Array]:
    """Cross-entropy of the softmax of `logits`, in nats.

    Goodfellow, Bengio & Courville, *Deep Learning* (2016), eq. 6.29-6.30.

    Parameters
    ----------
    logits : (..., C) array
        Unnormalized log-probabilities of C classes, float32 or float64, of any magnitude (the largest of each row is
        subtracted first).
    targets : (...) integer array
        Class of each row, from 0 to C-1.
    ignore_index : int, optional
        Rows with this target do not count.
    reduction : {"mean", "sum"}
        Over the rows that count; the mean over none is 0.

    Returns
    -------
    loss : float
        The value.
    dlogits : (..., C) array
        Its gradient with respect to `logits`.

    Raises
    ------
    TypeError
        If `logits` is not a float32 or float64 array, or `targets` or `ignore_index` are not integers.
    ValueError
        If shapes do not fit, there is no class, or a target is out of range.
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
    # A difference that overflows is -inf, whose exponential is right; inf - inf makes the loss NaN.
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
    """Squared error ``(y - target)**2``, averaged or summed over all elements.

    Goodfellow, Bengio & Courville, *Deep Learning* (2016), eq. 5.4.

    Parameters
    ----------
    y, target : arrays
        Of the same shape and dtype, float32 or float64.
    reduction : {"mean", "sum"}
        Over all elements; the mean over none is 0.

    Returns
    -------
    loss : float
        The value.
    dy : array
        Its gradient with respect to `y`.

    Raises
    ------
    TypeError
        If an array has the wrong type or dtype.
    ValueError
        If the shapes differ, or `reduction` is neither.
    """
    y = float_array("y", y)
    target = array_like("target", target, y.shape, y.dtype, "y")
    choice("reduction", reduction, _REDUCTIONS)
    scale = max(1, y.size) if reduction == "mean" else 1
    difference = y - target
    loss = float(np.square(difference, dtype=np.float64).sum()) / scale
    return loss, difference * y.dtype.type(2.0 / scale)
