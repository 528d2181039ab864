"""Layers: a function with its parameters and their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .arrays import Array, Arrays, Trainable
from .engine.memory import aligned, writable
from .errors import FLOATS, array_like, as_array, flag, generator, known_keys, positive_int, rows_array
from .representation import as_call

__all__ = ["Embedding", "Layer", "Linear"]


def float_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """`dtype`, if it is float32 or float64."""
    try:
        result = np.dtype(dtype)
    except TypeError as error:
        raise TypeError(f"dtype: expected float32 or float64, got {dtype!r}") from error
    if result not in FLOATS:
        raise TypeError(f"dtype: expected float32 or float64, got {result}")
    return result


def uniform(rng: np.random.Generator, shape: tuple[int, ...], size: int, dtype: np.dtype[Any]) -> Array:
    """Initial values as PyTorch draws them, uniform in ``±1/sqrt(size)``."""
    bound = 1.0 / math.sqrt(size)
    values = aligned(shape, dtype)
    values[...] = rng.uniform(-bound, bound, shape)
    return values


class Layer(Trainable):
    """Base class of the layers: parameters, their gradients, and their exchange with PyTorch.

    A pickle or copy of a layer holds its parameters, gradients and random state, but not what :meth:`forward` saved.

    Parameters
    ----------
    params : dict of str to array
        The parameters by name; the layer holds these very arrays.

    Attributes
    ----------
    params : mapping of str to array
        Updated in place by an optimizer. Assigning an item, or a mapping with every name, checks the values and copies
        them into the layer's own arrays.
    grads : mapping of str to array
        Sums of the gradients of every ``backward`` since :meth:`zero_grad`, with the keys and shapes of `params`;
        assignment works as for `params`. A ``backward`` that raises adds nothing.
    """

    def __init__(self, params: dict[str, Array]) -> None:
        self._params = Arrays("params", params)
        self._grads = Arrays("grads", {name: np.zeros_like(value) for name, value in params.items()})
        self._saved: Any = None
        self._later: list[Callable[[], None]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_saved": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for arrays in (self._params, self._grads):
            arrays.own = {name: writable(array) for name, array in arrays.items()}

    def __copy__(self) -> Layer:
        # Not by __setstate__, which replaces read-only arrays: a shallow copy shares them.
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__getstate__())
        return twin

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        for grad in self.grads.values():
            grad.fill(0)

    def torch_name(self, name: str) -> tuple[str, bool]:
        """PyTorch's name of a parameter.

        Parameters
        ----------
        name : str
            A key of `params`.

        Returns
        -------
        torch_name : str
            The key in a ``state_dict``.
        transposed : bool
            Whether PyTorch's array is the transpose.
        """
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """The constructor's arguments.

        Returns
        -------
        dict
            By name, of types that JSON can represent.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Array]:
        """Copies of the parameters under PyTorch's names and in its layouts.

        Returns
        -------
        dict of str to array
            C-contiguous arrays that ``torch.nn.Module.load_state_dict`` takes after ``torch.from_numpy``.
        """
        result = {}
        for name, value in self.params.items():
            theirs, transposed = self.torch_name(name)
            result[theirs] = np.array(value.T if transposed else value, order="C")
        return result

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Copy parameters from a ``state_dict`` with PyTorch's names and layouts.

        Parameters
        ----------
        state_dict : mapping of str to array-like
            NumPy arrays or CPU tensors of a floating-point dtype; they are converted to the layer's dtype.

        Raises
        ------
        TypeError
            If a value is not floating-point.
        ValueError
            If a name is missing or unknown, or a shape differs. Nothing has been copied then.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict: expected a mapping, got {type(state_dict).__name__}")
        known_keys("state_dict", state_dict, [self.torch_name(name)[0] for name in self.params], ())
        new = {}
        for name, value in self.params.items():
            theirs, transposed = self.torch_name(name)
            array = _plain_array(f"state_dict[{theirs!r}]", state_dict[theirs])
            if array.dtype.kind != "f":
                raise TypeError(f"state_dict[{theirs!r}]: expected a floating-point dtype, got {array.dtype}")
            array = array.T if transposed else array
            if array.shape != value.shape:
                expected = value.T.shape if transposed else value.shape
                got = array.T.shape if transposed else array.shape
                raise ValueError(f"state_dict[{theirs!r}]: expected shape {expected}, got {got}")
            new[name] = array
        for name, array in new.items():
            self.params[name][...] = array

    def _add(self, grads: Mapping[str, Array]) -> None:
        """Add the gradients that ``backward`` has computed to ``grads``."""
        self._at_the_end(partial(_add_to, self._grads.own, grads))

    def _at_the_end(self, add: Callable[[], None]) -> None:
        """Call `add` now, or at the end of the ``backward`` of a model: see :func:`added_together`."""
        if self._later is None:
            add()
        else:
            self._later.append(add)

    def _require_saved(self) -> Any:
        if self._saved is None:
            name = type(self).__name__
            raise RuntimeError(f"{name}.backward: call forward first; what it saves serves one backward")
        return self._saved

    def __repr__(self) -> str:
        return as_call(self, always=("dtype",))


