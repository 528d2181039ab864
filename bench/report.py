"""What :mod:`bench.peers` measured, as Markdown and as a picture."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastrnn import info

from .measure import DISTURBED, cpu, version

PACKAGES = ("fastrnn", "numpy", "numba", "torch", "onnxruntime", "jax", "jaxlib")
MODES = {"forward": "forward", "training": "forward and backward"}
Row = dict[str, Any]


def environment() -> dict[str, Any]:
    """The machine, the versions and the libraries below that the figures depend on."""
    return {
        "cpu": cpu(),
        "processors": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "fastrnn info": info.describe().splitlines(),
    }


def ours(row: Row) -> float:
    """µs a step of the C++ backend; of Numba where that is not built."""
    return float(row["us"].get("fastrnn cpp", row["us"]["fastrnn numba"]))


def best_peer(row: Row) -> str:
    """Name of the quickest library but ours."""
    return min((name for name in row["us"] if not name.startswith("fastrnn")), key=row["us"].__getitem__)


def ratio(row: Row) -> float:
    """How many times as fast as the best peer we are."""
    return float(row["us"][best_peer(row)] / ours(row))


def numba_ratio(row: Row) -> float:
    """How many times as fast as the C++ backend the Numba backend is."""
    return ours(row) / float(row["us"]["fastrnn numba"])


def limits(row: Row) -> str:
    """The machine's own rates, as measured in the same run."""
    names = {"float32": "SGEMM", "float64": "DGEMM"}
    rates = [f"{names[dtype]} {rate / 1e9:.0f} GFLOP/s" for dtype, rate in row["rate"].items()]
    return ", ".join(rates + [f"{name} read {rate / 1e9:.0f} GB/s" for name, rate in row["bandwidth"].items()])


def markdown(rows: list[Row], described: dict[str, Any], rounds: int) -> str:
    """All tables."""
    versions = ", ".join(f"{p} {described[p]}" for p in PACKAGES)
    lines = [
        f"{described['cpu']}, {described['processors']} processors; Python {described['python']}, {versions}.",
        "",
        f"Median of {rounds} round{'s' * (rounds > 1)}, in µs a step of all N sequences. Ratio: the best peer's time / "
        "fastrnn's (C++ backend; Numba where that is not built); above 1 fastrnn is quicker. A star marks figures "
        f"taken while other processes used more than {100 * DISTURBED:.0f} % of the machine.",
        "",
        *_machines([r for r in rows if r["mode"] == "machine"]),
        *_summary([r for r in rows if "us" in r]),
    ]
    grids = [r for r in rows if "bound" in r]
    for threads, dtype, mode in dict.fromkeys((r["threads"], r["dtype"], r["mode"]) for r in grids):
        some = [r for r in grids if (r["threads"], r["dtype"], r["mode"]) == (threads, dtype, mode)]
        lines += [f"### {dtype}, {_threads(threads)}, {MODES[mode]}", "", *_grid(some), ""]
    lines += _means(grids) + _product_shares(grids) + _thread_gains(grids)
    streams = [r for r in rows if "us" in r and "bound" not in r]
    if streams:
        lines += ["### Streaming, one thread", "", *_streams(streams), ""]
    return "\n".join(lines)


def _machines(rows: list[Row]) -> list[str]:
    """The machine's limits, and who is left out."""
    lines = [f"- {_threads(row['threads'])}: {limits(row)}{_star([row])}" for row in rows]
    absent = {name: why for row in rows for name, why in row["missing"].items()}
    return lines + [f"- {name} is left out: {why}" for name, why in absent.items()] + [""]


def _summary(rows: list[Row]) -> list[str]:
    """Geometric mean, least and most of the ratio to the best peer, a line for each grid."""
    cells = list(dict.fromkeys(r["cell"] for r in rows))
    lines = []
    for threads, dtype, mode in dict.fromkeys((r["threads"], r["dtype"], r["mode"]) for r in rows):
        grid = [r for r in rows if (r["threads"], r["dtype"], r["mode"]) == (threads, dtype, mode)]
        name = f"{MODES.get(mode, f'streaming, {mode}')}, {dtype}, {_threads(threads)}"
        lines.append([name, *(_spread([r for r in grid if r["cell"] == cell]) for cell in cells)])
    heads = ["best peer's time / fastrnn's", *cells]
    return [*table(heads, lines), "", "Geometric mean over the grid; in brackets the least and the most.", ""]


def _spread(rows: list[Row]) -> str:
    return spread([ratio(r) for r in rows]) + _star(rows)


def spread(values: Sequence[float]) -> str:
    """Geometric mean, least and most."""
    return f"{geometric(values):.2f} ({min(values):.2f}–{max(values):.2f})" if values else ""


def _threads(n: int) -> str:
    return f"{n} thread{'s' * (n > 1)}"


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *lines)]


