"""Prepared layers: cell and parameters are checked once, then called any number of times.

Layers, functions and adapters are thin over this. A call checks its arguments here and nowhere else, and is one call of
the backend, for a whole stack of layers in one or both directions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from .cells import Cell
from .dispatch import backend_for
from .engine.contract import Array, Given, Layout, Need, Options, Stack
from .engine.dropout import Draw
from .engine.flags import Flags, flags_of
from .engine.plan import make_plan
from .engine.recompute import BothWays, Segments, segment_length
from .engine.settings import Settings, current
from .engine.truncation import Pass, backward, clip_of, passes
from .errors import (
    array_like,
    booleans,
    flag,
    float_array,
    generator,
    known_keys,
    positive_int,
    rows_array,
    sequence_lengths,
    share,
)

__all__ = ["Prepared", "Pullback", "prepare"]

State = Any
"""An array (num_layers*directions, N, H), or a tuple of them for a cell with several states."""

_BIASES = ("bx", "bh")
_ALL = Need()


def prepare(
    cell: Cell,
    params: Mapping[str, Array],
    num_layers: int = 1,
    *,
    bidirectional: bool = False,
    reverse: bool = False,
    batch_first: bool = False,
    dropout: float = 0.0,
    seed: int | None = None,
) -> Prepared:
    """Check a cell and its parameters once, for any number of calls.

    Parameters
    ----------
    cell : Cell
        A built-in cell or one made by :func:`fastrnn.cell`.
    params : mapping of str to array
        For each layer ``Wx_l0`` (D, G*H), ``Wh_l0`` (H, P*H), ``bx_l0`` (G*H,), ``bh_l0`` (P*H,), and the per-unit
        parameters (H,), all of the same dtype, float32 or float64; with ``_l1`` and so on for the layers above, and
        ``_reverse`` appended for the second direction. A bias may be missing or None. The arrays may have any strides,
        such as those of the transpose of PyTorch's (G*H, D), and are not copied: later calls see later changes of
        their elements.
    num_layers : int
        Number of layers in the stack.
    bidirectional : bool
        Whether each layer has a second set of parameters that runs from the last step to the first; the outputs are
        concatenated.
    reverse : bool
        Whether layers of one direction run from the last step to the first.
    batch_first : bool
        Whether inputs and outputs are (N, T, ...); states never are.
    dropout : float
        Probability with which a call with ``training=True`` sets each element that passes between two layers to zero.
    seed : int, optional
        Seed of dropout. The same elements are dropped on every backend and for any number of threads.

    Returns
    -------
    Prepared
        Call it, or its methods.

    Raises
    ------
    TypeError
        If an argument has the wrong type, or the arrays do not have the same dtype, float32 or float64.
    ValueError
        If a parameter is missing or unknown, or has the wrong shape.

    Examples
    --------
    >>> run = fastrnn.prepare(fastrnn.cells.lstm, layer.params)
    >>> y, state = run(x)
    >>> y, state, pullback = run.vjp(x)
    >>> dx, dstate, grads = pullback(dy)
    """
    if not isinstance(cell, Cell):
        raise TypeError(f"cell: expected a Cell (see fastrnn.cell), got {type(cell).__name__}")
    num_layers = positive_int("num_layers", num_layers)
    bidirectional, reverse = flag("bidirectional", bidirectional), flag("reverse", reverse)
    if bidirectional and reverse:
        raise ValueError("reverse: expected False for layers that run in both directions")
    if not isinstance(params, Mapping):
        raise TypeError(f"params: expected a mapping, got {type(params).__name__}")
    given = {name: value for name, value in params.items() if value is not None}
    first = float_array("params['Wx_l0']", given.get("Wx_l0"), 2)
    H, left = divmod(first.shape[1], len(cell.gates))
    if left or not H:
        raise ValueError(
            f"params['Wx_l0']: expected a positive multiple of {len(cell.gates)} columns "
            f"(gates {' '.join(cell.gates)}), got shape {first.shape}"
        )
    shapes = param_shapes(cell, first.shape[0], H, num_layers, True, bidirectional)
    checked = check_params(dict(shapes), given, first.dtype)
    names = parameter_names(cell, num_layers, bidirectional)
    directions = 2 if bidirectional else 1
    layout = Layout(cell, first.shape[0], H, names, directions, reverse, first.dtype, flag("batch_first", batch_first))
    return Prepared(layout, checked, share("dropout", dropout), seed)


def param_shapes(
    cell: Cell, input_size: int, hidden_size: int, num_layers: int, bias: bool, bidirectional: bool
) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Name and shape of every parameter of a stack, lazily: a file may claim more layers than memory holds.

    Parameters
    ----------
    cell : Cell
        The cell.
    input_size, hidden_size, num_layers, bias, bidirectional
        As of :class:`Recurrent`.

    Returns
    -------
    iterable of (str, tuple of int)
        In the order of ``params``.
    """
    ends = ("", "_reverse") if bidirectional else ("",)
    for layer in range(num_layers):
        D = len(ends) * hidden_size if layer else input_size
        for end in ends:
            for name, shape in cell.param_shapes(D, hidden_size).items():
                if bias or name not in _BIASES:
                    yield f"{name}_l{layer}{end}", shape


