"""What only the C++ extension has: variants of the processor, generated headers, threads, no wait for Numba."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastrnn
from cases import BUILT_IN, CELLS, reference, run
from conftest import PROMISED_BACKENDS, variants
from fastrnn.codegen.cpp import headers
from fastrnn.functional import cell_backward, cell_forward
from naive import PLAIN, Call
from problems import ORACLE_RTOL, assert_close, problem
from processes import python
from ulp import assert_four_ulp, points

pytestmark = pytest.mark.skipif("cpp" not in PROMISED_BACKENDS, reason="the extension was not built")


@pytest.fixture(autouse=True)
def cpp() -> Iterator[None]:
    with fastrnn.use_backend("cpp"):
        yield


@pytest.mark.parametrize("name", headers())
def test_the_headers_are_what_the_generator_gives(name: str) -> None:
    checked_in = Path(__file__).parents[1] / "csrc" / "generated" / name
    assert checked_in.read_text(encoding="utf-8") == headers()[name]


def test_the_best_variant_is_chosen() -> None:
    done = python("import fastrnn; from fastrnn.dispatch import load_backend as b; print(b('cpp').target)")
    assert done.stdout.strip() == variants()[0], done.stderr


def test_the_environment_names_a_variant() -> None:
    code = "from fastrnn.dispatch import load_backend as b; print(b('cpp').target)"
    assert python(code, FASTRNN_CPU=variants()[-1]).stdout.strip() == variants()[-1]
    refused = python(code, FASTRNN_CPU="abacus").stderr
    assert f"FASTRNN_CPU: expected one of {', '.join(variants())}, got 'abacus'" in refused


# Rows of a tile, units of a vector, steps of a chunk: on, below and above what the engine cuts work into.
SHAPES = [(3, 1, 2, 4), (9, 1, 7, 16), (12, 1, 3, 33), (5, 9, 5, 20), (4, 17, 1, 31), (70, 10, 3, 8), (3, 2, 40, 64)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", BUILT_IN)
def test_every_variant_is_right(variant: str, cell: str, dtype: str) -> None:
    for T, N, D, H in SHAPES:
        p = problem(cell, T, N, D, H, dtype, scale=0.7)
        ragged = tuple((T - 2 * n) % (T + 1) for n in range(N))
        for call in (PLAIN, Call(reverse=True, truncate=2), Call(ragged), Call(ragged, True, 3)):
            assert_close(run(p, call), reference(p, call), 4 * ORACLE_RTOL[dtype])


# Steps, sequences and units of calls that are so short that the weights are read as they are, and of the next longer
# ones, which pack them; odd numbers of rows and units.
SHORT = [(1, 1, 20), (7, 1, 33), (47, 1, 65), (1, 3, 100), (2, 7, 128), (1, 15, 256), (3, 5, 257), (1, 64, 40)]
SHORT += [(4, 16, 30), (8, 1, 33), (48, 1, 65), (8, 3, 100), (5, 13, 40)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru_after", "gru_before"])
def test_short_calls(variant: str, cell: str, dtype: str) -> None:
    for T, N, H in SHORT:
        p = problem(cell, T, N, 6, H, dtype, scale=0.7)
        ragged = tuple((T - n) % (T + 1) for n in range(N))
        # Columns along memory, as PyTorch has its weights: these are packed.
        along = p.params | {name: np.asfortranarray(p.params[name]) for name in ("Wx", "Wh")}
        for call in (PLAIN, Call(ragged, True, 2)):
            want = reference(p, call)
            assert_close(run(p, call), want, 4 * ORACLE_RTOL[dtype])
            assert_close(run(p, call, params=along), want, 4 * ORACLE_RTOL[dtype])


# Steps, features and units of calls of one sequence a thread, whose input is projected beside the steps before: whole
# chunks and not, fewer features than units and more.
BESIDE = [(48, 5, 64), (50, 70, 64), (51, 33, 65), (60, 130, 100)]


@pytest.mark.parametrize("N, threads", [(1, 1), (1, 3), (2, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru_after", "gru_before"])
def test_long_calls_of_one_sequence(variant: str, cell: str, dtype: str, N: int, threads: int) -> None:
    fastrnn.set_num_threads(threads)
    for T, D, H in BESIDE:
        p = problem(cell, T, N, D, H, dtype, scale=0.7)
        for call in (PLAIN, Call((T - 3, T)[:N], True, 2)):
            assert_close(run(p, call), reference(p, call), 4 * ORACLE_RTOL[dtype])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_functions_to_four_units_in_the_last_place(variant: str, name: str, dtype: type) -> None:
    a = np.append(points(dtype), dtype(-0.0))
    out = elementwise(name, a)
    assert_four_ulp(name, a, out)
    special = elementwise(name, np.array([0.0, np.inf, -np.inf, np.nan], dtype))
    expected = [0.0, 1.0, -1.0, np.nan] if name == "tanh" else [0.5, 1.0, 0.0, np.nan]
    np.testing.assert_array_equal(special, np.array(expected, dtype))


def elementwise(nonlinearity: str, a: np.ndarray) -> np.ndarray:
    """The function of every number: one step of an RNN that only passes its input on."""
    one = np.ones((1, 1), a.dtype)
    hs, _ = fastrnn.functional.rnn_forward(a[None, :, None], None, one, 0 * one, None, nonlinearity)
    return hs.ravel()


def last_call() -> tuple[list[tuple[Any, int]], int]:
    """What the last call has noted of itself."""
    from fastrnn.backends import _cpp

    return _cpp.last_call()


def impostor_step(x: Any, U: Any, h: Any, c: Any) -> Any:
    return x.i + U.f @ h + x.f + x.g + x.o, c


def test_users_cells_fall_to_another_backend() -> None:
    p = problem("mgu", 3, 2, 2, 5)
    assert_close(run(p), reference(p, PLAIN), 1e-12)
    impostor = fastrnn.cell(gates="i f g o", recurrent="f", name="lstm")(impostor_step)
    zero = {"Wx": np.ones((1, 4)), "Wh": np.zeros((1, 1))}
    hs, _, _ = fastrnn.functional.cell_forward(impostor, np.ones((1, 1, 1)), None, zero)
    assert hs.item() == 4.0


def test_numba_is_not_imported() -> None:
    code = """
