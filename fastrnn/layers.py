"""Layers: parameters beside the function that uses them, and that function's gradient."""

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
    """Uniform in ``±1/sqrt(size)``, PyTorch's initial values."""
    bound = 1.0 / math.sqrt(size)
    values = aligned(shape, dtype)
    values[...] = rng.uniform(-bound, bound, shape)
    return values


class Layer(Trainable):
    """Parameters, their gradients, and their exchange with PyTorch.

    A pickle or copy of a layer has its parameters, gradients and random state, not what a forward pass kept.

    Attributes
    ----------
    params : mapping of str to array
        Updated in place by an optimizer. Assignment, to an item or of a mapping of all, checks and copies into the
        layer's own array.
    grads : mapping of str to array
        Sums of the gradients of every ``backward`` since :meth:`zero_grad`; same keys and shapes, and assignment as
        for `params`. A ``backward`` that does not end adds nothing.
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
        # Past __setstate__: the arrays are the same, read-only or not.
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__getstate__())
        return twin

    def zero_grad(self) -> None:
        """Set every gradient to zero."""
        for grad in self.grads.values():
            grad.fill(0)

    def torch_name(self, name: str) -> tuple[str, bool]:
        """PyTorch's name of parameter `name`, and whether its layout is the transpose."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON can hold them."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Array]:
        """Copies of the parameters under PyTorch's names and in its layouts."""
        result = {}
        for name, value in self.params.items():
            theirs, transposed = self.torch_name(name)
            result[theirs] = np.array(value.T if transposed else value, order="C")
        return result

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Copy parameters from `state_dict`, which has PyTorch's names and layouts.

        Parameters
        ----------
        state_dict : mapping of str to array-like
            NumPy arrays or CPU tensors, floating-point, converted to the layer's dtype.

        Raises
        ------
        TypeError
            If a value is not floating-point.
        ValueError
            If a name is missing or unknown, or a shape differs. Nothing is copied then.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict: expected a mapping, got {type(state_dict).__name__}")
        known_keys("state_dict", state_dict, [self.torch_name(name)[0] for name in self.params], ())
        new = {}
        for name, value in self.params.items():
            theirs, transposed = self.torch_name(name)
            array = _plain_array(f"state_dict[{theirs!r}]", state_dict[theirs])
            if array.dtype.kind != "f":
                raise TypeError(f"state_dict[{theirs!r}]: expected floating-point numbers, got {array.dtype}")
            array = array.T if transposed else array
            if array.shape != value.shape:
                expected = value.T.shape if transposed else value.shape
                got = array.T.shape if transposed else array.shape
                raise ValueError(f"state_dict[{theirs!r}]: expected shape {expected}, got {got}")
            new[name] = array
        for name, array in new.items():
            self.params[name][...] = array

    def _add(self, grads: Mapping[str, Array]) -> None:
        """Add what ``backward`` has computed to ``grads``."""
        self._at_the_end(partial(_add_to, self._grads.own, grads))

    def _at_the_end(self, add: Callable[[], None]) -> None:
        """Call `add`, now or when the ``backward`` of a whole model is done: see :func:`added_together`."""
        if self._later is None:
            add()
        else:
            self._later.append(add)

    def _take_saved(self) -> Any:
        if self._saved is None:
            name = type(self).__name__
            raise RuntimeError(f"{name}.backward: call forward first; it keeps what one backward needs and uses up")
        return self._saved


@contextmanager
def added_together(layers: Sequence[Layer]) -> Iterator[None]:
    """Gradients of several layers' ``backward`` are added when all have been computed; none if one raises."""
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
    # A tensor that requires its gradient refuses conversion; its detached self does not.
    return as_array(name, value.detach() if hasattr(value, "detach") else value)


class Linear(Layer):
    """Affine map ``y = x W + b`` of the last axis.

    Parameters
    ----------
    input_size, output_size : int
        D and O. Parameters ``W`` (D, O) and, with `bias`, ``b`` (O,).
    bias : bool
    dtype : {"float32", "float64"}
    seed : int, optional
        For the initial values, uniform in ``±1/sqrt(D)``.
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
        """Shape of every parameter of such a layer, by name."""
        return {"W": (input_size, output_size)} | ({"b": (output_size,)} if bias else {})

    def __call__(self, x: Array) -> Array:
        """`x` (..., D) to (..., O)."""
        x = rows_array("x", x, "...", self.input_size, self.dtype)
        # One product over all rows; a stack of small ones would be slower.
        y: Array = x.reshape(-1, self.input_size) @ self.params["W"]
        if self.bias:
            y += self.params["b"]
        return y.reshape(*x.shape[:-1], self.output_size)

    def forward(self, x: Array) -> Array:
        """The same, keeping `x` itself for :meth:`backward`: leave it unchanged until then."""
        y = self(x)
        self._saved = x
        return y

    def backward(self, dy: Array) -> Array:
        """Gradient with respect to ``x``; adds those of the parameters to ``grads``."""
        x = self._take_saved()
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
    """A vector for every integer: rows of ``W`` (num_embeddings, embedding_size).

    Parameters
    ----------
    num_embeddings, embedding_size : int
    dtype : {"float32", "float64"}
    seed : int, optional
        For the initial values, standard normal.
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
        """Shape of every parameter of such a layer, by name."""
        return {"W": (num_embeddings, embedding_size)}

    def __call__(self, x: Array) -> Array:
        """`x` integers of any shape to vectors (..., embedding_size)."""
        x = as_array("x", x)
        if x.dtype.kind not in "iu":
            raise TypeError(f"x: expected integers, got dtype {x.dtype}")
        if x.size and (x.min() < 0 or x.max() >= self.num_embeddings):
            raise ValueError(f"x: expected values from 0 to {self.num_embeddings - 1}, got {x.min()} to {x.max()}")
        y: Array = self.params["W"][x]
        return y

    def forward(self, x: Array) -> Array:
        """The same, keeping a copy of `x` for :meth:`backward`."""
        y = self(x)
        self._saved = np.array(x)
        return y

    def backward(self, dy: Array) -> None:
        """Adds the gradient of ``W`` to ``grads``; integers have none."""
        x = self._take_saved()
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
