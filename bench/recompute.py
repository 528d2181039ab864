"""BPTT that computes segments again, beside the plain one: `python -m bench.recompute`.

For each cell the memory at the peak beyond x, y, dy and dx, and the time of forward and BPTT, in float32 with one
thread and D = H = 128, one sequence. Linux only: the peak is read from /proc.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

import fastrnn

from .command import parser, run
from .measure import Row, timed
from .memory import peak, peak_from_now
from .problems import CELLS
from .results import Result, all_rows
from .tables import table

H = 128
WAYS = {"plain": None, "sqrt": "sqrt"}
STEPS = [100_000, 1_000_000]
# The longest call that is also run plainly, which keeps gigabytes of longer ones, and more than once.
SHORT = 100_000


def main() -> None:
    """Measure and print; with ``--save``, keep the figures."""
    arguments = parser(__doc__, rounds=3)
    arguments.add_argument("--steps", type=int, nargs="+", default=STEPS)
    arguments.add_argument("--point", nargs=4, help=argparse.SUPPRESS)
    if point := arguments.parse_args().point:
        return _work(*point)
    return run("recompute", arguments, rows, tables)


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """A row for each cell and length: bytes and seconds of either way."""
    for cell in CELLS:
        for T in [10_000] if options.quick else options.steps:
            ways = WAYS if T <= SHORT else ("sqrt",)
            found = {way: _in_a_process(cell, T, way, options.rounds if T <= SHORT else 1) for way in ways}
            figures = {key: {way: values[key] for way, values in found.items()} for key in ("bytes", "seconds")}
            yield {"cell": cell, "T": T, **figures}


def _in_a_process(cell: str, T: int, way: str, rounds: int) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.recompute", "--point", cell, str(T), way, str(rounds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _work(cell: str, steps: str, way: str, rounds: str) -> None:
    """Print peak and time of one call."""
    T = int(steps)
    layer = getattr(fastrnn, cell)(H, H, seed=0)
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((T, 1, H), dtype=np.float32) for _ in range(2))

    def call(steps: int = T) -> Any:
        y, _, pullback = layer.vjp(x[:steps], recompute=WAYS[way])
        return y, pullback(dy[:steps])

    call(2000)
    before = peak_from_now()
    seconds = [timed(call)]
    # y and dx are the caller's.
    most = peak() - before - 2 * x.nbytes
    seconds += [timed(call) for _ in range(int(rounds) - 1)]
    print(json.dumps({"bytes": most, "seconds": statistics.median(seconds)}))


def tables(results: list[Result]) -> list[str]:
    """A line for each cell and length."""
    lines = []
    for row in all_rows(results):
        megabytes = [f"{row['bytes'][way] / 1e6:.1f}" if way in row["bytes"] else "" for way in WAYS]
        seconds = [f"{row['seconds'][way]:.2f}" if way in row["seconds"] else "" for way in WAYS]
        ratio = f"{row['seconds']['sqrt'] / row['seconds']['plain']:.2f}" if "plain" in row["seconds"] else ""
        lines.append([row["cell"], f"{row['T']:,}", *megabytes, *seconds, ratio])
    heads = ["cell", "T", "plain, MB", "sqrt, MB", "plain, s", "sqrt, s", "ratio"]
    remark = "MB beyond x, y, dy, dx at the peak; seconds of forward and BPTT; D = H = 128, N = 1."
    return [*table(heads, lines), "", remark]


if __name__ == "__main__":
    main()
