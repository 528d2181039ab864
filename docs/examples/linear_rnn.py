"""
The linear recurrence
=====================

``h_t = h_{t-1} w_H + x_t w_X``: its gradients have closed forms.

With L = h_N: ``dL/dw_H = Σ_i w_H^{i-1} h_{N-i}`` (i = 1..N) and ``dL/dw_X = Σ_i w_H^i x_{N-i}`` (i = 0..N-1); with
matrices and L = Σ h_N the same sums with powers of W_H. Such sums are why gradients vanish or explode
(Bengio et al. 1994).
"""

from __future__ import annotations

import numpy as np

from fastrnn import functional as F


def check(name: str, library: np.ndarray, formula: np.ndarray) -> None:
    """Print both and their relative difference."""
    error = np.abs(library - formula).max() / np.abs(formula).max()
    print(f"{name}: library {np.ravel(library)[:3]}, formula {np.ravel(formula)[:3]}, relative error {error:.1e}")
    assert error < 1e-12


def compare(D: int, H: int, steps: int = 12) -> None:
    """Library against formula for `D` features and `H` units."""
    rng = np.random.default_rng(D + H)
    x = rng.standard_normal((steps, 1, D))
    Wx, Wh = rng.standard_normal((D, H)), rng.standard_normal((H, H)) * 0.9 / np.sqrt(H)
    hs, cache = F.rnn_forward(x, None, Wx, Wh, None, nonlinearity="identity")
    _, _, dWx, dWh, _ = F.rnn_backward(None, cache, dh_last=np.ones((1, H)))

    h = np.concatenate([np.zeros((1, 1, H)), hs])  # h[0] is the initial state
    ones = np.ones((1, H))
    power = [ones @ np.linalg.matrix_power(Wh, i).T for i in range(steps)]
    formula_h = sum(h[steps - i].T @ power[i - 1] for i in range(1, steps + 1))
    formula_x = sum(x[steps - 1 - i].T @ power[i] for i in range(steps))
    check("  dL/dW_H", dWh, formula_h)
    check("  dL/dW_X", dWx, formula_x)


def plot(steps: int = 12) -> None:
    """A picture of |dL/dx_t| for several scalar weights, where matplotlib is installed."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        return
    _, axes = plt.subplots()
    x = np.ones((steps, 1, 1))
    for w in (0.5, 0.9, 1.0, 1.1, 1.5):
        _, cache = F.rnn_forward(x, None, np.eye(1), np.array([[w]]), None, nonlinearity="identity")
        dx, *_ = F.rnn_backward(None, cache, dh_last=np.ones((1, 1)))
        axes.semilogy(range(1, steps + 1), dx[:, 0, 0], "o-", label=f"w_H = {w}")
    axes.set(xlabel="step t", ylabel="dL/dx_t", title="Powers of w_H")
    axes.legend()
    plt.show()


if __name__ == "__main__":
    print("scalar")
    compare(1, 1)
    print("matrices, D = 3, H = 4")
    compare(3, 4)
    plot()
