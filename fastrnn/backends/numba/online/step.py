"""A layer's step in machine code, with all that the learners have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from ....codegen.online import trace_code
from ....engine.contract import Array
from ....engine.jacobian import Jacobian, Leaf
from ....engine.memory import aligned
from ....engine.online import LayerParams
from ..kernel import forward_memory, kernel_of, shared
from ..machine import MachineCode, target
from ..run import plain
from .program import Address, Operations, address_of, functions_for


class CompiledStep:
    """A layer's step as the forward loop does it, with what is kept of it; every buffer stays where it is.

    Vectors are padded to `Hp`, whole vectors of the processor; the padding of matrices is 0.
    """

    def __init__(self, layer: LayerParams, jacobian: Jacobian, N: int) -> None:
        self.layer, self.jacobian, self.N = layer, jacobian, N
        self.dtype = layer.params["Wx"].dtype
        self.kernel = kernel_of(jacobian.plan, self.dtype)
        self.functions = functions_for(self.dtype.name)
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

    def operations(self) -> Operations:
        return Operations(self.functions)

    @property
    def state(self) -> list[Array]:
        """Copies of the states (N, H)."""
        return [np.array(s) for s in self.states_]

    def loop(self) -> list[int]:
        """The forward loop and its arguments: one step, all of which is kept."""
        start, table, tiles = self.kernel.to_forward
        self._held += [table, tiles]
        given = [address_of(a) if a.size else 0 for a in self._given[:4]]
        arrays = [self.per_unit, self.states_, self.states_, self.y, self.around, self.keep, self.memory]
        places = [address_of(table), address_of(tiles), address_of(self.x), *given, *map(address_of, arrays), 0, 0]
        return [start, *places, 1, self.N, self.D, self.H, 1, 1, 0]

    def parameters(self, operations: Operations, diagonals: bool) -> None:
        """The per-unit parameters where the loop finds them, as they are now."""
        at, matrices = address_of(self.per_unit), len(self.layer.jacobian.plan.cell.recurrent)
        for array in self._given[4:]:
            operations.add("copy_rows", at, 0, address_of(array), 0, 1, self.H * self.size)
            at += self.H * self.size
        for m in range(matrices if diagonals else 0):
            step = matrices * self.H * self.size
            place = address_of(self._given[1]) + m * self.H * self.size
            operations.add("gather", at, place, step + self.size, self.H)
            at += self.H * self.size

    def kept(self, slot: int) -> tuple[int, int]:
        """The address of a slot of what the step keeps."""
        return address_of(self.keep) + slot * self.row, self.J * self.row

    def vector(self, product: int) -> tuple[int, int]:
        """The address of what a product multiplies."""
        kind, index = self.jacobian.plan.weight_terms[product].vector
        if kind == "keep":
            return self.kept(index)
        return address_of(self.around) + index * 2 * self.N * self.row, self.row

    def sources(self) -> list[tuple[Leaf, int, int, int, Address, int]]:
        """For each leaf its first row of parameters, the step to the next, how many; what they multiply, its step."""
        plan, G, P = self.layer.jacobian.plan, self.kernel.gates, self.kernel.matrices
        of_x = (address_of(self.x), self.D * self.size)
        found: list[tuple[Leaf, int, int, int, Address, int]] = [
            (Leaf("x", g), g, G, self.D, of_x, self.size) for g in range(G)
        ]
        for q, product in enumerate(plan.weight_terms):
            found.append((Leaf("product", q), self.D * G + product.matrix, P, self.H, self.vector(q), self.size))
        first = self.D * G + self.H * P
        found += [(Leaf("unit", r), first + r, 1, 1, address_of(self.ones), 0) for r in range(self.layer.jacobian.rows)]
        return found

    def direct(self, to: Address, state_step: int, carry: Any, slots: dict[Leaf, Any]) -> tuple[Operations, Any]:
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

    def input_gradient(self) -> Operations:
        """From `d` (N, Hp), the gradient of the output, to `dx`, through this step alone."""
        operations, jacobian = self.operations(), self.jacobian
        G, P = self.kernel.gates, self.kernel.matrices
        d = (address_of(self.d), self.row)
        below = {p: self._zeros(self.Hp) for p in range(len(jacobian.vectors)) if self._inside(p)}
        terms: dict[Leaf, list[tuple[Address, int | None]]] = {}
        for leaf, slot in jacobian.states[0].items():
            terms.setdefault(leaf, []).append((d, slot))
        adjoint = self._zeros(self.Hp)
        for p in reversed(jacobian.order):
            if p in below and Leaf("product", p) in terms:
                self._total(operations, address_of(adjoint), terms[Leaf("product", p)])
                block = address_of(self._given[1]) + jacobian.plan.weight_terms[p].matrix * self.H * self.size
                to = address_of(below[p])
                operations.add("dots", to, block, P * self.H * self.size, address_of(adjoint), self.H, self.H, 0)
                for leaf, slot in jacobian.vectors[p].items():
                    terms.setdefault(leaf, []).append((to, slot))
        gates = self._zeros(G, self.Hp)
        wanted = [g for g in range(G) if Leaf("x", g) in terms]
        for g in wanted:
            self._total(operations, address_of(gates) + g * self.row, terms[Leaf("x", g)])
        dx, Wx = (address_of(self.dx), self.D * self.size), address_of(self._given[0])
        if len(wanted) == G and self.Hp == self.H:
            operations.add("dots", dx, Wx, G * self.row, address_of(gates), G * self.H, self.D, 0)
            return operations
        for i, g in enumerate(wanted):
            place = Wx + g * self.H * self.size
            row = address_of(gates) + g * self.row
            operations.add("dots", dx, place, G * self.H * self.size, row, self.H, self.D, int(i > 0))
        return operations

    def _inside(self, product: int) -> bool:
        """Whether what a product multiplies is computed in the same step."""
        return any(leaf.kind != "state" for leaf in self.jacobian.vectors[product])

    def _total(self, operations: Operations, to: int, terms: Sequence[tuple[Address, int | None]]) -> None:
        for i, (vector, slot) in enumerate(terms):
            factor: Address = self.kept(slot) if slot is not None else address_of(self._one_row())
            operations.add("times_row", to, 0, vector, 0, factor, 1, self.vectors, int(i > 0))

    def _one_row(self) -> Array:
        row = self._zeros(self.Hp)
        row[...] = 1
        return row

    def add_to_gradients(self, operations: Operations, rows: int) -> None:
        """Rows of parameters (C, Hp) added to ``grads``."""
        grads, size = self.layer.grads, self.H * self.size
        G, P = self.kernel.gates, self.kernel.matrices
        operations.add("add_rows", address_of(grads["Wx"]), size, rows, self.row, self.D * G, self.H)
        if "Wh" in grads:
            at = rows + self.D * G * self.row
            operations.add("add_rows", address_of(grads["Wh"]), size, at, self.row, self.H * P, self.H)
        self.add_units(operations, rows + (self.D * G + self.H * P) * self.row)

    def add_units(self, operations: Operations, rows: int) -> None:
        """The rows of the units (U, Hp) added to ``grads``."""
        grads, size = self.layer.grads, self.H * self.size
        for i, source in enumerate(self.layer.jacobian.plan.unit_rows):
            places = [address_of(grads[source.name])] if source.name else []
            if source.gate is not None and "bx" in grads:
                places.append(address_of(grads["bx"]) + source.gate * size)
            places += [address_of(grads["bh"]) + m * size for m in source.matrices if "bh" in grads]
            for to in places:
                operations.add("add_rows", to, 0, rows + i * self.row, 0, 1, self.H)

    def run(self, program: Array, source: Array, columns: int) -> Array:
        out = np.empty((self.N, columns), self.dtype)
        self.call(self.start, program, plain(source), out)
        return out

    def ends(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Where `x` goes and `y` comes from."""
        width, size = self.D * self.size, self.H * self.size
        return (address_of(self.x), width, width), (address_of(self.y), size, size)

    def ends_back(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Where `dy` goes and `dx` comes from."""
        width = self.D * self.size
        return (address_of(self.d), self.H * self.size, self.row), (address_of(self.dx), width, width)


_code: WeakValueDictionary[Any, MachineCode] = WeakValueDictionary()


def _traces(dtype: str, carry: Any, kinds: list[tuple[Any, bool]]) -> MachineCode:
    key = dtype, carry, tuple(kinds)
    names = [f"trace_{i}" for i in range(len(kinds))]
    found = _code.get(key)
    return found or _code.setdefault(key, MachineCode(trace_code(target(dtype), carry, kinds), names))
