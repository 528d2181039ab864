"""Which values the forward pass keeps for the backward pass: a minimum vertex cut of the expression graph.

The backward step needs some values of the forward step. Each of them is either kept or recomputed from values that are
kept; results of transcendental functions and of matrix products are never recomputed. The smallest sufficient set
separates everything that cannot be recomputed from everything that is needed. By Menger's theorem it is found as a
maximum flow in which each vertex carries at most one unit (Ford & Fulkerson 1956).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import pairwise

from ..cells.expr import Expr, children
from ..cells.table import OPERATIONS

# Node i of the graph is split into an entry vertex 2*i and an exit vertex 2*i + 1.
_SOURCE, _SINK = -1, -2
_Capacity = dict[int, dict[int, int]]
_MANY = 1 << 30


def never_again(node: Expr) -> bool:
    """Whether `node` costs too much to be computed twice, or is not computed at all."""
    return node.op in ("x", "product") or (node.op in OPERATIONS and OPERATIONS[node.op].transcendental)


def minimum_kept(order: Iterable[Expr], needed: Collection[Expr], free: Collection[Expr]) -> list[Expr]:
    """The smallest set of nodes of `order` from which `needed` can be recomputed.

    Parameters
    ----------
    order : iterable of Expr
        The forward graph.
    needed : collection of Expr
        Nodes whose values the backward step uses.
    free : collection of Expr
        Nodes that are available anyway: old and new states, per-unit parameters, constants.

    Returns
    -------
    list of Expr
        In the order of `order`.
    """
    nodes = [n for n in order if n not in free]
    number = {n: i for i, n in enumerate(nodes)}
    capacity: _Capacity = {_SOURCE: {}, _SINK: {}}

    def edge(a: int, b: int, amount: int) -> None:
        capacity.setdefault(a, {})[b] = amount
        capacity.setdefault(b, {}).setdefault(a, 0)

    for n, i in number.items():
        edge(2 * i, 2 * i + 1, 1)
        if never_again(n):
            edge(_SOURCE, 2 * i, _MANY)
        else:
            for child in children(n):
                if child in number:
                    edge(2 * number[child] + 1, 2 * i, _MANY)
        if n in needed:
            edge(2 * i + 1, _SINK, _MANY)

    while path := _augmenting_path(capacity):
        for a, b in pairwise(path):
            capacity[a][b] -= 1
            capacity[b][a] += 1
    sink_side = _reaching_sink(capacity)
    # Among the minimum cuts this is the one nearest the sink: it recomputes least.
    return [n for n, i in number.items() if 2 * i + 1 in sink_side and 2 * i not in sink_side]


def _augmenting_path(capacity: _Capacity) -> list[int]:
    parent: dict[int, int] = {_SOURCE: _SOURCE}
    stack = [_SOURCE]
    while stack:
        a = stack.pop()
        for b, left in capacity[a].items():
            if left > 0 and b not in parent:
                parent[b] = a
                stack.append(b)
    if _SINK not in parent:
        return []
    path = [_SINK]
    while path[-1] != _SOURCE:
        path.append(parent[path[-1]])
    return path[::-1]


def _reaching_sink(capacity: _Capacity) -> set[int]:
    reached = {_SINK}
    stack = [_SINK]
    while stack:
        b = stack.pop()
        for a in capacity[b]:
            if a not in reached and capacity[a][b] > 0:
                reached.add(a)
                stack.append(a)
    return reached
