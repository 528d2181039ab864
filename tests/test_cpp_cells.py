"""Cells that are not built in, in generated C++: what csrc/cell.h can say beyond the built-in ones."""

from __future__ import annotations

import re
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import user_cells
from fastrnn import cell
from fastrnn.cells import sigmoid, tanh
from fastrnn.codegen.cpp import BOUNDS, cells_header
from fastrnn.dispatch import load_backend
from fastrnn.engine.contract import Call
from fastrnn.engine.flags import HOLD, RESET
from fastrnn.engine.plan import make_plan
from kernel_library import FLAGS, HERE, ROOT, VARIANTS, Library, find_compiler
from problems import assert_close
from test_random_cells import COMPILED, described


@cell(gates="a b", recurrent="A B C")
def three_states(x, U, h, c, d):
    """Three states, each of them in a product."""
    new_d = tanh(x.b + U.B @ d)
    new_c = sigmoid(x.a + U.A @ c) * c + new_d
    return tanh(new_c + U.C @ h), new_c, new_d


@cell(gates="g n", recurrent="A B C")
def two_products(x, U, h, c):
    """A gate with three products: of two states, and two matrices of one of them."""
    g = sigmoid(x.g + U.A @ h + U.B @ c + U.C @ h)
    return g * h + (1 - g) * tanh(x.n), g * c


@cell(gates="g", recurrent="A B")
def later_product(x, U, h):
    """A gate whose second product multiplies what the first step of the cell computes."""
    return tanh(x.g + U.A @ h + U.B @ tanh(h))


