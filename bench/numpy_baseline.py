"""The loop over time in NumPy against the Numba backend: `python -m bench.numpy_baseline`.

One thread for both, in turns. The textbook LSTM written by hand stands beside the `numpy` backend, to show that the
baseline is no slower than what people write.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from .command import parser, run
from .contenders import compared, take_turn
from .measure import Row, measured
from .problems import CELLS, GRID_NUMPY, MODES, QUICK, Problem
from .results import Result, all_rows
from .tables import table


def main() -> None:
    """Measure and print; with ``--save``, keep the figures."""
    arguments = parser(__doc__)
    arguments.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    run("numpy_baseline", arguments, rows, tables)


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """A row for each shape, cell and mode, in µs a step."""
    for shape in QUICK if options.quick else GRID_NUMPY:
        for cell in options.cells:
            for mode in MODES:
                names = ["fastrnn numba", "NumPy"] + ["NumPy by hand"] * (cell == "LSTM")
                runs = compared(Problem(cell, shape), mode, names, options.worker)
                figures = measured(runs, shape.T, options.rounds, options.attempts, take_turn)
                yield {"cell": cell, "shape": str(shape), "mode": mode, **figures}


def tables(results: list[Result]) -> list[str]:
    """Ratios by shape, and how the loop written by hand compares with the backend."""
    found = {(r["shape"], r["cell"], r["mode"]): r["us"] for r in all_rows(results)}
    columns = list(dict.fromkeys((cell, mode) for _, cell, mode in found))
    shapes = list(dict.fromkeys(shape for shape, _, _ in found))
    lines = [[shape, *(_ratio(found[shape, cell, mode]) for cell, mode in columns)] for shape in shapes]
    heads = ["shape", *(f"{cell} {'forward' if mode == 'forward' else '+BPTT'}" for cell, mode in columns)]
    by_hand = [
        [shape, mode, f"{us['NumPy'] / us['NumPy by hand']:.2f}"]
        for (shape, _, mode), us in found.items()
        if "NumPy by hand" in us
    ]
    return [
        "Time of the NumPy loop / Numba's, and in brackets Numba's µs a step of all N sequences; float32, one thread.",
        "",
        *table(heads, lines),
        "",
        "The `numpy` backend runs any cell, and pays for that where a step is short. Its time / that of a textbook "
        "LSTM written by hand:",
        "",
        *table(["shape", "", "`numpy` backend / by hand"], [[s, MODES[mode], r] for s, mode, r in by_hand]),
    ]


def _ratio(us: dict[str, float]) -> str:
    return f"{us['NumPy'] / us['fastrnn numba']:.1f}× ({us['fastrnn numba']:.2f})"


if __name__ == "__main__":
    main()
