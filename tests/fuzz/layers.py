"""Layers: stacked, in both directions, called whole, trained, or fed a stream, against the NumPy backend."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastrnn

from .arrays import LAYOUTS, Results, assert_near, normal, often, pick, placed
from .cells import LINEAR, cell_named, draw_cell, draw_flags, flags_of, jumps, lengths_of
from .settings import DEFAULTS as SETTINGS
from .settings import draw as draw_settings
from .settings import kind_of_numbers, settings
from .sizes import draw_sizes

DEFAULTS: dict[str, Any] = {
    "cell": "lstm",
    "T": 1,
    "N": 1,
    "D": 1,
    "H": 1,
    "dtype": "float64",
    **SETTINGS,
    "layers": 1,
    "mode": "call",
    "bidirectional": False,
    "batch_first": False,
    "bias": False,
    "ragged": 0,
    "mask": 0,
    "resets": 0,
    "to_state": False,
    "reverse": False,
    "truncate": None,
    "state": False,
    "dy": True,
    "dstate": False,
    "layout": "C",
    "seed": 0,
}
MODES = ("call", "train", "train", "step", "blocks")


def draw(rng: np.random.Generator, quick: bool) -> dict[str, Any]:
    case = draw_settings(rng)
    name = draw_cell(rng, case["backend"], quick)
    T, N, D, H = draw_sizes(rng)
    layers = often(rng, 1, (2, 3, 4), 0.4)
    if layers > 1 and rng.random() < 0.2:
        T, N, H = 64 + int(rng.integers(-1, 70)), pick(rng, (1, 2, 3)), min(H, 65)  # where layers follow each other
    if name.startswith("random_"):
        T, D, H, layers = min(T, 12), min(D, 16), min(H, 40), 1
    mode = pick(rng, MODES)
    stream = mode in ("step", "blocks")
    both = not stream and bool(rng.random() < 0.4)
    return case | {
        "cell": name,
        **dict(zip("TNDH", (min(T, 100), N, D, H), strict=True)),
        "dtype": "float64" if name.startswith("random_") and jumps(name) else pick(rng, ("float32", "float64")),
        "layers": layers,
        "mode": mode,
        "bidirectional": both,
        "reverse": not stream and not both and bool(rng.random() < 0.2),
        "batch_first": bool(rng.random() < 0.4),
        "bias": bool(rng.random() < 0.7),
        "ragged": int(rng.integers(1, 1000)) if not stream and rng.random() < 0.3 else 0,
        **({} if stream else draw_flags(rng)),
        "truncate": often(rng, None, (1, 2, 7, 2**63)) if mode == "train" else None,
        **{part: bool(rng.random() < 0.6) for part in ("state", "dy", "dstate")},
        "layout": often(rng, "C", LAYOUTS, 0.5),
        "seed": int(rng.integers(1_000_000)),
    }


def run(case: dict[str, Any]) -> None:
    with settings(case):
        got = results(case, build(case), case["mode"])
    whole = "train" if case["mode"] == "train" else "call"
    with settings(case | SETTINGS):
        rough, exact = (results(c, build(c), whole) for c in (case | {"dtype": t} for t in ("float32", "float64")))
    for name, a in got.items():
        assert a.dtype == case["dtype"], f"{name}: dtype {a.dtype}"
    if jumps(case["cell"]) and case["dtype"] == "float32":
        kept = [name for name in exact if name == "y" or name.startswith("last")]
        got, rough, exact = ({name: r[name] for name in kept} for r in (got, rough, exact))
    assert_near(got, exact, rough, kind_of_numbers(case))


def build(case: dict[str, Any]) -> fastrnn.Recurrent:
    """The layer with its weights, the same numbers for both dtypes."""
    name = case["cell"]
    options = {k: case[k] for k in ("bias", "batch_first", "bidirectional", "reverse", "dtype")}
    sizes = (case["D"], case["H"], case["layers"])
    if name.startswith("rnn_"):
        layer: fastrnn.Recurrent = fastrnn.RNN(*sizes, nonlinearity=name.removeprefix("rnn_"), **options)
    elif name == "lstm":
        layer = fastrnn.LSTM(*sizes, **options)
    elif name in ("gru_after", "gru_before"):
        layer = fastrnn.GRU(*sizes, reset_after=name == "gru_after", **options)
    else:
        layer = fastrnn.Recurrent(cell_named(name), *sizes, **options)
    rng = np.random.default_rng(case["seed"])
    for key, value in layer.params.items():
        new = normal(rng, value.shape, 0.6 * value.shape[0] ** -0.5 if value.ndim == 2 else 0.3)
        if name in LINEAR and key.startswith("Wh"):
            new /= max(1.0, np.linalg.norm(new, 2))
        value[...] = new.astype("f4")
    return layer


def inputs(case: dict[str, Any], layer: fastrnn.Recurrent) -> dict[str, Any]:
    """x and dy as the layer takes them; the states, as a tuple or alone."""
    T, N, D, H = (case[k] for k in "TNDH")
    rng = np.random.default_rng([case["seed"], 1])
    states = len(layer.cell.states)

    def major(a: np.ndarray) -> np.ndarray:
        moved = a.swapaxes(0, 1) if case["batch_first"] else a
        return placed(moved.astype("f4").astype(case["dtype"]), case["layout"])

    def state() -> Any:
        shape = (case["layers"] * layer.directions, N, H)
        parts = tuple(placed(normal(rng, shape).astype(case["dtype"]), case["layout"]) for _ in range(states))
        return parts if states > 1 else parts[0]

    x, dy = normal(rng, (T, N, D)), normal(rng, (T, N, layer.directions * H))
    given = {"x": major(x), "dy": major(dy), "state": state(), "dstate": state()}
    return {k: v if k == "x" or case[k] else None for k, v in given.items()}


def results(case: dict[str, Any], layer: fastrnn.Recurrent, mode: str) -> Results:
    """Everything that comes out of `layer` on the backend in use."""
    given = inputs(case, layer)
    x, state = given["x"], given["state"]
    flags = flags_of(
        case, len(layer.cell.states), (layer.num_layers * layer.directions, case["N"], case["H"]), layer.dtype
    )
    if len(flags.get("reset_state", ())) == 1:
        (flags["reset_state"],) = flags["reset_state"]
    if mode == "call":
        return outputs(*layer(x, state, lengths_of(case), **flags))
    if mode == "train":
        result = outputs(*layer.forward(x, state, lengths_of(case), **flags))
        dx, first, *reset = layer.backward(given["dy"], given["dstate"], case["truncate"])
        result |= {"dx": dx, **_named("dstate", first)}
        result |= _named("dreset", reset[0]) if reset else {}
        return result | {f"d{name}": grad.copy() for name, grad in layer.grads.items()}
    axis = 1 if case["batch_first"] else 0
    parts = []
    for part in np.split(x, _cuts(case), axis):
        if mode == "step":
            y, state = layer.step(part.squeeze(axis), state)
            y = np.expand_dims(y, axis)
        else:
            y, state = layer(part, state)
        parts.append(y)
    return outputs(np.concatenate(parts, axis), state)


def _cuts(case: dict[str, Any]) -> list[int]:
    """Where a stream is cut: everywhere, or here and there."""
    if case["mode"] == "step":
        return list(range(1, case["T"]))
    rng = np.random.default_rng([case["seed"], 2])
    return sorted({int(t) for t in rng.integers(1, case["T"], 3)}) if case["T"] > 1 else []


def outputs(y: np.ndarray, last: Any) -> Results:
    return {"y": y, **_named("last", last)}


def _named(name: str, states: Any) -> Results:
    return {f"{name}.{k}": a for k, a in enumerate(states if isinstance(states, tuple) else (states,))}
