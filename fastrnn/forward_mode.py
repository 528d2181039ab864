"""Derivatives along a direction, forward mode through time, and back through them for Hessian-vector products.

Each kind of layer has a run: ``forward`` takes its input and the input's derivative along the direction and gives the
same of the output; ``backward`` gives the gradient of ``sum(dy * y) + sum(dy_dot * y_dot)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .arrays import Array
from .dispatch import backend_for
from .engine.settings import current
from .engine.tangent import Direction, Kept, TangentStack
from .errors import array_like
from .layers import Embedding, Layer, Linear
from .prepared import Prepared


class Moved(NamedTuple):
    """Outputs and last states of layers, and their derivatives along the direction."""

    y: Array
    state: Any
    y_dot: Array
    state_dot: Any


class RecurrentRun:
    """Layers of a cell; `params_dot` has the derivative of some of the parameters."""

    def __init__(self, prepared: Prepared, params_dot: Mapping[str, Array]) -> None:
        self.prepared, self.params_dot, self.now = prepared, params_dot, current()
        self.stack = TangentStack(prepared.layout, prepared.params, bool(params_dot))
        plans = self.stack.plan, self.stack.tangent_plan
        self.backends = backend_for(plans[0], self.now.backend), backend_for(plans[1], self.now.backend)
        self.kept: Kept | None = None

    def forward(
        self, x: Any, state: Any, x_dot: Any, state_dot: Any, flags: Mapping[str, Any], keep: bool = False
    ) -> Moved:
        """See the module; `flags` are the further arguments of a call."""
        prepared, layout = self.prepared, self.prepared.layout
        arguments = {"lengths": None, "mask": None, "resets": None, "reset_state": None, "training": False, **flags}
        given, _ = prepared._given(x, state, **arguments)
        if x_dot is not None:
            x_dot = array_like("x_dot", x_dot, x.shape, layout.dtype, "the layer")
            x_dot = x_dot.transpose(1, 0, 2) if layout.batch_first else x_dot
        along = Direction(x_dot, prepared._state_in("state_dot", state_dot, given.x.shape[1]), self.params_dot)
        y, last, y_dot, last_dot, self.kept = self.stack.forward(self.backends, given, along, self.now, keep)
        outputs = prepared._output(y, None), prepared._output(y_dot, None)
        return Moved(outputs[0], prepared._state_out(last), outputs[1], prepared._state_out(last_dot))

    def backward(self, dy: Array, dy_dot: Array) -> tuple[Array, Array, dict[str, Array]]:
        """See the module."""
        assert self.kept is not None
        swap = self.prepared.layout.batch_first
        given = [d.transpose(1, 0, 2) if swap else d for d in (dy, dy_dot)]
        dx, dx_dot, grads = self.stack.backward(self.backends, self.kept, given[0], given[1])
        return (dx.transpose(1, 0, 2), dx_dot.transpose(1, 0, 2), grads) if swap else (dx, dx_dot, grads)


class LinearRun:
    """``y = x W + b``, so ``y_dot = x_dot W + x W_dot + b_dot``."""

    def __init__(self, layer: Linear, params_dot: Mapping[str, Array]) -> None:
        self.layer = layer
        self.dot = {n: params_dot.get(n, np.zeros(p.shape, p.dtype)) for n, p in layer.params.items()}
        self.x: tuple[Array, Array] = (np.zeros(0), np.zeros(0))

    def forward(
        self, x: Any, state: Any, x_dot: Any, state_dot: Any, flags: Mapping[str, Any], keep: bool = False
    ) -> Moved:
        """See the module; there is no state, and nothing that `flags` could say."""
        y = self.layer(x)
        x_dot = np.zeros_like(x) if x_dot is None else array_like("x_dot", x_dot, x.shape, x.dtype, "the layer")
        y_dot = x_dot @ self.layer.params["W"] + x @ self.dot["W"] + self.dot.get("b", 0)
        self.x = x, x_dot
        return Moved(y, None, y_dot, None)

    def backward(self, dy: Array, dy_dot: Array) -> tuple[Array, Array, dict[str, Array]]:
        """See the module."""
        x, x_dot, d, d_dot = (a.reshape(-1, a.shape[-1]) for a in (*self.x, dy, dy_dot))
        W = self.layer.params["W"]
        grads = {"W": x.T @ d + x_dot.T @ d_dot}
        if "b" in self.dot:
            grads["b"] = d.sum(axis=0)
        return dy @ W.T + dy_dot @ self.dot["W"].T, dy_dot @ W.T, grads


class EmbeddingRun:
    """Rows of ``W``, so ``y_dot`` are those of ``W_dot``; integers have no derivative."""

    def __init__(self, layer: Embedding, params_dot: Mapping[str, Array]) -> None:
        self.layer = layer
        self.dot = params_dot.get("W", np.zeros_like(layer.params["W"]))
        self.x = np.zeros(0, np.int64)

    def forward(
        self, x: Any, state: Any, x_dot: Any, state_dot: Any, flags: Mapping[str, Any], keep: bool = False
    ) -> Moved:
        """See the module."""
        if x_dot is not None:
            raise ValueError(f"x_dot: expected None, as integers have no derivative, got {type(x_dot).__name__}")
        y = self.layer(x)
        self.x = np.array(x)
        return Moved(y, None, self.dot[self.x], None)

    def backward(self, dy: Array, dy_dot: Array) -> tuple[None, None, dict[str, Array]]:
        """See the module."""
        dW = np.zeros_like(self.dot)
        np.add.at(dW, self.x.reshape(-1), dy.reshape(-1, dW.shape[1]))
        return None, None, {"W": dW}


class Chain:
    """Layers in a row, each with the names that its parameters begin with."""

    def __init__(self, layers: Sequence[tuple[str, Layer]], params_dot: Any) -> None:
        params = {prefix + name: value for prefix, layer in layers for name, value in layer.params.items()}
        dot = check_direction(params, params_dot)
        self.prefixes = [prefix for prefix, _ in layers]
        self.runs = [
            _run_of(layer, {name: dot[prefix + name] for name in layer.params if prefix + name in dot})
            for prefix, layer in layers
        ]

    def forward(
        self,
        x: Any,
        states: Sequence[Any],
        x_dot: Any,
        states_dot: Sequence[Any],
        flags: Mapping[str, Any],
        keep: bool = False,
    ) -> tuple[Array, list[Any], Array, list[Any]]:
        """Outputs and last states of the layers with memory, and their derivatives along the direction."""
        given = zip(states, states_dot, strict=True)
        last, last_dot = [], []
        for run in self.runs:
            state, state_dot = next(given) if isinstance(run, RecurrentRun) else (None, None)
            moved = run.forward(x, state, x_dot, state_dot, flags, keep)
            x, x_dot = moved.y, moved.y_dot
            if isinstance(run, RecurrentRun):
                last.append(moved.state)
                last_dot.append(moved.state_dot)
        return x, last, x_dot, last_dot

    def backward(self, dy: Any, dy_dot: Any) -> dict[str, Array]:
        """Gradient of every parameter."""
        grads: dict[str, Array] = {}
        for prefix, run in zip(reversed(self.prefixes), reversed(self.runs), strict=True):
            dy, dy_dot, own = run.backward(dy, dy_dot)
            grads |= {prefix + name: value for name, value in own.items()}
        return grads


def _run_of(layer: Layer, params_dot: Mapping[str, Array]) -> RecurrentRun | LinearRun | EmbeddingRun:
    if isinstance(layer, Linear):
        return LinearRun(layer, params_dot)
    if isinstance(layer, Embedding):
        return EmbeddingRun(layer, params_dot)
    prepared: Prepared = layer._prepared  # type: ignore[attr-defined]
    return RecurrentRun(prepared, params_dot)


def check_direction(params: Mapping[str, Array], params_dot: Any) -> dict[str, Array]:
    """`params_dot`, if it is None or has arrays like those of some of `params`."""
    if params_dot is None:
        return {}
    if not isinstance(params_dot, Mapping):
        raise TypeError(f"params_dot: expected a mapping of arrays, got {type(params_dot).__name__}")
    unknown = [name for name in params_dot if name not in params]
    if unknown:
        raise ValueError(f"params_dot: expected some of {', '.join(params)}; unknown {', '.join(map(str, unknown))}")
    return {
        name: array_like(f"params_dot[{name!r}]", value, params[name].shape, params[name].dtype, "the parameter")
        for name, value in params_dot.items()
    }
