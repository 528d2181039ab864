"""The table of flags in the C++ engine: held, reset and cut steps, on every path, against the NumPy backend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cases import BUILT_IN, CELLS
from conftest import PROMISED_BACKENDS
from fastrnn.dispatch import load_backend
from fastrnn.engine.contract import Call
from fastrnn.engine.flags import CUT, HOLD, RESET
from fastrnn.engine.plan import make_plan
from problems import ORACLE_RTOL, Problem, Result, assert_close, assert_equal, problem
from test_cpp_paths import backward_paths, forward_paths

pytestmark = pytest.mark.skipif("cpp" not in PROMISED_BACKENDS, reason="the extension was not built")

# Steps, sequences, features and units: units that fill vectors and not, one sequence and several.
SIZES = [(9, 5, 7, 33), (12, 1, 6, 16), (7, 4, 20, 16)]


def tables(T: int, N: int) -> Iterator[tuple[str, np.ndarray]]:
    """Tables of flags by name; bits for the backward pass alone are among them."""
    rng = np.random.default_rng([T, N])
    front = np.zeros((T, N), np.uint8)
    for n in range(N):
        front[: (3 * n) % (T + 1), n] = HOLD
    yield "held in front", front
    yield "held behind", np.ascontiguousarray(front[::-1])
    resets = np.where(rng.random((T, N)) < 0.3, RESET, 0).astype(np.uint8)
    resets[[0, -1], 0] = RESET
    yield "resets", resets
    yield "cuts", np.where(rng.random((T, N)) < 0.3, CUT, 0).astype(np.uint8)
    mixed = rng.integers(0, 8, (T, N)).astype(np.uint8)
    mixed[[0, -1], -1] = HOLD | RESET
    yield "mixed", mixed


def engine_call(p: Problem, flags: np.ndarray, reverse: bool, to_state: bool, threads: int = 1) -> Call:
    """`p` with NaN where nothing may be read."""
    x = np.where(flags[..., None] & HOLD, p.x.dtype.type(np.nan), p.x)
    rng = np.random.default_rng(7)
    reset_state = tuple(rng.standard_normal(s.shape).astype(s.dtype) for s in p.state) if to_state else None
    return Call(
        make_plan(CELLS[p.cell]), x, p.state, p.params, reverse, threads, 0, flags & ~np.uint8(CUT), reset_state
    )


def run(name: str, p: Problem, call: Call, flags: np.ndarray, forward: Any = None, backward: Any = None) -> Result:
    """Everything that both passes of a backend give, on the paths that are given."""
    backend = load_backend(name)
    dy = np.where(flags[..., None] & HOLD, p.dhs.dtype.type(np.nan), p.dhs)
    y, last, saved, _ = backend.forward(call, True, forward)
    dx, dstate, dWx, dWh, dslots, dreset, _ = backend.backward(call, saved, dy, p.dlast, flags, backward)
    states = {"last": last, "dstate": dstate, "dreset": dreset or ()}
    named = {f"{of}.{k}": a for of, arrays in states.items() for k, a in enumerate(arrays)}
    return {"y": y, "dx": dx, "dWx": dWx, "dWh": dWh, "dslots": dslots, **named}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", BUILT_IN)
def test_every_path_holds_resets_and_cuts(variant: str, cell: str, dtype: str) -> None:
    from fastrnn.backends.cpp_backend import CppPath

    turn = 0
    for T, N, D, H in SIZES:
        p = problem(cell, T, N, D, H, dtype, scale=0.7)
        ahead = list(forward_paths(variant, cell, T, N, H))
        back = list(backward_paths(T, N))
        for name, flags in tables(T, N):
            # Each table goes through every path, in turns with and without a reset state, forward and in reverse.
            wanted = {}
            for i in range(max(len(ahead), len(back))):
                turn += 1
                case = bool(turn & 1), bool(turn & 2)
                call = engine_call(p, flags, *case)
                if case not in wanted:
                    wanted[case] = run("numpy", p, call, flags)
                paths = CppPath(**ahead[i % len(ahead)]), CppPath(**back[i % len(back)])
                got = run("cpp", p, call, flags, *paths)
                try:
                    assert_close(got, wanted[case], 4 * ORACLE_RTOL[dtype])
                except AssertionError as error:
                    raise AssertionError(f"{name} {case} {paths}: {error}") from error


@pytest.mark.parametrize("cell", ["lstm", "gru_before"])
def test_split_numbers_hold_reset_and_cut(variant: str, cell: str) -> None:
    from fastrnn.backends import _cpp
    from fastrnn.backends.cpp_backend import CppPath

    for bf16_parts in _cpp.bf16_parts():
        rtol = {1: 2**-5, 2: 2**-12, 3: 4 * ORACLE_RTOL["float32"]}[bf16_parts]
        p = problem(cell, 12, 9, 7, 33, "float32", scale=0.5)
        for _, flags in tables(12, 9):
            call = engine_call(p, flags, False, True)
            want = run("numpy", p, call, flags)
            for shares in ({"parts": 1}, {"parts": 2, "by_units": True}, {"parts": 2}):
                shared = {"bf16_parts": bf16_parts, "chunk": 5} | shares
                got = run("cpp", p, call, flags, CppPath(input="chunk", **shared), CppPath(**shared))
                # Of three parts, numbers that are not finite take another path: those of held steps are among them.
                assert_close(got, want, rtol)


@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru_after", "gru_before"])
def test_infinite_weights_leave_held_steps_alone(variant: str, cell: str) -> None:
    """Not even zero times infinity comes from there."""
    from fastrnn.backends.cpp_backend import CppPath

    T, N, D, H = 6, 3, 4, 17
    p = problem(cell, T, N, D, H)
    weights = {name: np.where(np.arange(a.shape[-1]) == 1, np.inf, a) for name, a in p.params.items() if a.ndim == 2}
    p = replace(p, params=p.params | weights)
    flags = np.zeros((T, N), np.uint8)
    flags[:, 1] = HOLD
    flags[4:, 2] = HOLD
    call = engine_call(p, flags, False, False)
    for paths in forward_paths(variant, cell, T, N, H):
        back = CppPath(packed=paths["packed"], parts=paths["parts"], by_units=paths["by_units"], chunk=2)
        got = run("cpp", p, call, flags, CppPath(**paths), back)
        assert not got["dx"][:, 1].any() and not got["dx"][4:, 2].any()
        assert not got["y"][:, 1].any() and not got["y"][4:, 2].any()
        for k, state in enumerate(p.state):
            np.testing.assert_array_equal(got[f"last.{k}"][1], state[1])
            np.testing.assert_array_equal(got[f"dstate.{k}"][1], p.dlast[k][1])


@pytest.mark.parametrize("cell", ["lstm", "gru_before"])
def test_a_table_of_zeros_is_no_table(variant: str, cell: str) -> None:
    p = problem(cell, 6, 5, 4, 16)
    zeros = np.zeros((6, 5), np.uint8)
    call = engine_call(p, zeros, False, False)
    assert_equal(run("cpp", p, call, zeros), run("cpp", p, replace(call, flags=None), zeros))


@pytest.mark.parametrize("by_units", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_reset_is_a_call_of_its_own(variant: str, reverse: bool, by_units: bool) -> None:
    """The same bits on the same path, but where both calls are one, in the sums of the weights' gradients."""
    from fastrnn.backends.cpp_backend import CppPath

    T, N, D, H, at = 8, 4, 5, 33, 3
    p = problem("lstm", T, N, D, H)
    flags = np.zeros((T, N), np.uint8)
    flags[T - 1 - at if reverse else at] = RESET
    call = engine_call(p, flags, reverse, True)
    ahead, back = CppPath(2, by_units, input="step"), CppPath(2, by_units, chunk=1)
    whole = run("cpp", p, call, flags, ahead, back)
    order = slice(None, None, -1) if reverse else slice(None)
    halves = []
    for first, last in ((0, at), (at, T)):
        times = np.sort(np.arange(T)[order][first:last])
        state = call.reset_state if first else p.state
        dlast = p.dlast if first else tuple(np.zeros_like(d) for d in p.dlast)
        part = replace(p, x=p.x[times], state=state, dhs=p.dhs[times], dlast=dlast)
        halves.append(
            run("cpp", part, engine_call(part, flags[times] * 0, reverse, False), flags[times] * 0, ahead, back)
        )
    for name in ("y", "dx"):
        np.testing.assert_array_equal(whole[name], np.concatenate([h[name] for h in halves[order]]))
    for k in range(2):
        np.testing.assert_array_equal(whole[f"dstate.{k}"], halves[0][f"dstate.{k}"])
        np.testing.assert_array_equal(whole[f"dreset.{k}"], halves[1][f"dstate.{k}"])
        np.testing.assert_array_equal(whole[f"last.{k}"], halves[1][f"last.{k}"])
