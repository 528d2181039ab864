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
from fastrnn.backends import available_backends

from .cases import CELLS, Shape
from .contenders import Arrays, Contender, Fastrnn, Problem, Torch, joined, missing, reference
from .peers import GRID, QUICK
from .report import MODES, spread, table

LEAST = 0.02
PRECISIONS = ("highest", "high", "medium")
# By mode, cell and shape: for each name µs a step, and the error.
Points = dict[tuple[str, str, Shape], dict[str, tuple[float, float]]]


class TorchBfloat16(Torch):
    """PyTorch's module with every number in bfloat16."""

    def __init__(self, problem: Problem, threads: int) -> None:
        super().__init__(problem, threads)
        self.module = self.module.bfloat16()
        self.parameters = dict(self.module.named_parameters())

    def _half(self, array: Any, gradients: bool) -> Any:
        return self.torch.from_numpy(array).bfloat16().requires_grad_(gradients)

    def _inputs(self, gradients: bool) -> tuple[Any, list[Any]]:
        x, *state = (self._half(a, gradients) for a in (self.problem.x, *self.problem.state))
        return x, state

    def forward(self) -> Arrays:
        with self.torch.inference_mode():
            x, state = self._inputs(False)
            return {"y": self.module(x, joined(state))[0].float().numpy()}

    def training(self) -> Arrays:
        self.module.zero_grad()
        x, state = self._inputs(True)
        y, _ = self.module(x, joined(state))
        y.backward(self._half(self.problem.dy, False))
        names = ("h0", "c0")
        result = {"y": y.detach(), "x": x.grad, **{n: s.grad for n, s in zip(names, state, strict=False)}}
        result |= {name: p.grad for name, p in self.parameters.items()}
        return {name: value.float().numpy() for name, value in result.items()}


def precisions() -> list[str]:
    """Those that differ from `highest` here, and `highest`."""
    from fastrnn.backends import _cpp

    parts = {"highest": 0, "high": 2, "medium": 1}
    return [p for p in PRECISIONS if parts[p] in (0, *_cpp.bf16_parts())]


def take_turn(name: str) -> None:
    """Make ready for a turn of `name`: its precision, if it is one, and nobody else at work."""
    if name in PRECISIONS:
        fastrnn.set_matmul_precision(name)
    quiet()


def error(got: Arrays, want: Arrays) -> float:
    """The largest error of an array relative to its largest number."""
    return max(float(np.abs(got[key] - want[key]).max() / np.abs(want[key]).max()) for key in got)


def in_float64(problem: Problem) -> Problem:
    """The same numbers in float64."""
    exact = Problem(problem.cell, problem.shape)
    exact.dtype = "float64"
    exact.x, exact.dy = problem.x.astype("f8"), problem.dy.astype("f8")
    exact.state = [s.astype("f8") for s in problem.state]
    exact.weights = {name: w.astype("f8") for name, w in problem.weights.items()}
    return exact


def measure(problem: Problem, mode: str, names: list[str], rounds: int) -> dict[str, tuple[float, float]]:
    """For each name µs a step, and the error."""
    want = reference(in_float64(problem), mode)
    fastrnn.use_backend("cpp")
    runs, errors = {}, {}
    for name in names:
        contender: Contender = Fastrnn(problem, 1) if name in PRECISIONS else TorchBfloat16(problem, 1)
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