def parameter_names(cell: Cell, num_layers: int, bidirectional: bool) -> tuple[tuple[str, ...], ...]:
    """The field `names` of a :class:`Layout`."""
    own = ("Wx", "Wh", *_BIASES, *cell.units)
    ends = ("", "_reverse") if bidirectional else ("",)
    return tuple(tuple(f"{name}_l{i}{end}" for name in own) for i in range(num_layers) for end in ends)


def check_params(
    shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any], dtype: np.dtype[Any]
) -> dict[str, Array]:
    """The arrays of `given`, if they are those of `shapes`; biases may be missing."""
    # Compared by the whole name: a per-unit parameter may be called `bhat`.
    optional = [name for name in shapes if name.rpartition("_l")[0] in _BIASES]
    known_keys("params", given, [name for name in shapes if name not in optional], optional)
    return {
        name: array_like(f"params[{name!r}]", given[name], shape, dtype, "params['Wx_l0']")
        for name, shape in shapes.items()
        if name in given
    }


class Prepared:
    """Layers of a cell on given parameters, ready to be called; made by :func:`prepare`.

    Attributes
    ----------
    layout : Layout
        Cell, sizes, names of the parameters.
    params : mapping of str to array
        The arrays themselves.
    dropout : float
        Probability of dropout between layers.
    stacks : dict
        The layers on each backend that has run them, by the name of the backend that was asked for.
    """

    def __init__(self, layout: Layout, params: Mapping[str, Array], dropout: float = 0.0, seed: Any = None) -> None:
        self.layout, self.params, self.dropout = layout, params, dropout
        self._seed = int(generator("seed", seed).integers(1 << 63))
        self._draws = 0
        self.stacks: dict[str, Stack] = {}

    def on(self, params: Mapping[str, Array]) -> Prepared:
        """The same layers on other arrays.

        Parameters
        ----------
        params : mapping of str to array
            As of :func:`prepare`; they are not checked again.

        Returns
        -------
        Prepared
            Its dropout continues the sequence of this one's.
        """
        twin = Prepared(self.layout, params, self.dropout)
        twin._seed, twin._draws = self._seed, self._draws
        return twin

    def __getstate__(self) -> dict[str, Any]:
        # A backend's objects cannot be pickled, and are made again when they are needed.
        return {**self.__dict__, "stacks": {}}

    def __call__(
        self,
        x: Array,
        state: State = None,
        lengths: Any = None,
        *,
        mask: Any = None,
        resets: Any = None,
        reset_state: State = None,
        training: bool = False,
        out: Array | None = None,
    ) -> tuple[Array, State]:
        """Run the layers without saving anything for a backward pass.

        Parameters
        ----------
        x : (T, N, D) array, or (N, T, D) if `batch_first`
            Input of the parameters' dtype, with any strides.
        state : array or tuple of arrays, optional
            Initial states, (num_layers*directions, N, H) each; zeros by default.
        lengths : (N,) integers, optional
            Number of steps of each sequence; see :mod:`fastrnn.functional` for these arguments.
        mask : (T, N) booleans, or (N, T) if `batch_first`, optional
            Which steps are active; the others output zeros, keep the state and pass its gradient on unchanged.
        resets : (T, N) booleans, or (N, T) if `batch_first`, optional
            Where True, the step starts from `reset_state` instead of the state of the step before it.
        reset_state : array or tuple of arrays, optional
            Like `state`, or one row for all sequences, (num_layers*directions, H); zeros by default.
        training : bool
            Whether to apply dropout between layers.
        out : array, optional
            Written with the outputs and returned as ``y``; writable, of its shape and dtype, with any strides.

        Returns
        -------
        y : (T, N, directions*H) array, or (N, T, directions*H)
            Output of the last layer.
        state : array or tuple of arrays
            States after the last step of each sequence, in the form of the argument.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type, dtype, shape or value. Nothing has run then.
        """
        now = current()
        plain = lengths is None and mask is None and resets is None and reset_state is None
        if plain and training is False and out is None:
            done = self.quick(x, state, 3, now, False)
            if done is not None:
                return done[0], done[1]
        given, _ = self._given(x, state, lengths, mask, resets, reset_state, training)
        y, last, _ = self.stack(now).forward(given, now, False)
        return self._output(y, out), self._state_out(last)

    def vjp(
        self,
        x: Array,
        state: State = None,
        lengths: Any = None,
        *,
        mask: Any = None,
        resets: Any = None,
        reset_state: State = None,
        training: bool = False,
        need: Collection[str] = ("x", "state", "params"),
        recompute: int | str | None = None,
    ) -> tuple[Array, State, Pullback]:
        """Run the layers and return their vector-Jacobian product: a function from gradients of outputs to gradients.

        Parameters
        ----------
        x, state, lengths, mask, resets, reset_state, training
            As of a call. The arrays and the parameters are kept, not copied: leave them unchanged until the last call
            of `pullback`.
        need : collection of {"x", "state", "params"}
            The gradients that `pullback` will be asked for; others are not computed.
        recompute : int or "sqrt", optional
            Save only the states after every so many steps and compute the rest again in `pullback`: less memory for one
            more forward pass, and the same gradients to rounding. ``"sqrt"`` stands for ``4 * sqrt(T)`` steps: memory
            beyond inputs, outputs and their gradients then grows as ``sqrt(T)``. A segment goes through all layers; of
            bidirectional layers the outputs are saved as well. By default everything is saved.

        Returns
        -------
        y, state
            As of a call; `y` is read-only.
        pullback : Pullback
            See :class:`Pullback`.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type, dtype, shape or value. Nothing has run then.
        """
        now = current()
        needed = _ALL if need == ("x", "state", "params") else needs(need)
        plain = lengths is None and mask is None and resets is None and reset_state is None and recompute is None
        if plain and (training is False or (training is True and not self.dropout)):
            done = self.quick(x, state, 3, now, True)
            if done is not None:
                y, last, saved = done
                return y, last, Pullback(self, self.stack(now), saved, x.shape[:2], needed, ())
        length = None if recompute is None else segment_length(recompute)
        given, rows = self._given(x, state, lengths, mask, resets, reset_state, training)
        stack = self.stack(now) if length is None else self._in_segments(length, now)
        y, last_, saved = stack.forward(given, now, True)
        y = self._output(y, None)
        y.flags.writeable = False
        return y, self._state_out(last_), Pullback(self, stack, saved, y.shape[:2], needed, rows, given.flags)

    def stack(self, now: Settings) -> Stack:
        """The layers on the backend that `now` names.

        Parameters
        ----------
        now : Settings
            The settings of a call.

        Returns
        -------
        Stack
            Made at the first call for a backend.
        """
        try:
            return self.stacks[now.backend]
        except KeyError:
            backend = backend_for(make_plan(self.layout.cell), now.backend)
            stack = self.stacks[now.backend] = backend.prepare(self.layout, self.params)
            return stack

    def _in_segments(self, length: Callable[[int], int], now: Settings) -> Stack:
        if self.layout.directions == 1:
            return Segments(self.stack(now), self.layout, length)
        backend = backend_for(make_plan(self.layout.cell), now.backend)
        return BothWays(backend.prepare, self.layout, self.params, length)

    def quick(self, x: Any, state: Any, ndim: int, now: Settings, keep: bool) -> tuple[Array, Any, Any] | None:
        """Run the layers by the backend's short cut for plain calls; see :meth:`Stack.quick`.

        Parameters
        ----------
        x, state
            As of a call, unchecked; with `ndim` 2 as of :meth:`step`.
        ndim : int
            Dimensions that `x` should have.
        now : Settings
            The settings of the call.
        keep : bool
            Whether to keep what a backward pass needs.

        Returns
        -------
        tuple or None
            Outputs, last states and what was kept; None if the backend does not take these arguments this way.
        """
        stack = self.stacks.get(now.backend) or self.stack(now)
        return stack.quick(x, state, ndim, now, keep)

    def step(self, x: Array, state: State = None) -> tuple[Array, State]:
        """Run one step, for data that arrive one step at a time.

        Parameters
        ----------
        x : (N, D) array
            Input of the parameters' dtype.
        state : array or tuple of arrays, optional
            States before the step, (num_layers, N, H) each; zeros by default.

        Returns
        -------
        y : (N, H) array
            Output of the last layer.
        state : array or tuple of arrays
            States after the step.

        Raises
        ------
        TypeError
            If an argument has the wrong type or dtype.
        ValueError
            If an argument has the wrong shape, or the layers are bidirectional or reversed: they would begin with the
            last step, which has not arrived.
        """
        now = current()
        done = self.quick(x, state, 2, now, False)
        if done is not None:
            return done[0], done[1]
        if self.layout.directions > 1 or self.layout.reverse:
            kind = "bidirectional" if self.layout.directions > 1 else "reversed"
            raise ValueError(f"step: expected layers that run forward in time, got {kind} ones")
        x = rows_array("x", x, "N", self.layout.input_size, self.layout.dtype)
        given = Given(x[None], self._state_in("state", state, len(x)))
        y, last, _ = self.stack(now).forward(given, now, False)
        return y[0], self._state_out(last)

    def __repr__(self) -> str:
        layout = self.layout
        sizes = f"input_size={layout.input_size}, hidden_size={layout.hidden_size}, num_layers={layout.num_layers}"
        options = {"bidirectional": layout.directions > 1, "reverse": layout.reverse, "batch_first": layout.batch_first}
        shown = "".join(f", {name}=True" for name, on in options.items() if on)
        dropout = f", dropout={self.dropout}" if self.dropout else ""
        return f"Prepared({layout.cell!r}, {sizes}{shown}{dropout}, dtype={layout.dtype})"

    def _given(
        self, x: Any, state: Any, lengths: Any, mask: Any, resets: Any, reset_state: Any, training: bool
    ) -> tuple[Given, tuple[bool, ...]]:
        """The checked arguments of a call, and for each reset state whether it was one row for all sequences."""
        layout = self.layout
        x = rows_array("x", x, "N, T" if layout.batch_first else "T, N", layout.input_size, layout.dtype)
        if layout.batch_first:
            x = x.transpose(1, 0, 2)
        T, N, _ = x.shape
        if T == 0:
            raise ValueError("x: expected at least one step, got a sequence of length 0")
        initial = self._state_in("state", state, N)
        flags = check_flags(T, N, layout.batch_first, lengths, mask, resets)
        if reset_state is not None and resets is None:
            raise ValueError("reset_state: expected resets as well, which say where it enters")
        fresh, rows = self._reset_state_in(reset_state, N)
        draw = None
        if flag("training", training) and self.dropout and layout.num_layers > 1:
            draw = Draw(self._seed, self._draws, self.dropout)
            self._draws += 1
        return Given(x, initial, flags, fresh, draw), rows

    def _state_in(self, name: str, state: Any, N: int) -> tuple[Array, ...] | None:
        layout = self.layout
        if state is None:
            return None
        shape = (len(layout.names), N, layout.hidden_size)
        named = self._named_states(name, state)
        return tuple(array_like(called, array, shape, layout.dtype, "the layer") for called, array in named)

    def _named_states(self, name: str, state: Any) -> list[tuple[str, Any]]:
        """Each state, with its name in error messages."""
        states = self.layout.cell.states
        if len(states) == 1:
            return [(name, state)]
        expected = f"{name}: expected a tuple of {len(states)} arrays ({', '.join(states)})"
        if not isinstance(state, tuple | list):
            raise TypeError(f"{expected}, got {type(state).__name__}")
        if len(state) != len(states):
            raise ValueError(f"{expected}, got {len(state)}")
        return [(f"{name}[{k}]", part) for k, part in enumerate(state)]

    def _reset_state_in(self, state: Any, N: int) -> tuple[tuple[Array, ...] | None, tuple[bool, ...]]:
        layout = self.layout
        if state is None:
            return None, ()
        shape = (len(layout.names), N, layout.hidden_size)
        result, rows = [], []
        for called, part in self._named_states("reset_state", state):
            row = isinstance(part, np.ndarray) and part.ndim == 2
            array = array_like(called, part, (shape[0], shape[2]) if row else shape, layout.dtype, "the layer")
            result.append(np.broadcast_to(array[:, None], shape) if row else array)
            rows.append(row)
        return tuple(result), tuple(rows)

    def _state_out(self, states: tuple[Array, ...]) -> State:
        return states if len(states) > 1 else states[0]

    def _output(self, y: Array, out: Array | None) -> Array:
        if self.layout.batch_first:
            y = y.transpose(1, 0, 2)
        if out is None:
            return y
        writable_like("out", out, y.shape, y.dtype)[...] = y
        return out


