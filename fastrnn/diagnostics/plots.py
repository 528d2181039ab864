"""One picture for each quantity. matplotlib, the optional extra ``plot``, is imported only when one is drawn."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np

from ..arrays import Array
from ..errors import file_path
from ..model_file import write_atomically
from .gradients import GradientFlow
from .saturation import Activity

Path = str | os.PathLike[str]

HINT = "no plot: matplotlib is not installed; pip install 'fastrnn[plot]'"
# Near zero and infinity in float64, with room for the margins of the axis.
_LEAST, _MOST = 1e-250, 1e250
_LEGEND_ENTRIES = 12


def plot_gradients(flow: GradientFlow, path: Path | None = None, axes: Any = None) -> Any:
    """Norms of :func:`gradient_flow` over time, on a logarithmic axis.

    Parameters
    ----------
    flow : GradientFlow
    path : path, optional
        Where a PNG is written.
    axes : matplotlib.axes.Axes, optional
        Where to draw; in a new figure by default.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ImportError
        If matplotlib is missing.
    """
    if not isinstance(flow, GradientFlow):
        raise TypeError(f"flow: expected what gradient_flow returns, got {type(flow).__name__}")
    figure, axes = _axes(axes)
    for name, norms in flow.norms.items():
        # What is 0 has no place on the axis.
        axes.plot(np.arange(len(norms)), np.where(_shown(norms), norms, np.nan), label=name, **_marks(norms))
    axes.set_yscale("log")
    axes.set(xlabel="step t", ylabel="norm of the gradient, |dL/dh_t|", title="Gradient of the loss at every step")
    return _finished(figure, axes, path)


def plot_jacobians(norms: Mapping[str, Array], path: Path | None = None, axes: Any = None) -> Any:
    """What :func:`jacobian_norms` gives over time, on a logarithmic axis: median and range of the sequences.

    Parameters
    ----------
    norms : dict of str to (T, N) array
    path : path, optional
        Where a PNG is written.
    axes : matplotlib.axes.Axes, optional
        Where to draw; in a new figure by default.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ImportError
        If matplotlib is missing.
    """
    _check_arrays("norms", norms, 2)
    figure, axes = _axes(axes)
    axes.axhline(1.0, color="0.6", linewidth=0.8, linestyle="--")
    for i, (name, logs) in enumerate(norms.items()):
        shown = (logs > np.log(_LEAST)) & (logs < np.log(_MOST))
        values = np.exp(np.where(shown, logs, np.nan))
        # NaN where nobody has looked: the line goes on.
        steps = np.flatnonzero(~np.isnan(logs).all(axis=1))
        values = values[steps]
        axes.plot(steps, np.median(values, axis=1), color=f"C{i}", label=name, **_marks(values))
        if values.shape[1] > 1:
            axes.fill_between(steps, values.min(axis=1), values.max(axis=1), color=f"C{i}", alpha=0.2, linewidth=0)
    axes.set_yscale("log")
    title = "How far a change of the state reaches"
    axes.set(xlabel="step t", ylabel="largest singular value of ∂h_T/∂h_t", title=title)
    return _finished(figure, axes, path)


def plot_lyapunov(exponents: Mapping[str, Array], path: Path | None = None, axes: Any = None) -> Any:
    """What :func:`lyapunov_exponents` gives, largest first.

    Parameters
    ----------
    exponents : dict of str to (S*H,) array
    path : path, optional
        Where a PNG is written.
    axes : matplotlib.axes.Axes, optional
        Where to draw; in a new figure by default.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ImportError
        If matplotlib is missing.
    """
    _check_arrays("exponents", exponents, 1)
    figure, axes = _axes(axes)
    axes.axhline(0.0, color="0.6", linewidth=0.8, linestyle="--")
    for name, values in exponents.items():
        index = np.arange(1, len(values) + 1)
        axes.plot(index, np.where(np.isfinite(values), values, np.nan), ".-", markersize=4, label=name)
    axes.set(xlabel="number of the exponent", ylabel="Lyapunov exponent (1/step)", title="Growth of small differences")
    return _finished(figure, axes, path)


def plot_activity(units: Activity, path: Path | None = None, axes: Any = None) -> Any:
    """Shares of :func:`activity`: saturated at either end, or dead, for every nonlinearity.

    Parameters
    ----------
    units : Activity
    path : path, optional
        Where a PNG is written.
    axes : matplotlib.axes.Axes, optional
        Where to draw; in a new figure by default.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ImportError
        If matplotlib is missing.
    """
    if not isinstance(units, Activity):
        raise TypeError(f"units: expected what activity returns, got {type(units).__name__}")
    several = len({node.layer for node in units.nodes}) > 1
    figure, axes = _axes(axes)
    low = np.array([0.0 if node.kind == "relu" else 100 * node.low.mean() for node in units.nodes])
    high = np.array([0.0 if node.kind == "relu" else 100 * node.high.mean() for node in units.nodes])
    dead = np.array([100 * node.dead for node in units.nodes])
    rows = np.arange(len(units.nodes))
    kinds = {node.kind for node in units.nodes}
    if kinds - {"relu"}:
        axes.barh(rows, low, color="C0", label="saturated at the lower end")
        axes.barh(rows, high, left=low, color="C1", label="saturated at the upper end")
    if "relu" in kinds:
        axes.barh(rows, dead, color="0.4", label="never active")
    labels = [f"{node.layer}  {node.node}" if several else node.node for node in units.nodes]
    # Small shares would not be told from none.
    for row, share in enumerate(low + high + dead):
        axes.annotate(f"{share:.0f} %", (share, row), (4, 0), textcoords="offset points", va="center", fontsize="small")
    axes.set_yticks(rows, labels)
    # One bar need not fill the picture.
    axes.set_ylim(max(len(rows), 4) - 0.5, -0.5)
    title = f"Units beyond {units.threshold:g} of their range, or dead"
    axes.set(xlim=(0, 108), xticks=range(0, 101, 20), xlabel="share of units and steps (%)", title=title)
    return _finished(figure, axes, path, always=True)


def plot_updates(history: Mapping[str, Sequence[float]], path: Path | None = None, axes: Any = None) -> Any:
    """The history of :class:`UpdateRatios` over the steps of a training, on a logarithmic axis.

    Parameters
    ----------
    history : mapping of str to sequence of float
        For each parameter one ratio for each step.
    path : path, optional
        Where a PNG is written.
    axes : matplotlib.axes.Axes, optional
        Where to draw; in a new figure by default.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ImportError
        If matplotlib is missing.
    """
    if not isinstance(history, Mapping):
        raise TypeError(f"history: expected a mapping of lists, got {type(history).__name__}")
    figure, axes = _axes(axes)
    axes.axhline(1e-3, color="0.6", linewidth=0.8, linestyle="--", label="usual: about 0.001")
    for name, ratios in history.items():
        values = np.asarray(ratios, np.float64)
        axes.plot(np.arange(1, len(values) + 1), np.where(_shown(values), values, np.nan), label=name, **_marks(values))
    axes.set_yscale("log")
    axes.set(xlabel="step of the optimizer", ylabel="|update| / |parameter|", title="Size of the updates")
    return _finished(figure, axes, path)


def _check_arrays(name: str, given: Any, ndim: int) -> None:
    if not isinstance(given, Mapping):
        raise TypeError(f"{name}: expected a mapping of arrays, got {type(given).__name__}")
    for key, value in given.items():
        if not isinstance(value, np.ndarray) or value.ndim != ndim:
            raise TypeError(f"{name}[{key!r}]: expected an array of {ndim} dimensions, got {type(value).__name__}")


def _axes(axes: Any) -> tuple[Any, Any]:
    if axes is not None:
        if not hasattr(axes, "plot") or not hasattr(axes, "figure"):
            raise TypeError(f"axes: expected the axes of a matplotlib figure, got {type(axes).__name__}")
        return axes.figure, axes
    figure = new_figure((8, 5))
    return figure, figure.subplots()


def new_figure(size: tuple[float, float]) -> Any:
    """An empty figure. Without pyplot the program's own figures and choice of window system are left in peace."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(HINT) from error
    return Figure(figsize=size, layout="constrained")


def _marks(values: Array) -> dict[str, Any]:
    """A single point needs a mark to be seen."""
    return {"marker": "o"} if len(values) == 1 else {}


def _shown(values: Array) -> Any:
    return (values > _LEAST) & (values < _MOST)


def _finished(figure: Any, axes: Any, path: Path | None, always: bool = False) -> Any:
    axes.grid(alpha=0.3)
    _, labels = axes.get_legend_handles_labels()
    if len(labels) > 1 or (labels and always):
        axes.legend(fontsize="small", ncols=1 + (len(labels) - 1) // _LEGEND_ENTRIES)
    if path is not None:
        save(figure, path)
    return figure


def save(figure: Any, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    target = file_path("path", path)
    image = BytesIO()
    figure.savefig(image, dpi=120, format="png")
    write_atomically(target, image.getvalue())
