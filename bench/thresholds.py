"""Both ways at sizes around each threshold: `python -m bench.thresholds`.

A row of the table is a size; its figure is the time of the way that is taken above the threshold, relative to that of
the way below it: under 1 where it should be taken. The sizes of `csrc/thresholds.h` and `fastrnn/thresholds.py` were
set by these figures. Sizes that the compiler builds in (rows that are packed at once, registers' blocks) are not here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fastrnn import cells
from fastrnn.dispatch import load_backend
from fastrnn.engine.contract import Call
from fastrnn.engine.plan import make_plan

from .command import parser, run
from .measure import LEAST, Row, medians, quiet
from .results import Result, all_rows

CELLS = {"lstm": cells.lstm, "gru": cells.gru(), "rnn": cells.rnn()}


class Point(NamedTuple):
    """Sizes, and the fields of the paths below and above a threshold; both passes' fields by the names of a path."""

    cell: str
    shape: tuple[int, int, int, int]
    below: dict[str, Any]
    above: dict[str, Any]
    backward: bool = False
    backend: str = "cpp"


def packed(points: list[tuple[int, int, int]], backward: bool = False) -> list[Point]:
    """Of T, N, H."""
    return [Point("lstm", (T, N, 4, H), {"packed": False}, {"packed": True}, backward) for T, N, H in points]


def units(points: list[tuple[int, int]], other: dict[str, Any]) -> list[Point]:
    """Of N, H: two threads with half of the units each."""
    return [Point("lstm", (100, N, 4, H), other, {"parts": 2, "by_units": True}) for N, H in points]


