"""Types of the extension; see csrc/_cpp.pyx."""

from collections.abc import Callable, Mapping
from typing import Any

from ..engine.call import Array
from ..engine.flags import Flags

Fields = tuple[int, bool, int, bool, str, bool, int]
"""Of a :class:`fastrnn.backends.cpp_backend.CppPath`."""

def variants() -> tuple[str, ...]: ...
def variant_name() -> str: ...
def use_variant(name: str) -> bool: ...
def bf16_parts() -> set[int]: ...
def kernel(cell: str, item_bytes: int) -> int: ...
def last_call() -> tuple[list[tuple[Fields, int]], int]: ...
def path(
    kernel: int,
    x: Array,
    params: Mapping[str, Array],
    threads: int,
    bf16_parts: int,
    backward: bool,
) -> Fields: ...
def forward(
    kernel: int,
    x: Array,
    state: tuple[Array, ...],
    params: Mapping[str, Array],
    flags: Flags | None,
    reset_state: tuple[Array, ...] | None,
    reverse: bool,
    keep: bool,
    threads: int,
    bf16_parts: int,
    path: Fields | None,
) -> tuple[Array, tuple[Array, ...], Array, Fields]: ...
def backward(
    kernel: int,
    x: Array,
    params: Mapping[str, Array],
    flags: Flags | None,
    reset_state: tuple[Array, ...] | None,
    reverse: bool,
    threads: int,
    bf16_parts: int,
    y: Array,
    saved: Array,
    dy: Array | None,
    dlast: tuple[Array, ...],
    slots: int,
    path: Fields | None,
) -> tuple[Array, tuple[Array, ...], Array, Array, Array, tuple[Array, ...] | None, Fields]: ...

class Stack:
    def __init__(
        self,
        cell: str,
        names: tuple[tuple[str, ...], ...],
        D: int,
        H: int,
        states: int,
        gates: int,
        matrices: int,
        item_bytes: int,
        batch_first: bool,
    ) -> None: ...
    def __call__(
        self,
        params: Mapping[str, Array],
        x: Any,
        state: Any,
        ndim: int,
        threads_for: Callable[[int], int],
        bf16_parts: int,
    ) -> tuple[Array, Any] | None: ...
