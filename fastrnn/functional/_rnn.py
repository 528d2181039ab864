"""The Elman network."""

from __future__ import annotations

from typing import Any

from ..cells import rnn
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


def rnn_forward(
    x: Array,
    h0: Array | None,
    Wx: Array,
    Wh: Array,
    b: Array | None,
    nonlinearity: str = "tanh",
    lengths: Any = None,
    batch_first: bool = False,
    reverse: bool = False,
    mask: Array | None = None,
    resets: Array | None = None,
    reset_state: OptionalState = None,
) -> tuple[Array, Cache]:
    """Run an Elman network over a batch of sequences: ``h_t = f(x_t Wx + h_{t-1} Wh + b)``.

    Elman (1990), "Finding structure in time"; Goodfellow, Bengio & Courville, *Deep Learning* (2016), eq. 10.8-10.9.

    Parameters
    ----------
    x : (T, N, D) or (N, T, D) array
        Input, float32 or float64. All other arrays have its dtype.
    h0 : (N, H) array, optional
        Initial state; None for zeros.
    Wx : (D, H) array
        Input weights.
    Wh : (H, H) array
        Recurrent weights.
    b : (H,) or (1, H) array, optional
        Bias; None for none.
    nonlinearity : {"tanh", "relu", "sigmoid", "identity"}
        The function f.
    lengths, batch_first, reverse, mask, resets, reset_state
        See :mod:`fastrnn.functional`.

    Returns
    -------
    hs : (T, N, H) or (N, T, H) array
        The state after every step; read-only.
    cache : Cache
        For :func:`rnn_backward`.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If an argument has the wrong shape or value. Nothing has run then.
    """
    params = {"Wx": Wx, "Wh": Wh, "bx": b}
    hs, _, cache = cell_forward(
        rnn(nonlinearity),
        x,
        (h0,),
        params,
        lengths,
        batch_first,
        reverse,
        state_names=("h0",),
        bias_name="b",
        mask=mask,
        resets=resets,
        reset_state=reset_state,
    )
    assert cache is not None
    return hs, cache


def rnn_backward(
    dhs: Array | None, cache: Cache, dh_last: Array | None = None, truncate: int | tuple[int, int] | None = None
) -> tuple[Any, ...]:
    """Gradients of :func:`rnn_forward`, by BPTT.

    Goodfellow, Bengio & Courville, *Deep Learning* (2016), eq. 10.18-10.28.

    Parameters
    ----------
    dhs : (T, N, H) or (N, T, H) array, optional
        Gradient of the loss with respect to ``hs`` of the forward call, with its shape and dtype; None for zeros.
    cache : Cache
        Returned by :func:`rnn_forward`.
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
    dWx, dWh, db : arrays
        Gradients in the shapes of the parameters; ``db`` is None if there was no bias.
    dreset_state : tuple of one array
        Only if there was a `reset_state`: its gradient.

    Raises
    ------
    TypeError
        If `cache` is not from :func:`rnn_forward`, or an array has the wrong type or dtype.
    ValueError
        If an array has the wrong shape, or `truncate` is below 1, or k2 is below k1.
    """
    check_family("rnn", cache)
    dx, (dh0,), d = cell_backward(dhs, cache, (dh_last,), truncate, ("dh_last",))
    return dx, dh0, d["Wx"], d["Wh"], d.get("bx"), *reset_gradient(d)


def rnn_step_forward(
    x: Array, h_prev: Array | None, Wx: Array, Wh: Array, b: Array | None, nonlinearity: str = "tanh"
) -> tuple[Array, Cache]:
    """Run one step of an Elman network: ``h_next = f(x Wx + h_prev Wh + b)``.

    Parameters
    ----------
    x : (N, D) array
        Input, float32 or float64. All other arrays have its dtype.
    h_prev : (N, H) array, optional
        State before the step; None for zeros.
    Wx, Wh, b, nonlinearity
        See :func:`rnn_forward`.

    Returns
    -------
    h_next : (N, H) array
        State after the step.
    cache : Cache
        For :func:`rnn_step_backward`.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If an argument has the wrong shape or value. Nothing has run then.
    """
    params = {"Wx": Wx, "Wh": Wh, "bx": b}
    (h,), cache = cell_step_forward(rnn(nonlinearity), x, (h_prev,), params, state_names=("h_prev",), bias_name="b")
    assert cache is not None
    return h, cache


def rnn_step_backward(dh_next: Array | None, cache: Cache) -> tuple[Array, Array, Array, Array, Array | None]:
    """Gradients of :func:`rnn_step_forward`.

    Parameters
    ----------
    dh_next : (N, H) array, optional
        Gradient of the loss with respect to ``h_next``; None for zeros.
    cache : Cache
        Returned by :func:`rnn_step_forward`.

    Returns
    -------
    dx : (N, D) array
        Gradient with respect to the input.
    dh_prev : (N, H) array
        Gradient with respect to the state before the step.
    dWx, dWh, db : arrays
        Gradients in the shapes of the parameters; ``db`` is None if there was no bias.

    Raises
    ------
    TypeError
        If `cache` is not from :func:`rnn_step_forward`, or an array has the wrong type or dtype.
    ValueError
        If an array has the wrong shape.
    """
    check_family("rnn", cache)
    dx, (dh,), d = cell_step_backward((dh_next,), cache, ("dh_next",))
    return dx, dh, d["Wx"], d["Wh"], d.get("bx")
