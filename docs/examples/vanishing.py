"""
Vanishing, holding, exploding
=============================

How far a gradient reaches (Bengio et al. 1994; Pascanu et al. 2013).

The norm of dL/dh_t over 100 steps for recurrent matrices of spectral radius 0.5, 1 and 1.5, for the logistic function
against tanh, for the simple network against LSTM and GRU; and what clipping and truncation do.
"""

from __future__ import annotations

import numpy as np

from fastrnn import functional as F
from fastrnn.optim import clip_grad_norm

T, H = 100, 16
rng = np.random.default_rng(0)
ORTHOGONAL = np.linalg.qr(rng.standard_normal((H, H)))[0]
X = rng.standard_normal((T, 1, H)) * 0.01
DH = np.ones((1, H)) / np.sqrt(H)


def input_norms(dx: np.ndarray) -> np.ndarray:
    """|dL/dx_t| for each step: dL/dh_t seen through an input matrix."""
    return np.linalg.norm(dx[:, 0], axis=1)


def rnn_norms(radius: float, f: str = "tanh", truncate: int | None = None) -> np.ndarray:
    """Of a simple network with an orthogonal recurrent matrix times `radius`."""
    _, cache = F.rnn_forward(X, None, np.eye(H), ORTHOGONAL * radius, None, nonlinearity=f)
    return input_norms(F.rnn_backward(None, cache, dh_last=DH, truncate=truncate)[0])


def gated_norms() -> dict[str, np.ndarray]:
    """Of an LSTM and a GRU whose gates begin open to the past."""
    weights = {G: rng.standard_normal((H, G * H)) * 0.1 for G in (3, 4)}
    b4, b3 = np.zeros(4 * H), np.zeros(3 * H)
    b4[H : 2 * H] = b3[H : 2 * H] = 4.0  # forget gate, update gate
    _, _, cache = F.lstm_forward(X, None, None, weights[4], weights[4], b4)
    lstm = F.lstm_backward(None, cache, dh_last=DH)[0]
    _, gru_cache = F.gru_forward(X, None, weights[3], weights[3], b3, None)
    return {"LSTM": input_norms(lstm), "GRU": input_norms(F.gru_backward(None, gru_cache, dh_last=DH)[0])}


def plot(curves: dict[str, np.ndarray]) -> None:
    """A picture of all curves, where matplotlib is installed."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        return
    _, axes = plt.subplots()
    for name, norms in curves.items():
        axes.semilogy(np.arange(1, T + 1), np.maximum(norms, 1e-300), label=name)
    axes.set(xlabel="step t", ylabel="|dL/dx_t|", ylim=(1e-40, 1e20), title="The gradient of the last state")
    axes.legend(fontsize="small")
    plt.show()


def main() -> None:
    """Print the norm at the first step relative to the last."""
    curves = {f"linear, radius {r}": rnn_norms(r, "identity") for r in (0.5, 1.0, 1.5)}
    curves |= {f"tanh, radius {r}": rnn_norms(r) for r in (0.5, 1.0, 1.5)}
    curves["sigmoid, radius 1.0"] = rnn_norms(1.0, "sigmoid")
    curves |= gated_norms()
    reach = {name: norms[0] / norms[-1] for name, norms in curves.items()}
    for name, ratio in reach.items():
        print(f"{name:20s} |dL/dx_1| / |dL/dx_T| = {ratio:.1e}")
    for r in (0.5, 1.0, 1.5):
        assert abs(np.log10(reach[f"linear, radius {r}"]) - (T - 1) * np.log10(r)) < 1e-6
    assert reach["sigmoid, radius 1.0"] < 1e-50 < reach["tanh, radius 1.0"]
    assert reach["LSTM"] > 1e3 * reach["tanh, radius 0.5"] and reach["GRU"] > 1e3 * reach["tanh, radius 0.5"]

    _, cache = F.rnn_forward(X, None, np.eye(H), ORTHOGONAL * 1.5, None, nonlinearity="identity")
    _, _, dWx, dWh, _ = F.rnn_backward(None, cache, dh_last=DH)
    grads = {"Wx": dWx, "Wh": dWh}
    before = clip_grad_norm(grads, 1.0)
    after = np.sqrt(sum((g**2).sum() for g in grads.values()))
    print(f"clipping: norm {before:.1e} becomes {after:.3f}")
    assert abs(after - 1) < 1e-9
    cut = rnn_norms(1.0, truncate=10)
    print(f"truncation after every 10 steps: gradient reaches {np.count_nonzero(cut)} of {T} steps")
    assert np.count_nonzero(cut) == 10
    plot(curves)


if __name__ == "__main__":
    main()
