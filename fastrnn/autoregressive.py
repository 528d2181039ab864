"""The autoregressive model: a window over the last steps, with the face of a recurrent layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import DTypeLike

from .arrays import Array
from .engine.flags import CUT, HOLD, RESET, Flags, with_cuts
from .engine.truncation import Pass, passes
from .errors import array_like, flag, generator, positive_int, rows_array, sequence_lengths
from .layers import Layer, float_dtype, uniform
from .prepared import check_flags


class _Saved(NamedTuple):
    """A call, by time: `x` (T, N, D), `state` and `reset_state` (order-1, N, D) or None, the table of flags."""

    x: Array
    state: Array | None
    flags: Flags | None
    reset_state: Array | None
    reset_is_row: bool


class AR(Layer):
    """Autoregressive model of order τ: each output is an affine function of the last τ inputs.

    ``y_t = W[τ-1] x_t + W[τ-2] x_{t-1} + ... + W[0] x_{t-τ+1} + b`` (Yule 1927; Box & Jenkins 1970, eq. 3.1.4): a
    causal one-dimensional convolution, and so is its backward pass. Where a recurrent layer carries a state, this one
    carries the τ-1 inputs before the current one. After :meth:`fit`, the output at step t is the forecast of step t+1.

    Parameters
    ----------
    order : int
        τ, the number of steps in the window.
    input_size, output_size : int
        D and O; O is D by default, as a forecast needs it.
    bias : bool
        Whether there is a constant ``b``.
    batch_first : bool
        Whether inputs and outputs are (N, T, ...); states never are.
    dtype : {"float32", "float64"}
        Of the parameters and of all arrays that the layer takes.
    seed : int, optional
        Seed of the initial values, uniform in ``±1/sqrt(τ D)``.

    Attributes
    ----------
    params, grads : mapping of str to array
        ``W`` (order, D, O), the oldest step of the window first, and ``b`` (O,): the transposes of the weight and bias
        of ``torch.nn.Conv1d(D, O, order)``. Assignment works as for every :class:`Layer`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value.
    """

    def __init__(
        self,
        order: int,
        input_size: int,
        output_size: int | None = None,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dtype: DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        self.order = positive_int("order", order)
        self.input_size = positive_int("input_size", input_size)
        self.output_size = self.input_size if output_size is None else positive_int("output_size", output_size)
        self.bias, self.batch_first = flag("bias", bias), flag("batch_first", batch_first)
        self.dtype = float_dtype(dtype)
        rng = generator("seed", seed)
        shapes = self.param_shapes(self.order, self.input_size, self.output_size, self.bias)
        fan_in = self.order * self.input_size
        super().__init__({name: uniform(rng, shape, fan_in, self.dtype) for name, shape in shapes.items()})

    @staticmethod
    def param_shapes(order: int, input_size: int, output_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter of such a layer.

        Parameters
        ----------
        order, input_size, output_size, bias
            As of the constructor.

        Returns
        -------
        dict
            Shapes by the names of the parameters.
        """
        return {"W": (order, input_size, output_size)} | ({"b": (output_size,)} if bias else {})

    def __call__(
        self,
        x: Array,
        state: Array | None = None,
        lengths: Any = None,
        *,
        mask: Any = None,
        resets: Any = None,
        reset_state: Array | None = None,
    ) -> tuple[Array, Array]:
        """Slide the window over sequences without saving anything for a backward pass.

        Parameters
        ----------
        x : (T, N, D) array, or (N, T, D) if `batch_first`
        state : (order-1, N, D) array, optional
            The inputs before the first step, oldest first; zeros by default.
        lengths, mask, resets
            As for a recurrent layer, see :mod:`fastrnn.functional`: an inactive step enters no window and its output
            is zero; a step that is reset sees `reset_state` in place of the inputs before it.
        reset_state : (order-1, N, D) array, or (order-1, D) for all sequences, optional
            Zeros by default.

        Returns
        -------
        y : (T, N, O) array, or (N, T, O)
        state : (order-1, N, D) array
            The last order-1 inputs of each sequence, for the call that goes on from there.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type, dtype, shape or value; nothing has run then.
        """
        return self._run(self._checked(x, state, lengths, mask, resets, reset_state))

    def vjp(
        self,
        x: Array,
        state: Array | None = None,
        lengths: Any = None,
        *,
        mask: Any = None,
        resets: Any = None,
        reset_state: Array | None = None,
    ) -> tuple[Array, Array, Callable[..., tuple[Array, Array, dict[str, Array]]]]:
        """Slide the window and return its vector-Jacobian product: a function from gradients of outputs to gradients.

        ``y, state, pullback = layer.vjp(x)``, then ``dx, dstate, grads = pullback(dy, dstate, truncate=None)`` any
        number of times. ``grads`` has a new array for every parameter, and ``"reset_state"`` if there was one.

        Parameters
        ----------
        x, state, lengths, mask, resets, reset_state
            As of a call. The arrays and the parameters are kept, not copied: leave them unchanged until the last call
            of ``pullback``.

        Returns
        -------
        y, state
            As of a call.
        pullback : callable
            Takes gradients like ``y`` and ``state``; None, the default, stands for zeros.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type, dtype, shape or value. Nothing has run then.
        """
        saved = self._checked(x, state, lengths, mask, resets, reset_state)
        return *self._run(saved), partial(self._pull, saved)

    def forward(
        self,
        x: Array,
        state: Array | None = None,
        lengths: Any = None,
        *,
        mask: Any = None,
        resets: Any = None,
        reset_state: Array | None = None,
    ) -> tuple[Array, Array]:
        """Slide the window and save the arguments for one :meth:`backward`.

        Parameters
        ----------
        x, state, lengths, mask, resets, reset_state
            As of a call. The arrays and the parameters are kept, not copied: leave them unchanged until
            :meth:`backward`.

        Returns
        -------
        y, state
            As of a call.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type, dtype, shape or value. Nothing has run then.
        """
        self._saved = None
        saved = self._checked(x, state, lengths, mask, resets, reset_state)
        result = self._run(saved)
        self._saved = saved
        return result

    def backward(
        self, dy: Array | None, dstate: Array | None = None, truncate: int | tuple[int, int] | None = None
    ) -> tuple[Array, ...]:
        """Gradients of the last :meth:`forward`; those of the parameters are added to ``grads``.

        Parameters
        ----------
        dy : array like ``y``, optional
            Gradient of the loss with respect to the output; None for zeros.
        dstate : (order-1, N, D) array, optional
            Gradient with respect to the last state; zeros by default.
        truncate : int or pair of int, optional
            Cut the gradient after every `truncate` active steps of a sequence; with ``(k1, k2)``, the losses of each
            block of k1 steps go back over the k2 steps up to the block's end.

        Returns
        -------
        dx : array like ``x``
        dstate : (order-1, N, D) array
            Gradient with respect to the initial state.
        dreset : like the `reset_state`
            The third, if :meth:`forward` had one.

        Raises
        ------
        RuntimeError
            If there was no :meth:`forward` since the last one.
        """
        dx, dfirst, grads = self._pull(self._require_saved(), dy, dstate, truncate=truncate)
        self._saved = None
        dreset = grads.pop("reset_state", None)
        self._add(grads)
        return (dx, dfirst) if dreset is None else (dx, dfirst, dreset)

    def step(self, x: Array, state: Array | None = None) -> tuple[Array, Array]:
        """Run one step, for data that arrive one step at a time.

        Parameters
        ----------
        x : (N, D) array
            Input of the layer's dtype.
        state : (order-1, N, D) array, optional
            The inputs before this one, oldest first; zeros by default.

        Returns
        -------
        y : (N, O) array
            Output of the step.
        state : (order-1, N, D) array
            The inputs before the next step.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type, dtype or shape.
        """
        x = rows_array("x", x, "N", self.input_size, self.dtype)
        y, last = self._run(_Saved(x[None], self._state("state", state, len(x)), None, None, False))
        return y[0] if not self.batch_first else y[:, 0], last

    def fit(self, x: Array, lengths: Any = None) -> AR:
        """Set the parameters to the least-squares fit of one-step forecasts of a series.

        Each step that has order-1 steps before it and one after it is an equation: ``y_t = x_{t+1}``. They are solved
        together, in float64, by :func:`numpy.linalg.lstsq`, with a constant if there is a `bias` (conditional least
        squares; Box & Jenkins 1970, sec. 7.1).

        Parameters
        ----------
        x : (T, N, D) array, or (N, T, D) if `batch_first`
            The series; T is at least order + 1.
        lengths : (N,) integers, optional
            Steps of each sequence.

        Returns
        -------
        AR
            The layer itself.

        Raises
        ------
        TypeError
            If `x` is not an array of the layer's dtype.
        ValueError
            If the output size is not the input size, or `x` has the wrong shape, no equation, or numbers that are not
            finite. No parameter is changed then.
        """
        if self.output_size != self.input_size:
            raise ValueError(
                f"fit: expected a layer whose output_size is its input_size, {self.input_size}, as it forecasts its "
                f"own input; got {self.output_size}"
            )
        design, targets = self._equations(x, lengths)
        D, columns = self.input_size, self.order * self.input_size
        solution = np.linalg.lstsq(design, targets, rcond=None)[0]
        self.params["W"][...] = solution[:columns].reshape(self.order, D, D)
        if self.bias:
            self.params["b"][...] = solution[-1]
        return self

    def _equations(self, x: Any, lengths: Any) -> tuple[Array, Array]:
        """The windows, one a row, and the steps that come after them, in float64."""
        x = self._by_time(rows_array("x", x, "N, T" if self.batch_first else "T, N", self.input_size, self.dtype))
        T, N, D = x.shape
        ends = sequence_lengths("lengths", lengths, N, T)
        if self.order >= T:
            raise ValueError(f"x: expected at least {self.order + 1} steps for order {self.order}, got {T}")
        used = np.arange(self.order, T)[:, None] < (T if ends is None else ends)
        used = np.broadcast_to(used, (T - self.order, N))
        if not used.any():
            name = "x" if ends is None else "lengths"
            raise ValueError(f"{name}: expected a sequence of at least {self.order + 1} steps, got none")
        windows = sliding_window_view(x, self.order, axis=0)[:-1].swapaxes(2, 3)[used]
        targets = x[self.order :][used].astype(np.float64)
        design = np.ones((len(windows), self.order * D + self.bias))
        design[:, : self.order * D] = windows.reshape(-1, self.order * D)
        if not (np.isfinite(design).all() and np.isfinite(targets).all()):
            raise ValueError("x: expected finite numbers, got NaN or infinity")
        return design, targets

    def torch_name(self, name: str) -> tuple[str, bool]:
        """See :meth:`Layer.torch_name`; the names of ``torch.nn.Conv1d``."""
        return ("weight", True) if name == "W" else ("bias", False)

    def config(self) -> dict[str, Any]:
        """See :meth:`Layer.config`."""
        return {
            "order": self.order,
            "input_size": self.input_size,
            "output_size": self.output_size,
            "bias": self.bias,
            "batch_first": self.batch_first,
            "dtype": self.dtype.name,
        }

    def _by_time(self, array: Array) -> Array:
        """From the caller's order of axes to (T, N, ...), or back."""
        return array.swapaxes(0, 1) if self.batch_first else array

    def _checked(self, x: Any, state: Any, lengths: Any, mask: Any, resets: Any, reset_state: Any) -> _Saved:
        x = self._by_time(rows_array("x", x, "N, T" if self.batch_first else "T, N", self.input_size, self.dtype))
        T, N, _ = x.shape
        if T == 0:
            raise ValueError("x: expected at least one step, got a sequence of length 0")
        first = self._state("state", state, N)
        flags = check_flags(T, N, self.batch_first, lengths, mask, resets)
        if reset_state is None:
            return _Saved(x, first, flags, None, False)
        if resets is None:
            raise ValueError("reset_state: expected resets as well, which say where it enters")
        is_row = isinstance(reset_state, np.ndarray) and reset_state.ndim == 2
        if not is_row:
            return _Saved(x, first, flags, self._state("reset_state", reset_state, N), False)
        shape = (self.order - 1, self.input_size)
        row = array_like("reset_state", reset_state, shape, self.dtype, "the layer")
        return _Saved(x, first, flags, np.broadcast_to(row[:, None], (shape[0], N, shape[1])), True)

    def _state(self, name: str, value: Any, N: int) -> Array | None:
        if value is None:
            return None
        return array_like(name, value, (self.order - 1, N, self.input_size), self.dtype, "the layer")

    def _run(self, saved: _Saved) -> tuple[Array, Array]:
        T, N, _ = saved.x.shape
        y = _windows(saved, self.order) @ self.params["W"].reshape(-1, self.output_size)
        if self.bias:
            y += self.params["b"]
        y = y.reshape(T, N, self.output_size)
        if saved.flags is None:
            # A copy: a view would keep the whole input alive.
            last = np.array(_extended(saved, self.order)[T:])
        else:
            y[(saved.flags & HOLD) != 0] = 0
            last = _sources(saved, self.order)[_table(saved.flags, self.order).last, np.arange(N)]
        return self._by_time(y), last

    def _pull(
        self,
        saved: _Saved,
        dy: Array | None = None,
        dstate: Array | None = None,
        *,
        truncate: int | tuple[int, int] | None = None,
    ) -> tuple[Array, Array, dict[str, Array]]:
        T, N, _ = saved.x.shape
        shape = (N, T, self.output_size) if self.batch_first else (T, N, self.output_size)
        d = np.zeros(shape, self.dtype) if dy is None else array_like("dy", dy, shape, self.dtype, "the layer")
        d = self._by_time(d)
        dlast = self._state("dstate", dstate, N)
        flags = saved.flags
        if flags is not None:
            d = np.where(((flags & HOLD) != 0)[..., None], self.dtype.type(0), d)
        found = [
            self._pull_once(saved, way.outputs(d), None if dlast is None else way.state(dlast), way)
            for way in passes(truncate, flags, T, N)
        ]
        dx, dfirst = (sum(parts[1:], parts[0]) for parts in zip(*(one[:2] for one in found), strict=True))
        each = [one[2] for one in found]
        return dx, dfirst, {name: sum((one[name] for one in each[1:]), each[0][name]) for name in each[0]}

    def _passes(self, truncate: Any) -> Iterator[Pass]:
        """The passes back through the last forward pass that `truncate` asks for."""
        saved = self._require_saved()
        return passes(truncate, saved.flags, *saved.x.shape[:2])

    def _pull_once(
        self, saved: _Saved, d: Any, dlast: Array | None, way: Pass
    ) -> tuple[Array, Array, dict[str, Array]]:
        T, N, D = saved.x.shape
        flags = with_cuts(saved.flags, T, N, False, way.cuts)
        rows = d.reshape(T * N, self.output_size)
        grads = {"W": (_windows(saved, self.order).T @ rows).reshape(self.params["W"].shape)}
        if self.bias:
            grads["b"] = rows.sum(axis=0)
        if flags is None:
            sources = _correlated(d, dlast, self.params["W"])
            return self._by_time(sources[self.order - 1 :]), np.array(sources[: self.order - 1]), grads
        dwindows = (rows @ self.params["W"].reshape(-1, self.output_size).T).reshape(T, N, self.order, D)
        sources = _scattered(dwindows, dlast, flags, self.order)
        before = self.order - 1
        if saved.reset_state is not None:
            dreset = sources[1 + before : 1 + 2 * before]
            grads["reset_state"] = dreset.sum(axis=1) if saved.reset_is_row else np.array(dreset)
        return self._by_time(sources[1 + 2 * before :]), np.array(sources[1 : 1 + before]), grads


