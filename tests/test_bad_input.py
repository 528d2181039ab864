"""The table of what each bad input gets: type, argument named, nothing modified; and what works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pytest

import fastrnn
from cases import CELLS
from fastrnn import functional
from problems import problem

T, N, D, H = 5, 4, 3, 4
P = problem("lstm", T, N, D, H)
FORWARD = {
    "x": P.x,
    "h0": P.state[0],
    "c0": P.state[1],
    "Wx": P.params["Wx"],
    "Wh": P.params["Wh"],
    "b": P.params["bx"],
    "lengths": np.array([5, 2, 0, 3]),
}
BACKWARD = {"dhs": P.dhs, "dh_last": P.dlast[0], "dc_last": P.dlast[1]}
ARRAYS = [name for name in FORWARD if name != "lengths"]

Change = Callable[[np.ndarray], Any]
BAD_TYPES: dict[str, Change] = {
    "list": lambda a: a.tolist(),
    "number": lambda a: 1.0,
    "text": lambda a: "abc",
    "object": lambda a: a.astype(object),
    "integer": lambda a: a.astype(int),
    "boolean": lambda a: a > 0,
    "float16": lambda a: a.astype("float16"),
    "complex": lambda a: a.astype(complex),
    "big-endian": lambda a: a.astype(">f8"),
    "masked": lambda a: np.ma.array(a, mask=a > 0),
}
# Of two dimensions whatever it is made of.
MATRIX: dict[str, Change] = {"matrix": lambda a: a.view(np.matrix)}
# What could be taken for True or False, or asked whether it is.
NO_FLAGS = [np.array([True, False]), np.array(True), 1, 0.0, "yes", None]
BAD_SHAPES: dict[str, Change] = {
    "fewer-dimensions": lambda a: a[..., 0],
    "more-dimensions": lambda a: a[None, None],
}
BAD_SIZES: dict[str, Change] = {
    "one-column-more": lambda a: np.concatenate([a, a[..., :1]], axis=-1),
    "one-column-less": lambda a: a[..., 1:],
    "empty": lambda a: a[..., :0],
}
MIXED: dict[str, Change] = {"float32-among-float64": lambda a: a.astype("float32")}

Row = tuple[str, Any, type[Exception], str]  # argument, its bad value, error, argument named in the message


def rows(good: dict[str, Any], names: list[str], changes: dict[str, Change], error: type[Exception]) -> Iterator[Any]:
    for name in names:
        for kind, change in changes.items():
            # x decides the dtype and D of a call: what does not fit it is named.
            blamed = "Wx" if name == "x" and (changes is BAD_SIZES or changes is MIXED) else name
            yield pytest.param(name, change(good[name]), error, blamed, id=f"{name}-{kind}")


def row(name: str, value: Any, error: type[Exception], blamed: str | None = None) -> Any:
    return pytest.param(name, value, error, blamed or name, id=f"{name}-{str(value)[:24]}")


FORWARD_TABLE = [
    *rows(FORWARD, ARRAYS, BAD_TYPES, TypeError),
    *rows(FORWARD, [name for name in ARRAYS if name != "x"], MATRIX, TypeError),
    *rows(FORWARD, ARRAYS, MIXED, TypeError),
    *rows(FORWARD, ARRAYS, BAD_SHAPES, ValueError),
    *rows(FORWARD, ARRAYS, BAD_SIZES, ValueError),
    pytest.param("x", P.x[:, 1:], ValueError, "h0", id="x-one-sequence-less"),
    pytest.param("x", P.x[:0], ValueError, "x", id="x-no-steps"),
    pytest.param("h0", P.state[0][1:], ValueError, "h0", id="h0-one-sequence-less"),
    pytest.param("h0", P.state[0][:1], ValueError, "h0", id="h0-does-not-broadcast"),
    pytest.param("Wx", P.params["Wx"][1:], ValueError, "Wx", id="Wx-one-row-less"),
    pytest.param("Wx", P.params["Wx"][:, : 3 * H], ValueError, "W[xh]", id="Wx-of-three-gates"),
    pytest.param("Wx", P.params["Wx"].T, ValueError, "Wx", id="Wx-as-PyTorch-has-it"),
    pytest.param("Wh", P.params["Wh"][1:], ValueError, "Wh", id="Wh-one-row-less"),
    row("Wx", None, ValueError),
    row("Wh", None, ValueError),
    row("lengths", [5, 2, 3], ValueError),
    row("lengths", [5, 2, 0, 3, 1], ValueError),
    row("lengths", [], ValueError),
    row("lengths", [[5, 2, 0, 3]], ValueError),
    row("lengths", 5, ValueError),
    row("lengths", [5, 2, -1, 3], ValueError),
    row("lengths", [5, 6, 0, 3], ValueError),
    row("lengths", [5, 2, 0, 2**62], ValueError),
    row("lengths", [5.0, 2.0, 0.0, 3.0], TypeError),
    row("lengths", [5, np.nan, 0, 3], TypeError),
    row("lengths", [True, True, False, True], TypeError),
    row("lengths", np.array([5, 2, 0, 3], dtype=object), TypeError),
    row("lengths", [5, 2, None, 3], TypeError),
    row("lengths", "5203", TypeError),
    row("lengths", np.ma.array([5, 2, 0, 3], mask=[0, 1, 0, 0]), TypeError),
    row("lengths", np.array([[5, 2, 0, 3]]).view(np.matrix), TypeError),
    row("lengths", [[5], [2, 0]], ValueError),
    *(row(name, value, TypeError) for name in ("batch_first", "reverse") for value in NO_FLAGS),
    row("gate_order", "ifg", ValueError),
    row("gate_order", "iffo", ValueError),
    row("gate_order", "ifgx", ValueError),
    row("gate_order", "ifgoo", ValueError),
    row("gate_order", "", ValueError),
    row("gate_order", 4, TypeError),
    row("gate_order", np.array(list("ifgo")), TypeError),
    row("gate_order", [np.array(["i", "f"]), "f", "g", "o"], TypeError),
]

BACKWARD_TABLE = [
    *rows(BACKWARD, list(BACKWARD), BAD_TYPES, TypeError),
    *rows(BACKWARD, ["dh_last", "dc_last"], MATRIX, TypeError),
    *rows(BACKWARD, list(BACKWARD), MIXED, TypeError),
    *rows(BACKWARD, list(BACKWARD), BAD_SHAPES, ValueError),
    *rows(BACKWARD, list(BACKWARD), BAD_SIZES, ValueError),
    pytest.param("dhs", P.dhs[1:], ValueError, "dhs", id="dhs-one-step-less"),
    pytest.param("dhs", P.dhs.swapaxes(0, 1), ValueError, "dhs", id="dhs-batch-first"),
    row("truncate", 0, ValueError),
    row("truncate", -1, ValueError),
    row("truncate", 2.0, TypeError),
    row("truncate", np.nan, TypeError),
    row("truncate", "2", TypeError),
    row("truncate", True, TypeError),
    row("truncate", np.array([2, 3]), TypeError),
    row("truncate", -(2**63), ValueError),
    row("cache", None, TypeError),
    row("cache", (1, 2), TypeError),
]

Q = problem("peephole_lstm", T, N, D, H)
CELL = {"cell": CELLS["peephole_lstm"], "x": Q.x, "state": Q.state, "params": Q.params}


def params(**changes: Any) -> dict[str, Any]:
    return Q.params | changes


CELL_TABLE = [
    row("cell", "lstm", TypeError),
    row("cell", lambda x, U, h: h, TypeError),
    row("state", Q.state[:1], ValueError),
    row("state", (*Q.state, Q.state[0]), ValueError),
    row("state", np.array(Q.state), TypeError),
    pytest.param("state", (Q.state[0], Q.state[1][1:]), ValueError, "state", id="state-c-one-less"),
    *(row("keep", value, TypeError) for value in NO_FLAGS),
    row("params", None, TypeError),
    row("params", list(Q.params.values()), TypeError),
    pytest.param("params", {k: v for k, v in Q.params.items() if k != "pf"}, ValueError, "pf", id="no-pf"),
    pytest.param("params", {k: v for k, v in Q.params.items() if k != "Wx"}, ValueError, "Wx", id="no-Wx"),
    pytest.param("params", params(pf=None), ValueError, "pf", id="pf-None"),
    pytest.param("params", params(weight=Q.params["pf"]), ValueError, "weight", id="unknown-weight"),
    pytest.param("params", params(pf=Q.params["pf"][1:]), ValueError, "pf", id="pf-too-short"),
    pytest.param("params", params(pf=list(Q.params["pf"])), TypeError, "pf", id="pf-list"),
    pytest.param("params", params(bh=Q.params["bh"][1:]), ValueError, "bh", id="bh-too-short"),
]


@pytest.fixture(autouse=True)
def reference_backend() -> Iterator[None]:
    """Arguments are checked before a backend is asked: the quickest to load will do."""
    with fastrnn.use_backend("numpy"):
        yield


def check(function: Callable[..., Any], arguments: dict[str, Any], error: type[Exception], blamed: str) -> None:
    """`function` raises `error` naming `blamed`, and leaves every argument as it was."""
    before = {name: deepcopy(value) for name, value in arguments.items() if name not in ("cell", "cache")}
    with pytest.raises(error, match=rf"\b{blamed}\b") as caught:
        function(**arguments)
    assert caught.type is error, f"{error.__name__} itself, not a kind of it by accident"
    assert "expected" in str(caught.value)
    for name, value in before.items():
        np.testing.assert_equal(arguments[name], value)


@pytest.mark.parametrize(("argument", "value", "error", "blamed"), FORWARD_TABLE)
def test_forward(argument: str, value: Any, error: type[Exception], blamed: str) -> None:
    check(functional.lstm_forward, FORWARD | {argument: value}, error, blamed)


@pytest.mark.parametrize(("argument", "value", "error", "blamed"), BACKWARD_TABLE)
def test_backward(argument: str, value: Any, error: type[Exception], blamed: str) -> None:
    *_, cache = functional.lstm_forward(**FORWARD)
    check(functional.lstm_backward, BACKWARD | {"cache": cache, argument: value}, error, blamed)


@pytest.mark.parametrize(("argument", "value", "error", "blamed"), CELL_TABLE)
def test_cell_forward(argument: str, value: Any, error: type[Exception], blamed: str) -> None:
    check(functional.cell_forward, CELL | {argument: value}, error, blamed)


WEIGHTS = {name: FORWARD[name] for name in ("Wx", "Wh", "b")}
STEP = {"x": P.x[0], "h_prev": P.state[0], "c_prev": P.state[1], **WEIGHTS}


@pytest.mark.parametrize(
    ("argument", "value", "error", "blamed"),
    [
        row("x", P.x, ValueError),
        row("x", P.x[0, 0], ValueError),
        row("x", P.x[0].tolist(), TypeError),
        row("h_prev", P.state[0][1:], ValueError),
        row("c_prev", P.state[1].astype("float32"), TypeError),
        row("gate_order", "abcd", ValueError),
    ],
)
def test_step_forward(argument: str, value: Any, error: type[Exception], blamed: str) -> None:
    check(functional.lstm_step_forward, STEP | {argument: value}, error, blamed)


@pytest.mark.parametrize("value", ["softmax", "", None, np.tanh, np.array(["tanh", "relu"]), np.array("tanh")])
def test_nonlinearity(value: Any) -> None:
    arguments = {**WEIGHTS, "nonlinearity": value}
    sequence, step = {"x": P.x, "h0": P.state[0]}, {"x": P.x[0], "h_prev": P.state[0]}
    check(functional.rnn_forward, sequence | arguments, ValueError, "nonlinearity")
    check(functional.rnn_step_forward, step | arguments, ValueError, "nonlinearity")


@pytest.mark.parametrize("value", NO_FLAGS)
def test_reset_after(value: Any) -> None:
    arguments = {"Wx": P.params["Wx"][:, : 3 * H], "Wh": P.params["Wh"][:, : 3 * H], "bx": None, "bh": None}
    arguments["reset_after"] = value
    check(functional.gru_forward, {"x": P.x, "h0": P.state[0]} | arguments, TypeError, "reset_after")
    check(functional.gru_step_forward, {"x": P.x[0], "h_prev": P.state[0]} | arguments, TypeError, "reset_after")


@pytest.mark.parametrize("argument", ["dh_next", "dc_next"])
def test_step_backward(argument: str) -> None:
    *_, cache = functional.lstm_step_forward(**STEP)
    good = {"dh_next": P.dlast[0], "dc_next": P.dlast[1], "cache": cache}
    check(functional.lstm_step_backward, good | {argument: P.dhs}, ValueError, argument)


def test_a_cache_belongs_to_its_own_backward() -> None:
    """A cache of another cell would give wrong numbers of the right shape."""
    *_, cache = functional.lstm_forward(**FORWARD)
    for backward in (functional.rnn_backward, functional.gru_backward):
        with pytest.raises((TypeError, ValueError), match=r"\bcache\b"):
            backward(P.dhs, cache)


@pytest.mark.parametrize("name", ["numbas", "", None, np.array(["numpy", "numba"])])
def test_unknown_backend(name: Any) -> None:
    with pytest.raises(ValueError, match=r"name: expected one of .*numpy"):
        fastrnn.use_backend(name)
    assert fastrnn.get_backend() == "numpy"


# What works.

LAYOUTS: dict[str, Change] = {
    "read-only": lambda a: a,
    "writeable": np.array,
    "Fortran": np.asfortranarray,
    "negative-strides": lambda a: np.flip(np.flip(a).copy()),
    "unaligned": lambda a: unaligned(a),
    "memory-mapped": lambda a: mapped(a),
    "subclass": lambda a: a.view(Subclass),
}


class Subclass(np.ndarray):
    """Somebody's own kind of array."""


