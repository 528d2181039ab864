"""Loss curves as a PNG. matplotlib, the optional extra ``plot``, is imported only when a plot is made."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..model_file import write_atomically
from .loop import History

HINT = "no plot: matplotlib is not installed; pip install 'fastrnn[plot]'"


def save_curves(path: Path, history: History, bigram_bits: float, title: str) -> None:
    """Write the curves of training and held-out bits per character to `path`, whole or not at all.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    """
    # Figure alone, without pyplot, leaves the program's own figures and choice of window system in peace.
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    per_step = np.arange(1, len(history.bits) + 1) * history.characters_per_step
    bits = np.array(history.bits)
    axes.plot(per_step, bits, color="C0", alpha=0.25, linewidth=0.6)
    axes.plot(per_step, _smooth(bits), color="C0", label="training")
    characters, _, held_out = zip(*history.checks, strict=True)
    axes.plot(characters, held_out, color="C1", marker="o", label="held out")
    axes.axhline(bigram_bits, color="0.5", linestyle="--", label="bigram model, held out")
    axes.set(xlabel="characters trained on", ylabel="bits per character", title=title)
    axes.set_ylim(bottom=0.9 * min(bits.min(), *held_out), top=1.05 * max(bits.max(), bigram_bits))
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.grid(alpha=0.3)
    axes.legend()
    image = BytesIO()
    figure.savefig(image, dpi=120, format="png")
    write_atomically(path, image.getvalue())


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each value and up to a fiftieth of all before it."""
    width = max(1, len(values) // 50)
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    means: NDArray[np.float64] = (sums[ends] - sums[starts]) / (ends - starts)
    return means
