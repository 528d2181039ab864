"""The LSTM with forget gate."""

from __future__ import annotations

from typing import Any

from ..cells import lstm
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


def lstm_forward(
    x: Array,
    h0: Array | None,
    c0: Array | None,
    Wx: Array,
    Wh: Array,
    b: Array | None,
    gate_order: str = "ifgo",
    lengths: Any = None,
    batch_first: bool = False,
    reverse: bool = False,
    mask: Array | None = None,
    resets: Array | None = None,
    reset_state: OptionalState = None,
) -> tuple[Array, tuple[Array, Array], Cache]:
    """Run an LSTM with forget gate over a batch of sequences.

    With ``a = x_t Wx + h_{t-1} Wh + b`` split into gates::

        c_t = sigmoid(a_f) c_{t-1} + sigmoid(a_i) tanh(a_g)
        h_t = sigmoid(a_o) tanh(c_t)

    Hochreiter & Schmidhuber (1997), "Long short-term memory"; the forget gate from Gers, Schmidhuber & Cummins (2000),
    "Learning to forget". There are no peephole connections.

    Parameters
    ----------
    x : (T, N, D) or (N, T, D) array
        Input, float32 or float64. All other arrays have its dtype.
    h0, c0 : (N, H) arrays, optional
        Initial states; None for zeros.
    Wx : (D, 4*H) array
        Input weights, a block of H columns per gate.
    Wh : (H, 4*H) array
        Recurrent weights, likewise.
    b : (4*H,) or (1, 4*H) array, optional
        Bias; None for none.
    gate_order : str
        Order of the column blocks: a permutation of ``"ifgo"`` (input, forget, cell candidate, output).
    lengths, batch_first, reverse, mask, resets, reset_state
        See :mod:`fastrnn.functional`.

    Returns
    -------
    hs : (T, N, H) or (N, T, H) array
        The state ``h`` after every step; read-only.
    last : pair of (N, H) arrays
        The states ``(h, c)`` after the last step of each sequence.
    cache : Cache
        For :func:`lstm_backward`.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If an argument has the wrong shape or value. Nothing has run then.
    """
    hs, (h, c), cache = cell_forward(
        lstm,
        x,
        (h0, c0),
        {"Wx": Wx, "Wh": Wh, "bx": b},
        lengths,
        batch_first,
        reverse,
        gate_order=gate_order,
        state_names=("h0", "c0"),
        bias_name="b",
        mask=mask,
        resets=resets,
        reset_state=reset_state,
    )
    assert cache is not None
    return hs, (h, c), cache


def lstm_backward(
    dhs: Array | None,
    cache: Cache,
    dh_last: Array | None = None,
    dc_last: Array | None = None,
    truncate: int | tuple[int, int] | None = None,
) -> tuple[Any, ...]:
    """Gradients of :func:`lstm_forward`, by BPTT.

    Greff et al. (2017), "LSTM: a search space odyssey", sec. II-B, without the peepholes.

    Parameters
    ----------
    dhs : (T, N, H) or (N, T, H) array, optional
        Gradient of the loss with respect to ``hs`` of the forward call, with its shape and dtype; None for zeros.
    cache : Cache
        Returned by :func:`lstm_forward`.
    dh_last, dc_last : (N, H) arrays, optional
        Gradient with respect to the last states; None for zeros.
    truncate : int or pair of int, optional
        See :mod:`fastrnn.functional`.

    Returns
    -------
    dx : (T, N, D) or (N, T, D) array
        Gradient with respect to the input.
    dh0, dc0 : (N, H) arrays
        Gradients with respect to the initial states.
    dWx, dWh, db : arrays
        Gradients in the shapes and the gate order of the parameters; ``db`` is None if there was no bias.
    dreset_state : tuple of two arrays
        Only if there was a `reset_state`: its gradient.

    Raises
    ------
    TypeError
        If `cache` is not from :func:`lstm_forward`, or an array has the wrong type or dtype.
    ValueError
        If an array has the wrong shape, or `truncate` is below 1, or k2 is below k1.
    """
    check_family("lstm", cache)
    dx, (dh0, dc0), d = cell_backward(dhs, cache, (dh_last, dc_last), truncate, ("dh_last", "dc_last"))
    return dx, dh0, dc0, d["Wx"], d["Wh"], d.get("bx"), *reset_gradient(d)


def lstm_step_forward(
    x: Array,
    h_prev: Array | None,
    c_prev: Array | None,
    Wx: Array,
    Wh: Array,
    b: Array | None,
    gate_order: str = "ifgo",
) -> tuple[Array, Array, Cache]:
    """Run one step of an LSTM; the equations are those of :func:`lstm_forward`.

    Parameters
    ----------
    x : (N, D) array
        Input, float32 or float64. All other arrays have its dtype.
    h_prev, c_prev : (N, H) arrays, optional
        States before the step; None for zeros.
    Wx, Wh, b, gate_order
        See :func:`lstm_forward`.

    Returns
    -------
    h_next, c_next : (N, H) arrays
        States after the step.
    cache : Cache
        For :func:`lstm_step_backward`.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If an argument has the wrong shape or value. Nothing has run then.
    """
    params = {"Wx": Wx, "Wh": Wh, "bx": b}
    (h, c), cache = cell_step_forward(
        lstm,
        x,
        (h_prev, c_prev),
        params,
        gate_order=gate_order,
        state_names=("h_prev", "c_prev"),
        bias_name="b",
    )
    assert cache is not None
    return h, c, cache


def lstm_step_backward(
    dh_next: Array | None, dc_next: Array | None, cache: Cache
) -> tuple[Array, Array, Array, Array, Array, Array | None]:
    """Gradients of :func:`lstm_step_forward`.

    Parameters
    ----------
    dh_next, dc_next : (N, H) arrays, optional
        Gradient of the loss with respect to ``h_next`` and ``c_next``; None for zeros.
    cache : Cache
        Returned by :func:`lstm_step_forward`.

    Returns
    -------
    dx : (N, D) array
        Gradient with respect to the input.
    dh_prev, dc_prev : (N, H) arrays
        Gradients with respect to the states before the step.
    dWx, dWh, db : arrays
        Gradients in the shapes and the gate order of the parameters; ``db`` is None if there was no bias.

    Raises
    ------
    TypeError
        If `cache` is not from :func:`lstm_step_forward`, or an array has the wrong type or dtype.
    ValueError
        If an array has the wrong shape.
    """
    check_family("lstm", cache)
    dx, (dh, dc), d = cell_step_backward((dh_next, dc_next), cache, ("dh_next", "dc_next"))
    return dx, dh, dc, d["Wx"], d["Wh"], d.get("bx")
