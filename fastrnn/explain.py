"""The path that a call takes, in words: why it is as fast as it is."""

from __future__ import annotations

import numpy as np

from .dispatch import backend_for
from .engine.contract import Array, Backend, Call
from .engine.plan import make_plan
from .engine.precision import PARTS
from .engine.settings import Settings, current
from .engine.stack import names_of
from .engine.threads import threads_up_to, work_of
from .model import Model
from .recurrent import Recurrent

__all__ = ["explain"]


def explain(layer: Recurrent | Model, x: Array) -> str:
    """Describe the path that a layer or a model takes for an input, and why; nothing is run.

    Parameters
    ----------
    layer : Recurrent or Model
        Of a model, its recurrent layers are explained.
    x : (T, N, ...) array, or (N, T, ...) with `batch_first`
        An input as a call would get it. Only its shape and strides matter, not its elements.

    Returns
    -------
    str
        For each recurrent layer the backend, the instruction set, the number of threads and the precision; for the
        forward pass and for BPTT what is packed, how the input is projected, and how the work is divided.

    Raises
    ------
    TypeError
        If `layer` is neither of these, or `x` is not an array.
    ValueError
        If `x` has fewer than two axes, or no step.

    Examples
    --------
    >>> layer = fastrnn.LSTM(128, 256)
    >>> print(fastrnn.explain(layer, np.zeros((100, 32, 128), np.float32)))
    """
    if not isinstance(layer, Recurrent | Model):
        raise TypeError(f"layer: expected a recurrent layer or a Model, got {type(layer).__name__}")
    if not isinstance(x, np.ndarray):
        raise TypeError(f"x: expected a NumPy array, got {type(x).__name__}")
    if x.ndim < 2:
        raise ValueError(f"x: expected at least the axes T and N, got shape {x.shape}")
    layers = [layer] if isinstance(layer, Recurrent) else [one for one in layer.layers if isinstance(one, Recurrent)]
    now = current()
    return "\n".join(line for one in layers for line in _explain_layer(one, x, now))


def _explain_layer(layer: Recurrent, given: Array, now: Settings) -> list[str]:
    T, N = (given.shape[1], given.shape[0]) if layer.batch_first else given.shape[:2]
    if T == 0:
        raise ValueError(f"x: expected at least one step, got shape {given.shape}")
    backend = backend_for(make_plan(layer.cell), now.backend)
    lines = [f"{type(layer).__name__}, cell {layer.cell.name}: {_backend(backend, now.backend)}"]
    for number in range(layer.num_layers):
        D = layer.input_size if number == 0 else layer.directions * layer.hidden_size
        # The output of another layer, or of an embedding, is contiguous.
        own = number == 0 and given.shape[2:] == (D,) and given.dtype == layer.dtype
        x = given.swapaxes(0, 1) if layer.batch_first else given
        lines += _explain_call(layer, backend, number, x if own else np.empty((T, N, D), layer.dtype), now)
    if layer.bidirectional:
        lines.append("two directions: one after the other, or in a thread each where the batch cannot be divided")
    return lines


def _backend(backend: Backend, wanted: str) -> str:
    target = getattr(backend, "target", "")
    text = f"backend {backend.name}{f', instruction set {target}' if target else ''}"
    return text if backend.name == wanted else f"{text} ({wanted} does not have this cell)"


def _explain_call(layer: Recurrent, backend: Backend, number: int, x: Array, now: Settings) -> list[str]:
    T, N, D = x.shape
    H, plan = layer.hidden_size, make_plan(layer.cell)
    state = np.empty((N, H), layer.dtype)
    names = names_of(layer._layout(), number * layer.directions)
    params = {"Wh": np.empty((H, 0), layer.dtype)}
    params |= {name: layer.params[key] for name, key in names.items() if key in layer.params}
    work = work_of(plan, x.shape, H)
    threads, bf16_parts = threads_up_to(now.num_threads)(work), PARTS[now.matmul_precision]
    call = Call(plan, x, (state,) * len(layer.cell.states), params, False, threads, bf16_parts)
    lines = [
        f"  layer {number}: T={T} steps, N={N} sequences, D={D} features, H={H} hidden units, {layer.dtype}: "
        f"{work:,} multiply-adds forward; may take {call.threads} of {now.num_threads} threads, "
        f"precision {now.matmul_precision!r}"
    ]
    if copied := backend.copies(call):
        lines.append(f"    copied first, as elements are not contiguous: {', '.join(copied)}")
    for what, path in (("forward", backend.forward_path(call)), ("BPTT", backend.backward_path(call))):
        lines += [f"    {what}", *(f"      {line}" for line in path.describe())]
    return lines
