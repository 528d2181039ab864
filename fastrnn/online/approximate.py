"""Eligibility traces: the influence of each parameter on its own unit alone."""

from __future__ import annotations

from typing import Any, ClassVar

from ..arrays import Array
from ..model import Model
from ..optim import Optimizer
from ..recurrent import Recurrent
from .learner import Learner, Loss, layers_of
from .memoryless import Memoryless
from .steps import trace_step


class _Traces(Learner):
    """One trace for each parameter, state and sequence; layers without memory have their ordinary gradient."""

    through_diagonal: ClassVar[bool]

    def __init__(
        self, layer: Recurrent | Model, *, loss: Loss | None = None, optimizer: Optimizer | None = None
    ) -> None:
        super().__init__(layer, loss, optimizer)

    def _start(self, N: int) -> None:
        nodes: list[Any] = []
        for layer in self.layers:
            if isinstance(layer, Recurrent):
                nodes += [trace_step(own, N, self.through_diagonal, self.backend) for own in layers_of(layer)]
            else:
                nodes.append(Memoryless(layer))
        self._nodes = nodes

    def _forward(self, x: Array) -> Array:
        for node in self._nodes:
            x = node.forward(x)
        return x

    def _backward(self, dy: Array) -> Array | None:
        d: Any = dy
        for node in reversed(self._nodes):
            d = node.backward(d)
        return d  # type: ignore[no-any-return]


class RFLO(_Traces):
    """Random-feedback local online learning (Murray, eLife 8 (2019), e43299, eq. 6-8), for any cell.

    A trace follows its unit from step to step and leaves out what passes through products with recurrent matrices:
    ``p' = (ds'/ds without products) p + ds'/dparameter``. The gradient of a step's loss is that of its unit's output
    times the trace. With `dy` the true gradient this is the rule with symmetric feedback; the paper's random feedback
    is the caller's: ``learner.backward(error @ B)`` with a fixed random matrix B.

    Of layers over each other, each has its own traces; a step's gradient comes down to it through that step alone. A
    gate that acts only inside the vector of a later product, as the reset gate of ``GRU(reset_after=False)``, gets no
    gradient.

    Parameters
    ----------
    layer : Recurrent or Model
    loss, optimizer : optional
        For :meth:`update`, see :class:`Learner`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value, or a layer runs backward in time.
    """

    through_diagonal = False


class EProp(RFLO):
    """E-prop (Bellec et al., Nature Communications 11 (2020), 3625, eq. 13-14), for any cell.

    Its eligibility trace is that of :class:`RFLO`, which it gives for cells with several states as well: the hidden
    state is followed inside the unit, and what the outputs of units do to each other through recurrent weights is left
    out. `dy` is the learning signal.

    Parameters
    ----------
    layer : Recurrent or Model
    loss, optimizer : optional
        For :meth:`update`, see :class:`Learner`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value, or a layer runs backward in time.
    """


class SnAp1(_Traces):
    """Sparse n-step approximation of RTRL with n = 1 (Menick et al., ICLR 2021, arXiv:2006.07232, sec. 3).

    Of the influence only what a parameter has acted on after one step is kept: the states of its own unit. They are
    carried on by the diagonal blocks of the step's Jacobian, the diagonals of the recurrent matrices included. For
    cells whose units do not see each other (without recurrent matrices, or with diagonal ones) it is exact.

    Where a step multiplies what an earlier product of the same step gave, as in ``GRU(reset_after=False)``, each matrix
    counts with its diagonal.

    Parameters
    ----------
    layer : Recurrent or Model
    loss, optimizer : optional
        For :meth:`update`, see :class:`Learner`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value, or a layer runs backward in time.
    """

    through_diagonal = True
