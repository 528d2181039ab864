"""Which backend takes a layer's steps."""

from __future__ import annotations

from ..backends.numpy_online import ExactStep, LayerParams, TraceStep


def exact_step(layer: LayerParams, N: int, lower: int, backend: str) -> ExactStep:
    """`layer` with the influence of its parameters and of `lower` columns below it."""
    return ExactStep(layer, N, lower)


def trace_step(layer: LayerParams, N: int, through_diagonal: bool, backend: str) -> TraceStep:
    """`layer` with eligibility traces."""
    return TraceStep(layer, N, through_diagonal)