import numpy as np, fastrnn, sys
fastrnn.set_backend("cpp")
layer = fastrnn.LSTM(2, 3)
y, _ = layer.forward(np.ones((4, 2, 2), np.float32)); layer.backward(y)
print("numba" in sys.modules)
"""
    done = python(code)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize("N, H", [(20, 70), (20, 33), (4, 17), (3, 70)])
@pytest.mark.parametrize("cell", ["lstm", "gru_after", "gru_before"])
def test_infinite_inputs_saturate(variant: str, cell: str, N: int, H: int) -> None:
    """Zero columns of the gates that share a vector meet infinity as well."""
    p = problem(cell, T=9, N=N, D=4, H=H, dtype="float32")
    # Six units of each gate fill no fewer vectors of eight together than apart.
    shared = N >= 4 and (variant, H) != ("avx2", 70)
    outputs = []
    for value in (np.inf, 1e30):
        x = p.x.copy()
        x[4, 0, 1] = value
        outputs.append(cell_forward(CELLS[cell], x, p.state, p.params)[0])
        assert last_call()[0][0][0][5] == shared
    np.testing.assert_array_equal(*outputs)
    assert np.isfinite(outputs[0]).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_subnormal_numbers_count_as_zero(variant: str, threads: int) -> None:
    """In the kernels, on every thread of theirs; the caller's own arithmetic stays as it was."""
    fastrnn.set_num_threads(threads)
    p = problem("rnn_identity", 40, 30, 20, 50, "float32", scale=0.5)
    tiny = type(p)(p.cell, p.x * np.float32(1e-40), p.state, p.params, p.dhs * np.float32(1e-40), p.dlast)
    zero = {"state": tuple(0 * s for s in p.state), "params": p.params | {"bx": None, "bh": None}}
    with fastrnn.use_backend("numpy"):
        assert 0 < np.abs(run(tiny, **zero)["hs"]).max() < np.finfo("f4").tiny
    hs, _, cache = cell_forward(CELLS["rnn_identity"], tiny.x, zero["state"], zero["params"])
    assert last_call()[0][0][0][0] == threads
    dx, _, grads = cell_backward(tiny.dhs, cache)
    assert not hs.any() and not dx.any() and not any(grad.any() for grad in grads.values())
    assert np.float32(1e-30) * np.float32(1e-10) > 0


def test_memory_of_an_earlier_call_is_used_again_and_not_too_early() -> None:
    rng = np.random.default_rng(0)
    layer = fastrnn.LSTM(4, 64, seed=0)
    # Enough steps that what is kept is more than what every process keeps for itself.
    batches = [rng.standard_normal((500, 16, 4)).astype(np.float32) for _ in range(2)]

    def gradient(x: np.ndarray) -> np.ndarray:
        layer.zero_grad()
        y, _ = layer.forward(x)
        layer.backward(y)
        return layer.grads["Wh_l0"].copy()

    with fastrnn.use_backend("cpp"):
        first = [gradient(x) for x in batches]
        caches = [cell_forward(layer.cell, x, None, by_cell_name(layer))[2] for x in batches]
        again = [gradient(x) for x in batches]
        held = [cell_backward(np.ones((500, 16, 64), np.float32), cache)[2]["Wh"] for cache in caches]
        del caches
        fresh = [cell_forward(layer.cell, x, None, by_cell_name(layer))[2] for x in batches]
        want = [cell_backward(np.ones((500, 16, 64), np.float32), cache)[2]["Wh"] for cache in fresh]
    for a, b in zip(first + want, again + held, strict=True):
        np.testing.assert_array_equal(a, b)


def by_cell_name(layer: fastrnn.Recurrent) -> dict[str, np.ndarray]:
    return {name.removesuffix("_l0"): array for name, array in layer.params.items()}
