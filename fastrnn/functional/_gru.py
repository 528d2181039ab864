"""The gated recurrent unit."""

from __future__ import annotations

from typing import Any

from ..cells import gru
from ..engine.contract import Array
from ._arguments import OptionalState
from ._cell import (
    Cache,
    cell_backward,
    cell_forward,
    cell_step_backward,
    cell_step_forward,
    check_family,
    reset_gradient,
)


def gru_forward(
    x: Array,
    h0: Array | None,
    Wx: Array,
    Wh: Array,
    bx: Array | None,
    bh: Array | None,
    gate_order: str = "rzn",
    reset_after: bool = True,
    lengths: Any = None,
    batch_first: bool = False,
    reverse: bool = False,
    mask: Array | None = None,
    resets: Array | None = None,
    reset_state: OptionalState = None,
) -> tuple[Array, Cache]:
    """Run a gated recurrent unit over a batch of sequences.

    With ``a = x_t Wx + bx`` and ``u = h_{t-1} Wh + bh`` split into gates::

        r = sigmoid(a_r + u_r)
        z = sigmoid(a_z + u_z)
        n = tanh(a_n + r u_n)                      if reset_after, as in cuDNN and PyTorch
        n = tanh(a_n + (r h_{t-1}) Wh_n + bh_n)    otherwise, as in the paper
        h_t = (1 - z) n + z h_{t-1}

    Cho et al. (2014), "Learning phrase representations using RNN encoder-decoder for statistical machine translation",
    eq. 5-8.

    Parameters
    ----------
    x : (T, N, D) or (N, T, D) array
        Input, float32 or float64. All other arrays have its dtype.
    h0 : (N, H) array, optional
        Initial state; None for zeros.
    Wx : (D, 3*H) array
        Input weights, a block of H columns per gate.
    Wh : (H, 3*H) array
        Recurrent weights, likewise.
    bx, bh : (3*H,) or (1, 3*H) arrays, optional
        Biases; None for none.
    gate_order : str
        Order of the column blocks: a permutation of ``"rzn"`` (reset, update, new).
    reset_after : bool
        Whether the reset gate is applied after the product with ``Wh`` or before it.
    lengths, batch_first, reverse, mask, resets, reset_state
        See :mod:`fastrnn.functional`.

    Returns
    -------
    hs : (T, N, H) or (N, T, H) array
        The state after every step; read-only.
    cache : Cache
        For :func:`gru_backward`.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If an argument has the wrong shape or value. Nothing has run then.
    """
    hs, _, cache = cell_forward(
        gru(reset_after),
        x,
        (h0,),
        {"Wx": Wx, "Wh": Wh, "bx": bx, "bh": bh},
        lengths,
        batch_first,
        reverse,
        gate_order=gate_order,
        state_names=("h0",),
        mask=mask,
        resets=resets,
        reset_state=reset_state,
    )
    assert cache is not None
    return hs, cache


def gru_backward(
    dhs: Array | None, cache: Cache, dh_last: Array | None = None, truncate: int | tuple[int, int] | None = None
) -> tuple[Any, ...]:
    """Gradients of :func:`gru_forward`, by BPTT (Werbos 1990).

    Parameters
    ----------
    dhs : (T, N, H) or (N, T, H) array, optional
        Gradient of the loss with respect to ``hs`` of the forward call, with its shape and dtype; None for zeros.
    cache : Cache
        Returned by :func:`gru_forward`.
    dh_last : (N, H) array, optional
        Gradient with respect to the last state; None for zeros.
    truncate : int or pair of int, optional
        See :mod:`fastrnn.functional`.

    Returns
    -------
    dx : (T, N, D) or (N, T, D) array
        Gradient with respect to the input.
    dh0 : (N, H) array
        Gradient with respect to the initial state.
    dWx, dWh, dbx, dbh : arrays
        Gradients in the shapes and the gate order of the parameters; None for a bias that was not given.
    dreset_state : tuple of one array
        Only if there was a `reset_state`: its gradient.

    Raises
    ------
    TypeError
        If `cache` is not from :func:`gru_forward`, or an array has the wrong type or dtype.
    ValueError
        If an array has the wrong shape, or `truncate` is below 1, or k2 is below k1.
    """
    check_family("gru", cache)
    dx, (dh0,), d = cell_backward(dhs, cache, (dh_last,), truncate, ("dh_last",))
    return dx, dh0, d["Wx"], d["Wh"], d.get("bx"), d.get("bh"), *reset_gradient(d)


def gru_step_forward(
    x: Array,
    h_prev: Array | None,
    Wx: Array,
    Wh: Array,
    bx: Array | None,
    bh: Array | None,
    gate_order: str = "rzn",
    reset_after: bool = True,
) -> tuple[Array, Cache]:
    """Run one step of a gated recurrent unit; the equations are those of :func:`gru_forward`.

    Parameters
    ----------
    x : (N, D) array
        Input, float32 or float64. All other arrays have its dtype.
    h_prev : (N, H) array, optional
        State before the step; None for zeros.
    Wx, Wh, bx, bh, gate_order, reset_after
        See :func:`gru_forward`.

    Returns
    -------
    h_next : (N, H) array
        State after the step.
    cache : Cache
        For :func:`gru_step_backward`.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If an argument has the wrong shape or value. Nothing has run then.
    """
    params = {"Wx": Wx, "Wh": Wh, "bx": bx, "bh": bh}
    (h,), cache = cell_step_forward(
        gru(reset_after), x, (h_prev,), params, gate_order=gate_order, state_names=("h_prev",)
    )
    assert cache is not None
    return h, cache


def gru_step_backward(
    dh_next: Array | None, cache: Cache
) -> tuple[Array, Array, Array, Array, Array | None, Array | None]:
    """Gradients of :func:`gru_step_forward`.

    Parameters
    ----------
    dh_next : (N, H) array, optional
        Gradient of the loss with respect to ``h_next``; None for zeros.
    cache : Cache
        Returned by :func:`gru_step_forward`.

    Returns
    -------
    dx : (N, D) array
        Gradient with respect to the input.
    dh_prev : (N, H) array
        Gradient with respect to the state before the step.
    dWx, dWh, dbx, dbh : arrays
        Gradients in the shapes and the gate order of the parameters; None for a bias that was not given.

    Raises
    ------
    TypeError
        If `cache` is not from :func:`gru_step_forward`, or an array has the wrong type or dtype.
    ValueError
        If an array has the wrong shape.
    """
    check_family("gru", cache)
    dx, (dh,), d = cell_step_backward((dh_next,), cache, ("dh_next",))
    return dx, dh, d["Wx"], d["Wh"], d.get("bx"), d.get("bh")
