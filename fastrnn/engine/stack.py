"""A stack run layer by layer, with a backend's forward and backward pass of one layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from .contract import Array, Backend, Call, Given, Gradients, LayerGradients, Layout, Need, Options
from .flags import with_cuts
from .plan import Plan, make_plan
from .precision import PARTS
from .settings import Settings
from .threads import apart, run_together, threads_up_to, work_of

Answer = TypeVar("Answer")


class SavedCalls(NamedTuple):
    """What a forward pass saves: the call of each layer and direction, and what the backend saved for it."""

    given: Given
    calls: list[Call]
    by_call: list[Any]
    num_threads: int


class WeightGradients(Protocol):
    """The part of :class:`fastrnn.engine.contract.Gradients` that belongs to the parameters."""

    @property
    def dWx(self) -> Array: ...
    @property
    def dWh(self) -> Array: ...
    @property
    def dslots(self) -> Array: ...


class WithoutShortCut:
    """The part of :class:`fastrnn.engine.contract.Stack` for plain calls, where nothing is quicker for them."""

    def quick(self, x: Any, state: Any, ndim: int, now: Settings, keep: bool) -> tuple[Array, Any, Any] | None:
        """See :class:`fastrnn.engine.contract.Stack`."""
        return None

    def quick_backward(
        self, saved: Any, dy: Any, dstate: Any, need: Need, into: Any, add: bool
    ) -> tuple[Array | None, Any, dict[str, Any]] | None:
        """See :class:`fastrnn.engine.contract.Stack`."""
        return None


class LayerByLayer(WithoutShortCut):
    """See :class:`fastrnn.engine.contract.Stack`."""

    def __init__(self, backend: Backend, layout: Layout, params: Mapping[str, Array]) -> None:
        self.backend, self.layout = backend, layout
        self.plan = make_plan(layout.cell)
        self._names = [names_of(layout, i) for i in range(len(layout.names))]
        self._params = [{name: params[key] for name, key in one.items() if key in params} for one in self._names]
        if not layout.cell.recurrent:
            for one in self._params:
                one["Wh"] = np.empty((layout.hidden_size, 0), layout.dtype)

    def forward(self, given: Given, now: Settings, keep: bool) -> tuple[Array, tuple[Array, ...], Any]:
        """See :class:`fastrnn.engine.contract.Stack`."""
        layout, x = self.layout, given.x
        threads_for = threads_up_to(now.num_threads)
        calls: list[Call] = []
        ends, by_call = [], []
        for layer in range(layout.num_layers):
            if layer and given.draw is not None:
                x = given.draw.applied(layer, x)
            threads = threads_for(work_of(self.plan, x.shape, layout.hidden_size))
            own = [self._call(i, x, given, threads, PARTS[now.matmul_precision]) for i in self._both(layer)]
            results = self._each(lambda call: self.backend.forward(call, keep), own, now.num_threads)
            calls += own
            ends += [result.last for result in results]
            by_call += [result.saved for result in results]
            outputs = [result.y for result in results]
            x = np.concatenate(outputs, axis=2) if layout.directions > 1 else outputs[0]
        saved = SavedCalls(given, calls, by_call, now.num_threads) if keep else None
        return x, joined(ends), saved

    def backward(
        self, saved: SavedCalls, dy: Array | None, dlast: tuple[Array, ...] | None, options: Options, need: Need
    ) -> LayerGradients:
        """See :class:`fastrnn.engine.contract.Stack`."""
        layout, given = self.layout, saved.given
        T, N, _ = given.x.shape
        H, count = layout.hidden_size, len(saved.calls)
        zeros = (np.zeros((N, H), layout.dtype),) * len(layout.cell.states)
        flags = [with_cuts(given.flags, T, N, call.reverse, options.cuts) for call in saved.calls[: layout.directions]]
        found: list[Gradients] = []
        dx: Array | None = None
        for layer in reversed(range(layout.num_layers)):

            def back(i: int, dy: Array | None = dy) -> Gradients:
                call, d = saved.calls[i], i % layout.directions
                own_dy = None if dy is None else dy[..., d * H : (d + 1) * H]
                own = zeros if dlast is None else tuple(part[i] for part in dlast)
                return self.backend.backward(
                    call,
                    saved.by_call[i],
                    own_dy,
                    own,
                    flags[d],
                    clip=options.clip,
                    per_sequence=options.per_sequence,
                )

            results = self._each(back, self._both(layer), saved.num_threads, saved.calls[layer * layout.directions])
            found = results + found
            dx = results[0].dx if layout.directions == 1 else results[0].dx + results[1].dx
            dy = dx if given.draw is None or not layer else given.draw.applied(layer, dx)
        grads: dict[str, Array] = {}
        for i in range(count if need.params else 0):
            own = parameter_gradients(self.plan, found[i], self._params[i])
            grads |= {self._names[i][name]: value for name, value in own.items()}
        return LayerGradients(
            dx if need.x else None,
            joined([one.dstate for one in found]) if need.state else None,
            grads,
            None if given.reset_state is None else joined([one.dreset or () for one in found]),
        )

    def _both(self, layer: int) -> range:
        return range(layer * self.layout.directions, (layer + 1) * self.layout.directions)

    def _call(self, i: int, x: Array, given: Given, threads: int, bf16_parts: int) -> Call:
        layout, N = self.layout, x.shape[1]
        if given.state is None:
            state = (np.zeros((N, layout.hidden_size), layout.dtype),) * len(layout.cell.states)
        else:
            state = tuple(part[i] for part in given.state)
        fresh = None if given.reset_state is None else tuple(part[i] for part in given.reset_state)
        reverse = layout.reverse if layout.directions == 1 else i % 2 == 1
        return Call(self.plan, x, state, self._params[i], reverse, threads, bf16_parts, given.flags, fresh)

    def _each(
        self, work: Callable[[Any], Answer], both: Any, num_threads: int, first: Call | None = None
    ) -> list[Answer]:
        """``work`` of each direction, in two threads where that is quicker."""
        call = first or both[0]
        shape = call.x.shape
        if len(both) > 1 and apart(num_threads, shape[1], work_of(self.plan, shape, self.layout.hidden_size)):
            return run_together(work, both)
        return [work(one) for one in both]


def names_of(layout: Layout, i: int) -> dict[str, str]:
    """Keys of the parameters of a layer and direction, by the cell's names for them."""
    own = ("Wx", "Wh", "bx", "bh", *layout.cell.units)
    has = layout.cell.param_shapes(1, 1)
    return {name: key for name, key in zip(own, layout.names[i], strict=True) if name in has}


