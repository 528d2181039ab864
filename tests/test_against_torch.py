"""The built-in cells against PyTorch's modules in float64: outputs, last states, all gradients."""

from __future__ import annotations

from typing import Any

import pytest

from cases import CALLS, call_id, run
from naive import Call
from problems import assert_close, problem
from torch_reference import MODULES, torch_result

# PyTorch packs no empty sequence and does not truncate.
FULL = [c for c in CALLS if c.truncate is None and c.lengths is None]
RAGGED = [Call(lengths=(3, 6, 1, 6, 2), reverse=reverse) for reverse in (False, True)]


@pytest.mark.parametrize("call", FULL + RAGGED, ids=call_id)
@pytest.mark.parametrize("cell", MODULES)
def test_against_torch(torch: Any, backend: str, cell: str, call: Call) -> None:
    p = problem(cell, T=6, N=5, D=3, H=7)
    assert_close(run(p, call), torch_result(torch, p, call), rtol=1e-12)
