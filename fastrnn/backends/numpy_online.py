"""One step of a layer at a time with its derivatives: the reference of the online learners, in NumPy.

The parameters of a layer are rows of H numbers, each number of unit j acting on unit j alone: row ``(d, g)`` of Wx,
row ``(i, m)`` of Wh, and the rows of the units, biases first. With C rows in all, an influence is (N, R, C, H): the
derivative of R quantities of each sequence with respect to every parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..engine.contract import Array, Call
from ..engine.jacobian import Leaf
from ..engine.online import LayerParams
from .numpy_backend import NumpyBackend

Through = Callable[[int, Array], Array | None]
"""What reaches a product's vector of an adjoint of the product."""


class ReferenceStep:
    """The last step of a layer, and the derivatives that it has."""

    def __init__(self, layer: LayerParams, N: int) -> None:
        self.layer = layer
        _, H, _ = layer.sizes
        dtype = layer.params["Wx"].dtype
        self.state = [np.zeros((N, H), dtype) for _ in layer.jacobian.plan.cell.states]
        self.x, self.before, self.keep = np.zeros(0), self.state, [np.zeros(0)]

    def run(self, x: Array) -> Array:
        """The next step: `x` (N, D) gives the output (N, H)."""
        call = Call(self.layer.jacobian.plan, x[None], tuple(self.state), self.layer.params, False, 1)
        result = NumpyBackend().forward(call, True)
        self.x, self.before, self.keep = x, self.state, result.saved[0]["keep"]
        self.state = list(result.last)
        y: Array = result.y[0]
        return y

    def clear(self, rows: Array) -> None:
        """Zeros for the states of some sequences."""
        self.state = [np.where(rows[:, None], 0, s).astype(s.dtype) for s in self.state]

    def matrix(self, product: int) -> Array:
        """The recurrent matrix of a product, (H, H)."""
        m, H = self.layer.jacobian.plan.weight_terms[product].matrix, self.layer.sizes[1]
        matrix: Array = self.layer.params["Wh"][:, m * H : (m + 1) * H]
        return matrix

    def vector(self, product: int) -> Array:
        """What a product has multiplied, (N, H)."""
        kind, index = self.layer.jacobian.plan.weight_terms[product].vector
        return self.before[index] if kind == "prev" else self.keep[index]

    def transposed(self, product: int, adjoint: Array) -> Array:
        """A whole matrix lets through all."""
        return adjoint @ self.matrix(product).T

    def diagonal(self, product: int, adjoint: Array) -> Array:
        """The diagonal of a matrix lets through what stays in a unit."""
        return adjoint * self.matrix(product).diagonal()

    def adjoints(self, d: list[Array | None], through: Through) -> dict[Leaf, Array]:
        """For adjoints (..., N, H) of the new states (None: zeros) those of every leaf, products included."""
        jacobian = self.layer.jacobian
        found: dict[Leaf, Array] = {}

        def add(leaf: Leaf, value: Array, slot: int | None) -> None:
            value = value if slot is None else value * self.keep[slot]
            found[leaf] = found[leaf] + value if leaf in found else value

        for value, partials in zip(d, jacobian.states, strict=True):
            for leaf, slot in partials.items() if value is not None else ():
                add(leaf, value, slot)  # type: ignore[arg-type]
        for p in reversed(jacobian.order):
            if Leaf("product", p) in found:
                value = through(p, found[Leaf("product", p)])
                for leaf, slot in jacobian.vectors[p].items() if value is not None else ():
                    add(leaf, value, slot)  # type: ignore[arg-type]
        return found

    def tangents(self, state_dot: list[Array], x_dot: Array | None) -> list[Array]:
        """Derivatives of the new states along a direction in the old ones and, if given, in the input (N, D)."""
        jacobian = self.layer.jacobian
        dots = {Leaf("state", k): dot for k, dot in enumerate(state_dot)}
        if x_dot is not None:
            gates = np.split(x_dot @ self.layer.params["Wx"], jacobian.plan.n_gates, axis=1)
            dots |= {Leaf("x", g): dot for g, dot in enumerate(gates)}

        def total(partials: Mapping[Leaf, int | None]) -> Array:
            terms = [
                dots[leaf] if slot is None else dots[leaf] * self.keep[slot]
                for leaf, slot in partials.items()
                if leaf in dots
            ]
            return sum(terms, np.zeros_like(state_dot[0]))

        for p in jacobian.order:
            dots[Leaf("product", p)] = total(jacobian.vectors[p]) @ self.matrix(p)
        return [total(partials) for partials in jacobian.states]

    def input_gradient(self, adjoints: Mapping[Leaf, Array]) -> Array:
        """Of adjoints (..., N, H) the part of the input (..., N, D)."""
        D, H, _ = self.layer.sizes
        Wx = self.layer.params["Wx"].reshape(D, -1, H)
        total = np.zeros((*next(iter(adjoints.values())).shape[:-1], D), Wx.dtype)
        for leaf, value in adjoints.items():
            if leaf.kind == "x":
                total += value @ Wx[:, leaf.index].T
        return total

    def add_direct(self, influence: Array, adjoints: Mapping[Leaf, Array]) -> None:
        """Add what the parameters do in this very step to an influence (N, R, C, H), by adjoints (R, N, H)."""
        x, h, units = self.layer.split(influence)
        for leaf, value in adjoints.items():
            slope = value.swapaxes(0, 1)
            if leaf.kind == "x":
                x[:, :, :, leaf.index] += self.x[:, None, :, None] * slope[:, :, None]
            elif leaf.kind == "product":
                matrix = self.layer.jacobian.plan.weight_terms[leaf.index].matrix
                h[:, :, :, matrix] += self.vector(leaf.index)[:, None, :, None] * slope[:, :, None]
            elif leaf.kind == "unit":
                units[:, :, leaf.index] += slope

    def direct(self, adjoints: Mapping[Leaf, Array]) -> Array:
        """The same for adjoints (N, H), by itself: (N, C, H)."""
        N, H = self.state[0].shape
        rows = np.zeros((N, 1, self.layer.sizes[2], H), self.state[0].dtype)
        self.add_direct(rows, {leaf: value[None] for leaf, value in adjoints.items()})
        return rows[:, 0]


