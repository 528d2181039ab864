"""An LSTM as one writes it by hand in NumPy: a product a step, weight gradients added step by step."""

from __future__ import annotations

from typing import Any

import numpy as np


def lstm_forward(x: Any, h: Any, c: Any, Wx: Any, Wh: Any, b: Any, steps: list[Any] | None = None) -> Any:
    """Outputs (T, N, H); appends to `steps` what BPTT needs of each step."""
    (T, N, _), H = x.shape, Wh.shape[0]
    hs = np.empty((T, N, H), x.dtype)
    for t in range(T):
        a = x[t] @ Wx + h @ Wh + b
        i, f, o = _sigmoid(a[:, :H]), _sigmoid(a[:, H : 2 * H]), _sigmoid(a[:, 3 * H :])
        g = np.tanh(a[:, 2 * H : 3 * H])
        c_next = f * c + i * g
        tanh_c = np.tanh(c_next)
        if steps is not None:
            steps.append((h, c, i, f, g, o, tanh_c))
        h, c = o * tanh_c, c_next
        hs[t] = h
    return hs


def lstm_backward(dhs: Any, steps: list[Any], x: Any, Wx: Any, Wh: Any) -> tuple[Any, ...]:
    """Gradients ``(dx, dh0, dc0, dWx, dWh, db)`` from what :func:`lstm_forward` appended."""
    dx = np.empty_like(x)
    dWx, dWh, db = np.zeros_like(Wx), np.zeros_like(Wh), np.zeros_like(Wx[0])
    dh, dc = np.zeros_like(dhs[0]), np.zeros_like(dhs[0])
    for t in reversed(range(len(x))):
        h, c, i, f, g, o, tanh_c = steps[t]
        dh = dh + dhs[t]
        dc = dc + dh * o * (1 - tanh_c * tanh_c)
        parts = [dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g * g), dh * tanh_c * o * (1 - o)]
        da = np.concatenate(parts, axis=1)
        dWx += x[t].T @ da
        dWh += h.T @ da
        db += da.sum(axis=0)
        dx[t] = da @ Wx.T
        dh, dc = da @ Wh.T, dc * f
    return dx, dh, dc, dWx, dWh, db


def _sigmoid(a: Any) -> Any:
    return 1 / (1 + np.exp(-a))
