"""LLVM IR for the stages of a cell, and for the microkernel.

A stage is one function: the elementwise code for a block of sequences and of hidden units, on vectors of the widest
registers. It is straight-line code in two small loops, which LLVM compiles in a tenth of a second. The constants of the
cell other than 0 and 1 are read from memory, so that cells that differ only in these share the code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from llvmlite import ir

from ..cells.expr import Expr, topological
from ..cells.table import OPERATIONS
from ..engine.plan import Plan, Ref
from . import record
from .fused import FusedStage, backward_stages, forward_stages

_INT, _I32 = ir.IntType(64), ir.IntType(32)
# The only fast-math flag: a product and a sum may be fused. This loses no accuracy, preserves NaN and infinity, and the
# result depends on nothing but the code.
_FUSE = ("contract",)
_INSTRUCTION = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}


class Target(NamedTuple):
    """Vectors of `width` elements of `dtype`; `scalef`: whether there is AVX-512's instruction for ``x * 2**n``."""

    dtype: str
    width: int
    scalef: bool

    @property
    def double(self) -> bool:
        return self.dtype == "float64"

    @property
    def number(self) -> ir.Type:
        return ir.DoubleType() if self.double else ir.FloatType()

    @property
    def vector(self) -> ir.VectorType:
        return ir.VectorType(self.number, self.width)

    @property
    def integers(self) -> ir.VectorType:
        return ir.VectorType(_INT if self.double else _I32, self.width)

    @property
    def size(self) -> int:
        return 8 if self.double else 4

    @property
    def mantissa_and_bias(self) -> tuple[int, int]:
        """Bits of the mantissa, and the exponent's bias (IEEE 754)."""
        return (52, 1023) if self.double else (23, 127)


