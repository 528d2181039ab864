"""The compiled modules of a plan, and how the input is projected for them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ...codegen.numba_modules import backward_module, forward_module
from ...engine.call import Array
from ...engine.plan import Plan
from .simd import host_features
from .store import load_module


def vector_width(dtype: np.dtype[Any]) -> int:
    """Numbers of `dtype` in the widest vector register of this processor."""
    return _vector_bytes() // dtype.itemsize


def _vector_bytes() -> int:
    if "avx512f" in host_features():
        return 64
    return 32 if "avx" in host_features() else 16


@cache
def compiled(plan: Plan, direction: str, dtype: str, width: int) -> Any:
    """The module of one direction."""
    text = (forward_module if direction == "forward" else backward_module)(plan, dtype, width)
    return load_module(f"{plan.cell.name}_{direction}_{dtype}", text)


def project(steps: Array, Wx: Array, out: Array | None) -> Array:
    """``steps @ Wx``; a product of depth 1 is not one for BLAS."""
    return np.multiply(steps, Wx, out=out) if Wx.shape[0] == 1 else np.matmul(steps, Wx, out=out)
