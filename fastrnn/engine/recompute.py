"""BPTT in little memory: only the states at the ends of segments are kept, all else is computed again.

A segment goes through all layers of one direction, so that nothing of their inputs is kept either, and is one call of
any backend. With segments of a multiple of ``sqrt(T)`` steps, memory beyond the arrays of the call grows as
``sqrt(T)``, for one more forward pass (Chen, Xu, Zhang & Guestrin 2016, "Training deep nets with sublinear memory
cost"; for BPTT Gruslys et al. 2016, "Memory-efficient backpropagation through time").

Two directions meet between layers, at every step: there each layer and direction has segments of its own, and the
outputs of all layers are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..errors import positive_int
from .contract import Array, Given, LayerGradients, Layout, Need, Options, Stack
from .flags import Flags, with_cuts
from .memory import aligned
from .settings import Settings
from .stack import WithoutShortCut, joined
from .truncation import add

SQRT = "sqrt"
# Segments of "sqrt" have so many times sqrt(T) steps, as each packs the weights anew. 2026-11-24: forward and BPTT of a
# GRU with T=100,000, N=1, D=H=128 take 1.49, 1.41, 1.32 times the plain time with segments of 317, 1000, 2000 steps.
_ROOTS = 4


def segment_length(recompute: Any) -> Callable[[int], int]:
    """Steps of a segment, by those of the call, as the argument `recompute` says."""
    if isinstance(recompute, str):
        if recompute != SQRT:
            raise ValueError(f"recompute: expected a number of steps or {SQRT!r}, got {recompute!r}")
        return lambda T: min(_ROOTS * (math.isqrt(T - 1) + 1), T)
    steps = positive_int("recompute", recompute)
    return lambda T: min(steps, T)


class Saved(NamedTuple):
    """What is saved: the arguments of the call, and the states before each segment."""

    given: Given
    now: Settings
    states: list[tuple[Array, ...] | None]


class Segments(WithoutShortCut):
    """See :class:`fastrnn.engine.contract.Stack`: layers in one direction, a segment at a time.

    Parameters
    ----------
    stack : Stack
        The layers.
    layout : Layout
        Of `stack`.
    length : callable
        Steps of a segment, by those of a call.
    layer : int
        What dropout calls the first of the layers: its input is dropped too, unless this is 0.
    """

    def __init__(self, stack: Stack, layout: Layout, length: Callable[[int], int], layer: int = 0) -> None:
        self.stack, self.layout, self.length, self.layer = stack, layout, length, layer

    def forward(
        self, given: Given, now: Settings, keep: bool, out: Array | None = None
    ) -> tuple[Array, tuple[Array, ...], Any]:
        """See :class:`fastrnn.engine.contract.Stack`; outputs go to `out` (T, N, H), if it is there."""
        T, N, _ = given.x.shape
        y = aligned((T, N, self.layout.hidden_size), self.layout.dtype) if out is None else out
        state, states = given.state, []
        for part in self._parts(T):
            states.append(state)
            y[part], state, _ = self.stack.forward(self._piece(given, given.flags, part, state), now, False)
        assert state is not None
        return y, state, Saved(given, now, states) if keep else None

    def backward(
        self, saved: Saved, dy: Array | None, dlast: tuple[Array, ...] | None, options: Options, need: Need
    ) -> LayerGradients:
        """See :class:`fastrnn.engine.contract.Stack`."""
        given, now, states = saved
        T, N, D = given.x.shape
        flags = with_cuts(given.flags, T, N, self.layout.reverse, options.cuts)
        dx = aligned((T, N, D), self.layout.dtype) if need.x else None
        # The cuts are among the flags.
        own_need, own_options = need._replace(state=True), options._replace(cuts=None)
        total: LayerGradients | None = None
        for part, state in reversed(list(zip(self._parts(T), states, strict=True))):
            piece = self._piece(given, flags, part, state)
            found = self._segment(piece, now, None if dy is None else dy[part], dlast, own_options, own_need)
            if dx is not None and found.dx is not None:
                dx[part] = self._dropped(given, part, found.dx)
            dlast = found.dstate
            found = found._replace(dx=None, dstate=None)
            total = found if total is None else add(total, found)
        assert total is not None
        return total._replace(dx=dx, dstate=dlast if need.state else None)

    def _segment(
        self,
        piece: Given,
        now: Settings,
        dy: Array | None,
        dlast: tuple[Array, ...] | None,
        options: Options,
        need: Need,
    ) -> LayerGradients:
        """A segment once more, and back: what it keeps is gone before the next one begins."""
        _, _, saved = self.stack.forward(piece, now, True)
        return self.stack.backward(saved, dy, dlast, options, need)

    def _parts(self, T: int) -> list[slice]:
        """The steps of each segment, in the order of the direction."""
        length = self.length(T)
        parts = [slice(begin, min(begin + length, T)) for begin in range(0, T, length)]
        return parts[::-1] if self.layout.reverse else parts

    def _piece(self, given: Given, flags: Flags | None, part: slice, state: tuple[Array, ...] | None) -> Given:
        """The arguments of a segment's call."""
        own = None if flags is None or not flags[part].any() else flags[part]
        x = self._dropped(given, part, given.x[part])
        row = given.x.shape[1] * self.layout.hidden_size
        draw = None if self.layer or given.draw is None else given.draw.after(part.start * row)
        return Given(x, state, own, given.reset_state, draw)

    def _dropped(self, given: Given, part: slice, x: Array) -> Array:
        """Steps of the first layer's input, or of its gradient, as dropout leaves them."""
        if not self.layer or given.draw is None:
            return x
        return given.draw.after(part.start * x.shape[1] * x.shape[2]).applied(self.layer, x)


