"""What a step does to a small difference of the states: products of Jacobians, and Lyapunov exponents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays import Array
from ..errors import integer
from ..forward_mode import RecurrentRun
from ..model import Model
from ..recurrent import Recurrent
from .unrolled import Run, call_flags, several, single, unroll

# States times hidden units up to which products of Jacobians are formed; above, they are only applied to vectors.
FORMED = 512
# Up to here a singular value decomposition is quicker than an iteration that has to converge.
_DECOMPOSED = 128
_TOLERANCE, _TOLERANCE_APPLIED, _ITERATIONS = 1e-9, 1e-4, 1000
# Steps that are looked at where the product is not formed.
_POINTS = 16


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
    Above, it is applied to vectors, forward by :meth:`Recurrent.jvp` and back by BPTT, in a power iteration to a
    relative 1e-4, at 16 steps evenly spread; the others are NaN.
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
    if _size(run) > FORMED:
        return _applied(run)
    T, N, _ = run.x.shape
    result = np.zeros((T, N))
    for n in range(N):
        rows, log_scale = np.eye(_size(run)), 0.0
        v = np.random.default_rng(0).standard_normal((1, len(rows)))
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
    """Largest singular value, and the vector (1, K) to begin with next time."""
    if not np.isfinite(matrix).all():
        return float("nan"), v
    if len(matrix) <= _DECOMPOSED:
        return float(np.linalg.norm(matrix, 2)), v
    norms, v = _power_iteration(lambda a: a @ matrix.T, lambda a: a @ matrix, v, _TOLERANCE)
    return float(norms[0]), v


def _applied(run: Run) -> Array:
    """As :func:`_log_norms` at some steps, NaN at the others; the product is applied forward by jvp, back by BPTT."""
    T, N, _ = run.x.shape
    result = np.full((T, N), np.nan)
    result[T - 1] = 0
    v = np.random.default_rng(0).standard_normal((N, _size(run)))
    for t in np.unique(np.linspace(T - 2, 0, _POINTS).astype(int))[::-1] if T > 1 else ():
        norms, v = _power_iteration(*_segment(run, t + 1), v, _TOLERANCE_APPLIED)
        with np.errstate(divide="ignore"):
            result[t] = np.log(norms)
    return result


def _segment(run: Run, begin: int) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """Product of the Jacobians of the steps from `begin` on with a vector for each sequence, and of its transpose."""
    x, state = np.ascontiguousarray(run.x[begin:]), single(run.states[begin])
    flags = call_flags(run, begin, len(run.x))
    ahead = RecurrentRun(run.prepared, {})
    _, _, pullback = run.prepared.vjp(x, state, need=("state",), **flags)

    def apply(rows: Array) -> Array:
        return _rows(ahead.forward(x, state, None, _states(run, rows), flags).state_dot)

    def transposed(rows: Array) -> Array:
        return _rows(pullback(None, _states(run, rows))[1])

    return apply, transposed


def _rows(states: Any) -> Array:
    """(N, S*H), of states (1, N, H)."""
    return np.concatenate([s[0] for s in several(states)], axis=1)


def _states(run: Run, rows: Array) -> Any:
    """The states (1, N, H), as a call takes them, of rows (N, S*H)."""
    H = run.prepared.layout.hidden_size
    parts = tuple(np.ascontiguousarray(rows[None, :, k * H : (k + 1) * H]) for k in range(len(run.state_names)))
    return single(parts)


def _power_iteration(
    apply: Callable[[Array], Array], transposed: Callable[[Array], Array], v: Array, tolerance: float
) -> tuple[Array, Array]:
    """Largest singular values (N,) of N linear maps, which take and give rows (N, K), and their right vectors.

    Golub & Van Loan, *Matrix Computations* (4th ed.), sec. 8.2.1, for the product with the transpose.
    """
    norms = np.zeros(len(v))
    for _ in range(_ITERATIONS):
        lengths = np.linalg.norm(v, axis=1, keepdims=True)
        # A start that a map has sent to zero is none.
        v = np.where(lengths > 0, v, 1.0) / np.where(lengths > 0, lengths, np.sqrt(v.shape[1]))
        image = apply(v)
        before, norms = norms, np.linalg.norm(image, axis=1)
        v = transposed(image)
        if (np.abs(norms - before) <= tolerance * norms).all():
            break
    return norms, v


def pulled(run: Run, t: int, n: int, rows: Array) -> Array:
    """`rows` (M, S*H) times the Jacobian of step `t` of sequence `n`: a backward pass of M sequences alike."""
    M = len(rows)
    state = single(tuple(np.repeat(s[:, n : n + 1], M, axis=1) for s in run.states[t]))
    x = np.repeat(run.x[t : t + 1, n : n + 1], M, axis=1)
    given = call_flags(run, t, t + 1, slice(n, n + 1))
    flags: dict[str, Any] = {name: np.repeat(flag, M, axis=1) for name, flag in given.items()}
    _, _, pullback = run.prepared.vjp(x, state, need=("state",), **flags)
    return _rows(pullback(None, _states(run, rows))[1])


def _size(run: Run) -> int:
    return len(run.state_names) * run.prepared.layout.hidden_size
