"""Every worked example runs, and its own checks hold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "docs" / "examples"
SAYS = {
    "chain_rule.py": "gradient {'x': -2.0, 'y': 2.0, 'z': 2.0}",
    "diagnose.py": "vanishing since step",
    "elman_mse.py": "total error",
    "hello.py": "it says O",
    "linear_rnn.py": "relative error",
    "little_memory.py": "the same to rounding",
    "online_learning.py": "RTRL is BPTT",
    "one_step.py": "largest difference",
    "sunspots.py": "AR(9)",
    "truncation.py": "share of the gradient that is lost",
    "vanishing.py": "reaches 10 of 100 steps",
}


def test_every_example_is_listed() -> None:
    assert {p.name for p in FOLDER.glob("*.py")} == SAYS.keys()


@pytest.mark.parametrize("name", SAYS)
def test_example(name: str, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "MPLBACKEND": "Agg"}
    run = subprocess.run(
        [sys.executable, str(FOLDER / name)], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert SAYS[name] in run.stdout
