"""The short cut for plain calls: a step takes a microsecond, so the Python around it is most of the time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ...engine.contract import Array, Backend, Given, LayerGradients, Layout, Need, Options
from ...engine.settings import Settings
from ...engine.stack import LayerByLayer, SavedCalls, parameter_gradients
from ...engine.threads import threads_up_to, work_of
from .kernel import kernel_of
from .path import chunk_of
from .run import Saved, backward, forward, plain

_BIASES = ("bx", "bh")


class Quick(NamedTuple):
    """What a quick call saves for its backward pass: for each layer the input, and what the loop has kept."""

    inputs: list[Array]
    by_layer: list[Saved]
    first: Array
    chunk: int
    now: Settings


class NumbaStack(LayerByLayer):
    """See :class:`fastrnn.engine.contract.Stack`. The short cut takes calls for one thread in one direction."""

    def __init__(self, backend: Backend, layout: Layout, params: Mapping[str, Array]) -> None:
        super().__init__(backend, layout, params)
        dtype = layout.dtype
        self._kernel = kernel_of(self.plan, dtype)
        self._none = none = np.empty(0, dtype)
        self._work = [
            work_of(self.plan, (1, 1, layout.input_of(i)), layout.hidden_size) for i in range(layout.num_layers)
        ]
        self._given = [[one.get(name, none) for name in ("Wx", "Wh", *_BIASES)] for one in self._params]
        blocks = max(self.plan.n_gates, self.plan.n_da)
        self._row_bytes = blocks * self._kernel.padded(layout.hidden_size) * dtype.itemsize
        self._shapes = {name: array.shape for name, array in params.items()}
        self._quick = layout.directions == 1 and not layout.reverse

    def quick(self, x: Any, state: Any, ndim: int, now: Settings, keep: bool) -> tuple[Array, Any, Any] | None:
        """See :class:`fastrnn.engine.contract.Stack`."""
        layout = self.layout
        if not self._quick or not self._is(x, ndim) or x.shape[-1] != layout.input_size:
            return None
        if ndim == 2:
            x = x[None]
        elif layout.batch_first:
            x = x.swapaxes(0, 1)
        T, N, _ = x.shape
        work = T * N * max(self._work)
        if not work or (N > 1 and threads_up_to(now.num_threads)(work) > 1):
            return None
        first = self._states(state, N)
        parameters = self._parameters() if first is not None else None
        if first is None or parameters is None:
            return None
        x = plain(x)
        chunk = chunk_of(T, N, self._row_bytes)
        saved = Quick([], [], first, chunk, now) if keep else None
        last = np.empty_like(first)
        for i, given in enumerate(parameters):
            y, last[i], one = forward(self._kernel, x, given, first[i], None, None, chunk, False, keep)
            if saved is not None:
                saved.inputs.append(x)
                saved.by_layer.append(one)
            x = y
        if keep:
            x.flags.writeable = False
        if ndim == 2:
            x = x[0]
        elif layout.batch_first:
            x = x.swapaxes(0, 1)
        return x, self._out(last), saved

    def quick_backward(
        self, saved: Any, dy: Any, dstate: Any, need: Need, into: Any, add: bool
    ) -> tuple[Array | None, Any, dict[str, Any]] | None:
        """See :class:`fastrnn.engine.contract.Stack`."""
        layout = self.layout
        if not isinstance(saved, Quick) or not (into is None or (need.params and self._is_like_params(into))):
            return None
        T, N, _ = saved.inputs[0].shape
        shape = (N, T, layout.hidden_size) if layout.batch_first else (T, N, layout.hidden_size)
        if dy is not None and not (self._is(dy, 3) and dy.shape == shape):
            return None
        dlast, parameters = self._states(dstate, N), self._parameters()
        if dlast is None or parameters is None:
            return None
        if dy is not None and layout.batch_first:
            dy = dy.swapaxes(0, 1)
        dfirst = np.empty_like(dlast)
        grads: dict[str, Array] = {}
        for i in reversed(range(len(parameters))):
            x, one = saved.inputs[i], saved.by_layer[i]
            found = backward(self._kernel, x, parameters[i], one, dy, dlast[i], None, None, saved.chunk, False)
            dy, dfirst[i] = found.dx, found.dstate
            if need.params:
                names = self._names[i]
                own = parameter_gradients(self.plan, found, self._params[i])
                grads = {names[name]: value for name, value in own.items()} | grads
        for name, array in (into or {}).items():
            if add:
                array += grads[name]
            else:
                array[...] = grads[name]
            grads[name] = array
        dx = dy.swapaxes(0, 1) if dy is not None and layout.batch_first else dy
        return dx if need.x else None, self._out(dfirst) if need.state else None, grads

    def backward(
        self, saved: Any, dy: Array | None, dlast: tuple[Array, ...] | None, options: Options, need: Need
    ) -> LayerGradients:
        """See :class:`fastrnn.engine.contract.Stack`."""
        if isinstance(saved, Quick):
            states = tuple(saved.first.swapaxes(0, 1))
            calls = [self._call(i, x, Given(x, states), 1, 0) for i, x in enumerate(saved.inputs)]
            saved = SavedCalls(
                Given(saved.inputs[0], states), calls, [[one] for one in saved.by_layer], saved.now.num_threads
            )
        return super().backward(saved, dy, dlast, options, need)

    def _is(self, value: Any, ndim: int) -> bool:
        return type(value) is np.ndarray and value.ndim == ndim and value.dtype == self.layout.dtype

    def _is_like_params(self, into: Any) -> bool:
        """Whether gradients can go into arrays as they are."""
        shapes = self._shapes
        return type(into) is dict and all(
            name in shapes and self._is(a, len(shapes[name])) and a.shape == shapes[name] and a.flags.writeable
            for name, a in into.items()
        )

    def _states(self, state: Any, N: int) -> Array | None:
        """States as the loops take them, (layers, S, N, H); None if they are not what they should be."""
        layout, count = self.layout, self.plan.n_states
        layers, H = len(layout.names), layout.hidden_size
        if state is None:
            return np.zeros((layers, count, N, H), layout.dtype)
        given = state if count > 1 else (state,)
        if not isinstance(given, tuple | list) or len(given) != count:
            return None
        for array in given:
            if not self._is(array, 3) or array.shape != (layers, N, H):
                return None
        if count == 1 and state.flags.carray:
            # The loops only read it.
            return state[:, None]  # type: ignore[no-any-return]
        made = np.empty((layers, count, N, H), layout.dtype)
        for k, array in enumerate(given):
            made[:, k] = array
        return made

    def _out(self, states: Array) -> Any:
        """States (layers, S, N, H) as the caller has them."""
        by_state = np.ascontiguousarray(states.swapaxes(0, 1))
        return by_state[0] if len(by_state) == 1 else tuple(by_state)

    def _parameters(self) -> list[list[Array]] | None:
        """For each layer the arrays that the loop takes; None if one of them would have to be copied."""
        names = self.layout.cell.units
        result = []
        for given, params in zip(self._given, self._params, strict=True):
            for array in given:
                if not array.flags.carray:
                    return None
            own = np.concatenate([params[name] for name in names]) if names else self._none
            result.append([*given, own])
        return result
