"""Layers in a row, and their file."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import recurrent
from .arrays import Array, Arrays
from .cells import Cell
from .engine.settings import pinned
from .layers import Embedding, Layer, Linear, added_together
from .recurrent import GRU, LSTM, RNN, Recurrent

_LAYERS: dict[str, type[Layer]] = {
    "RNN": RNN,
    "LSTM": LSTM,
    "GRU": GRU,
    "Recurrent": Recurrent,
    "Linear": Linear,
    "Embedding": Embedding,
}
_KEY = "fastrnn"
_VERSION = 1


class Model:
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
        self.layers = list(layers)
        for i, layer in enumerate(self.layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"layers[{i}]: expected a fastrnn layer, got {type(layer).__name__}")
            if any(layer is other for other in self.layers[:i]):
                raise ValueError(f"layers[{i}]: expected a layer of its own, got one that is there twice")
        if not self.layers:
            raise ValueError("layers: expected at least one layer")
        numbered = list(enumerate(self.layers))
        self._params = Arrays("params", {f"{i}.{k}": v for i, layer in numbered for k, v in layer.params.items()})
        self._grads = Arrays("grads", {f"{i}.{k}": v for i, layer in numbered for k, v in layer.grads.items()})

    @property
    def params(self) -> Arrays:
        return self._params

    @params.setter
    def params(self, new: Mapping[str, Array]) -> None:
        self._params.assign(new)

    @property
    def grads(self) -> Arrays:
        return self._grads

    @grads.setter
    def grads(self, new: Mapping[str, Array]) -> None:
        self._grads.assign(new)

    def __call__(self, x: Array, state: Any = None, lengths: Any = None) -> tuple[Array, list[Any]]:
        """Output and last states, keeping nothing.

        Parameters
        ----------
        x : array
            Input of the first layer.
        state : list, optional
            A state for each recurrent layer, as this returns it; zeros by default.
        lengths : (N,) integers, optional
            Steps of each sequence.
        """
        with pinned():
            return self._run(x, state, lengths, keep=False)

    def forward(self, x: Array, state: Any = None, lengths: Any = None) -> tuple[Array, list[Any]]:
        """The same, keeping what :meth:`backward` needs."""
        with pinned():
            return self._run(x, state, lengths, keep=True)

    def _run(self, x: Array, state: Any, lengths: Any, keep: bool) -> tuple[Array, list[Any]]:
        initial = iter(self._states("state", state))
        last = []
        for layer in self.layers:
            if isinstance(layer, Recurrent):
                run = layer.forward if keep else layer
                x, end = run(x, next(initial), lengths)
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
        metadata : mapping of str to str, optional
            Kept in the file beside the configuration.
        """
        from safetensors.numpy import save

        extra = dict(metadata or {})
        if _KEY in extra or not all(isinstance(s, str) for pair in extra.items() for s in pair):
            raise ValueError(f"metadata: expected strings to strings, none called {_KEY!r}, got {extra!r}")
        layers = [{"type": _type_name(layer), **layer.config()} for layer in self.layers]
        extra[_KEY] = json.dumps({"version": _VERSION, "layers": layers})
        write_atomically(Path(path), save({k: np.ascontiguousarray(v) for k, v in self.params.items()}, extra))

    @classmethod
    def load(cls, path: str | os.PathLike[str], cells: Mapping[str, Cell] | None = None) -> Model:
        """The model in a file that :meth:`save` wrote.

        Parameters
        ----------
        path : path
        cells : mapping of str to Cell, optional
            Cells of :class:`Recurrent` layers by name: a file holds no code.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is not a model of fastrnn, is torn, or needs a cell that is not in `cells`.
        TypeError
            If what `cells` holds is not a cell.
        """
        for name, cell in (cells or {}).items():
            if not isinstance(cell, Cell):
                raise TypeError(f"cells[{name!r}]: expected a Cell, got {type(cell).__name__}")
        tensors, metadata = _read(Path(path))
        try:
            layers = [_build(dict(config), cells or {}) for config in _layer_configs(metadata[_KEY])]
        except (KeyError, TypeError) as error:
            raise ValueError(f"path: the configuration in {path} does not describe a model ({error})") from error
        model = cls(layers)
        if _kinds(tensors) != _kinds(model.params):
            raise ValueError(f"path: the arrays in {path} do not fit its configuration")
        for name, value in tensors.items():
            model.params[name][...] = value
        return model


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """What :meth:`Model.save` was given as metadata."""
    _, metadata = _read(Path(path))
    return {key: value for key, value in metadata.items() if key != _KEY}


def _type_name(layer: Layer) -> str:
    for name, kind in _LAYERS.items():
        if type(layer) is kind:
            return name
    raise TypeError(f"save: expected one of the layers {', '.join(_LAYERS)}, got {type(layer).__name__}")


def _layer_configs(text: str) -> Any:
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ValueError(f"path: the configuration is not JSON ({error})") from error
    if config["version"] != _VERSION:
        raise ValueError(f"path: expected a model file of version {_VERSION}, got version {config['version']}")
    return config["layers"]


def _kinds(arrays: Mapping[str, Array]) -> dict[str, Any]:
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}


def _build(config: dict[str, Any], cells: Mapping[str, Cell]) -> Layer:
    kind = config.pop("type")
    if kind not in _LAYERS:
        raise ValueError(f"path: unknown layer type {kind!r}")
    if kind != "Recurrent":
        return _LAYERS[kind](**config)
    name, constants = config.pop("cell"), config.pop("constants")
    if name not in cells:
        given = ", ".join(cells) or "none"
        raise ValueError(f"cells: expected the cell {name!r} that the model uses, got {given}")
    return recurrent.Recurrent(cells[name](**constants), **config)


def _read(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if _KEY not in metadata:
                raise ValueError(f"path: expected a model saved by fastrnn, got {path}")
            return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"path: {path} is not a whole safetensors file ({error})") from error


def write_atomically(path: Path, data: bytes) -> None:
    """All of `data` or, should the process die on the way, what was there before."""
    # Not tempfile: its files are readable by their owner alone, whatever the umask says.
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(beside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
