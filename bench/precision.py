"""Products of bf16 numbers, their time and their error: `python -m bench.precision`.

One thread. fastrnn at every precision of `fastrnn.set_matmul_precision` that this processor has products for, and
PyTorch's module with all its numbers in bfloat16, in turns; conversion of PyTorch's inputs and results from and to
float32 is counted. An error is that of the outputs and gradients, the largest of each array relative to its largest
number, against the NumPy backend in float64. Time is that of one step of all sequences, in microseconds.
"""

from __future__ import annotations

import os

from .measure import machine, medians, quiet, thread_environment

# Before NumPy is imported: its BLAS reads them once.
os.environ.update(thread_environment(1))

import argparse
import sys
from typing import Any

import numpy as np

import fastrnn
from fastrnn.dispatch import available_backends
from fastrnn.engine.precision import PARTS

from .cases import CELLS, Shape
from .contenders import Arrays, Contender, Fastrnn, Problem, Torch, missing, reference
from .peers import GRID, QUICK
from .report import MODES, spread, table

LEAST = 0.02
# By mode, cell and shape: for each name µs a step, and the error.
Points = dict[tuple[str, str, Shape], dict[str, tuple[float, float]]]


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


def measure(problem: Problem, mode: str, names: list[str], rounds: int) -> dict[str, tuple[float, float]]:
    """For each name µs a step, and the error."""
    want = reference(problem.in_float64(), mode)
    fastrnn.set_backend("cpp")
    runs, errors = {}, {}
    for name in names:
        contender: Contender = Fastrnn(problem, 1) if name in PARTS else TorchBfloat16(problem, 1)
        runs[name] = getattr(contender, mode)
        take_turn(name)
        errors[name] = error(runs[name](), want)
    seconds = medians(runs, rounds, LEAST, take_turn)
    return {name: (1e6 * seconds[name] / problem.shape.T, errors[name]) for name in names}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measurement (default: 5)")
    parser.add_argument("--quick", action="store_true", help="two small shapes in one round, to see that it runs")
    options = parser.parse_args()
    if "cpp" not in available_backends() or len(precisions()) == 1:
        print("Nothing to measure: the extension or this processor has no products of bf16 numbers.")
        return
    names = precisions() + ([] if missing("PyTorch") else ["PyTorch bfloat16"])
    rounds = 1 if options.quick else options.rounds
    print(f"{machine('fastrnn', 'numpy', 'torch')}; one thread, median of {rounds} round{'s' * (rounds > 1)}\n")
    points = {}
    for mode in MODES:
        for shape in QUICK if options.quick else GRID:
            for cell in CELLS:
                points[mode, cell, shape] = measure(Problem(cell, shape), mode, names, rounds)
                print(".", end="", file=sys.stderr, flush=True)
    print("\n".join(_summary(points, names) + _every_point(points, names)))


def _summary(points: Points, names: list[str]) -> list[str]:
    lines = []
    for mode in MODES:
        for name in names:
            some = {cell: [v for (m, c, _), v in points.items() if (m, c) == (mode, cell)] for cell in CELLS}
            ratios = [spread([v[name][0] / v["medium"][0] for v in values]) for values in some.values()]
            worst = max(v[name][1] for values in some.values() for v in values)
            lines.append([MODES[mode], name, *ratios, f"{worst:.0e}"])
    heads = ["", "its time / that of medium", *CELLS, "largest error"]
    return [*table(heads, lines), "", "Geometric mean over the grid; in brackets the least and the most.", ""]


def _every_point(points: Points, names: list[str]) -> list[str]:
    lines = [
        [cell, str(shape), MODES[mode], *(f"{value[n][0]:.2f} ({value[n][1]:.0e})" for n in names)]
        for (mode, cell, shape), value in points.items()
    ]
    return table(["cell", "shape", "", *(f"{n}, µs (error)" for n in names)], lines)


if __name__ == "__main__":
    main()
