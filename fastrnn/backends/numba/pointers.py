"""What compiled loops do with addresses, which are integers to them: calls of machine code, loads, stores, copies."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import signature
from numba.extending import intrinsic

_INT = ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()


def _caller(count: int) -> Any:
    """``call(function, *integers)``: a call of machine code that takes `count` integers and gives nothing."""
    arguments = [f"a{i}" for i in range(count)]

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        function = ir.FunctionType(ir.VoidType(), [_INT] * count).as_pointer()
        builder.call(builder.inttoptr(args[0], function), args[1:])
        return context.get_dummy_value()

    # An intrinsic has as many arguments as its Python function.
    scope: dict[str, Any] = {"sig": signature(types.none, *[types.int64] * (count + 1)), "lower": lower}
    exec(f"def call(typingctx, function, {', '.join(arguments)}):\n    return sig, lower\n", scope)
    return intrinsic(scope["call"])


call_tile = _caller(9)
call_stage = _caller(6)


@intrinsic
def get(typingctx: Any, address: Any) -> Any:
    """The 64-bit integer at `address`."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.load(builder.inttoptr(args[0], _INT.as_pointer()))

    return signature(types.int64, types.int64), lower


@intrinsic
def put(typingctx: Any, address: Any, value: Any) -> Any:
    """Store a 64-bit integer at `address`."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        builder.store(args[1], builder.inttoptr(args[0], _INT.as_pointer()))
        return context.get_dummy_value()

    return signature(types.none, types.int64, types.int64), lower


@intrinsic
def copy(typingctx: Any, to: Any, source: Any, count: Any) -> Any:
    """Copy `count` bytes between places that do not overlap."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        to, source = (builder.inttoptr(a, _BYTES) for a in args[:2])
        cgutils.raw_memcpy(builder, to, source, args[2], 1)
        return context.get_dummy_value()

    return signature(types.none, types.int64, types.int64, types.int64), lower


@intrinsic
def clear(typingctx: Any, address: Any, count: Any) -> Any:
    """Make `count` bytes zero."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        cgutils.memset(builder, builder.inttoptr(args[0], _BYTES), args[1], 0)
        return context.get_dummy_value()

    return signature(types.none, types.int64, types.int64), lower
