"""Subnormal numbers are treated as zero while a compiled loop runs.

A processor may need a hundred cycles and more for a subnormal number, and gradients of saturated gates are full of
them. Each thread has a control register for it: MXCSR with flush-to-zero and denormals-are-zero on x86 (Intel 64 and
IA-32 Architectures Software Developer's Manual, vol. 1, 10.2.3), FPCR with FZ on ARM (Arm Architecture Reference Manual
for A-profile, C5.2.8). On other processors nothing is done.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import signature
from numba.extending import intrinsic

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_POINTER = ir.IntType(8).as_pointer()
_MACHINE = platform.machine().lower()
_X86 = _MACHINE in ("x86_64", "amd64")
_ARM = _MACHINE in ("aarch64", "arm64")
# The bits of the register that set the mode.
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
