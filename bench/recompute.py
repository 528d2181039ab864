"""BPTT that computes segments again, beside the plain one: `python -m bench.recompute`.

For each cell the memory at the peak beyond x, y, dy and dx, and the time of forward and BPTT, in float32 with one
thread. Linux only: the peak is read from /proc.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import fastrnn

from .measure import thread_environment

CELLS = {"LSTM": fastrnn.LSTM, "GRU": fastrnn.GRU, "RNN": fastrnn.RNN}
H = 128


def main() -> None:
    """Print a table: a line for each cell and length."""
    options = _options()
    if options.worker:
        return _work(*options.worker)
    print(f"| cell | T | plain, MB | sqrt, MB | plain, s | sqrt, s | ratio |\n{'| --- ' * 7}|")
    for cell in CELLS:
        for T in options.steps:
            # The plain one keeps gigabytes of the longest.
            plain = _in_a_process(cell, T, None) if options.most_plain >= T else None
            again = _in_a_process(cell, T, "sqrt")
            shown = [f"{again['bytes'] / 1e6:.1f}", f"{again['seconds']:.2f}"]
            other = ["", ""] if plain is None else [f"{plain['bytes'] / 1e6:.1f}", f"{plain['seconds']:.2f}"]
            ratio = "" if plain is None else f"{again['seconds'] / plain['seconds']:.2f}"
            print(f"| {cell} | {T:,} | {other[0]} | {shown[0]} | {other[1]} | {shown[1]} | {ratio} |", flush=True)
    print("\nMB beyond x, y, dy, dx at the peak; seconds of forward and BPTT, median of three; D = H = 128, N = 1.")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--most-plain", type=int, default=100_000, help="longest call that is also run plainly")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_a_process(cell: str, T: int, recompute: str | None) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.recompute", "--worker", cell, str(T), json.dumps(recompute)]
    env = {**os.environ, **thread_environment(1)}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _work(cell: str, steps: str, recompute: str) -> None:
    """Print peak and time of one call."""
    T, option = int(steps), json.loads(recompute)
    layer = CELLS[cell](H, H, seed=0)
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((T, 1, H), dtype=np.float32) for _ in range(2))

    def run(steps: int) -> Any:
        y, _, pullback = layer.vjp(x[:steps], recompute=option)
        return y, pullback(dy[:steps])

    with fastrnn.use_num_threads(1):
        run(2000)
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        before = _peak()
        begin = time.perf_counter()
        result = run(T)
        seconds = [time.perf_counter() - begin]
        # y and dx are the caller's.
        peak = _peak() - before - 2 * x.nbytes
        del result
        while len(seconds) < 3 and T <= 100_000:
            begin = time.perf_counter()
            run(T)
            seconds.append(time.perf_counter() - begin)
    print(json.dumps({"bytes": peak, "seconds": statistics.median(seconds)}))


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
