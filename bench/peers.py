"""fastrnn beside the libraries that people would use instead: `python -m bench.peers`.

A process for each number of threads, with BLAS and the processors it may use pinned alike for all libraries. In it
the libraries take turns, round by round; what they compute is compared before anything is timed, and conversion of
inputs and results is counted. Time is that of one step of a sequence, in microseconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from . import roofline, streams, tables
from .command import parser, run
from .contenders import ALL, compared, missing, take_turn, takes_part
from .count import operations
from .measure import Row, measured, undisturbed
from .problems import CELLS, GRID, GRID_64, MODES, QUICK, Problem, Shape


def main() -> None:
    """Measure and print; with ``--save``, keep the figures."""
    arguments = parser(__doc__, threads=(1, 2))
    arguments.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    indices = ["all", *map(str, range(len(GRID)))]
    arguments.add_argument("--shapes", nargs="+", choices=indices, default=["all"], help="indices into the grid")
    arguments.add_argument("--dtype", nargs="+", choices=("float32", "float64"), default=["float32", "float64"])
    arguments.add_argument("--only", choices=(*MODES, "stream"), help="one kind of measurement (default: all)")
    run("peers", arguments, rows, tables.peers)


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """The machine's limits; every point of the grid; with one thread, the streams."""
    limits, share = undisturbed(lambda: roofline.measure(options.worker, options.quick), options.attempts)
    yield {"mode": "machine", **limits.row(), "missing": {n: why for n in ALL if (why := missing(n))}, "others": share}
    modes = [mode for mode in MODES if options.only in (None, mode)]
    for dtype in options.dtype:
        for shape in _shapes(options, dtype):
            for cell in options.cells:
                for mode in modes:
                    yield _point(Problem(cell, shape, dtype), mode, options, limits)
    if options.only in (None, "stream") and "float32" in options.dtype and options.worker == 1:
        yield from streams.rows(options)


def _shapes(options: argparse.Namespace, dtype: str) -> list[Shape]:
    if options.quick:
        return QUICK if dtype == "float32" else QUICK[1:]
    shapes = GRID if "all" in options.shapes else [GRID[int(i)] for i in options.shapes]
    return [shape for shape in shapes if dtype == "float32" or shape in GRID_64]


def _point(problem: Problem, mode: str, options: argparse.Namespace, limits: roofline.Machine) -> Row:
    """A row of the grid: what all compute is compared, then all are timed."""
    cell, shape, dtype, training = problem.cell, problem.shape, problem.dtype, mode == "training"
    runs = compared(problem, mode, [name for name in ALL if takes_part(name, cell, dtype, training)], options.worker)
    return {
        "dtype": dtype,
        "cell": cell,
        "shape": str(shape),
        "sizes": list(shape),
        "mode": mode,
        **measured(runs, shape.T, options.rounds, options.attempts, take_turn),
        "bound": 1e6 * roofline.bound(limits, cell, shape, dtype, training) / shape.T,
        "products": _product_us(problem, training, limits),
    }


def _product_us(problem: Problem, training: bool, limits: roofline.Machine) -> float:
    """µs a step that the matrix products alone would take at the machine's rate."""
    work = operations(problem.cell, problem.shape, training)
    return 1e6 * work / limits.operations[problem.dtype] / problem.shape.T


if __name__ == "__main__":
    main()
