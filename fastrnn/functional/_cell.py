"""Functions of any cell; those of the built-in cells are thin over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..cells import Cell
from ..dispatch import backend_for
from ..engine.contract import Array, Given, Layout, Need, Stack
from ..engine.flags import Flags
from ..engine.plan import make_plan
from ..engine.settings import current
from ..engine.truncation import backward, passes
from ..errors import array_like, flag, float_array
from ..prepared import check_flags
from ._arguments import (
    BIASES,
    OptionalState,
    State,
    batch_major,
    check_params,
    check_reset_state,
    check_states,
    gate_blocks,
    reorder,
)


@dataclass(frozen=True, eq=False, repr=False)
class Cache:
    """What a forward function keeps for the backward function of the same name.

    It refers to the arrays of the call: leave them unchanged until the last backward pass is done.

    Attributes
    ----------
    cell : Cell
        The cell that ran.
    """

    layout: Layout
    outer: tuple[int, int]
    stack: Stack
    saved: Any
    params: Mapping[str, tuple[int, ...]]
    blocks: list[int] | None
    reset_rows: tuple[bool, ...]
    flags: Flags | None

    @property
    def cell(self) -> Cell:
        """The cell that ran."""
        return self.layout.cell

    def __repr__(self) -> str:
        T, N = self.outer
        return f"Cache({self.cell!r}, T={T}, N={N})"


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
        Input, float32 or float64. All other arrays have its dtype.
    state : sequence of (N, H) arrays, optional
        Initial states in the cell's order; None, or an entry None, for zeros.
    params : mapping of str to array
        The parameters as :meth:`Cell.param_shapes` names them; ``bx`` and ``bh`` may be missing or None.
    lengths, batch_first, reverse, mask, resets, reset_state
        See :mod:`fastrnn.functional`.
    keep : bool
        Whether to keep what the backward pass needs.
    gate_order : sequence of str, optional
        Order of the column blocks of ``Wx``, ``Wh`` and the biases; the order of ``cell.gates`` by default.
    state_names : sequence of str, optional
        Names of the initial states in error messages.
    bias_name : str
        Name of ``bx`` in error messages.

    Returns
    -------
    hs : (T, N, H) or (N, T, H) array
        The first state after every step. With `keep` it shares memory with the cache and is read-only.
    last : tuple of (N, H) arrays
        The states after the last step of each sequence.
    cache : Cache or None
        For :func:`cell_backward`; None without `keep`.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If an argument has the wrong shape or value, or a parameter is missing or unknown. Nothing has run then.

    See Also
    --------
    fastrnn.prepare : the same with the parameters checked only once, for stacks of layers too.
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
    given = check_params(cell, D, params, x.dtype, bias_name)
    shapes = {name: value.shape for name, value in given.items()}
    blocks = gate_blocks(cell, gate_order)
    given = reorder(given, blocks)
    H = given["Wx"].shape[1] // len(cell.gates)
    initial = check_states("state", state_names, len(cell.states), state, (N, H), x.dtype)
    flags = check_flags(T, N, batch_first, lengths, mask, resets)
    fresh, rows = check_reset_state(resets, reset_state, len(cell.states), (N, H), x.dtype)
    names = (("Wx", "Wh", "bx", "bh", *cell.units),)
    layout = Layout(cell, D, H, names, 1, reverse, x.dtype, batch_first)
    now = current()
    rank_one = {name: value.reshape(-1) if name in BIASES else value for name, value in given.items()}
    stack = backend_for(make_plan(cell), now.backend).prepare(layout, rank_one)
    arguments = Given(x, _of_layer(initial), flags, None if fresh is None else _of_layer(fresh))
    y, last, saved = stack.forward(arguments, now, keep)
    y.flags.writeable = not keep
    cache = Cache(layout, (T, N), stack, saved, shapes, blocks, rows, flags) if keep else None
    return batch_major(y, batch_first), tuple(state[0] for state in last), cache


def _of_layer(states: State) -> State:
    """States (N, H) as the states (1, N, H) of a stack of one layer."""
    return tuple(state[None] for state in states)


def cell_backward(
    dhs: Array | None,
    cache: Cache,
    dlast: OptionalState = None,
    truncate: int | tuple[int, int] | None = None,
    names: Sequence[str] | None = None,
) -> tuple[Array, State, dict[str, Any]]:
    """Gradients of any cell over a batch of sequences, by BPTT (Werbos 1990).

    Parameters
    ----------
    dhs : (T, N, H) or (N, T, H) array, optional
        Gradient of the loss with respect to ``hs`` of the forward call, with its shape and dtype; None for zeros.
    cache : Cache
        Returned by :func:`cell_forward`.
    dlast : sequence of (N, H) arrays, optional
        Gradient with respect to the last states; None, or an entry None, for zeros.
    truncate : int or pair of int, optional
        See :mod:`fastrnn.functional`.
    names : sequence of str, optional
        Names of the entries of `dlast` in error messages.

    Returns
    -------
    dx : (T, N, D) or (N, T, D) array
        Gradient with respect to the input.
    dstate : tuple of (N, H) arrays
        Gradient with respect to the initial states.
    dparams : dict
        Gradient of each parameter that was given, by name and in its shape. If there was a `reset_state`, its gradient
        is ``dparams["reset_state"]``, a tuple of arrays.

    Raises
    ------
    TypeError
        If `cache` is not a :class:`Cache`, or an array has the wrong type or dtype.
    ValueError
        If an array has the wrong shape, or `truncate` is below 1, or k2 is below k1.
    """
    if not isinstance(cache, Cache):
        raise TypeError(f"cache: expected what a forward function returned, got {type(cache).__name__}")
    (T, N), H, dtype = cache.outer, cache.layout.hidden_size, cache.layout.dtype
    batch_first = cache.layout.batch_first
    if dhs is not None:
        shape = (N, T, H) if batch_first else (T, N, H)
        dhs = batch_major(array_like("dhs", dhs, shape, dtype, "the forward call"), batch_first)
    gradients = check_states("dlast", names, len(cache.cell.states), dlast, (N, H), dtype)
    ways = passes(truncate, cache.flags, T, N, cache.layout.reverse)
    dx, dstate, grads, dreset = backward(cache.stack, cache.saved, dhs, _of_layer(gradients), ways, Need())
    assert dx is not None and dstate is not None
    inverse = None if cache.blocks is None else [int(i) for i in np.argsort(cache.blocks)]
    found: dict[str, Any] = reorder({n: grads[n].reshape(shape) for n, shape in cache.params.items()}, inverse)
    if dreset is not None:
        each = zip(dreset, cache.reset_rows, strict=True)
        found["reset_state"] = tuple(d[0].sum(axis=0) if row else d[0] for d, row in each)
    return batch_major(dx, batch_first), tuple(d[0] for d in dstate), found


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
    """Run one step of any cell.

    Parameters
    ----------
    cell : Cell
        A built-in cell or one made by :func:`fastrnn.cell`.
    x : (N, D) array
        Input, float32 or float64. All other arrays have its dtype.
    state : sequence of (N, H) arrays, optional
        States before the step in the cell's order; None, or an entry None, for zeros.
    params, keep, gate_order, state_names, bias_name
        See :func:`cell_forward`.

    Returns
    -------
    state : tuple of (N, H) arrays
        The states after the step.
    cache : Cache or None
        For :func:`cell_step_backward`; None without `keep`.

    Raises
    ------
    TypeError, ValueError
        As for :func:`cell_forward`.
    """
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
    """Gradients of one step of any cell.

    Parameters
    ----------
    dlast : sequence of (N, H) arrays, optional
        Gradient of the loss with respect to the states after the step; None, or an entry None, for zeros.
    cache : Cache
        Returned by :func:`cell_step_forward`.
    names : sequence of str, optional
        Names of the entries of `dlast` in error messages.

    Returns
    -------
    dx : (N, D) array
        Gradient with respect to the input.
    dstate : tuple of (N, H) arrays
        Gradient with respect to the states before the step.
    dparams : dict
        Gradient of each parameter that was given, by name and in its shape.

    Raises
    ------
    TypeError, ValueError
        As for :func:`cell_backward`.
    """
    dx, dstate, dparams = cell_backward(None, cache, dlast, names=names)
    return dx[0], dstate, dparams


def check_family(family: str, cache: Any) -> None:
    """Raises TypeError if `cache` is not that of a cell of `family`."""
    if not isinstance(cache, Cache) or not cache.cell.name.startswith(family):
        got = cache.cell.name if isinstance(cache, Cache) else type(cache).__name__
        raise TypeError(f"cache: expected what a {family}_ function returned, got that of {got}")


def reset_gradient(dparams: Mapping[str, Any]) -> tuple[Any, ...]:
    """The gradient of the reset state as the last elements of a tuple; none if there was no reset state."""
    return (dparams["reset_state"],) if "reset_state" in dparams else ()
