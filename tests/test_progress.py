"""Who waits for Numba is told, if somebody is watching."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from weakref import WeakValueDictionary

import pytest

import fastrnn
from fastrnn.backends.numba import disk_cache, kernel, progress
from fastrnn.engine.plan import make_plan


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when something was told; who is told has no patience."""
    event, tell = threading.Event(), progress._tell

    def tell_and_set(what: str) -> None:
        tell(what)
        event.set()

    monkeypatch.setattr(progress, "_tell", tell_and_set)
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(progress, "_watched", lambda: True)
    monkeypatch.delenv("FASTRNN_QUIET", raising=False)
    return event


def test_a_long_compilation_is_told_with_where_it_is_kept(told: threading.Event, capsys: Any) -> None:
    with progress.compiling("cell 'some'"):
        assert told.wait(60)
    assert (
        capsys.readouterr().err
        == f"fastrnn: compiling cell 'some' (kept for later runs in {disk_cache.cache_folder()})\n"
    )


def test_what_cannot_be_kept_is_told(told: threading.Event, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_wanted_folder", lambda: "/wanted")
    with progress.compiling("cell 'some'"):
        assert told.wait(60)
    assert "(not kept: /wanted cannot be written)" in capsys.readouterr().err


def test_a_short_one_is_not_told(told: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 60.0)
    with progress.compiling("cell 'some'"):
        (timer,) = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    timer.join(60)
    assert not timer.is_alive() and not told.is_set()


@pytest.mark.parametrize("silent", ["quiet", "nobody watches"])
def test_who_does_not_want_it_is_not_told(told: threading.Event, monkeypatch: pytest.MonkeyPatch, silent: str) -> None:
    if silent == "quiet":
        monkeypatch.setenv("FASTRNN_QUIET", "1")
    else:
        monkeypatch.setattr(progress, "_watched", lambda: False)
    with progress.compiling("cell 'some'"):
        assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    assert not told.is_set()


def test_a_terminal_and_a_prompt_are_watched_and_no_stderr_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys, "ps1", raising=False)
    assert not progress._watched()
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert progress._watched()
    monkeypatch.setattr(sys, "stderr", None)
    assert not progress._watched()


def test_the_loops_of_all_cells_and_a_cell_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    @contextmanager
    def compiling(what: str) -> Iterator[None]:
        told.append(what)
        yield

    # As in a new process: nothing has been made yet.
    monkeypatch.setattr(kernel, "compiling", compiling)
    monkeypatch.setattr(kernel, "shared", cache(kernel.shared.__wrapped__))
    monkeypatch.setattr(kernel, "_codes", WeakValueDictionary())
    kernel.Kernel(make_plan(fastrnn.cells.rnn()), "float64")
    assert told == ["cell 'rnn_tanh' for float64", "the loops of all cells for float64"]
