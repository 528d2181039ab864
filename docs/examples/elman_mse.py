"""An Elman network with a squared error at every step (Elman 1990).

s_t = f(x_t U + s_{t-1} W), o_t = s_t V, E = Σ_t E_t with E_t = ½ |o_t - d_t|². The gradient of the total is the sum of
the gradients of the parts: shown for V, W and U, for f the logistic function and tanh.
"""

from __future__ import annotations

import numpy as np

from fastrnn import functional as F


def gradients(f: str, x, d, U, W, V) -> dict[str, np.ndarray]:
    """dE_t/dV, dE_t/dW and dE_t/dU for every step t, each (T, ...)."""
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
        norms = " ".join(f"{np.linalg.norm(p):.3f}" for p in parts[name])
        difference = np.abs(sum(parts[name]) - value).max()
        print(f"  |dE_t/d{name}| by step: {norms}; total {np.linalg.norm(value):.3f}, sum differs {difference:.1e}")
        assert difference < 1e-12
    return total


def main() -> None:
    """Both nonlinearities, and a numerical derivative of one entry of W."""
    rng = np.random.default_rng(0)
    x, d = rng.standard_normal((6, 1, 2)), rng.standard_normal((6, 1, 2))
    U, W, V = rng.standard_normal((2, 4)), rng.standard_normal((4, 4)) * 0.5, rng.standard_normal((4, 2))
    for f in ("sigmoid", "tanh"):
        total = gradients(f, x, d, U, W, V)

        def error(step: float, f: str = f) -> float:
            moved = W.copy()
            moved[1, 2] += step
            s, _ = F.rnn_forward(x, None, U, moved, None, nonlinearity=f)
            return float(0.5 * ((s @ V - d) ** 2).sum())

        numerical = (error(1e-6) - error(-1e-6)) / 2e-6
        print(f"  dE/dW[1,2]: {total['W'][1, 2]:.8f}, by central difference {numerical:.8f}")
        assert abs(numerical - total["W"][1, 2]) < 1e-7 * max(1.0, abs(numerical))


if __name__ == "__main__":
    main()
