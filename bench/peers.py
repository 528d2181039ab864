"""fastrnn beside the libraries that people would use instead: `python -m bench.peers`.

A process for each number of threads, with BLAS and the processors it may use pinned alike for all libraries. In it
the libraries take turns, round by round; what they compute is compared before anything is timed, and conversion of
inputs and results is counted. Time is that of one step of a sequence, in microseconds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .measure import machine, medians

PACKAGES = ("fastrnn", "numpy", "numba", "torch", "onnxruntime", "jax")
BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "FASTRNN_NUM_THREADS")
CELLS = ("RNN", "LSTM", "GRU")
# (N, T, D, H)
GRID = [
    (1, 1000, 1, 20),
    (1, 100, 64, 64),
    (1, 100, 128, 128),
    (1, 100, 256, 256),
    (1, 100, 512, 512),
    (8, 100, 32, 64),
    (16, 128, 64, 128),
    (20, 35, 100, 100),
    (32, 100, 128, 128),
    (32, 100, 256, 256),
    (64, 50, 256, 512),
    (128, 50, 512, 512),
    (32, 784, 1, 128),
    (50, 2048, 1, 32),
]
GRID_64 = [GRID[i] for i in (0, 2, 5, 7, 8, 12)]
QUICK = [(1, 20, 1, 20), (8, 10, 32, 64)]
STREAM_SIZES = (8, 16, 32, 64)
BLOCK = 64
Row = dict[str, Any]


def main() -> None:
    """Measure, print the tables, write them down."""
    options = _options()
    if options.worker:
        return _work(options)
    rows: list[Row] = []
    for threads in options.threads:
        rows += _in_child(options, threads)
    text = report(rows, machine(*PACKAGES), options.rounds)
    print(text)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "peers.md").write_text(text, encoding="utf-8")
        result = {"machine": machine(*PACKAGES), "rounds": options.rounds, "rows": rows}
        (options.output / "peers.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
        draw(rows, options.output / "peers.png")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--shapes", nargs="+", type=int, help="indices into the grid (default: all)")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="numbers of threads (default: 1 2)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measurement (default: 5)")
    parser.add_argument("--parts", nargs="+", choices=("float32", "float64", "stream"))
    parser.add_argument("--quick", action="store_true", help="two small shapes, to see that it runs")
    parser.add_argument("--output", type=Path, help="folder for peers.md, peers.json and peers.png")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.parts = options.parts or ["float32", "float64", "stream"]
    return options


def _in_child(options: argparse.Namespace, threads: int) -> list[Row]:
    """Rows of a process that has `threads` processors."""
    flags = "" if threads > 1 else "--xla_cpu_multi_thread_eigen=false"
    env = {**os.environ, **dict.fromkeys(BLAS_THREADS, str(threads)), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "bench.peers", "--worker", str(threads), "--rounds", str(options.rounds)]
    command += ["--cells", *options.cells, "--parts", *options.parts]
    command += ["--shapes", *map(str, options.shapes)] if options.shapes else []
    command += ["--quick"] if options.quick else []
    rows = []
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            rows.append(json.loads(line))
            print(_progress(rows[-1]), file=sys.stderr, flush=True)
    if child.returncode:
        raise SystemExit(f"the process with {threads} threads ended with code {child.returncode}")
    return rows


def _progress(row: Row) -> str:
    times = ", ".join(f"{name} {us:.2f}" for name, us in row["us"].items())
    return f"{row['threads']} threads {row['dtype']} {row['cell']} {row['shape']} {row['mode']}: {times}"


# ---- in the child


def _work(options: argparse.Namespace) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.worker])
    from . import roofline

    limits = roofline.measure()
    for dtype in ("float32", "float64"):
        if dtype not in options.parts or (dtype == "float64" and options.worker > 1):
            continue
        shapes = QUICK if options.quick else GRID if dtype == "float32" else GRID_64
        chosen = [shapes[i] for i in options.shapes if i < len(shapes)] if options.shapes else shapes
        for shape in chosen:
            for cell in options.cells:
                for row in _measure(cell, shape, dtype, options.worker, options.rounds, limits):
                    print(json.dumps(row), flush=True)
    if "stream" in options.parts and options.worker == 1:
        for row in _measure_streams(options):
            print(json.dumps(row), flush=True)


def _measure(cell: str, sizes: tuple[int, ...], dtype: str, threads: int, rounds: int, limits: Any) -> Iterable[Row]:
    from . import roofline
    from .cases import Shape
    from .contenders import OURS, PEERS, Problem, assert_same, choose, installed

    shape = Shape(*sizes)
    problem = Problem(cell, shape, dtype)
    names = {**OURS, **PEERS}
    if dtype == "float64":
        names = {k: v for k, v in names.items() if k in (*OURS, "PyTorch", "NumPy")}
    contenders = {name: kind(problem, threads) for name, kind in names.items() if installed(name)}
    for mode in ("forward", "training"):
        runs: dict[str, Callable[[], Any]] = {
            name: getattr(c, mode) for name, c in contenders.items() if mode == "forward" or c.trains
        }
        choose("NumPy")
        want = runs["NumPy"]()
        for name, run in runs.items():
            choose(name)
            assert_same(name, run(), want, dtype)
        seconds = medians(runs, rounds, 0.02, choose)
        yield {
            "threads": threads,
            "dtype": dtype,
            "cell": cell,
            "shape": str(shape),
            "mode": mode,
            "us": {name: 1e6 * s / shape.T for name, s in seconds.items()},
            "bound": 1e6 * roofline.bound(limits, cell, shape, dtype, mode == "training") / shape.T,
            "product rate": limits.operations[dtype],
            "bandwidth": {level.name: level.bandwidth for level in limits.levels},
        }


def _measure_streams(options: argparse.Namespace) -> Iterable[Row]:
    from .contenders import choose
    from .streams import contenders

    for cell in options.cells:
        for size in STREAM_SIZES[:1] if options.quick else STREAM_SIZES:
            for mode, steps in (("step", 1), (f"blocks of {BLOCK}", BLOCK)):
                seconds = medians(contenders(cell, size, steps), options.rounds, 0.02, choose)
                us = {name: 1e6 * s / steps for name, s in seconds.items()}
                yield {
                    "threads": 1,
                    "dtype": "float32",
                    "cell": cell,
                    "shape": f"N1 D{size} H{size}",
                    "mode": mode,
                    "us": us,
                }


# ---- the report


def best_peer(row: Row) -> str:
    """Name of the quickest library but ours."""
    return min((name for name in row["us"] if not name.startswith("fastrnn")), key=row["us"].__getitem__)


def ratio(row: Row) -> float:
    """How many times as fast as the best peer the C++ backend is; Numba where that is not built."""
    ours = row["us"].get("fastrnn cpp", row["us"]["fastrnn numba"])
    return float(row["us"][best_peer(row)] / ours)


def _geometric(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def report(rows: list[Row], described: str, rounds: int) -> str:
    """All tables as Markdown."""
    lines = [f"{described}; median of {rounds} rounds; µs a step.", "", *_summary(rows), ""]
    for threads, dtype in dict.fromkeys((r["threads"], r["dtype"]) for r in rows if "bound" in r):
        for mode in ("forward", "training"):
            some = [r for r in rows if (r["threads"], r["dtype"], r["mode"]) == (threads, dtype, mode)]
            if some:
                lines += [f"### {dtype}, {threads} thread{'s' * (threads > 1)}, {mode}", "", *_table(some), ""]
    lines += _thread_table(rows)
    streams = [r for r in rows if "bound" not in r]
    if streams:
        lines += ["### Streaming, one sequence", "", *_table(streams), ""]
    return "\n".join(lines)


def _summary(rows: list[Row]) -> list[str]:
    """Geometric mean and least ratio to the best peer, a line for each grid."""
    cells = list(dict.fromkeys(r["cell"] for r in rows))
    lines = [f"| best peer's time / fastrnn's | {' | '.join(cells)} |", "| --- " * (len(cells) + 1) + "|"]
    for threads, dtype, mode in dict.fromkeys((r["threads"], r["dtype"], r["mode"]) for r in rows):
        entries = []
        for cell in cells:
            key = (threads, dtype, mode, cell)
            ratios = [ratio(r) for r in rows if (r["threads"], r["dtype"], r["mode"], r["cell"]) == key]
            entries.append(f"{_geometric(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")
        lines.append(f"| {mode}, {dtype}, {threads} thread{'s' * (threads > 1)} | {' | '.join(entries)} |")
    return [*lines, "", "Geometric mean over the grid; in brackets the least and the most."]


def _table(rows: list[Row]) -> list[str]:
    """Best peer, our time, ratio, Numba over C++, share of the machine's limit; one line a point."""
    streaming = "bound" not in rows[0]
    heads = ["cell", "shape", "best peer", "its µs", "fastrnn µs", "ratio", "Numba/C++ speed"]
    heads += [] if streaming else ["share of limit"]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for row in rows:
        us, peer = row["us"], best_peer(row)
        ours = us.get("fastrnn cpp", us["fastrnn numba"])
        what = f"{row['shape']} {row['mode']}" if streaming else row["shape"]
        line = f"| {row['cell']} | {what} | {peer} | {us[peer]:.2f} | {ours:.2f} | {ratio(row):.2f} "
        line += f"| {ours / us['fastrnn numba']:.2f} |"
        lines.append(line + ("" if streaming else f" {100 * row['bound'] / ours:.0f} % |"))
    for cell in dict.fromkeys(r["cell"] for r in rows):
        mine = [r for r in rows if r["cell"] == cell]
        numba = [r["us"].get("fastrnn cpp", r["us"]["fastrnn numba"]) / r["us"]["fastrnn numba"] for r in mine]
        mean, least = _geometric([ratio(r) for r in mine]), min(ratio(r) for r in mine)
        lines.append(
            f"| {cell} | **geometric mean** | | | | **{mean:.2f}** (least {least:.2f}) | **{_geometric(numba):.2f}** |"
            + " |" * (not streaming)
        )
    return lines


