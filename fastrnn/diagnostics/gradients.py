"""How large the gradient of a loss is at every step of every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Array
from ..model import Model
from ..recurrent import Recurrent
from .unrolled import Between, Stack, Unrolled, checked_gradient, probe, unroll


@dataclass(frozen=True)
class GradientFlow:
    """Norms of dL/dh_t, t the time of the step that the state comes out of.

    Attributes
    ----------
    norms : dict of str to (T,) float64 array
        For every layer, direction and state the Euclidean norm over all sequences and units, under names such as
        ``l0.h``, ``l1_reverse.c``, or ``1.l0.h`` in a model.
    layers : dict of str to (T,) float64 array
        The same of all states of a layer together.
    from_the_end : dict of str to bool
        For each layer whether it runs from the last step to the first.
    """

    norms: dict[str, Array]
    layers: dict[str, Array]
    from_the_end: dict[str, bool]


def gradient_flow(
    layer: Recurrent | Model,
    x: Array,
    dy: Array | None = None,
    state: Any = None,
    lengths: Any = None,
    *,
    mask: Any = None,
    resets: Any = None,
) -> GradientFlow:
    """Norm of the gradient of a loss with respect to every state, dL/dh_t, for every step and layer.

    Parameters
    ----------
    layer : Recurrent or Model
        Nothing of it changes; it runs without dropout.
    x : array
        Input as a call takes it.
    dy : array like the output, optional
        Gradient of the loss with respect to the output. By default a random direction of norm 1 at each sequence's
        last step (and its first, if something runs from the end) and zero elsewhere: the norms then show how far a
        gradient reaches, whatever the loss.
    state, lengths, mask, resets
        As of a call.

    Returns
    -------
    GradientFlow

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    Notes
    -----
    dL/dh_t is the gradient that arrives at the state from the output and from the step after it (Pascanu, Mikolov &
    Bengio 2013, eq. 3-5), in the layer's dtype. The pass goes back by single steps: T calls a layer.
    """
    unrolled = unroll(layer, x, state, lengths, mask, resets, pullbacks=True)
    return flow_of(unrolled, probe(unrolled) if dy is None else checked_gradient(dy, unrolled.y))


def flow_of(unrolled: Unrolled, dy: Array) -> GradientFlow:
    """The flow through a call that was taken apart with its pullbacks."""
    d: Array | None = dy
    norms: dict[str, Array] = {}
    for part in reversed(unrolled.parts):
        if isinstance(part, Between):
            assert d is not None
            d = part.back(d)
        else:
            d, found = _norms(part, d)
            norms |= found
    ordered = {f"{run.name}.{s}": norms[f"{run.name}.{s}"] for run in unrolled.runs() for s in run.state_names}
    layers = {
        run.name: np.sqrt(sum(np.square(norms[f"{run.name}.{s}"]) for s in run.state_names)) for run in unrolled.runs()
    }
    return GradientFlow(ordered, layers, {run.name: run.from_the_end for run in unrolled.runs()})


def _norms(stack: Stack, d: Any) -> tuple[Array, dict[str, Array]]:
    below, found = stack.back(d)
    norms = {}
    for runs in stack.runs:
        for run in runs:
            for k, name in enumerate(run.state_names):
                each = np.stack([states[k] for states in found[run.name]]).astype(np.float64)
                norms[f"{run.name}.{name}"] = run.by_time(np.sqrt(np.square(each).sum(axis=(1, 2, 3))))
    return below, norms