THRESHOLDS: dict[str, list[Point]] = {
    "worth_packing, one sequence": packed([(T, 1, H) for H in (64, 256, 512) for T in (12, 24, 48, 96)]),
    "worth_packing, one sequence, few units": packed([(T, 1, 32) for T in (4, 8, 16)]),
    "worth_packing, few sequences": packed([(T, N, 128) for N in (4, 8) for T in (4, 8, 16)]),
    "worth_packing, more sequences": packed([(T, N, 128) for N, T in ((16, 2), (16, 4), (16, 8), (64, 1), (128, 1))]),
    "worth_packing_transposed": packed(
        [(T, 1, H) for H in (128, 512) for T in (4, 8, 16, 32)] + [(T, 8, 128) for T in (1, 2, 4)], backward=True
    ),
    "worth_hoisting": [
        Point("lstm", (100, N, D, 64), {"input": "step"}, {"input": "chunk", "chunk": min(100, -(-512 // N))})
        for N, D in ((1, 2), (1, 4), (1, 8), (4, 64), (7, 64), (8, 64), (16, 64))
    ],
    "worth_projecting_ahead": [
        Point("lstm", (200, 1, 64, H), {"input": "chunk", "chunk": 200}, {"input": "ahead", "chunk": 10})
        for H in (32, 48, 64, 128, 256)
    ],
    "gemm_depth, as the rows of a chunk in BPTT (against 512)": [
        Point("lstm", (2048, N, 128, 128), {"chunk": 512 // N}, {"chunk": rows // N}, backward=True)
        for N in (1, 16)
        for rows in (128, 256, 1024, 2048)
    ],
    "worth_merging": [
        Point(cell, (100, N, 4, H), {"merged": False}, {"merged": True})
        for cell, H in (("lstm", 100), ("gru", 70))
        for N in (1, 2, 3, 4, 8)
    ],
    "step_work (two threads against one)": units([(1, H) for H in (48, 64, 90, 128, 192)], {"parts": 1}),
    "few_rows (units against sequences)": units([(N, 256) for N in (2, 4, 8, 16, 32)], {"parts": 2, "by_units": False}),
    "WORTH_A_THREAD (two threads against one)": [
        Point("lstm", (T, 16, 16, 32), {"parts": 1}, {"parts": 2}) for T in (5, 10, 20, 40, 80)
    ],
    "worth_splitting (one bf16 number against float32)": [
        Point("lstm", (T, N, 4, 256), {"bf16_parts": 0}, {"bf16_parts": 1})
        for T, N in ((2, 4), (4, 4), (8, 4), (4, 1), (8, 1), (16, 1), (2, 16))
    ],
    "CHUNK_BYTES (in KiB, against 1024)": [
        Point("lstm", (512, 32, 128, 128), {"chunk": 16}, {"chunk": 16 * kib // 1024}, backend="numba")
        for kib in (256, 512, 2048, 4096)
    ],
    "CHUNK_ROWS (against 256)": [
        Point("lstm", (2048, 1, 512, 512), {"chunk": 256}, {"chunk": rows}, backend="numba")
        for rows in (64, 128, 512, 1024)
    ],
}


def engine_call(point: Point) -> Call:
    T, N, D, H = point.shape
    rng, cell = np.random.default_rng(0), CELLS[point.cell]

    def normal(shape: tuple[int, ...], deviation: float = 1.0) -> Any:
        return (deviation * rng.standard_normal(shape)).astype("f4")

    params = {name: normal(shape, 0.5 * H**-0.5) for name, shape in cell.param_shapes(D, H).items()}
    state = tuple(normal((N, H)) for _ in cell.states)
    return Call(make_plan(cell), normal((T, N, D)), state, params, False, 2)


def runs(point: Point) -> dict[str, Callable[[], Any]] | None:
    """The call on either path; None if this processor has not both."""
    backend, call = load_backend(point.backend), engine_call(point)
    chosen = (backend.backward_path if point.backward else backend.forward_path)(call)
    result = backend.forward(call, True)
    dlast, dy = tuple(np.zeros_like(s) for s in call.state), np.ones_like(result.y)

    def run(path: Any) -> Callable[[], Any]:
        if point.backward:
            return lambda: backend.backward(call, result.saved, dy, dlast, None, path)
        return lambda: backend.forward(call, False, path)

    # One thread and the plain way, but for what the point is about.
    plain = chosen._replace(parts=1)
    if point.backend == "cpp":
        plain = plain._replace(by_units=False, bf16_parts=0, packed=True, merged=False)
        plain = plain if point.backward else plain._replace(input="step", chunk=1)
    ways = {"below": run(plain._replace(**point.below)), "above": run(plain._replace(**point.above))}
    try:
        for way in ways.values():
            way()
    except ValueError:
        return None
    return ways


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """A row for each size around a threshold; without times if this processor has not both ways."""
    for name, points in THRESHOLDS.items():
        if options.only not in name:
            continue
        for point in points[:1] if options.quick else points:
            ways = runs(point)
            T, N, D, H = point.shape
            what = f"{point.cell} T{T} N{N} D{D} H{H} {point.above}"
            times = medians(ways, options.rounds, LEAST, lambda name: quiet()) if ways else {}
            yield {"threshold": name, "point": what, "us": {way: 1e6 * times[way] for way in times}}


def tables(results: list[Result]) -> list[str]:
    """Lines under the name of each threshold."""
    lines: list[str] = []
    last = ""
    for row in all_rows(results):
        if row["threshold"] != last:
            last = row["threshold"]
            lines += ["", last, ""]
        lines.append(f"    {row['point']}: {_compared(row['us'])}")
    return lines[1:]


def _compared(us: dict[str, float]) -> str:
    if not us:
        return "not on this processor"
    return f"{us['above']:.0f} / {us['below']:.0f} µs = {us['above'] / us['below']:.2f}"


def main() -> None:
    """Measure and print; with ``--save``, keep the figures."""
    # Some of the paths divide a call between two threads.
    arguments = parser(__doc__, threads=(2,))
    arguments.add_argument("--only", default="", metavar="TEXT", help="thresholds whose name has this in it")
    run("thresholds", arguments, rows, tables)


if __name__ == "__main__":
    main()
