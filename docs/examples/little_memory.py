"""
BPTT in little memory
=====================

The same gradients with all steps saved, and with segments computed again.

BPTT reads what every step has computed: of 20,000 steps, tens of megabytes. With ``recompute`` a call saves only the
states at the ends of segments, and the way back computes one segment at a time again (Chen et al. 2016; Gruslys et al.
2016): memory grows as the square root of the steps, for the time of one more forward pass.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

import fastrnn

T, H = 20_000, 64
layer = fastrnn.LSTM(H, H, num_layers=2, seed=0)
rng = np.random.default_rng(0)
X, DY = (rng.standard_normal((T, 1, H), dtype=np.float32) for _ in range(2))


def peak() -> int:
    """The most memory that the process had since the last :func:`start_again`, in bytes; 0 if Linux does not say."""
    if sys.platform != "linux":
        return 0
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def start_again() -> None:
    """Forget the peak so far."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def run(recompute: int | str | None) -> tuple[dict[str, np.ndarray], float, float]:
    """Gradients, megabytes beyond x, y, dy and dx, and seconds."""
    start_again()
    before, begin = peak(), time.perf_counter()
    y, _, pullback = layer.vjp(X, recompute=recompute)
    dx, _, grads = pullback(DY)
    seconds = time.perf_counter() - begin
    return grads, max(0, peak() - before - y.nbytes - dx.nbytes) / 1e6, seconds


def plot(results: dict[str, tuple[float, float]]) -> None:
    """Memory and time beside each other, where matplotlib is installed."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        return
    _, axes = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
    names = list(results)
    for one, values, label in zip(axes, zip(*results.values(), strict=True), ("memory (MB)", "time (s)"), strict=True):
        bars = one.barh(names, values)
        one.bar_label(bars, fmt="%.2g", padding=3)
        one.set(xlabel=label)
        one.margins(x=0.15)
        one.invert_yaxis()
    axes[0].set_title(f"Beyond inputs, outputs and their gradients; T = {T:,}")
    axes[1].set_title("Forward pass and BPTT")
    plt.show()


def main() -> None:
    """Compare gradients, memory and time."""
    # What is allocated or compiled once is there before anything is counted.
    layer.vjp(X[:2000])[2](DY[:2000])
    results = {}
    plain = None
    for name, recompute in (("recompute='sqrt'", "sqrt"), ("recompute=5000", 5000), ("everything saved", None)):
        grads, megabytes, seconds = run(recompute)
        results[name] = (megabytes, seconds)
        print(f"{name:18s} {megabytes:6.1f} MB beyond x, y, dy, dx   {seconds:5.2f} s")
        if plain is None:
            plain = grads
        for key, grad in grads.items():
            assert np.abs(grad - plain[key]).max() < 1e-4 * np.abs(plain[key]).max()
    print("the gradients are the same to rounding")
    plot(results)


if __name__ == "__main__":
    main()
