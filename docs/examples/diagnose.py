"""
A network that does not learn
=============================

Which of two signals came first? The network reads it at the first of 60 steps, noise at all others, and is asked at
the last one. A simple network with the usual initial values gets no further than guessing. The report says why: its
gradient has vanished long before it reaches the first step. What it advises is tried, and both cures work: orthogonal
initial values (Saxe et al. 2014), and an LSTM whose forget gates begin open (Tallec & Ollivier 2018).
"""

from __future__ import annotations

import numpy as np

from fastrnn import LSTM, RNN, Linear, Model, diagnostics
from fastrnn.losses import softmax_cross_entropy
from fastrnn.optim import Adam, clip_grad_norm

T, N, H, STEPS = 60, 32, 16, 300


def batch(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (T, N, 2), of which channel 0 is the signal and channel 1 noise, and the answers (N,)."""
    answers = rng.integers(0, 2, N)
    x = np.zeros((T, N, 2), np.float32)
    x[0, :, 0] = 2 * answers - 1
    x[1:, :, 1] = 0.3 * rng.standard_normal((T - 1, N))
    return x, answers


def simple() -> Model:
    """A simple network with the initial values that layers have."""
    return Model([RNN(2, H, seed=0), Linear(H, 2, seed=1)])


def orthogonal() -> Model:
    """The same with an orthogonal recurrent matrix."""
    model = simple()
    model.params["0.Wh_l0"] = np.linalg.qr(np.random.default_rng(0).standard_normal((H, H)))[0].astype(np.float32)
    return model


def gated() -> Model:
    """An LSTM whose forget gates begin open, for about T steps."""
    model = Model([LSTM(2, H, seed=0), Linear(H, 2, seed=1)])
    model.params["0.bx_l0"][H : 2 * H] += np.log(T)
    return model


def train(model: Model) -> tuple[np.ndarray, diagnostics.UpdateRatios]:
    """Accuracy of every batch, before it was learned from."""
    rng, optimizer = np.random.default_rng(0), Adam(model.params, lr=3e-3)
    ratios, accuracy = diagnostics.UpdateRatios(model.params), np.empty(STEPS)
    for step in range(STEPS):
        x, answers = batch(rng)
        y, _ = model.forward(x)
        accuracy[step] = (y[-1].argmax(axis=1) == answers).mean()
        dy = np.zeros_like(y)
        _, dy[-1] = softmax_cross_entropy(y[-1], answers)
        model.zero_grad()
        model.backward(dy)
        clip_grad_norm(model.grads, 1.0)
        optimizer.step(model.grads)
        ratios.record()
    return accuracy, ratios


def plot(reports: dict[str, diagnostics.Report], accuracies: dict[str, np.ndarray]) -> None:
    """How far gradients reach before training, and what comes of it, where matplotlib is installed."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        return
    _, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for name, report in reports.items():
        left.semilogy(report.flow.layers["0.l0"], label=name)
        right.plot(np.convolve(accuracies[name], np.ones(20) / 20, "valid"), label=name)
    left.set(xlabel="step t", ylabel="norm of the gradient at the states of step t", title="Before training")
    right.set(xlabel="batch", ylabel="share of right answers, mean of 20 batches", title="Training", ylim=(0.4, 1.02))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    plt.show()


def main() -> None:
    """Diagnose, mend, compare."""
    x, _ = batch(np.random.default_rng(1))
    models = {"simple network": simple(), "orthogonal": orthogonal(), "LSTM, open forget gates": gated()}
    reports = {name: diagnostics.report(model, x) for name, model in models.items()}
    print(f"simple network before training\n{reports['simple network']}\n")
    accuracies = {}
    for name, model in models.items():
        accuracies[name], ratios = train(model)
        final, factor = accuracies[name][-50:].mean(), reports[name].reaches[0].factor
        update = np.median(ratios.history["0.Wh_l0"])
        print(
            f"{name:24s} {reports[name].verdict:9s} x {factor:.3f} a step: {final:.0%} right at the end of training; "
            f"|update| / |Wh| {update:.1e}"
        )
    assert reports["simple network"].verdict == "vanishing" and accuracies["simple network"][-50:].mean() < 0.6
    for name in ("orthogonal", "LSTM, open forget gates"):
        assert reports[name].verdict == "healthy" and accuracies[name][-50:].mean() > 0.95
    plot(reports, accuracies)


if __name__ == "__main__":
    main()