@contextmanager
def added_together(layers: Sequence[Layer]) -> Iterator[None]:
    """Add the gradients of several layers' ``backward`` once all have been computed; none of them if one raises."""
    later: list[Callable[[], None]] = []
    for layer in layers:
        layer._later = later
    try:
        yield
    finally:
        for layer in layers:
            layer._later = None
    for add in later:
        add()


def _add_to(sums: dict[str, Array], new: Mapping[str, Array]) -> None:
    for name, array in new.items():
        sums[name] += array


def _plain_array(name: str, value: Any) -> Array:
    # A tensor that requires a gradient refuses conversion to NumPy unless it is detached.
    return as_array(name, value.detach() if hasattr(value, "detach") else value)


class Linear(Layer):
    """Affine map of the last axis, ``y = x W + b``.

    Parameters
    ----------
    input_size, output_size : int
        D and O. The parameters are ``W`` (D, O) and, with `bias`, ``b`` (O,).
    bias : bool
        Whether there is a ``b``.
    dtype : {"float32", "float64"}
        Of the parameters and of all arrays that the layer takes.
    seed : int, optional
        Seed of the initial values, uniform in ``±1/sqrt(D)``.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        bias: bool = True,
        dtype: DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        self.input_size = positive_int("input_size", input_size)
        self.output_size = positive_int("output_size", output_size)
        self.bias, self.dtype = flag("bias", bias), float_dtype(dtype)
        rng = generator("seed", seed)
        shapes = self.param_shapes(self.input_size, self.output_size, self.bias)
        super().__init__({name: uniform(rng, shape, self.input_size, self.dtype) for name, shape in shapes.items()})

    @staticmethod
    def param_shapes(input_size: int, output_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter of such a layer.

        Parameters
        ----------
        input_size, output_size, bias
            As of the constructor.

        Returns
        -------
        dict
            Shapes by the names of the parameters.
        """
        return {"W": (input_size, output_size)} | ({"b": (output_size,)} if bias else {})

    def __call__(self, x: Array) -> Array:
        """Apply the map.

        Parameters
        ----------
        x : (..., D) array
            Input of the layer's dtype.

        Returns
        -------
        (..., O) array
            ``x W + b``.

        Raises
        ------
        TypeError, ValueError
            If `x` has the wrong type, dtype or shape.
        """
        x = rows_array("x", x, "...", self.input_size, self.dtype)
        # One product over all rows is quicker than a stack of small ones.
        y: Array = x.reshape(-1, self.input_size) @ self.params["W"]
        if self.bias:
            y += self.params["b"]
        return y.reshape(*x.shape[:-1], self.output_size)

    def forward(self, x: Array) -> Array:
        """Apply the map and save `x` for one :meth:`backward`.

        Parameters
        ----------
        x : (..., D) array
            Input of the layer's dtype. The array itself is kept: leave it unchanged until :meth:`backward`.

        Returns
        -------
        (..., O) array
            ``x W + b``.

        Raises
        ------
        TypeError, ValueError
            If `x` has the wrong type, dtype or shape.
        """
        y = self(x)
        self._saved = x
        return y

    def backward(self, dy: Array) -> Array:
        """Gradient with respect to ``x``; those with respect to the parameters are added to ``grads``.

        Parameters
        ----------
        dy : (..., O) array
            Gradient of the loss with respect to the output.

        Returns
        -------
        (..., D) array
            ``dy W^T``.

        Raises
        ------
        RuntimeError
            If there was no :meth:`forward` since the last one.
        TypeError, ValueError
            If `dy` has the wrong type, dtype or shape.
        """
        x = self._require_saved()
        dy = array_like("dy", dy, (*x.shape[:-1], self.output_size), self.dtype, "the layer")
        rows, d = x.reshape(-1, self.input_size), dy.reshape(-1, self.output_size)
        grads = {"W": rows.T @ d}
        if self.bias:
            grads["b"] = d.sum(axis=0)
        dx: Array = d @ self.params["W"].T
        self._saved = None
        self._add(grads)
        return dx.reshape(x.shape)

    def torch_name(self, name: str) -> tuple[str, bool]:
        """See :meth:`Layer.torch_name`."""
        return ("weight", True) if name == "W" else ("bias", False)

    def config(self) -> dict[str, Any]:
        """See :meth:`Layer.config`."""
        return {
            "input_size": self.input_size,
            "output_size": self.output_size,
            "bias": self.bias,
            "dtype": self.dtype.name,
        }