def _common(row: Row) -> list[str]:
    """Best peer, its time, ours, the ratio, Numba beside C++."""
    us, peer = row["us"], best_peer(row)
    return [peer, f"{us[peer]:.2f}", f"{ours(row):.2f}", f"{ratio(row):.2f}{_star([row])}", f"{numba_ratio(row):.2f}"]


def _star(rows: list[Row]) -> str:
    """The mark of figures that are not to be trusted."""
    return r"\*" * any(row["others"] > DISTURBED for row in rows)


_HEADS = ["best peer", "its µs", "fastrnn µs", "ratio", "Numba/C++ speed"]


def _grid(rows: list[Row]) -> list[str]:
    lines = [[r["cell"], r["shape"], *_common(r), f"{100 * r['bound'] / ours(r):.0f} %"] for r in rows]
    return table(["cell", "shape", *_HEADS, "share of the machine's limit"], lines)


def _streams(rows: list[Row]) -> list[str]:
    return table(["cell", "shape", "fed", *_HEADS], [[r["cell"], r["shape"], r["mode"], *_common(r)] for r in rows])


def geometric(values: Sequence[float]) -> float:
    """The geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))


def _means(rows: list[Row]) -> list[str]:
    """Ratios over the grid to each library, and Numba's to C++."""
    names = list(dict.fromkeys(n for r in rows for n in r["us"] if not n.startswith("fastrnn")))
    keys = list(dict.fromkeys((r["dtype"], r["threads"], r["mode"], r["cell"]) for r in rows))
    if not keys:
        return []
    lines = []
    for dtype, threads, mode, cell in keys:
        some = [r for r in rows if (r["dtype"], r["threads"], r["mode"], r["cell"]) == (dtype, threads, mode, cell)]
        line = [dtype, str(threads), MODES[mode], cell, *(_mean_to(name, some) for name in names)]
        lines.append([*line, f"{geometric([numba_ratio(r) for r in some]):.2f}{_star(some)}"])
    heads = ["dtype", "threads", "mode", "cell", *names, "Numba/C++ speed"]
    return ["### Each library's time / fastrnn's, geometric means over the grid", "", *table(heads, lines), ""]


def _mean_to(name: str, rows: list[Row]) -> str:
    ratios = [r["us"][name] / ours(r) for r in rows if name in r["us"]]
    return f"{geometric(ratios):.2f}" if ratios else ""


def _product_shares(rows: list[Row]) -> list[str]:
    """Forward and backward of wide shapes: the rate of their matrix products beside that of a large one."""
    wide = [r for r in rows if r["mode"] == "training" and r["sizes"][0] >= 32 and r["sizes"][3] >= 128]
    if not wide:
        return []
    lines = [
        [r["dtype"], str(r["threads"]), r["cell"], r["shape"]]
        + [f"{100 * r['products'] / r['us'][name]:.0f} %" if name in r["us"] else "" for name in _COMPARED]
        for r in wide
    ]
    heads = ["dtype", "threads", "cell", "shape", *_COMPARED]
    title = "### Share of the measured rate of a large matrix product, forward and backward"
    return [title, "", *table(heads, lines), ""]


_COMPARED = ("fastrnn cpp", "fastrnn numba", "PyTorch", "JAX", "NumPy")


def _thread_gains(rows: list[Row]) -> list[str]:
    """One thread's time over that of the most threads, for each backend."""
    times = {(r["cell"], r["shape"], r["dtype"], r["mode"], r["threads"]): r for r in rows}
    most = max((r["threads"] for r in rows), default=1)
    pairs = {k[:4]: (times[(*k[:4], 1)], row) for k, row in times.items() if k[4] == most > 1 and (*k[:4], 1) in times}
    if not pairs:
        return []
    names = ("fastrnn cpp", "fastrnn numba", "PyTorch")
    lines = [[*key[:3], MODES[key[3]], *(_gain(one, two, name) for name in names)] for key, (one, two) in pairs.items()]
    heads = ["cell", "shape", "dtype", "mode", *names]
    return [f"### Speed with {most} threads over that with one", "", *table(heads, lines), ""]


def _gain(one: Row, more: Row, name: str) -> str:
    if name not in one["us"] or name not in more["us"]:
        return ""
    return f"{one['us'][name] / more['us'][name]:.2f}{_star([one, more])}"


def draw(rows: list[Row], path: Path) -> None:
    """A heat map of the ratios to the best peer, one panel for each number of threads and dtype."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt
    except ImportError:
        print("no picture: matplotlib is not installed", file=sys.stderr)
        return
    grids = [r for r in rows if "bound" in r]
    panels = list(dict.fromkeys((r["threads"], r["dtype"]) for r in grids))
    if not panels:
        return
    figure, axes = plt.subplots(1, len(panels), figsize=(6.5 * len(panels), 7), squeeze=False)
    for ax, (threads, dtype) in zip(axes[0], panels, strict=True):
        _panel(ax, [r for r in grids if (r["threads"], r["dtype"]) == (threads, dtype)])
        ax.set_title(f"best peer's time / fastrnn's: {dtype}, {_threads(threads)}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
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