def joined(states: list[tuple[Array, ...]]) -> tuple[Array, ...]:
    """For each state (layers, N, H), of the states (N, H) of each layer."""
    return tuple(np.stack(parts) if len(parts) > 1 else parts[0][None] for parts in zip(*states, strict=True))


def parameter_gradients(plan: Plan, found: WeightGradients, params: Mapping[str, Array]) -> dict[str, Array]:
    """Gradient of each of `params`, of one layer and direction; for each sequence, if `found` is."""
    dslots = found.dslots
    *each, _, H = dslots.shape
    grads = {"Wx": found.dWx, "Wh": found.dWh}
    if "bx" in params:
        grads["bx"] = np.array(dslots[..., : plan.n_gates, :]).reshape(*each, plan.n_gates * H)
    if "bh" in params:
        dbh = np.zeros((*each, plan.n_matrices, H), dslots.dtype)
        for p in plan.weight_terms:
            dbh[..., p.matrix, :] += dslots[..., p.slot, :]
        grads["bh"] = dbh.reshape(*each, plan.n_matrices * H)
    # Two parameters can share a slot; their gradients are two arrays all the same.
    units = zip(plan.cell.units, plan.unit_slots, strict=True)
    grads |= {unit: dslots[..., slot, :].copy() for unit, slot in units}
    return {name: grads[name] for name in params if name != "Wh" or plan.n_matrices}
