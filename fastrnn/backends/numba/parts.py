"""A batch in parts, one for each thread.

Only where NumPy's BLAS has one thread: several calls at once of a BLAS with threads of its own take turns, and wait for
each other on processors that the parts need. A small batch was then ten times slower than on one thread.
"""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import pairwise

from ...engine.call import Call

_LIMITS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
# BLAS reads them once, when NumPy is imported.
_BLAS_ALONE = any(os.environ.get(name) == "1" for name in _LIMITS)


def several(call: Call) -> bool:
    """Whether `call` is to be split."""
    return _BLAS_ALONE and _parts(call) > 1


def split(call: Call) -> list[tuple[slice, Call]]:
    """The sequences of each part, and the call that is left of `call` for one thread; parts differ by at most one."""
    N, parts = call.x.shape[1], _parts(call)
    bounds = [N * i // parts for i in range(parts + 1)]
    sequences = [slice(*pair) for pair in pairwise(bounds)]
    return [(part, _part(call, part)) for part in sequences]


def _parts(call: Call) -> int:
    return min(call.threads, call.sizes[1])


def _part(call: Call, part: slice) -> Call:
    return replace(
        call,
        x=call.x[:, part],
        state=tuple(state[part] for state in call.state),
        lengths=None if call.lengths is None else call.lengths[part],
        threads=1,
    )
