"""The steps of the online learners in machine code."""

from .exact import CompiledExact
from .traces import CompiledTraces

__all__ = ["CompiledExact", "CompiledTraces"]
