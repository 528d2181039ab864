"""Units that no longer answer: saturated sigmoids and tanhs, relus that are never active."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Array
from ..cells import Cell
from ..cells.expr import Expr, topological
from ..cells.table import OPERATIONS
from ..engine.flags import HOLD, RESET
from ..model import Model
from ..recurrent import Recurrent
from .unrolled import Run, unroll

# Lowest and highest value.
_RANGES = {"sigmoid": (0.0, 1.0), "hard_sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}
# Numbers of one vector that are looked at together: bounds the memory.
_CHUNK = 1 << 18


@dataclass(frozen=True)
class NodeActivity:
    """What one nonlinearity of a cell does, over all active steps and sequences.

    Attributes
    ----------
    layer : str
        ``l0``, ``l1_reverse``; ``1.l0`` in a model.
    node : str
        The nonlinearity and what is in it: ``sigmoid(f)`` for gate f, ``tanh(c)`` for state c.
    kind : str
        ``sigmoid``, ``hard_sigmoid``, ``tanh`` or ``relu``.
    low, high : (H,) arrays
        Share of the time that each unit is at the lower or upper end; of a relu the share that it is 0, and 0.
    """

    layer: str
    node: str
    kind: str
    low: Array
    high: Array

    @property
    def saturated(self) -> float:
        """Share of units and steps at either end; 0 for a relu."""
        return 0.0 if self.kind == "relu" else float((self.low + self.high).mean())

    @property
    def dead(self) -> float:
        """Share of units that are never active; 0 for what is no relu."""
        return float((self.low == 1).mean()) if self.kind == "relu" else 0.0


@dataclass(frozen=True)
class Activity:
    """Every sigmoid, tanh and relu of the recurrent layers, from below; and where saturation begins."""

    nodes: tuple[NodeActivity, ...]
    threshold: float

    def __str__(self) -> str:
        lines: dict[str, list[str]] = {}
        for node in self.nodes:
            share = f"{node.dead:.0%} dead" if node.kind == "relu" else f"{node.saturated:.0%} saturated"
            lines.setdefault(node.layer, []).append(f"{node.node} {share}")
        return "\n".join(f"{layer}: {', '.join(nodes)}" for layer, nodes in lines.items())


def activity(
    layer: Recurrent | Model,
    x: Array,
    state: Any = None,
    lengths: Any = None,
    *,
    mask: Any = None,
    resets: Any = None,
    threshold: float = 0.95,
) -> Activity:
    """Share of saturated and of dead units at every sigmoid, tanh and relu of the cells.

    A unit is saturated where its sigmoid or tanh is beyond `threshold` of its range, counted from the middle: a tanh
    beyond ±0.95, a sigmoid below 0.025 or above 0.975; hardly any gradient passes there. A relu is dead that is 0 at
    every step: no gradient ever passes.

    Parameters
    ----------
    layer : Recurrent or Model
        Nothing of it changes; computed in float64, without dropout.
    x, state, lengths, mask, resets
        As of a call; inactive steps do not count.
    threshold : float
        Above 0 and below 1.

    Returns
    -------
    Activity
        Empty if the cells have none of these.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 < threshold < 1:
        raise ValueError(f"threshold: expected a number above 0 and below 1, got {threshold!r}")
    unrolled = unroll(layer, x, state, lengths, mask, resets, dtype=np.float64)
    return Activity(tuple(node for run in unrolled.runs() for node in _of_run(run, threshold)), float(threshold))


def _of_run(run: Run, threshold: float) -> list[NodeActivity]:
    cell, H = run.prepared.layout.cell, run.prepared.layout.hidden_size
    nodes = node_names(cell)
    low, high = ({n: np.zeros(H) for n in nodes} for _ in range(2))
    count = 0
    for x, states in _chunks(run):
        count += len(x)
        values = evaluate(cell, run.prepared.params, x, states)
        for n in nodes:
            value = np.broadcast_to(values[n], (len(x), H))
            ends = _ends(n.op, threshold)
            low[n] += (value <= ends[0]).sum(axis=0)
            high[n] += (value >= ends[1]).sum(axis=0)
    per = max(count, 1)
    return [NodeActivity(run.name, name, n.op, low[n] / per, high[n] / per) for n, name in nodes.items()]


def _ends(op: str, threshold: float) -> tuple[float, float]:
    if op == "relu":
        return 0.0, np.inf
    least, most = _RANGES[op]
    middle, half = (least + most) / 2, (most - least) / 2
    return middle - threshold * half, middle + threshold * half


def _chunks(run: Run) -> Iterator[tuple[Array, list[Array]]]:
    """Inputs (rows, D) of active steps and the states (rows, H) that enter them, some steps at a time."""
    T, N, _ = run.x.shape
    steps = max(1, _CHUNK // (N * run.prepared.layout.hidden_size))
    for start in range(0, T, steps):
        part = slice(start, min(T, start + steps))
        states = [np.concatenate([s[k] for s in run.states[part]]) for k in range(len(run.state_names))]
        x = run.x[part]
        if run.flags is None:
            yield x.reshape(-1, x.shape[2]), [s.reshape(-1, s.shape[2]) for s in states]
            continue
        flags = run.flags[part]
        states = [np.where(((flags & RESET) != 0)[..., None], 0, s) for s in states]
        active = (flags & HOLD) == 0
        yield x[active], [s[active] for s in states]


def evaluate(cell: Cell, params: Any, x: Array, states: list[Array]) -> dict[Expr, Any]:
    """The value (rows, H) of every expression of one step, for `params` of a single layer."""
    H = states[0].shape[1]

    def block(name: str, i: int) -> Any:
        return params[name][..., i * H : (i + 1) * H] if name in params else 0.0

    values: dict[Expr, Any] = {}
    for node in topological(list(cell.outputs)):
        args = node.args
        if node.op == "const":
            values[node] = args[0]
        elif node.op == "x":
            gate = cell.gates.index(args[0])
            values[node] = x @ block("Wx_l0", gate) + block("bx_l0", gate)
        elif node.op == "state":
            values[node] = states[cell.states.index(args[0])]
        elif node.op == "unit":
            values[node] = params[f"{args[0]}_l0"]
        elif node.op == "product":
            matrix = cell.recurrent.index(args[0])
            values[node] = values[args[1]] @ block("Wh_l0", matrix) + block("bh_l0", matrix)
        else:
            values[node] = OPERATIONS[node.op].numpy(*(values[a] for a in args))
    return values


def node_names(cell: Cell) -> dict[Expr, str]:
    """Every sigmoid, tanh and relu of a cell with a name: by the state or the gate that is in it, or by number."""
    named: dict[Expr, tuple[int, str]] = {}
    for node in topological(list(cell.outputs)):
        if node.op not in _RANGES and node.op != "relu":
            continue
        inside = node.args[0]
        outputs = [name for name, output in zip(cell.states, cell.outputs, strict=True) if output is inside]
        gates = [] if outputs else list(dict.fromkeys(_gates(inside)))
        label = " + ".join(outputs or gates) or f"#{1 + len(named)}"
        named[node] = (cell.gates.index(gates[0]) if gates else len(cell.gates), f"{node.op}({label})")
    # In the order of the gates, as the cell's equations have it.
    return {node: name for node, (_, name) in sorted(named.items(), key=lambda item: item[1][0])}


def _gates(node: Expr) -> Iterator[str]:
    """Names of the gates among the summands of `node`."""
    if node.op == "x":
        yield node.args[0]
    elif node.op in ("add", "sub", "neg"):
        for arg in node.args:
            yield from _gates(arg)
