"""How many threads a call takes, and work in several of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TypeVar

from ..errors import positive_int
from .plan import Plan

Part = TypeVar("Part")
Answer = TypeVar("Answer")
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
    return 1 if wanted == 1 else max(1, min(wanted, shape[1], _worth(plan, shape, H)))


def apart(plan: Plan, shape: tuple[int, ...], H: int) -> bool:
    """Whether the two directions of a layer gain from a thread each: where the batch cannot be split."""
    return get_num_threads() > 1 and threads_for(plan, shape, H) == 1 and _worth(plan, shape, H) > 0


def _worth(plan: Plan, shape: tuple[int, ...], H: int) -> int:
    """Threads that the work is worth."""
    T, N, D = shape
    return T * N * H * (D * plan.n_gates + H * plan.n_matrices) // _WORTH_A_THREAD


def run_together(work: Callable[[Part], Answer], parts: Iterable[Part]) -> list[Answer]:
    """``work`` of every part, each in a thread: kernels and BLAS hold no lock of the interpreter.

    Answers are in the order of the parts. The first part is done by the caller's own thread.
    """
    first, *others = parts
    later = [_pool().submit(work, part) for part in others]
    return [work(first), *(answer.result() for answer in later)]


@cache
def _pool() -> ThreadPoolExecutor:
    # No part waits for another, so calls at once need no more threads than processors.
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="fastrnn")


if hasattr(os, "register_at_fork"):
    # A forked child has none of the threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)
