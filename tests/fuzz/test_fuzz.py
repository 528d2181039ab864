"""The attack in short: cases of fixed seeds, all that failed once, and the attacker itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastrnn
from conftest import PROMISED_BACKENDS
from fastrnn.functional import cell_backward, cell_forward

from . import cells, files
from . import worker as worker_module
from .arrays import assert_near, assert_same_specials
from .calls import CALLS
from .kinds import KINDS, Case, draw, from_line, to_line
from .shrink import shrink
from .worker import Verdict, Worker, verdict_of

FOLDER = Path(__file__).parent
KEPT = [line for line in (FOLDER / "failures.txt").read_text("utf-8").splitlines() if line and line[0] != "#"]
# As many as take some seconds.
COUNTS = {"cell": 250, "layer": 100, "wrong": 500, "file": 60, "together": 25, "endless": 1}


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as one:
        yield one


def failures(worker: Worker, cases: list[Case]) -> list[str]:
    """What went wrong, and the lines that run it again."""
    return [f"{v.what}\n  {line}\n" for line in map(to_line, cases) if (v := worker.run(line)).failed]


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_cases(worker: Worker, kind: str) -> None:
    """``python tests/fuzz --case LINE`` runs one of them alone."""
    found = failures(worker, [draw(0, number, kind, quick=True) for number in range(COUNTS[kind])])
    assert not found, "".join(found[:10])


@pytest.mark.parametrize("line", KEPT)
def test_cases_that_failed_once(worker: Worker, line: str) -> None:
    verdict = worker.run(line)
    if verdict.what == "not here":
        pytest.skip(f"this machine has no {verdict.details}")
    assert not verdict.failed, f"{verdict.what}\n{verdict.details}"


# Whether the attacker would notice.


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_draws_the_same_cases_and_a_line_holds_all_of_a_case(kind: str) -> None:
    for number in range(20):
        case = draw(7, number, kind)
        assert to_line(case) == to_line(draw(7, number, kind))
        defaults = KINDS[kind].kind.DEFAULTS
        assert defaults | from_line(to_line(case)) == defaults | case


def test_every_backend_and_kind_is_drawn() -> None:
    drawn = [draw(3, number) for number in range(300)]
    assert {case["kind"] for case in drawn} == set(KINDS)
    assert {case["backend"] for case in drawn if case["kind"] == "cell"} == set(PROMISED_BACKENDS) - {"numpy"}


COMPILED = PROMISED_BACKENDS[0]
LINE = to_line({"kind": "cell", "backend": COMPILED, "T": 3, "N": 2, "D": 4, "H": 5, "state": True, "bias": "bx bh"})


def test_a_wrong_number_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdict_of(LINE) == Verdict("")

    def almost(*arguments: Any) -> Any:
        dx, dstate, dparams = cell_backward(*arguments)
        if fastrnn.get_backend() == COMPILED:
            dparams["Wh"][2, 3] += 1e-9
        return dx, dstate, dparams

    monkeypatch.setattr(cells, "cell_backward", almost)
    verdict = verdict_of(LINE)
    assert verdict.failed and verdict.what.startswith("dWh: error")


def test_a_written_input_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(cell: Any, x: np.ndarray, *others: Any, **named: Any) -> Any:
        result = cell_forward(cell, x, *others, **named)
        x.flags.writeable = True
        x[0] = 0
        return result

    monkeypatch.setattr(cells, "cell_forward", careless)
    assert verdict_of(LINE).what == "x was written to"


def test_a_number_that_is_not_one_is_noticed() -> None:
    finite, other = {"hs": np.zeros(3)}, {"hs": np.array([0, np.nan, 0])}
    assert_same_specials(other, other)
    with pytest.raises(AssertionError, match="hs: 1 of 3 differ in NaN"):
        assert_same_specials(finite, other)
    with pytest.raises(AssertionError, match="hs: error"):
        assert_near(other, finite, finite, "float64")


def test_a_call_that_takes_anything_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    line = to_line({"kind": "wrong", "call": "set_num_threads", "changes": {"n": "text"}})
    assert not verdict_of(line).failed
    for function, what in ((lambda n: n, "n was taken"), (lambda n: n + 1, "TypeError names no argument")):
        monkeypatch.setitem(CALLS, "set_num_threads", CALLS["set_num_threads"]._replace(function=function))
        assert verdict_of(line).what.startswith(what)


def test_a_file_that_gives_another_model_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    _, data = files.saved("user")
    other = fastrnn.Model([fastrnn.Recurrent(files.USER_CELLS["leaky"], 2, 3, dtype="float64"), fastrnn.RNN(3, 2)])
    line = to_line({"kind": "file", "model": "user"})
    assert not verdict_of(line).failed
    monkeypatch.setattr(files, "saved", lambda _: (other, data))
    assert "loaded 0.Wx_l0 is another" in verdict_of(line).what


def test_the_attack_survives_a_process_that_dies(worker: Worker) -> None:
    assert worker.run(LINE) == Verdict("")
    process = worker._process
    assert process is not None
    process.kill()
    process.wait()
    assert worker.run(LINE).what == "dies of SIGKILL"
    assert worker.run(LINE) == Verdict("")


def test_a_case_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "LIMIT", 0.5)
    with Worker() as slow:
        verdict = slow.run(to_line({"kind": "endless", "T": 100_000_000}))
    assert verdict.what == "hangs: more than 0 s"


def test_what_this_machine_does_not_have_is_no_failure() -> None:
    verdict = verdict_of(to_line({"kind": "cell", "backend": "cpp", "variant": "abacus"}))
    assert verdict == Verdict("not here", "cpp abacus") and not verdict.failed


def test_a_failing_case_is_made_short() -> None:
    case = {**draw(0, 3, "cell"), "T": 40, "N": 9, "H": 20, "layouts": {"x": "F", "Wh": "gaps"}}

    def run(line: str) -> Verdict:
        fields = KINDS["cell"].kind.DEFAULTS | from_line(line)
        return Verdict("hs: error 3" if fields["T"] > 6 and "Wh" in fields["layouts"] else "")

    short, verdict = shrink(case, Verdict("hs: error 5"), run)
    assert verdict.what == "hs: error 3"
    assert from_line(to_line(short)) == {
        **{k: case[k] for k in ("kind", "backend", "variant", "seed") if case[k]},
        "T": 7,
        "N": 0,
        "layouts": {"Wh": "gaps"},
    }


def test_the_long_mode_prints_what_runs_a_failure_again() -> None:
    run = [sys.executable, str(FOLDER), "--kind", "wrong", "--no-keep", "--cases"]
    done = subprocess.run([*run, "5"], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "5 wrong passed" in done.stdout
    bad = to_line({"kind": "cell", "cell": "no such cell"})
    again = subprocess.run([sys.executable, str(FOLDER), "--case", bad], capture_output=True, text=True, timeout=300)
    assert again.returncode == 1 and "FAILED KeyError: 'no such cell'" in again.stdout
