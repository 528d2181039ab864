"""Splits a batch into parts, one for each thread."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from ...engine.contract import Call


def split(call: Call, parts: int) -> list[tuple[slice, Call]]:
    """The sequences of each part, with a call of them for one thread; the sizes differ by at most one sequence."""
    N = call.x.shape[1]
    bounds = [N * i // parts for i in range(parts + 1)]
    sequences = [slice(*pair) for pair in pairwise(bounds)]
    return [(part, _part(call, part)) for part in sequences]


def _part(call: Call, part: slice) -> Call:
    return replace(
        call,
        x=call.x[:, part],
        state=tuple(state[part] for state in call.state),
        flags=None if call.flags is None else np.ascontiguousarray(call.flags[:, part]),
        reset_state=None if call.reset_state is None else tuple(state[part] for state in call.reset_state),
        threads=1,
    )
