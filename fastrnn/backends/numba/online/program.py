"""Programs: lists of integers that say which machine code is called with which addresses; see :mod:`.loops`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from ....codegen.integers import integer_code
from ....codegen.online import ARGUMENTS, rows_code
from ....engine.contract import Array
from ..loops import rows, tiles
from ..machine import MachineCode, target
from . import loops

Address = int | tuple[int, int]
"""An address, or one with the step to that of the next sequence."""


class Functions:
    """Addresses of what programs call, for a type of numbers."""

    def __init__(self, dtype: str) -> None:
        of = target(dtype)
        module = integer_code((rows, tiles, loops), of.number, {"SIZE": of.size, "WIDTH": of.width})
        names = ["run", "copy_rows", "add_rows", "multiply", "spread", "gradient"]
        names += ["fill", "add_diagonal", "gather", "transpose"]
        of_rows = ["times_row", "scale_rows", "copy_vectors", "dots"]
        self._codes = MachineCode(str(module), names), MachineCode(rows_code(of), of_rows)
        self.at: dict[str, int] = {}
        for code in self._codes:
            self.at |= code.addresses


@cache
def functions_for(dtype: str) -> Functions:
    """Made once."""
    return Functions(dtype)


class Operations:
    """Operations that run one after the other."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self.numbers: list[int] = []
        self.count = 0

    def add(self, function: str | int, *arguments: Address) -> None:
        """One more; arguments that are missing are 0."""
        address = self._functions.at[function] if isinstance(function, str) else function
        given = [a if isinstance(a, tuple) else (a, 0) for a in arguments]
        given += [(0, 0)] * (ARGUMENTS - len(given))
        self.numbers += [address, *(a for a, _ in given), *(step for _, step in given)]
        self.count += 1


def program(
    into: tuple[int, int, int],
    rows: int,
    out: tuple[int, int, int],
    sections: Sequence[tuple[Operations | None, int]],
    loop: Sequence[int] = (),
) -> Array:
    """The integers of a program; `into` and `out`: address, bytes of the caller's rows, step. None runs the loop."""
    numbers = [into[0], rows, into[1], into[2], out[0], out[1], out[2], *(loop or [0] * (loops.P_LOOP_ARGUMENTS + 1))]
    numbers.append(len(sections))
    for operations, times in sections:
        numbers += [0, 0] if operations is None else [operations.count, times, *operations.numbers]
    return np.array(numbers, np.int64)


def address_of(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
