"""Products of bf16 numbers, their time and their error: `python -m bench.precision`.

One thread. fastrnn at every precision of `fastrnn.set_matmul_precision` that this processor has products for, and
PyTorch's module with all its numbers in bfloat16, in turns; conversion of PyTorch's inputs and results from and to
float32 is counted. An error is that of the outputs and gradients, the largest of each array relative to its largest
number, against the NumPy backend in float64. Time is that of one step of all sequences, in microseconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

import fastrnn
from fastrnn.dispatch import available_backends
from fastrnn.engine.precision import PARTS

from .command import parser, run
from .contenders import Arrays, Contender, Fastrnn, Torch, missing, reference
from .measure import Row, measured, quiet
from .problems import CELLS, GRID, MODES, QUICK, Problem
from .results import Result, all_rows
from .tables import spread, table


class TorchBfloat16(Torch):
    """PyTorch's module with every number in bfloat16."""

    def __init__(self, problem: Problem, threads: int) -> None:
        super().__init__(problem, threads)
        self.module = self.module.bfloat16()
        self.parameters = dict(self.module.named_parameters())

    def _tensor(self, array: Any) -> Any:
        return super()._tensor(array).bfloat16()

    def _array(self, tensor: Any) -> Any:
        return super()._array(tensor.float())


def precisions() -> list[str]:
    """Those that differ from `highest` here, and `highest`."""
    from fastrnn.backends import _cpp

    return [name for name, parts in PARTS.items() if name == "highest" or parts in _cpp.bf16_parts()]


def take_turn(name: str) -> None:
    """Make ready for a turn of `name`: its precision, if it is one, and nobody else at work."""
    if name in PARTS:
        fastrnn.set_matmul_precision(name)
    quiet()


def error(got: Arrays, want: Arrays) -> float:
    """The largest error of an array relative to its largest number."""
    return max(float(np.abs(got[key] - want[key]).max() / np.abs(want[key]).max()) for key in got)


def main() -> None:
    """Measure and print; with ``--save``, keep the figures."""
    if "cpp" not in available_backends() or len(precisions()) == 1:
        print("Nothing to measure: the extension or this processor has no products of bf16 numbers.")
        return
    run("precision", parser(__doc__), rows, tables)


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """A row for each mode, shape and cell: µs a step and the error of every name."""
    names = precisions() + ([] if missing("PyTorch") else ["PyTorch bfloat16"])
    for mode in MODES:
        for shape in QUICK if options.quick else GRID:
            for cell in CELLS:
                yield _point(Problem(cell, shape), mode, names, options)


def _point(problem: Problem, mode: str, names: list[str], options: argparse.Namespace) -> Row:
    want = reference(problem.in_float64(), mode)
    fastrnn.set_backend("cpp")
    runs, errors = {}, {}
    for name in names:
        contender: Contender = Fastrnn(problem, 1) if name in PARTS else TorchBfloat16(problem, 1)
        runs[name] = getattr(contender, mode)
        take_turn(name)
        errors[name] = error(runs[name](), want)
    figures = measured(runs, problem.shape.T, options.rounds, options.attempts, take_turn)
    return {"mode": mode, "cell": problem.cell, "shape": str(problem.shape), **figures, "error": errors}


def summary(results: list[Result]) -> list[str]:
    """Ratios over the grid, and the largest errors."""
    found = all_rows(results)
    lines = []
    for mode in MODES:
        for name in found[0]["us"]:
            some = [[r for r in found if (r["mode"], r["cell"]) == (mode, cell)] for cell in CELLS]
            ratios = [spread([r["us"][name] / r["us"]["medium"] for r in grid]) for grid in some]
            worst = max(r["error"][name] for grid in some for r in grid)
            lines.append([MODES[mode], name, *ratios, f"{worst:.0e}"])
    heads = ["", "its time / that of medium", *CELLS, "largest error"]
    return [*table(heads, lines), "", "Geometric mean over the grid; in brackets the least and the most."]


def tables(results: list[Result]) -> list[str]:
    """The summary, and every point."""
    found = all_rows(results)
    names = list(found[0]["us"])
    lines = [
        [r["cell"], r["shape"], MODES[r["mode"]], *(f"{r['us'][n]:.2f} ({r['error'][n]:.0e})" for n in names)]
        for r in found
    ]
    return [*summary(results), "", *table(["cell", "shape", "", *(f"{n}, µs (error)" for n in names)], lines)]


if __name__ == "__main__":
    main()
