"""What the report does with places and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from . import report, results, tables

PLACE = "before\n<!-- figures: saturated -->\n{}<!-- end of figures -->\nafter\n"


def result(rows: list[dict[str, Any]], threads: int = 1) -> results.Result:
    machine = {"cpu": "a processor", "processors": 2, "system": "Linux", "instruction set": "avx2"}
    found = {"date": "2026-01-02", "commit": "0123456789abcdef", "changed since": False, "machine": machine}
    return {"command": "python -m bench.some", **found, "versions": {}, "threads": threads, "rounds": 5, "rows": rows}


def row(us: dict[str, float]) -> dict[str, Any]:
    point = {"dtype": "float32", "cell": "RNN", "shape": "N1 T2 D3 H4", "sizes": [1, 2, 3, 4], "mode": "forward"}
    return {**point, "us": us, "others": 0.0, "bound": 0.5, "products": 0.1}


def test_a_saved_result_is_loaded_again_with_fewer_threads_first(tmp_path: Path) -> None:
    for threads in (2, 1):
        results.save(result([{"ms": {"ordinary": 1.23456789, "saturated": 2.0}}], threads), f"some-{threads}", tmp_path)
    loaded = results.load("some", tmp_path)
    assert [found["threads"] for found in loaded] == [1, 2]
    assert loaded[0]["rows"] == [{"ms": {"ordinary": 1.23457, "saturated": 2.0}}]


def test_a_place_is_filled_and_filled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"backend": "cpp", "ms": {"ordinary": 10.0, "saturated": 15.0}}]
    monkeypatch.setattr(report, "load", lambda command: [result(rows)])
    once = report.filled(PLACE.format("old\n"))
    assert "| C++ | 1 | 10.0 | 15.0 | 1.50 |" in once
    assert "commit 0123456789ab, 2026-01-02" in once
    assert once.startswith("before\n") and once.endswith("\nafter\n") and "old" not in once
    assert report.filled(once) == once


def test_a_place_without_figures_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "load", lambda command: [])
    assert report.filled(PLACE.format("old\n")) == PLACE.format("old\n")
    assert report.filled(PLACE.format(""), before=PLACE.format("old\n")) == PLACE.format("old\n")


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(SystemExit, match="expected one of peers"):
        report.filled(PLACE.replace("saturated", "satiated").format(""))


def test_a_ratio_is_that_to_the_best_peer() -> None:
    point = row({"fastrnn cpp": 2.0, "fastrnn numba": 4.0, "PyTorch": 10.0, "JAX": 1.0})
    lines = "\n".join(tables.peers_summary([result([point])]))
    assert "| forward, float32, 1 thread | 0.50 (0.50–0.50) |" in lines
    behind = tables.behind([result([point])])
    assert behind[0].startswith("A peer is quicker at 1 of 1 points")
    assert behind[2] == "- RNN N1 T2 D3 H4, forward, float32, 1 thread: JAX 0.50"
