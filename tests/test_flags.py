"""Masks and resets: the table of flags, and every backend against the oracle and against separate calls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cases import CELLS, run
from fastrnn.engine.flags import CUT, HOLD, RESET, Cuts, flags_of, with_cuts
from fastrnn.functional import cell_backward, cell_forward
from naive import Call
from problems import ORACLE_RTOL, assert_close, oracle, problem, reset_state

# (T, N) = (5, 4), a sequence a column: padded in front, with a gap, whole, and never active.
MASK = tuple(zip(*["01111", "10011", "11111", "00000"], strict=True))
# At the first step, twice in a row, none, and where the mask holds.
RESETS = tuple(zip(*["10100", "01100", "00000", "00010"], strict=True))


def booleans(rows: tuple[tuple[str, ...], ...]) -> tuple[tuple[bool, ...], ...]:
    return tuple(tuple(flag == "1" for flag in row) for row in rows)


MASKED, RESET_THERE = booleans(MASK), booleans(RESETS)
CALLS = {
    "mask": Call(mask=MASKED),
    "mask-reverse-cut": Call(mask=MASKED, reverse=True, truncate=2),
    "mask-lengths": Call(lengths=(3, 5, 0, 2), mask=MASKED),
    "resets": Call(resets=RESET_THERE),
    "resets-reverse": Call(resets=RESET_THERE, reverse=True),
    "resets-cut": Call(resets=RESET_THERE, truncate=2),
    "resets-lengths-reverse": Call(lengths=(3, 5, 0, 1), reverse=True, resets=RESET_THERE),
    "both-cut": Call(mask=MASKED, resets=RESET_THERE, truncate=2),
}


@pytest.mark.parametrize("to_state", [False, True], ids=["zeros", "to-state"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru_after", "gru_before", "peephole_lstm", "indrnn"])
def test_masks_and_resets_as_the_oracle(backend: str, cell: str, dtype: str, call: Call, to_state: bool) -> None:
    if to_state and call.resets is None:
        pytest.skip("nothing is reset")
    p = problem(cell, dtype=dtype)
    changes = {"reset_state": reset_state(p)} if to_state else {}
    assert_close(run(p, call, **changes), oracle(p, call, to_state), ORACLE_RTOL[dtype])


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("cell", ["lstm", "gru_before", "leaky"])
def test_resets_are_separate_calls(backend: str, cell: str, reverse: bool) -> None:
    p, at = problem(cell, T=6, N=3, H=33), 4
    resets = np.zeros((6, 3), bool)
    resets[at if not reverse else at - 1] = True
    got = run(p, Call(reverse=reverse), resets=resets)
    pieces = [slice(0, at), slice(at, 6)]
    first, second = pieces[::-1] if reverse else pieces
    zeros = tuple(np.zeros_like(s) for s in p.state)
    expected = [
        run(replace(p, x=p.x[part], state=state, dhs=p.dhs[part], dlast=dlast), Call(reverse=reverse))
        for part, state, dlast in ((first, p.state, zeros), (second, zeros, p.dlast))
    ]
    for name, whole in got.items():
        if name in ("hs", "dx"):
            parts = [r[name] for r in (expected[::-1] if reverse else expected)]
            np.testing.assert_allclose(whole, np.concatenate(parts), rtol=1e-11, atol=1e-13)
        elif name.startswith("last"):
            np.testing.assert_allclose(whole, expected[1][name], rtol=1e-11, atol=1e-13)
        elif name.startswith("dstate"):
            np.testing.assert_allclose(whole, expected[0][name], rtol=1e-11, atol=1e-13)
        else:
            np.testing.assert_allclose(whole, expected[0][name] + expected[1][name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cell", ["lstm", "gru_after", "leaky"])
def test_what_stands_in_inactive_steps_is_never_used(backend: str, cell: str) -> None:
    p, mask = problem(cell), np.array(MASKED)
    x, dhs = p.x.copy(), p.dhs.copy()
    x[~mask], dhs[~mask] = np.nan, np.inf
    got = run(replace(p, x=x, dhs=dhs), Call(mask=MASKED))
    expected = run(p, Call(mask=MASKED))
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
    assert not got["hs"][~mask].any() and not got["dx"][~mask].any()


@pytest.mark.parametrize("cell", ["lstm", "leaky"])
def test_infinite_weights_stay_out_of_sequences_that_are_never_active(backend: str, cell: str) -> None:
    p = problem(cell)
    params = {name: np.full_like(a, np.inf) if name == "Wh" else a for name, a in p.params.items()}
    with np.errstate(invalid="ignore"):
        got = run(replace(p, params=params), Call(lengths=(5, 5, 5, 0)))
    assert not got["hs"][:, 3].any() and not got["dx"][:, 3].any()
    for k, dlast in enumerate(p.dlast):
        np.testing.assert_array_equal(got[f"dstate.{k}"][3], dlast[3])
        np.testing.assert_array_equal(got[f"last.{k}"][3], p.state[k][3])


def test_lengths_are_a_mask(backend: str) -> None:
    p, lengths = problem("gru_after"), (3, 5, 0, 1)
    mask = tuple(tuple(t < n for n in lengths) for t in range(5))
    for reverse, truncate in ((False, None), (True, 2)):
        got, expected = run(p, Call(None, reverse, truncate, mask)), run(p, Call(lengths, reverse, truncate))
        for name, value in expected.items():
            np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_one_row_of_a_reset_state_is_for_all_sequences(backend: str) -> None:
    p = problem("lstm")
    rows = tuple(a[0] for a in reset_state(p))
    spread = tuple(np.tile(row, (4, 1)) for row in rows)
    call = Call(resets=RESET_THERE)
    one, all_ = run(p, call, reset_state=rows), run(p, call, reset_state=spread)
    np.testing.assert_allclose(one.pop("dreset_state"), all_.pop("dreset_state").sum(axis=1), rtol=1e-12)
    for name, value in all_.items():
        np.testing.assert_array_equal(one[name], value, err_msg=name)


def test_a_state_of_none_resets_to_zeros(backend: str) -> None:
    p = problem("lstm")
    h = reset_state(p)[0]
    call = Call(resets=RESET_THERE)
    got, expected = (run(p, call, reset_state=(h, c)) for c in (None, np.zeros_like(h)))
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_batch_first_flags_are_transposed(backend: str) -> None:
    p, call = problem("gru_before"), CALLS["both-cut"]
    got, expected = run(p, call, batch_first=True), run(p, call)
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


@pytest.mark.parametrize("name", ["mask", "resets"])
def test_flags_that_say_nothing_change_no_bit(backend: str, name: str) -> None:
    p = problem("lstm", N=3, H=19)
    plain = np.full((5, 3), name == "mask")
    got, expected = run(p, Call(), **{name: plain}), run(p)
    for quantity, value in expected.items():
        np.testing.assert_array_equal(got[quantity], value, err_msg=quantity)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"mask": np.ones((4, 5), bool)}, ValueError, r"mask: expected shape \(5, 4\)"),
    ({"mask": np.ones((5, 4))}, TypeError, "mask: expected booleans, got dtype float64"),
    ({"resets": np.zeros((5, 4), int)}, TypeError, "resets: expected booleans, got dtype int64"),
    ({"resets": True}, ValueError, r"resets: expected shape \(5, 4\), got \(\)"),
    ({"lengths": np.ones((5, 4), bool)}, TypeError, "lengths: .*mask="),
    ({"reset_state": (np.zeros(4),)}, ValueError, "reset_state: expected resets"),
    ({"resets": np.zeros((5, 4), bool), "reset_state": np.zeros(4)}, TypeError, "reset_state: expected a tuple"),
    ({"resets": np.zeros((5, 4), bool), "reset_state": (np.zeros(3),)}, ValueError, r"reset_state\[0\]"),
    ({"resets": np.zeros((5, 4), bool), "reset_state": (np.zeros((4, 4), "f4"),)}, TypeError, r"reset_state\[0\]"),
    ({"resets": np.zeros((5, 4), bool), "reset_state": ()}, ValueError, "reset_state: expected 1"),
    ({"resets": np.zeros((5, 4), bool), "reset_state": (None, None)}, ValueError, "reset_state: expected 1"),
]


@pytest.mark.parametrize("given, error, message", BAD)
def test_bad_flags(given: dict[str, Any], error: type[Exception], message: str) -> None:
    p = problem("gru_after")
    with pytest.raises(error, match=message):
        cell_forward(CELLS["gru_after"], p.x, p.state, p.params, **given)


def test_a_cache_is_cut_anew_by_each_backward_pass(backend: str) -> None:
    p, call = problem("lstm"), CALLS["both-cut"]
    flags = {"mask": np.array(MASKED), "resets": np.array(RESET_THERE)}
    _, _, cache = cell_forward(CELLS["lstm"], p.x, p.state, p.params, **flags)
    for truncate in (None, 2, None):
        dx, _, _ = cell_backward(p.dhs, cache, p.dlast, truncate)
        np.testing.assert_array_equal(dx, run(p, replace(call, truncate=truncate))["dx"])


def test_the_table() -> None:
    assert flags_of(2, 1, None, None, None) is None
    assert flags_of(2, 1, None, np.ones((2, 1), bool), np.zeros((2, 1), bool)) is None
    mask, resets = np.array([[True, False], [True, True], [False, True]]), np.zeros((3, 2), bool)
    resets[1, 1] = True
    table = flags_of(3, 2, np.array([3, 2]), mask, resets)
    assert table is not None
    np.testing.assert_array_equal(table, [[0, HOLD], [0, RESET], [HOLD, HOLD]])
    np.testing.assert_array_equal(with_cuts(table, 3, 2, False, Cuts(1, 1)), [[0, HOLD], [CUT, RESET], [HOLD, HOLD]])
    np.testing.assert_array_equal(with_cuts(table, 3, 2, True, Cuts(1, 1)), [[CUT, HOLD], [0, RESET], [HOLD, HOLD]])
    np.testing.assert_array_equal(with_cuts(None, 3, 1, False, Cuts(2, 2)), [[0], [0], [CUT]])
    np.testing.assert_array_equal(with_cuts(None, 3, 1, True, Cuts(2, 2)), [[CUT], [0], [0]])
    np.testing.assert_array_equal(
        with_cuts(np.array([[0, 0], [0, 0], [0, HOLD]], np.uint8), 3, 2, False, Cuts(1, 9, 2)),
        [[0, 0], [CUT, 0], [0, HOLD]],
    )
    assert with_cuts(None, 3, 1, True, Cuts(3, 3)) is None and with_cuts(table, 3, 2, True, None) is table
