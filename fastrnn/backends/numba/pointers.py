"""Intrinsics for addresses, used by :mod:`.calls`."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import signature
from numba.extending import intrinsic

_INT = ir.IntType(64)


@intrinsic
def of(typingctx: Any, array: Any) -> Any:
    """The address of an array's data; 0 if it is empty."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        array = context.make_array(sig.args[0])(context, builder, args[0])
        empty = builder.icmp_signed("==", array.nitems, _INT(0))
        return builder.select(empty, _INT(0), builder.ptrtoint(array.data, _INT))

    return signature(types.int64, array), lower


def caller(count: int) -> Any:
    """``call(function, *integers)`` calls machine code that takes `count` integers and returns one."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        function = ir.FunctionType(_INT, [_INT] * count).as_pointer()
        return builder.call(builder.inttoptr(args[0], function), args[1:])

    # An intrinsic needs a Python function with the same number of arguments.
    scope: dict[str, Any] = {"signature": signature(types.int64, *[types.int64] * (count + 1)), "lower": lower}
    arguments = ", ".join(f"a{i}" for i in range(count))
    exec(f"def call(typingctx, function, {arguments}):\n    return signature, lower\n", scope)
    return intrinsic(scope["call"])
