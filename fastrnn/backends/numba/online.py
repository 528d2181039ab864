"""The steps of the online learners in machine code: the programs that :mod:`.online_loops` runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from ...codegen.integers import integer_code
from ...codegen.online import rows_code, trace_code
from ...engine.contract import Array
from ...engine.jacobian import Jacobian, Leaf, make_traces
from ...engine.memory import aligned
from ...engine.online import LayerParams
from . import online_loops as loops
from .kernel import forward_memory, kernel_of, shared
from .loops import rows, tiles
from .machine import MachineCode, target
from .run import plain

Address = int | tuple[int, int]
"""An address, or one with the step to that of the next sequence."""


class _Functions:
    """Addresses of what programs call, for a type of numbers."""

    def __init__(self, dtype: str) -> None:
        of = target(dtype)
        module = integer_code((rows, tiles, loops), of.number, {"SIZE": of.size, "WIDTH": of.width})
        names = ["run", "copy_rows", "add_rows", "multiply", "spread", "gradient"]
        names += ["fill", "add_diagonal", "gather", "transpose"]
        of_rows = ["times_row", "scale_rows", "copy_vectors", "dots"]
        self._codes = MachineCode(str(module), names), MachineCode(rows_code(of), of_rows)
        self.at: dict[str, int] = {}
        for code in self._codes:
            self.at |= code.addresses


@cache
def _functions(dtype: str) -> _Functions:
    return _Functions(dtype)


class _Operations:
    """Operations that run one after the other."""

    def __init__(self, functions: _Functions) -> None:
        self._functions = functions
        self.numbers: list[int] = []
        self.count = 0

    def add(self, function: str | int, *arguments: Address) -> None:
        """One more; arguments that are missing are 0."""
        address = self._functions.at[function] if isinstance(function, str) else function
        given = [a if isinstance(a, tuple) else (a, 0) for a in arguments]
        given += [(0, 0)] * (12 - len(given))
        self.numbers += [address, *(a for a, _ in given), *(step for _, step in given)]
        self.count += 1


def _program(
    into: tuple[int, int, int],
    rows: int,
    out: tuple[int, int, int],
    sections: Sequence[tuple[_Operations | None, int]],
    loop: Sequence[int] = (),
) -> Array:
    """The integers of a program; `into` and `out`: address, bytes of the caller's rows, step. None runs the loop."""
    numbers = [into[0], rows, into[1], into[2], out[0], out[1], out[2], *(loop or [0] * (loops.P_LOOP_ARGUMENTS + 1))]
    numbers.append(len(sections))
    for operations, times in sections:
        numbers += [0, 0] if operations is None else [operations.count, times, *operations.numbers]
    return np.array(numbers, np.int64)


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