class Pullback:
    """The vector-Jacobian product of one call of layers, returned by :meth:`Prepared.vjp`.

    It can be called any number of times, from any thread.
    """

    __slots__ = ("_flags", "_need", "_outer", "_prepared", "_rows", "_saved", "_stack")

    def __init__(
        self,
        prepared: Prepared,
        stack: Stack,
        saved: Any,
        outer: tuple[int, ...],
        need: Need,
        rows: tuple[bool, ...],
        flags: Flags | None = None,
    ) -> None:
        self._flags = flags
        self._prepared, self._stack, self._saved = prepared, stack, saved
        self._outer, self._need, self._rows = outer, need, rows

    def __call__(
        self,
        dy: Array | None = None,
        dstate: State = None,
        *,
        truncate: int | tuple[int, int] | None = None,
        clip_state: tuple[str, float] | None = None,
        per_sequence: bool = False,
        into: Mapping[str, Array] | None = None,
        add: bool = False,
    ) -> tuple[Array | None, State, dict[str, Any]]:
        """Gradients of a loss, by BPTT (Werbos 1990).

        Parameters
        ----------
        dy : (T, N, directions*H) array, or (N, T, directions*H), optional
            Gradient of the loss with respect to the outputs; None for zeros.
        dstate : array or tuple of arrays, optional
            Gradient with respect to the last states, in their form; None for zeros.
        truncate : int or pair of int, optional
            Cut the gradient after every `truncate` active steps of a sequence (truncated BPTT; Williams & Peng 1990).
            With ``(k1, k2)``, the losses of each block of k1 steps go back over the k2 steps up to the block's end; see
            :mod:`fastrnn.functional`.
        clip_state : ("value", float) or ("norm", float), optional
            At every active step, clip the gradient of the loss with respect to the layer's states, the step's own
            outputs included, before it goes back through the step: each element to that magnitude, or the gradient of
            all states of a sequence to that Euclidean norm. The gradient of the initial states is not clipped.
        per_sequence : bool
            Whether to give each sequence its own gradient of every parameter, (N, ...), as N calls of one sequence
            would: for differential privacy, or to see what an example does.
        into : mapping of str to array, optional
            Arrays that the gradients of the parameters are written to, by name; they may have any strides.
        add : bool
            Whether to add the gradients to the elements of `into` instead: once, when all have been computed.

        Returns
        -------
        dx : (T, N, D) array, or (N, T, D)
            Gradient with respect to the input; None if not needed.
        dstate : array or tuple of arrays
            Gradient with respect to the initial states; None if not needed.
        grads : dict
            Gradient of each parameter by name, unless not needed. If there was a `reset_state`, its gradient is
            ``grads["reset_state"]``, in its form.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type, dtype, shape or value. Nothing has run and no array has changed then.
        """
        plain = truncate is None and clip_state is None and per_sequence is False
        if plain and (add is False or add is True):
            done = self._stack.quick_backward(self._saved, dy, dstate, self._need, into, add)
            if done is not None:
                return done
        prepared, layout = self._prepared, self._prepared.layout
        N = self._outer[0 if layout.batch_first else 1]
        if dy is not None:
            shape = (*self._outer, layout.directions * layout.hidden_size)
            dy = array_like("dy", dy, shape, layout.dtype, "the layer")
            if layout.batch_first:
                dy = dy.transpose(1, 0, 2)
        dlast = prepared._state_in("dstate", dstate, N)
        ways = self._passes(truncate)
        per_sequence = flag("per_sequence", per_sequence)
        options = Options(None, clip_of(clip_state), per_sequence)
        given = {} if into is None else self._check_into(into, (N,) if per_sequence else ())
        add = flag("add", add)
        found = backward(self._stack, self._saved, dy, dlast, ways, self._need, options)
        dx = found.dx
        if dx is not None and layout.batch_first:
            dx = dx.transpose(1, 0, 2)
        grads: dict[str, Any] = found.grads
        for name, array in given.items():
            if add:
                array += grads[name]
            else:
                array[...] = grads[name]
            grads[name] = array
        if found.dreset is not None and self._rows:
            each = zip(found.dreset, self._rows, strict=True)
            if per_sequence:
                fresh = tuple(np.ascontiguousarray(d.swapaxes(0, 1)) if row else d for d, row in each)
            else:
                fresh = tuple(d.sum(axis=1) if row else d for d, row in each)
            grads["reset_state"] = prepared._state_out(fresh)
        return dx, None if found.dstate is None else prepared._state_out(found.dstate), grads

    def __repr__(self) -> str:
        need = ", ".join(name for name, needed in self._need._asdict().items() if needed)
        return f"Pullback(shape={self._outer}, need={{{need}}}, {self._prepared!r})"

    def _passes(self, truncate: Any) -> Iterator[Pass]:
        """The passes back through this call that `truncate` asks for."""
        layout = self._prepared.layout
        T, N = self._outer[::-1] if layout.batch_first else self._outer
        return passes(truncate, self._flags, T, N, layout.reverse, layout.directions)

    def _check_into(self, into: Any, each: tuple[int, ...]) -> dict[str, Array]:
        if not isinstance(into, Mapping):
            raise TypeError(f"into: expected a mapping, got {type(into).__name__}")
        params = self._prepared.params if self._need.params else {}
        unknown = [name for name in into if name not in params]
        if unknown:
            expected = ", ".join(params) or "nothing, as params are not needed"
            raise ValueError(f"into: expected some of {expected}; unknown {', '.join(map(str, unknown))}")
        return {
            name: writable_like(f"into[{name!r}]", array, (*each, *params[name].shape), params[name].dtype)
            for name, array in into.items()
        }


