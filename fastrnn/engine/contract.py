"""The contract between the engine and the backends: what a backend is given, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..cells import Cell
from .dropout import Draw
from .flags import Cuts, Flags
from .plan import Plan
from .settings import Settings

Array = NDArray[Any]


@dataclass(eq=False, slots=True)
class Call:
    """One layer in one direction over one batch; all floating-point arrays have the dtype `dtype`.

    plan : the plan of the cell
    x : (T, N, D), any strides
    state : for each state (N, H), before the first step
    params : ``Wx`` (D, G*H) and ``Wh`` (H, P*H), of any strides, P may be 0; and those of the biases and per-unit
        parameters that were given
    reverse : whether the loop runs from the last step to the first
    threads : number of threads that may be used by either pass
    bf16_parts : number of bf16 terms that a float32 factor of a product may be split into; 0 for no split
    flags : (T, N) uint8, see :mod:`fastrnn.engine.flags`; None if every step is plain
    reset_state : for each state (N, H), the state from which a reset step starts; None for zeros

    At an inactive step, the elements of `x` and of the gradient of the outputs are never used, and outputs and ``dx``
    are 0.
    """

    plan: Plan
    x: Array
    state: tuple[Array, ...]
    params: Mapping[str, Array]
    reverse: bool
    threads: int
    bf16_parts: int = 0
    flags: Flags | None = None
    reset_state: tuple[Array, ...] | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.x.dtype

    @property
    def Wx(self) -> Array:
        return self.params["Wx"]

    @property
    def Wh(self) -> Array:
        return self.params["Wh"]

    @property
    def unit_rows(self) -> Array:
        """(len(plan.unit_rows), H), C-contiguous: the biases, then the per-unit parameters."""
        plan, H = self.plan, self.Wh.shape[0]
        rows = np.zeros((len(plan.unit_rows), H), self.dtype)
        blocks = {b: self.params[b].reshape(-1, H) for b in ("bx", "bh") if b in self.params}
        for row, source in zip(rows, plan.unit_rows, strict=True):
            if source.name:
                row[:] = self.params[source.name]
            if source.gate is not None and "bx" in blocks:
                row += blocks["bx"][source.gate]
            if "bh" in blocks:
                for m in source.matrices:
                    row += blocks["bh"][m]
        return rows

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """T, N, D, H."""
        return (*self.x.shape, self.Wh.shape[0])


class Path(Protocol):
    """How a backend runs one pass of a call: a named tuple, chosen from the sizes, that can be shown and forced.

    Each backend has its own.
    """

    def describe(self) -> list[str]:
        """What the path means, one line for each choice, for :func:`fastrnn.explain`."""


class Result(NamedTuple):
    """The result of a forward pass.

    y : (T, N, H) in time order, the first state after every step
    last : for each state (N, H), after the last step of each sequence
    saved : what the backend needs for its backward pass; None if nothing was to be kept
    path : the path that was taken, as recorded by the loop itself
    """

    y: Array
    last: tuple[Array, ...]
    saved: Any
    path: Path


class Gradients(NamedTuple):
    """The result of a backward pass.

    dx : (T, N, D)
    dstate : for each state (N, H)
    dWx, dWh : in the shapes of the weights
    dslots : (plan.n_da, H), each slot of ``da`` summed over steps and sequences
    dreset : in the form of the call's `reset_state`; None if that is None
    path : as in :class:`Result`
    """

    dx: Array
    dstate: tuple[Array, ...]
    dWx: Array
    dWh: Array
    dslots: Array
    dreset: tuple[Array, ...] | None
    path: Path


class Layout(NamedTuple):
    """A stack of layers of a cell, in one direction or both.

    names : for each layer and direction the keys of ``Wx``, ``Wh``, ``bx``, ``bh`` and the per-unit parameters
    directions : number of directions, 1 or 2
    reverse : whether the only direction runs from the last step to the first
    batch_first : whether the caller's arrays are (N, T, ...)
    """

    cell: Cell
    input_size: int
    hidden_size: int
    names: tuple[tuple[str, ...], ...]
    directions: int
    reverse: bool
    dtype: np.dtype[Any]
    batch_first: bool

    @property
    def num_layers(self) -> int:
        return len(self.names) // self.directions

    def input_of(self, layer: int) -> int:
        """Number of input features of `layer`."""
        return self.directions * self.hidden_size if layer else self.input_size


class Given(NamedTuple):
    """The checked arguments of a call of a stack; states are (num_layers*directions, N, H) for each state of the cell.

    x : (T, N, D), any strides
    state : None for zeros
    flags : (T, N), see :mod:`fastrnn.engine.flags`
    reset_state : None for zeros, or if there are no resets
    draw : the dropout between layers; None for none
    """

    x: Array
    state: tuple[Array, ...] | None
    flags: Flags | None = None
    reset_state: tuple[Array, ...] | None = None
    draw: Draw | None = None


class Need(NamedTuple):
    """Which gradients a backward pass is asked for."""

    x: bool = True
    state: bool = True
    params: bool = True


class Clip(NamedTuple):
    """Clipping of the gradient of a layer's states at each active step, the step's own outputs included.

    bound : of each element's magnitude, or of the Euclidean norm of a sequence's gradient of all states
    by_norm : which of these
    """

    bound: float
    by_norm: bool


class Options(NamedTuple):
    """What a backward pass does beside plain BPTT.

    cuts : where it ends; each direction has them in its own order
    clip : None for none
    per_sequence : whether each sequence has gradients of the parameters of its own: (N, ...)
    """

    cuts: Cuts | None = None
    clip: Clip | None = None
    per_sequence: bool = False


class LayerGradients(NamedTuple):
    """The result of a backward pass of a stack; what was not needed is None or missing.

    dx : (T, N, D)
    dstate : for each state (num_layers*directions, N, H)
    grads : by the keys of the parameters
    dreset : in the form of `dstate`; None if there was no reset state
    """

    dx: Array | None
    dstate: tuple[Array, ...] | None
    grads: dict[str, Array]
    dreset: tuple[Array, ...] | None


class Stack(Protocol):
    """A stack of layers that is ready to run on one backend, on parameters that are not copied."""

    def quick(self, x: Any, state: Any, ndim: int, now: Settings, keep: bool) -> tuple[Array, Any, Any] | None:
        """A short cut for plain calls: outputs, last states and what was kept, or None.

        The arguments are not checked yet, and in the form of the layers' caller; with `ndim` 2, `x` is a single step
        (N, D). None means that they are wrong or unusual: the caller checks them and calls :meth:`forward`, or raises.
        """

    def quick_backward(
        self, saved: Any, dy: Any, dstate: Any, need: Need, into: Any, add: bool
    ) -> tuple[Array | None, Any, dict[str, Any]] | None:
        """A short cut for plain backward passes, with the arguments and results of
        :class:`fastrnn.prepared.Pullback`; None as in :meth:`quick`."""

    def forward(self, given: Given, now: Settings, keep: bool) -> tuple[Array, tuple[Array, ...], Any]:
        """Outputs (T, N, directions*H), last states, and if `keep` what :meth:`backward` needs."""

    def backward(
        self, saved: Any, dy: Array | None, dlast: tuple[Array, ...] | None, options: Options, need: Need
    ) -> LayerGradients:
        """Gradients by `dy` (T, N, directions*H) and `dlast`, states as of a :class:`Given`; None for zeros."""


class Backend(Protocol):
    """Runs plans."""

    name: str

    def supports(self, plan: Plan) -> bool:
        """Whether this backend can run `plan`."""

    def copies(self, call: Call) -> list[str]:
        """Names of the arrays of `call` that are copied first, as they cannot be read in place."""

    def forward_path(self, call: Call) -> Path:
        """The path of :meth:`forward`: a pure function of sizes, strides, threads and precision."""

    def backward_path(self, call: Call) -> Path:
        """The path of :meth:`backward`."""

    def forward(self, call: Call, keep: bool, path: Any = None) -> Result:
        """Run every step of `call`, and keep what :meth:`backward` needs if `keep`.

        `path`, if given, is taken instead of the one that :meth:`forward_path` chooses.
        """

    def backward(
        self,
        call: Call,
        saved: Any,
        dy: Array | None,
        dlast: tuple[Array, ...],
        flags: Flags | None,
        path: Any = None,
        clip: Clip | None = None,
        per_sequence: bool = False,
    ) -> Gradients:
        """Gradients of a loss with ``dL/dy = dy`` (T, N, H) and ``dL/dlast = dlast``.

        flags : those of the call, with the cuts of truncated BPTT
        clip, per_sequence : see :class:`Options`; with the latter, gradients of the parameters are (N, ...)
        """

    def prepare(self, layout: Layout, params: Mapping[str, Array]) -> Stack:
        """A stack on `params`, which have been checked and are not copied: later calls see later changes of them."""
