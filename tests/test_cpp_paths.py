"""Every path of the C++ engine, forced: a path that is not taken, or that gives other numbers, fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

import fastrnn
from cases import BUILT_IN, reference, run
from conftest import PROMISED_BACKENDS
from fastrnn import thresholds
from naive import PLAIN, Call
from paths import Forced, watched
from problems import ORACLE_RTOL, Problem, assert_close, oracle, problem

pytestmark = pytest.mark.skipif("cpp" not in PROMISED_BACKENDS, reason="the extension was not built")

WIDE = ("amx", "avx512bf16", "avx512")
"""Instruction sets with registers enough to project the input ahead."""

# Steps, sequences, features and units of a problem. 33 units leave one over in every vector width.
LARGE = [(23, 1, 6, 33), (12, 5, 7, 33), (11, 2, 20, 64)]
SMALL = (5, 2, 3, 9)


def calls(T: int, N: int) -> list[Call]:
    ragged = tuple((T - 3 * n) % (T + 1) for n in range(N))
    return [PLAIN, Call(reverse=True, truncate=3), Call(ragged, truncate=2), Call(ragged, True)]


def splits(N: int) -> list[tuple[int, bool]]:
    """Parts of the work, and whether they are of the units."""
    return [(1, False), *((parts, False) for parts in (2, 3) if parts <= N), (2, True), (3, True)]


def forward_paths(variant: str, cell: str, T: int, N: int, H: int) -> Iterator[dict[str, Any]]:
    for (parts, by_units), packed in product(splits(N), (True, False)):
        rows = N if by_units else -(-N // parts)
        shared = {"parts": parts, "by_units": by_units, "packed": packed}
        yield {**shared, "input": "step"}
        for chunk in (1, 2, 5, T):
            yield {**shared, "input": "chunk", "chunk": chunk}
        if packed and rows == 1 and variant in WIDE:
            yield {**shared, "input": "ahead", "chunk": 10}
        if packed and not by_units and H % 2 and not cell.startswith("rnn"):
            yield {**shared, "input": "step", "merged": True}


def backward_paths(T: int, N: int) -> Iterator[dict[str, Any]]:
    for (parts, by_units), packed, chunk in product(splits(N), (True, False), (1, 2, 5, T)):
        yield {"parts": parts, "by_units": by_units, "packed": packed, "chunk": chunk}


def check(p: Problem, call: Call, want: dict[str, np.ndarray], rtol: float, **paths: dict[str, Any]) -> None:
    from fastrnn.backends.cpp_backend import CppPath

    with watched("cpp", Forced(**{name: CppPath(**path) for name, path in paths.items()})) as backend:
        got = run(p, call)
    assert len(backend.ran) == 2
    try:
        assert_close(got, want, rtol)
    except AssertionError as error:
        raise AssertionError(f"{call} {paths}: {error}") from error


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", BUILT_IN)
def test_every_path_against_the_reference(variant: str, cell: str, dtype: str) -> None:
    for T, N, D, H in LARGE:
        p = problem(cell, T, N, D, H, dtype, scale=0.7)
        for call in calls(T, N):
            want = reference(p, call)
            for path in forward_paths(variant, cell, T, N, H):
                check(p, call, want, 4 * ORACLE_RTOL[dtype], forward=path)
            for path in backward_paths(T, N):
                check(p, call, want, 4 * ORACLE_RTOL[dtype], backward=path)


@pytest.mark.parametrize("cell", BUILT_IN)
def test_every_path_against_the_naive_oracle(variant: str, cell: str) -> None:
    T, N, _, H = SMALL
    p = problem(cell, *SMALL)
    for call in calls(T, N):
        want = oracle(p, call)
        for path in forward_paths(variant, cell, T, N, H):
            check(p, call, want, ORACLE_RTOL["float64"], forward=path)
        for path in backward_paths(T, N):
            check(p, call, want, ORACLE_RTOL["float64"], backward=path)


@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru_after", "gru_before"])
def test_paths_of_split_numbers(variant: str, cell: str) -> None:
    """Products of one bf16 number a factor are not as precise; of three they are."""
    from fastrnn.backends import _cpp

    parts_of_number = _cpp.bf16_parts()
    if not parts_of_number:
        pytest.skip(f"{variant} has no products of bf16 numbers")
    T, N, D, H = 12, 9, 7, 33
    p = problem(cell, T, N, D, H, "float32", scale=0.5)
    for bf16_parts, (parts, by_units), call in product(parts_of_number, splits(N), calls(T, N)):
        rtol = {1: 2**-5, 2: 2**-12, 3: 4 * ORACLE_RTOL["float32"]}[bf16_parts]
        shared = {"parts": parts, "by_units": by_units, "bf16_parts": bf16_parts}
        for forward in ({"input": "step"}, {"input": "chunk", "chunk": 5}):
            paths = {"forward": shared | forward, "backward": shared | {"chunk": 5}}
            check(p, call, reference(p, call), rtol, **paths)


# What a call cannot do: a field of the path that is wrong for it, and what the message says.
IMPOSSIBLE = [
    ({"parts": 0, "input": "step"}, "parts"),
    ({"parts": 6, "input": "step"}, "parts"),
    ({"parts": 65, "by_units": True, "input": "step"}, "parts"),
    ({"input": "none"}, "input"),
    ({"input": "step", "chunk": 2}, "chunk"),
    ({"input": "chunk", "chunk": 0}, "chunk"),
    ({"input": "chunk", "chunk": 13}, "chunk"),
    ({"input": "ahead", "chunk": 10}, "input"),
    ({"input": "step", "bf16_parts": 7}, "bf16_parts"),
    ({"input": "chunk", "chunk": 5, "merged": True}, "merged"),
    ({"input": "step", "merged": True, "packed": False}, "merged"),
]


@pytest.mark.parametrize("path, word", IMPOSSIBLE)
def test_impossible_paths_are_refused(path: dict[str, Any], word: str) -> None:
    p = problem("lstm", 12, 5, 7, 33)
    with pytest.raises(ValueError, match=f"path: .*{word}"):
        check(p, PLAIN, {}, 0.0, forward=path)


IMPOSSIBLE_BACK = [
    ({"parts": 0}, "parts"),
    ({"parts": 6}, "parts"),
    ({"chunk": 0}, "chunk"),
    ({"chunk": 13}, "chunk"),
    ({"bf16_parts": 7}, "bf16_parts"),
    ({"input": "step"}, "input, merged"),
    ({"merged": True}, "input, merged"),
]


@pytest.mark.parametrize("path, word", IMPOSSIBLE_BACK)
def test_impossible_paths_back_are_refused(path: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=f"path: .*{word}"):
        check(problem("lstm", 12, 5, 7, 33), PLAIN, {}, 0.0, backward=path)


def test_weights_with_columns_along_memory_are_packed() -> None:
    from fastrnn.backends.cpp_backend import CppPath

    p = problem("lstm", 12, 5, 7, 33)
    along = p.params | {name: np.asfortranarray(p.params[name]) for name in ("Wx", "Wh")}
    with pytest.raises(ValueError, match="path: packed"), watched("cpp", Forced(CppPath(input="step", packed=False))):
        run(p, params=along)


# T, N, D, H, threads, and the path that the engine chooses: one for each rule of csrc/path.h. A threshold that moves
# fails here, and shows which rule it belongs to.
CHOSEN = [
    ((47, 1, 6, 64), 1, {"packed": False, "input": "chunk", "chunk": 47}, {}),
    ((48, 1, 4, 64), 1, {"packed": True, "input": "step"}, {}),
    ((47, 1, 4, 63), 1, {"packed": True, "input": "step"}, {}),
    ((7, 1, 4, 63), 1, {"packed": False, "input": "step"}, {}),
    ((8, 8, 4, 64), 1, {"packed": True, "input": "step"}, {}),
    ((7, 8, 4, 64), 1, {"packed": False, "input": "step"}, {}),
    ((6, 10, 4, 64), 1, {"packed": False, "input": "step"}, {}),
    ((4, 16, 4, 64), 1, {"packed": False, "input": "step"}, {}),
    ((5, 13, 4, 64), 1, {"packed": True, "input": "step"}, {}),
    ((20, 7, 5, 64), 1, {"input": "chunk", "chunk": 20}, {"chunk": 20}),
    ((600, 7, 5, 8), 1, {"input": "chunk", "chunk": 74}, {"chunk": 73}),
    ((20, 8, 5, 64), 1, {"input": "step"}, {"chunk": 20}),
    ((20, 7, 4, 64), 1, {"input": "step"}, {"chunk": 20}),
    ((2, 7, 5, 64), 1, {"packed": False, "input": "chunk", "chunk": 2}, {}),
    ((1, 7, 5, 64), 1, {"packed": False, "input": "step"}, {}),
    ((20, 4, 4, 33), 1, {"input": "step", "merged": True}, {}),
    ((20, 3, 4, 33), 1, {"input": "step", "merged": False}, {}),
    ((4, 1, 4, 64), 1, {}, {"packed": False}),
    ((5, 1, 4, 64), 1, {}, {"packed": True}),
    ((9, 1, 4, 128), 1, {}, {"packed": True}),
    ((16, 1, 4, 240), 1, {}, {"packed": True}),
    ((16, 1, 4, 256), 1, {}, {"packed": False}),
    ((17, 1, 4, 256), 1, {}, {"packed": True}),
    ((17, 1, 4, 300), 1, {}, {"packed": True}),
    ((20, 16, 4, 64), 2, {"parts": 2, "by_units": False}, {"parts": 2, "by_units": False}),
    ((20, 1, 4, 64), 2, {"parts": 1, "by_units": False}, {"parts": 1, "by_units": False}),
    ((20, 1, 4, 90), 2, {"parts": 2, "by_units": True}, {"parts": 2, "by_units": True}),
    ((20, 1, 4, 89), 2, {"parts": 1, "by_units": False}, {"parts": 1, "by_units": False}),
    ((20, 7, 4, 128), 2, {"parts": 2, "by_units": True}, {}),
    ((20, 8, 4, 128), 2, {"parts": 2, "by_units": False}, {}),
]


@pytest.mark.parametrize("shape, threads, forward, backward", CHOSEN)
def test_the_path_that_is_chosen(
    shape: tuple[int, ...], threads: int, forward: dict[str, Any], backward: dict[str, Any]
) -> None:
    T, N, D, H = shape
    call = engine_call("lstm", T, N, D, H, threads)
    from fastrnn.dispatch import load_backend

    backend = load_backend("cpp")
    for chosen, expected in ((backend.forward_path(call), forward), (backend.backward_path(call), backward)):
        assert {name: getattr(chosen, name) for name in expected} == expected


def test_the_input_is_projected_ahead_where_vectors_are_wide(variant: str) -> None:
    from fastrnn.dispatch import load_backend

    path = load_backend("cpp").forward_path(engine_call("lstm", 48, 1, 5, 64, 1))
    assert (path.input, path.chunk) == (("ahead", 10) if variant in WIDE else ("chunk", 48))
    narrow = load_backend("cpp").forward_path(engine_call("lstm", 48, 1, 5, 63, 1))
    assert (narrow.input, narrow.chunk) == ("chunk", 48)


# An instruction set that can split numbers, a precision, T, N and H, and the parts that it splits them into.
SPLIT = [
    ("avx512bf16", "medium", (8, 1, 64), 1),
    ("avx512bf16", "medium", (7, 1, 64), 0),
    ("avx512bf16", "medium", (4, 4, 64), 1),
    ("avx512bf16", "medium", (5, 3, 64), 0),
    ("amx", "medium", (8, 4, 64), 1),
    ("amx", "medium", (20, 3, 64), 0),
    ("amx", "highest", (4, 16, 64), 3),
    ("amx", "highest", (4, 16, 63), 0),
    ("amx", "highest", (5, 15, 64), 0),
    ("amx", "highest", (3, 21, 64), 0),
]


@pytest.mark.parametrize("named, precision, shape, parts", SPLIT)
def test_numbers_are_split_where_weights_are_read_often(
    variant: str, named: str, precision: str, shape: tuple[int, int, int], parts: int
) -> None:
    from fastrnn.dispatch import load_backend

    if variant != named:
        pytest.skip(f"of {named}")
    T, N, H = shape
    call = replace(engine_call("lstm", T, N, 4, H, 1), bf16_parts={"medium": 1, "highest": 3}[precision])
    backend = load_backend("cpp")
    assert backend.forward_path(call).bf16_parts == parts
    assert backend.backward_path(call).bf16_parts == parts


def engine_call(cell: str, T: int, N: int, D: int, H: int, threads: int) -> Any:
    """A call of those sizes, whose arrays nobody reads."""
    from cases import CELLS
    from fastrnn.engine import contract
    from fastrnn.engine.plan import make_plan

    shapes = CELLS[cell].param_shapes(D, H)
    params = {name: np.empty(shape, "f4") for name, shape in shapes.items()}
    x, state = np.empty((T, N, D), "f4"), (np.empty((N, H), "f4"),) * len(CELLS[cell].states)
    return contract.Call(make_plan(CELLS[cell]), x, state, params, False, threads)


def test_the_path_of_a_layers_call_is_noted() -> None:
    from fastrnn.backends import _cpp

    layer = fastrnn.LSTM(4, 33, 2, seed=0)
    with fastrnn.use_backend("cpp"):
        layer(np.zeros((70, 4, 4), "f4"))
    layers, at_once = _cpp.last_call()
    # The lower layer has few features and shares vectors between the gates.
    assert at_once == 1 and [(path[4], path[5], steps) for path, steps in layers] == [
        ("step", True, 70),
        ("chunk", False, 70),
    ]


@pytest.mark.parametrize("T, chunk", [(63, 63), (64, 32)])
def test_a_layer_follows_another_closely_where_both_run_at_once(
    monkeypatch: pytest.MonkeyPatch, T: int, chunk: int
) -> None:
    from fastrnn.backends import _cpp

    monkeypatch.setattr(thresholds, "WORTH_A_THREAD", 1)
    fastrnn.set_num_threads(2)
    with fastrnn.use_backend("cpp"):
        fastrnn.LSTM(9, 9, 2, seed=0)(np.zeros((T, 1, 9), "f4"))
    layers, _ = _cpp.last_call()
    assert [(path[4], path[6]) for path, _ in layers] == [("chunk", T), ("chunk", chunk)]
