"""Real-time recurrent learning: the whole influence of the parameters on the states, carried forward."""

from __future__ import annotations

from typing import Any

from ..arrays import Array
from ..errors import positive_int
from ..model import Model
from ..optim import Optimizer
from ..recurrent import Recurrent
from .learner import Learner, Loss, layers_of
from .memoryless import Influenced, Memoryless, sizes
from .steps import columns_of, exact_step


class RTRL(Learner):
    """Real-time recurrent learning (Williams & Zipser, Neural Computation 1 (1989), 270-280): exact, of any cell.

    With s the states of all layers and M = ds/dparams their influence matrix, each step carries
    ``M' = (ds'/ds) M + ds'/dparams`` (eq. 2.10) forward; the gradient of a step's loss is ``(dL/ds') M'``. Their sum
    over the steps is that of BPTT over the whole sequence.

    A weight acts directly on its own unit alone, so the second term costs little; the first is a product of matrices. A
    step of a sequence takes O((sum of states * H)**2 * parameters) operations, and the influence
    (sum of states * H) * parameters numbers.

    Parameters
    ----------
    layer : Recurrent or Model
        Layers of one direction. In a Model, layers without memory above the last recurrent one have their ordinary
        gradient; below it, they are part of the influence.
    max_bytes : int
        Bytes that the influence may take.
    loss, optimizer : optional
        For :meth:`update`, see :class:`Learner`.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If a layer runs backward in time, or the influence of one sequence takes more than `max_bytes`; of N of them,
        :meth:`forward` says so.

    Examples
    --------
    >>> learner = fastrnn.online.RTRL(layer)
    >>> for x_t, target_t in stream:
    ...     y = learner.forward(x_t)
    ...     loss, dy = fastrnn.losses.mse(y, target_t)
    ...     learner.backward(dy)
    """

    def __init__(
        self,
        layer: Recurrent | Model,
        max_bytes: int = 2**31,
        *,
        loss: Loss | None = None,
        optimizer: Optimizer | None = None,
    ) -> None:
        super().__init__(layer, loss, optimizer)
        self.max_bytes = positive_int("max_bytes", max_bytes)
        last = max(i for i, own in enumerate(self.layers) if isinstance(own, Recurrent))
        self._influenced = self.layers[: last + 1]
        self._above = [Memoryless(own) for own in self.layers[last + 1 :]]
        self._check_bytes(1)

    def nbytes(self, N: int = 1) -> int:
        """Bytes that the influence takes.

        Parameters
        ----------
        N : int
            Sequences.

        Returns
        -------
        int

        Raises
        ------
        TypeError, ValueError
            If `N` is not an integer of at least 1.
        """
        columns = total = 0
        for layer in self._influenced:
            if isinstance(layer, Recurrent):
                for one in layers_of(layer):
                    columns += columns_of(one, self.backend)
                    total += len(layer.cell.states) * layer.hidden_size * columns
            else:
                rows, own = sizes(layer)
                columns += own
                total += rows * columns
        last = self._influenced[-1]
        assert isinstance(last, Recurrent)
        return positive_int("N", N) * total * int(last.dtype.itemsize)

    def _check_bytes(self, N: int) -> None:
        need = self.nbytes(N)
        if need > self.max_bytes:
            traces = sum(layer.nbytes for own in self.layers for layer in own.params.values())
            raise ValueError(
                f"max_bytes: expected at least {need} for the influence of {N} sequence(s), got {self.max_bytes}; "
                f"SnAp1 (which keeps what stays in a unit), RFLO, EProp or UORO takes about {N * traces} for each state"
            )

    def _start(self, N: int) -> None:
        self._check_bytes(N)
        lower = 0
        nodes: list[Any] = []
        for layer in self._influenced:
            if isinstance(layer, Recurrent):
                for own in layers_of(layer):
                    nodes.append(exact_step(own, N, lower, self.backend))
                    lower += nodes[-1].own
            else:
                nodes.append(Influenced(layer, lower))
                lower += nodes[-1].own
        self._nodes = nodes

    def _forward(self, x: Array) -> Array:
        below: Array | None = None
        for node in self._nodes:
            x = node.step(x, below)
            below = node.output_influence
        for layer in self._above:
            x = layer.forward(x)
        return x

    def _backward(self, dy: Array) -> Array | None:
        d: Any = dy
        for layer in reversed(self._above):
            layer.add(d)
            d = layer.back(d)
        if len(self._nodes) == 1:
            return self._nodes[0].backward(d)  # type: ignore[no-any-return]
        columns = self._nodes[-1].gradient(d)
        at = 0
        for node in self._nodes:
            node.add_columns(columns[at : at + node.own])
            at += node.own
        for node in reversed(self._nodes):
            d = node.back(d)
        return d  # type: ignore[no-any-return]
