"""Eligibility traces in machine code."""

from __future__ import annotations

from ....engine.contract import Array
from ....engine.jacobian import make_traces
from ....engine.online import LayerParams
from .program import Address, Operations, address_of, program
from .step import CompiledStep


class CompiledTraces(CompiledStep):
    """See :class:`fastrnn.backends.numpy_online.TraceStep`; `trace` is (N, S, C, Hp)."""

    def __init__(self, layer: LayerParams, N: int, through_diagonal: bool) -> None:
        traces = make_traces(layer.jacobian.plan.cell, through_diagonal)
        super().__init__(layer, traces.jacobian, N)
        self.trace = self._zeros(N, self.S, self.C, self.Hp)
        state_step = self.C * self.row
        before = self.operations()
        self.parameters(before, through_diagonal)
        rows, self._code = self.direct(
            (address_of(self.trace), self.S * state_step), state_step, traces.carry, traces.direct
        )
        self._forward = program(self.ends()[0], N, self.ends()[1], [(before, 1), (None, 0), (rows, N)], self.loop())
        clear, summed, after = (self.operations() for _ in range(3))
        self._sum(clear, summed, after)
        sections = [(clear, 1), (summed, N), (after, 1), (self.input_gradient(), N)]
        self._backward = program(self.ends_back()[0], N, self.ends_back()[1], sections)

    def _sum(self, clear: Operations, each: Operations, after: Operations) -> None:
        """The gradients of the rows of parameters: those of matrices where they belong, if rows have no padding."""
        of_matrices = self.C - self.layer.jacobian.rows if self.Hp == self.H else 0
        rest = self._zeros(self.C - of_matrices, self.Hp)
        trace, step = address_of(self.trace), self.S * self.C * self.row
        d: Address = (address_of(self.d), self.row)
        of_x = self.D * self.kernel.gates
        if of_matrices:
            parts = [("Wx", 0, of_x), ("Wh", of_x, of_matrices - of_x)]
            for name, first, count in parts:
                if count:
                    to = address_of(self.layer.grads[name])
                    at = trace + first * self.row, step
                    each.add("times_row", to, self.row, at, self.row, d, count, self.vectors, 1)
        clear.add("fill", address_of(rest), rest.nbytes)
        at = trace + of_matrices * self.row, step
        each.add("times_row", address_of(rest), self.row, at, self.row, d, len(rest), self.vectors, 1)
        if of_matrices:
            self.add_units(after, address_of(rest))
        else:
            self.add_to_gradients(after, address_of(rest))

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
