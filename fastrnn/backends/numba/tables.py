"""A plan as the numbers by which the compiled loops run it, and where each number stands.

A table is one array of 64-bit integers, made once for a plan, a direction and a type of numbers: a header, then rows of
the stages, of their products, of the biases, and of the terms of the weights' gradients. The header says where each
kind of row begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ... import thresholds
from ...codegen import record
from ...codegen.fused import FusedStage, Product, backward_stages, forward_stages
from ...codegen.llvm import with_products
from ...engine.call import Array
from ...engine.plan import Plan

# The header.
WIDTH, STATES, GATES, MATRICES, KEEPS, SLOTS, CONSTANTS = range(7)
STAGES, STAGES_AT, UNITS, UNITS_AT, USES, USES_AT, GRADS_AT, HEADER = range(7, 15)
# A stage: the address of its code; its sums with products; its products; vectors of units that a tile takes.
CODE, SUMS, PRODUCTS, PRODUCTS_AT, VECTORS, STAGE = range(6)
# A product: place in the record, block in a row, and blocks of a row of its left side; sources; sums, the first of
# these; whether an earlier product has written them; where its matrices stand, [source][sum].
PLACE, BLOCK, BLOCKS, SOURCES, COLUMNS, FIRST, MORE, MATRICES_AT, PRODUCT = range(9)
# A row of the units: its gate, its parameter, or -1; its matrices.
GATE, OWN, BIASES, BIASES_AT, UNIT = range(5)
# A term of dWh: slot of da; the vector, as of a product; the matrix.
SLOT, VECTOR_PLACE, VECTOR_BLOCK, VECTOR_BLOCKS, MATRIX, USE = range(6)

# Places of the record beyond those of `fastrnn.codegen.record`.
MOST_STATES = 16
AFTER = record.STATES + 3 * MOST_STATES  # `da` of the step after
PANELS = AFTER + 1  # packed matrices of each product


class Run(NamedTuple):
    """Sums of a product that stand beside each other and are written or added to alike."""

    product: Product
    matrices: tuple[int, ...]
    first: int
    columns: int
    more: bool


def runs(stage: FusedStage) -> list[Run]:
    """The products of `stage`, none with more sums than a tile has columns."""
    column = {sum: i for i, sum in enumerate(with_products(stage))}
    written: set[int] = set()
    result: list[Run] = []
    for product in stage.products:
        found: list[list[int]] = []
        for i in sorted(range(len(product.sums)), key=lambda i: column[product.sums[i]]):
            now = column[product.sums[i]]
            last = column[product.sums[found[-1][-1]]] if found else -2
            alike = found and (now in written) == (last in written) and len(found[-1]) < thresholds.TILE_COLUMNS
            if alike and now == last + 1:
                found[-1].append(i)
            else:
                found.append([i])
        for group in found:
            first = column[product.sums[group[0]]]
            matrices = tuple(row[i] for row in product.matrices for i in group)
            result.append(Run(product, matrices, first, len(group), first in written))
        written |= {column[sum] for sum in product.sums}
    return result


def unit_vectors(columns: int) -> int:
    """Vectors of units that a tile takes of so many sums each: 4, 2 or 1."""
    return next(n for n in (4, 2, 1) if n * columns <= max(columns, thresholds.TILE_COLUMNS))


@dataclass(frozen=True)
class Table:
    """One direction of a plan.

    numbers : the table
    panels : elements of the packed matrices are ``panels[0] * Hp * Hp + panels[1] * H * Hp``
    scratch : vectors that the sums of a tile may take
    products : how many there are
    """

    numbers: Array
    panels: tuple[int, int]
    scratch: int
    products: int


def make_table(plan: Plan, backward: bool, width: int, codes: Sequence[int], constants: int) -> Table:
    """The table of one direction, given the addresses of its stages' code and of the cell's constants."""
    stages = backward_stages(plan) if backward else forward_stages(plan)
    by_stage = [runs(stage) for stage in stages]
    flat = [(i, run) for i, found in enumerate(by_stage) for run in found]
    numbers = _Numbers(HEADER)
    numbers.set(0, [width, plan.n_states, plan.n_gates, plan.n_matrices, plan.n_keep, plan.n_da, constants])
    products_at = numbers.rows(_product(plan, run, numbers, backward and i == 0) for i, run in flat)
    rows, scratch = [], 1
    for stage, code, found in zip(stages, codes, by_stage, strict=True):
        vectors = unit_vectors(max((run.columns for run in found), default=1))
        sums = len(with_products(stage))
        scratch = max(scratch, sums * vectors * max(thresholds.TILE_ROWS))
        rows.append([code, sums, len(found), products_at, vectors])
        products_at += PRODUCT * len(found)
    numbers.set(STAGES, [len(stages), numbers.rows(rows)])
    numbers.set(UNITS, [len(plan.unit_rows), numbers.rows(_units(plan, numbers))])
    numbers.set(USES, [len(plan.products), numbers.rows(_uses(plan))])
    column = {sum: i for i, sum in enumerate(with_products(stages[0]))}
    numbers.set(GRADS_AT, [numbers.rows([[-1 if acc is None else column[acc]] for acc in plan.grad_acc if backward])])
    wide = sum((len(run.product.sources) - 1) * run.columns for _, run in flat)
    return Table(np.array(numbers, np.int64), (wide, sum(run.columns for _, run in flat)), scratch, len(flat))


class _Numbers(list[int]):
    """A table while it grows."""

    def __init__(self, header: int) -> None:
        super().__init__([0] * header)

    def set(self, at: int, values: Sequence[int]) -> None:
        self[at : at + len(values)] = values

    def rows(self, rows: Iterable[Sequence[int]]) -> int:
        """Where the first of `rows` stands, which come after all that they bring along."""
        made = list(rows)
        at = len(self)
        for row in made:
            self.extend(row)
        return at


def _source(plan: Plan, kind: str, index: int) -> list[int]:
    """Place in the record, block in a row, and blocks of a row."""
    if kind == "prev":
        return [record.STATES + 3 * index + record.PREV, 0, 1]
    if kind == "keep":
        return [record.KEEP, index, plan.n_keep]
    return [record.DA, index, plan.n_da]


def _product(plan: Plan, run: Run, numbers: _Numbers, after: bool) -> list[int]:
    place, block, blocks = _source(plan, *run.product.sources[0])
    matrices_at = numbers.rows([run.matrices])
    own = [AFTER if after else place, block, blocks, len(run.product.sources), run.columns, run.first]
    return [*own, int(run.more), matrices_at]


def _units(plan: Plan, numbers: _Numbers) -> list[list[int]]:
    names = [row.name for row in plan.unit_rows if row.name]
    return [
        [
            -1 if row.gate is None else row.gate,
            names.index(row.name) if row.name else -1,
            len(row.matrices),
            numbers.rows([row.matrices]),
        ]
        for row in plan.unit_rows
    ]


def _uses(plan: Plan) -> list[list[int]]:
    return [[p.slot, *_source(plan, *p.vector), p.matrix] for p in plan.products]


def tile_shapes() -> list[tuple[int, int, int]]:
    """Rows, columns and parts of the depth of every tile."""
    rows = sorted({*thresholds.TILE_ROWS, 4, 2, 1})
    shapes = [(r, c) for c in range(1, thresholds.TILE_COLUMNS + 1) for r in rows if r <= most_rows(c)]
    return [(r, c, max(1, thresholds.SUMS_UNDER_WAY // (r * c))) for r, c in shapes]


def most_rows(columns: int) -> int:
    """Rows of the largest tile of so many columns."""
    return thresholds.TILE_ROWS[1] if columns < thresholds.TILE_COLUMNS else thresholds.TILE_ROWS[0]


def tile_addresses(addresses: dict[str, Any]) -> Array:
    """The addresses of the tiles, at ``rows * 8 + columns``."""
    table = np.zeros(8 * (max(thresholds.TILE_ROWS) + 1), np.int64)
    for rows, columns, _ in tile_shapes():
        table[rows * 8 + columns] = addresses[f"tile_{rows}x{columns}"]
    return table
