"""What a step does to a small difference of the states: products of Jacobians, and Lyapunov exponents."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Array
from ..errors import integer
from ..model import Model
from ..recurrent import Recurrent
from .unrolled import Run, States, single, step_flags, unroll

# States times hidden units up to which products of Jacobians are formed; above, they are only applied to vectors.
FORMED = 512
# Up to here a singular value decomposition is quicker than an iteration that has to converge.
_DECOMPOSED = 128
_TOLERANCE, _ITERATIONS = 1e-9, 1000


def jacobian_norms(
    layer: Recurrent | Model,
    x: Array,
    state: Any = None,
    lengths: Any = None,
    *,
    mask: Any = None,
    resets: Any = None,
) -> dict[str, Array]:
    """Natural logarithm of the largest singular value of the product of Jacobians ∂h_T/∂h_t, for every t.

    How much a small change of a layer's state at one step can change its state at the end, and so the bound of how
    much of a gradient comes back there (Bengio, Simard & Frasconi 1994; Pascanu et al. 2013, eq. 5-7). The state is
    all states of the layer, side by side; its input is held fixed.

    Parameters
    ----------
    layer : Recurrent or Model
        Nothing of it changes; computed in float64, without dropout.
    x, state, lengths, mask, resets
        As of a call.

    Returns
    -------
    dict of str to (T, N) array
        For every layer and direction (``l0``, ``l1_reverse``; ``1.l0`` in a model), by time: 0 at the direction's last
        step, as ∂h_T/∂h_T is the identity; -inf where nothing comes back. The logarithm, as the values themselves
        leave the range of numbers on long sequences.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    Notes
    -----
    Up to 512 states times units the product is formed, by a backward pass of as many sequences through single steps.
    """
    unrolled = unroll(layer, x, state, lengths, mask, resets, dtype=np.float64)
    return {run.name: run.by_time(_log_norms(run)) for run in unrolled.runs()}


def lyapunov_exponents(layer: Recurrent | Model, x: Array, state: Any = None, *, warmup: int = 0) -> dict[str, Array]:
    """Lyapunov exponents of the states along a trajectory, by QR decomposition along time.

    Mean growth of small differences of the states for each step, in orthogonal directions (Benettin et al. 1980;
    for recurrent networks Vogt et al. 2022, Engelken et al. 2023): the largest above 0 is chaos and gradients that
    explode, far below 0 forgetting and gradients that vanish.

    Parameters
    ----------
    layer : Recurrent or Model
        Nothing of it changes; computed in float64, without dropout.
    x : array
        What drives it, as a call takes it; the exponents are means over the N trajectories.
    state : array or tuple of arrays, optional
        Initial states; zeros by default.
    warmup : int
        Steps at the beginning that turn the directions but are not counted.

    Returns
    -------
    dict of str to (S*H,) array
        For every layer and direction (``l0``, ``l1_reverse``) the exponents of its S states of H units, natural
        logarithm per step, largest first; -inf for directions that one step forgets.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    Notes
    -----
    A step costs a backward pass of S*H sequences and a QR decomposition of S*H columns, for each of the N.
    """
    warmup = integer("warmup", warmup)
    unrolled = unroll(layer, x, state, dtype=np.float64)
    T = len(next(unrolled.runs()).x)
    if not 0 <= warmup < T:
        raise ValueError(f"warmup: expected at least 0 and fewer than the {T} steps, got {warmup}")
    return {run.name: _exponents(run, warmup) for run in unrolled.runs()}


def _exponents(run: Run, warmup: int) -> Array:
    T, N, _ = run.x.shape
    K = _size(run)
    Q = np.broadcast_to(np.eye(K), (N, K, K))
    total = np.zeros(K)
    for t in range(T):
        jacobians = np.stack([pulled(run, t, n, np.eye(K)) for n in range(N)])
        Q, R = np.linalg.qr(jacobians @ Q)
        if t >= warmup:
            with np.errstate(divide="ignore"):
                total += np.log(np.abs(np.diagonal(R, axis1=1, axis2=2))).mean(axis=0)
    exponents: Array = np.sort(total / (T - warmup))[::-1]
    return exponents


def _log_norms(run: Run) -> Array:
    """In the direction's own order, (T, N)."""
    T, N, _ = run.x.shape
    result = np.zeros((T, N))
    for n in range(N):
        rows, log_scale = np.eye(_size(run)), 0.0
        v = np.random.default_rng(0).standard_normal(len(rows))
        for t in reversed(range(1, T)):
            rows = pulled(run, t, n, rows)
            # Kept near 1: products of a thousand steps leave the range of numbers.
            largest = np.abs(rows).max()
            if largest > 0 and np.isfinite(largest):
                rows /= largest
            with np.errstate(divide="ignore"):
                log_scale += float(np.log(largest))
                norm, v = _norm(rows, v)
                result[t - 1, n] = log_scale + float(np.log(norm))
    return result


def _norm(matrix: Array, v: Array) -> tuple[float, Array]:
    """Largest singular value, and the vector to begin with next time."""
    if len(matrix) <= _DECOMPOSED or not np.isfinite(matrix).all():
        return float(np.linalg.norm(matrix, 2)) if np.isfinite(matrix).all() else float("nan"), v
    return power_iteration(lambda a: matrix @ a, lambda a: matrix.T @ a, v)


def power_iteration(apply: Any, transposed: Any, v: Array) -> tuple[float, Array]:
    """Largest singular value of a linear map that is given by its products with a vector, and its right vector."""
    norm = 0.0
    for _ in range(_ITERATIONS):
        length = float(np.linalg.norm(v))
        if not length:
            break
        before, image = norm, apply(v / length)
        norm, v = float(np.linalg.norm(image)), transposed(image)
        if abs(norm - before) <= _TOLERANCE * norm:
            break
    # A start that the map sends to zero is no start for the next.
    return norm, v if np.linalg.norm(v) else np.ones_like(v)


def pulled(run: Run, t: int, n: int, rows: Array) -> Array:
    """`rows` (M, S*H) times the Jacobian of step `t` of sequence `n`: a backward pass of M sequences alike."""
    M, H = len(rows), run.prepared.layout.hidden_size
    state = tuple(np.repeat(s[:, n : n + 1], M, axis=1) for s in run.states[t])
    x = np.repeat(run.x[t : t + 1, n : n + 1], M, axis=1)
    flags: dict[str, Any] = {
        name: np.repeat(flag, M, axis=1) for name, flag in step_flags(run, t, slice(n, n + 1)).items()
    }
    _, _, pullback = run.prepared.vjp(x, single(state), need=("state",), **flags)
    dlast: States = tuple(np.ascontiguousarray(rows[None, :, k * H : (k + 1) * H]) for k in range(len(state)))
    dfirst = pullback(None, single(dlast))[1]
    return np.concatenate([d[0] for d in (dfirst if isinstance(dfirst, tuple) else (dfirst,))], axis=1)


def _size(run: Run) -> int:
    return len(run.state_names) * run.prepared.layout.hidden_size
