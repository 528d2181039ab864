"""Unbiased online recurrent optimization: the influence as one product of a state and a gradient, right in the mean."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Array
from ..backends.numpy_online import ReferenceStep
from ..errors import generator
from ..model import Model
from ..optim import Optimizer
from ..recurrent import Recurrent
from .learner import Learner, Loss, layers_of
from .memoryless import Memoryless

# Added to norms that one divides by, as the paper does.
_SMALL = 1e-7


class UORO(Learner):
    """Unbiased online recurrent optimization (Tallec & Ollivier, ICLR 2018, arXiv:1702.05043, algorithm 1).

    The influence is ``s~ theta~'``, of rank one. With random signs nu, ``s~' = rho0 (ds'/ds) s~ + rho1 nu`` and
    ``theta~' = theta~ / rho0 + nu' (ds'/dparams) / rho1``, where rho0 and rho1 make both of one size: in the mean over
    nu it is the influence of RTRL, so that for given weights the gradient is unbiased, of high variance.

    Parameters
    ----------
    layer : Recurrent or Model
        In a Model, layers without memory have the gradient of each step alone.
    seed : int or numpy.random.Generator, optional
        Of the signs.
    loss, optimizer : optional
        For :meth:`update`, see :class:`Learner`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value, or a layer runs backward in time.
    """

    def __init__(
        self,
        layer: Recurrent | Model,
        seed: Any = None,
        *,
        loss: Loss | None = None,
        optimizer: Optimizer | None = None,
    ) -> None:
        super().__init__(layer, loss, optimizer)
        self._rng = generator("seed", seed)

    def _start(self, N: int) -> None:
        nodes: list[Any] = []
        for layer in self.layers:
            nodes += (
                [RankOne(own, N) for own in layers_of(layer)] if isinstance(layer, Recurrent) else [Memoryless(layer)]
            )
        self._nodes = nodes

    @property
    def _with_memory(self) -> list[RankOne]:
        return [node for node in self._nodes if isinstance(node, RankOne)]

    def _forward(self, x: Array) -> Array:
        y = x
        x_dot: Array | None = None
        for node in self._nodes:
            y = node.forward(y)
            x_dot = node.tangent(x_dot)
        memory = self._with_memory
        signs = [[self._signs(s) for s in node.state] for node in memory]
        d: Array | None = None
        direct = {}
        for i, node in reversed(list(enumerate(self._nodes))):
            if isinstance(node, RankOne):
                nu = list(signs[memory.index(node)])
                nu[0] = nu[0] if d is None else nu[0] + d
                direct[i], d = node.direct_and_back(nu)
            else:
                d = None if d is None else node.back(d)
        self._combine(memory, signs, [direct[i] for i in sorted(direct)])
        return y  # type: ignore[no-any-return]

    def _combine(self, memory: list[RankOne], signs: list[list[Array]], direct: list[Array]) -> None:
        """The new factors of every sequence."""
        of_state = _norm([s for node in memory for s in node.moved])
        of_params = _norm([node.params_factor for node in memory])
        of_signs = _norm([s for own in signs for s in own])
        of_direct = _norm(direct)
        rho0 = np.sqrt((of_params + _SMALL) / (of_state + _SMALL)) + _SMALL
        rho1 = np.sqrt((of_direct + _SMALL) / (of_signs + _SMALL)) + _SMALL
        for node, nu, new in zip(memory, signs, direct, strict=True):
            dtype = new.dtype
            a, b = (rho[:, None].astype(dtype) for rho in (rho0, rho1))
            node.state_factor = [a * s + b * sign for s, sign in zip(node.moved, nu, strict=True)]
            node.params_factor = node.params_factor / a[..., None] + new / b[..., None]

    def _signs(self, like: Array) -> Array:
        return (2 * self._rng.integers(0, 2, like.shape) - 1).astype(like.dtype)

    def _backward(self, dy: Array) -> Array | None:
        d: Any = dy
        # How much each sequence's loss moves with its factor of the states: through the last layer with memory.
        share: Array | None = None
        for node in reversed(self._nodes):
            if isinstance(node, Memoryless):
                d = node.backward(d)
                continue
            if share is None:
                share = (d * node.state_factor[0]).sum(axis=1)
            node.layer.add_gradient(np.tensordot(share, node.params_factor, 1))
            d = node.back(d)
        return d  # type: ignore[no-any-return]


class RankOne(ReferenceStep):
    """A layer's part of both factors: of the states a list of (N, H), of the parameters (N, C, H)."""

    def __init__(self, layer: Any, N: int) -> None:
        super().__init__(layer, N)
        _, H, C = layer.sizes
        self.state_factor = [np.zeros_like(s) for s in self.state]
        self.moved = self.state_factor
        self.params_factor = np.zeros((N, C, H), self.state[0].dtype)

    def clear(self, rows: Array) -> None:
        super().clear(rows)
        for factor in (*self.state_factor, self.params_factor):
            factor[rows] = 0

    def forward(self, x: Array) -> Array:
        """The next step."""
        return self.run(x)

    def tangent(self, x_dot: Array | None) -> Array:
        """The factor of the states moved on by the step, without new signs; that of the output."""
        self.moved = self.tangents(self.state_factor, x_dot)
        return self.moved[0]

    def direct_and_back(self, nu: list[Array]) -> tuple[Array, Array]:
        """``nu' ds'/dparams`` for the layer's own parameters, and what passes to the input."""
        adjoints = self.adjoints(list(nu), self.transposed)
        return self.direct(adjoints), self.input_gradient(adjoints)

    def back(self, dh: Array) -> Array:
        """Gradient of the input, through this step alone."""
        d: list[Array | None] = [dh, *[None] * (len(self.state) - 1)]
        return self.input_gradient(self.adjoints(d, self.transposed))


def _norm(arrays: list[Array]) -> Array:
    """Euclidean norm of each sequence's part, in float64."""
    squares = [np.square(a, dtype=np.float64).reshape(len(a), -1).sum(axis=1) for a in arrays]
    return np.sqrt(np.sum(squares, axis=0))  # type: ignore[no-any-return]
