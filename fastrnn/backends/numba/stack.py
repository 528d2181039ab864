"""Short calls of whole layers: where a step takes a microsecond, what Python does around it would cost the most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ... import thresholds
from ...engine.call import Array, Backend, Layout
from ...engine.memory import aligned_parts
from ...engine.settings import Settings
from ...engine.stack import LayerByLayer
from ...engine.threads import threads_up_to, work_of
from .kernel import forward_memory, kernel_of

_BIASES = ("bx", "bh")


def plain(array: Array) -> Array:
    """`array` as compiled code reads it: in C order, aligned, writeable; a copy where it is not."""
    return array if array.flags.carray else np.array(array, order="C")


def flat(states: tuple[Array, ...], N: int, H: int, dtype: np.dtype[Any]) -> Array:
    """The states in one array (S, N, H)."""
    one = np.empty((len(states), N, H), dtype)
    for row, state in zip(one, states, strict=True):
        row[...] = state
    return one


class _Memory(NamedTuple):
    """For calls of T steps and N sequences: the loop's buffers, and how many steps are projected at once."""

    shape: tuple[int, int]
    chunk: int
    states: Array
    keep: Array
    memory: Array


class NumbaStack(LayerByLayer):
    """See :class:`fastrnn.engine.call.Stack`: takes calls for one thread, of arrays that need no copy."""

    def __init__(self, backend: Backend, layout: Layout, params: Mapping[str, Array]) -> None:
        super().__init__(backend, layout, params)
        dtype = layout.dtype
        self._kernel = kernel_of(self.plan, dtype)
        none = np.empty(0, dtype)
        self._empty = np.empty((0, 0), np.uint8), np.empty((0, 0, 0), dtype)
        self._work = [
            work_of(self.plan, (1, 1, layout.input_of(i)), layout.hidden_size) for i in range(layout.num_layers)
        ]
        self._given = [[one.get(name, none) for name in ("Wx", "Wh", *_BIASES)] for one in self._params]
        self._quick = layout.directions == 1 and not layout.reverse
        # Of calls that have ended; a call that finds none makes its own, so that calls at once share nothing.
        self._idle: list[_Memory] = []

    def quick(self, x: Any, state: Any, ndim: int, now: Settings, keep: bool) -> tuple[Array, Any, Any] | None:
        """See :class:`fastrnn.engine.call.Stack`."""
        layout = self.layout
        if keep or not self._quick or not self._is(x, ndim) or x.shape[-1] != layout.input_size:
            return None
        if ndim == 2:
            x = x[None]
        elif layout.batch_first:
            x = x.swapaxes(0, 1)
        T, N, _ = x.shape
        work = T * N * max(self._work)
        if not work or (N > 1 and threads_up_to(now.num_threads)(work) > 1):
            return None
        first = self._first(state, N)
        parameters = self._parameters() if first is not None else None
        if first is None or parameters is None:
            return None
        memory = self._memory(T, N)
        y, last = self._run(plain(x), first, parameters, memory)
        if T * N <= thresholds.KEPT_ROWS:
            self._idle.append(memory)
        if ndim == 2:
            y = y[0]
        elif layout.batch_first:
            y = y.swapaxes(0, 1)
        return y, last, None

    def _run(self, x: Array, first: Array, parameters: list[list[Array]], memory: _Memory) -> tuple[Array, Any]:
        """The outputs of the last layer, and every layer's last states."""
        (T, N, _), H, kernel = x.shape, self.layout.hidden_size, self._kernel
        last = np.empty_like(first)
        for i, given in enumerate(parameters):
            y = np.empty((T, N, H), x.dtype)
            kernel.run_forward(
                *kernel.to_forward, x, *given, first[i], last[i], y,
                memory.states, memory.keep, memory.memory, *self._empty, memory.chunk, 0, 0,
            )  # fmt: skip
            x = y
        states = np.ascontiguousarray(last.swapaxes(0, 1))
        return x, states[0] if len(states) == 1 else tuple(states)

    def _is(self, value: Any, ndim: int) -> bool:
        return type(value) is np.ndarray and value.ndim == ndim and value.dtype == self.layout.dtype

    def _first(self, state: Any, N: int) -> Array | None:
        """The first states, (layers, S, N, H); None if they are not what they should be."""
        layout, count = self.layout, self.plan.n_states
        shape = (len(layout.names), N, layout.hidden_size)
        if state is None:
            return np.zeros((shape[0], count, *shape[1:]), layout.dtype)
        given = state if count > 1 else (state,)
        if not isinstance(given, tuple | list) or len(given) != count:
            return None
        if not all(self._is(a, 3) and a.shape == shape for a in given):
            return None
        first = np.empty((shape[0], count, *shape[1:]), layout.dtype)
        for k, part in enumerate(given):
            first[:, k] = part
        return first

    def _parameters(self) -> list[list[Array]] | None:
        """For each layer what the loop takes; None if it cannot take one of the arrays as it is."""
        names = self.layout.cell.units
        none = self._given[0][2]
        result = []
        for given, params in zip(self._given, self._params, strict=True):
            if not all(a.flags.carray for a in given):
                return None
            own = np.concatenate([params[name] for name in names]) if names else none
            result.append([*given, own])
        return result

    def _memory(self, T: int, N: int) -> _Memory:
        memory = self._idle.pop() if self._idle else None
        if memory is not None and memory.shape == (T, N):
            return memory
        layout, plan, kernel = self.layout, self.plan, self._kernel
        H = layout.hidden_size
        rows = N * kernel.padded(H)
        chunk = min(T, max(1, thresholds.CHUNK_BYTES // (rows * plan.n_gates * layout.dtype.itemsize)))
        most = max(layout.input_of(i) for i in range(layout.num_layers))
        size = forward_memory(kernel, plan, N, most, H, chunk, False)
        sizes = [(T + 1 + 2 * (plan.n_states - 1)) * rows, plan.n_keep * rows, size]
        return _Memory((T, N), chunk, *aligned_parts(sizes, layout.dtype))
