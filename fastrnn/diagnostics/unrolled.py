"""A call taken apart: every layer and direction of it, one step at a time.

The gradient of a state in the middle of a sequence is something that no whole backward pass gives out. Between single
steps it is at hand: what one pullback gives for the state before its step is what the one before it takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from ..arrays import Array
from ..autoregressive import AR
from ..engine.contract import Layout
from ..engine.flags import HOLD, RESET, Flags
from ..engine.stack import names_of
from ..errors import array_like, rows_array
from ..layers import Layer
from ..model import Model
from ..prepared import Prepared, Pullback, check_flags
from ..recurrent import Recurrent

States = tuple[Array, ...]
"""For each state of the cell (1, N, H)."""


@dataclass(frozen=True, eq=False)
class Run:
    """One layer and direction of a call; steps are in the order in which that direction takes them.

    Attributes
    ----------
    name : str
        As parameters are called: ``l0``, ``l1_reverse``; ``1.l0`` in a model.
    prepared : Prepared
        That layer and direction alone.
    x : (T, N, D) array
    flags : (T, N) uint8 array, optional
    states : list of tuples of (1, N, H) arrays
        Those that enter each step, resets not yet done, and at the end the last ones: T+1 entries.
    pullbacks : list of Pullback
        Of every step, if gradients were asked for.
    from_the_end : bool
        Whether the first step is the last in time.
    """

    name: str
    prepared: Prepared
    x: Array
    flags: Flags | None
    states: list[States]
    pullbacks: list[Pullback]
    from_the_end: bool

    @property
    def state_names(self) -> tuple[str, ...]:
        return self.prepared.layout.cell.states

    def by_time(self, values: Array) -> Array:
        """`values`, whose first axis are steps in the direction's own order, in the order of time; or back."""
        return values[::-1] if self.from_the_end else values

    def back(self, dy: Array, dlast: States | None = None) -> tuple[Array, list[States], States]:
        """Gradients by BPTT, `dy` (T, N, H) and the result in the direction's own order.

        Returns
        -------
        dx : (T, N, D) array
        dstates : list of tuples of (1, N, H) arrays
            Gradient of the loss with respect to the states after each step.
        dfirst : tuple of (1, N, H) arrays
            With respect to the initial states.
        """
        T = len(self.pullbacks)
        dx = np.empty_like(self.x)
        dstates: list[States] = [()] * T
        carried = tuple(np.zeros_like(s) for s in self.states[0]) if dlast is None else dlast
        for t in reversed(range(T)):
            local = dy[t : t + 1] if self.flags is None else np.where(_has(self.flags, t, HOLD), 0, dy[t : t + 1])
            dstates[t] = (carried[0] + local, *carried[1:])
            part, carried_, _ = self.pullbacks[t](np.ascontiguousarray(dy[t : t + 1]), single(carried))
            carried = several(carried_)
            assert part is not None
            dx[t] = part[0]
        return dx, dstates, carried


class Between(NamedTuple):
    """A layer of a model without states that are looked at: a copy of it, which has run forward."""

    layer: Layer

    def back(self, d: Array) -> Array | None:
        """Gradient with respect to its input; None if that was integers."""
        result: Any = self.layer.backward(d)  # type: ignore[attr-defined]
        below: Array | None = result[0] if isinstance(result, tuple) else result
        return below


class Stack(NamedTuple):
    """A recurrent layer: for each layer of it the runs of its directions."""

    layer: Recurrent
    runs: list[list[Run]]

    def back(self, d: Array) -> tuple[Array, dict[str, list[States]]]:
        """Gradient with respect to the input, and to the states after each step, in each direction's own order."""
        H, batch_first = self.layer.hidden_size, self.layer.batch_first
        dy, found = d.swapaxes(0, 1) if batch_first else d, {}
        for runs in reversed(self.runs):
            below = np.zeros_like(runs[0].x)
            for i, run in enumerate(runs):
                dx, dstates, _ = run.back(run.by_time(dy[..., i * H : (i + 1) * H]))
                found[run.name] = dstates
                below += run.by_time(dx)
            dy = below
        return (dy.swapaxes(0, 1) if batch_first else dy), found


