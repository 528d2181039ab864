"""Every cell of the tests as fastrnn has it, and one way to run any of them on a problem."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastrnn
import user_cells
from fastrnn import cells
from fastrnn.functional import cell_backward, cell_forward
from naive import PLAIN, Call
from problems import Problem, Result, named

# Names as in naive.CELLS.
CELLS = {
    **{f"rnn_{f}": cells.rnn(f) for f in ("tanh", "relu", "sigmoid", "identity")},
    "lstm": cells.lstm,
    "gru_after": cells.gru(reset_after=True),
    "gru_before": cells.gru(reset_after=False),
    "leaky": user_cells.leaky(tau=5.0, dt=0.5),
    "mgu": user_cells.mgu,
    "coupled_lstm": user_cells.coupled_lstm,
    "peephole_lstm": user_cells.peephole_lstm,
    "indrnn": user_cells.indrnn,
    "relaxing": user_cells.relaxing,
}

# Those that the extension has.
BUILT_IN = [name for name, cell in CELLS.items() if cell in cells.builtin.built_in()]

CALLS = [
    Call(lengths, reverse, truncate)
    for lengths in (None, (3, 5, 0, 1))
    for reverse in (False, True)
    for truncate in (None, 1, 2)
]


def call_id(call: Call) -> str:
    return "-".join(
        [
            "ragged" if call.lengths else "full",
            "reverse" if call.reverse else "forward",
            f"cut{call.truncate}" if call.truncate else "uncut",
        ]
    )


def run(p: Problem, call: Call = PLAIN, batch_first: bool = False, **changes: Any) -> Result:
    """`p` through cell_forward and cell_backward; `changes` replace arguments of the former."""

    def major(a: Any) -> Any:
        return a.swapaxes(0, 1) if batch_first else a

    flags = {name: major(np.array(rows)) for name in ("mask", "resets") if (rows := getattr(call, name)) is not None}
    arguments = {"x": major(p.x), "state": p.state, "params": p.params} | flags | changes
    lengths = None if call.lengths is None else list(call.lengths)
    hs, last, cache = cell_forward(
        CELLS[p.cell], **arguments, lengths=lengths, reverse=call.reverse, batch_first=batch_first
    )
    dx, dstate, dparams = cell_backward(major(p.dhs), cache, p.dlast, call.truncate)
    return named(major(hs), last, major(dx), dstate, dparams)


def reference(p: Problem, call: Call = PLAIN) -> Result:
    """`p` on the NumPy backend."""
    with fastrnn.use_backend("numpy"):
        return run(p, call)
