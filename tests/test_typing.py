"""Descriptions of cells, annotated with the types of `fastrnn.typing`, under a strict type checker."""

from __future__ import annotations

from pathlib import Path

from mypy import api

from kernel_library import ROOT

HEAD = """\
from __future__ import annotations

import fastrnn
from fastrnn.ops import hard_sigmoid, maximum, sigmoid, tanh, where
from fastrnn.typing import Condition, Inputs, Matrices, Matrix, Parameters, Vector

"""
RIGHT = """
def leaky(a: Vector, slope: float) -> Vector:
    below: Condition = a <= 0
    return where(below, slope * a, a)


@fastrnn.cell(gates="f n", recurrent="F N", units="u")
def mine(x: Inputs, U: Matrices, p: Parameters, h: Vector, c: Vector, *, slope: float = 0.1) -> tuple[Vector, Vector]:
    f = sigmoid(x.f + U.F @ h)
    N: Matrix = U.N
    n = tanh(x.n + N @ (f * h))
    return (1 - f) * h + f * maximum(leaky(n, slope), -1.0), abs(c) * p.u + hard_sigmoid(-n) / 2


steeper: fastrnn.Cell = mine(slope=0.2)
"""
# A line of a cell, and what is wrong with it.
WRONG = {
    "U.f * h": "Unsupported operand types for * ",
    "x + U.f @ h": "Unsupported operand types for + ",
    "tanh(x)": 'Argument 1 to "tanh"',
    "where(h, h, 0)": 'Argument 1 to "where"',
    "(h < 1) * h": "Unsupported operand types for * ",
    "fastrnn.ops.tanj(h)": 'has no attribute "tanj"',
}


def test_a_users_file_is_right_and_mistakes_in_it_are_found(tmp_path: Path) -> None:
    wrong = "def wrong(x: Inputs, U: Matrices, h: Vector) -> Vector:\n" + "".join(f"    {line}\n" for line in WRONG)
    (tmp_path / "right.py").write_text(HEAD + RIGHT, encoding="utf-8")
    (tmp_path / "wrong.py").write_text(HEAD + wrong + "    return h\n", encoding="utf-8")
    # With the options and the cache of the package's own check, which has read NumPy's types already.
    options = [f"--config-file={ROOT / 'pyproject.toml'}", "--strict", "--no-error-summary"]
    options += [f"--cache-dir={ROOT / '.mypy_cache'}"]
    out, err, _ = api.run([*options, str(tmp_path / "right.py"), str(tmp_path / "wrong.py")])
    assert not err
    # The package's own files have the package's own check.
    errors = [line for line in out.splitlines() if line.partition(":")[0].endswith(("right.py", "wrong.py"))]
    first = (HEAD + wrong).splitlines().index("    U.f * h") + 1
    for number, (line, error) in enumerate(WRONG.items(), first):
        assert any(f"wrong.py:{number}:" in found and error in found for found in errors), (line, out)
    assert len(errors) == len(WRONG), out
