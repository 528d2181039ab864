"""Stages as the backends run them: with grouped products, and with biases and input projections inside the sums.

A cell adds the projection of a gate, its bias and most products only to each other. So a backend computes one sum that
starts with the bias and has terms from the input and the state, and the elementwise code loads the total.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..cells.expr import Expr, const, make, topological
from ..cells.table import OPERATIONS
from ..engine.plan import Plan, Ref, Stage, Term


class Sum(NamedTuple):
    """What a sum contains besides its products: unit row `row`, and the input projection of gate `gate`."""

    row: int | None = None
    gate: int | None = None


class Product(NamedTuple):
    """A product with one packed panel: ``sums += sources @ matrices``.

    sources : adjacent slots of one buffer, multiplied as one long vector.
    matrices : ``[source][sum]`` blocks of ``Wh``, transposed in a backward stage.
    sums : indices of different sums of the stage; other products of the stage may add to them too.
    """

    sources: tuple[Ref, ...]
    matrices: tuple[tuple[int, ...], ...]
    sums: tuple[int, ...]


@dataclass(frozen=True)
class FusedStage:
    """A stage with grouped products, whose elementwise code loads the sums as ``acc``."""

    sums: tuple[Sum, ...]
    products: tuple[Product, ...]
    code: Stage


def forward_stages(plan: Plan) -> list[FusedStage]:
    """The forward stages of `plan`, with biases and projections inside the sums."""
    return [_fuse(plan, stage) for stage in plan.forward]


def backward_stages(plan: Plan) -> list[FusedStage]:
    """The backward stages of `plan`: there is nothing to fuse, but products are grouped."""
    return [
        FusedStage((Sum(),) * len(stage.products), _grouped(dict(enumerate(stage.products))), stage)
        for stage in plan.backward
    ]


def _fuse(plan: Plan, stage: Stage) -> FusedStage:
    leaf_of = {ref: node for node, ref in stage.loads.items()}
    here = [ref.index for ref in leaf_of if ref.kind == "x"]
    home = {m: row.gate for row in plan.unit_rows for m in row.matrices if row.gate in here}
    gate_row = {row.gate: i for i, row in enumerate(plan.unit_rows) if row.gate is not None}
    own_row = {m: i for i, row in enumerate(plan.unit_rows) if row.gate is None for m in row.matrices}

    # Sums of projections only come first, those of products only last: both kinds of terms have adjacent sums.
    matrix = {acc: terms[0].matrix for acc, terms in enumerate(stage.products)}
    merged = {acc: home[m] for acc, m in matrix.items() if m in home}
    gates = sorted(here, key=lambda g: (g in merged.values(), g))
    alone = [acc for acc in matrix if acc not in merged]
    sums = [Sum(gate_row[g], g) for g in gates] + [Sum(own_row.get(matrix[acc])) for acc in alone]
    place = {acc: gates.index(g) for acc, g in merged.items()}
    place |= {acc: len(gates) + i for i, acc in enumerate(alone)}

    zero = {node for node, ref in stage.loads.items() if ref.kind == "unit" and not plan.unit_rows[ref.index].name}
    zero |= {leaf_of[Ref("acc", acc)] for acc in merged}
    loads = {leaf_of[Ref("x", g)]: Ref("acc", i) for i, g in enumerate(gates)}
    loads |= {leaf_of[Ref("acc", acc)]: Ref("acc", place[acc]) for acc in alone}
    loads |= {n: ref for n, ref in stage.loads.items() if n not in zero and ref.kind not in ("x", "acc")}
    code = Stage((), loads, _without(stage, zero))

    terms: dict[int, list[Term]] = {}
    for acc in sorted(matrix, key=place.__getitem__):
        terms.setdefault(place[acc], []).extend(stage.products[acc])
    return FusedStage(tuple(sums), _grouped(terms), code)


def _without(stage: Stage, zero: set[Expr]) -> tuple[tuple[Ref, Expr], ...]:
    """The stores of `stage` with the leaves `zero` replaced by 0."""
    new: dict[Expr, Expr] = {}
    for node in topological([n for _, n in stage.stores], stop=stage.loads):
        if node in zero:
            new[node] = const(0)
        elif node not in stage.loads and node.op in OPERATIONS:
            new[node] = make(node.op, *(new[a] for a in node.args))
        else:
            new[node] = node
    return tuple((ref, new[node]) for ref, node in stage.stores)


def _grouped(sums: Mapping[int, Sequence[Term]]) -> tuple[Product, ...]:
    """The products for the terms of each sum: adjacent sources are joined, then sums with the same sources."""
    result: list[Product] = []
    for i, terms in sums.items():
        for sources, matrices in _chains(terms):
            for at, other in enumerate(result):
                if other.sources == sources and i not in other.sums:
                    beside = tuple((*row, m) for row, m in zip(other.matrices, matrices, strict=True))
                    result[at] = Product(sources, beside, (*other.sums, i))
                    break
            else:
                result.append(Product(sources, tuple((m,) for m in matrices), (i,)))
    return tuple(result)


def _chains(terms: Sequence[Term]) -> list[tuple[tuple[Ref, ...], tuple[int, ...]]]:
    """Runs of adjacent sources among `terms`, with the matrix of each."""
    chains: list[tuple[tuple[Ref, ...], tuple[int, ...]]] = []
    for source, matrix in sorted(terms):
        sources, matrices = chains[-1] if chains else ((), ())
        # Only for these the padding between one vector and the next is known to be zero.
        if source.kind == "da" and sources and source == Ref("da", sources[-1].index + 1):
            chains[-1] = (*sources, source), (*matrices, matrix)
        else:
            chains.append(((source,), (matrix,)))
    return chains