CELLS = {c.name: c for c in (three_states, two_products, later_product, user_cells.peephole_lstm, user_cells.indrnn)}
# Most operations; test_cpp_operations.py has each by itself.
CELLS |= {f"random_{seed}": described(seed) for seed in COMPILED[:2]}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """The engine with these cells, for the instruction set that every processor of the family has."""
    folder = tmp_path_factory.mktemp("cells")
    (folder / "cells_of_the_test.h").write_text(cells_header(list(CELLS.values())), encoding="utf-8")
    flags, vector_bytes, registers = VARIANTS[list(VARIANTS)[-1]]
    macros = {"VARIANT": "tested", "VECTOR_BYTES": vector_bytes, "REGISTERS": registers}
    sources = [HERE / "cells.cpp", ROOT / "csrc" / "memory.cpp", ROOT / "csrc" / "threads.cpp"]
    command = [*find_compiler(), *FLAGS, *flags, *(f"-DFASTRNN_{key}={value}" for key, value in macros.items())]
    command += [f"-I{ROOT / 'csrc'}", f"-I{HERE}", f"-I{folder}", *map(str, sources), "-o", str(folder / "cells.so")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Library(Path(folder / "cells.so"))


def problem(name: str, T: int, N: int, D: int, H: int, reverse: bool, flags: Any) -> tuple[Call, Any, Any]:
    """A call of the engine, and the gradients of its outputs and last states."""
    rng = np.random.default_rng([T, N, D, H])
    shapes = CELLS[name].param_shapes(D, H)
    params = {key: 0.4 * rng.standard_normal(shape) for key, shape in shapes.items()}
    params.setdefault("Wh", np.empty((H, 0)))
    state, reset, dlast = ([rng.standard_normal((N, H)) for _ in CELLS[name].states] for _ in range(3))
    call = Call(make_plan(CELLS[name]), rng.standard_normal((T, N, D)), tuple(state), params, reverse, 1)
    call.flags, call.reset_state = flags, tuple(reset) if flags is not None else None
    return call, rng.standard_normal((T, N, H)), tuple(dlast)


def reference(call: Call, dy: Any, dlast: Any) -> dict[str, np.ndarray]:
    backend = load_backend("numpy")
    y, last, saved, _ = backend.forward(call, True)
    dx, dstate, dWx, dWh, dslots, dreset, _ = backend.backward(call, saved, dy, dlast, call.flags)
    named = {"y": y, "dx": dx, "dWx": dWx, "dWh": dWh, "dslots": dslots}
    for kind, arrays in {"last": last, "dstate": dstate, "dreset": dreset or ()}.items():
        named |= {f"{kind}.{k}": a for k, a in enumerate(arrays)}
    return named


def generated(library: Library, call: Call, dy: Any, dlast: Any, path: tuple[int, ...]) -> dict[str, np.ndarray]:
    """What the library makes of the call; `path`: parts, whether of the units, whether packed, steps of a chunk."""
    (T, N, D, H), plan, params = call.sizes, call.plan, call.params
    n = BOUNDS["states"]

    def states() -> list[Any]:
        return [np.full((N, H), np.nan) for _ in call.state]

    def filled(arrays: Any) -> list[Any]:
        return [*arrays, *[None] * (n - len(arrays))]

    named = {"y": (T, N, H), "dx": (T, N, D), "dWx": params["Wx"].shape, "dWh": params["Wh"].shape}
    out = {name: np.full(shape, np.nan) for name, shape in (named | {"dslots": (plan.n_da, H)}).items()}
    last, dstate, dreset = states(), states(), states() if call.reset_state else []
    given = [call.x, params["Wx"], params["Wh"], params.get("bx"), params.get("bh"), call.flags, dy]
    library.run(
        "cell",
        call.plan.cell.name.encode(),
        [T, N, D, H, int(call.reverse), *path],
        given,
        filled([params[unit] for unit in plan.cell.units]),
        filled(call.state),
        filled(call.reset_state or ()),
        filled(dlast),
        list(out.values()),
        *map(filled, (last, dstate, dreset)),
    )
    for kind, arrays in {"last": last, "dstate": dstate, "dreset": dreset}.items():
        out |= {f"{kind}.{k}": a for k, a in enumerate(arrays)}
    return out


@pytest.mark.parametrize("name", CELLS)
def test_generated_cells_agree_with_the_reference(library: Library, name: str) -> None:
    rng = np.random.default_rng(0)
    for T, N, D, H in [(1, 1, 2, 3), (5, 3, 4, 9), (7, 2, 3, 8)]:
        flags = rng.choice(np.array([0, 0, HOLD, RESET, HOLD | RESET], np.uint8), (T, N))
        for reverse, table in product((False, True), (None, flags)):
            call, dy, dlast = problem(name, T, N, D, H, reverse, table)
            want = reference(call, dy, dlast)
            for parts, by_units in ((1, 0), (2, 1), *(((2, 0),) if N > 1 else ())):
                for packed, chunk in product((0, 1), {0, 1, min(T, 3)}):
                    got = generated(library, call, dy, dlast, (parts, by_units, packed, chunk))
                    assert_close(got, want, 1e-12)


@cell(gates="a")
def five_states(x, U, a, b, c, d, e):
    return tanh(x.a + U.a @ a), a, b, c, d


@cell(gates="a b c d e")
def five_gates(x, h):
    return tanh(x.a) + tanh(x.b) + tanh(x.c) + tanh(x.d) + tanh(x.e) + h


@cell(gates="a", units="p q r s t")
def five_parameters(x, p, h):
    return tanh(x.a) + p.p * p.q * p.r * p.s * p.t * h


@cell(gates="a", recurrent="A B C D E")
def five_products(x, U, h):
    return tanh(x.a) + tanh(U.A @ h) + tanh(U.B @ h) + tanh(U.C @ h) + tanh(U.D @ h) * (U.E @ h)


@pytest.mark.parametrize(
    "described, message",
    [
        (five_states, "up to 4 states, got 5"),
        (five_gates, "up to 4 gates, got 5"),
        (five_parameters, "up to 4 per-unit parameters, got 5"),
        (five_products, "up to 4 sums in a stage, got 6"),
    ],
)
def test_cells_beyond_the_bounds_are_refused(described: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"cell {described.name!r}: the C\\+\\+ engine holds {message}"):
        cells_header([described])


# Constants of csrc/api.h and csrc/cell.h by what they bound.
CONSTANTS = {
    "max_states": "states",
    "max_unit_params": "per-unit parameters",
    "max_gates": "gates",
    "max_stage_sums": "sums in a stage",
    "max_products": "products in a stage",
    "max_sources": "vectors in a product",
}


@pytest.mark.parametrize("constant, what", CONSTANTS.items())
def test_the_bounds_are_those_of_the_engine(constant: str, what: str) -> None:
    text = "".join((ROOT / "csrc" / name).read_text(encoding="utf-8") for name in ("api.h", "cell.h"))
    assert re.findall(rf"\b{constant} = (\d+)", text) == [str(BOUNDS[what])]
