"""Second derivatives of a loss: products of its Hessian with a vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .arrays import Array
from .engine.settings import pinned
from .errors import array_like
from .forward_mode import Chain
from .model import Model
from .recurrent import Recurrent


def hvp(
    layer: Recurrent | Model,
    gradient: Callable[[Array, Array], tuple[Array, Array]],
    x: Array,
    params_dot: Mapping[str, Array],
    state: Any = None,
    lengths: Any = None,
    *,
    mask: Any = None,
    resets: Any = None,
) -> dict[str, Array]:
    """Product of the Hessian of a loss with a vector, without the Hessian.

    Reverse mode over forward mode (Pearlmutter, Neural Computation 6 (1994), 147-160): with v the direction and y_dot
    the outputs' derivative along it, H v is the gradient of ``sum(dL/dy * y_dot)``.

    Parameters
    ----------
    layer : Recurrent or Model
    gradient : callable
        ``gradient(y, y_dot)`` gives ``dL/dy`` and its derivative along ``y_dot``, that is the loss's own Hessian times
        ``y_dot``; both like ``y``.
    x : array
        Input of a call.
    params_dot : mapping of str to array
        The vector: arrays like some of ``layer.params``, zeros for the others.
    state, lengths, mask, resets
        As of a call; resets are to zeros.

    Returns
    -------
    dict of str to array
        H v for every parameter, by name.

    Raises
    ------
    TypeError, ValueError
        If an argument, or what `gradient` gives, has the wrong type, dtype, shape or value.

    Examples
    --------
    The gradient of the squared error is affine in y:

    >>> def gradient(y, y_dot):
    ...     dy = fastrnn.losses.mse(y, target)[1]
    ...     return dy, 2 / y.size * y_dot
    >>> Hv = fastrnn.hvp(layer, gradient, x, v)
    """
    if not isinstance(layer, Recurrent | Model):
        raise TypeError(f"layer: expected a recurrent layer or a Model, got {type(layer).__name__}")
    if not callable(gradient):
        raise TypeError(f"gradient: expected a function, got {type(gradient).__name__}")
    with pinned():
        if isinstance(layer, Model):
            states = layer._states("state", state)
            chain = Chain([(f"{i}.", own) for i, own in enumerate(layer.layers)], params_dot)
        else:
            states, chain = [state], Chain([("", layer)], params_dot)
        flags = {"lengths": lengths, "mask": mask, "resets": resets}
        y, _, y_dot, _ = chain.forward(x, states, None, [None] * len(states), flags, keep=True)
        both = gradient(y, y_dot)
        if not isinstance(both, tuple | list) or len(both) != 2:
            raise TypeError(f"gradient: expected two arrays, dL/dy and its derivative, got {both!r}")
        dy, dy_dot = (array_like(f"gradient(...)[{k}]", d, y.shape, y.dtype, "the output") for k, d in enumerate(both))
        return chain.backward(dy_dot, dy)
