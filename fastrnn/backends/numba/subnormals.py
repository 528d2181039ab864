"""Numbers below the least normal one count as zero while a kernel runs.

A processor may take a hundred cycles and more for a subnormal number, and the gradients of saturated gates are full of
them. Each thread has a register for it: MXCSR with flush-to-zero and denormals-are-zero on x86 (Intel 64 and IA-32
Architectures Software Developer's Manual, vol. 1, 10.2.3), FPCR with FZ on ARM (Arm Architecture Reference Manual for
A-profile, C5.2.8). On other processors nothing is done.
"""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import signature
from numba.extending import intrinsic

from .store import load_module

P = ParamSpec("P")
Answer = TypeVar("Answer")

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_POINTER = ir.IntType(8).as_pointer()
_MACHINE = platform.machine().lower()
_X86 = _MACHINE in ("x86_64", "amd64")
_ARM = _MACHINE in ("aarch64", "arm64")
# The bits of the thread's register that make the mode.
BITS = 0x8040 if _X86 else 1 << 24 if _ARM else 0


@intrinsic
def read_register(typingctx: Any) -> Any:
    """MXCSR or FPCR of this thread; 0 elsewhere."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        if _ARM:
            return builder.call(_function(builder, "llvm.aarch64.get.fpcr", _I64), [])
        if not _X86:
            return _I64(0)
        slot = cgutils.alloca_once(builder, _I32)
        store = _function(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), _POINTER)
        builder.call(store, [builder.bitcast(slot, _POINTER)])
        return builder.zext(builder.load(slot), _I64)

    return signature(types.int64), lower


@intrinsic
def write_register(typingctx: Any, value: Any) -> Any:
    """Set MXCSR or FPCR of this thread."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        if _ARM:
            builder.call(_function(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), _I64), args)
        elif _X86:
            slot = cgutils.alloca_once_value(builder, builder.trunc(args[0], _I32))
            load = _function(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), _POINTER)
            builder.call(load, [builder.bitcast(slot, _POINTER)])
        return context.get_dummy_value()

    return signature(types.none, types.int64), lower


def _function(builder: ir.IRBuilder, name: str, result: ir.Type, *arguments: ir.Type) -> ir.Function:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


_TEXT = """
from numba import njit
from fastrnn.backends.numba.subnormals import read_register, write_register


@njit("int64()", cache=True)
def read():
    return read_register()


@njit("void(int64)", cache=True)
def write(value):
    write_register(value)
"""


@cache
def register() -> Any:
    """``read()`` and ``write(value)`` of the register, compiled."""
    return load_module("register", _TEXT)


def as_zeros(work: Callable[P, Answer]) -> Callable[P, Answer]:
    """Decorator: while `work` runs, this thread takes subnormal numbers for zeros and makes none.

    Whichever way `work` ends, the thread then has what its register held before.
    """
    if not BITS:
        return work

    @wraps(work)
    def flushing(*args: P.args, **kwargs: P.kwargs) -> Answer:
        mode = register()
        if not _here.has_blas:
            _start_blas()
        before = mode.read()
        # No context manager: an interrupt could come between its __exit__ and the register.
        try:
            mode.write(before | BITS)
            return work(*args, **kwargs)
        finally:
            mode.write(before)

    return flushing


class _Here(threading.local):
    # Whether BLAS has the threads that it takes for products of this one.
    has_blas = False


_here = _Here()


def _start_blas() -> None:
    """Let BLAS start its threads now, by a product of a size that they share: a new thread inherits the register."""
    a = np.zeros((128, 128), np.float32)
    np.matmul(a, a)
    _here.has_blas = True


def _forget_blas() -> None:
    global _here
    _here = _Here()


if hasattr(os, "register_at_fork"):
    # OpenBLAS ends its threads before a fork, and starts others at the next product.
    os.register_at_fork(after_in_parent=_forget_blas, after_in_child=_forget_blas)
