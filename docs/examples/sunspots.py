"""
Window or recurrence
====================

One-step forecasts of the yearly sunspot numbers by AR(τ), RNN, LSTM and GRU.

Fitted on 1700-1920 and tested on 1921-1955, the split of the literature (Weigend, Huberman & Rumelhart 1990), and on
what came after, when the sun was more active than ever before. The networks keep the weights that were best on
1886-1920, which they were not trained on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from fastrnn import AR, GRU, LSTM, RNN, Linear, Model
from fastrnn.losses import mse
from fastrnn.optim import Adam, clip_grad_norm

DATA = Path(sys.argv[0]).parent / "data" / "sunspots.csv"
YEARS, SPOTS = np.loadtxt(DATA, delimiter=",", skiprows=5).T
SCALE = 50.0
SERIES = (SPOTS / SCALE - 1)[:, None, None]  # (T, N=1, D=1)
TRAINED, KEPT, TESTED = (int(np.searchsorted(YEARS, year + 1)) for year in (1885, 1920, 1955))
HIDDEN, EPOCHS, SEEDS = 8, 400, range(5)


def error(forecasts: np.ndarray, start: int, stop: int) -> float:
    """Root mean square error in sunspots of the forecasts of the years `start` to `stop`, not included."""
    return float(SCALE * np.sqrt(np.square(forecasts[start - 1 : stop - 1] - SERIES[start:stop]).mean()))


def window(order: int) -> np.ndarray:
    """Forecasts of AR(`order`): the output at a year is the forecast of the next."""
    return AR(order, 1, dtype="float64").fit(SERIES[:KEPT])(SERIES)[0]


def recurrence(kind: type, seed: int) -> np.ndarray:
    """Forecasts of a recurrent network, trained by BPTT through all years."""
    model = Model([kind(1, HIDDEN, dtype="float64", seed=seed), Linear(HIDDEN, 1, dtype="float64", seed=seed)])
    optimizer = Adam(model.params, lr=0.01, weight_decay=1e-3)
    best, forecasts = np.inf, SERIES
    for epoch in range(EPOCHS):
        if epoch % 10 == 0:
            now, _ = model(SERIES)
            if error(now, TRAINED, KEPT) < best:
                best, forecasts = error(now, TRAINED, KEPT), now
        model.zero_grad()
        y, _ = model.forward(SERIES[: TRAINED - 1])
        model.backward(mse(y, SERIES[1:TRAINED])[1])
        clip_grad_norm(model.grads, 1.0)
        optimizer.step(model.grads)
    return forecasts


def plot(forecasts: dict[str, np.ndarray]) -> None:
    """A picture of the test years, where matplotlib is installed."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        return
    _, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    axes.plot(YEARS[KEPT:], SPOTS[KEPT:], "k.-", label="observed")
    for name, f in forecasts.items():
        axes.plot(YEARS[KEPT:], SCALE * (f[KEPT - 1 : -1, 0, 0] + 1), label=name, linewidth=1)
    axes.axhline(SPOTS[:KEPT].max(), color="0.6", linestyle="--", label="maximum of 1700–1920")
    axes.set(xlabel="year", ylabel="yearly mean sunspot number", title="Sunspots, forecast one year ahead")
    axes.legend(ncols=2, fontsize="small")
    plt.show()


def main() -> None:
    """Print the errors, check the order of merit."""
    assert len(YEARS) == 309 and YEARS[0] == 1700
    print("one-step error (RMSE, sunspots)   1886-1920*  1921-1955  1956-2008")
    mean, shown = {}, {}
    for order in (1, 2, 9):
        mean[f"AR({order})"] = report(f"AR({order})", [window(order)])
    for kind in (RNN, LSTM, GRU):
        runs = [recurrence(kind, seed) for seed in SEEDS]
        mean[kind.__name__] = report(f"{kind.__name__}, {HIDDEN} units, mean of {len(runs)} seeds", runs)
        shown[f"{kind.__name__}, {HIDDEN} units"] = runs[0]
    print("* AR was fitted on these years, the networks were stopped by them.")
    assert mean["AR(9)"] < mean["AR(2)"] < mean["AR(1)"]
    assert mean["GRU"] < mean["AR(9)"] and mean["RNN"] < mean["AR(2)"]
    plot({"AR(9)": window(9), "GRU, 8 units": shown["GRU, 8 units"]})


def report(name: str, runs: list[np.ndarray]) -> float:
    """Print a line of the table, the mean errors of `runs`; return that of the test years."""
    periods = [(TRAINED, KEPT), (KEPT, TESTED), (TESTED, len(SERIES))]
    errors = np.mean([[error(forecasts, *years) for years in periods] for forecasts in runs], axis=0)
    print(f"{name:34s}" + "  ".join(f"{e:9.2f}" for e in errors))
    return float(errors[1])


if __name__ == "__main__":
    main()
