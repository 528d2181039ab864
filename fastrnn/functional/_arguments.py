"""Checks of what the functions are given, and the order of the gates' column blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..cells import Cell
from ..engine.contract import Array
from ..errors import array_like, float_array, known_keys

State = tuple[Array, ...]
OptionalState = Sequence[Array | None] | None
BIASES = ("bx", "bh")


def check_params(
    cell: Cell, D: int, params: Mapping[str, Array | None], dtype: np.dtype[Any], bias_name: str
) -> dict[str, Array]:
    """The parameters that were given, checked against the cell, `D` and the H that ``Wx`` implies."""
    if not isinstance(params, Mapping):
        raise TypeError(f"params: expected a mapping, got {type(params).__name__}")
    given = {name: value for name, value in params.items() if value is not None}
    names = cell.param_shapes(D, 1)
    optional = [name for name in names if name in BIASES]
    known_keys("params", given, [name for name in names if name not in BIASES], optional)
    columns = float_array("Wx", given["Wx"], 2).shape[1]
    if "Wh" in given:
        H, width = float_array("Wh", given["Wh"], 2).shape
        # If Wh is consistent in itself, H is what it says, and a mismatch is the fault of Wx.
        if width == H * len(cell.recurrent):
            array_like("Wx", given["Wx"], (D, H * len(cell.gates)), dtype, "x")
    if columns == 0 or columns % len(cell.gates):
        raise ValueError(
            f"Wx: expected a positive multiple of {len(cell.gates)} columns "
            f"(gates {' '.join(cell.gates)}), got shape {given['Wx'].shape}"
        )
    for name, shape in cell.param_shapes(D, columns // len(cell.gates)).items():
        value = given.get(name)
        if value is None:
            continue
        row = len(shape) == 1 and isinstance(value, np.ndarray) and value.ndim == 2
        called = bias_name if name == "bx" else name
        given[name] = array_like(called, value, (1, *shape) if row else shape, dtype, "x")
    return given


def check_states(
    argument: str,
    names: Sequence[str] | None,
    count: int,
    values: OptionalState,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
) -> State:
    """`count` arrays of `shape` and `dtype`, zeros for None; `names` are what error messages call them."""
    if names is None:
        names = [f"{argument}[{k}]" for k in range(count)]
    if values is None:
        values = (None,) * count
    if not isinstance(values, tuple | list):
        raise TypeError(f"{argument}: expected a tuple of arrays, one per state, got {type(values).__name__}")
    if len(values) != count:
        raise ValueError(f"{argument}: expected {count} array(s), one per state, got {len(values)}")
    return tuple(
        np.zeros(shape, dtype) if value is None else array_like(name, value, shape, dtype, "x")
        for name, value in zip(names, values, strict=True)
    )


def check_reset_state(
    resets: Any, values: Any, count: int, shape: tuple[int, int], dtype: np.dtype[Any]
) -> tuple[State | None, tuple[bool, ...]]:
    """The reset state as (N, H) arrays, and for each of them whether one row was given for all sequences."""
    if values is None:
        return None, ()
    if resets is None:
        raise ValueError("reset_state: expected resets as well, which say where it enters")
    names = [f"reset_state[{k}]" for k in range(count)]
    if not isinstance(values, tuple | list):
        raise TypeError(f"reset_state: expected a tuple of arrays, one per state, got {type(values).__name__}")
    rows = tuple(isinstance(value, np.ndarray) and value.ndim == 1 for value in values)
    spread = [
        np.broadcast_to(array_like(name, value, shape[1:], dtype, "x"), shape) if row else value
        for name, value, row in zip(names, values, rows, strict=False)
    ]
    return check_states("reset_state", names, count, spread + list(values[count:]), shape, dtype), rows


def gate_blocks(cell: Cell, gate_order: Sequence[str] | None) -> list[int] | None:
    """The index of each gate of the cell in `gate_order`; None if the order is the cell's own."""
    if gate_order is None:
        return None
    if not isinstance(gate_order, str | tuple | list) or not all(isinstance(gate, str) for gate in gate_order):
        raise TypeError(f"gate_order: expected a string or sequence of strings, got {gate_order!r}")
    if tuple(gate_order) == cell.gates:
        return None
    if sorted(map(str, gate_order)) != sorted(cell.gates) or cell.recurrent != cell.gates:
        raise ValueError(f"gate_order: expected a permutation of {' '.join(cell.gates)}, got {gate_order!r}")
    return [list(gate_order).index(gate) for gate in cell.gates]


def reorder(params: dict[str, Array], blocks: list[int] | None) -> dict[str, Array]:
    """The weights and biases with their column blocks in the order of `blocks`."""
    if blocks is None:
        return params

    def permuted(value: Array) -> Array:
        return value.reshape(*value.shape[:-1], len(blocks), -1)[..., blocks, :].reshape(value.shape)

    gated = ("Wx", "Wh", *BIASES)
    return {name: permuted(value) if name in gated else value for name, value in params.items()}


def batch_major(array: Array, batch_first: bool) -> Array:
    """`array` with its first two axes swapped if `batch_first`."""
    return array.transpose(1, 0, 2) if batch_first else array