@dataclass(frozen=True)
class Lanes:
    """A vector in the code that is being written: operations on it append instructions."""

    target: Target
    builder: ir.IRBuilder
    value: ir.Value

    def _new(self, value: ir.Value) -> Lanes:
        return Lanes(self.target, self.builder, value)

    def _vector(self, other: Any) -> ir.Value:
        if isinstance(other, Lanes):
            return other.value
        return ir.Constant(self.target.vector, [float(other)] * self.target.width)

    def binary(self, op: str, other: Any) -> Lanes:
        """``self op other``."""
        return self._new(getattr(self.builder, _INSTRUCTION[op])(self.value, self._vector(other), flags=_FUSE))

    def _reflected(self, op: str, other: Any) -> Lanes:
        return self._new(self._vector(other)).binary(op, self)

    def __add__(self, other: Any) -> Lanes:
        return self.binary("add", other)

    def __sub__(self, other: Any) -> Lanes:
        return self.binary("sub", other)

    def __mul__(self, other: Any) -> Lanes:
        return self.binary("mul", other)

    def __truediv__(self, other: Any) -> Lanes:
        return self.binary("div", other)

    def __radd__(self, other: Any) -> Lanes:
        return self._reflected("add", other)

    def __rsub__(self, other: Any) -> Lanes:
        return self._reflected("sub", other)

    def __rmul__(self, other: Any) -> Lanes:
        return self._reflected("mul", other)

    def __rtruediv__(self, other: Any) -> Lanes:
        return self._reflected("div", other)

    def __neg__(self) -> Lanes:
        return self._new(self.builder.fneg(self.value))

    def call(self, function: str, *others: Any) -> Lanes:
        """``function(self, *others)``, an operation or one of the functions that those are made of."""
        if function in OPERATIONS:
            result: Lanes = OPERATIONS[function].formula(self.target.double)(self, *others)
            return result
        return self._new(getattr(self, f"_{function}")(*map(self._vector, others)))

    def library(self, name: str, beyond: float, near: Any) -> Lanes:
        """See :func:`fastrnn.cells.elementary.library`."""
        builder, near = self.builder, self._vector(near)
        far = builder.fcmp_ordered(">", self._magnitude(), self._vector(beyond))
        before, calling = builder.block, builder.append_basic_block(name)
        done = builder.append_basic_block("done")
        bits = ir.IntType(self.target.width)
        builder.cbranch(builder.icmp_unsigned("!=", builder.bitcast(far, bits), bits(0)), calling, done)
        builder.position_at_end(calling)
        values = builder.select(far, self._of_library(name), near)
        builder.branch(done)
        builder.position_at_end(done)
        result = builder.phi(self.target.vector)
        result.add_incoming(near, before)
        result.add_incoming(values, calling)
        return self._new(result)

    def _of_library(self, name: str) -> ir.Value:
        """The C library's function of each number; that for float64 in either case."""
        builder, double = self.builder, ir.DoubleType()
        function = builder.module.globals.get(name)
        if function is None:
            function = ir.Function(builder.module, ir.FunctionType(double, [double]), name)
            function.attributes.add("nounwind")
        values = ir.Constant(self.target.vector, ir.Undefined)
        for i in range(self.target.width):
            number = builder.extract_element(self.value, _I32(i))
            result = builder.call(function, [number if self.target.double else builder.fpext(number, double)])
            if not self.target.double:
                result = builder.fptrunc(result, self.target.number)
            values = builder.insert_element(values, result, _I32(i))
        return values

    def _less(self, b: ir.Value, yes: ir.Value, no: ir.Value) -> ir.Value:
        return self.builder.select(self.builder.fcmp_ordered("<", self.value, b), yes, no)

    def _less_equal(self, b: ir.Value, yes: ir.Value, no: ir.Value) -> ir.Value:
        return self.builder.select(self.builder.fcmp_ordered("<=", self.value, b), yes, no)

    def _least(self, bound: ir.Value) -> ir.Value:
        return self.builder.select(self.builder.fcmp_ordered("<", bound, self.value), bound, self.value)

    def _bits(self, value: ir.Value) -> ir.Value:
        return self.builder.bitcast(value, self.target.integers)

    def _splat_int(self, value: int) -> ir.Constant:
        return ir.Constant(self.target.integers, [value] * self.target.width)

    @property
    def _top_bit(self) -> int:
        return 1 << (8 * self.target.size - 1)

    def _magnitude(self) -> ir.Value:
        bits = self.builder.and_(self._bits(self.value), self._splat_int(self._top_bit - 1))
        return self.builder.bitcast(bits, self.target.vector)

    def _with_sign(self, b: ir.Value) -> ir.Value:
        sign = self.builder.and_(self._bits(b), self._splat_int(self._top_bit))
        return self.builder.bitcast(self.builder.or_(self._bits(self.value), sign), self.target.vector)

    def _root(self) -> ir.Value:
        vector, module = self.target.vector, self.builder.module
        name = f"llvm.sqrt.v{self.target.width}f{8 * self.target.size}"
        function = module.globals.get(name) or ir.Function(module, ir.FunctionType(vector, [vector]), name)
        return self.builder.call(function, [self.value])

    def _exponent(self) -> ir.Value:
        mantissa, bias = self.target.mantissa_and_bias
        exponent = self.builder.lshr(self._bits(self.value), self._splat_int(mantissa))
        return self.builder.fsub(self._as_number(exponent), self._vector(2.0**mantissa + bias))

    def _significand(self) -> ir.Value:
        mantissa, bias = self.target.mantissa_and_bias
        bits = self.builder.and_(self._bits(self.value), self._splat_int((1 << mantissa) - 1))
        return self.builder.bitcast(self.builder.or_(bits, self._splat_int(bias << mantissa)), self.target.vector)

    def _subnormal(self) -> ir.Value:
        mantissa, _ = self.target.mantissa_and_bias
        number = self._as_number(self._bits(self._magnitude()))
        return self._new(self.builder.fsub(number, self._vector(2.0**mantissa)))._with_sign(self.value)

    def _as_number(self, n: ir.Value) -> ir.Value:
        """The number 2**mantissa + n, for integers n below 2**mantissa, which are its lowest bits."""
        mantissa, bias = self.target.mantissa_and_bias
        return self.builder.bitcast(
            self.builder.or_(n, self._splat_int((mantissa + bias) << mantissa)), self.target.vector
        )

    def _power_of_two(self) -> ir.Value:
        return self._with_exponent(self.builder.fptosi(self.value, self.target.integers))

    def _with_exponent(self, n: ir.Value) -> ir.Value:
        mantissa, bias = self.target.mantissa_and_bias
        exponent = self.builder.add(n, self._splat_int(bias))
        return self.builder.bitcast(self.builder.shl(exponent, self._splat_int(mantissa)), self.target.vector)

    def _scale(self, n: ir.Value) -> ir.Value:
        if self.target.scalef:
            return self._scale_in_hardware(n)
        whole = self.builder.fptosi(n, self.target.integers)
        # In two steps, so that both powers are normal numbers.
        half = self.builder.ashr(whole, self._splat_int(1))
        part = self.builder.fmul(self.value, self._with_exponent(half))
        return self.builder.fmul(part, self._with_exponent(self.builder.sub(whole, half)))

    def _scale_in_hardware(self, n: ir.Value) -> ir.Value:
        vector, mask = self.target.vector, ir.IntType(self.target.width)
        name = f"llvm.x86.avx512.mask.scalef.{'pd' if self.target.double else 'ps'}.512"
        typ = ir.FunctionType(vector, [vector, vector, vector, mask, _I32])
        function = self.builder.module.globals.get(name) or ir.Function(self.builder.module, typ, name)
        current_rounding = _I32(4)
        return self.builder.call(function, [self.value, n, self.value, ir.Constant(mask, -1), current_rounding])


