"""Recurrent layers as functions of arrays: for those who replace a loop.

One layer, one direction. Every ``*_forward`` returns new arrays and a cache; the ``*_backward`` of the same
name turns that cache and the loss's gradient into gradients of everything that went in, by backpropagation
through time (BPTT; Werbos 1990). A cache can be used any number of times.

Shapes: T steps, N sequences, D input features, H hidden units, G gates. ``x`` is (T, N, D), or (N, T, D) with
``batch_first=True``, and may have any strides. ``Wx`` is (D, G*H), ``Wh`` (H, G*H), ``b`` (G*H,) or (1, G*H).
All arrays of a call have one dtype, float32 or float64. Initial states may be None for zeros. In the compiled backends
subnormal numbers (below 2**-126 in float32, 2**-1022 in float64) count as zero.

Wrong input raises before anything is computed: ``TypeError`` for what is not an array of the right dtype,
``ValueError`` for a wrong shape or value; the message names the argument.

Arguments that all functions of sequences share:

lengths : (N,) integers, optional
    Number of steps of each sequence, from 0 to T, in any order. Steps past a sequence's end are inactive.
mask : (T, N) or (N, T) booleans, optional
    Which steps are active, in any form: padding in front, gaps. An inactive step gives zeros, holds the state and
    passes the state's gradient by; what `x` holds there is never used. `lengths` is the right-padded case; with both,
    a step is active where both say so.
resets : (T, N) or (N, T) booleans, optional
    Where True, the state that enters the step, in the direction's own order, is `reset_state`, and no gradient passes
    to the step before. An initial state still enters the first step unless that is reset. A step that is inactive and
    reset holds the reset state.
reset_state : sequence of (H,) or (N, H) arrays, optional
    For each state, one row for all sequences or a row for each; zeros by default, also for an entry None. Its
    gradient, of the same shapes, comes under the name ``"reset_state"`` or, where a function returns a tuple of
    gradients, as a tuple at its end.
batch_first : bool
    Whether `x`, the outputs and their gradients are (N, T, ...).
reverse : bool
    Run from each sequence's last step to its first; outputs stay at their step's place.
truncate : int or pair of int, optional
    Cut the gradient after every `truncate` active steps of a sequence (truncated BPTT; Williams & Peng 1990), counted
    from the sequence's start, resets or not. With ``(k1, k2)``, the loss of every step counts once, in its block of k1
    steps, and goes back from the block's end over k2 steps, at least k1 (Sutskever 2013, section 2.8.6); it costs
    ``ceil(k2 / k1)`` backward passes. A short last block reaches as far as a whole one, and a sequence of at most k2
    steps is not cut: ``(k, k)`` is the same as ``k``, and k2 of all steps the same as None. For k2 > k1, layers must
    run in one direction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cells import Cell, gru, lstm, rnn
from .dispatch import backend_for
from .engine.contract import Array, Given, Layout, Need, Stack
from .engine.flags import Flags
from .engine.plan import make_plan
from .engine.settings import current
from .engine.truncation import backward, passes, window_of
from .errors import array_like, flag, float_array, known_keys
from .prepared import check_flags

__all__ = [
    "Cache",
    "cell_backward",
    "cell_forward",
    "cell_step_backward",
    "cell_step_forward",
    "gru_backward",
    "gru_forward",
    "gru_step_backward",
    "gru_step_forward",
    "lstm_backward",
    "lstm_forward",
    "lstm_step_backward",
    "lstm_step_forward",
    "rnn_backward",
    "rnn_forward",
    "rnn_step_backward",
    "rnn_step_forward",
]

State = tuple[Array, ...]
Truncate = int | tuple[int, int] | None
OptionalState = Sequence[Array | None] | None
_BIASES = ("bx", "bh")


@dataclass(frozen=True, eq=False)
class Cache:
    """What a forward function keeps for the backward function of the same name. It refers to the arrays of the call:
    leave them unchanged until the last backward pass is done."""

    layout: Layout
    outer: tuple[int, int]
    stack: Stack
    kept: Any
    params: Mapping[str, tuple[int, ...]]
    blocks: list[int] | None
    reset_rows: tuple[bool, ...]
    flags: Flags | None

    @property
    def cell(self) -> Cell:
        """The cell that ran."""
        return self.layout.cell


def cell_forward(
    cell: Cell,
    x: Array,
    state: OptionalState,
    params: Mapping[str, Array | None],
    lengths: Any = None,
    batch_first: bool = False,
    reverse: bool = False,
    keep: bool = True,
    gate_order: Sequence[str] | None = None,
    state_names: Sequence[str] | None = None,
    bias_name: str = "bx",
    mask: Array | None = None,
    resets: Array | None = None,
    reset_state: OptionalState = None,
) -> tuple[Array, State, Cache | None]:
    """Run any cell over a batch of sequences.

    Parameters
    ----------
    cell : Cell
        A built-in cell or one made by :func:`fastrnn.cell`.
    x : (T, N, D) or (N, T, D) array
        Input.
    state : sequence of (N, H) arrays, optional
        Initial states in the cell's order; None, or an entry None, for zeros.
    params : mapping
        As :meth:`Cell.param_shapes` names them; ``bx`` and ``bh`` may be missing or None.
    lengths, batch_first, reverse, mask, resets, reset_state
        See :mod:`fastrnn.functional`.
    keep : bool
        Whether to keep what the backward pass needs.
    gate_order : sequence of str, optional
        Order of the column blocks of ``Wx``, ``Wh`` and the biases, where it is not that of ``cell.gates``.
    state_names : sequence of str, optional
        What error messages call the initial states.
    bias_name : str
        What they call ``bx``.

    Returns
    -------
    hs : (T, N, H) or (N, T, H) array
        First state after every step. With `keep` it shares memory with the cache and is read-only.
    last : tuple of (N, H) arrays
        States after each sequence's last step.
    cache : Cache or None
        For :func:`cell_backward`.
    """
    if not isinstance(cell, Cell):
        raise TypeError(f"cell: expected a Cell (see fastrnn.cell), got {type(cell).__name__}")
    batch_first, reverse = flag("batch_first", batch_first), flag("reverse", reverse)
    keep = flag("keep", keep)
    x = float_array("x", x, 3)
    if batch_first:
        x = x.transpose(1, 0, 2)
    T, N, D = x.shape
    if T == 0:
        raise ValueError("x: expected at least one step, got a sequence of length 0")
    given = _check_params(cell, D, params, x.dtype, bias_name)
    shapes = {name: value.shape for name, value in given.items()}
    blocks = _blocks(cell, gate_order)
    given = _reorder(given, blocks)
    H = given["Wx"].shape[1] // len(cell.gates)
    initial = _check_states("state", state_names, len(cell.states), state, (N, H), x.dtype)
    flags = check_flags(T, N, batch_first, lengths, mask, resets)
    fresh, rows = _check_reset_state(resets, reset_state, len(cell.states), (N, H), x.dtype)
    names = (("Wx", "Wh", "bx", "bh", *cell.units),)
    layout = Layout(cell, D, H, names, 1, reverse, x.dtype, batch_first)
    now = current()
    rank_one = {name: value.reshape(-1) if name in _BIASES else value for name, value in given.items()}
    stack = backend_for(make_plan(cell), now.backend).prepare(layout, rank_one)
    arguments = Given(x, _of_layer(initial), flags, None if fresh is None else _of_layer(fresh))
    y, last, kept = stack.forward(arguments, now, keep)
    y.flags.writeable = not keep
    cache = Cache(layout, (T, N), stack, kept, shapes, blocks, rows, flags) if keep else None
    return _batch_first(y, batch_first), tuple(state[0] for state in last), cache


def _of_layer(states: State) -> State:
    """States (N, H) as those of one layer and direction, (1, N, H)."""
    return tuple(state[None] for state in states)


def cell_backward(
    dhs: Array | None,
    cache: Cache,
    dlast: OptionalState = None,
    truncate: Truncate = None,
    names: Sequence[str] | None = None,
) -> tuple[Array, State, dict[str, Any]]:
    """Gradients of any cell over a batch of sequences, by BPTT.

    Parameters
    ----------
    dhs : array like ``hs`` of the forward call, optional
        Gradient of the loss with respect to every output; None for zeros.
    cache : Cache
        Of :func:`cell_forward`.
    dlast : sequence of (N, H) arrays, optional
        Gradient with respect to the last states; None, or an entry None, for zeros.
    truncate : int or pair of int, optional
        See :mod:`fastrnn.functional`.
    names : sequence of str, optional
        What error messages call the entries of `dlast`.

    Returns
    -------
    dx : array like ``x``
    dstate : tuple of (N, H) arrays
        Gradient with respect to the initial states.
    dparams : dict
        Gradient of each parameter that was given, by name; if there was a `reset_state`, its gradient is
        ``dparams["reset_state"]``, a tuple of arrays.
    """
    if not isinstance(cache, Cache):
        raise TypeError(f"cache: expected what a forward function returned, got {type(cache).__name__}")
    (T, N), H, dtype = cache.outer, cache.layout.hidden_size, cache.layout.dtype
    batch_first = cache.layout.batch_first
    if dhs is not None:
        shape = (N, T, H) if batch_first else (T, N, H)
        dhs = _batch_first(array_like("dhs", dhs, shape, dtype, "the forward call"), batch_first)
    gradients = _check_states("dlast", names, len(cache.cell.states), dlast, (N, H), dtype)
    ways = passes(window_of(truncate), cache.flags, T, N, cache.layout.reverse)
    dx, dstate, grads, dreset = backward(cache.stack, cache.kept, dhs, _of_layer(gradients), ways, Need())
    assert dx is not None and dstate is not None
    inverse = None if cache.blocks is None else [int(i) for i in np.argsort(cache.blocks)]
    found: dict[str, Any] = _reorder({n: grads[n].reshape(shape) for n, shape in cache.params.items()}, inverse)
    if dreset is not None:
        each = zip(dreset, cache.reset_rows, strict=True)
        found["reset_state"] = tuple(d[0].sum(axis=0) if row else d[0] for d, row in each)
    return _batch_first(dx, batch_first), tuple(d[0] for d in dstate), found


def cell_step_forward(
    cell: Cell,
    x: Array,
    state: OptionalState,
    params: Mapping[str, Array | None],
    keep: bool = True,
    gate_order: Sequence[str] | None = None,
    state_names: Sequence[str] | None = None,
    bias_name: str = "bx",
) -> tuple[State, Cache | None]:
    """One step of any cell: `x` (N, D) and the states give the new states and a cache."""
    step = float_array("x", x, 2)[None]
    _, last, cache = cell_forward(
        cell,
        step,
        state,
        params,
        keep=keep,
        gate_order=gate_order,
        state_names=state_names,
        bias_name=bias_name,
    )
    return last, cache


def cell_step_backward(
    dlast: OptionalState, cache: Cache, names: Sequence[str] | None = None
) -> tuple[Array, State, dict[str, Any]]:
    """Gradients of one step: ``dx`` (N, D), gradients of the old states, gradients of the parameters."""
    dx, dstate, dparams = cell_backward(None, cache, dlast, names=names)
    return dx[0], dstate, dparams


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
    """Elman network over a batch of sequences: ``h_t = f(x_t Wx + h_{t-1} Wh + b)``.

    Elman (1990); Goodfellow, Bengio & Courville, *Deep Learning* (2016), eq. 10.8-10.9.

    Parameters
    ----------
    x : (T, N, D) or (N, T, D) array
    h0 : (N, H) array, optional
    Wx : (D, H) array
    Wh : (H, H) array
    b : (H,) or (1, H) array, optional
    nonlinearity : {"tanh", "relu", "sigmoid", "identity"}
    lengths, batch_first, reverse, mask, resets, reset_state
        See :mod:`fastrnn.functional`.

    Returns
    -------
    hs : (T, N, H) or (N, T, H) array, read-only
    cache : Cache
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
    dhs: Array | None, cache: Cache, dh_last: Array | None = None, truncate: Truncate = None
) -> tuple[Any, ...]:
    """Gradients ``(dx, dh0, dWx, dWh, db)`` of :func:`rnn_forward`; ``db`` is None if there was no bias.

    If there was a `reset_state`, the tuple of its gradients comes last.
    """
    _check_family("rnn", cache)
    dx, (dh0,), d = cell_backward(dhs, cache, (dh_last,), truncate, ("dh_last",))
    return dx, dh0, d["Wx"], d["Wh"], d.get("bx"), *_of_reset_state(d)


