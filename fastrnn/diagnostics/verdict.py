"""Gradients in words: vanishing, healthy or exploding, since which step, how fast, and what to try."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Array
from ..model import Model
from ..recurrent import GRU, LSTM, Recurrent
from .gradients import GradientFlow, flow_of
from .saturation import Activity, activity
from .unrolled import Stack, probe, unroll

# A gradient that is a thousandth of what it was, or a thousand times, no longer does what it should.
LIMIT = 1e3
# Above this share of saturated units, or of dead ones, it is worth a word.
MANY = 0.3
VERDICTS = ("exploding", "vanishing", "healthy")


@dataclass(frozen=True)
class Reach:
    """How far the gradient of a loss at the end of the sequence reaches in one layer.

    Attributes
    ----------
    layer : str
    verdict : {"vanishing", "healthy", "exploding"}
        Whether the gradient falls below a thousandth of what it is at the end, or rises above a thousand times that.
    since : int or None
        The step, in time, where it first does, going back from the end.
    steps : int
        How many steps it has gone by then; T if it is healthy.
    factor : float
        By how much a step back multiplies it, on average (least squares on the logarithm), also beyond `since`: the
        first steps may differ, as where the output's own nonlinearity is saturated.
    """

    layer: str
    verdict: str
    since: int | None
    steps: int
    factor: float

    def __str__(self) -> str:
        if self.verdict == "healthy":
            return f"{self.layer}: healthy; on average multiplied by {self.factor:.3g} a step, over {self.steps} steps"
        how = "0.1 % of it is left" if self.verdict == "vanishing" else "it is 1000 times as large"
        return (
            f"{self.layer}: {self.verdict} since step {self.since}: {self.steps} steps before the end {how}; "
            f"on average multiplied by {self.factor:.3g} a step ({_pace(self.factor)})"
        )


@dataclass(frozen=True)
class Report:
    """What :func:`report` found; its text is meant to be read.

    Attributes
    ----------
    verdict : {"vanishing", "healthy", "exploding"}
        Of all layers together: exploding before vanishing before healthy.
    reaches : tuple of Reach
        Of each layer, from below.
    flow : GradientFlow
        Of a loss at the end of the sequence.
    activity : Activity
        Saturated and dead units.
    advice : tuple of str
        What to try, the most likely first.
    """

    verdict: str
    reaches: tuple[Reach, ...]
    flow: GradientFlow
    activity: Activity
    advice: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"gradients: {self.verdict}", *(f"  {reach}" for reach in self.reaches)]
        nodes = str(self.activity)
        if nodes:
            parts += ["units, over all steps and sequences:", *(f"  {line}" for line in nodes.splitlines())]
        if self.advice:
            parts += ["what to try:", *(f"  - {line}" for line in self.advice)]
        return "\n".join(parts)


def report(
    layer: Recurrent | Model,
    x: Array,
    state: Any = None,
    lengths: Any = None,
    *,
    mask: Any = None,
    resets: Any = None,
) -> Report:
    """Say whether gradients vanish or explode on their way back through time, since which step, and what to try.

    The gradient that is followed is that of a loss at each sequence's last step, as :func:`gradient_flow` has it by
    default: whether it reaches the first steps decides what the network can learn to remember.

    Parameters
    ----------
    layer : Recurrent or Model
        Nothing of it changes; it runs without dropout.
    x : array
        Typical input, as long as the dependencies that are to be learned.
    state, lengths, mask, resets
        As of a call.

    Returns
    -------
    Report
        ``print(report(model, x))`` shows it.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.
    """
    unrolled = unroll(layer, x, state, lengths, mask, resets, pullbacks=True)
    flow = flow_of(unrolled, probe(unrolled))
    units = activity(layer, x, state, lengths, mask=mask, resets=resets)
    reaches = tuple(reach(name, norms, flow.from_the_end[name]) for name, norms in flow.layers.items())
    verdict = next(v for v in VERDICTS if any(r.verdict == v for r in reaches) or v == "healthy")
    recurrent = [part.layer for part in unrolled.parts if isinstance(part, Stack)]
    return Report(verdict, reaches, flow, units, tuple(_advice(reaches, units, recurrent)))


def reach(layer: str, norms: Array, from_the_end: bool = False) -> Reach:
    """The reach of the gradient norms (T,), by time, of a loss at the end of the direction's own order."""
    back = np.asarray(norms if from_the_end else norms[::-1], np.float64)
    T = len(back)
    # Past the end of all sequences there is none.
    begin = int((back != 0).argmax())
    if not back[begin]:
        return Reach(layer, "vanishing", 0 if from_the_end else T - 1, 0, 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        relative = back[begin:] / back[begin]
    # A gradient that is no number was infinite before.
    exploded, vanished = ~(relative <= LIMIT), relative < 1 / LIMIT
    if not (exploded.any() or vanished.any()):
        return Reach(layer, "healthy", None, len(relative), _factor(relative))
    steps = int((exploded | vanished).argmax())
    verdict = "exploding" if exploded[steps] else "vanishing"
    place = begin + steps
    # Beyond the turning point it is another gradient, as that of the other end where layers run both ways.
    turn = int(np.nanargmin(relative)) if verdict == "vanishing" else len(relative) - 1
    factor = _factor(relative[: max(turn, steps) + 1])
    return Reach(layer, verdict, place if from_the_end else T - 1 - place, steps, factor)


def _factor(relative: Array) -> float:
    """Factor of a step back: the slope of the logarithm by least squares, as far as there are numbers."""
    usable = (relative > 0) & np.isfinite(relative)
    if usable.sum() < 2:
        return 1.0 if usable.all() else (0.0 if (relative == 0).any() else math.inf)
    steps = np.flatnonzero(usable)
    slope = float(np.polyfit(steps, np.log(relative[usable]), 1)[0])
    return math.exp(slope) if slope < 700 else math.inf


def _pace(factor: float) -> str:
    if factor in (0.0, math.inf):
        return "at once"
    if factor < 1:
        return f"halved every {math.log(0.5) / math.log(factor):.2g} steps"
    return f"doubled every {math.log(2) / math.log(factor):.2g} steps" if factor > 1 else "constant"


def _advice(reaches: tuple[Reach, ...], units: Activity, layers: list[Recurrent]) -> list[str]:
    verdicts = {r.verdict for r in reaches}
    advice: list[str] = []
    if "exploding" in verdicts:
        advice += _against_exploding(min(r.steps for r in reaches if r.verdict == "exploding"))
    if "vanishing" in verdicts:
        advice += _against_vanishing(reaches, layers)
    saturated = [n for n in units.nodes if n.saturated > MANY]
    if saturated:
        worst = max(saturated, key=lambda n: n.saturated)
        advice.append(
            f"{worst.saturated:.0%} of {worst.node} in {worst.layer} are saturated: smaller inputs (standardize them), "
            "smaller initial weights, or a smaller learning rate"
        )
    if any(n.dead > MANY for n in units.nodes):
        worst = max(units.nodes, key=lambda n: n.dead)
        advice.append(
            f"{worst.dead:.0%} of the units of {worst.layer} are dead: a smaller learning rate, initial values with an "
            "identity as Wh (Le et al. 2015), or tanh"
        )
    return advice


def _against_exploding(steps: int) -> list[str]:
    return [
        "clip: fastrnn.optim.clip_grad_norm(model.grads, 1.0) before every optimizer step (Pascanu et al. 2013)",
        f"truncate: backward(dy, truncate=k) with k below {max(steps, 2)} stops the growth, and what is older is not "
        "learned",
        "initial values: Wh orthogonal, or scaled down so that its spectral radius is at most 1",
    ]


def _against_vanishing(reaches: tuple[Reach, ...], layers: list[Recurrent]) -> list[str]:
    farthest = min((r for r in reaches if r.verdict == "vanishing"), key=lambda r: r.steps)
    advice = []
    if any(isinstance(layer, LSTM) for layer in layers):
        advice.append(
            "initial values: a larger bias of the forget gate, 1 (Jozefowicz et al. 2015) or up to the logarithm of "
            "the steps to remember (Tallec & Ollivier 2018): add to bx_l0[H:2*H]"
        )
    elif any(isinstance(layer, GRU) for layer in layers):
        advice.append(
            "initial values: a larger bias of the update gate z, up to the logarithm of the steps to remember "
            "(Tallec & Ollivier 2018): add to bx_l0[H:2*H]"
        )
    else:
        advice.append("gate: an LSTM or GRU carries its state along almost unchanged (Hochreiter & Schmidhuber 1997)")
    if any(layer.cell.name == "rnn_sigmoid" for layer in layers):
        advice.append("tanh in place of sigmoid, whose slope is at most 1/4")
    if not any(isinstance(layer, LSTM | GRU) for layer in layers):
        advice.append("initial values: Wh orthogonal (spectral radius 1), or the identity with relu (Le et al. 2015)")
    advice.append(
        f"if nothing older than {farthest.steps} steps matters, nothing is wrong, and truncated BPTT of some times as "
        "many steps loses little"
    )
    return advice
