"""What all online learners have in common: checks, states, updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..arrays import Array
from ..dispatch import get_backend
from ..engine.jacobian import make_jacobian
from ..engine.online import LayerParams
from ..engine.stack import names_of
from ..errors import array_like, as_array, booleans, rows_array
from ..layers import Embedding, Layer, Linear
from ..model import Model
from ..optim import Optimizer
from ..recurrent import Recurrent
from .memoryless import Memoryless

Loss = Callable[[Array, Any], tuple[float, Array]]


class Learner:
    """Base of the online learners.

    Parameters
    ----------
    layer : Recurrent or Model
        Layers of one direction, forward in time. Its dropout does not act, as in ``layer.step``.
    loss : callable, optional
        For :meth:`update`: ``loss(y, target)`` gives the loss and its gradient, as those of :mod:`fastrnn.losses` do.
    optimizer : fastrnn.optim.Optimizer, optional
        For :meth:`update`: updates ``layer.params`` from ``layer.grads``.

    Attributes
    ----------
    layer : Recurrent or Model
    state : array, tuple or list
        States after the last step, as ``layer`` itself has them; None before the first.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value, or a layer runs backward in time.
    """

    def __init__(self, layer: Recurrent | Model, loss: Loss | None, optimizer: Optimizer | None) -> None:
        if not isinstance(layer, Recurrent | Model):
            raise TypeError(f"layer: expected a recurrent layer or a Model, got {type(layer).__name__}")
        self.layers: list[Layer] = list(layer.layers) if isinstance(layer, Model) else [layer]
        for own in self.layers:
            _check_layer(own)
        if not any(isinstance(own, Recurrent) for own in self.layers):
            raise ValueError("layer: expected a Model with a recurrent layer, got one without memory")
        if loss is not None and not callable(loss):
            raise TypeError(f"loss: expected a function of y and target, got {type(loss).__name__}")
        if optimizer is not None and not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer: expected one of fastrnn.optim, got {type(optimizer).__name__}")
        if optimizer is not None and optimizer.params.keys() != layer.params.keys():
            raise ValueError(f"optimizer: expected one of the parameters {', '.join(layer.params)}")
        self.layer, self.loss, self.optimizer = layer, loss, optimizer
        # The steps of a learner stay on one backend: what they carry is the backend's own.
        self.backend = get_backend()
        # Of each layer that runs step by step, from below; those with memory carry a state and its influence.
        self._nodes: list[Any] = []
        self._sequences: int | None = None
        self._x_shape: tuple[int, ...] | None = None
        self._y_shape: tuple[int, ...] | None = None
        first, last = self.layers[0], self.layers[-1]
        self._x_dtype: np.dtype[Any] = first.dtype  # type: ignore[attr-defined]
        self._y_dtype: np.dtype[Any] = last.dtype  # type: ignore[attr-defined]

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Machine code holds the addresses of what it carries.
        raise TypeError(f"{type(self).__name__}: a learner cannot be pickled or copied; its layer can")

    def forward(self, x: Array, *, resets: Any = None) -> Array:
        """One step of the stream.

        Parameters
        ----------
        x : (N, D) array, or (N,) integers for a Model that begins with an Embedding
            N may change only after :meth:`reset`.
        resets : (N,) booleans, optional
            Sequences that begin anew with this step: zero states, and no influence of the past.

        Returns
        -------
        y : (N, O) array

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit; nothing has run then.
        """
        # A step takes microseconds: what is like the step before it is not checked in as many words.
        like = resets is None and type(x) is np.ndarray and x.shape == self._x_shape and x.dtype == self._x_dtype
        if not like:
            x = self._checked(x)
            fresh = None if resets is None else booleans("resets", resets, (len(x),))
            if self._sequences is None:
                self._start(len(x))
                self._sequences = len(x)
            if fresh is not None and fresh.any():
                self._clear(fresh)
        y = self._forward(x)
        if not like:
            self._y_shape = y.shape
            # Integers have to be looked at each time.
            self._x_shape = None if isinstance(self.layers[0], Embedding) else x.shape
        return y

    def backward(self, dy: Array) -> Array | None:
        """Add the gradient of this step's loss with respect to every parameter to ``layer.grads``.

        Parameters
        ----------
        dy : array like ``y``
            Gradient of this step's loss with respect to the output.

        Returns
        -------
        dx : array like ``x``
            Gradient with respect to this step's input; None for integers.

        Raises
        ------
        RuntimeError
            If there was no :meth:`forward`.
        TypeError, ValueError
            If `dy` does not fit; ``grads`` are unchanged then.
        """
        if not (type(dy) is np.ndarray and dy.shape == self._y_shape and dy.dtype == self._y_dtype):
            if self._y_shape is None:
                raise RuntimeError(f"{type(self).__name__}.backward: call forward first")
            dy = array_like("dy", dy, self._y_shape, self._y_dtype, "the output")
        return self._backward(dy)

    def update(self, x: Array, target: Any, *, resets: Any = None) -> tuple[Array, float]:
        """One step of the stream and one of the optimizer.

        Parameters
        ----------
        x, resets
            As of :meth:`forward`.
        target
            Second argument of the loss.

        Returns
        -------
        y : (N, O) array
            The output before the weights changed.
        loss : float

        Raises
        ------
        RuntimeError
            If the learner has no loss or no optimizer.

        Notes
        -----
        ``layer.grads`` are set to zero first, so that they are those of this step afterwards. The influence is that of
        weights which have changed along the way, as a step was made with the weights of its time: exact for weights at
        rest, and the closer the smaller the learning rate (Williams & Zipser 1989).
        """
        if self.loss is None or self.optimizer is None:
            missing = "loss" if self.loss is None else "optimizer"
            raise RuntimeError(
                f"{type(self).__name__}.update: expected a learner with loss= and optimizer=, no {missing}"
            )
        y = self.forward(x, resets=resets)
        value, dy = self.loss(y, target)
        self.layer.zero_grad()
        self.backward(dy)
        self.optimizer.step(self.layer.grads)
        return y, value

    def reset(self) -> None:
        """Forget everything: zero states, no influence, any number of sequences."""
        self._sequences = self._x_shape = self._y_shape = None

    @property
    def state(self) -> Any:
        """States after the last step."""
        if self._sequences is None:
            return None
        states = self._states()
        found = []
        for layer in self.layers:
            if isinstance(layer, Recurrent):
                own, states = states[: layer.num_layers], states[layer.num_layers :]
                parts = tuple(np.stack(part) for part in zip(*own, strict=True))
                found.append(parts if len(parts) > 1 else parts[0])
        return found if isinstance(self.layer, Model) else found[0]

    def _checked(self, x: Any) -> Array:
        first = self.layers[0]
        if isinstance(first, Embedding):
            x = as_array("x", x)
            if x.ndim != 1:
                raise ValueError(f"x: expected shape (N,), got {x.shape}")
            # The layer checks the numbers.
            first(x)
        else:
            assert isinstance(first, Recurrent | Linear)
            x = rows_array("x", x, "N", first.input_size, first.dtype)
        if not len(x):
            raise ValueError("x: expected at least one sequence, got none")
        if self._sequences is not None and len(x) != self._sequences:
            raise ValueError(
                f"x: expected {self._sequences} sequences as in the steps before, got {len(x)}: call reset() first"
            )
        checked: Array = x
        return checked

    def _start(self, N: int) -> None:
        """Begin with `N` sequences."""
        raise NotImplementedError

    def _clear(self, rows: Array) -> None:
        for node in self._nodes:
            node.clear(rows)

    def _forward(self, x: Array) -> Array:
        raise NotImplementedError

    def _backward(self, dy: Array) -> Array | None:
        raise NotImplementedError

    def _states(self) -> list[Any]:
        """Of each layer with memory, from below, the list of its states (N, H)."""
        return [node.state for node in self._nodes if not isinstance(node, Memoryless)]


def _check_layer(layer: Layer) -> None:
    if isinstance(layer, Recurrent):
        if layer.bidirectional or layer.reverse:
            kind = "bidirectional" if layer.bidirectional else "reversed"
            raise ValueError(f"layer: expected layers that run forward in time, got {kind} ones")
    elif not isinstance(layer, Linear | Embedding):
        raise TypeError(f"layer: expected Recurrent, Linear and Embedding layers, got {type(layer).__name__}")


def layers_of(layer: Recurrent) -> list[LayerParams]:
    """The layers of a stack, from below."""
    jacobian = make_jacobian(layer.cell)
    params, grads = layer.params, layer.grads
    found = []
    for i in range(layer.num_layers):
        names = names_of(layer._prepared.layout, i)
        own: Mapping[str, Array] = {name: params[key] for name, key in names.items() if key in params}
        mine = {name: grads[key] for name, key in names.items() if key in grads}
        found.append(LayerParams(jacobian, {"Wh": np.empty((layer.hidden_size, 0), layer.dtype), **own}, mine))
    return found
