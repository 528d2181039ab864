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
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .command import parser, run
from .contenders import ALL, choose, takes_part
from .count import array_bytes
from .measure import Row
from .problems import CELLS, Problem, Shape
from .results import Result, all_rows
from .tables import table

SHAPES = [Shape(32, 784, 1, 128), Shape(32, 1000, 128, 128), Shape(64, 500, 256, 512)]
QUICK = [Shape(32, 100, 128, 128)]


def main() -> None:
    """Measure and print; with ``--save``, keep the figures."""
    arguments = parser(__doc__, rounds=1)
    arguments.add_argument("--point", nargs=6, help=argparse.SUPPRESS)
    if point := arguments.parse_args().point:
        return _work(point)
    return run("memory", arguments, rows, tables)


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """A row for each shape and cell: bytes that must be kept, and the peak of each library."""
    for shape in QUICK if options.quick else SHAPES:
        for cell in CELLS:
            names = [name for name in ALL if takes_part(name, cell, "float32", training=True)]
            peaks = {name: _peak_of(name, cell, shape) for name in names}
            yield {"cell": cell, "shape": str(shape), "must keep": must_keep(cell, shape), "bytes": peaks}


def tables(results: list[Result]) -> list[str]:
    """A line for each point, a column for each library."""
    found = all_rows(results)
    names = list(dict.fromkeys(name for row in found for name in row["bytes"]))
    lines = []
    for row in found:
        kept = row["must keep"]
        peaks = [_beside(row["bytes"].get(name), kept) for name in names]
        lines.append([row["cell"], row["shape"], f"{kept / 1e6:.0f}", *peaks])
    heads = ["cell", "shape", "must keep, MB", *names]
    remark = "Peak in MB, in brackets its ratio to what must be kept; float32, one thread."
    return [*table(heads, lines), "", remark]


def _beside(peak: int | None, kept: int) -> str:
    return "" if peak is None else f"{peak / 1e6:.0f} ({peak / kept:.2f})"


def must_keep(cell: str, shape: Shape) -> int:
    """Bytes of what forward and BPTT give and of what they must keep in between, in float32."""
    count = array_bytes(cell, shape, "float32")
    return count.outputs + count.kept + count.gradients


def _peak_of(name: str, cell: str, shape: Shape) -> int:
    """Bytes that the library takes at most, in a process of its own."""
    # It inherits one thread and one processor: a second thread of PyTorch or JAX would have an arena of its own.
    command = [sys.executable, "-m", "bench.memory", "--point", name, cell, *map(str, shape)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return int(json.loads(done.stdout))


# ---- in the process of a point


def _work(point: list[str]) -> None:
    """Print the bytes that the first call takes at most beyond what there was before."""
    name, cell, *sizes = point
    choose(name)
    problem = Problem(cell, Shape(*map(int, sizes)))
    contender = ALL[name](problem, 1)
    # Whatever is imported or compiled is there before the count begins. A short call is enough, and leaves little in
    # pools of memory; JAX has none, but compiles for every length.
    (contender if name == "JAX" else ALL[name](problem.first(2), 1)).training()
    before = peak_from_now()
    result = contender.training()
    print(peak() - before)
    del result


def peak_from_now() -> int:
    """Bytes of this process, from which on its peak is counted."""
    gc.collect()
    # Freed memory that is still the process's would be used unseen.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """The most bytes that this process had since :func:`peak_from_now`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
