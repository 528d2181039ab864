"""Translated functions of integers give what Python gives; what is not in the subset is refused."""

from __future__ import annotations

import ast
import ctypes
from collections.abc import Callable
from types import ModuleType

import pytest
from llvmlite import ir

import integer_functions
from fastrnn.backends.numba.machine import MachineCode
from fastrnn.codegen import integers

NAMES = [name for name, value in vars(integer_functions).items() if callable(value) and name != "nothing"]
REPLACED = 7


@pytest.fixture(scope="module")
def code() -> MachineCode:
    text = str(integers.integer_code([integer_functions], ir.FloatType(), {"REPLACED": REPLACED}))
    return MachineCode(text, NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_translated_function_gives_what_python_gives(
    code: MachineCode, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integer_functions, "REPLACED", REPLACED)
    # Here a function without a return gives 0.
    monkeypatch.setattr(integer_functions, "nothing", lambda a: 0)
    function: Callable[[int, int], int] = getattr(integer_functions, name)
    compiled = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(code.addresses[name])
    pairs = [(a, b) for a in range(9) for b in range(9)]
    assert [compiled(*pair) for pair in pairs] == [int(function(*pair)) for pair in pairs]


@pytest.mark.parametrize(
    "body",
    [
        "return a < 3 < 5",
        "return a / 2",
        "return a ** 2",
        "return min(a, 1, 2)",
        "return unknown(a)",
        "return get(address=a)",
        "return 'text'",
        "return a.real",
        "for i in (1, 2): a += i",
        "for i in range(0, 9, a): a += i",
        "while a > 0: break",
        "while a > 0: a -= 1\n    else: a = 3",
        "a[0] = 1",
        "with a: pass",
    ],
)
def test_what_is_not_in_the_subset_is_refused(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("refused")
    text = f"def function(a):\n    {body}\n"
    ast.parse(text)
    monkeypatch.setattr(integers.inspect, "getsource", lambda source: text)
    with pytest.raises(Exception):  # noqa: B017 - an error in fastrnn itself, seen by whoever writes a loop
        str(integers.integer_code([module], ir.FloatType(), {}))