def mapped(a: np.ndarray) -> np.memmap:
    """The same numbers in a file."""
    with TemporaryFile() as file:
        result = np.memmap(file, a.dtype, "w+", shape=a.shape)
    result[...] = a
    return result


def unaligned(a: np.ndarray) -> np.ndarray:
    """The same array at an address that its items are not aligned to."""
    memory = np.empty(a.nbytes + 1, np.uint8)[1:]
    result = memory.view(a.dtype).reshape(a.shape)
    result[...] = a
    assert not result.flags.aligned
    return result


def results(forward: dict[str, Any], backward: dict[str, Any]) -> list[np.ndarray]:
    hs, (h, c), cache = functional.lstm_forward(**forward)
    return [hs, h, c, *functional.lstm_backward(**backward, cache=cache)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_that_work(backend: str, layout: str) -> None:
    change = LAYOUTS[layout]
    forward = {name: change(FORWARD[name]) for name in ARRAYS}
    backward = {name: change(a) for name, a in BACKWARD.items()}
    before = deepcopy((forward, backward))
    plain = results({name: FORWARD[name] for name in ARRAYS}, BACKWARD)
    for got, expected in zip(results(forward, backward), plain, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_equal((forward, backward), before)


@pytest.mark.parametrize(
    "lengths",
    [
        [5, 2, 0, 3],
        (5, 2, 0, 3),
        *(np.array([5, 2, 0, 3], dtype) for dtype in ("int8", "uint64", ">i4")),
    ],
    ids=lambda v: f"{type(v).__name__}-{getattr(v, 'dtype', 'int')}",
)
def test_lengths_that_work(backend: str, lengths: Any) -> None:
    plain = results(FORWARD, BACKWARD)
    got = results(FORWARD | {"lengths": lengths}, BACKWARD | {"truncate": np.int16(9)})
    for have, expected in zip(got, plain, strict=True):
        np.testing.assert_array_equal(have, expected)


@pytest.mark.parametrize("truncate", [5, 6, 2**31, 2**63, 10**30, np.uint64(2**63)])
def test_truncation_after_all_steps_cuts_nothing(backend: str, truncate: Any) -> None:
    uncut, cut = results(FORWARD, BACKWARD), results(FORWARD, BACKWARD | {"truncate": truncate})
    for got, expected in zip(cut, uncut, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_flags_of_numpy_work() -> None:
    plain = results(FORWARD | {"reverse": True, "batch_first": False}, BACKWARD)
    got = results(FORWARD | {"reverse": np.True_, "batch_first": np.bool_(False)}, BACKWARD)
    for have, expected in zip(got, plain, strict=True):
        np.testing.assert_array_equal(have, expected)


def test_names_for_messages_may_be_an_array() -> None:
    with pytest.raises(ValueError, match=r"^c: expected"):
        functional.cell_forward(**CELL | {"state": (Q.state[0], Q.state[1][1:])}, state_names=np.array(["h", "c"]))
