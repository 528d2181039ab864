"""Recurrent layers: stacks of cells in one direction or both, with PyTorch's shapes and order."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from . import functional
from .arrays import Array
from .backends.registry import load_backend
from .cells import Cell, gru, lstm, rnn
from .engine.call import Stack, StackLayout
from .engine.plan import make_plan
from .engine.precision import PARTS
from .engine.settings import current, pinned
from .engine.threads import apart, run_together, threads_up_to, work_of
from .errors import array_like, flag, generator, positive_int, rows_array
from .layers import Layer, float_dtype, uniform

Answer = TypeVar("Answer")
State = Any
"""An array (num_layers*directions, N, H), or a tuple of them for a cell with several states."""


class _Kept(NamedTuple):
    """What :meth:`Recurrent.forward` keeps.

    caches : of each layer and direction
    masks : of the dropout between layers
    threads : that the call may take
    """

    caches: list[functional.Cache]
    masks: list[Array | None]
    threads: int


class Recurrent(Layer):
    """A stack of layers of any cell.

    Parameters
    ----------
    cell : Cell
    input_size, hidden_size : int
        D and H.
    num_layers : int
    bias : bool
        Whether there are ``bx`` and ``bh``, as PyTorch's ``bias_ih`` and ``bias_hh``.
    batch_first : bool
        Whether inputs and outputs are (N, T, ...); states never are.
    dropout : float
        Share of the outputs between layers that :meth:`forward` sets to zero (the others are scaled up);
        a call without :meth:`forward` drops nothing. One layer has none between, and a warning says so.
    bidirectional : bool
        Run a second set of cells from the end; outputs are concatenated, (T, N, 2*H).
    dtype : {"float32", "float64"}
    seed : int, optional
        For the initial values, uniform in ``±1/sqrt(H)``, and for dropout.

    Attributes
    ----------
    params, grads : mapping of str to array
        ``Wx_l0`` (D, G*H), ``Wh_l0`` (H, P*H), ``bx_l0``, ``bh_l0``, per-unit parameters; ``_l1`` and so on for
        the layers above, with ``_reverse`` appended for the second direction. Assignment as for every :class:`Layer`.
    """

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        if not isinstance(cell, Cell):
            raise TypeError(f"cell: expected a Cell (see fastrnn.cell), got {type(cell).__name__}")
        self.cell = cell
        self.input_size = positive_int("input_size", input_size)
        self.hidden_size = positive_int("hidden_size", hidden_size)
        self.num_layers = positive_int("num_layers", num_layers)
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a number from 0 up to but not including 1, got {dropout!r}")
        self.bias, self.batch_first, self.dropout = flag("bias", bias), flag("batch_first", batch_first), float(dropout)
        self.bidirectional, self.dtype = flag("bidirectional", bidirectional), float_dtype(dtype)
        if self.dropout and self.num_layers == 1:
            warnings.warn(
                f"dropout: acts between layers, so {self.dropout} does nothing with num_layers=1",
                # Whoever called the constructor, of this class or of one that calls this one.
                stacklevel=2 if type(self) is Recurrent else 3,
            )
        self._rng = generator("seed", seed)
        self._stacks: dict[str, Stack | None] = {}
        super().__init__(self._initial())

    def __getstate__(self) -> dict[str, Any]:
        # What a backend holds for this layer it makes again where it is needed.
        return {**super().__getstate__(), "_stacks": {}}

    @property
    def directions(self) -> int:
        """1, or 2 if bidirectional."""
        return 2 if self.bidirectional else 1

    @cached_property
    def _suffixes(self) -> list[str]:
        """Name endings of the parameters of each layer and direction, in PyTorch's order."""
        ends = ("", "_reverse")[: self.directions]
        return [f"_l{layer}{end}" for layer in range(self.num_layers) for end in ends]

    @cached_property
    def _names(self) -> list[dict[str, str]]:
        """For each layer and direction the keys of its parameters, by the cell's names for them."""
        names = self.cell.param_shapes(1, 1)
        return [{name: name + suffix for name in names} for suffix in self._suffixes]

    def _initial(self) -> dict[str, Array]:
        sizes = (self.input_size, self.hidden_size, self.num_layers)
        shapes = self.param_shapes(self.cell, *sizes, self.bias, self.bidirectional)
        return {name: uniform(self._rng, shape, self.hidden_size, self.dtype) for name, shape in shapes}

    @staticmethod
    def param_shapes(
        cell: Cell, input_size: int, hidden_size: int, num_layers: int, bias: bool, bidirectional: bool
    ) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every parameter of such a layer, one by one: a file may claim more than memory holds."""
        ends = ("", "_reverse") if bidirectional else ("",)
        for layer in range(num_layers):
            D = len(ends) * hidden_size if layer else input_size
            for end in ends:
                for name, shape in cell.param_shapes(D, hidden_size).items():
                    if bias or name not in ("bx", "bh"):
                        yield f"{name}_l{layer}{end}", shape

    def __call__(
        self,
        x: Array,
        state: State = None,
        lengths: Any = None,
        *,
        mask: Array | None = None,
        resets: Array | None = None,
        reset_state: State = None,
    ) -> tuple[Array, State]:
        """Run the stack, keeping nothing.

        Parameters
        ----------
        x : (T, N, D) array, or (N, T, D) if `batch_first`
        state : array or tuple of arrays, optional
            Initial states, (num_layers*directions, N, H) each; zeros by default.
        lengths : (N,) integers, optional
            Steps of each sequence; see :mod:`fastrnn.functional`.
        mask : (T, N) booleans, or (N, T) if `batch_first`, optional
            Which steps are active: the others give zeros, hold the state, and pass its gradient by.
        resets : (T, N) booleans, or (N, T) if `batch_first`, optional
            Where True, the state that enters the step, in the direction's own order, is `reset_state`.
        reset_state : array or tuple of arrays, optional
            Like `state`, or one row for all sequences, (num_layers*directions, H); zeros by default.

        Returns
        -------
        y : (T, N, directions*H) array, or (N, T, directions*H)
        state : like the argument, after each sequence's last step
        """
        flags = {"lengths": lengths, "mask": mask, "resets": resets}
        done = self._quick(x, state, 3) if lengths is None and mask is None and resets is None else None
        if done:
            return done
        with pinned():
            return self._run(x, state, flags, reset_state, None)

    def forward(
        self,
        x: Array,
        state: State = None,
        lengths: Any = None,
        *,
        mask: Array | None = None,
        resets: Array | None = None,
        reset_state: State = None,
    ) -> tuple[Array, State]:
        """The same with dropout, keeping what :meth:`backward` needs.

        Of `x`, `state` and ``params`` it keeps the arrays themselves: leave them unchanged until then. ``y`` is
        read-only.
        """
        # What the last call kept would be there twice.
        self._cache = None
        with pinned():
            kept = _Kept([], [], current().num_threads)
            flags = {"lengths": lengths, "mask": mask, "resets": resets}
            y, last = self._run(x, state, flags, reset_state, kept)
        y.flags.writeable = False
        self._cache = kept
        return y, last

    def _quick(self, x: Any, state: Any, ndim: int) -> tuple[Array, Any] | None:
        """What the current backend's quick way through this layer gives, if it has one and takes these arguments."""
        now = current()
        try:
            stack = self._stacks[now.backend]
        except KeyError:
            stack = None if self.bidirectional else load_backend(now.backend).stack(self._layout())
            self._stacks[now.backend] = stack
        if stack is None:
            return None
        threads_for, bf16_parts = threads_up_to(now.num_threads), PARTS[now.matmul_precision]
        return stack(self._params.own, x, state, ndim, threads_for, bf16_parts)

    def _run(
        self, x: Array, state: State, flags: dict[str, Any], reset_state: State, kept: _Kept | None
    ) -> tuple[Array, State]:
        x = rows_array("x", x, "N, T" if self.batch_first else "T, N", self.input_size, self.dtype)
        N = x.shape[0 if self.batch_first else 1]
        initial = self._split_state("state", state, N)
        fresh = self._split_state("reset_state", reset_state, N, or_row=True)
        last: list[tuple[Array, ...]] = []
        for layer in range(self.num_layers):
            if layer:
                x = self._drop(x, kept)
            outputs, ends, caches = zip(
                *self._directions_of(layer, x, initial, flags, fresh, kept is not None), strict=True
            )
            last += ends
            if kept is not None:
                kept.caches.extend(caches)
            x = np.concatenate(outputs, axis=2) if self.bidirectional else outputs[0]
        return x, self._join_state(last)

    def _directions_of(
        self, layer: int, x: Array, initial: list[Any], flags: dict[str, Any], fresh: list[Any], keep: bool
    ) -> list[tuple[Array, tuple[Array, ...], functional.Cache | None]]:
        """Outputs, last states and cache of each direction of `layer`."""

        def forward(i: int) -> tuple[Array, tuple[Array, ...], functional.Cache | None]:
            params = {name: self._params.own.get(key) for name, key in self._names[i].items()}
            reverse = i % self.directions == 1
            return functional.cell_forward(
                self.cell,
                x,
                initial[i],
                params,
                batch_first=self.batch_first,
                reverse=reverse,
                keep=keep,
                reset_state=fresh[i],
                **flags,
            )

        T, N = x.shape[:2]
        outer = (N, T) if self.batch_first else (T, N)
        return self._each_direction(forward, layer, outer, current().num_threads)

    def _each_direction(
        self, work: Callable[[int], Answer], layer: int, outer: tuple[int, ...], threads: int
    ) -> list[Answer]:
        """``work(i)`` of both directions of `layer`, in two of `threads` where that is quicker."""
        both = range(layer * self.directions, (layer + 1) * self.directions)
        shape = (*outer, self.input_size if layer == 0 else self.directions * self.hidden_size)
        if self.bidirectional and apart(threads, outer[1], work_of(make_plan(self.cell), shape, self.hidden_size)):
            return run_together(work, both)
        return [work(i) for i in both]

    def backward(self, dy: Array | None, dstate: State = None, truncate: int | None = None) -> tuple[Any, ...]:
        """BPTT through the last :meth:`forward`; when all is done, adds the parameters' gradients to ``grads``.

        Parameters
        ----------
        dy : array like ``y``, optional
            Gradient of the loss with respect to the output; None for zeros.
        dstate : like the state, optional
            Gradient with respect to the last states; zeros by default.
        truncate : int, optional
            Cut the gradient after every `truncate` steps of a sequence.

        Returns
        -------
        dx : array like ``x``
        dstate : like the state
            Gradient with respect to the initial states.
        dreset : like the `reset_state`
            The third, if :meth:`forward` had one.
        """
        kept: _Kept = self._kept()
        T, N, _, H = kept.caches[0].call.sizes
        if dy is not None:
            outer = (N, T) if self.batch_first else (T, N)
            dy = array_like("dy", dy, (*outer, self.directions * H), self.dtype, "the layer")
        dlast = self._split_state("dstate", dstate, N)
        first: list[Any] = [None] * len(dlast)
        fresh: list[Any] = [None] * len(dlast)
        new: dict[str, Array] = {}
        for layer in reversed(range(self.num_layers)):

            def backward(i: int, dy: Array | None = dy) -> tuple[Array, tuple[Array, ...], dict[str, Any]]:
                d = i % self.directions
                dhs = None if dy is None else dy[..., d * H : (d + 1) * H]
                return functional.cell_backward(dhs, kept.caches[i], dlast[i], truncate)

            results = self._each_direction(backward, layer, (T, N), kept.threads)
            for i, (_, dstate_i, grads) in enumerate(results, layer * self.directions):
                first[i] = dstate_i
                fresh[i] = grads.pop("reset_state", None)
                new |= {self._names[i][name]: grad for name, grad in grads.items()}
            dx = results[0][0] + results[1][0] if self.bidirectional else results[0][0]
            mask = kept.masks[layer - 1] if layer else None
            dy = dx if mask is None else dx * mask
        result: tuple[Any, ...] = dx, self._join_state(first)
        if fresh[0] is not None:
            result += (self._join_state(fresh),)
        self._add(new)
        return result

    def step(self, x: Array, state: State = None) -> tuple[Array, State]:
        """One step of a stream: `x` (N, D) and the states give ``y`` (N, H) and the new states.

        Raises
        ------
        ValueError
            If the layer is bidirectional: a stream has no end to begin from.
        """
        done = self._quick(x, state, 2)
        if done:
            return done
        if self.bidirectional:
            raise ValueError("step: expected a layer with one direction, got a bidirectional one")
        x = rows_array("x", x, "N", self.input_size, self.dtype)
        y, state = self(x[:, None] if self.batch_first else x[None], state)
        return (y[:, 0] if self.batch_first else y[0]), state

    def _layout(self) -> StackLayout:
        own = ("Wx", "Wh", "bx", "bh", *self.cell.units)
        names = tuple(tuple(name + suffix for name in own) for suffix in self._suffixes)
        return StackLayout(self.cell, self.input_size, self.hidden_size, names, self.dtype, self.batch_first)

    def _drop(self, x: Array, kept: _Kept | None) -> Array:
        if kept is None:
            return x
        mask = None
        if self.dropout:
            mask = (self._rng.random(x.shape) >= self.dropout).astype(x.dtype) / x.dtype.type(1 - self.dropout)
            x = x * mask
        kept.masks.append(mask)
        return x

    def _split_state(
        self, argument: str, state: State, N: int, or_row: bool = False
    ) -> list[tuple[Array, ...] | None]:
        """The states of each layer and direction; `or_row`: each may have one row for all sequences."""
        count = self.num_layers * self.directions
        if state is None:
            return [None] * count
        names = self.cell.states
        several = len(names) > 1
        parts: Sequence[Any] = state if several else (state,)
        expected = f"{argument}: expected a tuple of {len(names)} arrays ({', '.join(names)})"
        if several and not isinstance(state, tuple | list):
            raise TypeError(f"{expected}, got {type(state).__name__}")
        if len(parts) != len(names):
            raise ValueError(f"{expected}, got {len(parts)}")
        shape, row = (count, N, self.hidden_size), (count, self.hidden_size)
        arrays = [
            array_like(
                f"{argument}[{k}]" if several else argument,
                part,
                row if or_row and isinstance(part, np.ndarray) and part.ndim == 2 else shape,
                self.dtype,
                "the layer",
            )
            for k, part in enumerate(parts)
        ]
        return [tuple(a[i] for a in arrays) for i in range(count)]

    def _join_state(self, states: Sequence[tuple[Array, ...]]) -> State:
        joined = tuple(np.stack(parts) if len(parts) > 1 else parts[0][None] for parts in zip(*states, strict=True))
        return joined if len(joined) > 1 else joined[0]

    def torch_name(self, name: str) -> tuple[str, bool]:
        """See :meth:`Layer.torch_name`."""
        base, _, suffix = name.rpartition("_l")
        theirs = {"Wx": "weight_ih", "Wh": "weight_hh", "bx": "bias_ih", "bh": "bias_hh"}.get(base, base)
        return f"{theirs}_l{suffix}", base in ("Wx", "Wh")

    def config(self) -> dict[str, Any]:
        """See :meth:`Layer.config`; the cell by name and constants."""
        return {"cell": self.cell.name, "constants": dict(self.cell.constants), **self._shared_config()}

    def _shared_config(self) -> dict[str, Any]:
        return {
            "input_size": self.input_size,
            "hidden_size": self.hidden_size,
            "num_layers": self.num_layers,
            "bias": self.bias,
            "batch_first": self.batch_first,
            "dropout": self.dropout,
            "bidirectional": self.bidirectional,
            "dtype": self.dtype.name,
        }


