"""Layers in a row, and their file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from .arrays import Array, Arrays, Trainable
from .cells import Cell
from .configuration import described, planned, require_cells
from .engine.settings import pinned
from .errors import file_path
from .forward_mode import Chain
from .layers import Layer, added_together
from .model_file import KEY, open_model, pack, refusing, write_atomically
from .recurrent import Recurrent


class Model(Trainable):
    """A chain of layers.

    Parameters
    ----------
    layers : sequence of Layer
        Each takes the output of the one before; each only once, as it keeps one :meth:`forward` at a time.

    Attributes
    ----------
    params, grads : mapping of str to array
        The layers' own arrays, under ``"{index}.{name}"``; assignment as for a layer's.
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
                raise ValueError(f"layers[{i}]: expected a layer of its own, got one that is there twice")
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
        """Output and last states, keeping nothing.

        Parameters
        ----------
        x : array
            Input of the first layer.
        state : list, optional
            A state for each recurrent layer, as this returns it; zeros by default.
        lengths, mask, resets
            Of the recurrent layers; see :mod:`fastrnn.functional`. Resets are to zeros.
        """
        with pinned():
            return self._run(x, state, {"lengths": lengths, "mask": mask, "resets": resets}, keep=False)

    def forward(
        self, x: Array, state: Any = None, lengths: Any = None, *, mask: Any = None, resets: Any = None
    ) -> tuple[Array, list[Any]]:
        """The same, with dropout, keeping what one :meth:`backward` needs."""
        with pinned():
            return self._run(x, state, {"lengths": lengths, "mask": mask, "resets": resets}, keep=True)

    def _run(self, x: Array, state: Any, flags: dict[str, Any], keep: bool) -> tuple[Array, list[Any]]:
        initial = iter(self._states("state", state))
        last = []
        for layer in self.layers:
            if isinstance(layer, Recurrent):
                run = layer.forward if keep else layer
                x, end = run(x, next(initial), **flags)
                last.append(end)
            else:
                x = layer.forward(x) if keep else layer(x)  # type: ignore[attr-defined, operator]
        return x, last

    def backward(self, dy: Array, dstate: Any = None, truncate: int | None = None) -> Array | None:
        """Add the gradients of the last :meth:`forward` to ``grads``, when those of all layers are there.

        Parameters
        ----------
        dy : array like the output
        dstate : list, optional
            Gradient with respect to each recurrent layer's last state; zeros by default.
        truncate : int, optional
            Cut the gradient after every `truncate` steps.

        Returns
        -------
        array like the input, or None if the first layer takes integers
        """
        gradients = self._states("dstate", dstate)
        d: Array | None = dy
        with added_together(self.layers):
            for layer in reversed(self.layers):
                if isinstance(layer, Recurrent):
                    d, _ = layer.backward(d, gradients.pop(), truncate)
                else:
                    d = layer.backward(d)  # type: ignore[attr-defined]
        return d

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

        As :meth:`Recurrent.jvp`, with lists of states as of a call, and ``params_dot`` by the names of ``params``. An
        input of integers has no derivative: `x_dot` is None then.
        """
        states, states_dot = self._states("state", state), self._states("state_dot", state_dot)
        with pinned():
            chain = Chain([(f"{i}.", layer) for i, layer in enumerate(self.layers)], params_dot)
            flags = {"lengths": lengths, "mask": mask, "resets": resets}
            return chain.forward(x, states, x_dot, states_dot, flags)

    def zero_grad(self) -> None:
        """Set every gradient to zero."""
        for layer in self.layers:
            layer.zero_grad()

    def _states(self, argument: str, states: Any) -> list[Any]:
        count = sum(isinstance(layer, Recurrent) for layer in self.layers)
        if states is None:
            return [None] * count
        expected = f"{argument}: expected a list of {count} state(s), one per recurrent layer"
        if not isinstance(states, list | tuple):
            raise TypeError(f"{expected}, got {type(states).__name__}")
        if len(states) != count:
            raise ValueError(f"{expected}, got {len(states)}")
        return list(states)

    def save(self, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
        """Write parameters and configuration to a safetensors file, whole or not at all.

        Parameters
        ----------
        path : path
            Of a link, the file that it points to is written. The mode of a file that is there already stays.
        metadata : mapping of str to str, optional
            Kept in the file beside the configuration.

        Raises
        ------
        OSError
            If the file cannot be written. What was there before is left as it was.
        ValueError, TypeError
            If `metadata` or a layer cannot be kept in a file.
        """
        if metadata is not None and not isinstance(metadata, Mapping):
            raise TypeError(f"metadata: expected a mapping of strings to strings, got {type(metadata).__name__}")
        extra = dict(metadata or {})
        if KEY in extra or not all(_is_text(s) for pair in extra.items() for s in pair):
            raise ValueError(f"metadata: expected strings to strings, none called {KEY!r}, got {extra!r}")
        write_atomically(file_path("path", path), pack(self.params, [described(layer) for layer in self.layers], extra))

    @classmethod
    def load(cls, path: str | os.PathLike[str], cells: Mapping[str, Cell] | None = None) -> Model:
        """The model in a file that :meth:`save` wrote.

        The file may come from anywhere: it holds no code, and its configuration is compared with its tensors before
        anything of either is built.

        Parameters
        ----------
        path : path
        cells : mapping of str to Cell, optional
            Cells of :class:`Recurrent` layers by name: a file holds no code.

        Raises
        ------
        OSError
            If the file cannot be opened; FileNotFoundError if there is none.
        ValueError
            If the file is not a model of fastrnn, is torn or damaged (files have a checksum of all that is in them),
            was saved by a later version, or needs a cell that is not in `cells`. The message names the file.
        TypeError
            If what `cells` holds is not a cell.
        """
        return read_model(path, cells, cls)[0]


def _is_text(value: Any) -> bool:
    # A lone surrogate has no bytes.
    return isinstance(value, str) and value.encode("utf-8", "replace").decode() == value


def read_model(
    path: str | os.PathLike[str], cells: Mapping[str, Cell] | None = None, kind: type[Model] = Model
) -> tuple[Model, dict[str, str]]:
    """What :meth:`Model.load` and :func:`read_metadata` give, of one and the same file."""
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
    """What :meth:`Model.save` was given as metadata; errors as :meth:`Model.load` has them."""
    with open_model(file_path("path", path)) as file:
        file.check()
    return file.metadata
