"""
An error at every step
======================

An Elman network with a squared error at every step (Elman 1990).

``s_t = f(x_t U + s_{t-1} W)``, ``o_t = s_t V``, ``E = Σ_t E_t`` with ``E_t = ½ |o_t - d_t|²``. The
gradient of the total is the sum of the gradients of the parts: shown for V, W and U, for f the logistic function and
tanh.
"""

from __future__ import annotations

import numpy as np

from fastrnn import functional as F


def gradients(f: str, x, d, U, W, V, curves: dict[str, list[float]]) -> dict[str, np.ndarray]:
    """The total gradients by V, W and U; `curves` gets the norms of dE_t/dV, dE_t/dW and dE_t/dU of every step t."""
    s, cache = F.rnn_forward(x, None, U, W, None, nonlinearity=f)
    error = s @ V - d
    parts: dict[str, list[np.ndarray]] = {"V": [], "W": [], "U": []}
    for t in range(len(x)):
        ds = np.zeros_like(s)
        ds[t] = error[t] @ V.T
        _, _, dU, dW, _ = F.rnn_backward(ds, cache)
        for name, value in {"V": s[t].T @ error[t], "W": dW, "U": dU}.items():
            parts[name].append(value)
    _, _, dU, dW, _ = F.rnn_backward(error @ V.T, cache)
    total = {"V": np.einsum("tnh,tno->ho", s, error), "W": dW, "U": dU}
    print(f"\n{f}: total error {0.5 * (error**2).sum():.4f}")
    for name, value in total.items():
        curves[f"by {name}, {f}"] = [float(np.linalg.norm(p)) for p in parts[name]]
        norms = " ".join(f"{norm:.3f}" for norm in curves[f"by {name}, {f}"])
        difference = np.abs(sum(parts[name]) - value).max()
        print(f"  |dE_t/d{name}| by step: {norms}; total {np.linalg.norm(value):.3f}, sum differs {difference:.1e}")
        assert difference < 1e-12
    return total


def plot(curves: dict[str, list[float]]) -> None:
    """A picture of the gradients of each step's error, where matplotlib is installed."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        return
    _, axes = plt.subplots()
    for name, norms in curves.items():
        axes.plot(range(1, len(norms) + 1), norms, "o-", label=name)
    axes.set(xlabel="step t", ylabel="norm of the gradient of E_t")
    axes.legend(fontsize="small")
    plt.show()


def main() -> None:
    """Both nonlinearities, and a numerical derivative of one entry of W."""
    rng = np.random.default_rng(0)
    x, d = rng.standard_normal((6, 1, 2)), rng.standard_normal((6, 1, 2))
    U, W, V = rng.standard_normal((2, 4)), rng.standard_normal((4, 4)) * 0.5, rng.standard_normal((4, 2))
    curves: dict[str, list[float]] = {}
    for f in ("sigmoid", "tanh"):
        total = gradients(f, x, d, U, W, V, curves)

        def error(step: float, f: str = f) -> float:
            moved = W.copy()
            moved[1, 2] += step
            s, _ = F.rnn_forward(x, None, U, moved, None, nonlinearity=f)
            return float(0.5 * ((s @ V - d) ** 2).sum())

        numerical = (error(1e-6) - error(-1e-6)) / 2e-6
        print(f"  dE/dW[1,2]: {total['W'][1, 2]:.8f}, by central difference {numerical:.8f}")
        assert abs(numerical - total["W"][1, 2]) < 1e-7 * max(1.0, abs(numerical))
    plot(curves)


if __name__ == "__main__":
    main()
