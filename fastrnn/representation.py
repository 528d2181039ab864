"""What `repr` shows of layers and optimizers: the call that would make them."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

import numpy as np


def as_call(made: Any, *, first: str = "", always: Collection[str] = ()) -> str:
    """``Class(first, name=value, ...)``: the arguments that `made` was made with, but for those with their default.

    Parameters
    ----------
    made : object
        An object that keeps its constructor's arguments under their own names.
    first : str
        What stands for the first argument, instead of its value.
    always : collection of str
        Arguments that are shown even if they have their default value.
    """
    arguments = list(inspect.signature(type(made)).parameters.items())
    shown = [first] if first else []
    for name, argument in arguments[len(shown) :]:
        if hasattr(made, name):
            value = getattr(made, name)
            if name in always or value != argument.default:
                shown.append(f"{name}={value if isinstance(value, np.dtype) else repr(value)}")
    return f"{type(made).__name__}({', '.join(shown)})"
