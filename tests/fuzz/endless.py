"""Very long sequences: sums over all steps must not lose what each of them adds.

The same backend in float64, which other kinds compare with NumPy, is the reference: NumPy would take minutes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import cells
from .arrays import often, pick
from .settings import draw as draw_settings
from .settings import settings

DEFAULTS = cells.DEFAULTS
# Relative to the largest gradient of an array.
BOUND = 5e-6


def draw(rng: np.random.Generator, quick: bool) -> dict[str, Any]:
    case = cells.DEFAULTS | draw_settings(rng)
    return case | {
        "precision": "highest",
        "cell": pick(rng, cells.QUICK if quick else ("lstm", "gru_after", "gru_before", "rnn_tanh")),
        "T": int(rng.integers(100_000, 300_000 if quick else 1_000_000)),
        "N": often(rng, 1, (2, 3), 0.7),
        "D": pick(rng, (1, 3, 5)),
        "H": pick(rng, (1, 4, 9)),
        "bias": "bx bh",
        "reverse": bool(rng.random() < 0.3),
        "dtype": "float32",
        "seed": int(rng.integers(1_000_000)),
    }


def run(case: dict[str, Any]) -> None:
    given = cells.arrays_of(case)
    # Sums over numbers of one sign grow with the steps; where they cancel, a relative error says nothing.
    given |= {name: np.abs(given[name]) for name in ("x", "dhs")}
    with settings(case):
        got = cells.results(case, given)
        exact = cells.results(case, {name: a.astype("f8") for name, a in given.items()})
    for name in ("dWx", "dWh", "dbx", "dbh"):
        error, largest = np.abs(got[name] - exact[name]).max(), np.abs(exact[name]).max()
        assert error <= BOUND * largest, f"{name}: relative error {error / largest:.3g} > {BOUND:.3g}"
