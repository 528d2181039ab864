"""One layer and direction through `functional`, forward and BPTT, against the NumPy backend."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastrnn
from cases import BUILT_IN, CELLS
from fastrnn.functional import cell_backward, cell_forward
from paths import Forced, watched
from problems import named
from test_random_cells import described, live, random_program

from .arrays import (
    LAYOUTS,
    Results,
    assert_bits,
    assert_near,
    assert_same_specials,
    normal,
    often,
    pick,
    placed,
)
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
    "scale": 0.5,
    "bias": "",
    "ragged": 0,
    "mask": 0,
    "resets": 0,
    "to_state": False,
    "reverse": False,
    "truncate": None,
    "batch_first": False,
    "state": False,
    "dhs": True,
    "dlast": False,
    "layouts": {},
    "special": [],
    "path": {},
    "seed": 0,
}
# Cells whose states grow without bound if their matrix allows it, and those whose gradient jumps.
LINEAR = ("rnn_relu", "rnn_identity", "indrnn")
JUMPS = ("rnn_relu", "indrnn")
JUMPING = ("relu", "hard_sigmoid", "abs", "maximum", "minimum", "where_less", "where_at_least", "log_or", "sqrt_or")
# What compiles few modules.
QUICK = ("lstm", "gru_before")
SPECIAL = {"inf": np.inf, "-inf": -np.inf, "nan": np.nan, "huge": 1e30, "tiny": 1e-40}


def cell_named(name: str) -> fastrnn.Cell:
    """A cell of the tests, or ``random_<seed>``."""
    if name.startswith("random_"):
        if name not in _random:
            _random[name] = described(int(name.removeprefix("random_")))
        return _random[name]
    return CELLS[name]


_random: dict[str, fastrnn.Cell] = {}


def jumps(name: str) -> bool:
    """Whether the gradient of a cell jumps somewhere, so that a rounding error may change it whole."""
    if name.startswith("random_"):
        return any(i.op in JUMPING for i in live(random_program(int(name.removeprefix("random_")))))
    return name in JUMPS


def draw_cell(rng: np.random.Generator, backend: str, quick: bool) -> str:
    """Numba takes seconds to compile a cell, so it gets a random one now and then; C++ gives users' cells to it."""
    if not quick and rng.random() < 0.01:
        return f"random_{rng.integers(100_000)}"
    compiled = QUICK if quick else tuple(CELLS)
    return str(pick(rng, BUILT_IN if backend == "cpp" and rng.random() < 0.95 else compiled))


def draw_flags(rng: np.random.Generator) -> dict[str, Any]:
    """Seeds of a mask and of resets, 0 for none, and whether these are to a state of their own."""
    seeds = {what: int(rng.integers(1, 1000)) if rng.random() < 0.2 else 0 for what in ("mask", "resets")}
    return {**seeds, "to_state": bool(seeds["resets"]) and bool(rng.random() < 0.5)}


def draw(rng: np.random.Generator, quick: bool) -> dict[str, Any]:
    case = draw_settings(rng)
    name = draw_cell(rng, case["backend"], quick)
    T, N, D, H = draw_sizes(rng)
    if name.startswith("random_"):
        T, D, H = min(T, 12), min(D, 16), min(H, 40)
    if T > 100 and rng.random() < 0.5:
        T = 100  # a loop in Python is the reference
    dtype = "float64" if name.startswith("random_") and jumps(name) else pick(rng, ("float32", "float64"))
    arrays = ["x", "dhs", "dlast", "state", *cell_named(name).param_shapes(1, 1)]
    case |= {
        "cell": name,
        **dict(zip("TNDH", (T, N, D, H), strict=True)),
        "dtype": dtype,
        "scale": pick(rng, (0.3, 0.5, 0.7, 1.0)),
        "bias": pick(rng, ("", "bx", "bh", "bx bh", "bx bh rows")),
        "ragged": int(rng.integers(1, 1000)) if rng.random() < 0.35 else 0,
        **draw_flags(rng),
        "reverse": bool(rng.random() < 0.35),
        "truncate": often(rng, None, (1, 2, 3, 7, 100, 2**63, [1, 3], [4, 9])),
        "batch_first": bool(rng.random() < 0.2),
        **{part: bool(rng.random() < 0.7) for part in ("state", "dhs", "dlast")},
        "layouts": {name: pick(rng, LAYOUTS) for name in arrays if rng.random() < 0.25},
        "seed": int(rng.integers(1_000_000)),
    }
    if name in LINEAR and case["layouts"].get("Wh") == "repeated":
        del case["layouts"]["Wh"]
    if N and rng.random() < 0.4:
        case["path"] = {
            "forward": draw_path(rng, case, forward=True),
            "backward": draw_path(rng, case, forward=False),
        }
    if rng.random() < 0.15 and not name.startswith("random_"):
        # Sums of numbers that overflow depend on their order: one kind at a time, few steps, exact products.
        where = often(rng, "x", ("state0", "dhs", "Wx", "Wh", "bx"), 0.5)
        weights = where in ("Wx", "Wh")
        values = [name for name in SPECIAL if not (weights and name == "huge")]
        case["special"] = [where, pick(rng, values), int(rng.integers(1, 4))]
        case |= {"precision": "highest", "T": min(T, 8), "scale": 0.5}
        if weights:
            # A padded step multiplies zeros with the weights, and nobody is promised a zero.
            case |= {"ragged": 0, "mask": 0}
    return case


