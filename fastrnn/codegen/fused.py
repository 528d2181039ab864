"""Stages for compiled targets: every sum of products begins with its bias and takes in the input's projection.

The cell adds a gate's projection, its bias and most products only ever to each other. Compiled code need not
see them apart: one sum begins with the bias and runs over the input and over the state, and the elementwise
code loads the total.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ..cells.expr import BINARY, UNARY, Expr, const, make, topological
from ..engine.plan import Plan, Ref, Stage


class Sum(NamedTuple):
    """What a sum holds besides its products: row `row` of the units, projection of gate `gate`."""

    row: int | None = None
    gate: int | None = None


class Product(NamedTuple):
    """A product that one packed panel serves: ``sums += sources @ matrices``.

    sources : neighbouring slots of one buffer, multiplied as one long vector.
    matrices : ``[source][sum]`` blocks of ``Wh``, transposed in a backward stage.
    sums : numbers of the sums in the stage.
    """

    sources: tuple[Ref, ...]
    matrices: tuple[tuple[int, ...], ...]
    sums: tuple[int, ...]


@dataclass(frozen=True)
class FusedStage:
    """A stage whose products are grouped, and whose elementwise code loads totals as ``acc``."""

    sums: tuple[Sum, ...]
    products: tuple[Product, ...]
    code: Stage


def forward_stages(plan: Plan) -> list[FusedStage]:
    """The forward stages of `plan`, with biases and projections inside the sums."""
    return [_fuse(plan, stage) for stage in plan.forward]


def backward_stages(plan: Plan) -> list[FusedStage]:
    """The backward stages of `plan`: nothing to fuse, products grouped."""
    return [FusedStage((Sum(),) * len(s.products), tuple(_by_sum(s.products)), s) for s in plan.backward]


def _fuse(plan: Plan, stage: Stage) -> FusedStage:
    leaf_of = {ref: node for node, ref in stage.loads.items()}
    here = [ref.index for ref in leaf_of if ref.kind == "x"]
    home = {m: row.gate for row in plan.unit_rows for m in row.matrices if row.gate in here}
    gate_row = {row.gate: i for i, row in enumerate(plan.unit_rows) if row.gate is not None}
    own_row = {m: i for i, row in enumerate(plan.unit_rows) if row.gate is None for m in row.matrices}

    # Projections alone first, products alone last: both kinds of terms then meet neighbouring sums.
    matrix = {acc: terms[0].matrix for acc, terms in enumerate(stage.products)}
    merged = {acc: home[m] for acc, m in matrix.items() if m in home}
    gates = sorted(here, key=lambda g: (g in merged.values(), g))
    alone = [acc for acc, m in matrix.items() if m not in home]
    sums = [Sum(gate_row[g], g) for g in gates] + [Sum(own_row.get(matrix[acc])) for acc in alone]
    place = {acc: gates.index(g) for acc, g in merged.items()}
    place |= {acc: len(gates) + i for i, acc in enumerate(alone)}

    zero = {node for node, ref in stage.loads.items() if ref.kind == "unit" and not plan.unit_rows[ref.index].name}
    zero |= {leaf_of[Ref("acc", acc)] for acc in merged}
    loads = {leaf_of[Ref("x", g)]: Ref("acc", i) for i, g in enumerate(gates)}
    loads |= {leaf_of[Ref("acc", acc)]: Ref("acc", place[acc]) for acc in alone}
    loads |= {n: ref for n, ref in stage.loads.items() if n not in zero and ref.kind not in ("x", "acc")}
    code = Stage((), loads, _without(stage, zero))

    products = []
    for source in dict.fromkeys(terms[0].source for terms in stage.products):
        accs = [acc for acc, terms in enumerate(stage.products) if terms[0].source == source]
        while accs:
            # A product adds to a sum once; a second matrix of the same source and gate is a product of its own.
            first = {place[acc]: acc for acc in reversed(accs)}
            products.append(Product((source,), (tuple(matrix[first[s]] for s in sorted(first)),), tuple(sorted(first))))
            accs = [acc for acc in accs if acc not in first.values()]
    return FusedStage(tuple(sums), tuple(products), code)


def _without(stage: Stage, zero: set[Expr]) -> tuple[tuple[Ref, Expr], ...]:
    """The stores of `stage` with the leaves `zero` taken for 0."""
    new: dict[Expr, Expr] = {}
    for node in topological([n for _, n in stage.stores], stop=stage.loads):
        if node in zero:
            new[node] = const(0)
        elif node not in stage.loads and (node.op in UNARY or node.op in BINARY):
            new[node] = make(node.op, *(new[a] for a in node.args))
        else:
            new[node] = node
    return tuple((ref, new[node]) for ref, node in stage.stores)


def _by_sum(products: tuple[tuple[tuple[Ref, int], ...], ...]) -> list[Product]:
    """For each sum its terms, neighbouring sources joined."""
    result: list[Product] = []
    for i, terms in enumerate(products):
        begin = len(result)
        for source, matrix in sorted(terms):
            last = result[-1] if len(result) > begin else None
            if last and source == Ref(source.kind, last.sources[-1].index + 1):
                result[-1] = Product((*last.sources, source), (*last.matrices, (matrix,)), (i,))
            else:
                result.append(Product((source,), ((matrix,),), (i,)))
    return result
