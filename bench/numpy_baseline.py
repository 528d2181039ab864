"""Table of ratios, the loop over time in NumPy against the Numba backend: `python -m bench.numpy_baseline`.

One thread for both. Each round times the two in turn; a figure is the median of the rounds. The textbook loop
written by hand stands beside the NumPy backend, to show that the baseline is no slower than what people write.
"""

from __future__ import annotations

import os

from .measure import machine, medians, thread_environment

# Before NumPy is imported: its BLAS reads them once.
os.environ.update(thread_environment(1))

import argparse
from typing import Any

import numpy as np

import fastrnn

from . import textbook
from .cases import CELLS, GRID, Case, Shape, assert_same, using


def textbook_lstm(case: Case) -> tuple[Any, ...]:
    """Outputs and every gradient by the loop written by hand."""
    steps: list[Any] = []
    hs = textbook.lstm_forward(case.x, case.h0, case.h0, case.Wx, case.Wh, case.b, steps)
    return hs, *textbook.lstm_backward(case.dhs, steps, case.x, case.Wx, case.Wh)


def row(shape: Shape, cells: list[str], rounds: int) -> str:
    """One line of the table: ratio and our time a step, forward / forward and BPTT, for each cell."""
    columns = []
    for cell in cells:
        for backward in (False, True):
            case = Case(cell, shape, backward)
            assert_same(case)
            seconds = medians({"numba": case.run, "numpy": case.run}, rounds, before=fastrnn.set_backend)
            columns.append(f"{seconds['numpy'] / seconds['numba']:.1f}× ({seconds['numba'] / shape.T * 1e6:.2f})")
    return f"| {shape} | " + " | ".join(columns) + " |"


def baseline_check(shape: Shape, rounds: int) -> str:
    """The NumPy backend's time over that of the loop written by hand."""
    case = Case("LSTM", shape, True)
    with using("numpy"):
        for ours, theirs in zip(case.run(), textbook_lstm(case), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * max(1e-3, float(np.abs(theirs).max())))
        seconds = medians({"backend": case.run, "loop": lambda: textbook_lstm(case)}, rounds)
    return f"LSTM {shape}: numpy backend / loop written by hand = {seconds['backend'] / seconds['loop']:.2f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measurement (default: 5)")
    parser.add_argument("--quick", action="store_true", help="only the three smallest shapes")
    options = parser.parse_args()
    shapes = GRID[:3] if options.quick else GRID
    print(f"{machine('numpy', 'numba')}; one thread, float32, median of {options.rounds} rounds")
    print("Ratio NumPy loop / fastrnn, and fastrnn's µs a step in brackets\n")
    heads = [f"{cell} {what}" for cell in options.cells for what in ("forward", "+BPTT")]
    print("| shape | " + " | ".join(heads) + " |")
    print("| --- |" + " --- |" * len(heads))
    for shape in shapes:
        print(row(shape, options.cells, options.rounds), flush=True)
    print()
    for shape in shapes[:: max(1, len(shapes) // 3)]:
        print(baseline_check(shape, options.rounds))


if __name__ == "__main__":
    main()