def _thread_table(rows: list[Row]) -> list[str]:
    """Two threads against one, for the C++ backend."""
    key = ("cell", "shape", "mode")
    times: dict[tuple[str, ...], dict[int, float]] = {}
    for row in rows:
        if row["dtype"] == "float32" and "bound" in row and "fastrnn cpp" in row["us"]:
            times.setdefault(tuple(row[k] for k in key), {})[row["threads"]] = row["us"]["fastrnn cpp"]
    pairs = {k: t for k, t in times.items() if 1 in t and 2 in t}
    if not pairs:
        return []
    lines = ["### Two threads against one, C++ backend", "", "| cell | shape | forward | training |"]
    lines += ["| --- | --- | --- | --- |"]
    for cell, shape in dict.fromkeys((c, s) for c, s, _ in pairs):
        gains = [f"{pairs[cell, shape, mode][1] / pairs[cell, shape, mode][2]:.2f}" for mode in ("forward", "training")]
        lines.append(f"| {cell} | {shape} | {gains[0]} | {gains[1]} |")
    return [*lines, ""]


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
    figure, axes = plt.subplots(1, len(panels), figsize=(6.5 * len(panels), 7), squeeze=False)
    for ax, (threads, dtype) in zip(axes[0], panels, strict=True):
        some = [r for r in grids if (r["threads"], r["dtype"]) == (threads, dtype)]
        shapes = list(dict.fromkeys(r["shape"] for r in some))
        columns = list(dict.fromkeys((r["cell"], r["mode"]) for r in some))
        values = {(r["shape"], (r["cell"], r["mode"])): ratio(r) for r in some}
        table = [[values[s, c] for c in columns] for s in shapes]
        ax.imshow([[math.log2(v) for v in line] for line in table], cmap="RdYlGn", vmin=-2, vmax=2, aspect="auto")
        for i, line in enumerate(table):
            for j, value in enumerate(line):
                ax.text(j, i, f"{value:.2f}", ha="center", va="center")
        ax.set_xticks(range(len(columns)), [f"{cell}\n{mode}" for cell, mode in columns])
        ax.set_yticks(range(len(shapes)), shapes)
        ax.set_title(f"best peer's time / fastrnn's: {dtype}, {threads} thread{'s' * (threads > 1)}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
