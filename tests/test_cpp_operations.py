"""The operations of cells in generated C++, each by itself: users' cells do not run there, but every operation can.

Compiled for the instruction set that every processor of the family has, without fused products.
"""

from __future__ import annotations

import math
import subprocess
from inspect import signature
from typing import Any

import numpy as np
import pytest

from fastrnn.cells.table import OPERATIONS
from kernel_library import FLAGS, HERE, ROOT, VARIANTS, Library, find_compiler
from ulp import EXACT, assert_four_ulp, points, turns

DTYPES = [np.float32, np.float64]
LIMIT = {np.float32: 1e4, np.float64: 1e6}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("operations")
    rows = {name: len(signature(row.formula(True)).parameters) for name, row in OPERATIONS.items() if not row.symbol}
    text = "#define FASTRNN_OPERATIONS(X) " + " ".join(f"X({name}, {count})" for name, count in rows.items())
    (folder / "operations_of_the_test.h").write_text(text + "\n", encoding="utf-8")
    flags, vector_bytes, registers = VARIANTS[list(VARIANTS)[-1]]
    macros = {"VARIANT": "tested", "VECTOR_BYTES": vector_bytes, "REGISTERS": registers}
    command = [*find_compiler(), *FLAGS, *flags, *(f"-DFASTRNN_{key}={value}" for key, value in macros.items())]
    command += [f"-I{ROOT / 'csrc'}", f"-I{folder}", str(HERE / "operations.cpp"), "-o", str(folder / "operations.so")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Library(folder / "operations.so")


def apply(library: Library, name: str, *operands: Any, dtype: type) -> np.ndarray:
    arrays = [np.ascontiguousarray(a, dtype) for a in operands]
    out = np.full_like(arrays[0], 7)
    library.run("operation", name.encode(), out.itemsize, out.size, arrays, out)
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EXACT)
def test_functions_to_four_units_in_the_last_place(library: Library, name: str, dtype: type) -> None:
    a = points(dtype)
    assert_four_ulp(name, a, apply(library, name, a, dtype=dtype))
    assert np.isnan(apply(library, name, [np.nan], dtype=dtype)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_sine_and_cosine_up_to_their_limit_and_beyond(library: Library, name: str, dtype: type) -> None:
    a = turns(dtype, LIMIT[dtype])
    assert_four_ulp(name, a, apply(library, name, a, dtype=dtype))
    beyond = np.array([np.nextafter(dtype(LIMIT[dtype]), dtype(np.inf)), -1e22, 1e30, np.finfo(dtype).max], dtype)
    want = np.array([getattr(math, name)(float(v)) for v in beyond], dtype)
    np.testing.assert_array_equal(apply(library, name, beyond, dtype=dtype), want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["log", "sqrt", "sin", "cos", "abs", "exp", "tanh", "hard_sigmoid", "relu"])
def test_special_numbers_are_those_of_numpy(library: Library, name: str, dtype: type) -> None:
    least, tiny = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).tiny
    a = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -1.0, -tiny, 1.0], dtype)
    # Kernels take subnormal numbers for 0; of these the result is normal.
    if name in ("log", "sqrt"):
        a = np.concatenate([a, np.array([least, -least, 12345 * least, tiny - least], dtype)])
    with np.errstate(all="ignore"):
        want = OPERATIONS[name].numpy(a)
    got = apply(library, name, a, dtype=dtype)
    np.testing.assert_allclose(got, want, rtol=4 * np.finfo(dtype).eps, atol=float(tiny))
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["maximum", "minimum", "lt", "le"])
def test_operations_of_two_are_those_of_numpy(library: Library, name: str, dtype: type) -> None:
    values = [-2, -0.5, 0, 1, 3, np.inf, -np.inf, np.nan]
    a, b = (v.ravel() for v in np.meshgrid(values, values))
    np.testing.assert_array_equal(apply(library, name, a, b, dtype=dtype), OPERATIONS[name].numpy(a, b).astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_where_takes_nothing_of_the_other(library: Library, dtype: type) -> None:
    got = apply(library, "where", [1, 0, 1, 0], [1, np.nan, 3, np.inf], [np.nan, 6, np.inf, 8], dtype=dtype)
    np.testing.assert_array_equal(got, [1, 6, 3, 8])
