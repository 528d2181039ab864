"""Gradients that can be seen: how far they reach, what stops them, and one picture for each quantity.

=========================  ==================================================================  =====================
quantity                   what it is                                                          picture
=========================  ==================================================================  =====================
:func:`gradient_flow`      norm of dL/dh_t for every step and layer                            :func:`plot_gradients`
:func:`jacobian_norms`     largest singular value of ∂h_T/∂h_t                                 :func:`plot_jacobians`
:func:`lyapunov_exponents` mean growth of small differences of the states for each step        :func:`plot_lyapunov`
:func:`activity`           saturated and dead units                                            :func:`plot_activity`
:class:`UpdateRatios`      norm of an update over that of the parameter                        :func:`plot_updates`
:func:`report`             the first and the fourth in words, and what to try
=========================  ==================================================================  =====================

Layers and directions are called as in the names of their parameters: ``l0``, ``l1_reverse``, in a model ``1.l0``.
Nothing here changes a layer, its parameters or its gradients.
"""

from .gradients import GradientFlow, gradient_flow
from .jacobians import jacobian_norms, lyapunov_exponents
from .plots import plot_activity, plot_gradients, plot_jacobians, plot_lyapunov, plot_updates
from .saturation import Activity, NodeActivity, activity
from .updates import UpdateRatios, update_ratios
from .verdict import Reach, Report, report

__all__ = [
    "Activity",
    "GradientFlow",
    "NodeActivity",
    "Reach",
    "Report",
    "UpdateRatios",
    "activity",
    "gradient_flow",
    "jacobian_norms",
    "lyapunov_exponents",
    "plot_activity",
    "plot_gradients",
    "plot_jacobians",
    "plot_lyapunov",
    "plot_updates",
    "report",
    "update_ratios",
]