class ExactStep(ReferenceStep):
    """A layer with the influence of its own parameters, and of those below it, on its states.

    influence : (N, S*H, lower columns + C*H); its first H rows are those of the output
    """

    def __init__(self, layer: LayerParams, N: int, lower: int) -> None:
        super().__init__(layer, N)
        _, H, C = layer.sizes
        self.lower, self.own = lower, C * H
        self.influence = np.zeros((N, len(self.state) * H, lower + C * H), self.state[0].dtype)

    def clear(self, rows: Array) -> None:
        super().clear(rows)
        self.influence[rows] = 0

    def step(self, x: Array, below: Array | None) -> Array:
        """The next step; `below` (N, D, lower columns) is the influence of the parameters below on `x`.

        With A the step's Jacobian in the states and B that in the input, ``M' = A M + B below + direct`` (Williams &
        Zipser, Neural Computation 1 (1989), eq. 2.10).
        """
        y = self.run(x)
        _, H, C = self.layer.sizes
        S, N = len(self.state), len(x)
        ones = np.eye(S * H, dtype=x.dtype).reshape(S * H, S, 1, H)
        seeds: list[Array | None] = [np.broadcast_to(ones[:, k], (S * H, N, H)) for k in range(S)]
        adjoints = self.adjoints(seeds, self.transposed)
        none = np.zeros((S * H, N, H), x.dtype)
        A = np.concatenate([adjoints.get(Leaf("state", k), none) for k in range(S)], axis=2).swapaxes(0, 1)
        self.influence = A @ self.influence
        if below is not None:
            self.influence[:, :, : self.lower] += self.input_gradient(adjoints).swapaxes(0, 1) @ below
        own = self.influence[:, :, self.lower :].reshape(N, S * H, C, H)
        self.add_direct(own, adjoints)
        self.influence[:, :, self.lower :] = own.reshape(N, S * H, C * H)
        return y

    @property
    def output_influence(self) -> Array:
        """(N, H, columns)."""
        return self.influence[:, : self.layer.sizes[1]]

    def gradient(self, dh: Array) -> Array:
        """Gradient of every column, by that of the output (N, H)."""
        total: Array = (dh[:, None] @ self.output_influence).sum(axis=(0, 1))
        return total

    def add_columns(self, columns: Array) -> None:
        """Add the gradient of the own columns to ``grads``."""
        _, H, C = self.layer.sizes
        self.layer.add_gradient(columns[: C * H].reshape(C, H))

    def back(self, dh: Array) -> Array:
        """Gradient of the input, through this step alone, by that of the output (N, H)."""
        d: list[Array | None] = [dh, *[None] * (len(self.state) - 1)]
        return self.input_gradient(self.adjoints(d, self.transposed))

    def backward(self, dh: Array) -> Array:
        """Add the gradients of the own parameters; that of the input."""
        self.add_columns(self.gradient(dh)[self.lower :])
        return self.back(dh)


class TraceStep(ReferenceStep):
    """A layer with an eligibility trace for each parameter: its influence on the states of its own unit.

    through_diagonal : whether what passes through the diagonals of the matrices counts; else nothing that passes
        through a product does
    trace : (N, S, C, H)
    """

    def __init__(self, layer: LayerParams, N: int, through_diagonal: bool) -> None:
        super().__init__(layer, N)
        _, H, C = layer.sizes
        self.through_diagonal = through_diagonal
        self.trace = np.zeros((N, len(self.state), C, H), self.state[0].dtype)

    def clear(self, rows: Array) -> None:
        super().clear(rows)
        self.trace[rows] = 0

    def forward(self, x: Array) -> Array:
        """The next step, with every trace."""
        y = self.run(x)
        S, N = len(self.state), len(x)
        ones = np.eye(S, dtype=x.dtype)[:, :, None, None]
        seeds: list[Array | None] = [np.broadcast_to(ones[:, k], (S, N, y.shape[1])) for k in range(S)]
        adjoints = self.adjoints(seeds, self.diagonal if self.through_diagonal else lambda p, adjoint: None)
        before, self.trace = self.trace, np.zeros_like(self.trace)
        for k in range(S):
            if Leaf("state", k) in adjoints:
                self.trace += adjoints[Leaf("state", k)].swapaxes(0, 1)[:, :, None] * before[:, None, k]
        self.add_direct(self.trace, adjoints)
        return y

    def backward(self, dh: Array) -> Array:
        """Add the gradients of the parameters; that of the input, through this step alone."""
        self.layer.add_gradient((dh[:, None] * self.trace[:, 0]).sum(axis=0))
        d: list[Array | None] = [dh, *[None] * (len(self.state) - 1)]
        return self.input_gradient(self.adjoints(d, self.transposed))
