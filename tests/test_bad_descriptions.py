"""Descriptions that cannot be compiled: the error names the cell, the file and the line."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastrnn
from fastrnn.ops import sigmoid, tanh

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