def draw_path(rng: np.random.Generator, case: dict[str, Any], forward: bool) -> dict[str, Any]:
    """A way through the call that its backend may never choose; the backend refuses those that it cannot go."""
    T, N = case["T"], case["N"]
    chunk = min(T, pick(rng, (1, 2, 5, 13, T)))
    parts = int(rng.integers(1, min(max(N, 1), 4) + 1))
    if case["backend"] == "numba":
        return {"parts": parts, "chunk": chunk}
    path = {"parts": parts, "packed": bool(rng.random() < 0.6), "by_units": False}
    if rng.random() < 0.3:
        path |= {"parts": pick(rng, (2, 3, 5)), "by_units": True}
    if not forward:
        return path | {"chunk": chunk}
    ways: list[dict[str, Any]] = [{"input": "step"}, {"input": "step", "merged": True}, {"input": "ahead", "chunk": 10}]
    return path | pick(rng, [*ways, {"input": "chunk", "chunk": chunk}, {"input": "chunk", "chunk": chunk}])


def run_on_its_path(case: dict[str, Any], given: dict[str, np.ndarray]) -> Results:
    """Results on the path of the case; on the one that the backend chooses if it cannot go that way."""
    if not case["path"]:
        return results(case, given)
    if case["backend"] == "cpp":
        from fastrnn.backends.cpp_backend import CppPath as Path
    else:
        from fastrnn.backends.numba.path import NumbaPath as Path
    ways = {which: Path(**fields) for which, fields in case["path"].items()}
    try:
        with watched(case["backend"], Forced(**ways, threads=5)):
            return results(case, given)
    except ValueError as error:
        if not str(error).startswith("path: "):
            raise
        return results(case, given)


def run(case: dict[str, Any]) -> None:
    given = arrays_of(case)
    before = {name: a.tobytes() for name, a in given.items()}
    with np.errstate(**dict.fromkeys(("over", "invalid"), "ignore") if case["special"] else {}):
        with settings(case):
            got = run_on_its_path(case, given)
        with settings(case | SETTINGS):
            rough = results(case, {name: np.array(a, "f4") for name, a in given.items()})
            exact = results(case, {name: np.array(a, "f8") for name, a in given.items()})
    for name, a in given.items():
        assert a.tobytes() == before[name], f"{name} was written to"
    for name, a in got.items():
        assert a.dtype == case["dtype"], f"{name}: dtype {a.dtype}"
    if case["special"]:
        return assert_same_specials(got, rough if case["dtype"] == "float32" else exact)
    if jumps(case["cell"]) and ((got["hs"] > 0) != (exact["hs"] > 0)).any():
        got, rough, exact = ({name: r[name] for name in ("hs", "last.0")} for r in (got, rough, exact))
    assert_near(got, exact, rough, kind_of_numbers(case))


