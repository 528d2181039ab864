"""The functions that a cell's description may use, besides ``+ - * / < <= > >=``, ``abs`` and numbers."""

import typing as _typing

from .cells.operations import *  # noqa: F403

if not _typing.TYPE_CHECKING:
    from .cells.operations import __all__ as __all__