class _Memory:
    """Loads, stores and addresses, in bytes, of one function."""

    def __init__(self, target: Target, builder: ir.IRBuilder) -> None:
        self.target, self.builder = target, builder

    def at(self, base: ir.Value, elements: ir.Value) -> ir.Value:
        """Address of element number `elements` from `base` on."""
        return self.builder.add(base, self.builder.mul(elements, _INT(self.target.size)))

    def _pointer(self, address: ir.Value, typ: ir.Type) -> ir.Value:
        return self.builder.inttoptr(address, typ.as_pointer())

    def load(self, address: ir.Value) -> ir.Value:
        """A vector; it need only be aligned to its elements."""
        return self.builder.load(self._pointer(address, self.target.vector), align=self.target.size)

    def store(self, value: ir.Value, address: ir.Value) -> None:
        self.builder.store(value, self._pointer(address, self.target.vector), align=self.target.size)

    def number(self, address: ir.Value) -> ir.Value:
        """A vector whose elements are all the number at `address`."""
        return self.splat(self.builder.load(self._pointer(address, self.target.number)), self.target.vector)

    def integer(self, address: ir.Value) -> ir.Value:
        return self.builder.load(self._pointer(address, _INT))

    def splat(self, value: ir.Value, vector: ir.VectorType) -> ir.Value:
        nothing = ir.Constant(vector, ir.Undefined)
        one = self.builder.insert_element(nothing, value, _I32(0))
        mask = ir.Constant(ir.VectorType(_I32, vector.count), [0] * vector.count)
        return self.builder.shuffle_vector(one, nothing, mask)


@contextmanager
def _loop(builder: ir.IRBuilder, count: ir.Value) -> Iterator[ir.Value]:
    """``for i in range(count)``, for a `count` of at least 1."""
    before = builder.block
    body, done = builder.append_basic_block("body"), builder.append_basic_block("done")
    builder.branch(body)
    builder.position_at_end(body)
    i = builder.phi(_INT)
    i.add_incoming(_INT(0), before)
    yield i
    following = builder.add(i, _INT(1))
    i.add_incoming(following, builder.block)
    builder.cbranch(builder.icmp_signed("<", following, count), body, done)
    builder.position_at_end(done)


