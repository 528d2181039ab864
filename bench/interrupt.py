"""How soon Ctrl-C ends a call of the C++ engine: `python -m bench.interrupt`.

For each way of dividing a call between threads, forward and BPTT: milliseconds from a signal, sent in the middle of a
call that would take seconds, to the exception; the longest of several.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import fastrnn

from .command import parser, run
from .measure import Row
from .results import Result, all_rows
from .tables import table

# Threads, layers, T, N, D, H.
CALLS = {
    "one thread": (1, 1, 1_000_000, 1, 2, 20),
    "one thread, large steps": (1, 1, 2_000, 128, 256, 512),
    "two threads, by sequences": (2, 1, 40_000, 16, 2, 64),
    "two threads, by units": (2, 1, 30_000, 1, 2, 256),
    "two layers at the same time": (2, 2, 1_000_000, 1, 2, 20),
}


class _Pressed(Exception):
    pass


def _press(*_: Any) -> None:
    raise _Pressed


def milliseconds(call: Callable[[], Any], after: float) -> float | None:
    """From the signal to the end of the call; None if the call had ended before."""
    start = time.perf_counter()
    try:
        signal.setitimer(signal.ITIMER_REAL, after)
        call()
    except _Pressed:
        return 1e3 * (time.perf_counter() - start - after)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None


def main() -> None:
    """Measure and print; with ``--save``, keep the figures."""
    # Two processors in one process: calls of one thread and of two.
    run("interrupt", parser(__doc__, threads=(2,)), rows, tables)


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """A row for each way of dividing a call, with the longest of the rounds."""
    signal.signal(signal.SIGALRM, _press)
    fastrnn.set_backend("cpp")
    for name, sizes in CALLS.items():
        threads, layers, T, N, D, H = sizes
        fastrnn.set_num_threads(threads)
        layer = fastrnn.LSTM(D, H, layers, seed=0)
        x = np.zeros((T, N, D), "f4")
        y, _, pullback = layer.vjp(x[: T // 20])
        start = time.perf_counter()
        pullback(y)
        whole = time.perf_counter() - start
        forward = _longest(partial(layer, x), 1.0, options.rounds)
        backward = _longest(partial(pullback, y), whole, options.rounds)
        yield {"call": name, "ms": {"forward": forward, "BPTT": backward}}


def _longest(call: Callable[[], Any], within: float, rounds: int) -> float | None:
    """Of `rounds` signals in the first tenth of a call that takes `within` seconds; None if none came in time."""
    found = [milliseconds(call, 0.1 * within * (i + 1) / rounds) for i in range(rounds)]
    return max((one for one in found if one is not None), default=None)


def tables(results: list[Result]) -> list[str]:
    """A line for each way of dividing a call."""
    heads = ["call", "forward, ms", "BPTT, ms"]
    lines = [
        [row["call"], *("" if ms is None else f"{ms:.0f}" for ms in row["ms"].values())] for row in all_rows(results)
    ]
    return table(heads, lines)


if __name__ == "__main__":
    main()
