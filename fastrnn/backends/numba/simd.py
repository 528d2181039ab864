"""SIMD vectors for Numba: a type, its arithmetic, loads and stores, written as LLVM vectors.

A `Vec` holds `width` numbers in one register (or in several, where the processor's are narrower: LLVM splits
it). Explicit vectors leave nothing to the auto-vectorizer, which gives up on loops over this many arrays.
Arithmetic with a Python number takes the number in the vector's type.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import cache
from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

_LLVM = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
_INT = {types.float32: ir.IntType(32), types.float64: ir.IntType(64)}
# Mantissa bits and exponent bias (IEEE 754).
_FORMAT = {types.float32: (23, 127), types.float64: (52, 1023)}
# Only this one of the fast-math flags: a product may be fused with the sum that takes it. It loses no
# accuracy, keeps NaN and infinities, and the result does not depend on anything but the code.
_FUSE = ("contract",)


@cache
def host_features() -> frozenset[str]:
    """What the processor can do that its family need not."""
    return frozenset(name for name, on in binding.get_host_cpu_features().items() if on)


class Vec(types.Type):
    """Numba type of `width` numbers of `dtype` in a vector register."""

    def __init__(self, dtype: types.Float, width: int) -> None:
        self.dtype, self.width = dtype, width
        super().__init__(f"Vec({dtype}, {width})")


@register_model(Vec)
class _VecModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: Vec) -> None:
        super().__init__(dmm, fe_type, llvm_type(fe_type))


def llvm_type(vec: Vec) -> ir.VectorType:
    """The LLVM type of `vec`."""
    return ir.VectorType(_LLVM[vec.dtype], vec.width)


def splat(builder: ir.IRBuilder, value: ir.Value, width: int) -> ir.Value:
    """LLVM vector with `value` in every place."""
    vector = ir.VectorType(value.type, width)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.IntType(32)(0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), mask)


def fma(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """LLVM value ``a * b + c``, fused where the processor can."""
    return builder.fadd(builder.fmul(a, b, flags=_FUSE), c, flags=_FUSE)


def _as_vec(context: Any, builder: ir.IRBuilder, value: ir.Value, typ: types.Type, vec: Vec) -> ir.Value:
    if isinstance(typ, Vec):
        return value
    return splat(builder, context.cast(builder, value, typ, vec.dtype), vec.width)


def _binary(op: Callable[[Any, Any], Any], emit: str) -> None:
    class Typing(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args: tuple[types.Type, ...], kws: Any) -> Any:
            vecs = [a for a in args if isinstance(a, Vec)]
            if vecs and all(a == vecs[0] or isinstance(a, types.Number) for a in args):
                return signature(vecs[0], *args)
            return None

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        a, b = (_as_vec(context, builder, v, t, sig.return_type) for v, t in zip(args, sig.args, strict=True))
        return getattr(builder, emit)(a, b, flags=_FUSE)

    infer_global(op)(Typing)
    for pair in ((Vec, Vec), (Vec, types.Number), (types.Number, Vec)):
        lower_builtin(op, *pair)(lower)


_binary(operator.add, "fadd")
_binary(operator.sub, "fsub")
_binary(operator.mul, "fmul")
_binary(operator.truediv, "fdiv")


@infer_global(operator.neg)
class _NegTyping(AbstractTemplate):  # type: ignore[misc]
    def generic(self, args: tuple[types.Type, ...], kws: Any) -> Any:
        return signature(args[0], args[0]) if isinstance(args[0], Vec) else None


@lower_builtin(operator.neg, Vec)
def _neg(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
    return builder.fneg(args[0])


def _of_vectors(function: Callable[..., Any]) -> Callable[[Any], Any]:
    """Decorator: the lowering of `function`, whose first argument and result are vectors."""

    class Typing(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args: tuple[types.Type, ...], kws: Any) -> Any:
            return signature(args[0], *args) if isinstance(args[0], Vec) else None

    infer_global(function)(Typing)
    return lower_builtin(function, types.VarArg(types.Any))  # type: ignore


# Outside of compiled code the vector functions have operands that note down what is done with them: the
# elementary functions that are made of them are written once for every target.


def less(a: Any, b: Any, yes: Any, no: Any) -> Any:
    """``yes if a < b else no`` in every place; `b`, `yes` and `no` may be numbers. NaN is not less."""
    return a.call("less", b, yes, no)


def magnitude(a: Any) -> Any:
    """Absolute value."""
    return a.call("magnitude")


def with_sign(a: Any, b: Any) -> Any:
    """`a`, which has no sign, with the sign of `b`."""
    return a.call("with_sign", b)


def least(a: Any, bound: float) -> Any:
    """The lesser of `a` and `bound`; NaN where `a` is."""
    return a.call("least", bound)


def power_of_two(n: Any) -> Any:
    """``2**n`` for whole `n` within the exponents of normal numbers."""
    return n.call("power_of_two")


def scale(a: Any, n: Any) -> Any:
    """``a * 2**n`` for whole `n`; the result, but not `a`, may be subnormal."""
    return a.call("scale", n)


@_of_vectors(less)
def _less(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
    a, b, yes, no = (_as_vec(context, builder, v, t, sig.return_type) for v, t in zip(args, sig.args, strict=True))
    return builder.select(builder.fcmp_ordered("<", a, b), yes, no)


def _bits(builder: ir.IRBuilder, vec: Vec, value: ir.Value) -> tuple[ir.VectorType, ir.Value]:
    ints = ir.VectorType(_INT[vec.dtype], vec.width)
    return ints, builder.bitcast(value, ints)


def _int_splat(vec: Vec, value: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(_INT[vec.dtype], vec.width), [value] * vec.width)


@_of_vectors(magnitude)
def _magnitude(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
    vec = sig.return_type
    _, bits = _bits(builder, vec, args[0])
    clear = (1 << (_INT[vec.dtype].width - 1)) - 1
    return builder.bitcast(builder.and_(bits, _int_splat(vec, clear)), llvm_type(vec))


@_of_vectors(with_sign)
def _with_sign(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
    vec = sig.return_type
    _, value = _bits(builder, vec, args[0])
    _, sign = _bits(builder, vec, args[1])
    top = _int_splat(vec, 1 << (_INT[vec.dtype].width - 1))
    return builder.bitcast(builder.or_(value, builder.and_(sign, top)), llvm_type(vec))


@_of_vectors(least)
def _least(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
    bound = _as_vec(context, builder, args[1], sig.args[1], sig.return_type)
    return builder.select(builder.fcmp_ordered("<", bound, args[0]), bound, args[0])


@_of_vectors(scale)
def _scale(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
    vec = sig.return_type
    if vec.width * _INT[vec.dtype].width == 512 and "avx512f" in host_features():
        return _scale_in_hardware(builder, vec, *args)
    ints = ir.VectorType(_INT[vec.dtype], vec.width)
    n = builder.fptosi(args[1], ints)
    # In two steps: neither power leaves the exponents of normal numbers.
    half = builder.ashr(n, _int_splat(vec, 1))
    part = builder.fmul(args[0], _with_exponent(builder, vec, half))
    return builder.fmul(part, _with_exponent(builder, vec, builder.sub(n, half)))


def _scale_in_hardware(builder: ir.IRBuilder, vec: Vec, a: ir.Value, n: ir.Value) -> ir.Value:
    """The one instruction for it that AVX-512 has."""
    vector, mask = llvm_type(vec), ir.IntType(vec.width)
    name = f"llvm.x86.avx512.mask.scalef.{'ps' if vec.dtype == types.float32 else 'pd'}.512"
    typ = ir.FunctionType(vector, [vector, vector, vector, mask, ir.IntType(32)])
    function = cgutils.get_or_insert_function(builder.module, typ, name)
    current_rounding = ir.Constant(ir.IntType(32), 4)
    return builder.call(function, [a, n, a, ir.Constant(mask, -1), current_rounding])


@_of_vectors(power_of_two)
def _power_of_two(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
    vec = sig.return_type
    return _with_exponent(builder, vec, builder.fptosi(args[0], ir.VectorType(_INT[vec.dtype], vec.width)))


def _with_exponent(builder: ir.IRBuilder, vec: Vec, n: ir.Value) -> ir.Value:
    mantissa, bias = _FORMAT[vec.dtype]
    exponent = builder.add(n, _int_splat(vec, bias))
    return builder.bitcast(builder.shl(exponent, _int_splat(vec, mantissa)), llvm_type(vec))


def address(context: Any, builder: ir.IRBuilder, typ: types.Array, array: ir.Value, index: ir.Value) -> ir.Value:
    """LLVM pointer to element `index` of a one-dimensional contiguous array."""
    return builder.gep(context.make_array(typ)(context, builder, array).data, [index])


def load_at(builder: ir.IRBuilder, pointer: ir.Value, vector: ir.VectorType) -> ir.Value:
    """LLVM vector at `pointer`, which need only be aligned to a number."""
    at = builder.bitcast(pointer, vector.as_pointer())
    return builder.load(at, align=_element_size(vector))


def store_at(builder: ir.IRBuilder, value: ir.Value, pointer: ir.Value) -> None:
    """Store the LLVM vector `value` at `pointer`."""
    at = builder.bitcast(pointer, value.type.as_pointer())
    builder.store(value, at, align=_element_size(value.type))


def _element_size(vector: ir.VectorType) -> int:
    return 8 if isinstance(vector.element, ir.DoubleType) else 4


def loader(width: int) -> Any:
    """``load(array, index)``: the `width` numbers from `index` on of a one-dimensional array."""

    @intrinsic
    def load(typingctx: Any, array: Any, index: Any) -> Any:
        vec = Vec(array.dtype, width)

        def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            return load_at(builder, address(context, builder, sig.args[0], *args), llvm_type(vec))

        return signature(vec, array, types.intp), lower

    return load


def row_loader(width: int) -> Any:
    """``load_row(array, i, j, k)``: the `width` numbers from ``array[i, j, k]`` on; rows are contiguous."""

    @intrinsic
    def load_row(typingctx: Any, array: Any, i: Any, j: Any, k: Any) -> Any:
        vec = Vec(array.dtype, width)

        def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            struct = context.make_array(sig.args[0])(context, builder, args[0])
            strides = cgutils.unpack_tuple(builder, struct.strides, 3)
            offset = builder.add(builder.mul(args[1], strides[0]), builder.mul(args[2], strides[1]))
            row = cgutils.pointer_add(builder, struct.data, offset)
            return load_at(builder, builder.gep(row, [args[3]]), llvm_type(vec))

        return signature(vec, array, types.intp, types.intp, types.intp), lower

    return load_row


def constants(dtype: str, width: int) -> Any:
    """``constant(number)``: a vector with the number in every place."""
    vec = Vec(getattr(types, dtype), width)

    @intrinsic
    def constant(typingctx: Any, value: Any) -> Any:
        def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            return _as_vec(context, builder, args[0], sig.args[0], vec)

        return signature(vec, value), lower

    return constant


@intrinsic
def store(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """Store vector `value` from `index` on of a one-dimensional array."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        store_at(builder, args[2], address(context, builder, sig.args[0], args[0], args[1]))
        return context.get_dummy_value()

    return signature(types.none, array, types.intp, value), lower


