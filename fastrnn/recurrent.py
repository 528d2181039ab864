"""Recurrent layers: stacks of layers of a cell in one or both directions, with PyTorch's shapes and order."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from numpy.typing import DTypeLike

from .arrays import Array
from .cells import Cell, gru, lstm, rnn
from .engine.contract import Layout
from .engine.settings import current
from .engine.truncation import Pass
from .errors import flag, generator, positive_int, share
from .forward_mode import RecurrentRun, check_direction
from .layers import Layer, float_dtype, uniform
from .prepared import Prepared, Pullback, State, param_shapes, parameter_names

__all__ = ["GRU", "LSTM", "RNN", "Recurrent"]


class Recurrent(Layer):
    """A stack of layers of any cell.

    Parameters
    ----------
    cell : Cell
        A built-in cell or one made by :func:`fastrnn.cell`, with G gates and P recurrent matrices.
    input_size, hidden_size : int
        Input features D and hidden units H.
    num_layers : int
        Number of layers in the stack.
    bias : bool
        Whether there are ``bx`` and ``bh``, PyTorch's ``bias_ih`` and ``bias_hh``.
    batch_first : bool
        Whether inputs and outputs are (N, T, ...); states never are.
    dropout : float
        Probability with which :meth:`forward` sets each element that passes between two layers to zero; the others
        are multiplied by ``1 / (1 - dropout)``. A plain call drops nothing. With one layer there is nothing to drop,
        and a warning says so.
    bidirectional : bool
        Whether each layer has a second set of parameters that runs from the last step to the first; the outputs are
        concatenated, (T, N, 2*H).
    reverse : bool
        Whether the layers run from the last step to the first; the output of a step stays at that step's index.
    dtype : {"float32", "float64"}
        Of the parameters and of all arrays that the layer takes.
    seed : int, optional
        Seed of the initial values, uniform in ``±1/sqrt(H)``, and of dropout.

    Attributes
    ----------
    params, grads : mapping of str to array
        ``Wx_l0`` (D, G*H), ``Wh_l0`` (H, P*H), ``bx_l0`` (G*H,), ``bh_l0`` (P*H,) and the per-unit parameters (H,);
        with ``_l1`` and so on for the layers above, and ``_reverse`` appended for the second direction. Assignment
        works as for every :class:`Layer`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value.
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
                # The caller of the constructor, of this class or of a subclass that calls this one.
                stacklevel=2 if type(self) is Recurrent else 3,
            )
        rng = generator("seed", seed)
        sizes = (self.input_size, self.hidden_size, self.num_layers)
        shapes = self.param_shapes(self.cell, *sizes, self.bias, self.bidirectional)
        super().__init__({name: uniform(rng, shape, self.hidden_size, self.dtype) for name, shape in shapes})
        self._prepared = Prepared(self._layout(), self._params.own, self.dropout, rng)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # `super` may have replaced read-only arrays by copies.
        self._prepared = self._prepared.on(self._params.own)

    def __copy__(self) -> Recurrent:
        twin = super().__copy__()
        assert isinstance(twin, Recurrent)
        twin._prepared = self._prepared.on(self._params.own)
        return twin

    @property
    def directions(self) -> int:
        """Number of directions: 2 if bidirectional, else 1."""
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
        """Run the stack without saving anything for a backward pass.

        Parameters
        ----------
        x : (T, N, D) array, or (N, T, D) if `batch_first`
            Input of the layer's dtype, with any strides.
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
        if lengths is None and mask is None and resets is None and reset_state is None:
            # `Prepared.quick` inlined: its frame would be a twentieth of a short call.
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
        recompute: int | str | None = None,
    ) -> tuple[Array, State, Pullback]:
        """Run the stack and return its vector-Jacobian product: a function from gradients of outputs to gradients.

        ``y, state, pullback = layer.vjp(x, state)``, then ``dx, dstate, grads = pullback(dy, dstate)`` any number of
        times, from any thread. ``grads`` has a new array for every parameter, and nothing is added to ``layer.grads``.

        Parameters
        ----------
        x, state, lengths, mask, resets, reset_state
            As of a call. The arrays and the parameters are kept, not copied: leave them unchanged until the last call
            of `pullback`.
        training : bool
            Whether to apply dropout between layers.
        need : collection of {"x", "state", "params"}
            The gradients that `pullback` will be asked for; others are not computed.
        recompute : int or "sqrt", optional
            Save only the states after every so many steps and compute the rest again in `pullback`; see
            :meth:`Prepared.vjp`.

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
        return self._prepared.vjp(
            x,
            state,
            lengths,
            mask=mask,
            resets=resets,
            reset_state=reset_state,
            training=training,
            need=need,
            recompute=recompute,
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
        Nothing is kept of the past, whatever the length; the time is that of four to six calls.
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
        recompute: int | str | None = None,
    ) -> tuple[Array, State]:
        """Run the stack with dropout and save what one :meth:`backward` needs.

        Parameters
        ----------
        x, state, lengths, mask, resets, reset_state
            As of a call. The arrays and the parameters are kept, not copied: leave them unchanged until
            :meth:`backward`.
        recompute : int or "sqrt", optional
            Save only the states after every so many steps and compute the rest again in :meth:`backward`; see
            :meth:`Prepared.vjp`.

        Returns
        -------
        y, state
            As of a call; `y` is read-only.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type, dtype, shape or value. Nothing has run then.
        """
        # Freed first: the memory of the last call and of this one need not exist at the same time.
        self._saved = None
        y, last, self._saved = self._prepared.vjp(
            x,
            state,
            lengths,
            mask=mask,
            resets=resets,
            reset_state=reset_state,
            training=True,
            recompute=recompute,
        )
        return y, last

    def backward(
        self,
        dy: Array | None,
        dstate: State = None,
        truncate: int | tuple[int, int] | None = None,
        *,
        clip_state: tuple[str, float] | None = None,
    ) -> tuple[Any, ...]:
        """Backpropagate through time through the last :meth:`forward` and add the parameters' gradients to ``grads``.

        They are added at the end, once. What :meth:`forward` saved serves one call; :meth:`vjp` allows several.

        Parameters
        ----------
        dy : (T, N, directions*H) array, or (N, T, directions*H), optional
            Gradient of the loss with respect to ``y``; None for zeros.
        dstate : array or tuple of arrays, optional
            Gradient with respect to the last states, in their form; zeros by default.
        truncate : int or pair of int, optional
            Cut the gradient after every `truncate` active steps of a sequence (truncated BPTT; Williams & Peng 1990).
            With ``(k1, k2)``, the losses of each block of k1 steps go back over the k2 steps up to the block's end; see
            :mod:`fastrnn.functional`.
        clip_state : ("value", float) or ("norm", float), optional
            At every active step, clip the gradient of the states to that magnitude of each element, or to that norm for
            each sequence; see :class:`Pullback`.

        Returns
        -------
        dx : (T, N, D) array, or (N, T, D)
            Gradient with respect to the input.
        dstate : array or tuple of arrays
            Gradient with respect to the initial states.
        dreset_state : array or tuple of arrays
            Only if :meth:`forward` had a `reset_state`: its gradient, in its form.

        Raises
        ------
        RuntimeError
            If there was no :meth:`forward` since the last one.
        TypeError, ValueError
            If an argument has the wrong type, dtype, shape or value. ``grads`` is unchanged then.
        """
        pullback: Pullback = self._require_saved()
        if self._later is None:
            dx, dfirst, grads = pullback(
                dy, dstate, truncate=truncate, clip_state=clip_state, into=self._grads.own, add=True
            )
        else:
            dx, dfirst, grads = pullback(dy, dstate, truncate=truncate, clip_state=clip_state)
            dreset = grads.pop("reset_state", None)
            self._add(grads)
            grads = {} if dreset is None else {"reset_state": dreset}
        self._saved = None
        return (dx, dfirst, grads["reset_state"]) if "reset_state" in grads else (dx, dfirst)

    def _passes(self, truncate: Any) -> Iterator[Pass]:
        """The passes back through the last :meth:`forward` that `truncate` asks for."""
        pullback: Pullback = self._require_saved()
        return pullback._passes(truncate)

    def step(self, x: Array, state: State = None) -> tuple[Array, State]:
        """Run one step, for data that arrive one step at a time.

        Parameters
        ----------
        x : (N, D) array
            Input of the layer's dtype.
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
            If an argument has the wrong shape, or the layer is bidirectional or reversed: it would begin with the last
            step, which has not arrived.
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
        """See :meth:`Layer.config`; the cell is represented by its name and constants."""
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
    """A stack of Elman networks, ``h_t = f(x_t Wx + bx + h_{t-1} Wh + bh)``, as ``torch.nn.RNN``.

    Elman (1990), "Finding structure in time". A :class:`Recurrent` with all its methods.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, reverse, dtype, seed
        See :class:`Recurrent`.
    nonlinearity : {"tanh", "relu", "sigmoid", "identity"}
        The function f.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value.
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
    """A stack of LSTMs with forget gates, as ``torch.nn.LSTM``.

    Hochreiter & Schmidhuber (1997), "Long short-term memory"; Gers, Schmidhuber & Cummins (2000), "Learning to forget".
    The equations are those of :func:`fastrnn.functional.lstm_forward`, the gates in the order input, forget, cell,
    output. A :class:`Recurrent` with all its methods.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, reverse, dtype, seed
        See :class:`Recurrent`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value.
    """

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
    """A stack of gated recurrent units, as ``torch.nn.GRU`` if `reset_after`.

    Cho et al. (2014), "Learning phrase representations using RNN encoder-decoder for statistical machine translation".
    The equations are those of :func:`fastrnn.functional.gru_forward`, the gates in the order reset, update, new. A
    :class:`Recurrent` with all its methods.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, reverse, dtype, seed
        See :class:`Recurrent`.
    reset_after : bool
        Whether the reset gate is applied after the recurrent product (PyTorch) or before it (the paper).

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value.
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
