"""
One step by hand
================

One step of a tanh cell, forward and backward, by hand and by the library.

With t = x Wx + h_prev Wh + b and h_next = tanh(t), the chain rule gives dt = dh_next (1 - h_next²) and from
it everything else (Goodfellow, Bengio & Courville, *Deep Learning*, 2016, sec. 10.2.2).
"""

from __future__ import annotations

import numpy as np

from fastrnn import functional as F


def main() -> None:
    """Print each intermediate beside the library's value."""
    rng = np.random.default_rng(0)
    x, h_prev = rng.standard_normal((1, 4)), rng.standard_normal((1, 3))
    Wx, Wh, b = rng.standard_normal((4, 3)), rng.standard_normal((3, 3)), rng.standard_normal((1, 3))
    dh_next = rng.standard_normal((1, 3))

    t = x @ Wx + h_prev @ Wh + b
    h_next = np.tanh(t)
    dt = dh_next * (1 - h_next**2)
    by_hand = {
        "h_next": h_next,
        "dx": dt @ Wx.T,
        "dh_prev": dt @ Wh.T,
        "dWx": x.T @ dt,
        "dWh": h_prev.T @ dt,
        "db": dt,
    }

    ours, cache = F.rnn_step_forward(x, h_prev, Wx, Wh, b)
    dx, dh_prev, dWx, dWh, db = F.rnn_step_backward(dh_next, cache)
    library = {"h_next": ours, "dx": dx, "dh_prev": dh_prev, "dWx": dWx, "dWh": dWh, "db": db}

    print("t  =", t, "\ndt =", dt)
    for name, value in by_hand.items():
        error = np.abs(value - library[name]).max()
        print(f"\n{name} by hand\n{value}\n{name} of the library\n{library[name]}\nlargest difference {error:.1e}")
        assert value.shape == library[name].shape and error < 1e-14


if __name__ == "__main__":
    main()
