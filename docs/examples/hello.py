"""
Read H, E, L, L and say O
=========================

A many-to-one network with all of its gradients (after Elman 1990).

h_t = tanh(x_t Wx + h_{t-1} Wh + b), p = softmax(h_4 Wy + by), loss -log p(O). The five parameters are learned by
gradient descent; then the size of dL/dh_t is printed for each step: it shrinks toward the start.
"""

from __future__ import annotations

import numpy as np

from fastrnn import functional as F
from fastrnn.losses import softmax_cross_entropy

LETTERS = "HELO"
TEXT, ANSWER = "HELL", "O"


def gradient_by_step(dh: np.ndarray, x: np.ndarray, h0: np.ndarray, params: list[np.ndarray]) -> list[float]:
    """|dL/dh_t| for t = T..1, by stepping back one cell at a time."""
    caches, h = [], h0
    for step in x:
        h, cache = F.rnn_step_forward(step, h, *params)
        caches.append(cache)
    norms = [float(np.linalg.norm(dh))]
    for cache in reversed(caches[1:]):
        _, dh, *_ = F.rnn_step_backward(dh, cache)
        norms.append(float(np.linalg.norm(dh)))
    return norms


def plot(losses: list[float], norms: list[float]) -> None:
    """A picture of the learning and of the gradient, where matplotlib is installed."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        return
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    left.semilogy(losses)
    left.set(xlabel="epoch", ylabel="loss")
    right.bar(list(TEXT), norms)
    right.set(xlabel="letter that was read", ylabel="|dL/dh_t|", yscale="log")
    plt.show()


def main() -> None:
    """Learn, answer, and look at the gradient."""
    rng = np.random.default_rng(0)
    H, C = 8, len(LETTERS)
    Wx, Wh, Wy = (rng.standard_normal(s) * 0.3 for s in ((C, H), (H, H), (H, C)))
    b, by = np.zeros(H), np.zeros(C)
    x = np.eye(C)[[LETTERS.index(letter) for letter in TEXT]][:, None]  # (T, 1, C)
    target, h0 = np.array([LETTERS.index(ANSWER)]), np.zeros((1, H))
    losses = []
    for epoch in range(100):
        hs, cache = F.rnn_forward(x, h0, Wx, Wh, b)
        logits = hs[-1] @ Wy + by
        loss, dlogits = softmax_cross_entropy(logits, target)
        losses.append(loss)
        _, _, dWx, dWh, db = F.rnn_backward(None, cache, dh_last=dlogits @ Wy.T)
        gradients = (dWx, dWh, hs[-1].T @ dlogits, db, dlogits[0])
        for parameter, gradient in zip((Wx, Wh, Wy, b, by), gradients, strict=True):
            parameter -= 0.2 * gradient
        if epoch % 20 == 0:
            print(f"epoch {epoch:3d}: loss {loss:.4f}")
    said = LETTERS[int(np.argmax(logits))]
    print(f"after {TEXT} it says {said} with probability {np.exp(-loss):.3f}")
    assert said == ANSWER and loss < 0.1

    norms = gradient_by_step(dlogits @ Wy.T, x, h0, [Wx, Wh, b])
    for t, norm in zip(range(len(x), 0, -1), norms, strict=True):
        print(f"|dL/dh_{t}| = {norm:.2e}")
    assert norms == sorted(norms, reverse=True)
    plot(losses, norms[::-1])


if __name__ == "__main__":
    main()