class RNN(Recurrent):
    """Elman network (Elman 1990), as ``torch.nn.RNN``; parameters as :class:`Recurrent`.

    Parameters
    ----------
    nonlinearity : {"tanh", "relu", "sigmoid", "identity"}
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        self.nonlinearity = nonlinearity
        super().__init__(
            rnn(nonlinearity),
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            dtype=dtype,
            seed=seed,
        )

    def config(self) -> dict[str, Any]:
        """See :meth:`Layer.config`."""
        return {"nonlinearity": self.nonlinearity, **self._shared_config()}


class LSTM(Recurrent):
    """LSTM (Hochreiter & Schmidhuber 1997; Gers et al. 2000), as ``torch.nn.LSTM``; see :class:`Recurrent`."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        super().__init__(
            lstm,
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            dtype=dtype,
            seed=seed,
        )

    def config(self) -> dict[str, Any]:
        """See :meth:`Layer.config`."""
        return self._shared_config()


class GRU(Recurrent):
    """GRU (Cho et al. 2014), as ``torch.nn.GRU`` with `reset_after`; parameters as :class:`Recurrent`.

    Parameters
    ----------
    reset_after : bool
        Whether the reset gate is applied after the recurrent product (PyTorch) or before it (the paper).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        reset_after: bool = True,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        self.reset_after = flag("reset_after", reset_after)
        super().__init__(
            gru(self.reset_after),
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            dtype=dtype,
            seed=seed,
        )

    def config(self) -> dict[str, Any]:
        """See :meth:`Layer.config`."""
        return {"reset_after": self.reset_after, **self._shared_config()}
