"""Gradients that can be seen: how far they reach, what stops them, and one picture for each quantity.

- :func:`gradient_flow`, drawn by :func:`plot_gradients`: norm of dL/dh_t for every step and layer
- :func:`jacobian_norms`, drawn by :func:`plot_jacobians`: largest singular value of ∂h_T/∂h_t
- :func:`lyapunov_exponents`, drawn by :func:`plot_lyapunov`: mean growth of small differences of the states
- :func:`activity`, drawn by :func:`plot_activity`: saturated and dead units
- :class:`UpdateRatios`, drawn by :func:`plot_updates`: norm of an update over that of the parameter
- :func:`report`: whether gradients vanish or explode, in words, and what to try

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
