"""Online learning: exact RTRL against NumPy with one BLAS product a step, traces against a plain step.

`python -m bench.online`: µs of a step forward and back of one sequence, D = H, float32. Ratios: of RTRL, how many times
as long NumPy takes for the same gradients; of the traces, how many times as long they take as ``layer.step``, which
learns nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np

import fastrnn
from fastrnn.online import RFLO, RTRL, SnAp1

from .command import parser, run
from .measure import Row, Run, medians
from .results import Result, all_rows
from .tables import table

CELLS = {"RNN": fastrnn.RNN, "LSTM": fastrnn.LSTM, "GRU": fastrnn.GRU}
SIZES = (32, 64, 128)


def main() -> None:
    """Measure and print; with ``--save``, keep the figures."""
    run("online", parser(__doc__, rounds=15), rows, tables)


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """A row for each size of RTRL, then for each cell and size of the traces."""
    fastrnn.set_num_threads(options.worker)
    sizes = SIZES[:1] if options.quick else SIZES
    for H in sizes:
        yield {"learner": "RTRL", "cell": "RNN", "H": H, "us": _us(exact(H), options.rounds)}
    for cell in CELLS:
        for H in sizes:
            yield {"learner": "traces", "cell": cell, "H": H, "us": _us(traces(cell, H), options.rounds)}


def _us(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    return {name: 1e6 * s for name, s in medians(runs, rounds, 0.01).items()}


def tables(results: list[Result]) -> list[str]:
    """A table for RTRL, and one for the traces."""
    found = all_rows(results)
    lines = []
    for row in found:
        us = row["us"]
        if row["learner"] == "RTRL":
            lines.append([f"H={row['H']}", *(f"{us[n]:.0f}" for n in ("fastrnn", "NumPy"))])
            lines[-1].append(f"{us['NumPy'] / us['fastrnn']:.2f}")
    made = table(["RTRL of a simple network", "fastrnn, µs", "NumPy, µs", "ratio"], lines)
    lines = []
    for row in found:
        us = row["us"]
        if row["learner"] == "traces":
            lines.append([f"{row['cell']}, H={row['H']}", *(f"{us[n]:.2f}" for n in ("step", "RFLO", "SnAp-1"))])
            lines[-1] += [f"{us[n] / us['step']:.2f}" for n in ("RFLO", "SnAp-1")]
    heads = ["cell", "step, µs", "RFLO, µs", "SnAp-1, µs", "RFLO / step", "SnAp-1 / step"]
    return [*made, "", *table(heads, lines)]


class NumpyRTRL:
    """RTRL of a simple network: the influence (H, C*H) times the step's Jacobian is one product."""

    def __init__(self, layer: fastrnn.RNN) -> None:
        self.p = {name: layer.params[f"{name}_l0"] for name in ("Wx", "Wh", "bx", "bh")}
        self.D, self.H = self.p["Wx"].shape
        # Rows of Wx, of Wh, and one that both biases share.
        self.C = self.D + self.H + 1
        self.now, self.next = (np.zeros((self.H, self.C * self.H), np.float32) for _ in range(2))
        self.h, self.units = np.zeros(self.H, np.float32), np.arange(self.H)
        self.source = np.ones(self.C, np.float32)
        self.gradient = np.zeros(self.C * self.H, np.float32)

    def forward(self, x: np.ndarray) -> np.ndarray:
        p, D, H = self.p, self.D, self.H
        self.source[:D], self.source[D : D + H] = x, self.h
        self.h = np.tanh(x @ p["Wx"] + p["bx"] + self.h @ p["Wh"] + p["bh"])
        self.slope = 1 - self.h * self.h
        np.matmul(self.slope[:, None] * p["Wh"].T, self.now, out=self.next)
        self.next.reshape(H, self.C, H)[self.units, :, self.units] += self.slope[:, None] * self.source
        self.now, self.next = self.next, self.now
        return self.h

    def backward(self, dy: np.ndarray) -> np.ndarray:
        self.gradient += dy @ self.now
        return (dy * self.slope) @ self.p["Wx"].T

    def gradients(self) -> dict[str, np.ndarray]:
        rows, D, H = self.gradient.reshape(self.C, self.H), self.D, self.H
        return {"Wx_l0": rows[:D], "Wh_l0": rows[D : D + H], "bx_l0": rows[-1], "bh_l0": rows[-1]}


def exact(H: int) -> dict[str, Run]:
    """A step forward and back of each, which agree."""
    layer = fastrnn.RNN(H, H, seed=0)
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 4, 1, H)).astype(np.float32)
    ours, theirs = RTRL(layer), NumpyRTRL(layer)
    for t in range(4):
        np.testing.assert_allclose(ours.forward(x[t])[0], theirs.forward(x[t, 0]), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ours.backward(dy[t])[0], theirs.backward(dy[t, 0]), rtol=1e-3, atol=1e-4)
    for name, gradient in theirs.gradients().items():
        np.testing.assert_allclose(layer.grads[name], gradient, rtol=1e-3, atol=1e-3, err_msg=name)
    return {
        "fastrnn": lambda: (ours.forward(x[0]), ours.backward(dy[0])),
        "NumPy": lambda: (theirs.forward(x[0, 0]), theirs.backward(dy[0, 0])),
    }


def traces(cell: str, H: int) -> dict[str, Run]:
    """A plain step, and steps of the learners forward and back."""
    layer = CELLS[cell](H, H, seed=0)
    x = np.random.default_rng(0).standard_normal((1, H)).astype(np.float32)
    _, state = layer.step(x)

    def learn(learner: RFLO | SnAp1) -> Run:
        learner.forward(x)
        return lambda: (learner.forward(x), learner.backward(x))

    return {"step": lambda: layer.step(x, state), "RFLO": learn(RFLO(layer)), "SnAp-1": learn(SnAp1(layer))}


if __name__ == "__main__":
    main()