@intrinsic
def head(typingctx: Any, a: Any, count: Any) -> Any:
    """The first `count` places of `a`, zeros in the others."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        vec = sig.return_type
        i64 = ir.IntType(64)
        place = ir.Constant(ir.VectorType(i64, vec.width), list(range(vec.width)))
        inside = builder.icmp_signed("<", place, splat(builder, args[1], vec.width))
        return builder.select(inside, args[0], ir.Constant(llvm_type(vec), None))

    return signature(a, a, types.intp), lower


@intrinsic
def copy(typingctx: Any, to: Any, to_at: Any, source: Any, source_at: Any, count: Any) -> Any:
    """Copy `count` numbers between one-dimensional arrays that do not overlap."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        pointers = [address(context, builder, sig.args[i], args[i], args[i + 1]) for i in (0, 2)]
        size = _element_size(ir.VectorType(_LLVM[sig.args[0].dtype], 1))
        cgutils.raw_memcpy(builder, *pointers, args[4], size)
        return context.get_dummy_value()

    return signature(types.none, to, types.intp, source, types.intp, types.intp), lower


@intrinsic
def clear(typingctx: Any, array: Any, at: Any, count: Any) -> Any:
    """Make `count` numbers of a one-dimensional array zero."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        size = _element_size(ir.VectorType(_LLVM[sig.args[0].dtype], 1))
        pointer = address(context, builder, sig.args[0], args[0], args[1])
        cgutils.memset(builder, pointer, builder.mul(args[2], _INT[types.float64](size)), 0)
        return context.get_dummy_value()

    return signature(types.none, array, types.intp, types.intp), lower