class Unrolled(NamedTuple):
    """Output of a call, and the parts that it went through."""

    y: Array
    parts: list[Between | Stack]

    def runs(self) -> Iterator[Run]:
        """Every layer and direction, from below."""
        for part in self.parts:
            if isinstance(part, Stack):
                for runs in part.runs:
                    yield from runs


def unroll(
    layer: Recurrent | Model,
    x: Array,
    state: Any = None,
    lengths: Any = None,
    mask: Any = None,
    resets: Any = None,
    *,
    pullbacks: bool = False,
    dtype: DTypeLike | None = None,
) -> Unrolled:
    """Run `layer` without dropout, one step at a time; nothing of it changes.

    `pullbacks`: whether to keep what BPTT needs. `dtype`: in which recurrent layers compute; their own by default.
    """
    flags = {"lengths": lengths, "mask": mask, "resets": resets}
    if isinstance(layer, Recurrent):
        part, y = _stack(layer, "", x, state, flags, pullbacks, dtype)
        return Unrolled(y, [part])
    if not isinstance(layer, Model):
        raise TypeError(f"layer: expected a recurrent layer or a Model, got {type(layer).__name__}")
    if not any(isinstance(one, Recurrent) for one in layer.layers):
        raise ValueError("layer: expected a Model with a recurrent layer, got one without")
    states = iter(layer._states("state", state))
    parts: list[Between | Stack] = []
    for i, one in enumerate(layer.layers):
        if isinstance(one, Recurrent):
            part, x = _stack(one, f"{i}.", x, next(states), flags, pullbacks, dtype)
            parts.append(part)
            continue
        twin: Any = deepcopy(one)
        x = twin.forward(x, next(states), **flags)[0] if isinstance(one, AR) else twin.forward(x)
        parts.append(Between(twin))
    return Unrolled(x, parts)


def _stack(
    layer: Recurrent, prefix: str, x: Any, state: Any, given: dict[str, Any], pullbacks: bool, dtype: DTypeLike | None
) -> tuple[Stack, Array]:
    layout, own = layer._layout(), np.dtype(dtype or layer.dtype)
    x = rows_array("x", x, "N, T" if layer.batch_first else "T, N", layer.input_size, layer.dtype)
    x = np.asarray(x.swapaxes(0, 1) if layer.batch_first else x, own)
    T, N, _ = x.shape
    if T == 0 or N == 0:
        raise ValueError(f"x: expected at least one step of one sequence, got {T} steps of {N}")
    flags = check_flags(T, N, layer.batch_first, **given)
    first = _first_states(layer, state, N, own)
    result: list[list[Run]] = []
    for number in range(layer.num_layers):
        runs, outputs = [], []
        for i in range(number * layer.directions, (number + 1) * layer.directions):
            from_the_end = layer.reverse or i % layer.directions == 1
            prepared = _alone(layer, layout, i, x.shape[2], own)
            name = f"{prefix}l{number}{'_reverse' if i % layer.directions else ''}"
            order = slice(None, None, -1) if from_the_end else slice(None)
            run = Run(name, prepared, x[order], None if flags is None else flags[order], [], [], from_the_end)
            outputs.append(run.by_time(_forward(run, tuple(s[i : i + 1] for s in first), pullbacks)))
            runs.append(run)
        x = np.concatenate(outputs, axis=2) if len(outputs) > 1 else np.ascontiguousarray(outputs[0])
        result.append(runs)
    return Stack(layer, result), np.asarray(x.swapaxes(0, 1) if layer.batch_first else x, layer.dtype)