class BothWays(WithoutShortCut):
    """See :class:`fastrnn.engine.contract.Stack`: layers in two directions, each with segments of its own.

    Parameters
    ----------
    prepare : callable
        Of a backend: makes the stack of a layout.
    layout : Layout
        Of all layers.
    params : mapping of str to array
    length : callable
        As of :class:`Segments`.
    """

    def __init__(
        self,
        prepare: Callable[[Layout, Mapping[str, Array]], Stack],
        layout: Layout,
        params: Mapping[str, Array],
        length: Callable[[int], int],
    ) -> None:
        self.layout = layout
        self._each: list[Segments] = []
        for i, names in enumerate(layout.names):
            own = layout._replace(
                input_size=layout.input_of(i // 2), names=(names,), directions=1, reverse=i % 2 == 1, batch_first=False
            )
            self._each.append(Segments(prepare(own, params), own, length, i // 2))

    def forward(self, given: Given, now: Settings, keep: bool) -> tuple[Array, tuple[Array, ...], Any]:
        """See :class:`fastrnn.engine.contract.Stack`."""
        (T, N, _), H = given.x.shape, self.layout.hidden_size
        x, ends, saved = given.x, [], []
        for i, segments in enumerate(self._each):
            if i % 2 == 0:
                below, x = x, aligned((T, N, 2 * H), self.layout.dtype)
            own = given._replace(x=below, state=_of(given.state, i), reset_state=_of(given.reset_state, i))
            _, last, more = segments.forward(own, now, keep, x[..., i % 2 * H : (i % 2 + 1) * H])
            ends.append(tuple(state[0] for state in last))
            saved.append(more)
        return x, joined(ends), saved if keep else None

    def backward(
        self, saved: list[Saved], dy: Array | None, dlast: tuple[Array, ...] | None, options: Options, need: Need
    ) -> LayerGradients:
        """See :class:`fastrnn.engine.contract.Stack`."""
        H = self.layout.hidden_size
        found: list[LayerGradients] = []
        for i in reversed(range(len(saved))):
            d = i % 2
            own_dy = None if dy is None else dy[..., d * H : (d + 1) * H]
            own_need = need._replace(x=need.x or i > 1)
            found.insert(0, self._each[i].backward(saved[i], own_dy, _of(dlast, i), options, own_need))
            if d == 0:
                dx = found[0].dx
                if dx is not None:
                    dx += found[1].dx
                dy, found[1] = dx, found[1]._replace(dx=None)
        states = [[None if s is None else tuple(part[0] for part in s) for s in (f.dstate, f.dreset)] for f in found]
        grads = {name: value for one in found for name, value in one.grads.items()}
        dstate, dreset = (None if each[0] is None else joined(list(each)) for each in zip(*states, strict=True))
        return LayerGradients(dy if need.x else None, dstate, grads, dreset)


def _of(states: tuple[Array, ...] | None, i: int) -> tuple[Array, ...] | None:
    """The states of one layer and direction, (1, N, H) each."""
    return None if states is None else tuple(state[i : i + 1] for state in states)
