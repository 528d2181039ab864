"""How soon Ctrl-C ends a call of the C++ engine: `python -m bench.interrupt`.

For each way of dividing a call between threads, forward and BPTT: milliseconds from a signal, sent in the middle of a
call that would take seconds, to the exception; the longest of several.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import fastrnn

from .measure import machine

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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    rounds = parser.parse_args().rounds
    signal.signal(signal.SIGALRM, _press)
    fastrnn.set_backend("cpp")
    print(machine("fastrnn", "numpy"))
    for name, (threads, layers, T, N, D, H) in CALLS.items():
        fastrnn.set_num_threads(threads)
        layer = fastrnn.LSTM(D, H, layers, seed=0)
        x = np.zeros((T, N, D), "f4")
        few = x[: T // 20]
        y, _, pullback = layer.vjp(few)
        start = time.perf_counter()
        pullback(y)
        whole = time.perf_counter() - start
        for what, call, within in (("forward", partial(layer, x), 1.0), ("BPTT", partial(pullback, y), whole)):
            found = [milliseconds(call, 0.1 * within * (i + 1) / rounds) for i in range(rounds)]
            ended = ", ".join(f"{one:.1f}" for one in found if one is not None)
            print(f"{name:28} {what:8} {ended} ms", flush=True)


if __name__ == "__main__":
    main()