class _Compiled:
    """A layer's step as the forward loop does it, with what is kept of it; every buffer stays where it is.

    Vectors are padded to `Hp`, whole vectors of the processor; the padding of matrices is 0.
    """

    def __init__(self, layer: LayerParams, jacobian: Jacobian, N: int) -> None:
        self.layer, self.jacobian, self.N = layer, jacobian, N
        self.dtype = layer.params["Wx"].dtype
        self.kernel = kernel_of(jacobian.plan, self.dtype)
        self.functions = _functions(self.dtype.name)
        self.call, self.start = shared(self.dtype.name).calls.online, self.functions.at["run"]
        self.D, self.H, self.C = layer.sizes
        self.Hp, self.size = self.kernel.padded(self.H), self.dtype.itemsize
        self.vectors, self.row = self.Hp // self.kernel.target.width, self.Hp * self.size
        self.S, self.J = self.kernel.states, self.kernel.keeps
        self._held: list[Any] = []
        self._given = [
            layer.params.get(name, np.empty(0, self.dtype)) for name in ("Wx", "Wh", "bx", "bh", *layer.units)
        ]
        self.per_unit = self._zeros(len(jacobian.plan.cell.units), self.H)
        self.x, self.y, self.states_ = self._zeros(N, self.D), self._zeros(N, self.H), self._zeros(self.S, N, self.H)
        # Before the step and after it; what the step keeps.
        self.around, self.keep = self._zeros(self.S, 2, N, self.Hp), self._zeros(N, self.J, self.Hp)
        self.memory = self._zeros(forward_memory(self.kernel, N, self.D, self.H, 1, False))
        self.ones, self.d = self._zeros(1), self._zeros(N, self.Hp)
        self.ones[0] = 1
        self.dx = self._zeros(N, self.D)

    def _zeros(self, *shape: int) -> Array:
        array = aligned(shape, self.dtype)
        array[...] = 0
        self._held.append(array)
        return array

    def operations(self) -> _Operations:
        return _Operations(self.functions)

    @property
    def state(self) -> list[Array]:
        """Copies of the states (N, H)."""
        return [np.array(s) for s in self.states_]

    def loop(self) -> list[int]:
        """The forward loop and its arguments: one step, all of which is kept."""
        start, table, tiles = self.kernel.to_forward
        self._held += [table, tiles]
        given = [_address(a) if a.size else 0 for a in self._given[:4]]
        arrays = [self.per_unit, self.states_, self.states_, self.y, self.around, self.keep, self.memory]
        places = [_address(table), _address(tiles), _address(self.x), *given, *map(_address, arrays), 0, 0]
        return [start, *places, 1, self.N, self.D, self.H, 1, 1, 0]

    def parameters(self, operations: _Operations, diagonals: bool) -> None:
        """The per-unit parameters where the loop finds them, as they are now."""
        at, matrices = _address(self.per_unit), len(self.layer.jacobian.plan.cell.recurrent)
        for array in self._given[4:]:
            operations.add("copy_rows", at, 0, _address(array), 0, 1, self.H * self.size)
            at += self.H * self.size
        for m in range(matrices if diagonals else 0):
            step = matrices * self.H * self.size
            place = _address(self._given[1]) + m * self.H * self.size
            operations.add("gather", at, place, step + self.size, self.H)
            at += self.H * self.size

    def kept(self, slot: int) -> tuple[int, int]:
        """The address of a slot of what the step keeps."""
        return _address(self.keep) + slot * self.row, self.J * self.row

    def vector(self, product: int) -> tuple[int, int]:
        """The address of what a product multiplies."""
        kind, index = self.jacobian.plan.weight_terms[product].vector
        return (_address(self.around) + index * 2 * self.N * self.row, self.row) if kind == "prev" else self.kept(index)

    def sources(self) -> list[tuple[Leaf, int, int, int, Address, int]]:
        """For each leaf its first row of parameters, the step to the next, how many; what they multiply, its step."""
        plan, G, P = self.layer.jacobian.plan, self.kernel.gates, self.kernel.matrices
        of_x = (_address(self.x), self.D * self.size)
        found: list[tuple[Leaf, int, int, int, Address, int]] = [
            (Leaf("x", g), g, G, self.D, of_x, self.size) for g in range(G)
        ]
        for q, product in enumerate(plan.weight_terms):
            found.append((Leaf("product", q), self.D * G + product.matrix, P, self.H, self.vector(q), self.size))
        first = self.D * G + self.H * P
        found += [(Leaf("unit", r), first + r, 1, 1, _address(self.ones), 0) for r in range(self.layer.jacobian.rows)]
        return found

    def direct(self, to: Address, state_step: int, carry: Any, slots: dict[Leaf, Any]) -> tuple[_Operations, Any]:
        """The rows of traces a step on; of a leaf that `slots` does not have, nothing."""
        kinds: list[tuple[Any, bool]] = []
        calls = []
        seen: set[int] = set()
        for leaf, first, step, count, source, source_step in self.sources():
            if leaf in slots:
                kind = slots[leaf], first in seen
                seen.add(first)
                if kind not in kinds:
                    kinds.append(kind)
                calls.append((kinds.index(kind), first, step, count, source, source_step))
        code = _traces(self.dtype.name, carry, kinds)
        operations = self.operations()
        base, base_step = to if isinstance(to, tuple) else (to, 0)
        for kind_at, first, step, count, source, source_step in calls:
            operations.add(
                code.addresses[f"trace_{kind_at}"], self.kept(0), self.row, (base + first * self.row, base_step),
                state_step, step * self.row, count, source, source_step, self.vectors,
            )  # fmt: skip
        return operations, code

    def input_gradient(self) -> _Operations:
        """From `d` (N, Hp), the gradient of the output, to `dx`, through this step alone."""
        operations, jacobian = self.operations(), self.jacobian
        G, P = self.kernel.gates, self.kernel.matrices
        d = (_address(self.d), self.row)
        below = {p: self._zeros(self.Hp) for p in range(len(jacobian.vectors)) if self._inside(p)}
        terms: dict[Leaf, list[tuple[Address, int | None]]] = {}
        for leaf, slot in jacobian.states[0].items():
            terms.setdefault(leaf, []).append((d, slot))
        adjoint = self._zeros(self.Hp)
        for p in reversed(jacobian.order):
            if p in below and Leaf("product", p) in terms:
                self._total(operations, _address(adjoint), terms[Leaf("product", p)])
                block = _address(self._given[1]) + jacobian.plan.weight_terms[p].matrix * self.H * self.size
                to = _address(below[p])
                operations.add("dots", to, block, P * self.H * self.size, _address(adjoint), self.H, self.H, 0)
                for leaf, slot in jacobian.vectors[p].items():
                    terms.setdefault(leaf, []).append((to, slot))
        gates = self._zeros(G, self.Hp)
        wanted = [g for g in range(G) if Leaf("x", g) in terms]
        for g in wanted:
            self._total(operations, _address(gates) + g * self.row, terms[Leaf("x", g)])
        dx, Wx = (_address(self.dx), self.D * self.size), _address(self._given[0])
        if len(wanted) == G and self.Hp == self.H:
            operations.add("dots", dx, Wx, G * self.row, _address(gates), G * self.H, self.D, 0)
            return operations
        for i, g in enumerate(wanted):
            place = Wx + g * self.H * self.size
            row = _address(gates) + g * self.row
            operations.add("dots", dx, place, G * self.H * self.size, row, self.H, self.D, int(i > 0))
        return operations

    def _inside(self, product: int) -> bool:
        """Whether what a product multiplies is computed in the same step."""
        return any(leaf.kind != "state" for leaf in self.jacobian.vectors[product])

    def _total(self, operations: _Operations, to: int, terms: Sequence[tuple[Address, int | None]]) -> None:
        for i, (vector, slot) in enumerate(terms):
            factor: Address = self.kept(slot) if slot is not None else _address(self._one_row())
            operations.add("times_row", to, 0, vector, 0, factor, 1, self.vectors, int(i > 0))

    def _one_row(self) -> Array:
        row = self._zeros(self.Hp)
        row[...] = 1
        return row

    def add_to_gradients(self, operations: _Operations, rows: int) -> None:
        """Rows of parameters (C, Hp) added to ``grads``."""
        grads, size = self.layer.grads, self.H * self.size
        G, P = self.kernel.gates, self.kernel.matrices
        operations.add("add_rows", _address(grads["Wx"]), size, rows, self.row, self.D * G, self.H)
        if "Wh" in grads:
            at = rows + self.D * G * self.row
            operations.add("add_rows", _address(grads["Wh"]), size, at, self.row, self.H * P, self.H)
        self.add_units(operations, rows + (self.D * G + self.H * P) * self.row)

    def add_units(self, operations: _Operations, rows: int) -> None:
        """The rows of the units (U, Hp) added to ``grads``."""
        grads, size = self.layer.grads, self.H * self.size
        for i, source in enumerate(self.layer.jacobian.plan.unit_rows):
            places = [_address(grads[source.name])] if source.name else []
            if source.gate is not None and "bx" in grads:
                places.append(_address(grads["bx"]) + source.gate * size)
            places += [_address(grads["bh"]) + m * size for m in source.matrices if "bh" in grads]
            for to in places:
                operations.add("add_rows", to, 0, rows + i * self.row, 0, 1, self.H)

    def run(self, program: Array, source: Array, columns: int) -> Array:
        out = np.empty((self.N, columns), self.dtype)
        self.call(self.start, program, plain(source), out)
        return out

    def ends(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Where `x` goes and `y` comes from."""
        width, size = self.D * self.size, self.H * self.size
        return (_address(self.x), width, width), (_address(self.y), size, size)

    def ends_back(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Where `dy` goes and `dx` comes from."""
        width = self.D * self.size
        return (_address(self.d), self.H * self.size, self.row), (_address(self.dx), width, width)


_code: WeakValueDictionary[Any, MachineCode] = WeakValueDictionary()


def _traces(dtype: str, carry: Any, kinds: list[tuple[Any, bool]]) -> MachineCode:
    key = dtype, carry, tuple(kinds)
    names = [f"trace_{i}" for i in range(len(kinds))]
    found = _code.get(key)
    return found or _code.setdefault(key, MachineCode(trace_code(target(dtype), carry, kinds), names))


class CompiledTraces(_Compiled):
    """See :class:`fastrnn.backends.numpy_online.TraceStep`; `trace` is (N, S, C, Hp)."""

    def __init__(self, layer: LayerParams, N: int, through_diagonal: bool) -> None:
        traces = make_traces(layer.jacobian.plan.cell, through_diagonal)
        super().__init__(layer, traces.jacobian, N)
        self.trace = self._zeros(N, self.S, self.C, self.Hp)
        state_step = self.C * self.row
        before = self.operations()
        self.parameters(before, through_diagonal)
        rows, self._code = self.direct(
            (_address(self.trace), self.S * state_step), state_step, traces.carry, traces.direct
        )
        self._forward = _program(self.ends()[0], N, self.ends()[1], [(before, 1), (None, 0), (rows, N)], self.loop())
        clear, summed, after = (self.operations() for _ in range(3))
        self._sum(clear, summed, after)
        sections = [(clear, 1), (summed, N), (after, 1), (self.input_gradient(), N)]
        self._backward = _program(self.ends_back()[0], N, self.ends_back()[1], sections)

    def _sum(self, clear: _Operations, each: _Operations, after: _Operations) -> None:
        """The gradients of the rows of parameters: those of matrices where they belong, if rows have no padding."""
        of_matrices = self.C - self.layer.jacobian.rows if self.Hp == self.H else 0
        rest = self._zeros(self.C - of_matrices, self.Hp)
        trace, step = _address(self.trace), self.S * self.C * self.row
        d: Address = (_address(self.d), self.row)
        of_x = self.D * self.kernel.gates
        if of_matrices:
            parts = [("Wx", 0, of_x), ("Wh", of_x, of_matrices - of_x)]
            for name, first, count in parts:
                if count:
                    to = _address(self.layer.grads[name])
                    at = trace + first * self.row, step
                    each.add("times_row", to, self.row, at, self.row, d, count, self.vectors, 1)
        clear.add("fill", _address(rest), rest.nbytes)
        at = trace + of_matrices * self.row, step
        each.add("times_row", _address(rest), self.row, at, self.row, d, len(rest), self.vectors, 1)
        if of_matrices:
            self.add_units(after, _address(rest))
        else:
            self.add_to_gradients(after, _address(rest))

    def clear(self, rows: Array) -> None:
        """See :class:`fastrnn.backends.numpy_online.TraceStep`."""
        self.states_[:, rows] = 0
        self.trace[rows] = 0

    def forward(self, x: Array) -> Array:
        """See :class:`fastrnn.backends.numpy_online.TraceStep`."""
        return self.run(self._forward, x, self.H)

    def backward(self, dh: Array) -> Array:
        """See :class:`fastrnn.backends.numpy_online.TraceStep`."""
        return self.run(self._backward, dh, self.D)


class CompiledExact(_Compiled):
    """See :class:`fastrnn.backends.numpy_online.ExactStep`; `influence` is (N, S*H, lower + C*Hp).

    Matrices of derivatives are kept transposed, with all new states in a row: ``(rows, S*Hp)``, row i being the
    derivative with respect to unit i of what the matrix is of.
    """

    def __init__(self, layer: LayerParams, N: int, lower: int) -> None:
        super().__init__(layer, layer.jacobian, N)
        self.lower, self.own = lower, self.C * self.Hp
        self.influence = self._zeros(N, self.S * self.H, lower + self.own)
        self.step_bytes = self.S * self.row
        before, each = self.operations(), self.operations()
        self.parameters(before, False)
        self._padded(before)
        self._jacobian(each)
        direct, self._code = self._direct()
        self._table = self._spread_table()
        spread, outer = self.operations(), self.operations()
        spread.add("spread", _address(self._table), (0, 1))
        self._outer(outer)
        # The Jacobian's memory is that of one sequence: all of a sequence comes before the next.
        each.numbers += direct.numbers + spread.numbers + outer.numbers
        each.count += direct.count + spread.count + outer.count
        self._forward = _program(self.ends()[0], N, self.ends()[1], [(before, 1), (None, 0), (each, N)], self.loop())
        dx = self.input_gradient()
        self._back = _program(self.ends_back()[0], N, self.ends_back()[1], [(dx, N)])
        self._columns = self._zeros(lower + self.own)
        summed, after = self.operations(), self.operations()
        summed.add("gradient", _address(self._table), _address(self.d), self.row, _address(self._columns), N)
        self.add_to_gradients(after, _address(self._columns) + lower * self.size)
        sections = [(summed, 1), (after, 1), (dx, N)]
        self._backward = _program(self.ends_back()[0], N, self.ends_back()[1], sections)

    def _padded(self, operations: _Operations) -> None:
        """Wx and Wh with every block padded; where they are, if that is so."""
        self.W = {}
        for name, i, depth, blocks in (("Wx", 0, self.D, self.kernel.gates), ("Wh", 1, self.H, self.kernel.matrices)):
            self.W[name] = _address(self._given[i])
            if self.Hp != self.H and depth * blocks:
                copied = self._zeros(depth, blocks, self.Hp)
                size = self.H * self.size
                operations.add("copy_rows", _address(copied), self.row, self.W[name], size, depth * blocks, size)
                self.W[name] = _address(copied)

    def _matrix(self, rows: int) -> int:
        return _address(self._zeros(rows, self.S, self.Hp))

    def _slots(self, leaf: Leaf) -> tuple[int | None, ...]:
        """Of each new state the slot of its derivative with respect to `leaf`; None for 0."""
        return tuple(partials.get(leaf) for partials in self.jacobian.states)

    def _users(self, leaf: Leaf) -> tuple[tuple[int, int | None], ...]:
        """The products whose vector depends on `leaf`, with the slot of the derivative; None for 1."""
        vectors = self.jacobian.vectors
        return tuple((q, vectors[q][leaf]) for q in range(len(vectors)) if leaf in vectors[q])

    def _jacobian(self, operations: _Operations) -> None:
        """Derivatives of the new states with respect to the old ones, and to what acts through later products."""
        jacobian, P = self.jacobian, self.kernel.matrices
        # Of each product its derivative times its matrix.
        self._through: dict[int, int] = {}
        self._dense: dict[Any, int] = {}
        for q in reversed(jacobian.order):
            leaf, block = Leaf("product", q), self.W["Wh"] + jacobian.plan.weight_terms[q].matrix * self.row
            to = self._through[q] = self._matrix(self.H)
            if self._users(leaf):
                self._multiply(operations, block, P, self.H, self.dense(operations, leaf), to, 0)
                continue
            for k, slot in enumerate(self._slots(leaf)):
                if slot is not None:
                    self._times(operations, to + k * self.row, block, P, slot, self.H, 0)
        self._old = [self._of_state(operations, j) for j in range(self.S)]
        self._of_input = self._input(operations) if self.lower else 0

    def _times(
        self, operations: _Operations, to: int, matrix: int, blocks: int, slot: int, rows: int, more: int
    ) -> None:
        step = blocks * self.row
        operations.add("times_row", to, self.step_bytes, matrix, step, self.kept(slot), rows, self.vectors, more)

    def _multiply(
        self, operations: _Operations, matrix: int, blocks: int, rows: int, right: int, to: int, more: int
    ) -> None:
        """``to (+)= matrix @ right`` for a block of a weight matrix and a matrix (H, S*Hp)."""
        row, width = self.S * self.Hp, self.kernel.target.width
        for v in range(0, self.S * self.vectors, 4):
            cols = min(4, self.S * self.vectors - v)
            at = v * width * self.size
            operations.add(
                "multiply", _address(self.kernel.to_forward[2]), matrix, blocks * self.Hp, 1, right + at, row, self.H,
                to + at, row, rows, cols, more,
            )  # fmt: skip

    def _scaled_sum(self, operations: _Operations, to: int, users: Sequence[tuple[int, int | None]]) -> None:
        for i, (q, slot) in enumerate(users):
            numbers, step = (_address(self.ones), 0) if slot is None else (self.kept(slot), self.size)
            operations.add(
                "scale_rows", to, self.step_bytes, self._through[q], self.step_bytes, numbers, step, self.H,
                self.S * self.vectors, int(i > 0),
            )  # fmt: skip

    def dense(self, operations: _Operations, leaf: Leaf) -> int:
        """The derivative with respect to a leaf that acts through a later product; those that are alike are one."""
        key = self._slots(leaf), self._users(leaf)
        if key not in self._dense:
            to = self._dense[key] = self._matrix(self.H)
            self._scaled_sum(operations, to, key[1])
            self._diagonals(operations, to, key[0])
        return self._dense[key]

    def _diagonals(self, operations: _Operations, to: int, slots: Sequence[int | None]) -> None:
        for k, slot in enumerate(slots):
            if slot is not None:
                operations.add("add_diagonal", to + k * self.row, self.step_bytes, self.kept(slot), self.H)

    def _of_state(self, operations: _Operations, j: int) -> list[tuple[int, int]]:
        """For each new state the matrix of its derivative, or the diagonal, or neither."""
        leaf = Leaf("state", j)
        users, slots = self._users(leaf), self._slots(leaf)
        if not users:
            return [(0, 0 if slot is None else self.kept(slot)[0]) for slot in slots]
        if len(users) == 1 and users[0][1] is None and not any(slot is not None for slot in slots):
            # As it is: nothing is added to it.
            return [(self._through[users[0][0]] + k * self.row, 0) for k in range(self.S)]
        to = self._matrix(self.H)
        self._scaled_sum(operations, to, users)
        self._diagonals(operations, to, slots)
        return [(to + k * self.row, 0) for k in range(self.S)]

    def _input(self, operations: _Operations) -> int:
        """The derivative with respect to the input, (D, S*Hp)."""
        to, G = self._matrix(self.D), self.kernel.gates
        operations.add("fill", to, self.D * self.step_bytes)
        for g in range(G):
            leaf, block = Leaf("x", g), self.W["Wx"] + g * self.row
            if self._users(leaf):
                self._multiply(operations, block, G, self.D, self.dense(operations, leaf), to, 1)
                continue
            for k, slot in enumerate(self._slots(leaf)):
                if slot is not None:
                    self._times(operations, to + k * self.row, block, G, slot, self.D, 1)
        return to

    def _direct(self) -> tuple[_Operations, Any]:
        """What each parameter does to its own unit, (S, C, Hp)."""
        self._own = self._zeros(self.S, self.C, self.Hp)
        carry = ((None,) * self.S,) * self.S
        slots = {leaf: self._slots(leaf) for leaf, *_ in self.sources() if not self._users(leaf)}
        return self.direct(_address(self._own), self.C * self.row, carry, slots)

    def _outer(self, operations: _Operations) -> None:
        """What parameters do to all units, through later products."""
        row = self.influence.shape[2] * self.size
        turned: dict[int, int] = {}
        for leaf, first, step, count, source, source_step in self.sources():
            if not self._users(leaf):
                continue
            derivative = self.dense(operations, leaf)
            if derivative not in turned:
                to = turned[derivative] = _address(self._zeros(self.S, self.H, self.Hp))
                for k in range(self.S):
                    at = to + k * self.H * self.row
                    operations.add(
                        "transpose", at, self.row, derivative + k * self.row, self.step_bytes, self.H, self.H
                    )
            base, base_step = source if isinstance(source, tuple) else (source, 0)
            for i in range(count):
                place = _address(self.influence) + self.lower * self.size + (first + i * step) * self.row
                operations.add(
                    "scale_rows", (place, self.S * self.H * row), row, turned[derivative], self.row,
                    (base + i * source_step, base_step), 0, self.S * self.H, self.vectors, 1,
                )  # fmt: skip

    def _spread_table(self) -> Array:
        columns, width = self.influence.shape[2], self.kernel.target.width
        table = np.zeros(loops.M_PAIRS + 2 * self.S * self.S, np.int64)
        scratch = self._zeros(self.S * self.H, 4, width)
        values = {
            loops.M_TILES: _address(self.kernel.to_forward[2]),
            loops.M_SCALE: self.functions.at["scale_rows"], loops.M_COPY: self.functions.at["copy_vectors"],
            loops.M_INFLUENCE: _address(self.influence),
            loops.M_ROW: columns, loops.M_VECTORS: columns // width, loops.M_LOWER: self.lower // width,
            loops.M_STATES: self.S, loops.M_UNITS: self.H, loops.M_PADDED: self.Hp, loops.M_SCRATCH: _address(scratch),
            loops.M_INPUTS: self.D, loops.M_OF_INPUT: self._of_input, loops.M_DIRECT: _address(self._own),
            loops.M_COLUMNS: self.own, loops.M_SEQUENCE_STEP: self.S * self.H * columns * self.size,
            loops.M_DIAGONAL_STEP: self.J * self.row,
        }  # fmt: skip
        for place, value in values.items():
            table[place] = value
        for k in range(self.S):
            for j in range(self.S):
                table[loops.M_PAIRS + 2 * (k * self.S + j) :][:2] = self._old[j][k]
        return table

    def clear(self, rows: Array) -> None:
        """See :class:`fastrnn.backends.numpy_online.ExactStep`."""
        self.states_[:, rows] = 0
        self.influence[rows] = 0

    def step(self, x: Array, below: Array | None) -> Array:
        """See :class:`fastrnn.backends.numpy_online.ExactStep`."""
        if below is not None:
            self._table[loops.M_BELOW] = _address(below)
            self._table[loops.M_BELOW_STEP] = below.strides[0]
            self._table[loops.M_BELOW_ROW] = below.strides[1] // self.size
        return self.run(self._forward, x, self.H)

    @property
    def output_influence(self) -> Array:
        """(N, H, columns)."""
        return self.influence[:, : self.H]

    def gradient(self, dh: Array) -> Array:
        """See :class:`fastrnn.backends.numpy_online.ExactStep`."""
        total: Array = (dh[:, None] @ self.output_influence).sum(axis=(0, 1))
        return total

    def add_columns(self, columns: Array) -> None:
        """See :class:`fastrnn.backends.numpy_online.ExactStep`."""
        self.layer.add_gradient(columns.reshape(self.C, self.Hp)[:, : self.H])

    def back(self, dh: Array) -> Array:
        """See :class:`fastrnn.backends.numpy_online.ExactStep`."""
        return self.run(self._back, dh, self.D)

    def backward(self, dh: Array) -> Array:
        """The gradients of the layer's own parameters added to ``grads``; that of the input."""
        return self.run(self._backward, dh, self.D)
