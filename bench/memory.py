"""Peak memory of forward and BPTT beside the bytes that BPTT must keep: `python -m bench.memory`.

Counted as kept are the output, the states and the other values that the gradient needs, and the gradients of the
input and the weights; the input itself and the layer's sums of gradients were there before. Linux with glibc only:
the process's peak is read from /proc.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import fastrnn
from fastrnn.engine.plan import make_plan

from .cases import CELLS, Shape
from .contenders import Fastrnn, Problem, choose

SHAPES = [Shape(32, 784, 1, 128), Shape(32, 1000, 128, 128), Shape(64, 500, 256, 512)]


def main() -> None:
    """Print a table; each point in a process of its own."""
    print("| cell | shape | must keep, MB | peak, MB | ratio |\n| --- | --- | --- | --- | --- |")
    for shape in SHAPES:
        for cell in CELLS:
            command = [sys.executable, "-m", "bench.memory", cell, *map(str, shape)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            kept, peak = json.loads(done.stdout)
            print(f"| {cell} | {shape} | {kept / 1e6:.1f} | {peak / 1e6:.1f} | {peak / kept:.2f} |")


def worker(cell: str, shape: Shape) -> None:
    """Print the bytes that must be kept, and the most that the call takes beyond what there was before."""
    problem = Problem(cell, shape)
    choose("fastrnn cpp" if "cpp" in fastrnn.available_backends() else "fastrnn numba")
    contender = Fastrnn(problem, 1)
    small = Fastrnn(Problem(cell, shape._replace(T=2)), 1)
    small.training()  # Whatever is imported or compiled is there before the count begins.
    ctypes.CDLL(None).malloc_trim(0)  # Freed memory that is still the process's would be used unseen.
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak()
    contender.training()
    print(json.dumps([must_keep(cell, shape), _peak() - before]))


def must_keep(cell: str, shape: Shape) -> int:
    """Bytes of what forward and backward give and of what they must keep in between, in float32."""
    N, T, D, H = shape
    plan = make_plan(getattr(fastrnn, cell)(1, 1).cell)
    rows = T * N * (H * (plan.n_states + plan.n_keep) + D)
    weights = CELLS[cell] * H * (D + H + 2)
    return 4 * (rows + weights)


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        worker(sys.argv[1], Shape(*map(int, sys.argv[2:])))
    else:
        main()
