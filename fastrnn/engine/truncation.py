"""Truncated BPTT: which losses go back together, and where their gradient is cut.

In BPTT(k2; k1) of Williams & Peng (1990), "An efficient gradient-based algorithm for on-line training of recurrent
network trajectories", as Sutskever (2013), section 2.8.6, writes it, the losses of each block of k1 steps go back from
the block's end over k2 steps. Steps are a sequence's own active ones, in the direction's order. A short last block
reaches as far back as if it were whole, and a sequence of at most k2 steps is not cut at all.

For k2 > k1 the windows of neighbouring blocks overlap, and a loss must not go further than its own block's window. But
those of every m-th block, ``m = ceil(k2 / k1)``, do not overlap: they all go back in one pass, and there are m passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import choice, positive_int
from .contract import Array, Clip, LayerGradients, Need, Options, Stack
from .flags import Cuts, Flags, inactive

_PLAIN = Options()


class Window(NamedTuple):
    """The losses of `k1` steps go back `k2` steps from the last one's end."""

    k1: int
    k2: int


class Pass(NamedTuple):
    """One pass back.

    cuts : where it ends
    counted : (T, N) whose losses go along; None for all
    ends : (N,) of which sequences the gradient of the last state does; None for all
    """

    cuts: Cuts | None
    counted: NDArray[np.bool_] | None = None
    ends: NDArray[np.bool_] | None = None

    def outputs(self, dy: Array | None, batch_first: bool = False) -> Array | None:
        """The gradient of the outputs (T, N, ...), or (N, T, ...), that goes along."""
        if dy is None or self.counted is None:
            return dy
        counted = self.counted.T if batch_first else self.counted
        return np.where(counted.reshape(counted.shape + (1,) * (dy.ndim - 2)), dy, dy.dtype.type(0))

    def state(self, dlast: Array) -> Array:
        """The gradient of a last state (layers, N, H) that goes along."""
        return dlast if self.ends is None else np.where(self.ends[:, None], dlast, dlast.dtype.type(0))


WHOLE = Pass(None)


def window_of(truncate: Any, directions: int = 1) -> Window | None:
    """What the argument `truncate` says: None, the steps between cuts, or the pair (k1, k2)."""
    if truncate is None:
        return None
    if not isinstance(truncate, tuple | list):
        k = positive_int("truncate", truncate)
        return Window(k, k)
    if len(truncate) != 2:
        raise ValueError(f"truncate: expected an integer or a pair (k1, k2), got {len(truncate)} entries")
    k1, k2 = (positive_int(f"truncate[{i}]", k) for i, k in enumerate(truncate))
    if k2 < k1:
        raise ValueError(f"truncate: expected (k1, k2) with k2 of at least k1, got k1={k1} and k2={k2}")
    if k1 < k2 and directions > 1:
        raise ValueError(
            f"truncate: expected one number of steps for a bidirectional layer, got k1={k1} and k2={k2}: "
            "blocks of its two directions begin at different ends"
        )
    return Window(k1, k2)


def clip_of(clip_state: Any) -> Clip | None:
    """What the argument `clip_state` says."""
    if clip_state is None:
        return None
    expected = 'clip_state: expected ("value", bound) or ("norm", bound)'
    if not isinstance(clip_state, tuple | list):
        raise TypeError(f"{expected}, got {type(clip_state).__name__}")
    if len(clip_state) != 2:
        raise ValueError(f"{expected}, got {len(clip_state)} entries")
    kind, bound = choice("clip_state[0]", clip_state[0], ("value", "norm")), clip_state[1]
    if isinstance(bound, bool) or not isinstance(bound, int | float | np.floating | np.integer):
        raise TypeError(f"clip_state[1]: expected a number, got {type(bound).__name__}")
    if not 0 < bound < np.inf:
        raise ValueError(f"clip_state[1]: expected a finite number above 0, got {bound}")
    return Clip(float(bound), kind == "norm")


def passes(
    truncate: Any, flags: Flags | None, T: int, N: int, reverse: bool = False, directions: int = 1
) -> Iterator[Pass]:
    """The passes of a call of T steps and N sequences, in which every loss goes back once.

    `truncate` is what the user gave, or the one pass that it is: the layers of a model go back together.
    """
    if isinstance(truncate, Pass):
        return iter([truncate])
    return _passes(window_of(truncate, directions), flags, T, N, reverse)


def _passes(window: Window | None, flags: Flags | None, T: int, N: int, reverse: bool) -> Iterator[Pass]:
    if window is None or window.k2 >= T:
        yield WHOLE
        return
    k1, k2 = window
    if k1 == k2:
        yield Pass(Cuts(k1, k1))
        return
    held = inactive(flags)
    active = np.ones((T, N), bool) if held is None else ~held
    in_order = active[::-1] if reverse else active
    number = np.cumsum(in_order, axis=0) - in_order
    block = (number[::-1] if reverse else number) // k1
    last = np.maximum(in_order.sum(axis=0) - 1, 0) // k1
    together = -(-k2 // k1)
    for own in range(together):
        begin = (own + 1) * k1 - k2
        every = together * k1
        cuts = Cuts(begin if begin > 0 else begin + every, every, k2)
        yield Pass(cuts, block % together == own, last % together == own)


def backward(
    stack: Stack,
    saved: Any,
    dy: Array | None,
    dlast: tuple[Array, ...] | None,
    ways: Iterator[Pass],
    need: Need,
    options: Options = _PLAIN,
) -> LayerGradients:
    """The sum of what all passes give; see :meth:`fastrnn.engine.contract.Stack.backward`."""
    total: LayerGradients | None = None
    for way in ways:
        own = None if dlast is None else tuple(way.state(d) for d in dlast)
        found = stack.backward(saved, way.outputs(dy), own, options._replace(cuts=way.cuts), need)
        total = found if total is None else add(total, found)
    assert total is not None
    return total


def add(total: LayerGradients, found: LayerGradients) -> LayerGradients:
    """Adds `found` to `total`, in its own arrays."""
    for sums, more in zip(_arrays(total), _arrays(found), strict=True):
        sums += more
    return total


def _arrays(found: LayerGradients) -> list[Array]:
    """Those of a pass, in one order."""
    some = [] if found.dx is None else [found.dx]
    return [*some, *(found.dstate or ()), *found.grads.values(), *(found.dreset or ())]
