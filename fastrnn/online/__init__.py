"""Learning while a stream runs: gradients carried forward with the state, nothing kept of the past.

A learner takes one step at a time, ``y = learner.forward(x)``, and the gradient of that step's loss with respect to
``y``: ``learner.backward(dy)`` adds that of the parameters to ``layer.grads``.

For a layer of one state, D inputs, H units and P parameters, and one sequence:

=============== ====================== ======================= ==========================================
learner         time of a step         memory                  gradient
=============== ====================== ======================= ==========================================
:class:`RTRL`   O(H**2 P)              H P                     that of BPTT over all steps so far
:class:`UORO`   O(P)                   P                       the same in the mean over its random signs
:class:`SnAp1`  O(P)                   P                       what stays in a unit
:class:`RFLO`   O(P)                   P                       what stays in a unit and in no product
:class:`EProp`  O(P)                   P                       the same
=============== ====================== ======================= ==========================================

With several states or layers H counts all their units: RTRL takes O((sum of states * H)**2 * parameters) a step.
"""

from .approximate import RFLO, EProp, SnAp1
from .exact import RTRL
from .learner import Learner
from .unbiased import UORO

__all__ = ["RFLO", "RTRL", "UORO", "EProp", "Learner", "SnAp1"]
