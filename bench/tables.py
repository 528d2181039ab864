"""Markdown tables of what :mod:`bench.peers` measured, and what all tables share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .measure import DISTURBED, Row
from .problems import MODES
from .results import Result, all_rows


def ours(row: Row) -> float:
    """µs a step of the C++ backend; of Numba where that is not built."""
    return float(row["us"].get("fastrnn cpp", row["us"]["fastrnn numba"]))


def best_peer(row: Row) -> str:
    """Name of the quickest library but ours."""
    us: dict[str, float] = row["us"]
    return min((name for name in us if not name.startswith("fastrnn")), key=us.__getitem__)


def ratio(row: Row) -> float:
    """How many times as fast as the best peer we are."""
    return float(row["us"][best_peer(row)] / ours(row))


def numba_ratio(row: Row) -> float:
    """How many times as fast as the C++ backend the Numba backend is."""
    return ours(row) / float(row["us"]["fastrnn numba"])


def peers(results: list[Result]) -> list[str]:
    """All tables of :mod:`bench.peers`."""
    rows = all_rows(results)
    lines = [
        "In µs a step of all N sequences. Ratio: the best peer's time / fastrnn's (C++ backend; Numba where that is "
        "not built); above 1 fastrnn is quicker. A star marks figures taken while other processes used more than "
        f"{100 * DISTURBED:.0f} % of the machine.",
        "",
        *limits(results),
        "",
    ]
    grids = [r for r in rows if "bound" in r]
    for threads, dtype, mode in _kinds(grids):
        some = [r for r in grids if _kind(r) == (threads, dtype, mode)]
        lines += [f"### {dtype}, {threads_in_words(threads)}, {MODES[mode]}", "", *_grid(some), ""]
    lines += _means(grids) + _product_shares(grids) + _thread_gains(grids)
    fed = streams(results)
    return lines + (["### Streaming, one thread", "", *fed] if fed else [])


def limits(results: list[Result]) -> list[str]:
    """The machine's limits as measured in the same run, and who was left out."""
    rows = [row for row in all_rows(results) if row["mode"] == "machine"]
    lines = [f"- {threads_in_words(row['threads'])}: {_rates(row)}{_star([row])}" for row in rows]
    absent = {name: why for row in rows for name, why in row["missing"].items()}
    return lines + [f"- {name} is left out: {why}" for name, why in absent.items()]


def _rates(row: Row) -> str:
    names = {"float32": "SGEMM", "float64": "DGEMM"}
    rates = [f"{names[dtype]} {rate / 1e9:.0f} GFLOP/s" for dtype, rate in row["rate"].items()]
    return ", ".join(rates + [f"{name} read {rate / 1e9:.0f} GB/s" for name, rate in row["bandwidth"].items()])


def peers_summary(results: list[Result]) -> list[str]:
    """Geometric mean, least and most of the ratio to the best peer, a line for each grid."""
    rows = [row for row in all_rows(results) if "us" in row]
    cells = list(dict.fromkeys(r["cell"] for r in rows))
    lines = []
    for threads, dtype, mode in _kinds(rows):
        grid = [r for r in rows if _kind(r) == (threads, dtype, mode)]
        name = f"{mode_in_words(mode)}, {dtype}, {threads_in_words(threads)}"
        lines.append([name, *(_spread([r for r in grid if r["cell"] == cell]) for cell in cells)])
    heads = ["best peer's time / fastrnn's", *cells]
    return [*table(heads, lines), "", "Geometric mean over the grid; in brackets the least and the most."]


def behind(results: list[Result]) -> list[str]:
    """The points where a peer is quicker."""
    rows = [row for row in all_rows(results) if "us" in row]
    lost = [
        f"- {_point_in_words(row)}: {best_peer(row)} {ratio(row):.2f}{_star([row])}" for row in rows if ratio(row) < 1
    ]
    count = f"A peer is quicker at {len(lost)} of {len(rows)} points"
    return [f"{count}; its time / fastrnn's:", "", *lost] if lost else [f"{count}."]


def _point_in_words(row: Row) -> str:
    mode, threads = mode_in_words(row["mode"]), threads_in_words(row["threads"])
    return f"{row['cell']} {row['shape']}, {mode}, {row['dtype']}, {threads}"


def streams(results: list[Result]) -> list[str]:
    """The table of what is fed step by step or in blocks."""
    rows = [r for r in all_rows(results) if "us" in r and "bound" not in r]
    lines = [[r["cell"], r["shape"], r["mode"], *_common(r)] for r in rows]
    return table(["cell", "shape", "fed", *_HEADS], lines) if rows else []


def mode_in_words(mode: str) -> str:
    """What is called, or how a stream is fed."""
    return MODES.get(mode, f"streaming, {mode}")


def _kind(row: Row) -> tuple[int, str, str]:
    return row["threads"], row["dtype"], row["mode"]


def _kinds(rows: list[Row]) -> list[tuple[int, str, str]]:
    return list(dict.fromkeys(map(_kind, rows)))


def _spread(rows: list[Row]) -> str:
    return spread([ratio(r) for r in rows]) + _star(rows)


def spread(values: Sequence[float]) -> str:
    """Geometric mean, least and most."""
    return f"{geometric(values):.2f} ({min(values):.2f}–{max(values):.2f})" if values else ""


def threads_in_words(n: int) -> str:
    """A number of threads with its noun."""
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
