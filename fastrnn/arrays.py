"""The arrays of a layer or a model by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from .errors import array_like

Array = NDArray[Any]


class Arrays(MutableMapping[str, Array]):
    """A mapping from names to arrays that are never replaced, so that an optimizer can hold them.

    ``arrays[name] = value``, `update` and ``|=`` copy values into the existing arrays, after all values have been
    checked. Names cannot be added or deleted.

    Parameters
    ----------
    called : str
        Name of the mapping in error messages.
    own : dict of str to array
        The arrays.

    Raises
    ------
    KeyError
        If a value is assigned to an unknown name.
    TypeError
        If a value is not an array of the existing array's dtype, or a name is deleted.
    ValueError
        If a value has another shape.
    """

    def __init__(self, called: str, own: dict[str, Array]) -> None:
        self._called = called
        # Public, as compiled code takes nothing but a dict.
        self.own = own

    def __getitem__(self, name: str) -> Array:
        return self.own[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.own)

    def __len__(self) -> int:
        return len(self.own)

    def __setitem__(self, name: str, value: Array) -> None:
        array = self._checked(name, value)
        # After `arrays[name] += 1` the value is the array itself, and up to date.
        if array is not self.own[name]:
            self.own[name][...] = array

    def __delitem__(self, name: str) -> NoReturn:
        raise TypeError(f"{self._called}: expected to keep all of {', '.join(self.own)}, got a deletion")

    def update(self, new: Any = (), /, **more: Array) -> None:
        """Copy values from a mapping or from pairs of names and arrays."""
        # Copied twice: a value may be another one of these arrays.
        checked = {name: np.array(self._checked(name, value)) for name, value in dict(new, **more).items()}
        for name, array in checked.items():
            self.own[name][...] = array

    def assign(self, new: Mapping[str, Array]) -> None:
        """Copy values from a mapping that has every name."""
        if new is self:
            return
        if not isinstance(new, Mapping):
            raise TypeError(f"{self._called}: expected a mapping of arrays, got {type(new).__name__}")
        missing = [name for name in self.own if name not in new]
        if missing:
            raise ValueError(f"{self._called}: expected {', '.join(self.own)}; missing {', '.join(missing)}")
        self.update(new)

    def __ior__(self, new: Any) -> Arrays:
        self.update(new)
        return self

    def __repr__(self) -> str:
        return repr(self.own)

    def _checked(self, name: str, value: Any) -> Array:
        if name not in self.own:
            raise KeyError(f"{self._called}: expected one of {', '.join(self.own)}, got {name!r}")
        own = self.own[name]
        return array_like(f"{self._called}[{name!r}]", value, own.shape, own.dtype, "the layer")


class Trainable:
    """Base class for parameters and gradients: assigning either attribute copies values into the existing arrays."""

    _params: Arrays
    _grads: Arrays

    @property
    def params(self) -> Arrays:
        """The parameters by name."""
        return self._params

    @params.setter
    def params(self, new: Mapping[str, Array]) -> None:
        self._params.assign(new)

    @property
    def grads(self) -> Arrays:
        """The gradients of the parameters, by the same names."""
        return self._grads

    @grads.setter
    def grads(self, new: Mapping[str, Array]) -> None:
        self._grads.assign(new)
