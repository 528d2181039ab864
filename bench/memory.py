"""Peak memory of forward and BPTT beside the bytes that BPTT must keep: `python -m bench.memory`.

Counted are the outputs, the values of every step that the gradient cannot do without, and the gradients (see
:mod:`bench.count`); the inputs and the weights were there before. The peak is what the call adds to the process's
memory at most. Linux with glibc only: it is read from /proc.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

from .cases import CELLS, Shape
from .contenders import ALL, Problem, choose, takes_part
from .count import array_bytes
from .measure import thread_environment

SHAPES = [Shape(32, 784, 1, 128), Shape(32, 1000, 128, 128), Shape(64, 500, 256, 512)]
QUICK = [Shape(32, 100, 128, 128)]


def main() -> None:
    """Print a table: a line for each point, a column for each library."""
    options = _options()
    if options.worker:
        return _work(options.worker)
    names = [name for name in ALL if takes_part(name, "LSTM", "float32", training=True)]
    print(f"| cell | shape | must keep, MB | {' | '.join(names)} |\n{'| --- ' * (3 + len(names))}|")
    for shape in QUICK if options.quick else SHAPES:
        for cell in CELLS:
            kept = must_keep(cell, shape)
            peaks = [_peak_of(name, cell, shape) for name in names]
            shown = ["" if peak is None else f"{peak / 1e6:.0f} ({peak / kept:.2f})" for peak in peaks]
            print(f"| {cell} | {shape} | {kept / 1e6:.0f} | {' | '.join(shown)} |", flush=True)
    print("\nPeak in MB, in brackets its ratio to what must be kept; float32, one thread.")


def must_keep(cell: str, shape: Shape) -> int:
    """Bytes of what forward and BPTT give and of what they must keep in between, in float32."""
    count = array_bytes(cell, shape, "float32")
    return count.outputs + count.kept + count.gradients


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small shape, to see that it runs")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def _peak_of(name: str, cell: str, shape: Shape) -> int | None:
    """Bytes that the library takes at most, in a process of its own; None where it takes no part."""
    if not takes_part(name, cell, "float32", training=True):
        return None
    command = [sys.executable, "-m", "bench.memory", "--worker", name, cell, *map(str, shape)]
    # A second thread of PyTorch or JAX would have an arena of its own.
    env = {**os.environ, **thread_environment(1), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return int(json.loads(done.stdout))


# ---- in the child


def _work(point: list[str]) -> None:
    """Print the bytes that the first call takes at most beyond what there was before."""
    name, cell, *sizes = point
    choose(name)
    problem = Problem(cell, Shape(*map(int, sizes)))
    contender = ALL[name](problem, 1)
    # Whatever is imported or compiled is there before the count begins. A short call is enough, and leaves little in
    # pools of memory; JAX has none, but compiles for every length.
    (contender if name == "JAX" else ALL[name](problem.first(2), 1)).training()
    gc.collect()
    # Freed memory that is still the process's would be used unseen.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak()
    result = contender.training()
    print(_peak() - before)
    del result


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
