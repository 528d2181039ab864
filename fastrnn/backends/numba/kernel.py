"""What is compiled for a plan and a dtype."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from ... import thresholds
from ...codegen.integers import integer_code
from ...codegen.llvm import cell_code, tile
from ...engine.plan import Plan
from . import loops
from .disk_cache import load_module
from .machine import MachineCode, target
from .progress import compiling
from .tables import PANELS, Table, make_table, tile_addresses, tile_shapes

# Elements in a cache line, at most.
_LINE = 16


def _signatures(dtype: str) -> dict[str, str]:
    """Types of the arguments of :mod:`.calls`."""
    table, flat = "int64[::1]", f"{dtype}[::1]"
    matrix, cube, flags = f"{dtype}[:, ::1]", f"{dtype}[:, :, ::1]", "uint8[:, ::1]"
    strided = f"Array({dtype}, 3, 'A', readonly=True)"
    given = ["int64", table, table, cube, matrix, matrix, flat, flat, flat]
    forward = [*given, cube, cube, cube, flat, flat, flat, flags, cube, "int64", "int64", "int64"]
    backward = [*given, strided, cube, flat, flat, flat, flat, flags, cube, cube, matrix, matrix, matrix, cube, flat]
    backward += ["int64"] * 6
    online = ["int64", table, matrix, matrix]
    named = {"forward": forward, "backward": backward, "online": online}
    return {name: f"void({', '.join(types)})" for name, types in named.items()}


class Shared:
    """The code for a dtype that all cells share.

    Attributes
    ----------
    calls : module with the compiled functions of :mod:`.calls`
    forward, backward : addresses of the loops
    tiles : addresses of the microkernel for each size of tile, at ``rows * 16 + columns``
    """

    def __init__(self, dtype: str) -> None:
        of = target(dtype)
        text = (Path(__file__).parent / "calls.py").read_text(encoding="utf-8")
        text += "\n\nfrom numba import njit\n\n"
        for name, signature in _signatures(dtype).items():
            text += f'{name} = njit("{signature}", nogil=True, cache=True, error_model="numpy")({name})\n'
        self.calls = load_module(f"calls_{dtype}", text)
        module = integer_code(loops.MODULES, of.number, {"SIZE": of.size, "WIDTH": of.width})
        shapes = tile_shapes()
        for rows, columns, split in shapes:
            tile(module, of, rows, columns, split)
        names = [f"tile_{rows}x{columns}" for rows, columns, _ in shapes]
        self._code = MachineCode(str(module), ["forward", "backward", *names])
        self.forward, self.backward = (self._code.addresses[name] for name in ("forward", "backward"))
        self.tiles = tile_addresses(self._code.addresses)


@cache
def shared(dtype: str) -> Shared:
    """The code for `dtype`, made once."""
    with compiling(f"the loops of all cells for {dtype}"):
        return Shared(dtype)


# Machine code by its text: cells that differ only in their constants share it.
_codes: WeakValueDictionary[str, MachineCode] = WeakValueDictionary()


class Kernel:
    """A plan compiled for a dtype.

    Attributes
    ----------
    run_forward, run_backward : the compiled functions of :mod:`.calls`
    to_forward, to_backward : their first arguments
    none, no_flags : stand for arrays that are not there
    """

    def __init__(self, plan: Plan, dtype: str) -> None:
        self.target = target(dtype)
        self.states, self.gates, self.matrices = plan.n_states, plan.n_gates, plan.n_matrices
        self.keeps, self.slots, self.rows = plan.n_keep, plan.n_da, len(plan.unit_rows)
        text, constants = cell_code(plan, self.target)
        # A weak reference may die at any moment, so the result is stored at once.
        self.code = _codes.get(text) or _codes.setdefault(text, _compiled(plan, dtype, text))
        self.constants = np.array(constants, dtype)
        both = shared(dtype)
        self.forward, self.backward = (self._table(plan, back) for back in (False, True))
        self.to_forward = both.forward, self.forward.numbers, both.tiles
        self.to_backward = both.backward, self.backward.numbers, both.tiles
        self.run_forward, self.run_backward = both.calls.forward, both.calls.backward
        self.none, self.no_flags = np.empty((0, 0, 0), dtype), np.empty((0, 0), np.uint8)

    def _table(self, plan: Plan, backward: bool) -> Table:
        stages = plan.backward if backward else plan.forward
        name = "backward" if backward else "forward"
        codes = [self.code.addresses[f"{name}_{i}"] for i in range(len(stages))]
        return make_table(plan, backward, codes, self.constants.ctypes.data)

    def padded(self, H: int) -> int:
        """`H` rounded up to whole vectors."""
        return -(-H // self.target.width) * self.target.width

    def first(self, table: Table, Hp: int) -> int:
        """Elements of the record, the sums of a tile, and the unit rows."""
        record = 2 * (PANELS + table.products) + _LINE
        return record + table.scratch * self.target.width + self.rows * Hp + _LINE

    def panels(self, table: Table, H: int, Hp: int) -> int:
        """Elements of the packed matrices."""
        return table.panels[0] * Hp * Hp + table.panels[1] * H * Hp + _LINE * table.products


def _compiled(plan: Plan, dtype: str, text: str) -> MachineCode:
    names = [f"forward_{i}" for i in range(len(plan.forward))] + [f"backward_{i}" for i in range(len(plan.backward))]
    with compiling(f"cell {plan.cell.name!r} for {dtype}"):
        return MachineCode(text, names)


def kernel_of(plan: Plan, dtype: np.dtype[Any]) -> Kernel:
    """The kernel of `plan`, made at the first call."""
    # Stored in the plan, so that both are freed together.
    kernels: dict[Any, Kernel] = plan.__dict__.setdefault("_kernels", {})
    return kernels.get(dtype) or kernels.setdefault(dtype, Kernel(plan, dtype.name))


def forward_memory(kernel: Kernel, N: int, D: int, H: int, chunk: int, flagged: bool) -> int:
    """Elements of `memory` that the forward loop needs, in the order in which it lays them out."""
    Hp, G = kernel.padded(H), kernel.gates
    fresh = kernel.states * N * Hp if flagged else 0
    before = kernel.first(kernel.forward, Hp) + fresh + D * G * Hp
    return before + kernel.panels(kernel.forward, H, Hp) + chunk * N * G * Hp + 4 * _LINE


def backward_memory(kernel: Kernel, N: int, D: int, H: int, chunk: int, each: int = 1) -> int:
    """Elements of `memory` that the backward loop needs, in its order, for `each` sums of gradients."""
    Hp, width = kernel.padded(H), kernel.target.width
    G, P, M, S = kernel.gates, kernel.matrices, kernel.slots, kernel.states
    sums = each * (D * G + H * P + 2 * M) * Hp
    before = kernel.first(kernel.backward, Hp) + (S + 1) * N * Hp + Hp + sums
    packed = G * Hp * (-(-D // width) * width) + kernel.panels(kernel.backward, H, Hp)
    return before + packed + chunk * N * thresholds.TILE_COLUMNS * width + (chunk + 2) * N * M * Hp + 12 * _LINE
