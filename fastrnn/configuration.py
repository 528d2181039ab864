"""The configuration of the layers in a model file: written, and checked before any layer is built."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .autoregressive import AR
from .cells import Cell, gru, lstm, rnn
from .cells.builtin import NONLINEARITIES
from .errors import FLOATS, choice, known_keys, positive_int
from .layers import Embedding, Layer, Linear
from .model_file import Kind
from .recurrent import GRU, LSTM, RNN, Recurrent

_LAYERS: dict[str, type[Layer]] = {
    "RNN": RNN,
    "LSTM": LSTM,
    "GRU": GRU,
    "Recurrent": Recurrent,
    "AR": AR,
    "Linear": Linear,
    "Embedding": Embedding,
}


def described(layer: Layer) -> dict[str, Any]:
    """The configuration of `layer`."""
    for name, kind in _LAYERS.items():
        if type(layer) is kind:
            return {"type": name, **layer.config()}
    raise TypeError(f"save: expected one of the layers {', '.join(_LAYERS)}, got {type(layer).__name__}")


def require_cells(configs: Sequence[Any], cells: Mapping[str, Cell], path: str) -> None:
    """Raises ValueError if a cell that `configs` name is not in `cells`."""
    for config in configs:
        name = config.get("cell") if isinstance(config, dict) and config.get("type") == "Recurrent" else None
        if isinstance(name, str) and name not in cells:
            given = ", ".join(cells) or "none"
            raise ValueError(f"cells: expected the cell {name[:100]!r} that the model uses, got {given} ({path})")


def planned(
    configs: Sequence[Any], kinds: Mapping[str, Kind], cells: Mapping[str, Cell]
) -> list[tuple[Callable[..., Layer], dict[str, Any]]]:
    """Classes and arguments of the layers that `configs` describe, if their parameters are those of `kinds`.

    Nothing is built, and the comparison stops at the first difference: even a small file may claim layers that are
    larger than memory.

    Raises
    ------
    ValueError, TypeError
        If a configuration is invalid, or its parameters differ.
    """
    result: list[tuple[Callable[..., Layer], dict[str, Any]]] = []
    found = 0
    for i, config in enumerate(configs):
        kind, arguments = _arguments(f"layers[{i}]", config, cells)
        for name, shape in _shapes(kind, arguments):
            expected, got = (shape, arguments["dtype"]), kinds.get(f"{i}.{name}")
            if got != expected:
                raise ValueError(f"it asks for {i}.{name} of {_text(expected)}, the file has {_text(got)}")
            found += 1
        result.append((_LAYERS[kind], arguments))
    if found < len(kinds):
        raise ValueError(f"it asks for {found} tensors, the file has {len(kinds)}")
    return result


def _text(kind: Kind | None) -> str:
    return f"shape {kind[0]}, {kind[1]}" if kind else "none"


def _arguments(where: str, config: Any, cells: Mapping[str, Cell]) -> tuple[str, dict[str, Any]]:
    """The type of a layer, and all arguments of its constructor except the seed."""
    if not isinstance(config, dict):
        raise ValueError(f"{where}: expected an object, got {type(config).__name__}")
    given = dict(config)
    kind = choice(f"{where}.type", given.pop("type", None), tuple(_LAYERS))
    parameters = {name: p.default for name, p in inspect.signature(_LAYERS[kind]).parameters.items() if name != "seed"}
    defaults = {name: default for name, default in parameters.items() if default is not inspect.Parameter.empty}
    required = [name for name in parameters if name not in defaults] + ["constants"] * (kind == "Recurrent")
    known_keys(where, given, required, tuple(defaults))
    for name, value in given.items():
        _FIELDS[name](f"{where}.{name}", value)
    if kind == "Recurrent":
        given["cell"] = _cell(where, cells[given["cell"]], given.pop("constants"))
    return kind, defaults | given


def _shapes(kind: str, arguments: Mapping[str, Any]) -> Iterable[tuple[str, tuple[int, ...]]]:
    a = arguments
    if kind == "AR":
        return AR.param_shapes(a["order"], a["input_size"], a["output_size"] or a["input_size"], a["bias"]).items()
    if kind == "Linear":
        return Linear.param_shapes(a["input_size"], a["output_size"], a["bias"]).items()
    if kind == "Embedding":
        return Embedding.param_shapes(a["num_embeddings"], a["embedding_size"]).items()
    sizes = (a["input_size"], a["hidden_size"], a["num_layers"])
    # The forms of a built-in cell have the same parameters.
    cell = {"RNN": rnn(), "LSTM": lstm, "GRU": gru()}.get(kind) or a["cell"]
    return Recurrent.param_shapes(cell, *sizes, a["bias"], a["bidirectional"])


def _cell(where: str, cell: Cell, constants: dict[str, float]) -> Cell:
    try:
        return cell(**constants)
    except Exception as error:  # The user's function may not have been written for these values.
        raise ValueError(f"{where}.constants: {type(error).__name__}: {error}") from error


def _size(name: str, value: Any) -> None:
    if positive_int(name, value) >= 1 << 63:
        raise ValueError(f"{name}: expected less than 2**63, got {value}")


def _flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected true or false, got {value!r}")


def _number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise ValueError(f"{name}: expected a finite number, got {value!r}")


def _numbers(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{name}: expected an object, got {type(value).__name__}")
    for key, number in value.items():
        _number(f"{name}.{key}", number)


def _string(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected a string, got {type(value).__name__}")


def _one_of(options: Iterable[str]) -> Callable[[str, Any], Any]:
    names = tuple(options)
    return lambda name, value: choice(name, value, names)


# The check of each value of a configuration, by the name of the constructor's argument.
_FIELDS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("input_size", "output_size", "hidden_size", "num_layers"), _size),
    **dict.fromkeys(("num_embeddings", "embedding_size", "order"), _size),
    **dict.fromkeys(("bias", "batch_first", "bidirectional", "reverse", "reset_after"), _flag),
    "dropout": _number,
    "dtype": _one_of(dtype.name for dtype in FLOATS),
    "nonlinearity": _one_of(NONLINEARITIES),
    "cell": _string,
    "constants": _numbers,
}