def _first_states(layer: Recurrent, state: Any, N: int, dtype: np.dtype[Any]) -> States:
    shape = (layer.num_layers * layer.directions, N, layer.hidden_size)
    checked = layer._prepared._state_in("state", state, N)
    if checked is None:
        return tuple(np.zeros(shape, dtype) for _ in layer.cell.states)
    return tuple(np.asarray(array, dtype) for array in checked)


def _alone(layer: Recurrent, layout: Layout, i: int, D: int, dtype: np.dtype[Any]) -> Prepared:
    """Layer and direction number `i` by itself, on copies of its parameters."""
    params = {
        f"{name}_l0": np.array(layer.params[key], dtype)
        for name, key in names_of(layout, i).items()
        if key in layer.params
    }
    names = (tuple(f"{name}_l0" for name in ("Wx", "Wh", "bx", "bh", *layer.cell.units)),)
    return Prepared(Layout(layer.cell, D, layer.hidden_size, names, 1, False, dtype, False), params)


def _forward(run: Run, state: States, pullbacks: bool) -> Array:
    """Outputs in the direction's own order; fills in the states and the pullbacks of `run`."""
    T, N, _ = run.x.shape
    y = np.empty((T, N, run.prepared.layout.hidden_size), run.x.dtype)
    run.states.append(state)
    for t in range(T):
        x, flags = np.ascontiguousarray(run.x[t : t + 1]), step_flags(run, t)
        if pullbacks:
            y[t : t + 1], last, pullback = run.prepared.vjp(x, single(state), need=("x", "state"), **flags)
            run.pullbacks.append(pullback)
        else:
            y[t : t + 1], last = run.prepared(x, single(state), **flags)
        state = several(last)
        run.states.append(state)
    return y


def step_flags(run: Run, t: int, rows: Any = slice(None)) -> dict[str, Any]:
    """The arguments by which step `t` of a run is inactive or reset, for some of its sequences."""
    if run.flags is None:
        return {}
    flags = run.flags[t : t + 1, rows]
    return {"mask": (flags & HOLD) == 0, "resets": (flags & RESET) != 0}


def _has(flags: Flags, t: int, flag: int) -> Array:
    """(1, N, 1), for which sequences step `t` has `flag`."""
    rows: Array = flags[t : t + 1, :, None] & flag
    has: Array = np.not_equal(rows, 0)
    return has


def single(state: States) -> Any:
    """The states as a call takes them: the array itself if there is only one."""
    return state if len(state) > 1 else state[0]


def several(state: Any) -> States:
    """The states as a tuple, however many."""
    return state if isinstance(state, tuple) else (state,)


def probe(unrolled: Unrolled) -> Array:
    """The gradient of a loss that sees only each sequence's end: a random direction, of norm 1 for each sequence.

    Where layers run from the end, a sequence's first step is one too.
    """
    stacks = [part.layer for part in unrolled.parts if isinstance(part, Stack)]
    by_time = np.zeros_like(unrolled.y)
    by_time = by_time.swapaxes(0, 1) if stacks[-1].batch_first else by_time
    T, N = by_time.shape[:2]
    direction = np.random.default_rng(0).standard_normal(by_time.shape[1:])
    direction /= np.maximum(np.linalg.norm(direction, axis=-1, keepdims=True), np.finfo(float).tiny)
    run = next(unrolled.runs())
    active = np.ones((T, N), bool) if run.flags is None else run.by_time((run.flags & HOLD) == 0)
    each = np.arange(N)
    direction[~np.any(active, axis=0)] = 0
    if not all(layer.reverse for layer in stacks):
        by_time[T - 1 - active[::-1].argmax(axis=0), each] = direction
    if any(layer.reverse or layer.bidirectional for layer in stacks):
        by_time[active.argmax(axis=0), each] = direction
    dy: Array = by_time.swapaxes(0, 1) if stacks[-1].batch_first else by_time
    return dy


def checked_gradient(dy: Any, y: Array) -> Array:
    """`dy`, if it is an array like the output."""
    return array_like("dy", dy, y.shape, y.dtype, "the output")
