"""The ratios of :mod:`bench.peers` as a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from .measure import Row
from .results import Result, all_rows
from .tables import ratio, threads_in_words


def draw(results: list[Result], path: Path) -> None:
    """A heat map of the ratios to the best peer, one panel for each number of threads and dtype."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    grids = [r for r in all_rows(results) if "bound" in r]
    panels = list(dict.fromkeys((r["threads"], r["dtype"]) for r in grids))
    if not panels:
        return
    figure, axes = plt.subplots(1, len(panels), figsize=(6.5 * len(panels), 7), squeeze=False)
    for ax, (threads, dtype) in zip(axes[0], panels, strict=True):
        _panel(ax, [r for r in grids if (r["threads"], r["dtype"]) == (threads, dtype)])
        ax.set_title(f"best peer's time / fastrnn's: {dtype}, {threads_in_words(threads)}")
    figure.tight_layout()
    # Without the version of the program the picture changes only with the figures.
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def _panel(ax: Any, rows: list[Row]) -> None:
    shapes = list(dict.fromkeys(r["shape"] for r in rows))
    columns = list(dict.fromkeys((r["cell"], r["mode"]) for r in rows))
    values = {(r["shape"], (r["cell"], r["mode"])): ratio(r) for r in rows}
    # A run that was cut short has no figure for some; they stay white.
    ratios = np.array([[values.get((s, c), math.nan) for c in columns] for s in shapes])
    ax.imshow(np.log2(ratios), cmap="RdYlGn", vmin=-2, vmax=2, aspect="auto")
    for (i, j), value in np.ndenumerate(ratios):
        ax.text(j, i, "" if math.isnan(value) else f"{value:.2f}", ha="center", va="center")
    ax.set_xticks(range(len(columns)), [f"{cell}\n{mode}" for cell, mode in columns])
    ax.set_yticks(range(len(shapes)), shapes)
