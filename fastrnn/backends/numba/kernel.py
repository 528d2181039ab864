"""What is compiled for a plan, and for a type of numbers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
from llvmlite import ir

from ...codegen.llvm import cell_code, tile
from ...engine.call import Array
from ...engine.plan import Plan
from . import tables
from .machine import MachineCode, target
from .store import load_module
from .tables import Table, make_table, tile_addresses, tile_shapes


def signatures(dtype: str) -> dict[str, str]:
    """Types of the arguments of the loops, see :mod:`.loops`."""
    table, flat = "int64[::1]", f"{dtype}[::1]"
    matrix, cube, flags = f"{dtype}[:, ::1]", f"{dtype}[:, :, ::1]", "uint8[:, ::1]"
    strided = f"Array({dtype}, 3, 'A', readonly=True)"
    given = [table, table, cube, matrix, matrix, flat, flat, flat]
    forward = [*given, cube, cube, cube, flat, flat, flat, flags, cube, "int64", "int64", "int64"]
    backward = [*given, strided, cube, flat, flat, "int64", flat, flat, flags, cube, cube, matrix, matrix, matrix, cube]
    backward += ["int64", "int64"]
    return {"forward": f"void({', '.join(forward)})", "backward": f"void({', '.join(backward)})"}


@cache
def loops(dtype: str) -> ModuleType:
    """The compiled time loops."""
    text = (Path(__file__).parent / "loops.py").read_text(encoding="utf-8")
    for name, signature in signatures(dtype).items():
        text += f'\n\n{name} = njit("{signature}", nogil=True, cache=True, error_model="numpy")({name})\n'
    return load_module(f"loops_{dtype}", text)


@cache
def _tiles(dtype: str) -> tuple[MachineCode, Array]:
    """The microkernel's code, and the addresses of its tiles."""
    module, shapes = ir.Module("tiles"), tile_shapes()
    for rows, columns, split in shapes:
        tile(module, target(dtype), rows, columns, split)
    code = MachineCode(str(module), [f"tile_{rows}x{columns}" for rows, columns, _ in shapes])
    return code, tile_addresses(code.addresses)


# The code of cells that are alike but for their constants is one.
_codes: WeakValueDictionary[str, MachineCode] = WeakValueDictionary()
_kernels: WeakKeyDictionary[Plan, dict[str, Kernel]] = WeakKeyDictionary()


class Kernel:
    """A plan compiled for a type of numbers."""

    def __init__(self, plan: Plan, dtype: str) -> None:
        self.target = target(dtype)
        text, constants = cell_code(plan, self.target)
        # A dead entry may be left for a moment: what is found is held at once.
        self._code = _codes.get(text) or _codes.setdefault(text, _compiled(plan, text))
        self.constants = np.array(constants, dtype)
        self.tiles = _tiles(dtype)[1]
        module = loops(dtype)
        self.run_forward, self.run_backward = module.forward, module.backward
        self.forward, self.backward = (self._table(plan, back) for back in (False, True))

    def _table(self, plan: Plan, backward: bool) -> Table:
        stages = plan.backward if backward else plan.forward
        name = "backward" if backward else "forward"
        codes = [self._code.addresses[f"{name}_{i}"] for i in range(len(stages))]
        return make_table(plan, backward, self.target.width, codes, self.constants.ctypes.data)

    def padded(self, H: int) -> int:
        """`H` in whole vectors."""
        return -(-H // self.target.width) * self.target.width


def _compiled(plan: Plan, text: str) -> MachineCode:
    names = [f"forward_{i}" for i in range(len(plan.forward))] + [f"backward_{i}" for i in range(len(plan.backward))]
    return MachineCode(text, names)


def kernel_of(plan: Plan, dtype: np.dtype[Any]) -> Kernel:
    """The kernel of `plan`, made when it is first asked for."""
    kernels = _kernels.setdefault(plan, {})
    if dtype.name not in kernels:
        kernels[dtype.name] = Kernel(plan, dtype.name)
    return kernels[dtype.name]


def forward_memory(kernel: Kernel, plan: Plan, N: int, D: int, H: int, chunk: int, flagged: bool) -> int:
    """Elements of `memory` that the forward loop takes."""
    Hp, table = kernel.padded(H), kernel.forward
    sizes = [D * plan.n_gates * Hp, *_both(plan, table, H, Hp, kernel.target.width)]
    return _sum([*sizes, plan.n_states * N * Hp if flagged else 0, chunk * N * plan.n_gates * Hp])


def backward_memory(kernel: Kernel, plan: Plan, N: int, D: int, H: int, chunk: int) -> int:
    """Elements of `memory` that the backward loop takes."""
    Hp, width, table = kernel.padded(H), kernel.target.width, kernel.backward
    G, P, M, S = plan.n_gates, plan.n_matrices, plan.n_da, plan.n_states
    sizes = [G * Hp * (-(-D // width) * width), *_both(plan, table, H, Hp, width), S * N * Hp, N * Hp]
    return _sum([*sizes, D * G * Hp, H * P * Hp, M * Hp, chunk * N * 4 * width, (chunk + 2) * N * M * Hp])


def _both(plan: Plan, table: Table, H: int, Hp: int, width: int) -> list[int]:
    panels = table.panels[0] * Hp * Hp + table.panels[1] * H * Hp + 16 * table.products
    return [2 * (tables.PANELS + table.products), panels, len(plan.unit_rows) * Hp, max(table.scratch, 32) * width]


def _sum(sizes: list[int]) -> int:
    return sum(size + 16 for size in sizes)
