"""Real-time recurrent learning in machine code: the influence, and the Jacobian that carries it on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....engine.contract import Array
from ....engine.jacobian import Leaf
from ....engine.online import LayerParams
from . import loops
from .program import Operations, address_of, program
from .step import CompiledStep


class CompiledExact(CompiledStep):
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
        spread.add("spread", address_of(self._table), (0, 1))
        self._outer(outer)
        # The Jacobian's memory is that of one sequence: all of a sequence comes before the next.
        each.numbers += direct.numbers + spread.numbers + outer.numbers
        each.count += direct.count + spread.count + outer.count
        self._forward = program(self.ends()[0], N, self.ends()[1], [(before, 1), (None, 0), (each, N)], self.loop())
        dx = self.input_gradient()
        self._back = program(self.ends_back()[0], N, self.ends_back()[1], [(dx, N)])
        self._columns = self._zeros(lower + self.own)
        summed, after = self.operations(), self.operations()
        summed.add("gradient", address_of(self._table), address_of(self.d), self.row, address_of(self._columns), N)
        self.add_to_gradients(after, address_of(self._columns) + lower * self.size)
        sections = [(summed, 1), (after, 1), (dx, N)]
        self._backward = program(self.ends_back()[0], N, self.ends_back()[1], sections)

    def _padded(self, operations: Operations) -> None:
        """Wx and Wh with every block padded; where they are, if that is so."""
        self.W = {}
        for name, i, depth, blocks in (("Wx", 0, self.D, self.kernel.gates), ("Wh", 1, self.H, self.kernel.matrices)):
            self.W[name] = address_of(self._given[i])
            if self.Hp != self.H and depth * blocks:
                copied = self._zeros(depth, blocks, self.Hp)
                size = self.H * self.size
                operations.add("copy_rows", address_of(copied), self.row, self.W[name], size, depth * blocks, size)
                self.W[name] = address_of(copied)

    def _matrix(self, rows: int) -> int:
        return address_of(self._zeros(rows, self.S, self.Hp))

    def _slots(self, leaf: Leaf) -> tuple[int | None, ...]:
        """Of each new state the slot of its derivative with respect to `leaf`; None for 0."""
        return tuple(partials.get(leaf) for partials in self.jacobian.states)

    def _users(self, leaf: Leaf) -> tuple[tuple[int, int | None], ...]:
        """The products whose vector depends on `leaf`, with the slot of the derivative; None for 1."""
        vectors = self.jacobian.vectors
        return tuple((q, vectors[q][leaf]) for q in range(len(vectors)) if leaf in vectors[q])

    def _jacobian(self, operations: Operations) -> None:
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
        self, operations: Operations, to: int, matrix: int, blocks: int, slot: int, rows: int, more: int
    ) -> None:
        step = blocks * self.row
        operations.add("times_row", to, self.step_bytes, matrix, step, self.kept(slot), rows, self.vectors, more)

    def _multiply(
        self, operations: Operations, matrix: int, blocks: int, rows: int, right: int, to: int, more: int
    ) -> None:
        """``to (+)= matrix @ right`` for a block of a weight matrix and a matrix (H, S*Hp)."""
        row, width = self.S * self.Hp, self.kernel.target.width
        for v in range(0, self.S * self.vectors, 4):
            cols = min(4, self.S * self.vectors - v)
            at = v * width * self.size
            operations.add(
                "multiply", address_of(self.kernel.to_forward[2]), matrix, blocks * self.Hp, 1, right + at, row, self.H,
                to + at, row, rows, cols, more,
            )  # fmt: skip

    def _scaled_sum(self, operations: Operations, to: int, users: Sequence[tuple[int, int | None]]) -> None:
        for i, (q, slot) in enumerate(users):
            numbers, step = (address_of(self.ones), 0) if slot is None else (self.kept(slot), self.size)
            operations.add(
                "scale_rows", to, self.step_bytes, self._through[q], self.step_bytes, numbers, step, self.H,
                self.S * self.vectors, int(i > 0),
            )  # fmt: skip

    def dense(self, operations: Operations, leaf: Leaf) -> int:
        """The derivative with respect to a leaf that acts through a later product; those that are alike are one."""
        key = self._slots(leaf), self._users(leaf)
        if key not in self._dense:
            to = self._dense[key] = self._matrix(self.H)
            self._scaled_sum(operations, to, key[1])
            self._diagonals(operations, to, key[0])
        return self._dense[key]

    def _diagonals(self, operations: Operations, to: int, slots: Sequence[int | None]) -> None:
        for k, slot in enumerate(slots):
            if slot is not None:
                operations.add("add_diagonal", to + k * self.row, self.step_bytes, self.kept(slot), self.H)

    def _of_state(self, operations: Operations, j: int) -> list[tuple[int, int]]:
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

    def _input(self, operations: Operations) -> int:
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

    def _direct(self) -> tuple[Operations, Any]:
        """What each parameter does to its own unit, (S, C, Hp)."""
        self._own = self._zeros(self.S, self.C, self.Hp)
        carry = ((None,) * self.S,) * self.S
        slots = {leaf: self._slots(leaf) for leaf, *_ in self.sources() if not self._users(leaf)}
        return self.direct(address_of(self._own), self.C * self.row, carry, slots)

    def _outer(self, operations: Operations) -> None:
        """What parameters do to all units, through later products."""
        row = self.influence.shape[2] * self.size
        turned: dict[int, int] = {}
        for leaf, first, step, count, source, source_step in self.sources():
            if not self._users(leaf):
                continue
            derivative = self.dense(operations, leaf)
            if derivative not in turned:
                to = turned[derivative] = address_of(self._zeros(self.S, self.H, self.Hp))
                for k in range(self.S):
                    at = to + k * self.H * self.row
                    operations.add(
                        "transpose", at, self.row, derivative + k * self.row, self.step_bytes, self.H, self.H
                    )
            base, base_step = source if isinstance(source, tuple) else (source, 0)
            for i in range(count):
                place = address_of(self.influence) + self.lower * self.size + (first + i * step) * self.row
                operations.add(
                    "scale_rows", (place, self.S * self.H * row), row, turned[derivative], self.row,
                    (base + i * source_step, base_step), 0, self.S * self.H, self.vectors, 1,
                )  # fmt: skip

    def _spread_table(self) -> Array:
        columns, width = self.influence.shape[2], self.kernel.target.width
        table = np.zeros(loops.M_PAIRS + 2 * self.S * self.S, np.int64)
        scratch = self._zeros(self.S * self.H, 4, width)
        values = {
            loops.M_TILES: address_of(self.kernel.to_forward[2]),
            loops.M_SCALE: self.functions.at["scale_rows"], loops.M_COPY: self.functions.at["copy_vectors"],
            loops.M_INFLUENCE: address_of(self.influence),
            loops.M_ROW: columns, loops.M_VECTORS: columns // width, loops.M_LOWER: self.lower // width,
            loops.M_STATES: self.S, loops.M_UNITS: self.H, loops.M_PADDED: self.Hp,
            loops.M_SCRATCH: address_of(scratch),
            loops.M_INPUTS: self.D, loops.M_OF_INPUT: self._of_input, loops.M_DIRECT: address_of(self._own),
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
            self._table[loops.M_BELOW] = address_of(below)
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
