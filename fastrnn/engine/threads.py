"""How many threads a call takes, and work in several of them."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cache
from pathlib import Path
from typing import TypeVar

from .. import thresholds
from ..errors import positive_int
from .plan import Plan
from .settings import Setting, Use

Part = TypeVar("Part")
Answer = TypeVar("Answer")


def set_num_threads(n: int) -> None:
    """Let every call take up to `n` threads: the default of the process, in all its threads.

    The batch is split between them; where it has few sequences, the hidden units or the layers are (``cpp`` backend)
    or, in a bidirectional layer, the directions. Results are the same bits for the same number of threads; between
    numbers they differ by rounding: gradients of the weights are summed over the parts of a batch, and a part may be
    computed in another order than the whole. Work too small to gain takes one thread.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        If `n` is not an integer, or below 1.

    See Also
    --------
    use_num_threads : for some calls only.
    """
    THREADS.set(positive_int("n", n))


def use_num_threads(n: int) -> Use[int]:
    """Context manager: up to `n` threads for the calls inside ``with``, in this thread or task of asyncio alone.

    Parameters
    ----------
    n : int
        At least 1.

    Returns
    -------
    context manager
        For ``with``; it can be entered more than once.

    Raises
    ------
    TypeError, ValueError
        If `n` is not an integer, or below 1.

    Examples
    --------
    >>> with use_num_threads(1):
    ...     y, state = layer(x)
    """
    return Use(THREADS, positive_int("n", n))


def get_num_threads() -> int:
    """Threads that the next call may take.

    Returns
    -------
    int
        Inside ``with use_num_threads(n)`` that; else the number that :func:`set_num_threads` set; else
        ``FASTRNN_NUM_THREADS``, else the physical cores.

    Raises
    ------
    ValueError
        If ``FASTRNN_NUM_THREADS`` is not a positive integer.
    """
    return THREADS.get()


def _first() -> int:
    given = os.environ.get("FASTRNN_NUM_THREADS")
    if given and not (given.isdecimal() and int(given)):
        raise ValueError(f"FASTRNN_NUM_THREADS: expected a positive integer, got {given!r}")
    return int(given) if given else physical_cores()


THREADS: Setting[int] = Setting("num_threads", _first)


@cache
def physical_cores() -> int:
    """Cores that this process may use; two threads of one core share its arithmetic."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    usable = os.sched_getaffinity(0)
    folder = Path("/sys/devices/system/cpu")
    try:
        cores = len({(folder / f"cpu{i}/topology/thread_siblings_list").read_text() for i in usable})
    except OSError:
        cores = len(usable)
    return min(cores, _quota())


def _quota() -> int:
    """Processors whose time a container's control group (version 2) grants."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no such group, or "max"
        return os.cpu_count() or 1


@cache
def threads_up_to(most: int) -> Callable[[int], int]:
    """Threads by a call's multiply-adds: no more than they are worth, nor than `most`."""

    def threads_for(work: int) -> int:
        worth = work // thresholds.WORTH_A_THREAD
        return 1 if worth < 2 else max(1, min(worth, most // _here.sharing))

    return threads_for


def work_of(plan: Plan, shape: tuple[int, ...], H: int) -> int:
    """Multiply-adds of a forward pass over an input of `shape` (T, N, D)."""
    T, N, D = shape
    return T * N * H * (D * plan.n_gates + H * plan.n_matrices)


def apart(most: int, N: int, work: int) -> bool:
    """Whether the two directions of a layer of `work` gain from a thread each, of `most`: where the batch cannot be
    split."""
    worth = work // thresholds.WORTH_A_THREAD
    return most > 1 and min(N, worth) == 1


class _Here(threading.local):
    # Threads among which those that this one may use are divided.
    sharing = 1


_here = _Here()


def run_together(work: Callable[[Part], Answer], parts: Iterable[Part]) -> list[Answer]:
    """``work`` of every part, each in a thread: kernels and BLAS hold no lock of the interpreter.

    Answers are in the order of the parts. The first part is done by the caller's own thread. What a part runs in
    parts in its turn is done one after the other: a thread of the pool waits for no other. Every part runs in the
    caller's context, so that settings are the same in all.
    """
    parts = list(parts)
    if _here.sharing > 1:
        return [work(part) for part in parts]

    def share(part: Part) -> Answer:
        _here.sharing = len(parts)
        try:
            return work(part)
        finally:
            _here.sharing = 1

    first, *others = parts
    # A context can be entered once at a time.
    later = [_pool().submit(copy_context().run, share, part) for part in others]
    return [share(first), *(answer.result() for answer in later)]


@cache
def _pool() -> ThreadPoolExecutor:
    # No part waits for another, so calls at once need no more threads than processors.
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="fastrnn")


if hasattr(os, "register_at_fork"):
    # A forked child has none of the threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)
