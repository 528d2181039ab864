"""How far an optimizer moves the parameters, in relation to their size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arrays import Array
from ..errors import array_like, float_array, known_keys

Params = Mapping[str, Array]


def update_ratios(before: Params, after: Params) -> dict[str, float]:
    """Norm of each parameter's update over the norm of the parameter.

    About 1e-3 for each step of an optimizer is usual; far less learns nothing, far more forgets what was learned.

    Parameters
    ----------
    before, after : mapping of str to array
        Parameters before the update (copies: an optimizer updates in place) and after.

    Returns
    -------
    dict of str to float
        By the names of the parameters; infinite where a parameter of zeros was moved, 0 where it was not.

    Raises
    ------
    TypeError, ValueError
        If an argument is not a mapping of float arrays, or the two do not have the same names and shapes.
    """
    for name, given in (("before", before), ("after", after)):
        if not isinstance(given, Mapping):
            raise TypeError(f"{name}: expected a mapping of arrays, got {type(given).__name__}")
    known_keys("after", after, list(before), ())
    ratios = {}
    for name, value in before.items():
        old = float_array(f"before[{name!r}]", value)
        new = array_like(f"after[{name!r}]", after[name], old.shape, old.dtype, f"before[{name!r}]")
        ratios[name] = _ratio(np.asarray(old, np.float64), np.asarray(new, np.float64))
    return ratios


def _ratio(old: Array, new: Array) -> float:
    moved, size = float(np.linalg.norm(new - old)), float(np.linalg.norm(old))
    return moved / size if size else (np.inf if moved else 0.0)


class UpdateRatios:
    """Ratio of update to weight at every step of a training.

    Parameters
    ----------
    params : mapping of str to array
        ``model.params`` or ``layer.params``: the arrays that the optimizer updates in place.

    Attributes
    ----------
    history : dict of str to list of float
        For each parameter one ratio for each :meth:`record`.

    Raises
    ------
    TypeError
        If `params` is not a mapping of float32 or float64 arrays.

    Examples
    --------
    >>> ratios = diagnostics.UpdateRatios(model.params)
    >>> for batch in data:
    ...     train_step(model, optimizer, batch)
    ...     ratios.record()
    >>> diagnostics.plot_updates(ratios.history, "updates.png")
    """

    def __init__(self, params: Params) -> None:
        if not isinstance(params, Mapping):
            raise TypeError(f"params: expected a mapping of arrays, got {type(params).__name__}")
        self._params: dict[str, Any] = {k: float_array(f"params[{k!r}]", v) for k, v in params.items()}
        self._before = {name: value.copy() for name, value in self._params.items()}
        self.history: dict[str, list[float]] = {name: [] for name in self._params}

    def record(self) -> dict[str, float]:
        """Note what has changed since the last call, or since the beginning.

        Returns
        -------
        dict of str to float
            The ratio of each parameter, as :func:`update_ratios` gives it.
        """
        ratios = update_ratios(self._before, self._params)
        for name, ratio in ratios.items():
            self.history[name].append(ratio)
            self._before[name][...] = self._params[name]
        return ratios
