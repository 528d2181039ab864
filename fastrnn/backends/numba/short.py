"""Short calls of whole layers: where a step takes a microsecond, what Python does around it would cost the most."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ... import thresholds
from ...engine.call import Array, StackLayout
from ...engine.memory import aligned_parts
from ...engine.plan import make_plan
from ...engine.threads import work_of
from .modules import compiled, project
from .pack import plain
from .subnormals import as_zeros

_BIASES = ("bx", "bh")


def takes(work: int, N: int, threads: int) -> bool:
    """Whether the short way is for a call of `work` multiply-adds in its largest layer, over N sequences.

    A longer one is better in chunks, or split where it may use several `threads`.
    """
    return 0 < work <= thresholds.SHORT_WORK and (N == 1 or threads == 1)


class _Memory(NamedTuple):
    """For calls of T steps and N sequences: the loop's buffers, and the length of every sequence."""

    shape: tuple[int, int]
    projected: Array
    x: Array
    states: list[Array]
    keep: Array
    packed: Array
    lengths: Array


class ShortStack:
    """See :class:`fastrnn.engine.call.Stack`: takes short calls on arrays that compiled code can read as they are."""

    def __init__(self, layout: StackLayout, width: int) -> None:
        self._layout, self._width = layout, width
        self._plan = plan = make_plan(layout.cell)
        self._module = compiled(plan, "forward", layout.dtype.name, width)
        self._none = np.empty(0, layout.dtype)
        sizes = [layout.input_size, *[layout.hidden_size] * (len(layout.names) - 1)]
        shapes = [layout.cell.param_shapes(D, layout.hidden_size) for D in sizes]
        own = ("Wx", "Wh", *_BIASES, *layout.cell.units)
        self._shapes = [{name: by_name[name] for name in own} for by_name in shapes]
        self._work = max(work_of(plan, (1, 1, D), layout.hidden_size) for D in sizes)
        # Of calls that have ended; a call that finds none makes its own, so that calls at once share nothing.
        self._idle: list[_Memory] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return ShortStack, (self._layout, self._width)

    def __call__(
        self,
        params: Mapping[str, Array],
        x: Any,
        state: Any,
        ndim: int,
        threads_for: Callable[[int], int],
        bf16_parts: int,
    ) -> tuple[Array, Any] | None:
        layout = self._layout
        if not self._is(x, ndim) or x.shape[-1] != layout.input_size:
            return None
        if ndim == 2:
            x = x[None]
        elif layout.batch_first:
            x = x.swapaxes(0, 1)
        T, N, _ = x.shape
        H = layout.hidden_size
        work = T * N * self._work
        if not takes(work, N, threads_for(work)):
            return None
        shape = (len(layout.names), N, H)
        first = self._states(state, shape)
        weights = [self._weights(params, *layer) for layer in zip(layout.names, self._shapes, strict=True)]
        if first is None or not all(weights):
            return None
        last = [np.empty(shape, layout.dtype) for _ in first]
        memory = self._memory(T, N)
        y = self._run(plain(x), weights, first, last, memory)
        if T * N <= thresholds.KEPT_ROWS:
            self._idle.append(memory)
        if ndim == 2:
            y = y[0]
        elif layout.batch_first:
            y = y.swapaxes(0, 1)
        return y, (last[0] if len(last) == 1 else tuple(last))

    @as_zeros
    def _run(
        self, y: Array, weights: list[list[Array]], first: list[Array], last: list[Array], memory: _Memory
    ) -> Array:
        """The outputs of the last layer for the input `y`; every layer's last states go into `last`."""
        T, N, _ = y.shape
        for i, (Wx, *others) in enumerate(weights):
            x, y = y, np.empty((T, N, self._layout.hidden_size), y.dtype)
            self._module.forward(
                project(x.reshape(T * N, x.shape[2]), Wx, memory.projected), memory.x,
                *others, *[a[i] for a in first], *[a[i] for a in last], y,
                *memory.states, memory.keep, memory.packed, memory.lengths, 0, 0, T, T, N, 1, 0, 0,
            )  # fmt: skip
        return y

    def _is(self, value: Any, ndim: int) -> bool:
        return type(value) is np.ndarray and value.ndim == ndim and value.dtype == self._layout.dtype

    def _states(self, state: Any, shape: tuple[int, ...]) -> list[Array] | None:
        """The first states; None if they are not what they should be."""
        count = self._plan.n_states
        if state is None:
            return [np.zeros(shape, self._layout.dtype)] * count
        given = state if count > 1 else (state,)
        if not isinstance(given, tuple | list) or len(given) != count:
            return None
        if not all(self._is(a, 3) and a.shape == shape for a in given):
            return None
        return [plain(a) for a in given]

    def _weights(
        self, params: Mapping[str, Array], names: tuple[str, ...], shapes: dict[str, tuple[int, ...]]
    ) -> list[Array]:
        """A layer's parameters, empty where it has no bias; none if the compiled code cannot take them."""
        result: list[Array] = []
        for name, (own, shape) in zip(names, shapes.items(), strict=True):
            array: Any = params.get(name)
            if array is None and own in _BIASES:
                array = self._none
            elif not self._is(array, len(shape)) or array.shape != shape or not array.flags.carray:
                return []
            result.append(array)
        return result

    def _memory(self, T: int, N: int) -> _Memory:
        memory = self._idle.pop() if self._idle else None
        if memory is not None and memory.shape == (T, N):
            return memory
        plan, dtype, H = self._plan, self._layout.dtype, self._layout.hidden_size
        Hp = -(-H // self._width) * self._width
        rows, G = T * N, plan.n_gates
        # The first state is the output, at every step; of the others the last two are enough.
        states = [(2 if k else T + 1) * N * Hp for k in range(plan.n_states)]
        sizes = [rows * G * H, rows * G * Hp, N * plan.n_keep * Hp, self._module.memory_size(H), *states]
        projected, x, keep, packed, *parts = aligned_parts(sizes, dtype)
        return _Memory((T, N), projected.reshape(rows, G * H), x, parts, keep, packed, np.full(N, T))
