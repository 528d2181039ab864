"""
Learning while the stream runs
==============================

Real-time recurrent learning (Williams & Zipser 1989) has the gradient of BPTT without keeping the past; SnAp-1, RFLO,
e-prop and UORO are cheaper. A network reads one random sign a step and says which one it read three steps before.
First the gradients of one sequence: RTRL against BPTT, and how far each approximation points elsewhere. Then each
learner on the same stream, with new weights after every sample. Then how the time of a step grows with the number of
units.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fastrnn
from fastrnn.online import RFLO, RTRL, UORO, EProp, Learner, SnAp1

DELAY, STEPS = 3, 3000
KINDS: dict[str, Callable[..., Learner]] = {"RTRL": RTRL, "SnAp1": SnAp1, "RFLO": RFLO, "EProp": EProp, "UORO": UORO}


def gradients() -> None:
    """Of one sequence, by BPTT and by each learner."""
    rng = np.random.default_rng(0)
    layer = fastrnn.GRU(4, 16, dtype="float64", seed=1)
    x, dy = rng.standard_normal((50, 2, 4)), rng.standard_normal((50, 2, 16))
    layer.forward(x)
    layer.backward(dy)
    exact = np.concatenate([g.ravel() for g in layer.grads.values()])
    for name, kind in KINDS.items():
        learner = kind(layer, seed=0) if name == "UORO" else kind(layer)
        layer.zero_grad()
        for x_t, dy_t in zip(x, dy, strict=True):
            learner.forward(x_t)
            learner.backward(dy_t)
        found = np.concatenate([g.ravel() for g in layer.grads.values()])
        cosine = found @ exact / np.linalg.norm(found) / np.linalg.norm(exact)
        error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
        print(f"{name:5s} gradient against BPTT: cosine {cosine:.3f}, relative error {error:.1e}")
        assert cosine > 0.1
        if name == "RTRL":
            assert error < 1e-10
            print("RTRL is BPTT")


def learned(name: str, signs: np.ndarray) -> np.ndarray:
    """Squared error at every step of the stream."""
    layers = [fastrnn.GRU(1, 16, seed=1), fastrnn.Linear(16, 1, seed=2)]
    model = fastrnn.Model(layers)
    options: dict[str, Any] = {"loss": fastrnn.losses.mse, "optimizer": fastrnn.optim.Adam(model.params, lr=0.01)}
    learner = KINDS[name](model, seed=0, **options) if name == "UORO" else KINDS[name](model, **options)
    errors = [
        learner.update(signs[t], signs[t - DELAY])[1] if t >= DELAY else learner.forward(signs[t])[0, 0]
        for t in range(len(signs))
    ]
    return np.array(errors[DELAY:], float)


def microseconds(kind: Callable[..., Learner], hidden: int) -> float:
    """Least time of a step forward and back of a simple network with as many inputs as units."""
    learner = kind(fastrnn.RNN(hidden, hidden, seed=0))
    x = np.ones((1, hidden), np.float32)
    taken = []
    for _ in range(7):
        begin = time.perf_counter()
        for _ in range(5):
            learner.forward(x)
            learner.backward(x)
        taken.append((time.perf_counter() - begin) / 5)
    return min(taken) * 1e6


def plot(curves: dict[str, np.ndarray], times: dict[str, dict[int, float]]) -> None:
    """A picture of both, where matplotlib is installed."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        return
    _, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for name, errors in curves.items():
        # Of a GRU, e-prop and RFLO are the same.
        style = "--" if name == "EProp" else "-"
        left.semilogy(np.convolve(errors, np.ones(100) / 100, "valid"), style, label=name)
    left.set(xlabel="sample", ylabel="squared error, mean of 100 samples")
    left.set_title(f"Saying the sign of {DELAY} steps ago")
    for name, own in times.items():
        right.loglog(list(own), list(own.values()), "o-", label=f"{name}, order {order(own):.1f}")
    right.set(xlabel="units H (= inputs)", ylabel="time of a step, µs", title="Forward and back, one sequence")
    right.set_xticks(list(times["RFLO"]), labels=map(str, times["RFLO"]))
    right.minorticks_off()
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    plt.show()


def order(times: dict[int, float]) -> float:
    """Exponent of H in the time, between the last two sizes: smaller ones are mostly the call itself."""
    (small, a), (large, b) = list(times.items())[-2:]
    return float(np.log(b / a) / np.log(large / small))


def main() -> None:
    """Gradients, learning, time."""
    gradients()
    signs = np.random.default_rng(1).choice([-1.0, 1.0], (STEPS, 1, 1)).astype(np.float32)
    curves = {name: learned(name, signs) for name in KINDS}
    for name, errors in curves.items():
        print(f"{name:5s} squared error of the first and the last 300 samples: {errors[:300].mean():.3f} "
              f"{errors[-300:].mean():.3f}")  # fmt: skip
    assert curves["RTRL"][-300:].mean() < 0.05
    # UORO is right in the mean alone: so few samples are not enough for it to tell a sign from its own noise.
    assert all(curves[name][-300:].mean() < 0.8 * curves[name][:300].mean() for name in ("SnAp1", "RFLO", "EProp"))
    # The influence of 256 units takes 67 MB and a second a step.
    sizes = {name: (16, 32, 64, 128) if name == "RTRL" else (16, 32, 64, 128, 256) for name in KINDS}
    times = {name: {H: microseconds(KINDS[name], H) for H in own} for name, own in sizes.items()}
    for name, own in times.items():
        print(f"{name:5s} µs a step: " + ", ".join(f"H={H} {t:.0f}" for H, t in own.items()))
        print(f"{name:5s} grows as H to the power of {order(own):.1f}")
    plot(curves, times)


if __name__ == "__main__":
    main()