def arrays_of(case: dict[str, Any]) -> dict[str, np.ndarray]:
    """All arrays of the call, (T, N, ...), laid out as the case says."""
    T, N, D, H = (case[k] for k in "TNDH")
    cell = cell_named(case["cell"])
    rng = np.random.default_rng(case["seed"])
    arrays = {"x": normal(rng, (T, N, D)), "dhs": normal(rng, (T, N, H))}
    for k in range(len(cell.states)):
        arrays |= {f"state{k}": normal(rng, (N, H)), f"dlast{k}": normal(rng, (N, H))}
    for name, shape in cell.param_shapes(D, H).items():
        deviation = case["scale"] * max(shape[0], 1) ** -0.5 if len(shape) == 2 else 0.3
        arrays[name] = normal(rng, shape, deviation)
        if case["bias"].endswith("rows") and name in ("bx", "bh"):
            arrays[name] = arrays[name][None]
    if case["cell"] in LINEAR and "Wh" in arrays:
        arrays["Wh"] /= max(1.0, np.linalg.norm(arrays["Wh"], 2))
    if case["special"]:
        name, value, count = case["special"]
        if arrays.get(name) is not None and arrays[name].size:
            flat = arrays[name].reshape(-1)
            flat[rng.integers(flat.size, size=count)] = SPECIAL[value]
    arrays = {name: a.astype("f4").astype(case["dtype"]) for name, a in arrays.items() if is_given(case, name)}
    return {name: placed(a, case["layouts"].get(name.rstrip("01"), "C")) for name, a in arrays.items()}


def is_given(case: dict[str, Any], name: str) -> bool:
    if name in ("bx", "bh"):
        return name in case["bias"].split()
    part = name.rstrip("01")
    return bool(case[part]) if part in ("state", "dhs", "dlast") else True


def lengths_of(case: dict[str, Any]) -> list[int] | None:
    if not case["ragged"]:
        return None
    rng = np.random.default_rng(case["ragged"])
    return [int(n) for n in rng.integers(0, case["T"] + 1, case["N"])]


def flags_of(case: dict[str, Any], states: int, shape: tuple[int, ...], dtype: Any) -> dict[str, Any]:
    """Mask, resets and reset state; of a state's `shape`, with or without the N that comes before H."""
    result: dict[str, Any] = {}
    for what, share in (("mask", 0.7), ("resets", 0.15)):
        if case[what]:
            rng = np.random.default_rng(case[what])
            rows = rng.random((case["T"], case["N"])) < pick(rng, (share, 0.02, 0.98))
            result[what] = rows.T if case["batch_first"] else rows
    if case["to_state"]:
        rng = np.random.default_rng([case["resets"], 1])
        row = rng.random() < 0.3
        sizes = (*shape[:-2], shape[-1]) if row else shape
        result["reset_state"] = tuple(normal(rng, sizes).astype("f4").astype(dtype) for _ in range(states))
    return result


def results(case: dict[str, Any], given: dict[str, np.ndarray]) -> Results:
    """Forward and backward of `given` on the backend in use."""
    cell = cell_named(case["cell"])
    states = range(len(cell.states))
    params = {name: given.get(name) for name in cell.param_shapes(1, 1)}

    def major(a: Any) -> Any:
        return a.swapaxes(0, 1) if case["batch_first"] and a is not None else a

    state = tuple(given[f"state{k}"] for k in states) if case["state"] else None
    dlast = tuple(given[f"dlast{k}"] for k in states) if case["dlast"] else None
    arguments = (cell, major(given["x"]), state, params, lengths_of(case), case["batch_first"], case["reverse"])
    flags = flags_of(case, len(states), (case["N"], case["H"]), given["x"].dtype)
    hs, last, cache = cell_forward(*arguments, **flags)
    gradient = (major(given.get("dhs")), cache, dlast, case["truncate"])
    result = named(major(hs), last, *_backward(major, gradient))
    assert not hs.flags.writeable or hs.size == 0, "hs can be written to, and backward reads it"
    again = named(major(hs), last, *_backward(major, gradient))
    assert_bits(again, result, "a cache used again")
    plain, ends, _ = cell_forward(*arguments, keep=False, **flags)
    result |= {"hs without keep": major(plain)} | {f"last without keep.{k}": a for k, a in enumerate(ends)}
    return result


def _backward(major: Any, gradient: tuple[Any, ...]) -> tuple[Any, ...]:
    dx, dstate, dparams = cell_backward(*gradient)
    reset = {f"reset_state.{k}": a for k, a in enumerate(dparams.pop("reset_state", ()))}
    return major(dx), dstate, dparams | reset
