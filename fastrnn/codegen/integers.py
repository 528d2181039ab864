"""Translates functions of integers, written in a subset of Python, to LLVM IR.

The time loops of the Numba backend (:mod:`fastrnn.backends.numba.loops`) handle 64-bit integers alone: addresses,
strides and counts. Numba can compile the same source, but takes ten times as long, and this is what a user waits for at
the first call: 0.05 s for this translation and 0.55 s for LLVM, against 5.3 to 6.5 s for Numba, even with the signature
of every function given, no wrappers, no bounds checks, and its loop passes off or on (2026-11-24, AMD EPYC Zen 4, one
dtype, one core). The loops are plain Python functions all the same, which linters read and a debugger shows; written by
an ``IRBuilder`` they would be several times as long.

The subset: assignment to names, also to several at once; ``if``, ``while``, ``for`` over ``range`` with a constant
step, ``return``; ``+ - * // % & |``, comparisons of two values, ``and or not``, conditional expressions; ``min`` and
``max`` of two values; calls of the functions of the modules and of the primitives below. ``//`` and ``%`` assume
operands that are not negative. A function without ``return`` gives 0. Anything else raises when it is translated, at
the latest by the first call of the backend.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from llvmlite import ir

_INT, _BOOL = ir.IntType(64), ir.IntType(1)
_BYTE = ir.IntType(8)
_BINARY = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.FloorDiv: "sdiv",
    ast.Mod: "srem",
    ast.BitAnd: "and_",
    ast.BitOr: "or_",
}
_COMPARE = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}


def get(address: int) -> int:
    """The integer at `address`."""
    raise NotImplementedError


def put(address: int, value: int) -> None:
    """Store an integer at `address`."""
    raise NotImplementedError


def byte(address: int) -> int:
    """The byte at `address`."""
    raise NotImplementedError


def move(to: int, source: int) -> None:
    """Copy one element."""
    raise NotImplementedError


def add(to: int, source: int) -> None:
    """Add one element to another."""
    raise NotImplementedError


def limit(to: int, bound: int) -> None:
    """Bring one element into ``[-bound, bound]``; NaN stays."""
    raise NotImplementedError


def raise_to(to: int, source: int) -> None:
    """Replace one element by another's magnitude, if that is larger."""
    raise NotImplementedError


def add_square(to: int, source: int, unit: int) -> None:
    """Add ``(source / unit)**2`` to one element."""
    raise NotImplementedError


def shrink(to: int, bound: int, unit: int, squares: int) -> None:
    """By what a vector of norm ``unit * sqrt(squares)`` is multiplied to have a norm of at most `bound`.

    It is 1 if it has, or if the norm is not a number.
    """
    raise NotImplementedError


def scale(to: int, factor: int) -> None:
    """Multiply one element by another."""
    raise NotImplementedError


def copy(to: int, source: int, count: int) -> None:
    """Copy `count` bytes between places that do not overlap."""
    raise NotImplementedError


def clear(address: int, count: int) -> None:
    """Set `count` bytes to zero."""
    raise NotImplementedError


def call(function: int, *arguments: int) -> None:
    """Call the machine code at the address `function`, which takes integers and returns nothing."""
    raise NotImplementedError


