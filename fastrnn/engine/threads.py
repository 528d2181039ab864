"""How many threads a call takes."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from ..errors import positive_int
from .plan import Plan

# Work for which waking another thread pays, in multiply-adds.
_WORTH_A_THREAD = 1_000_000
_wanted: int | None = None


def set_num_threads(n: int) -> None:
    """Let every call from here on take up to `n` threads.

    The batch is split between them. Results are the same bits for the same number of threads; between numbers
    they differ by rounding: gradients of the weights are summed over the parts, and a part of few sequences may
    be computed another way than the whole. Work too small to gain takes one thread.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        If `n` is not an integer, or below 1.
    """
    global _wanted
    _wanted = positive_int("n", n)


def get_num_threads() -> int:
    """The number that :func:`set_num_threads` set; else ``FASTRNN_NUM_THREADS``, else the physical cores.

    Raises
    ------
    ValueError
        If ``FASTRNN_NUM_THREADS`` is not a positive integer.
    """
    global _wanted
    if _wanted is None:
        given = os.environ.get("FASTRNN_NUM_THREADS")
        if given and not (given.isdecimal() and int(given)):
            raise ValueError(f"FASTRNN_NUM_THREADS: expected a positive integer, got {given!r}")
        _wanted = int(given) if given else physical_cores()
    return _wanted


@cache
def physical_cores() -> int:
    """Cores that this process may run on; two threads of one core share its arithmetic."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    usable = os.sched_getaffinity(0)
    folder = Path("/sys/devices/system/cpu")
    try:
        return len({(folder / f"cpu{i}/topology/thread_siblings_list").read_text() for i in usable})
    except OSError:
        return len(usable)


def threads_for(plan: Plan, shape: tuple[int, ...], H: int) -> int:
    """Threads for an input of `shape` (T, N, D): no more than there are sequences, or than the work is worth."""
    wanted = get_num_threads()
    if wanted == 1:
        return 1
    T, N, D = shape
    work = T * N * H * (D * plan.n_gates + H * plan.n_matrices)
    return max(1, min(wanted, N, work // _WORTH_A_THREAD))