def _extended(saved: _Saved, order: int) -> Array:
    """(order-1+T, N, D): the inputs before the first step, then the inputs."""
    T, N, D = saved.x.shape
    extended = np.zeros((order - 1 + T, N, D), saved.x.dtype)
    if saved.state is not None:
        extended[: order - 1] = saved.state
    extended[order - 1 :] = saved.x
    return extended


def _windows(saved: _Saved, order: int) -> Array:
    """(T*N, order*D), what each step sees, oldest input first."""
    T, N, D = saved.x.shape
    if saved.flags is None:
        views = sliding_window_view(_extended(saved, order), order, axis=0)
        return views.swapaxes(2, 3).reshape(T * N, order * D)
    rows = _table(saved.flags, order).rows
    windows: Array = _sources(saved, order)[rows.swapaxes(1, 2), np.arange(N)[:, None]]
    return windows.reshape(T * N, order * D)


def _correlated(d: Array, dlast: Array | None, W: Array) -> Array:
    """(order-1+T, N, D), the gradient of what :func:`_extended` gives: the convolution turned around."""
    order, D, O = W.shape  # noqa: E741
    T, N, _ = d.shape
    padded = np.zeros((T + 2 * (order - 1), N, O), d.dtype)
    padded[order - 1 : order - 1 + T] = d
    windows = sliding_window_view(padded, order, axis=0).swapaxes(2, 3).reshape(-1, order * O)
    gradient: Array = (windows @ W[::-1].swapaxes(1, 2).reshape(order * O, D)).reshape(-1, N, D)
    if dlast is not None:
        gradient[T:] += dlast
    return gradient


