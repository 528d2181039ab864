"""Which backend takes a layer's steps."""

from __future__ import annotations

from typing import Any

from ..backends.numpy_online import ExactStep, TraceStep
from ..engine.online import LayerParams


def exact_step(layer: LayerParams, N: int, lower: int, backend: str) -> Any:
    """`layer` with the influence of its parameters and of `lower` columns below it; see :class:`ExactStep`."""
    if not _compiled(layer, backend):
        return ExactStep(layer, N, lower)
    from ..backends.numba.online import CompiledExact

    return CompiledExact(layer, N, lower)


def trace_step(layer: LayerParams, N: int, through_diagonal: bool, backend: str) -> Any:
    """`layer` with eligibility traces; see :class:`TraceStep`."""
    if not _compiled(layer, backend):
        return TraceStep(layer, N, through_diagonal)
    from ..backends.numba.online import CompiledTraces

    return CompiledTraces(layer, N, through_diagonal)


def columns_of(layer: LayerParams, backend: str) -> int:
    """Columns that an influence has for the parameters of `layer`: those of machine code are whole vectors."""
    _, H, C = layer.sizes
    if not _compiled(layer, backend):
        return C * H
    from ..backends.numba.machine import target

    width = target(layer.params["Wx"].dtype.name).width
    return C * -(-H // width) * width


def _compiled(layer: LayerParams, backend: str) -> bool:
    """Whether machine code takes the steps: it reads and writes arrays where they are."""
    return backend != "numpy" and all(a.flags.carray for a in (*layer.params.values(), *layer.grads.values()))