def needs(need: Any) -> Need:
    """The gradients that `need` names, as flags."""
    names = Need._fields
    if isinstance(need, str) or not isinstance(need, Collection):
        raise TypeError(f"need: expected a set of {', '.join(names)}, got {need!r}")
    unknown = [name for name in need if name not in names]
    if unknown:
        raise ValueError(f"need: expected some of {', '.join(names)}, got {', '.join(map(repr, unknown))}")
    return Need(*(name in need for name in names))


def writable_like(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """`value`, if it is an array of `shape` and `dtype` that can be written to."""
    array = array_like(name, value, shape, dtype, "the layer")
    if not array.flags.writeable:
        raise ValueError(f"{name}: expected an array that can be written to, got a read-only one")
    return array


def check_flags(T: int, N: int, batch_first: bool, lengths: Any, mask: Any, resets: Any) -> Flags | None:
    """The table of flags of a call of T steps and N sequences, from arguments as in :mod:`fastrnn.functional`."""
    if lengths is None and mask is None and resets is None:
        return None
    outer = (N, T) if batch_first else (T, N)
    given = [
        None if value is None else booleans(name, value, outer) for name, value in (("mask", mask), ("resets", resets))
    ]
    by_time = [value.T if value is not None and batch_first else value for value in given]
    return flags_of(T, N, sequence_lengths("lengths", lengths, N, T), *by_time)