class _Table(NamedTuple):
    """Which rows of :func:`_sources` each window holds.

    rows : (T, order, N)
    last : (order-1, N), the state after the last step
    """

    rows: Array
    last: Array


def _sources(saved: _Saved, order: int) -> Array:
    """(1 + 2*(order-1) + T, N, D): a row of zeros, inputs before the first step, those after a reset, the inputs."""
    T, N, D = saved.x.shape
    before = order - 1
    sources = np.zeros((1 + 2 * before + T, N, D), saved.x.dtype)
    if saved.state is not None:
        sources[1 : 1 + before] = saved.state
    if saved.reset_state is not None:
        sources[1 + before : 1 + 2 * before] = saved.reset_state
    sources[1 + 2 * before :] = saved.x
    return sources


def _table(flags: Flags, order: int) -> _Table:
    """The table for a table of flags. Past a cut, which only gradients know, a window holds the row of zeros."""
    T, N = flags.shape
    before = order - 1
    rows = np.zeros((T, order, N), np.intp)
    held = np.repeat(np.arange(1, 1 + before)[:, None], N, axis=1)
    fresh = np.arange(1 + before, 1 + 2 * before)[:, None]
    for t in range(T):
        held = np.where(flags[t] & CUT, 0, held)
        held = np.where(flags[t] & RESET, fresh, held)
        active = (flags[t] & HOLD) == 0
        window = np.concatenate([held, np.full((1, N), 1 + 2 * before + t)])
        rows[t] = np.where(active, window, 0)
        held = np.where(active, window[1:], held)
    return _Table(rows, held)


def _scattered(dwindows: Array, dlast: Array | None, flags: Flags, order: int) -> Array:
    """Gradients of the windows (T, N, order, D) and of the last state, added up by the row that each came from."""
    T, N, _, D = dwindows.shape
    table = _table(flags, order)
    sources = np.zeros((1 + 2 * (order - 1) + T, N, D), dwindows.dtype)
    np.add.at(sources, (table.rows.swapaxes(1, 2), np.arange(N)[:, None]), dwindows)
    if dlast is not None:
        np.add.at(sources, (table.last, np.arange(N)), dlast)
    return sources