def _function(module: ir.Module, name: str, arguments: Sequence[str]) -> tuple[ir.IRBuilder, list[ir.Argument]]:
    """A function that takes integers and addresses and returns nothing."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [_INT] * len(arguments)), name)
    function.attributes.add("nounwind")
    for argument, own in zip(function.args, arguments, strict=True):
        argument.name = own
    return ir.IRBuilder(function.append_basic_block("entry")), list(function.args)


# The microkernel.


def tile(module: ir.Module, target: Target, rows: int, cols: int, split: int) -> None:
    """The microkernel ``tile_{rows}x{cols}``: ``C = A @ B`` with C held in registers; `cols` counts vectors.

    Arguments of the generated function, with strides in elements:
        a, a_row, a_depth  in     element (r, k) of A is at ``a + r * a_row + k * a_depth``
        b, b_depth         in     row k of B is `cols` contiguous vectors at ``b + k * b_depth``
        depth                     columns of A and rows of B
        c, c_row           inout  row r of C is `cols` contiguous vectors at ``c + r * c_row``
        more                      whether the product is added to C instead of replacing it
    Each element of C is summed in `split` chains over the depth. No alignment is assumed, though B and C are accessed
    faster at multiples of the size of a vector.
    """
    names = ["a", "a_row", "a_depth", "b", "b_depth", "depth", "c", "c_row", "more"]
    builder, (a, a_row, a_depth, b, b_depth, depth, c, c_row, more) = _function(module, f"tile_{rows}x{cols}", names)
    memory = _Memory(target, builder)
    a_rows = [memory.at(a, builder.mul(a_row, _INT(r))) for r in range(rows)]
    zero = ir.Constant(target.vector, None)
    whole = builder.sub(depth, builder.urem(depth, _INT(split)))
    steps = a_depth, b_depth
    sums = _rank_one_updates(memory, a_rows, b, steps, (_INT(0), whole), cols, split, [zero] * (rows * cols * split))
    count = rows * cols
    for p in range(1, split):
        parts = sums[p * count : (p + 1) * count]
        sums[:count] = [builder.fadd(x, y) for x, y in zip(sums[:count], parts, strict=True)]
    if split > 1:
        sums = _rank_one_updates(memory, a_rows, b, steps, (whole, depth), cols, 1, sums[:count])
    places = [
        memory.at(c, builder.add(builder.mul(c_row, _INT(r)), _INT(j * target.width)))
        for r in range(rows)
        for j in range(cols)
    ]
    add = builder.icmp_signed("!=", more, _INT(0))
    adding, storing = builder.append_basic_block("adding"), builder.append_basic_block("storing")
    end = builder.block
    builder.cbranch(add, adding, storing)
    builder.position_at_end(adding)
    added = [builder.fadd(memory.load(place), value) for place, value in zip(places, sums, strict=True)]
    builder.branch(storing)
    builder.position_at_end(storing)
    values = [builder.phi(target.vector) for _ in places]
    for value, alone, both in zip(values, sums, added, strict=True):
        value.add_incoming(alone, end)
        value.add_incoming(both, adding)
    for place, value in zip(places, values, strict=True):
        memory.store(value, place)
    builder.ret_void()


def _rank_one_updates(
    memory: _Memory,
    a_rows: list[ir.Value],
    b: ir.Value,
    steps: tuple[ir.Value, ir.Value],
    bounds: tuple[ir.Value, ir.Value],
    cols: int,
    split: int,
    initial: list[ir.Value],
) -> list[ir.Value]:
    """``for k in range(*bounds, split)``, with the sums in registers."""
    builder, target = memory.builder, memory.target
    before = builder.block
    head, body, done = (builder.append_basic_block(name) for name in ("depth", "update", "summed"))
    a_begin, b_begin = (memory.at(_INT(0), builder.mul(bounds[0], step)) for step in steps)
    builder.branch(head)
    builder.position_at_end(head)
    k, a_at, b_at = (builder.phi(_INT) for _ in range(3))
    sums = [builder.phi(target.vector) for _ in initial]
    for phi, value in zip([k, a_at, b_at, *sums], [bounds[0], a_begin, b_begin, *initial], strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", k, bounds[1]), body, done)
    builder.position_at_end(body)
    new: list[ir.Value] = []
    a_now, b_now = a_at, b_at
    for part in range(split):
        vectors = [
            memory.load(builder.add(builder.add(b, b_now), _INT(j * target.width * target.size))) for j in range(cols)
        ]
        for r, row in enumerate(a_rows):
            number = memory.number(builder.add(row, a_now))
            for j in range(cols):
                product = builder.fmul(number, vectors[j], flags=_FUSE)
                new.append(builder.fadd(product, sums[(part * len(a_rows) + r) * cols + j], flags=_FUSE))
        a_now, b_now = memory.at(a_now, steps[0]), memory.at(b_now, steps[1])
    following = builder.add(k, _INT(split))
    for phi, value in zip([k, a_at, b_at, *sums], [following, a_now, b_now, *new], strict=True):
        phi.add_incoming(value, body)
    builder.branch(head)
    builder.position_at_end(done)
    return list(sums)


# The stages of a cell.


class CellCode(NamedTuple):
    """LLVM IR with the functions ``forward_0 ...`` and ``backward_0 ...``, and the constants that they read."""

    text: str
    constants: tuple[float, ...]


def cell_code(plan: Plan, target: Target) -> CellCode:
    """The code of `plan`, which does not depend on the values of the constants."""
    module = ir.Module("cell")
    forward, backward = forward_stages(plan), backward_stages(plan)
    constants = _constants([*forward, *backward])
    for direction, stages in (("forward", forward), ("backward", backward)):
        for i, stage in enumerate(stages):
            _StageFunction(module, f"{direction}_{i}", plan, stage, target, constants)
    return CellCode(str(module), tuple(node.args[0] for node in constants))


def _constants(stages: Sequence[FusedStage]) -> dict[Expr, int]:
    """The constants of the cell other than 0 and 1, with their positions, in the order of their use."""
    nodes = (n for s in stages for n in topological([value for _, value in s.code.stores], stop=s.code.loads))
    found = dict.fromkeys(n for n in nodes if n.op == "const" and n.args[0] not in (0.0, 1.0))
    return {node: i for i, node in enumerate(found)}


def with_products(stage: FusedStage) -> tuple[int, ...]:
    """The sums of `stage` that products add to, in the order of their columns in the scratch memory of a tile."""
    return tuple(sorted({i for product in stage.products for i in product.sums}))


class _StageFunction:
    """Writes the function of one stage.

    Arguments of the generated function: the address of the record; the first sequence `n` and the number of `rows`; the
    first hidden unit `u` and the number of `vectors`; the address of the sums of the products, [row][sum][vector],
    contiguous.
    """

    def __init__(
        self, module: ir.Module, name: str, plan: Plan, stage: FusedStage, target: Target, constants: dict[Expr, int]
    ) -> None:
        arguments = ["record", "n", "rows", "u", "vectors", "sums"]
        self.builder, (self.record, n, rows, u, vectors, self.sums) = _function(module, name, arguments)
        self.plan, self.stage, self.target = plan, stage, target
        self.memory = _Memory(target, self.builder)
        self.multiplied = with_products(stage)
        self.vectors = vectors
        self.bases = {place: self._integer(place) for place in sorted(self._places())}
        self.Hp = self._integer(record.PADDED)
        self.H = self._integer(record.LENGTH) if any(ref.kind == "da" for ref, _ in stage.code.stores) else None
        own = _constants([stage])
        at = self._integer(record.CONSTANTS) if own else None
        self.numbers = {c: self.memory.number(self.memory.at(at, _INT(constants[c]))) for c in own}
        with _loop(self.builder, rows) as self.row:
            self.sequence = self.builder.add(n, self.row)
            with _loop(self.builder, vectors) as self.column:
                self.unit = self.builder.add(u, self.builder.mul(self.column, _INT(target.width)))
                self._body()
        self.builder.ret_void()

    def _integer(self, place: int) -> ir.Value:
        return self.memory.integer(self.builder.add(self.record, _INT(8 * place)))

    def _places(self) -> set[int]:
        """The entries of the record that the stage reads."""
        refs = [*self.stage.code.loads.values(), *(ref for ref, _ in self.stage.code.stores)]
        places = set()
        for kind, index in refs:
            if kind == "acc":
                sum = self.stage.sums[index]
                places |= {record.X} if sum.gate is not None else set()
                places |= {record.UNITS} if sum.row is not None else set()
            elif kind == "grad":
                places |= {record.STATES + 3 * index + record.CARRY}
                places |= {record.DY, record.DY_STEP} if index == 0 else set()
            else:
                places.add(_PLACE[kind] if kind in _PLACE else record.STATES + 3 * index + _OF_STATE[kind])
        return places

    def _address(self, ref: Ref) -> ir.Value:
        builder, plan = self.builder, self.plan
        kind, index = ref
        if kind in _OF_STATE:
            base, blocks, block = self.bases[record.STATES + 3 * index + _OF_STATE[kind]], 1, 0
        else:
            blocks = {"x": plan.n_gates, "unit": 0, "keep": plan.n_keep, "da": plan.n_da}[kind]
            base, block = self.bases[_PLACE[kind]], index
        rows = builder.add(builder.mul(self.sequence, _INT(blocks)), _INT(block))
        return self.memory.at(base, builder.add(builder.mul(rows, self.Hp), self.unit))

    def _load(self, ref: Ref) -> Lanes:
        if ref.kind == "acc":
            return self._sum(ref.index)
        if ref.kind == "grad":
            return self._grad(ref.index)
        return self._lanes(self.memory.load(self._address(ref)))

    def _lanes(self, value: ir.Value) -> Lanes:
        return Lanes(self.target, self.builder, value)

    def _sum(self, index: int) -> Lanes:
        """The bias, the projection and the products of a sum."""
        gate, row = self.stage.sums[index].gate, self.stage.sums[index].row
        parts = [self._load(Ref("unit", row))] if row is not None else []
        parts += [self._load(Ref("x", gate))] if gate is not None else []
        parts += [self._product(index)] if index in self.multiplied else []
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def _product(self, index: int) -> Lanes:
        builder = self.builder
        sums = builder.add(builder.mul(self.row, _INT(len(self.multiplied))), _INT(self.multiplied.index(index)))
        vector = builder.add(builder.mul(sums, self.vectors), self.column)
        return self._lanes(self.memory.load(self.memory.at(self.sums, builder.mul(vector, _INT(self.target.width)))))

    def _grad(self, index: int) -> Lanes:
        """The gradient of a state after the step, from the step after it and from the output."""
        total = self._load(Ref("carry", index))
        acc = self.plan.grad_acc[index]
        if acc is not None:
            total = total + self._product(acc)
        if index == 0:
            row = self.builder.add(self.bases[record.DY], self.builder.mul(self.sequence, self.bases[record.DY_STEP]))
            total = total + self._lanes(self.memory.load(self.memory.at(row, self.unit)))
        return total

    def _body(self) -> None:
        code = self.stage.code
        values: dict[Expr, Lanes] = {}
        for node in topological([n for _, n in code.stores], stop=code.loads):
            values[node] = self._value(node, values)
        for ref, node in code.stores:
            value = values[node].value
            # Products run over the padding of a row, so that must not be NaN.
            self.memory.store(self._head(value) if ref.kind == "da" else value, self._address(ref))

    def _value(self, node: Expr, values: dict[Expr, Lanes]) -> Lanes:
        if node in self.stage.code.loads:
            return self._load(self.stage.code.loads[node])
        if node in self.numbers:
            return self._lanes(self.numbers[node])
        if node.op == "const":
            return self._lanes(ir.Constant(self.target.vector, [node.args[0]] * self.target.width))
        first, *others = (values[a] for a in node.args)
        return first.call(node.op, *others)

    def _head(self, value: ir.Value) -> ir.Value:
        """`value` with zeros in the padding."""
        builder, integers = self.builder, self.target.integers
        left = builder.trunc(builder.sub(self.H, self.unit), integers.element) if integers.element != _INT else None
        count = self.memory.splat(left or builder.sub(self.H, self.unit), integers)
        places = ir.Constant(integers, list(range(self.target.width)))
        return builder.select(builder.icmp_signed("<", places, count), value, ir.Constant(self.target.vector, None))


_PLACE = {"x": record.X, "unit": record.UNITS, "keep": record.KEEP, "da": record.DA}
_OF_STATE = {"prev": record.PREV, "next": record.NEXT, "carry": record.CARRY}