def rnn_step_forward(
    x: Array, h_prev: Array | None, Wx: Array, Wh: Array, b: Array | None, nonlinearity: str = "tanh"
) -> tuple[Array, Cache]:
    """One step of :func:`rnn_forward`: `x` (N, D) and `h_prev` (N, H) give ``h_next`` (N, H) and a cache."""
    params = {"Wx": Wx, "Wh": Wh, "bx": b}
    (h,), cache = cell_step_forward(rnn(nonlinearity), x, (h_prev,), params, state_names=("h_prev",), bias_name="b")
    assert cache is not None
    return h, cache


def rnn_step_backward(dh_next: Array | None, cache: Cache) -> tuple[Array, Array, Array, Array, Array | None]:
    """Gradients ``(dx, dh_prev, dWx, dWh, db)`` of :func:`rnn_step_forward`."""
    _check_family("rnn", cache)
    dx, (dh,), d = cell_step_backward((dh_next,), cache, ("dh_next",))
    return dx, dh, d["Wx"], d["Wh"], d.get("bx")


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
    """LSTM with forget gate over a batch of sequences.

    Hochreiter & Schmidhuber (1997); Gers, Schmidhuber & Cummins (2000). With ``a = x_t Wx + h_{t-1} Wh + b``
    split into gates: ``c_t = sigmoid(a_f) c_{t-1} + sigmoid(a_i) tanh(a_g)``, ``h_t = sigmoid(a_o) tanh(c_t)``.

    Parameters
    ----------
    x : (T, N, D) or (N, T, D) array
    h0, c0 : (N, H) arrays, optional
    Wx : (D, 4*H) array
    Wh : (H, 4*H) array
    b : (4*H,) or (1, 4*H) array, optional
    gate_order : str
        Order of the column blocks of the weights: a permutation of ``"ifgo"`` (input, forget, cell, output).
    lengths, batch_first, reverse, mask, resets, reset_state
        See :mod:`fastrnn.functional`.

    Returns
    -------
    hs : (T, N, H) or (N, T, H) array, read-only
    (h_last, c_last) : pair of (N, H) arrays
    cache : Cache
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
    truncate: Truncate = None,
) -> tuple[Any, ...]:
    """Gradients ``(dx, dh0, dc0, dWx, dWh, db)`` of :func:`lstm_forward`, in its gate order.

    If there was a `reset_state`, the tuple of its gradients comes last.
    """
    _check_family("lstm", cache)
    dx, (dh0, dc0), d = cell_backward(dhs, cache, (dh_last, dc_last), truncate, ("dh_last", "dc_last"))
    return dx, dh0, dc0, d["Wx"], d["Wh"], d.get("bx"), *_of_reset_state(d)


def lstm_step_forward(
    x: Array,
    h_prev: Array | None,
    c_prev: Array | None,
    Wx: Array,
    Wh: Array,
    b: Array | None,
    gate_order: str = "ifgo",
) -> tuple[Array, Array, Cache]:
    """One step of :func:`lstm_forward`: `x` (N, D) and the states (N, H) give ``(h_next, c_next, cache)``."""
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
    """Gradients ``(dx, dh_prev, dc_prev, dWx, dWh, db)`` of :func:`lstm_step_forward`."""
    _check_family("lstm", cache)
    dx, (dh, dc), d = cell_step_backward((dh_next, dc_next), cache, ("dh_next", "dc_next"))
    return dx, dh, dc, d["Wx"], d["Wh"], d.get("bx")


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
    """Gated recurrent unit over a batch of sequences.

    Cho et al. (2014), eq. 5-8. With ``a = x_t Wx + bx``, ``u = h_{t-1} Wh + bh`` split into gates:
    ``r = sigmoid(a_r + u_r)``, ``z = sigmoid(a_z + u_z)``, ``h_t = (1 - z) n + z h_{t-1}``, and
    ``n = tanh(a_n + r u_n)`` (`reset_after`, as cuDNN and PyTorch), or
    ``n = tanh(a_n + (r h_{t-1}) Wh_n + bh_n)``.

    Parameters
    ----------
    x : (T, N, D) or (N, T, D) array
    h0 : (N, H) array, optional
    Wx : (D, 3*H) array
    Wh : (H, 3*H) array
    bx, bh : (3*H,) or (1, 3*H) arrays, optional
    gate_order : str
        Order of the column blocks of the weights: a permutation of ``"rzn"`` (reset, update, new).
    reset_after : bool
        Whether the reset gate is applied after the product with ``Wh`` or before it.
    lengths, batch_first, reverse, mask, resets, reset_state
        See :mod:`fastrnn.functional`.

    Returns
    -------
    hs : (T, N, H) or (N, T, H) array, read-only
    cache : Cache
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
    dhs: Array | None, cache: Cache, dh_last: Array | None = None, truncate: Truncate = None
) -> tuple[Any, ...]:
    """Gradients ``(dx, dh0, dWx, dWh, dbx, dbh)`` of :func:`gru_forward`, in its gate order.

    If there was a `reset_state`, the tuple of its gradients comes last.
    """
    _check_family("gru", cache)
    dx, (dh0,), d = cell_backward(dhs, cache, (dh_last,), truncate, ("dh_last",))
    return dx, dh0, d["Wx"], d["Wh"], d.get("bx"), d.get("bh"), *_of_reset_state(d)


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
    """One step of :func:`gru_forward`: `x` (N, D) and `h_prev` (N, H) give ``h_next`` (N, H) and a cache."""
    params = {"Wx": Wx, "Wh": Wh, "bx": bx, "bh": bh}
    (h,), cache = cell_step_forward(
        gru(reset_after), x, (h_prev,), params, gate_order=gate_order, state_names=("h_prev",)
    )
    assert cache is not None
    return h, cache


