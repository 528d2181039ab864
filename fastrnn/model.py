"""A chain of layers, and the file it is saved to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .arrays import Array, Arrays, Trainable
from .autoregressive import AR
from .cells import Cell
from .configuration import described, planned, require_cells
from .engine.settings import pinned
from .engine.truncation import WHOLE, Pass, window_of
from .errors import file_path
from .forward_mode import Chain
from .layers import Layer, added_together
from .model_file import KEY, open_model, pack, refusing, write_atomically
from .recurrent import Recurrent

__all__ = ["Model"]

# Layers over time: they take states and flags, and return the last state besides the output.
STATEFUL = (Recurrent, AR)


class Model(Trainable):
    """A chain of layers.

    Parameters
    ----------
    layers : sequence of Layer
        Each takes the output of the one before it. A layer may occur only once, as it saves one :meth:`forward` at a
        time.

    Attributes
    ----------
    layers : list of Layer
        The layers.
    params, grads : mapping of str to array
        The layers' own arrays under ``"{index}.{name}"``; assignment works as for a :class:`Layer`.

    Raises
    ------
    TypeError
        If `layers` is not a sequence of layers.
    ValueError
        If there is no layer, or one of them occurs twice.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        try:
            self.layers = list(layers)
        except TypeError as error:
            raise TypeError(f"layers: expected a sequence of layers, got {type(layers).__name__}") from error
        for i, layer in enumerate(self.layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"layers[{i}]: expected a fastrnn layer, got {type(layer).__name__}")
            if any(layer is other for other in self.layers[:i]):
                raise ValueError(f"layers[{i}]: expected each layer once, got one that occurs twice")
        if not self.layers:
            raise ValueError("layers: expected at least one layer")
        self._gather()

    def _gather(self) -> None:
        numbered = list(enumerate(self.layers))
        self._params = Arrays("params", {f"{i}.{k}": v for i, layer in numbered for k, v in layer.params.items()})
        self._grads = Arrays("grads", {f"{i}.{k}": v for i, layer in numbered for k, v in layer.grads.items()})

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_params", "_grads")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._gather()

    def __call__(
        self, x: Array, state: Any = None, lengths: Any = None, *, mask: Any = None, resets: Any = None
    ) -> tuple[Array, list[Any]]:
        """Run the layers without saving anything for a backward pass.

        Parameters
        ----------
        x : array
            Input of the first layer.
        state : list, optional
            Initial state of each layer over time (recurrent or AR), as returned by a call; zeros by default.
        lengths, mask, resets
            For the layers over time; see :mod:`fastrnn.functional`. A reset state is zero.

        Returns
        -------
        y : array
            Output of the last layer.
        state : list
            State of each layer over time after the last step of each sequence.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type, dtype, shape or value.
        """
        with pinned():
            return self._run(x, state, {"lengths": lengths, "mask": mask, "resets": resets}, keep=False)

    def forward(
        self,
        x: Array,
        state: Any = None,
        lengths: Any = None,
        *,
        mask: Any = None,
        resets: Any = None,
        recompute: int | str | None = None,
    ) -> tuple[Array, list[Any]]:
        """Run the layers with dropout and save what one :meth:`backward` needs.

        Parameters
        ----------
        x, state, lengths, mask, resets
            As of a call. Input and state are kept, not copied: leave them unchanged until :meth:`backward`.
        recompute : int or "sqrt", optional
            Save little more of each recurrent layer than its input, and compute the rest again in :meth:`backward`; see
            :meth:`fastrnn.Prepared.vjp`.

        Returns
        -------
        y, state
            As of a call.

        Raises
        ------
        TypeError, ValueError
            As for a call.
        """
        with pinned():
            return self._run(x, state, {"lengths": lengths, "mask": mask, "resets": resets}, True, recompute)

    def _run(
        self, x: Array, state: Any, flags: dict[str, Any], keep: bool, recompute: int | str | None = None
    ) -> tuple[Array, list[Any]]:
        initial = iter(self._states("state", state))
        last = []
        for layer in self.layers:
            if isinstance(layer, STATEFUL):
                run = layer.forward if keep else layer
                more: dict[str, Any] = {"recompute": recompute} if keep and isinstance(layer, Recurrent) else {}
                x, end = run(x, next(initial), **flags, **more)
                last.append(end)
            else:
                x = layer.forward(x) if keep else layer(x)  # type: ignore[attr-defined, operator]
        return x, last

    def backward(
        self,
        dy: Array,
        dstate: Any = None,
        truncate: int | tuple[int, int] | None = None,
        *,
        clip_state: tuple[str, float] | None = None,
    ) -> Array | None:
        """Backpropagate through the last :meth:`forward` and add the gradients of the parameters to ``grads``.

        They are added once those of all layers have been computed: if a layer raises, ``grads`` is unchanged.

        Parameters
        ----------
        dy : array
            Gradient of the loss with respect to the output, with its shape and dtype.
        dstate : list, optional
            Gradient with respect to the last state of each layer over time; zeros by default.
        truncate : int or pair of int, optional
            Cut the gradient after every `truncate` active steps of a sequence; with ``(k1, k2)``, the losses of each
            block of k1 steps go back over the k2 steps up to the block's end. See :mod:`fastrnn.functional`.
        clip_state : ("value", float) or ("norm", float), optional
            Clip the gradient of every recurrent layer's states at each step; see :meth:`Recurrent.backward`.

        Returns
        -------
        array or None
            Gradient with respect to the input; None if the first layer takes integers.

        Raises
        ------
        RuntimeError
            If there was no :meth:`forward` since the last one.
        TypeError, ValueError
            If an argument has the wrong type, dtype, shape or value.
        """
        gradients = self._states("dstate", dstate)
        if not isinstance(truncate, tuple | list):
            with added_together(self.layers):
                return self._back(dy, gradients, truncate, clip_state)
        ways = self._passes(truncate)
        saved = [layer._saved for layer in self.layers]
        total: Array | None = None
        with added_together(self.layers):
            for way in ways:
                # Every pass goes back over the same forward pass.
                for layer, own in zip(self.layers, saved, strict=True):
                    layer._saved = own
                dx = self._back(*self._of_pass(way, dy, gradients), Pass(way.cuts), clip_state)
                total = dx if total is None else total + dx
        return total

    def _back(self, dy: Any, gradients: list[Any], truncate: Any, clip_state: Any) -> Array | None:
        d, gradients = dy, list(gradients)
        for layer in reversed(self.layers):
            if isinstance(layer, STATEFUL):
                more = {"clip_state": clip_state} if clip_state is not None and isinstance(layer, Recurrent) else {}
                d, _ = layer.backward(d, gradients.pop(), truncate, **more)
            else:
                d = layer.backward(d)  # type: ignore[attr-defined]
        return d  # type: ignore[no-any-return]

    def _passes(self, truncate: Any) -> Iterator[Pass]:
        """The passes back that all layers take part in."""
        over_time = [layer for layer in self.layers if isinstance(layer, STATEFUL)]
        recurrent = [layer for layer in over_time if isinstance(layer, Recurrent)]
        window = window_of(truncate, max((layer.directions for layer in recurrent), default=1))
        if window is None or not over_time:
            return iter([WHOLE])
        if window.k1 < window.k2 and len({getattr(layer, "reverse", False) for layer in over_time}) > 1:
            raise ValueError(f"truncate: expected layers of one direction for k1 < k2, got {truncate} and both")
        return over_time[0]._passes(truncate)

    def _of_pass(self, way: Pass, dy: Any, gradients: list[Any]) -> tuple[Any, list[Any]]:
        """Which of the gradients go back in `way`; what has a wrong shape stays, for its layer to refuse."""
        if way.counted is None or way.ends is None:
            return dy, gradients
        batch_first = next(layer.batch_first for layer in self.layers if isinstance(layer, STATEFUL))
        counted = way.counted.T if batch_first else way.counted
        N = len(way.ends)
        if isinstance(dy, np.ndarray) and dy.shape[:2] == counted.shape:
            dy = way.outputs(dy, batch_first)

        def ending(state: Any) -> Any:
            if isinstance(state, tuple | list):
                return tuple(ending(part) for part in state)
            fits = isinstance(state, np.ndarray) and state.ndim == 3 and state.shape[1] == N
            return way.state(state) if fits else state

        return dy, [ending(state) for state in gradients]

    def jvp(
        self,
        x: Array,
        state: Any = None,
        x_dot: Array | None = None,
        state_dot: Any = None,
        params_dot: Mapping[str, Array] | None = None,
        lengths: Any = None,
        *,
        mask: Any = None,
        resets: Any = None,
    ) -> tuple[Array, list[Any], Array, list[Any]]:
        """Output and last states, without dropout, and their derivatives along one direction.

        Parameters
        ----------
        x, state, lengths, mask, resets
            As of a call.
        x_dot : array like `x`, optional
            The direction's part in the input; None for zeros, and for integers, which have no derivative.
        state_dot : list, optional
            Its part in the initial states; zeros by default.
        params_dot : mapping of str to array, optional
            Its part in ``params``, by name; zeros for those that are missing.

        Returns
        -------
        y, state
            As of a call.
        y_dot, state_dot : like these
            Their derivatives along the direction.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type, dtype, shape or value.
        """
        states, states_dot = self._states("state", state), self._states("state_dot", state_dot)
        with pinned():
            chain = Chain([(f"{i}.", layer) for i, layer in enumerate(self.layers)], params_dot)
            flags = {"lengths": lengths, "mask": mask, "resets": resets}
            return chain.forward(x, states, x_dot, states_dot, flags)

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        for layer in self.layers:
            layer.zero_grad()

    def __repr__(self) -> str:
        layers = "".join(f"\n  ({i}) {layer!r}" for i, layer in enumerate(self.layers))
        return f"{type(self).__name__}({layers}\n)"

    def _states(self, argument: str, states: Any) -> list[Any]:
        count = sum(isinstance(layer, STATEFUL) for layer in self.layers)
        if states is None:
            return [None] * count
        expected = f"{argument}: expected a list of {count} state(s), one per recurrent or AR layer"
        if not isinstance(states, list | tuple):
            raise TypeError(f"{expected}, got {type(states).__name__}")
        if len(states) != count:
            raise ValueError(f"{expected}, got {len(states)}")
        return list(states)

    def save(self, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
        """Write parameters and configuration to a safetensors file, completely or not at all.

        Parameters
        ----------
        path : path
            If it is a link, the file it points to is written. An existing file keeps its mode.
        metadata : mapping of str to str, optional
            Stored in the file besides the configuration.

        Raises
        ------
        OSError
            If the file cannot be written. An existing file is unchanged then.
        TypeError, ValueError
            If `metadata` or a layer cannot be stored in a file.
        """
        if metadata is not None and not isinstance(metadata, Mapping):
            raise TypeError(f"metadata: expected a mapping of strings to strings, got {type(metadata).__name__}")
        extra = dict(metadata or {})
        if KEY in extra or not all(_is_text(s) for pair in extra.items() for s in pair):
            raise ValueError(f"metadata: expected strings to strings, none called {KEY!r}, got {extra!r}")
        write_atomically(file_path("path", path), pack(self.params, [described(layer) for layer in self.layers], extra))

    @classmethod
    def load(cls, path: str | os.PathLike[str], cells: Mapping[str, Cell] | None = None) -> Model:
        """Read a model from a file that :meth:`save` has written.

        The file need not be trusted: it contains no code, and its configuration is compared with its tensors before
        any layer is built.

        Parameters
        ----------
        path : path
            The file.
        cells : mapping of str to Cell, optional
            The cells of :class:`Recurrent` layers by name, as a file contains no code.

        Returns
        -------
        Model
            Its layers have the parameters of the file, gradients of zero and a new random state.

        Raises
        ------
        OSError
            If the file cannot be opened; FileNotFoundError if there is none.
        ValueError
            If the file is not a model of fastrnn, is truncated or damaged (it has a checksum of its contents), was
            saved by a later version, or needs a cell that is not in `cells`. The message names the file.
        TypeError
            If `cells` is not a mapping of names to cells.
        """
        return read_model(path, cells, cls)[0]


def _is_text(value: Any) -> bool:
    # A lone surrogate cannot be encoded.
    return isinstance(value, str) and value.encode("utf-8", "replace").decode() == value


def read_model(
    path: str | os.PathLike[str], cells: Mapping[str, Cell] | None = None, kind: type[Model] = Model
) -> tuple[Model, dict[str, str]]:
    """The results of :meth:`Model.load` and :func:`read_metadata`, from one reading of the file."""
    if cells is not None and not isinstance(cells, Mapping):
        raise TypeError(f"cells: expected a mapping of names to cells, got {type(cells).__name__}")
    for name, cell in (cells or {}).items():
        if not isinstance(cell, Cell):
            raise TypeError(f"cells[{name!r}]: expected a Cell, got {type(cell).__name__}")
    with open_model(file_path("path", path)) as file:
        require_cells(file.layers, cells or {}, str(path))
        with refusing(file.path):
            model = kind([layer(**arguments) for layer, arguments in planned(file.layers, file.kinds, cells or {})])
        file.check()
        for name, value in model.params.items():
            value[...] = file.tensor(name)
    return model, file.metadata


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata that :meth:`Model.save` was given; errors are those of :meth:`Model.load`."""
    with open_model(file_path("path", path)) as file:
        file.check()
    return file.metadata