class _Primitives:
    """The primitives above in LLVM IR, for elements of a type."""

    def __init__(self, module: ir.Module, element: ir.Type) -> None:
        self.element = element
        pointer = _BYTE.as_pointer()
        self._sqrt = module.declare_intrinsic("llvm.sqrt", [element])
        self._magnitude = module.declare_intrinsic("llvm.fabs", [element])
        self._copy = module.declare_intrinsic("llvm.memcpy", [pointer, pointer, _INT])
        self._clear = module.declare_intrinsic("llvm.memset", [pointer, _INT])

    def get(self, b: ir.IRBuilder, address: ir.Value) -> ir.Value:
        return b.load(b.inttoptr(address, _INT.as_pointer()))

    def put(self, b: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
        b.store(value, b.inttoptr(address, _INT.as_pointer()))

    def byte(self, b: ir.IRBuilder, address: ir.Value) -> ir.Value:
        return b.zext(b.load(b.inttoptr(address, _BYTE.as_pointer())), _INT)

    def move(self, b: ir.IRBuilder, to: ir.Value, source: ir.Value) -> None:
        pointer = self.element.as_pointer()
        b.store(b.load(b.inttoptr(source, pointer)), b.inttoptr(to, pointer))

    def add(self, b: ir.IRBuilder, to: ir.Value, source: ir.Value) -> None:
        place = b.inttoptr(to, self.element.as_pointer())
        b.store(b.fadd(b.load(place), b.load(b.inttoptr(source, place.type))), place)

    def _at(self, b: ir.IRBuilder, address: ir.Value) -> ir.Value:
        return b.inttoptr(address, self.element.as_pointer())

    def limit(self, b: ir.IRBuilder, to: ir.Value, bound: ir.Value) -> None:
        most, place = b.load(self._at(b, bound)), self._at(b, to)
        least, value = b.fneg(most), b.load(place)
        value = b.select(b.fcmp_ordered("<", most, value), most, value)
        b.store(b.select(b.fcmp_ordered("<", value, least), least, value), place)

    def raise_to(self, b: ir.IRBuilder, to: ir.Value, source: ir.Value) -> None:
        place, value = self._at(b, to), b.call(self._magnitude, [b.load(self._at(b, source))])
        before = b.load(place)
        b.store(b.select(b.fcmp_ordered("<", before, value), value, before), place)

    def add_square(self, b: ir.IRBuilder, to: ir.Value, source: ir.Value, unit: ir.Value) -> None:
        share = b.fdiv(b.load(self._at(b, source)), b.load(self._at(b, unit)))
        place = self._at(b, to)
        b.store(b.fadd(b.load(place), b.fmul(share, share)), place)

    def shrink(self, b: ir.IRBuilder, to: ir.Value, bound: ir.Value, unit: ir.Value, squares: ir.Value) -> None:
        most = b.fdiv(b.load(self._at(b, bound)), b.load(self._at(b, unit)))
        norm = b.call(self._sqrt, [b.load(self._at(b, squares))])
        factor = b.select(b.fcmp_ordered("<", most, norm), b.fdiv(most, norm), ir.Constant(self.element, 1))
        b.store(factor, self._at(b, to))

    def scale(self, b: ir.IRBuilder, to: ir.Value, factor: ir.Value) -> None:
        place = self._at(b, to)
        b.store(b.fmul(b.load(place), b.load(self._at(b, factor))), place)

    def copy(self, b: ir.IRBuilder, to: ir.Value, source: ir.Value, count: ir.Value) -> None:
        pointers = [b.inttoptr(address, _BYTE.as_pointer()) for address in (to, source)]
        b.call(self._copy, [*pointers, count, _BOOL(0)])

    def clear(self, b: ir.IRBuilder, address: ir.Value, count: ir.Value) -> None:
        b.call(self._clear, [b.inttoptr(address, _BYTE.as_pointer()), _BYTE(0), count, _BOOL(0)])

    def call(self, b: ir.IRBuilder, function: ir.Value, *arguments: ir.Value) -> None:
        typ = ir.FunctionType(ir.VoidType(), [_INT] * len(arguments))
        b.call(b.inttoptr(function, typ.as_pointer()), arguments)

    def min(self, b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
        return b.select(b.icmp_signed("<", x, y), x, y)

    def max(self, b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
        return b.select(b.icmp_signed("<", x, y), y, x)


def integer_code(sources: Sequence[ModuleType], element: ir.Type, constants: Mapping[str, int]) -> ir.Module:
    """The functions of all `sources` as one LLVM module, for elements of a type.

    Parameters
    ----------
    sources : sequence of modules
        Their functions, which may call each other and have different names, and their global integers, as constants.
    element : ir.Type
        What :func:`move` and :func:`add` work on.
    constants : mapping of str to int
        Values that replace those of global integers.

    Returns
    -------
    ir.Module
        Every function under its own name.
    """
    module = ir.Module(sources[0].__package__ or "")
    known: dict[str, Any] = {}
    functions: list[ast.FunctionDef] = []
    for source in sources:
        known |= {name: value for name, value in vars(source).items() if isinstance(value, int)}
        functions += [node for node in ast.parse(inspect.getsource(source)).body if isinstance(node, ast.FunctionDef)]
    known |= constants
    primitives = _Primitives(module, element)
    for node in functions:
        typ = ir.FunctionType(_INT, [_INT] * len(node.args.args))
        known[node.name] = ir.Function(module, typ, node.name)
    for node in functions:
        _Writer(known, primitives, node)
    return module


class _Writer:
    """Writes one function. Variables live on the stack until LLVM moves them to registers."""

    def __init__(self, known: Mapping[str, Any], primitives: _Primitives, node: ast.FunctionDef) -> None:
        self._known, self._primitives = known, primitives
        function: ir.Function = known[node.name]
        function.attributes.add("nounwind")
        self._entry = function.append_basic_block("entry")
        self._b = ir.IRBuilder(function.append_basic_block("code"))
        self._variables: dict[str, ir.Value] = {}
        for argument, value in zip(node.args.args, function.args, strict=True):
            self._set(argument.arg, value)
        self._block(node.body)
        if not self._b.block.is_terminated:
            self._b.ret(_INT(0))
        ir.IRBuilder(self._entry).branch(function.blocks[1])

    def _block(self, body: list[ast.stmt]) -> None:
        for statement in body:
            getattr(self, f"_{type(statement).__name__.lower()}")(statement)

    # Statements.

    def _expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):
            self._value(node.value)

    def _return(self, node: ast.Return) -> None:
        self._b.ret(self._value(node.value) if node.value else _INT(0))
        self._b.position_at_end(self._b.append_basic_block("unreached"))

    def _set(self, target: str, value: ir.Value) -> None:
        if target not in self._variables:
            self._variables[target] = ir.IRBuilder(self._entry).alloca(_INT, name=target)
        self._b.store(value, self._variables[target])

    def _assign(self, node: ast.Assign) -> None:
        (target,) = node.targets
        names = target.elts if isinstance(target, ast.Tuple) else [target]
        values = [self._value(value) for value in _parts(node.value)]
        for name, value in zip(names, values, strict=True):
            assert isinstance(name, ast.Name)
            self._set(name.id, value)

    def _augassign(self, node: ast.AugAssign) -> None:
        assert isinstance(node.target, ast.Name)
        self._set(node.target.id, self._value(ast.BinOp(node.target, node.op, node.value)))

    def _if(self, node: ast.If) -> None:
        test = self._test(node.test)
        then, other, done = (self._b.append_basic_block(name) for name in ("then", "else", "done"))
        self._b.cbranch(test, then, other)
        for block, body in ((then, node.body), (other, node.orelse)):
            self._b.position_at_end(block)
            self._block(body)
            self._b.branch(done)
        self._b.position_at_end(done)

    def _while(self, node: ast.While) -> None:
        assert not node.orelse
        self._loop(lambda: self._test(node.test), lambda: self._block(node.body))

    def _for(self, node: ast.For) -> None:
        assert isinstance(node.target, ast.Name) and isinstance(node.iter, ast.Call) and not node.orelse
        assert isinstance(node.iter.func, ast.Name) and node.iter.func.id == "range"
        given = [self._value(a) for a in node.iter.args]
        first, end, step = (_INT(0), *given, _INT(1)) if len(given) == 1 else (*given, _INT(1))[:3]
        # A counter of its own, as the body may assign to the variable.
        count, name = f"{node.target.id} of {node.lineno}", node.target.id
        self._set(count, first)
        forward = step.constant > 0

        def body() -> None:
            self._set(name, self._b.load(self._variables[count]))
            self._block(node.body)
            self._set(count, self._b.add(self._b.load(self._variables[count]), step))

        self._loop(
            lambda: self._b.icmp_signed("<" if forward else ">", self._b.load(self._variables[count]), end), body
        )

    def _loop(self, test: Callable[[], ir.Value], body: Callable[[], None]) -> None:
        head, inside, done = (self._b.append_basic_block(name) for name in ("head", "body", "done"))
        self._b.branch(head)
        self._b.position_at_end(head)
        self._b.cbranch(test(), inside, done)
        self._b.position_at_end(inside)
        body()
        self._b.branch(head)
        self._b.position_at_end(done)

    # Expressions.

    def _value(self, node: ast.expr) -> ir.Value:
        if isinstance(node, ast.Constant):
            assert isinstance(node.value, int)
            return _INT(node.value)
        if isinstance(node, ast.Name):
            return self._b.load(self._variables[node.id]) if node.id in self._variables else _INT(self._known[node.id])
        if isinstance(node, ast.BinOp):
            left, right = self._value(node.left), self._value(node.right)
            return getattr(self._b, _BINARY[type(node.op)])(left, right)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self._value(node.operand)
            return _INT(-value.constant) if isinstance(value, ir.Constant) else self._b.neg(value)
        if isinstance(node, ast.IfExp):
            return self._either(node.test, lambda: self._value(node.body), lambda: self._value(node.orelse))
        if isinstance(node, ast.Call):
            return self._call(node)
        return self._b.zext(self._test(node), _INT)

    def _test(self, node: ast.expr) -> ir.Value:
        """Whether an expression is true."""
        if isinstance(node, ast.Compare):
            (operator,), (operand,) = node.ops, node.comparators
            return self._b.icmp_signed(_COMPARE[type(operator)], self._value(node.left), self._value(operand))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return self._b.not_(self._test(node.operand))
        if isinstance(node, ast.BoolOp):
            first, *others = node.values
            rest = ast.BoolOp(node.op, others) if len(others) > 1 else others[0]
            if isinstance(node.op, ast.And):
                return self._either(first, lambda: self._test(rest), lambda: _BOOL(0))
            return self._either(first, lambda: _BOOL(1), lambda: self._test(rest))
        return self._b.icmp_signed("!=", self._value(node), _INT(0))

    def _either(self, test: ast.expr, yes: Callable[[], ir.Value], no: Callable[[], ir.Value]) -> ir.Value:
        """The value of the branch that is taken, the other one being skipped."""
        condition = self._test(test)
        then, other, done = (self._b.append_basic_block(name) for name in ("yes", "no", "either"))
        self._b.cbranch(condition, then, other)
        ends = []
        for block, branch in ((then, yes), (other, no)):
            self._b.position_at_end(block)
            ends.append((branch(), self._b.block))
            self._b.branch(done)
        self._b.position_at_end(done)
        result = self._b.phi(ends[0][0].type)
        for value, block in ends:
            result.add_incoming(value, block)
        return result

    def _call(self, node: ast.Call) -> ir.Value:
        assert isinstance(node.func, ast.Name) and not node.keywords
        name, arguments = node.func.id, [self._value(a) for a in node.args]
        if name in self._known:
            return self._b.call(self._known[name], arguments)
        return getattr(self._primitives, name)(self._b, *arguments)


def _parts(node: ast.expr) -> list[ast.expr]:
    """The elements of a tuple, or of a conditional expression with two tuples."""
    if isinstance(node, ast.IfExp):
        both = zip(_parts(node.body), _parts(node.orelse), strict=True)
        return [ast.IfExp(node.test, yes, no) for yes, no in both]
    return node.elts if isinstance(node, ast.Tuple) else [node]
