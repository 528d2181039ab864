"""Saturated gates against ordinary ones: `python -m bench.saturated`.

Weights a hundred times as large saturate the gates, and the gradients that come back through them are full of
subnormal numbers. Time of a forward and a backward pass (LSTM, N=32, T=100, D=H=128, float32), in milliseconds, for
both compiled backends, on one thread and on two.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from functools import partial
from typing import Any

from .measure import machine, medians, thread_environment

BACKENDS = ("cpp", "numba")


def train_step(layer: Any, x: Any, dy: Any) -> None:
    """Forward and BPTT."""
    layer.forward(x)
    layer.backward(dy)


def measure(threads: int, rounds: int) -> None:
    """One line for each backend that is available."""
    import numpy as np

    import fastrnn

    fastrnn.set_num_threads(threads)
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((100, 32, 128)).astype("f4") for _ in range(2))
    for backend in BACKENDS:
        if backend not in fastrnn.available_backends():
            continue
        with fastrnn.use_backend(backend):
            runs = {}
            for name, factor in (("ordinary", 1), ("saturated", 100)):
                layer = fastrnn.LSTM(128, 128, seed=0)
                for param in layer.params.values():
                    param *= factor
                runs[name] = partial(train_step, layer, x, dy)
            times = medians(runs, rounds, 0.05)
        ordinary, saturated = times["ordinary"], times["saturated"]
        print(
            f"{backend:6} {threads} thread(s): ordinary {1e3 * ordinary:6.1f} ms, saturated {1e3 * saturated:6.1f} ms, "
            f"ratio {saturated / ordinary:.2f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.threads:
        return measure(args.threads, args.rounds)
    print(machine("fastrnn", "numpy", "numba"), flush=True)
    for threads in (1, 2):
        # BLAS reads its number of threads once.
        environment = {**os.environ, **thread_environment(threads), "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "bench.saturated", "--threads", str(threads), "--rounds", str(args.rounds)]
        subprocess.run(command, env=environment, check=True)
    return None


if __name__ == "__main__":
    main()
