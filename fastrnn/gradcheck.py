"""Whether the gradients of a cell are those of its forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import Array
from .cells import Cell
from .errors import float_array, generator, positive_int
from .prepared import Prepared
from .recurrent import Recurrent

__all__ = ["GradientCheck", "GradientRow", "gradcheck"]

# Fourth-order central difference (Fornberg, Math. Comp. 51 (1988), table 1): offsets in steps, and weights.
_STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))
# Where the first step crosses a kink, as that of relu, the second, which rounds more, is the one that counts.
_STEPS = (1e-4, 1e-5)


@dataclass(frozen=True)
class GradientRow:
    """One array of a :class:`GradientCheck`, and its element that agrees least.

    Attributes
    ----------
    name : str
        The parameter, ``x`` or a state.
    shape : tuple of int
    checked, wrong : int
        Elements compared, and those that disagree.
    error : float
        The largest difference, over ``rtol * (|analytic| + |numeric|)/2 + atol``: above 1 is wrong.
    index : tuple of int
        Where that is.
    analytic, numeric : float
        The gradient there by BPTT and by finite differences.
    smooth : bool
        Whether differences of two step sizes agree there; if not, the function has a kink or a jump at that place.
    """

    name: str
    shape: tuple[int, ...]
    checked: int
    wrong: int
    error: float
    index: tuple[int, ...]
    analytic: float
    numeric: float
    smooth: bool

    def __str__(self) -> str:
        verdict = "ok" if not self.wrong else f"WRONG in {self.wrong} of {self.checked} elements"
        place = f"[{', '.join(map(str, self.index))}]"
        kink = "" if self.smooth else "; not smooth there (a kink, as that of relu at 0?)"
        return (
            f"{self.name:12s} {self.shape!s:14s} {verdict}; least agreement at {place}: "
            f"BPTT {self.analytic:.10g}, differences {self.numeric:.10g}{kink}"
        )


@dataclass(frozen=True)
class GradientCheck:
    """What :func:`gradcheck` found; true if all gradients agree, and a table as text.

    Attributes
    ----------
    cell : str
        Name of the cell.
    rows : tuple of GradientRow
        One for each array that has a gradient.
    """

    cell: str
    rows: tuple[GradientRow, ...]

    def __bool__(self) -> bool:
        return not self.wrong

    @property
    def wrong(self) -> tuple[GradientRow, ...]:
        """The rows that disagree."""
        return tuple(row for row in self.rows if row.wrong)

    def __str__(self) -> str:
        names = ", ".join(row.name for row in self.wrong)
        verdict = f"gradients of {names} are wrong" if names else "all gradients agree with finite differences"
        return "\n".join([f"cell {self.cell}: {verdict}", *(f"  {row}" for row in self.rows)])


def gradcheck(
    layer_or_cell: Cell | Recurrent,
    x: Array | None = None,
    *,
    input_size: int = 3,
    hidden_size: int = 4,
    steps: int = 5,
    batch: int = 2,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    samples: int = 100,
    seed: int | None = 0,
) -> GradientCheck:
    """Compare gradients by BPTT with finite differences of the forward pass, in float64, on the current backend.

    The loss is a random linear function of all outputs and of the last states; initial states are random.

    Parameters
    ----------
    layer_or_cell : Cell or Recurrent
        Of a cell, a layer with random parameters is made; of a layer, its own parameters are converted to float64,
        and it stays as it is.
    x : (T, N, D) array, optional
        Input, float32 or float64, (N, T, D) for a `batch_first` layer; standard normal by default.
    input_size, hidden_size : int
        D and H for a cell.
    steps, batch : int
        T and N, if there is no `x`.
    rtol, atol : float
        The gradients agree where they differ by at most ``rtol * (|analytic| + |numeric|)/2 + atol * scale``, `scale`
        the largest gradient of the array, at least 1.
    samples : int
        Elements of each array to compare, drawn at random if it has more.
    seed : int, optional
        For all that is random.

    Returns
    -------
    GradientCheck
        True if all agree; its text says which parameter and element does not.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    Examples
    --------
    >>> check = fastrnn.gradcheck(my_cell)
    >>> assert check, check
    """
    rng = generator("seed", seed)
    steps, batch, samples = (positive_int(*pair) for pair in (("steps", steps), ("batch", batch), ("samples", samples)))
    for name, value in (("rtol", rtol), ("atol", atol)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(f"{name}: expected a finite number of at least 0, got {value!r}")
    prepared, params = _in_float64(layer_or_cell, input_size, hidden_size, rng)
    layout = prepared.layout
    outer = (batch, steps) if layout.batch_first else (steps, batch)
    given = rng.standard_normal((*outer, layout.input_size)) if x is None else float_array("x", x, 3)
    inputs = np.array(given, np.float64)
    N = inputs.shape[0 if layout.batch_first else 1]
    shape = (len(layout.names), N, layout.hidden_size)
    state = tuple(0.5 * rng.standard_normal(shape) for _ in layout.cell.states)
    arrays = {**params, "x": inputs, **{f"state {s}": a for s, a in zip(layout.cell.states, state, strict=True)}}
    loss, gradients = _problem(prepared, inputs, state, rng)
    found = dict(zip(arrays, gradients(params), strict=True))
    rows = [_compare(name, found[name], array, loss, rtol, atol, samples, rng) for name, array in arrays.items()]
    return GradientCheck(layout.cell.name, tuple(row for row in rows if row is not None))


def _in_float64(
    layer_or_cell: Any, input_size: int, hidden_size: int, rng: np.random.Generator
) -> tuple[Prepared, dict[str, Array]]:
    """The layer on parameters of its own in float64, without dropout, and these parameters."""
    if isinstance(layer_or_cell, Cell):
        seed = int(rng.integers(1 << 31))
        layer = Recurrent(layer_or_cell, input_size, hidden_size, dtype="float64", seed=seed)
    elif isinstance(layer_or_cell, Recurrent):
        layer = layer_or_cell
    else:
        expected = "expected a Cell or a recurrent layer"
        raise TypeError(f"layer_or_cell: {expected}, got {type(layer_or_cell).__name__}")
    params = {name: np.array(value, np.float64) for name, value in layer.params.items()}
    return Prepared(layer._layout()._replace(dtype=np.dtype(np.float64)), params), params


def _problem(
    prepared: Prepared, x: Array, state: tuple[Array, ...], rng: np.random.Generator
) -> tuple[Callable[[], float], Callable[[Mapping[str, Array]], list[Array]]]:
    """The loss as a function of what the arrays hold, and the function that gives their gradients by BPTT."""
    first = state if len(state) > 1 else state[0]
    y, _, pullback = prepared.vjp(x, first)
    dy, dlast = rng.standard_normal(y.shape), tuple(rng.standard_normal(s.shape) for s in state)

    def loss() -> float:
        out, last = prepared(x, first)
        lasts = last if len(state) > 1 else (last,)
        return float((out * dy).sum() + sum((s * d).sum() for s, d in zip(lasts, dlast, strict=True)))

    def gradients(params: Mapping[str, Array]) -> list[Array]:
        dx, dfirst, grads = pullback(dy, dlast if len(state) > 1 else dlast[0])
        assert dx is not None
        return [*(grads[name] for name in params), dx, *(dfirst if len(state) > 1 else (dfirst,))]

    return loss, gradients


def _compare(
    name: str,
    gradient: Array,
    array: Array,
    loss: Callable[[], float],
    rtol: float,
    atol: float,
    samples: int,
    rng: np.random.Generator,
) -> GradientRow | None:
    if not array.size:
        return None
    size = array.size
    places = np.arange(size) if size <= samples else np.sort(rng.choice(size, samples, replace=False))
    floor = atol * max(1.0, float(np.abs(gradient).max()))

    def error(analytic: float, numeric: float) -> float:
        difference = abs(analytic - numeric) / (0.5 * rtol * (abs(analytic) + abs(numeric)) + floor)
        # NaN compares false with everything; here it is the worst.
        return difference if difference == difference else math.inf

    worst: tuple[float, tuple[int, ...], float, float, bool] = (-1.0, (), 0.0, 0.0, True)
    wrong = 0
    for place in places:
        index = tuple(int(i) for i in np.unravel_index(place, array.shape))
        analytic = float(gradient[index])
        numeric = first = _difference(loss, array, index, _STEPS[0])
        if error(analytic, numeric) > 1:
            second = _difference(loss, array, index, _STEPS[1])
            numeric = min(first, second, key=lambda value: error(analytic, value))
            smooth = abs(first - second) <= 1e-3 * max(abs(first), abs(second), floor)
        else:
            smooth = True
        wrong += error(analytic, numeric) > 1
        worst = max(worst, (error(analytic, numeric), index, analytic, numeric, smooth), key=lambda found: found[0])
    return GradientRow(name, array.shape, len(places), wrong, *worst)


def _difference(loss: Callable[[], float], array: Array, index: tuple[int, ...], step: float) -> float:
    there = array[index]
    total = 0.0
    for offset, weight in _STENCIL:
        array[index] = there + offset * step
        total += weight * loss() / step
    array[index] = there
    return total
