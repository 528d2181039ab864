"""Machine code of the online learners, as LLVM IR: rows of vectors, and the traces of a cell.

Every function takes 12 integers and gives nothing, so that all can be called alike; those it has no use for are missing
in its description. Addresses and steps are in bytes, rows are whole vectors long.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from .llvm import _FUSE, Target, _function, _loop, _Memory

_INT, _I32 = ir.IntType(64), ir.IntType(32)
ARGUMENTS = 12


def _padded(names: str) -> list[str]:
    given = names.split()
    return given + [f"unused{i}" for i in range(ARGUMENTS - len(given))]


def rows_code(target: Target) -> str:
    """``times_row``, ``scale_rows``, ``copy_vectors`` and ``dots`` for numbers of a type."""
    module = ir.Module("online")
    _times_row(module, target)
    _scale_rows(module, target)
    _copy_vectors(module, target)
    _dots(module, target)
    return str(module)


def _offsets(builder: ir.IRBuilder, base: ir.Value, *parts: tuple[ir.Value, ir.Value]) -> ir.Value:
    for count, step in parts:
        base = builder.add(base, builder.mul(count, step))
    return base


def _accumulate(memory: _Memory, more: ir.Value, product: tuple[ir.Value, ir.Value], to: ir.Value) -> None:
    """Store a product, or with `more` its sum with what is there."""
    builder = memory.builder
    value = builder.fmul(*product, flags=_FUSE)
    # `more` is the same for the whole call: LLVM makes two loops of one.
    with builder.if_else(builder.icmp_signed("!=", more, _INT(0))) as (then, otherwise):
        with then:
            memory.store(builder.fadd(value, memory.load(to), flags=_FUSE), to)
        with otherwise:
            memory.store(value, to)


def _times_row(module: ir.Module, target: Target) -> None:
    """``to[i] (+)= rows[i] * row`` for `count` rows: ``to to_step rows rows_step row count vectors more``."""
    names = _padded("to to_step rows rows_step row count vectors more")
    builder, (to, to_step, rows, rows_step, row, count, vectors, more, *_) = _function(module, "times_row", names)
    memory, size = _Memory(target, builder), _INT(target.width * target.size)
    with _loop(builder, count) as i:
        from_, at = (_offsets(builder, base, (i, step)) for base, step in ((rows, rows_step), (to, to_step)))
        with _loop(builder, vectors) as v:
            own = [_offsets(builder, base, (v, size)) for base in (from_, row, at)]
            _accumulate(memory, more, (memory.load(own[0]), memory.load(own[1])), own[2])
    builder.ret_void()


def _scale_rows(module: ir.Module, target: Target) -> None:
    """``to[i] (+)= numbers[i] * rows[i]``: ``to to_step rows rows_step numbers numbers_step count vectors more``."""
    names = _padded("to to_step rows rows_step numbers numbers_step count vectors more")
    builder, arguments = _function(module, "scale_rows", names)
    to, to_step, rows, rows_step, numbers, numbers_step, count, vectors, more, *_ = arguments
    memory, size = _Memory(target, builder), _INT(target.width * target.size)
    with _loop(builder, count) as i:
        from_, at = (_offsets(builder, base, (i, step)) for base, step in ((rows, rows_step), (to, to_step)))
        number = memory.number(_offsets(builder, numbers, (i, numbers_step)))
        with _loop(builder, vectors) as v:
            own = [_offsets(builder, base, (v, size)) for base in (from_, at)]
            _accumulate(memory, more, (number, memory.load(own[0])), own[1])
    builder.ret_void()


def _copy_vectors(module: ir.Module, target: Target) -> None:
    """``to[i] = rows[i]`` for rows of a few vectors: ``to to_step rows rows_step count vectors``."""
    builder, arguments = _function(module, "copy_vectors", _padded("to to_step rows rows_step count vectors"))
    to, to_step, rows, rows_step, count, vectors, *_ = arguments
    memory, size = _Memory(target, builder), _INT(target.width * target.size)
    with _loop(builder, count) as i:
        from_, at = (_offsets(builder, base, (i, step)) for base, step in ((rows, rows_step), (to, to_step)))
        with _loop(builder, vectors) as v:
            memory.store(memory.load(_offsets(builder, from_, (v, size))), _offsets(builder, at, (v, size)))
    builder.ret_void()


def _dots(module: ir.Module, target: Target) -> None:
    """``to[i] (+)= rows[i] . row``, each of `length` numbers: ``to rows rows_step row length count more``."""
    names = _padded("to rows rows_step row length count more")
    builder, (to, rows, rows_step, row, length, count, more, *_) = _function(module, "dots", names)
    memory, size, width = _Memory(target, builder), target.size, target.width
    reduce = ir.Function(
        module,
        ir.FunctionType(target.number, [target.number, target.vector]),
        f"llvm.vector.reduce.fadd.v{width}f{8 * size}",
    )
    sum_at = builder.alloca(target.vector)
    rest_at = builder.alloca(target.number)
    number = target.number.as_pointer()
    whole = builder.sdiv(length, _INT(width))

    def load(address: ir.Value) -> ir.Value:
        return builder.load(builder.inttoptr(address, number))

    with _loop(builder, count) as i:
        from_ = _offsets(builder, rows, (i, rows_step))
        builder.store(ir.Constant(target.vector, None), sum_at)
        place = _offsets(builder, to, (i, _INT(size)))
        start = builder.select(builder.icmp_signed("!=", more, _INT(0)), load(place), ir.Constant(target.number, 0.0))
        builder.store(start, rest_at)
        with builder.if_then(builder.icmp_signed(">", whole, _INT(0))), _loop(builder, whole) as v:
            a, b = (memory.load(_offsets(builder, base, (v, _INT(size * width)))) for base in (from_, row))
            builder.store(builder.fadd(builder.load(sum_at), builder.fmul(a, b, flags=_FUSE), flags=_FUSE), sum_at)
        done = builder.mul(whole, _INT(width))
        left = builder.sub(length, done)
        with builder.if_then(builder.icmp_signed(">", left, _INT(0))), _loop(builder, left) as j:
            at = builder.mul(builder.add(done, j), _INT(size))
            product = builder.fmul(load(builder.add(from_, at)), load(builder.add(row, at)), flags=_FUSE)
            builder.store(builder.fadd(builder.load(rest_at), product, flags=_FUSE), rest_at)
        # The order of the sum is that of the instruction: the same each time.
        total = builder.call(reduce, [builder.load(rest_at), builder.load(sum_at)], fastmath=("reassoc",))
        builder.store(total, builder.inttoptr(place, number))
    builder.ret_void()


Slots = Sequence[int | None]


def trace_code(target: Target, carry: Sequence[Slots], kinds: Sequence[tuple[Slots, bool]]) -> str:
    """``trace_0 ...``: rows of traces a step on, ``to[k] = sum(carry[k][j] * to[j]) + direct[k] * source``.

    Their arguments: ``keep kept_step to state_step row_step rows source source_step vectors``; slot j of what the step
    keeps is at ``keep + j * kept_step``, row i of state k at ``to + k * state_step + i * row_step``.

    Parameters
    ----------
    carry : slots, [new state][old state]
    kinds : for each function the slots of `direct`, and whether it only adds that to what is there
    """
    module = ir.Module("traces")
    same = [[j == k for j in range(len(carry))] for k in range(len(carry))]
    for i, (direct, adds) in enumerate(kinds):
        _trace(module, f"trace_{i}", target, same if adds else carry, adds, direct)
    return str(module)


def _trace(
    module: ir.Module,
    name: str,
    target: Target,
    carry: Sequence[Sequence[int | bool | None]],
    adds: bool,
    direct: Slots,
) -> None:
    names = _padded("keep kept_step to state_step row_step rows source source_step vectors")
    builder, arguments = _function(module, name, names)
    keep, kept_step, to, state_step, row_step, rows, source, source_step, vectors, *_ = arguments
    memory = _Memory(target, builder)
    with _loop(builder, vectors) as v:
        offset = builder.mul(v, _INT(target.width * target.size))

        def kept(slot: int | None) -> ir.Value | None:
            at = None if slot is None else _offsets(builder, keep, (_INT(slot), kept_step))
            return None if at is None else memory.load(builder.add(at, offset))

        factors = [[None if adds else kept(slot) for slot in own] for own in carry]
        slopes = [kept(slot) for slot in direct]
        states = [_offsets(builder, builder.add(to, offset), (_INT(k), state_step)) for k in range(len(carry))]
        needed = [j for j in range(len(carry)) if any(own[j] if adds else own[j] is not None for own in carry)]
        with _loop(builder, rows) as i:
            number = memory.number(_offsets(builder, source, (i, source_step)))
            places = [_offsets(builder, state, (i, row_step)) for state in states]
            old = {j: memory.load(places[j]) for j in needed}
            new = []
            for k, slope in enumerate(slopes):
                total = ir.Constant(target.vector, None) if slope is None else builder.fmul(slope, number, flags=_FUSE)
                for j, value in old.items():
                    if adds and j == k:
                        total = builder.fadd(total, value, flags=_FUSE)
                    elif factors[k][j] is not None:
                        total = builder.fadd(total, builder.fmul(factors[k][j], value, flags=_FUSE), flags=_FUSE)
                new.append(total)
            for place, value in zip(places, new, strict=True):
                memory.store(value, place)
    builder.ret_void()
