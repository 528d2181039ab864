"""How many threads a call uses, and running work in several of them."""

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
    """Set the number of threads that a call may use: the default of the process, in all its threads.

    The threads divide the batch. If that has few sequences, they divide the hidden units or the layers (``cpp``
    backend) or, in a bidirectional layer, the directions. Results are bit-identical for the same number of threads.
    For another number they may differ by rounding: the gradients of the weights are summed over the parts of the batch,
    and the order of other sums may depend on the size of a part. Calls too small to gain use one thread.

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
    """Context manager: use up to `n` threads inside ``with``, in this thread or asyncio task only.

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
    """Number of threads that the next call may use.

    Returns
    -------
    int
        Inside ``with use_num_threads(n)`` its argument; otherwise the argument of the last :func:`set_num_threads`;
        otherwise ``FASTRNN_NUM_THREADS``, or the number of physical cores.

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
    """Number of cores that this process may use; hardware threads of a core share its arithmetic units."""
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
    """Number of processors that the CPU quota of a container allows (control groups, version 2)."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no such group, or "max"
        return os.cpu_count() or 1


@cache
def threads_up_to(most: int) -> Callable[[int], int]:
    """A function from a call's multiply-adds to its number of threads, at most `most`."""

    def threads_for(work: int) -> int:
        worth = work // thresholds.WORTH_A_THREAD
        return 1 if worth < 2 else max(1, min(worth, most // _here.sharing))

    return threads_for


def work_of(plan: Plan, shape: tuple[int, ...], H: int) -> int:
    """Multiply-adds of a forward pass over an input of `shape` (T, N, D)."""
    T, N, D = shape
    return T * N * H * (D * plan.n_gates + H * plan.n_matrices)


def apart(most: int, N: int, work: int) -> bool:
    """Whether the two directions of a layer run in a thread each: if the batch cannot be split, and `work` is worth it.

    `most` is the number of threads that may be used.
    """
    worth = work // thresholds.WORTH_A_THREAD
    return most > 1 and min(N, worth) == 1


class _Here(threading.local):
    # Number of sibling tasks, this one included, that share this thread's quota.
    sharing = 1


_here = _Here()


def run_together(work: Callable[[Part], Answer], parts: Iterable[Part]) -> list[Answer]:
    """Call `work` for every part, each in a thread of its own; kernels and BLAS release the GIL.

    The results are in the order of the parts. The caller's thread does the first part. Nested calls run serially, so
    that no thread of the pool waits for another. Every part runs in the caller's context and sees its settings.
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
    # A copy for each: a context cannot be entered by two threads.
    later = [_pool().submit(copy_context().run, share, part) for part in others]
    return [share(first), *(answer.result() for answer in later)]


@cache
def _pool() -> ThreadPoolExecutor:
    # No part waits for another, so concurrent calls need no more threads than processors.
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="fastrnn")


if hasattr(os, "register_at_fork"):
    # A forked child does not have the threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)
