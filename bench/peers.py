"""fastrnn beside the libraries that people would use instead: `python -m bench.peers`.

A process for each number of threads, with BLAS and the processors it may use pinned alike for all libraries. In it
the libraries take turns, round by round; what they compute is compared before anything is timed, and conversion of
inputs and results is counted. Time is that of one step of a sequence, in microseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import report, roofline, streams
from .cases import CELLS, Shape
from .contenders import ALL, Problem, assert_same, choose, missing, reference, take_turn, takes_part
from .measure import Run, in_turns, processors, thread_environment, undisturbed

GRID = [
    Shape(1, 1000, 1, 20),
    Shape(1, 100, 64, 64),
    Shape(1, 100, 128, 128),
    Shape(1, 100, 256, 256),
    Shape(1, 100, 512, 512),
    Shape(8, 100, 32, 64),
    Shape(16, 128, 64, 128),
    Shape(20, 35, 100, 100),
    Shape(32, 100, 128, 128),
    Shape(32, 100, 256, 256),
    Shape(64, 50, 256, 512),
    Shape(128, 50, 512, 512),
    Shape(32, 784, 1, 128),
    Shape(50, 2048, 1, 32),
]
# Those of the grid that are measured in double precision as well.
GRID_64 = [GRID[i] for i in (0, 2, 5, 7, 8, 12)]
QUICK = [Shape(1, 20, 1, 20), Shape(32, 4, 32, 128)]
MODES = ("forward", "training")
# Seconds of a turn at least, so that the clock and a switch of processes disturb little.
LEAST = 0.02
# How often a figure is taken again while other processes are busy.
ATTEMPTS = 3
Row = dict[str, Any]


def main() -> None:
    """Measure, print the tables, write them down."""
    options = _options()
    if options.worker:
        return _work(options)
    rows: list[Row] = []
    failed = [str(threads) for threads in options.threads if not _in_child(threads, rows)]
    described = report.environment()
    text = report.markdown(rows, described, options.rounds)
    print(text)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "peers.md").write_text(text, encoding="utf-8")
        result = {"machine": described, "rounds": options.rounds, "rows": rows}
        (options.output / "peers.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
        report.draw(rows, options.output / "peers.png")
    if failed:
        raise SystemExit(f"not everything was measured: failed with {' and '.join(failed)} thread(s), see above")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--shapes", nargs="+", default=["all"], help="indices into the grid, or all (default: all)")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="numbers of threads (default: 1 2)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measurement (default: 5)")
    parser.add_argument("--dtype", nargs="+", choices=("float32", "float64"), default=["float32", "float64"])
    parser.add_argument("--only", choices=(*MODES, "stream"), help="one kind of measurement (default: all)")
    parser.add_argument("--quick", action="store_true", help="two small shapes in one round, to see that it runs")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where to write peers.md, .json and .png")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.rounds = 1 if options.quick else options.rounds
    options.attempts = 1 if options.quick else ATTEMPTS
    known = [str(i) for i in range(len(GRID))]
    unknown = [i for i in options.shapes if i not in ("all", *known)]
    if unknown:
        parser.error(f"--shapes: expected all, or indices below {len(GRID)}, got {' '.join(unknown)}")
    options.shapes = GRID if "all" in options.shapes else [GRID[int(i)] for i in options.shapes]
    return options


def _in_child(threads: int, rows: list[Row]) -> bool:
    """Append the rows of a process that has `threads` processors; whether it came to its end."""
    flags = "" if threads > 1 else "--xla_cpu_multi_thread_eigen=false"
    env = {**os.environ, **thread_environment(threads), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "bench.peers", *sys.argv[1:], "--worker", str(threads)]
    with _pinned_child(command, env, processors(threads)) as child:
        assert child.stdout is not None
        for line in child.stdout:
            rows.append(json.loads(line))
            print(_progress(rows[-1]), file=sys.stderr, flush=True)
    return child.returncode == 0


def _pinned_child(command: list[str], env: dict[str, str], chosen: list[int] | None) -> subprocess.Popen[str]:
    """A process that begins on the chosen processors, as do all threads of its libraries."""
    if chosen is None:
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen)
    try:
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    finally:
        os.sched_setaffinity(0, mine)


def _progress(row: Row) -> str:
    if row["mode"] == "machine":
        return f"{row['threads']} thread(s): {report.limits(row)}" + "".join(
            f"\n{name} is left out: {why}" for name, why in row["missing"].items()
        )
    times = ", ".join(f"{name} {us:.2f}" for name, us in row["us"].items())
    return f"{row['threads']} thread(s) {row['dtype']} {row['cell']} {row['shape']} {row['mode']}: {times}"


# ---- in the child


def _work(options: argparse.Namespace) -> None:
    for row in _rows(options):
        print(json.dumps(row), flush=True)


def _rows(options: argparse.Namespace) -> Iterator[Row]:
    threads = options.worker
    limits, share = undisturbed(lambda: roofline.measure(threads, options.quick), options.attempts)
    absent = {name: why for name in ALL if (why := missing(name))}
    levels = {level.name: level.bandwidth for level in limits.levels}
    rates = {"rate": limits.operations, "bandwidth": levels, "others": share}
    yield {"mode": "machine", "threads": threads, "missing": absent, **rates}
    modes = [mode for mode in MODES if options.only in (None, mode)]
    for dtype in options.dtype:
        for shape in _shapes(options, dtype):
            for cell in options.cells:
                for mode in modes:
                    yield _measure(Problem(cell, shape, dtype), mode, options, limits)
    if options.only in (None, "stream") and "float32" in options.dtype and threads == 1:
        yield from _measure_streams(options)


def _shapes(options: argparse.Namespace, dtype: str) -> list[Shape]:
    if options.quick:
        return QUICK if dtype == "float32" else QUICK[1:]
    return [shape for shape in options.shapes if dtype == "float32" or shape in GRID_64]


def _measure(problem: Problem, mode: str, options: argparse.Namespace, limits: roofline.Machine) -> Row:
    """A row of the grid: what all compute is compared, then all are timed."""
    threads = options.worker
    cell, shape, dtype, training = problem.cell, problem.shape, problem.dtype, mode == "training"
    want = reference(problem, mode)
    runs: dict[str, Run] = {}
    for name, kind in ALL.items():
        if takes_part(name, cell, dtype, training):
            runs[name] = getattr(kind(problem, threads), mode)
            choose(name)
            assert_same(name, runs[name](), want, dtype)
    return {
        "threads": threads,
        "dtype": dtype,
        "cell": cell,
        "shape": str(shape),
        "sizes": list(shape),
        "mode": mode,
        **_timed_steps(runs, shape.T, options),
        "bound": 1e6 * roofline.bound(limits, cell, shape, dtype, training) / shape.T,
        "products": _product_us(problem, training, limits),
    }


def _product_us(problem: Problem, training: bool, limits: roofline.Machine) -> float:
    """µs a step that the matrix products alone would take at the machine's rate."""
    operations = roofline.operations(problem.cell, problem.shape, training)
    return 1e6 * operations / limits.operations[problem.dtype] / problem.shape.T


def _measure_streams(options: argparse.Namespace) -> Iterator[Row]:
    for cell in options.cells:
        for mode, steps, sizes in streams.FEEDS:
            for sequences, size in sizes[:1] if options.quick else sizes:
                runs = streams.contenders(cell, sequences, size, steps)
                yield {
                    "threads": 1,
                    "dtype": "float32",
                    "cell": cell,
                    "shape": f"N{sequences} D{size} H{size}",
                    "mode": mode,
                    **_timed_steps(runs, streams.CALLS[steps] * steps, options),
                }


def _timed_steps(runs: dict[str, Run], steps: int, options: argparse.Namespace) -> Row:
    """µs a step of each, median and all rounds, and the share of the machine that other processes took."""
    least = LEAST / 10 if options.quick else LEAST
    seconds, share = undisturbed(lambda: in_turns(runs, options.rounds, least, take_turn), options.attempts)
    us = {name: [1e6 * s / steps for s in values] for name, values in seconds.items()}
    return {"us": {name: statistics.median(values) for name, values in us.items()}, "rounds": us, "others": share}


if __name__ == "__main__":
    main()
