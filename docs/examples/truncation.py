"""
What truncation loses
=====================

The share of the gradient that truncated BPTT does not see, by k1 and k2.

The losses of every k1 steps go back over k2 steps (Williams & Peng 1990; Sutskever 2013). With k1 = k2 most losses
reach back much less than k2: the first of a block has no past at all. A k2 above k1 gives every loss at least k2 - k1
steps of past, for ceil(k2 / k1) backward passes.
"""

from __future__ import annotations

import numpy as np

from fastrnn import LSTM
from fastrnn.losses import mse

T, N, H, LAG = 400, 8, 32, 20
rng = np.random.default_rng(0)
# Each output is to be the input of 20 steps before.
x = rng.standard_normal((T, N, 1))
target = np.zeros((T, N, H))
target[LAG:] = x[:-LAG]
layer = LSTM(1, H, dtype="float64", seed=0)
# Forget gates that begin open: gradients reach far.
layer.params["bx_l0"][H : 2 * H] = 2.0
Y, _, PULLBACK = layer.vjp(x)
DY = mse(Y, target)[1]
WHOLE = PULLBACK(DY)[2]["Wh_l0"]


def lost(truncate: int | tuple[int, int]) -> float:
    """The norm of what is missing of the gradient of ``Wh``, as a share of the whole one's."""
    grad = PULLBACK(DY, truncate=truncate)[2]["Wh_l0"]
    return float(np.linalg.norm(grad - WHOLE) / np.linalg.norm(WHOLE))


def plot(curves: dict[str, tuple[list[int], list[float]]]) -> None:
    """What is lost over k2, where matplotlib is installed."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        return
    _, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, (k2, shares) in curves.items():
        axes.loglog(k2, shares, marker="o", label=name)
    axes.set(xlabel="k2: steps that the losses of a block go back", ylabel="share of the gradient of Wh that is lost")
    steps = curves["k1 = k2: blocks apart"][0]
    axes.set_xticks(steps, [str(k) for k in steps])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    plt.show()


def main() -> None:
    """Print and draw what is lost."""
    reach = [5, 10, 20, 40, 80, 160]
    curves = {"k1 = k2: blocks apart": (reach, [lost(k) for k in reach])}
    for k1 in (5, 20):
        further = [k2 for k2 in reach if k2 >= k1]
        curves[f"k1 = {k1}"] = (further, [lost((k1, k2)) for k2 in further])
    print("share of the gradient that is lost")
    for name, (k2, shares) in curves.items():
        print(f"{name:22s} " + "  ".join(f"k2={k}: {share:.1e}" for k, share in zip(k2, shares, strict=True)))
    assert lost((20, 20)) == lost(20) and lost((20, T)) == 0
    for k in (20, 40, 80):
        assert lost((5, k)) < lost(k)
    plot(curves)


if __name__ == "__main__":
    main()
