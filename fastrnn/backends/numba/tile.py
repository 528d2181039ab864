"""The microkernel: a tile of ``C = A @ B`` that stays in vector registers.

Contract, for a tile of `rows` by `cols` vectors of `width` numbers:
    a     one-dimensional; row r of A begins at ``a_at + r * a_step``, and is contiguous
    b     one-dimensional; B is packed from ``b_at`` on as [depth][cols][width], contiguous
    c     one-dimensional scratch; written as [rows][cols][width] from `c_at` on
    more  add to what stands in `c` instead of overwriting it
Nothing is assumed of alignment, though `b` and `c` are faster at multiples of a vector's size.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import signature
from numba.extending import intrinsic

from .simd import Vec, address, fma, llvm_type, load_at, splat, store_at

_INT = ir.IntType(64)


def tile(rows: int, cols: int, width: int, split: int) -> Any:
    """The microkernel of one shape, its depth split over `split` sums each; see the module's contract."""

    @intrinsic
    def multiply(
        typingctx: Any, a: Any, a_at: Any, a_step: Any, b: Any, b_at: Any, depth: Any, c: Any, c_at: Any, more: Any
    ) -> Any:
        vec = Vec(a.dtype, width)

        def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            a_, a_at_, a_step_, b_, b_at_, depth_, c_, c_at_, more_ = args
            a_rows = [
                address(context, builder, sig.args[0], a_, builder.add(a_at_, builder.mul(a_step_, _INT(r))))
                for r in range(rows)
            ]
            panel = address(context, builder, sig.args[3], b_, b_at_)
            first = address(context, builder, sig.args[6], c_, c_at_)
            out = [builder.gep(first, [_INT(i * width)]) for i in range(rows * cols)]
            sums = _sums(builder, llvm_type(vec), a_rows, panel, depth_, cols, split)
            zero = ir.Constant(llvm_type(vec), None)
            for pointer, value in zip(out, sums, strict=True):
                before = builder.select(more_, load_at(builder, pointer, llvm_type(vec)), zero)
                store_at(builder, builder.fadd(before, value), pointer)
            return context.get_dummy_value()

        i = types.intp
        return signature(types.none, a, i, i, b, i, i, c, i, types.boolean), lower

    return multiply


def _sums(
    builder: ir.IRBuilder,
    vector: ir.VectorType,
    a_rows: list[ir.Value],
    panel: ir.Value,
    depth: ir.Value,
    cols: int,
    split: int,
) -> list[ir.Value]:
    """The tile's sums over the whole depth: `split` interleaved parts, then what is left, one by one."""
    count = len(a_rows) * cols
    zeros = [ir.Constant(vector, None)] * (count * split)
    whole = builder.sub(depth, builder.urem(depth, _INT(split)))
    parts = _loop(builder, vector, a_rows, panel, (_INT(0), whole), cols, split, zeros)
    sums = parts[:count]
    for p in range(1, split):
        sums = [builder.fadd(x, y) for x, y in zip(sums, parts[p * count : (p + 1) * count], strict=True)]
    if split == 1:
        return sums
    return _loop(builder, vector, a_rows, panel, (whole, depth), cols, 1, sums)


def _loop(
    builder: ir.IRBuilder,
    vector: ir.VectorType,
    a_rows: list[ir.Value],
    panel: ir.Value,
    bounds: tuple[ir.Value, ir.Value],
    cols: int,
    split: int,
    initial: list[ir.Value],
) -> list[ir.Value]:
    """``for k in range(*bounds, split)``: rank-one updates, the sums in registers throughout."""
    before = builder.block
    head = builder.append_basic_block("k.head")
    body = builder.append_basic_block("k.body")
    done = builder.append_basic_block("k.done")
    builder.branch(head)
    builder.position_at_end(head)
    k = builder.phi(_INT)
    sums = [builder.phi(vector) for _ in initial]
    k.add_incoming(bounds[0], before)
    for phi, value in zip(sums, initial, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", k, bounds[1]), body, done)

    builder.position_at_end(body)
    new: list[ir.Value] = []
    for p in range(split):
        at = builder.add(k, _INT(p))
        b_at = builder.mul(at, _INT(cols * vector.count))
        b = [
            load_at(builder, builder.gep(panel, [builder.add(b_at, _INT(j * vector.count))]), vector)
            for j in range(cols)
        ]
        for r, a_row in enumerate(a_rows):
            number = splat(builder, builder.load(builder.gep(a_row, [at])), vector.count)
            at_sum = (p * len(a_rows) + r) * cols
            new += [fma(builder, number, b[j], sums[at_sum + j]) for j in range(cols)]
    k.add_incoming(builder.add(k, _INT(split)), body)
    for phi, value in zip(sums, new, strict=True):
        phi.add_incoming(value, body)
    builder.branch(head)
    builder.position_at_end(done)
    return list(sums)
