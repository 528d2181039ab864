"""Descriptions that cannot be compiled: the error names the cell, the file and the line."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastrnn
from fastrnn import ops
from fastrnn.ops import sigmoid, tanh, where

# The line at fault ends in "# here"; without one it is the description's first.
Described = Callable[..., Any]


def branch(x, U, h):
    a = tanh(x.a + U.a @ h)
    if a > 0:  # here
        return a
    return h


def truth(x, U, h):
    return tanh(x.a + U.a @ h) and h  # here


def comparison_as_a_mask(x, U, h):
    keep = h == 0  # here
    return tanh(x.a + U.a @ h) * keep


def numpy_function(x, U, h):
    return np.tanh(x.a + U.a @ h)  # here


def math_function(x, U, h):
    return math.tanh(x.a + U.a @ h)  # here


def unknown_operation(x, U, h):
    return tanh(x.a + U.a @ h) ** 2  # here


def array_constant(x, U, h):
    return tanh(x.a + U.a @ h) * np.ones(3)  # here


def text_constant(x, U, h):
    return tanh(x.a + U.a @ h) + "1"  # here


def infinite_constant(x, U, h):
    return tanh(x.a + U.a @ h) + float("inf")  # here


def undeclared_gate(x, U, h):
    return tanh(x.b + U.a @ h)  # here


def undeclared_matrix(x, U, h):
    return tanh(x.a + U.b @ h)  # here


def matrix_last(x, U, h):
    return tanh(x.a + h @ U.a)  # here


def matrix_of_a_number(x, U, h):
    return tanh(x.a + U.a @ 1.0)  # here


def product_of_a_constant(x, U, h):
    return tanh(x.a + h + U.a @ (0 * h + 1))  # here


def matrix_alone(x, U, h):
    return tanh(x.a + U.a * h)  # here


def undeclared_unit(x, U, p, h):
    return tanh(x.a + U.a @ h) * p.u  # here


def division_of_constants_by_zero(x, U, h):
    zero = 0 * h
    return tanh(x.a + U.a @ h) + 1 / zero  # here


def error_of_its_own(x, U, h):
    raise KeyError("weight")  # here


def state_not_returned(x, U, h, c):
    return tanh(x.a + U.a @ h + c)


def state_too_many(x, U, h):
    return tanh(x.a + U.a @ h), h


def nothing_returned(x, U, h):
    tanh(x.a + U.a @ h)


def gate_never_used(x, U, h):
    return tanh(U.a @ h)


def matrix_never_used(x, U, h):
    return tanh(x.a + h)


def no_state(x):
    return tanh(x.a)


WRONG = [
    branch,
    truth,
    comparison_as_a_mask,
    numpy_function,
    math_function,
    unknown_operation,
    array_constant,
    text_constant,
    infinite_constant,
    undeclared_gate,
    undeclared_matrix,
    matrix_last,
    matrix_of_a_number,
    product_of_a_constant,
    matrix_alone,
    undeclared_unit,
    division_of_constants_by_zero,
    error_of_its_own,
    state_not_returned,
    state_too_many,
    nothing_returned,
    gate_never_used,
    matrix_never_used,
    no_state,
]


@pytest.mark.parametrize("function", WRONG, ids=lambda f: f.__name__)
def test_error_names_cell_and_line(function: Described) -> None:
    lines, first = inspect.getsourcelines(function)
    marked = [i for i, line in enumerate(lines) if line.rstrip().endswith("# here")]
    wrong = first + (marked[0] if marked else 0)
    with pytest.raises(fastrnn.CellError) as caught:
        fastrnn.cell(gates="a")(function)
    message = str(caught.value)
    assert repr(function.__name__) in message
    assert f"{__file__}:{wrong}" in message


def lstm_like(x, U, p, h, c):
    c = sigmoid(x.f) * c + tanh(x.g + U.g @ h)
    return p.u * c, c


@pytest.mark.parametrize(
    ("declared", "blamed"),
    [
        ({"gates": "f"}, "g"),
        ({"gates": "f g k"}, "k"),
        ({"gates": "f f g"}, "gates"),
        ({"gates": "f g 2"}, "2"),
        ({"gates": "f g for"}, "for"),
        ({"gates": ""}, "gate"),
        ({"recurrent": "f"}, "g"),
        ({"recurrent": "g r"}, "r"),
        ({"units": ""}, "u"),
        ({"units": "u w"}, "w"),
        ({"units": "u Wx"}, "Wx"),
    ],
    ids=str,
)
def test_bad_declaration(declared: dict[str, str], blamed: str) -> None:
    good = {"gates": "f g", "recurrent": "g", "units": "u"}
    fastrnn.cell(**good)(lstm_like)
    with pytest.raises(fastrnn.CellError, match=rf"'lstm_like'.*\b{blamed}"):
        fastrnn.cell(**good | declared)(lstm_like)


def test_bad_constants() -> None:
    def scaled(x, U, h, *, k=1.0):
        return tanh(x.a + k * (U.a @ h))

    cell = fastrnn.cell(gates="a")(scaled)
    assert cell(k=2).constants == {"k": 2}
    with pytest.raises(TypeError, match=r"'scaled'.*'j'.*: k"):
        cell(j=1.0)
    for value in ("2", None, True, np.ones(2), float("nan")):
        with pytest.raises(fastrnn.CellError, match=r"'scaled'.*\bk\b"):
            cell(k=value)


# What is written in a cell with the gate a, and what the error says to write instead.
ADVICE: dict[str, tuple[Described, str]] = {
    "np.tanh": (lambda x, U, h: np.tanh(x.a + U.a @ h), "np.tanh .* use fastrnn.ops.tanh$"),
    "np.maximum": (lambda x, U, h: np.maximum(x.a + U.a @ h, 0), "use fastrnn.ops.maximum$"),
    "np.where": (lambda x, U, h: np.where(h < 0, x.a, U.a @ h), "not a vector|use fastrnn.ops.where$"),
    "np.where of vectors": (lambda x, U, h: np.where([True], x.a, U.a @ h), "use fastrnn.ops.where$"),
    "np.abs": (lambda x, U, h: np.abs(x.a) + U.a @ h, "use fastrnn.ops.abs$"),
    "np.cosh": (lambda x, U, h: np.cosh(x.a) + U.a @ h, "np.cosh .* no counterpart in fastrnn.ops, which has: .*tanh"),
    "np.clip": (lambda x, U, h: np.clip(x.a, 0, 1) + U.a @ h, "np.clip.* no counterpart in fastrnn.ops"),
    "np.add.reduce": (lambda x, U, h: np.add.reduce(x.a) + U.a @ h, "np.add .* no counterpart"),
    "a matrix times": (lambda x, U, h: tanh(x.a + U.a * h), "write U.a @ h$"),
    "times a matrix": (lambda x, U, h: tanh(x.a + h * U.a), "write U.a @ h$"),
    "a matrix in a function": (lambda x, U, h: tanh(x.a + tanh(U.a)), "write U.a @ h$"),
    "raw U": (lambda x, U, h: tanh(x.a + U @ h), "recurrent= declares; write U.a @ h$"),
    "raw x": (lambda x, U, h: tanh(x + U.a @ h), "gates= declares; write x.a$"),
    "raw x in a function": (lambda x, U, h: tanh(x) + U.a @ h, "write x.a$"),
    "raw x times a number": (lambda x, U, h: 2 * x + U.a @ h, "write x.a$"),
    "raw x returned": (lambda x, U, h: x, "write x.a$"),
    "raw p": (lambda x, U, p, h: x.a + U.a @ h + p, "units= declares; write p.name$"),
    "np.tanh of raw x": (lambda x, U, h: np.tanh(x) + U.a @ h, "write x.a$"),
    "an undeclared gate": (lambda x, U, h: x.b + U.a @ h, "no gate called 'b'; it declares gates='a': add"),
    "an undeclared matrix": (lambda x, U, h: x.a + U.b @ h, "matrix called 'b'; it declares recurrent='a': add"),
    "an undeclared parameter": (lambda x, U, p, h: x.a + p.u * (U.a @ h), "parameter called 'u'; .* units='': add"),
    "if": (lambda x, U, h: x.a if h else U.a @ h, r"ops.where\(condition, a, b\), ops.maximum or ops.minimum$"),
    "if of a condition": (lambda x, U, h: x.a if h < 0 else U.a @ h, r"only be given to ops.where\(condition, a, b\)$"),
    "max": (lambda x, U, h: max(x.a, U.a @ h), "only be given to ops.where"),
    "a condition times": (lambda x, U, h: (x.a < 0) * (U.a @ h), "only be given to ops.where"),
    "a condition in a sum": (lambda x, U, h: x.a + U.a @ h + (h < 0), "only be given to ops.where"),
    "a condition in a function": (lambda x, U, h: x.a + tanh(U.a @ h < 0), "only be given to ops.where"),
    "a condition returned": (lambda x, U, h: x.a < U.a @ h, "only be given to ops.where"),
    "a matrix at a condition": (
        lambda x, U, h: x.a + U.a @ (h < 0),
        "takes a vector of the cell, got Condit",
    ),
    "conditions joined": (lambda x, U, h: where((h < 1) & (h > 0), x.a, U.a @ h), "only be given to ops.where"),
    "a chain": (lambda x, U, h: where(0 < h < 1, x.a, U.a @ h), "only be given to ops.where"),
    "a vector as a condition": (lambda x, U, h: where(h, x.a, U.a @ h), "takes a comparison .* first, got Vector"),
    "a bool as a condition": (lambda x, U, h: where(True, x.a, U.a @ h), "takes a comparison .* first, got bool"),
    "equal": (lambda x, U, h: where(h == 0, x.a, U.a @ h), "== and != of traced values"),
    "not equal": (lambda x, U, h: where(h != 0, x.a, U.a @ h), "== and != of traced values"),
    "equal conditions": (lambda x, U, h: where((h < 0) == (h < 1), x.a, U.a @ h), "only be given to ops.where"),
    "float": (lambda x, U, h: x.a * float(h) + U.a @ h, "is not a number: use the functions of fastrnn.ops"),
    "logarithm of a constant": (lambda x, U, h: x.a + U.a @ h + ops.log(0), "log of the constant 0.0 is -inf"),
}


@pytest.mark.parametrize("what", ADVICE)
def test_error_says_what_to_write(what: str) -> None:
    function, advice = ADVICE[what]
    with pytest.raises(fastrnn.CellError, match=advice):
        fastrnn.cell(gates="a", name="advised")(function)


@pytest.mark.parametrize(
    "function, declared",
    [
        (lambda x, U, h: tanh(x.f + U.f @ h) * x.n + U.n @ h, 'gates="f n"'),
        (lambda x, U, h: tanh(x.f + U.g @ h), 'gates="f", recurrent="g"'),
        (lambda x, p, h: tanh(x.f + p.u * h), 'gates="f", units="u"'),
        (lambda x, U, h: undefined(x.f, U, h), 'gates="..."'),  # noqa: F821
    ],
)
def test_a_decorator_without_parentheses_says_what_to_declare(function: Described, declared: str) -> None:
    with pytest.raises(fastrnn.CellError, match=rf"{__file__}:\d+.*: write @cell\({re.escape(declared)}\)$"):
        fastrnn.cell(function)


def test_names_without_a_keyword() -> None:
    with pytest.raises(TypeError, match="cell: expected the names of the gates as gates=, got 'f n' without a keyword"):
        fastrnn.cell("f n")
