"""A batch in parts, each run by a thread: kernels and BLAS hold no lock of the interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import TypeVar

from ...engine.call import Call

Part = TypeVar("Part")
Answer = TypeVar("Answer")


def split(call: Call) -> list[tuple[slice, Call]]:
    """The sequences of each part, and the call that is left of `call` for one thread; parts differ by at most one."""
    N, parts = call.x.shape[1], call.threads
    bounds = [N * i // parts for i in range(parts + 1)]
    sequences = [slice(*pair) for pair in pairwise(bounds)]
    return [(part, _part(call, part)) for part in sequences]


def _part(call: Call, part: slice) -> Call:
    return replace(
        call,
        x=call.x[:, part],
        state=tuple(state[part] for state in call.state),
        lengths=None if call.lengths is None else call.lengths[part],
        threads=1,
    )


def run(work: Callable[[Part], Answer], parts: Iterable[Part]) -> list[Answer]:
    """``work`` of every part, in the order of the parts; the first is done by the caller's own thread."""
    first, *others = parts
    later = [_pool().submit(work, part) for part in others]
    return [work(first), *(answer.result() for answer in later)]


@cache
def _pool() -> ThreadPoolExecutor:
    # Work here waits for no other work, so calls at once need no more threads than processors.
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="fastrnn")


if hasattr(os, "register_at_fork"):
    # A forked child has none of the threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)