def gru_step_backward(
    dh_next: Array | None, cache: Cache
) -> tuple[Array, Array, Array, Array, Array | None, Array | None]:
    """Gradients ``(dx, dh_prev, dWx, dWh, dbx, dbh)`` of :func:`gru_step_forward`."""
    _check_family("gru", cache)
    dx, (dh,), d = cell_step_backward((dh_next,), cache, ("dh_next",))
    return dx, dh, d["Wx"], d["Wh"], d.get("bx"), d.get("bh")


def _check_params(
    cell: Cell, D: int, params: Mapping[str, Array | None], dtype: np.dtype[Any], bias_name: str
) -> dict[str, Array]:
    """The parameters that were given, checked against the cell, `D` and the H that ``Wx`` implies."""
    if not isinstance(params, Mapping):
        raise TypeError(f"params: expected a mapping, got {type(params).__name__}")
    given = {name: value for name, value in params.items() if value is not None}
    names = cell.param_shapes(D, 1)
    optional = [name for name in names if name in _BIASES]
    known_keys("params", given, [name for name in names if name not in _BIASES], optional)
    columns = float_array("Wx", given["Wx"], 2).shape[1]
    if "Wh" in given:
        H, width = float_array("Wh", given["Wh"], 2).shape
        # A matrix Wh that fits itself is the better witness of H, and Wx the one to blame.
        if width == H * len(cell.recurrent):
            array_like("Wx", given["Wx"], (D, H * len(cell.gates)), dtype, "x")
    if columns == 0 or columns % len(cell.gates):
        raise ValueError(
            f"Wx: expected a positive multiple of {len(cell.gates)} columns "
            f"(gates {' '.join(cell.gates)}), got shape {given['Wx'].shape}"
        )
    for name, shape in cell.param_shapes(D, columns // len(cell.gates)).items():
        value = given.get(name)
        if value is None:
            continue
        row = len(shape) == 1 and isinstance(value, np.ndarray) and value.ndim == 2
        called = bias_name if name == "bx" else name
        given[name] = array_like(called, value, (1, *shape) if row else shape, dtype, "x")
    return given


def _check_family(family: str, cache: Any) -> None:
    if not isinstance(cache, Cache) or not cache.cell.name.startswith(family):
        got = cache.cell.name if isinstance(cache, Cache) else type(cache).__name__
        raise TypeError(f"cache: expected what a {family}_ function returned, got that of {got}")


def _of_reset_state(found: Mapping[str, Any]) -> tuple[Any, ...]:
    return (found["reset_state"],) if "reset_state" in found else ()


def _check_reset_state(
    resets: Any, values: Any, count: int, shape: tuple[int, int], dtype: np.dtype[Any]
) -> tuple[State | None, tuple[bool, ...]]:
    """The reset state as (N, H) arrays, and of which one row was given for all sequences."""
    if values is None:
        return None, ()
    if resets is None:
        raise ValueError("reset_state: expected resets as well, which say where it enters")
    names = [f"reset_state[{k}]" for k in range(count)]
    if not isinstance(values, tuple | list):
        raise TypeError(f"reset_state: expected a tuple of arrays, one per state, got {type(values).__name__}")
    rows = tuple(isinstance(value, np.ndarray) and value.ndim == 1 for value in values)
    spread = [
        np.broadcast_to(array_like(name, value, shape[1:], dtype, "x"), shape) if row else value
        for name, value, row in zip(names, values, rows, strict=False)
    ]
    return _check_states("reset_state", names, count, spread + list(values[count:]), shape, dtype), rows


def _check_states(
    argument: str,
    names: Sequence[str] | None,
    count: int,
    values: OptionalState,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
) -> State:
    if names is None:
        names = [f"{argument}[{k}]" for k in range(count)]
    if values is None:
        values = (None,) * count
    if not isinstance(values, tuple | list):
        raise TypeError(f"{argument}: expected a tuple of arrays, one per state, got {type(values).__name__}")
    if len(values) != count:
        raise ValueError(f"{argument}: expected {count} array(s), one per state, got {len(values)}")
    return tuple(
        np.zeros(shape, dtype) if value is None else array_like(name, value, shape, dtype, "x")
        for name, value in zip(names, values, strict=True)
    )


def _blocks(cell: Cell, gate_order: Sequence[str] | None) -> list[int] | None:
    """Where each gate of the cell stands in `gate_order`; None if in its own place."""
    if gate_order is None:
        return None
    if not isinstance(gate_order, str | tuple | list) or not all(isinstance(gate, str) for gate in gate_order):
        raise TypeError(f"gate_order: expected a string or sequence of strings, got {gate_order!r}")
    if tuple(gate_order) == cell.gates:
        return None
    if sorted(map(str, gate_order)) != sorted(cell.gates) or cell.recurrent != cell.gates:
        raise ValueError(f"gate_order: expected a permutation of {' '.join(cell.gates)}, got {gate_order!r}")
    return [list(gate_order).index(gate) for gate in cell.gates]


def _reorder(params: dict[str, Array], blocks: list[int] | None) -> dict[str, Array]:
    """Column blocks of the weights and biases in the order of `blocks`."""
    if blocks is None:
        return params

    def reorder(value: Array) -> Array:
        return value.reshape(*value.shape[:-1], len(blocks), -1)[..., blocks, :].reshape(value.shape)

    gated = ("Wx", "Wh", *_BIASES)
    return {name: reorder(value) if name in gated else value for name, value in params.items()}


def _batch_first(array: Array, batch_first: bool) -> Array:
    return array.transpose(1, 0, 2) if batch_first else array
