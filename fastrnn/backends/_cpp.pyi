"""Types of the extension; see csrc/_cpp.pyx."""

from collections.abc import Mapping
from typing import Any

from ..engine.contract import Array, Clip, Given, LayerGradients, Layout, Need, Options
from ..engine.flags import Flags
from ..engine.settings import Settings

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
    clip: Clip | None = None,
    per_sequence: bool = False,
) -> tuple[Array, tuple[Array, ...], Array, Array, Array, tuple[Array, ...] | None, Fields]: ...

class Stack:
    def __init__(
        self,
        cell: str,
        layout: Layout,
        arrays: list[tuple[Array | None, ...]],
        states: int,
        gates: int,
        matrices: int,
        terms: tuple[tuple[int, int], ...],
        slots: int,
    ) -> None: ...
    def quick(self, x: Any, state: Any, ndim: int, now: Settings, keep: bool) -> tuple[Array, Any, Any] | None: ...
    def quick_backward(
        self, saved: Any, dy: Any, dstate: Any, need: Need, into: Any, add: bool
    ) -> tuple[Array | None, Any, dict[str, Any]] | None: ...
    def forward(self, given: Given, now: Settings, keep: bool) -> tuple[Array, tuple[Array, ...], Any]: ...
    def backward(
        self, saved: Any, dy: Array | None, dlast: tuple[Array, ...] | None, options: Options, need: Need
    ) -> LayerGradients: ...
