"""The functions that a cell's description may use, besides ``+ - * / < <= > >=``, ``abs`` and numbers."""

from .cells.operations import *  # noqa: F403
from .cells.operations import __all__ as __all__
