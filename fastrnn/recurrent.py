"""Recurrent layers: stacks of cells in one direction or both, with PyTorch's shapes and order."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any

from numpy.typing import DTypeLike

from .arrays import Array
from .cells import Cell, gru, lstm, rnn
from .engine.contract import Layout
from .engine.settings import current
from .errors import flag, generator, positive_int, share
from .forward_mode import RecurrentRun, check_direction
from .layers import Layer, float_dtype, uniform
from .prepared import Prepared, Pullback, State, param_shapes, parameter_names


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
    reverse : bool
        Run a layer of one direction from the last step to the first; outputs stay at their step's place.
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
        reverse: bool = False,
        dtype: DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        if not isinstance(cell, Cell):
            raise TypeError(f"cell: expected a Cell (see fastrnn.cell), got {type(cell).__name__}")
        self.cell = cell
        self.input_size = positive_int("input_size", input_size)
        self.hidden_size = positive_int("hidden_size", hidden_size)
        self.num_layers = positive_int("num_layers", num_layers)
        self.bias, self.batch_first = flag("bias", bias), flag("batch_first", batch_first)
        self.dropout, self.dtype = share("dropout", dropout), float_dtype(dtype)
        self.bidirectional, self.reverse = flag("bidirectional", bidirectional), flag("reverse", reverse)
        if self.bidirectional and self.reverse:
            raise ValueError("reverse: expected False for a bidirectional layer, which runs both ways")
        if self.dropout and self.num_layers == 1:
            warnings.warn(
                f"dropout: acts between layers, so {self.dropout} does nothing with num_layers=1",
                # Whoever called the constructor, of this class or of one that calls this one.
                stacklevel=2 if type(self) is Recurrent else 3,
            )
        rng = generator("seed", seed)
        sizes = (self.input_size, self.hidden_size, self.num_layers)
        shapes = self.param_shapes(self.cell, *sizes, self.bias, self.bidirectional)
        super().__init__({name: uniform(rng, shape, self.hidden_size, self.dtype) for name, shape in shapes})
        self._prepared = Prepared(self._layout(), self._params.own, self.dropout, rng)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # The arrays may be others than those that were there.
        self._prepared = self._prepared.on(self._params.own)

    def __copy__(self) -> Recurrent:
        twin = super().__copy__()
        assert isinstance(twin, Recurrent)
        twin._prepared = self._prepared.on(self._params.own)
        return twin

    @property
    def directions(self) -> int:
        """1, or 2 if bidirectional."""
        return 2 if self.bidirectional else 1

    # Name and shape of every parameter of such a layer.
    param_shapes = staticmethod(param_shapes)

    def __call__(
        self,
        x: Array,
        state: State = None,
        lengths: Any = None,
        *,
        mask: Any = None,
        resets: Any = None,
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

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type, dtype, shape or value; nothing has run then.
        """
        if lengths is None and mask is None and resets is None and reset_state is None:
            # `Prepared.quick` without its frame, which is a twentieth of a short call.
            now, prepared = current(), self._prepared
            stack = prepared.stacks.get(now.backend) or prepared.stack(now)
            done = stack.quick(x, state, 3, now, False)
            if done is not None:
                return done[0], done[1]
        return self._prepared(x, state, lengths, mask=mask, resets=resets, reset_state=reset_state)

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
    ) -> tuple[Array, State, Pullback]:
        """Run the stack and give the function that takes a gradient back; see :meth:`Prepared.vjp`.

        ``y, state, pullback = layer.vjp(x, state)``, then ``dx, dstate, grads = pullback(dy, dstate)`` any number of
        times, from any thread; ``grads`` has a new array for every parameter, and nothing is added to ``layer.grads``.
        """
        return self._prepared.vjp(
            x,
            state,
            lengths,
            mask=mask,
            resets=resets,
            reset_state=reset_state,
            training=training,
            need=need,
        )

    def jvp(
        self,
        x: Array,
        state: State = None,
        x_dot: Array | None = None,
        state_dot: State = None,
        params_dot: Mapping[str, Array] | None = None,
        lengths: Any = None,
        *,
        mask: Any = None,
        resets: Any = None,
        reset_state: State = None,
    ) -> tuple[Array, State, Array, State]:
        """Run the stack, without dropout, with its derivative along one direction: forward mode through time.

        Parameters
        ----------
        x, state, lengths, mask, resets, reset_state
            As of a call.
        x_dot : array like `x`, optional
            The direction's part in the input; None for zeros.
        state_dot : like the state, optional
            Its part in the initial states; None for zeros. That in `reset_state` is 0.
        params_dot : mapping of str to array, optional
            Its part in ``params``, by name; zeros for those that are missing.

        Returns
        -------
        y, state
            As of a call.
        y_dot, state_dot : like these
            Their derivatives along the direction.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type, dtype, shape or value; nothing has run then.

        Notes
        -----
        Nothing is kept of the past, whatever the length; the time is that of some three calls.
        """
        run = RecurrentRun(self._prepared, check_direction(self._params.own, params_dot))
        flags = {"lengths": lengths, "mask": mask, "resets": resets, "reset_state": reset_state}
        return tuple(run.forward(x, state, x_dot, state_dot, flags))  # type: ignore[return-value]

    def forward(
        self,
        x: Array,
        state: State = None,
        lengths: Any = None,
        *,
        mask: Any = None,
        resets: Any = None,
        reset_state: State = None,
    ) -> tuple[Array, State]:
        """The same as a call, with dropout, keeping what one :meth:`backward` needs.

        Of `x`, `state` and ``params`` it keeps the arrays themselves: leave them unchanged until then. ``y`` is
        read-only.
        """
        # What the last call kept would be there twice.
        self._cache = None
        y, last, self._cache = self._prepared.vjp(
            x, state, lengths, mask=mask, resets=resets, reset_state=reset_state, training=True
        )
        return y, last

    def backward(self, dy: Array | None, dstate: State = None, truncate: int | None = None) -> tuple[Any, ...]:
        """BPTT through the last :meth:`forward`; when all is done, adds the parameters' gradients to ``grads``.

        It uses up what :meth:`forward` kept; for gradients of the same call again see :meth:`vjp`.

        Parameters
        ----------
        dy : array like ``y``, optional
            Gradient of the loss with respect to the output; None for zeros.
        dstate : like the state, optional
            Gradient with respect to the last states; zeros by default.
        truncate : int, optional
            Cut the gradient after every `truncate` active steps of a sequence.

        Returns
        -------
        dx : array like ``x``
        dstate : like the state
            Gradient with respect to the initial states.
        dreset : like the `reset_state`
            The third, if :meth:`forward` had one.

        Raises
        ------
        RuntimeError
            If there was no :meth:`forward` since the last one.
        """
        pullback: Pullback = self._kept()
        if self._later is None:
            dx, dfirst, grads = pullback(dy, dstate, truncate=truncate, into=self._grads.own, add=True)
        else:
            dx, dfirst, grads = pullback(dy, dstate, truncate=truncate)
            dreset = grads.pop("reset_state", None)
            self._add(grads)
            grads = {} if dreset is None else {"reset_state": dreset}
        self._cache = None
        return (dx, dfirst, grads["reset_state"]) if "reset_state" in grads else (dx, dfirst)

    def step(self, x: Array, state: State = None) -> tuple[Array, State]:
        """One step of a stream: `x` (N, D) and the states give ``y`` (N, H) and the new states.

        Raises
        ------
        ValueError
            If the layer is bidirectional or reversed: a stream has no end to begin from.
        """
        done = self._prepared.quick(x, state, 2, current(), False)
        return (done[0], done[1]) if done is not None else self._prepared.step(x, state)

    def _layout(self) -> Layout:
        names = parameter_names(self.cell, self.num_layers, self.bidirectional)
        sizes = (self.input_size, self.hidden_size)
        return Layout(self.cell, *sizes, names, self.directions, self.reverse, self.dtype, self.batch_first)

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
            "reverse": self.reverse,
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
        reverse: bool = False,
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
            reverse=reverse,
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
        reverse: bool = False,
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
            reverse=reverse,
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
        reverse: bool = False,
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
            reverse=reverse,
            dtype=dtype,
            seed=seed,
        )

    def config(self) -> dict[str, Any]:
        """See :meth:`Layer.config`."""
        return {"reset_after": self.reset_after, **self._shared_config()}