class Embedding(Layer):
    """A vector for every integer: the rows of ``W`` (num_embeddings, embedding_size).

    Parameters
    ----------
    num_embeddings : int
        Number of vectors; the integers are from 0 up to but not including this.
    embedding_size : int
        Elements of a vector.
    dtype : {"float32", "float64"}
        Of the vectors.
    seed : int, optional
        Seed of the initial values, standard normal.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_size: int,
        *,
        dtype: DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        self.num_embeddings = positive_int("num_embeddings", num_embeddings)
        self.embedding_size = positive_int("embedding_size", embedding_size)
        self.dtype = float_dtype(dtype)
        rng = generator("seed", seed)
        shapes = self.param_shapes(self.num_embeddings, self.embedding_size)
        super().__init__({name: rng.standard_normal(shape).astype(self.dtype) for name, shape in shapes.items()})

    @staticmethod
    def param_shapes(num_embeddings: int, embedding_size: int) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter of such a layer.

        Parameters
        ----------
        num_embeddings, embedding_size
            As of the constructor.

        Returns
        -------
        dict
            Shapes by the names of the parameters.
        """
        return {"W": (num_embeddings, embedding_size)}

    def __call__(self, x: Array) -> Array:
        """Look up the vectors.

        Parameters
        ----------
        x : (...) integer array
            Indices of rows of ``W``.

        Returns
        -------
        (..., embedding_size) array
            The rows.

        Raises
        ------
        TypeError
            If `x` does not hold integers.
        ValueError
            If an integer is out of range.
        """
        x = as_array("x", x)
        if x.dtype.kind not in "iu":
            raise TypeError(f"x: expected integers, got dtype {x.dtype}")
        if x.size and (x.min() < 0 or x.max() >= self.num_embeddings):
            raise ValueError(f"x: expected values from 0 to {self.num_embeddings - 1}, got {x.min()} to {x.max()}")
        y: Array = self.params["W"][x]
        return y

    def forward(self, x: Array) -> Array:
        """Look up the vectors and save a copy of `x` for one :meth:`backward`.

        Parameters
        ----------
        x : (...) integer array
            Indices of rows of ``W``.

        Returns
        -------
        (..., embedding_size) array
            The rows.

        Raises
        ------
        TypeError, ValueError
            As for a call.
        """
        y = self(x)
        self._saved = np.array(x)
        return y

    def backward(self, dy: Array) -> None:
        """Add the gradient with respect to ``W`` to ``grads``; there is none with respect to integers.

        Parameters
        ----------
        dy : (..., embedding_size) array
            Gradient of the loss with respect to the output.

        Raises
        ------
        RuntimeError
            If there was no :meth:`forward` since the last one.
        TypeError, ValueError
            If `dy` has the wrong type, dtype or shape.
        """
        x = self._require_saved()
        dy = array_like("dy", dy, (*x.shape, self.embedding_size), self.dtype, "the layer")
        self._saved = None
        self._at_the_end(lambda: np.add.at(self.grads["W"], x.reshape(-1), dy.reshape(-1, self.embedding_size)))

    def torch_name(self, name: str) -> tuple[str, bool]:
        """See :meth:`Layer.torch_name`."""
        return "weight", False

    def config(self) -> dict[str, Any]:
        """See :meth:`Layer.config`."""
        return {
            "num_embeddings": self.num_embeddings,
            "embedding_size": self.embedding_size,
            "dtype": self.dtype.name,
        }
