"""Truncated BPTT along a stream that need not end, nor fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .arrays import Array
from .autoregressive import AR
from .engine.truncation import Window
from .errors import array_like, as_array, booleans, positive_int
from .model import STATEFUL, Model
from .recurrent import Recurrent

Loss = Callable[[Array, Any], tuple[Any, Array]]


class Block(NamedTuple):
    """A block of a stream whose gradient has been added to ``grads``.

    loss : what the loss function gave
    y : outputs of the block's steps
    state : of the layer or the model, after the block
    steps : of the stream up to here
    """

    loss: Any
    y: Array
    state: Any
    steps: int


def tbptt(
    model: Recurrent | AR | Model,
    blocks: Iterable[tuple[Any, ...]],
    loss: Loss,
    *,
    k1: int,
    k2: int | None = None,
    state: Any = None,
) -> Iterator[Block]:
    """Truncated BPTT along a stream, block by block (Williams & Peng 1990; Sutskever 2013, section 2.8.6).

    The loss of every step counts once, in its block of `k1` steps, and goes back from the block's end over `k2` steps.
    The parameters may be changed between blocks: a block's gradient is taken at the parameters of that time, as a
    function of the state at the first of its `k2` steps. While they are not, the gradients of all blocks add up to
    that of ``backward(dy, truncate=(k1, k2))`` over the whole sequence.

    Parameters
    ----------
    model : Recurrent, AR or Model
        Its layers run forward in time.
    blocks : iterable of (x, target) or (x, target, resets)
        Inputs (k1, N, ...), or (N, k1, ...) with `batch_first`, in the order of time; the last may have fewer steps.
        `target` goes to `loss`; `resets` (k1, N) are as of a call. Read one by one, when they are asked for.
    loss : callable
        ``value, dy = loss(y, target)`` of a block's outputs and target, such as :func:`fastrnn.losses.mse`. Summed, not
        averaged, over steps if the blocks are to count as those of one call.
    k1, k2 : int
        `k2` is at least `k1`, and `k1` by default. The inputs of the last `k2` steps are kept, and run again for every
        block if `k2` is more than `k1`.
    state : optional
        Initial state, as the model takes it; zeros by default.

    Yields
    ------
    Block
        When the block's gradient has been added to ``model.grads``: the place for a step of an optimizer, and for
        ``model.zero_grad()``.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value, at once; if a block has, when it is read.

    Examples
    --------
    >>> blocks = ((x[t : t + 20], target[t : t + 20]) for t in range(0, len(x), 20))
    >>> for block in fastrnn.tbptt(model, blocks, fastrnn.losses.mse, k1=20, k2=60):
    ...     optimizer.step(model.grads)
    ...     model.zero_grad()
    """
    if not isinstance(model, Recurrent | AR | Model):
        raise TypeError(f"model: expected a layer over time or a Model, got {type(model).__name__}")
    if not isinstance(blocks, Iterable):
        raise TypeError(f"blocks: expected an iterable of (x, target), got {type(blocks).__name__}")
    if not callable(loss):
        raise TypeError(f"loss: expected a function of outputs and target, got {type(loss).__name__}")
    k1 = positive_int("k1", k1)
    k2 = k1 if k2 is None else positive_int("k2", k2)
    if k2 < k1:
        raise ValueError(f"k2: expected at least k1={k1}, got {k2}")
    layers = [one for one in model.layers if isinstance(one, STATEFUL)] if isinstance(model, Model) else [model]
    if any(isinstance(layer, Recurrent) and (layer.bidirectional or layer.reverse) for layer in layers):
        raise ValueError("model: expected layers that run forward in time, as a stream has no end to begin from")
    time = int(any(layer.batch_first for layer in layers))
    return _Stream(model, loss, Window(k1, k2), time, state).run(blocks)


class _Stream:
    """The steps that a block's gradient goes back over, and the state before them."""

    def __init__(self, model: Any, loss: Loss, window: Window, time: int, state: Any) -> None:
        self.model, self.loss, self.window, self.time = model, loss, window, time
        self.before, self.last = state, state
        self.x: Array | None = None
        self.resets: Array | None = None
        self.seen = self.first = 0

    def run(self, blocks: Iterable[tuple[Any, ...]]) -> Iterator[Block]:
        k1, k2 = self.window
        short = False
        for count, block in enumerate(blocks):
            x, target, resets = self._parts(block)
            steps = x.shape[self.time]
            if short or not 1 <= steps <= k1:
                what = f"one of {steps} steps{' after a shorter one' if short else ''}"
                raise ValueError(f"blocks: expected k1={k1} steps in each, fewer in the last alone, got {what}")
            short = steps < k1
            self.seen += steps
            begin = 0 if self.seen <= k2 else (count + 1) * k1 - k2
            self._forget(begin - self.first)
            self._append(x, resets)
            yield self._learn(steps, target)

    def _parts(self, block: Any) -> tuple[Array, Any, Array | None]:
        if not isinstance(block, tuple | list) or len(block) not in (2, 3):
            raise TypeError(f"blocks: expected (x, target) or (x, target, resets), got {type(block).__name__}")
        x = as_array("blocks: x", block[0])
        if x.ndim < 2:
            raise ValueError(f"blocks: expected x with the axes of time and of sequences, got shape {x.shape}")
        resets = block[2] if len(block) == 3 else None
        return x, block[1], None if resets is None else booleans("blocks: resets", resets, x.shape[:2])

    def _forget(self, steps: int) -> None:
        """Move the state before the steps that are kept on over `steps` of them."""
        if steps == 0 or self.x is None:
            return
        kept = self.x.shape[self.time]
        if steps == kept:
            self.before = self.last
        else:
            self.before = self.model.forward(self._steps(self.x, 0, steps), self.before, **self._resets(0, steps))[1]
        self.x = self._steps(self.x, steps, kept)
        if self.resets is not None:
            self.resets = self._steps(self.resets, steps, kept)
        self.first += steps

    def _append(self, x: Array, resets: Array | None) -> None:
        if self.resets is not None or resets is not None:
            before = self._none(self.x) if self.resets is None else self.resets
            new = self._none(x) if resets is None else resets
            self.resets = new if before is None else np.concatenate([before, new], axis=self.time)
        # A copy where steps outlive their block: the caller may use its array again.
        self.x = np.array(x) if self.x is None else np.concatenate([self.x, x], axis=self.time)

    def _none(self, x: Array | None) -> Array | None:
        return None if x is None else np.zeros(x.shape[:2], bool)

    def _steps(self, array: Array, begin: int, end: int) -> Array:
        return array[:, begin:end] if self.time else array[begin:end]

    def _resets(self, begin: int, end: int) -> dict[str, Array]:
        return {} if self.resets is None else {"resets": self._steps(self.resets, begin, end)}

    def _learn(self, steps: int, target: Any) -> Block:
        """The gradient of the last `steps` steps' loss."""
        assert self.x is not None
        all_ = self.x.shape[self.time]
        y, self.last = self.model.forward(self.x, self.before, **self._resets(0, all_))
        own = self._steps(y, all_ - steps, all_)
        value, d = self.loss(own, target)
        d = array_like("loss: the gradient", d, own.shape, own.dtype, "the output")
        if steps < all_:
            dy = np.zeros_like(y)
            self._steps(dy, all_ - steps, all_)[...] = d
            d = dy
        self.model.backward(d)
        return Block(value, own, self.last, self.seen)
