"""A plan as a table of integers that the compiled loops read, and the position of each entry.

A table is one array of 64-bit integers, made once for a plan, a pass and a dtype: a header, followed by rows for the
stages, their products, the unit rows, and the terms of the gradients of the weights. The header says where each kind of
row begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...codegen import record
from ...codegen.fused import FusedStage, Product, backward_stages, forward_stages
from ...codegen.llvm import with_products
from ...engine.contract import Array
from ...engine.plan import Plan
from ...thresholds import SUMS_UNDER_WAY, TILE_COLUMNS, TILE_COLUMNS_ALONE, TILE_ROWS

# The header. STAGES_END is where the stages end; UNITS_ROWS, USES, ALL_PRODUCTS are numbers of rows.
STATES_COUNT, GATES, MATRICES, KEEPS, SLOTS, CONSTANTS_AT, SCRATCH = range(7)
STAGES_AT, STAGES_END, UNITS_AT, UNITS_ROWS, USES_AT, USES, PRODUCTS_FROM, ALL_PRODUCTS, GRADS_AT, HEADER = range(7, 17)
# A stage: address of its code; number of sums that have products; number and position of its products; vectors of
# hidden units in a tile, and in a tile of a single sequence.
CODE, SUMS, PRODUCTS, PRODUCTS_AT, VECTORS, VECTORS_ALONE, STAGE = range(7)
# A product: entry of the record, block in a row and blocks of a row of its left operand; number of sources; number of
# sums and the first of them; whether an earlier product has written them; position of its matrices, [source][sum]; its
# stage.
PLACE, BLOCK, BLOCKS, SOURCES, COLUMNS, FIRST, MORE, MATRICES_AT, OF_STAGE, PRODUCT = range(10)
# A unit row: its gate or -1; its per-unit parameter or -1; number and position of its recurrent biases.
GATE, OWN, BIASES, BIASES_AT, UNIT = range(5)
# A term of dWh: slot of da; the vector, in the form of a product's left operand; the matrix.
SLOT, VECTOR_PLACE, VECTOR_BLOCK, VECTOR_BLOCKS, MATRIX, USE = range(6)

# Entries of the record beyond those of `fastrnn.codegen.record`.
MOST_STATES = 16
AFTER = record.STATES + 3 * MOST_STATES  # `da` of the step after
PANELS = AFTER + 1  # packed matrices of each product


class Run(NamedTuple):
    """Adjacent sums of a product that are all written, or all added to."""

    product: Product
    matrices: tuple[int, ...]
    first: int
    columns: int
    more: bool


def runs(stage: FusedStage) -> list[Run]:
    """The products of `stage`, split so that none has more sums than a tile has columns."""
    column = {sum: i for i, sum in enumerate(with_products(stage))}
    written: set[int] = set()
    result: list[Run] = []
    for product in stage.products:
        found: list[list[int]] = []
        for i in sorted(range(len(product.sums)), key=lambda i: column[product.sums[i]]):
            now = column[product.sums[i]]
            last = column[product.sums[found[-1][-1]]] if found else -2
            alike = found and (now in written) == (last in written) and len(found[-1]) < TILE_COLUMNS
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


def unit_vectors(columns: int, most: int) -> int:
    """Vectors of hidden units, a power of 2, in a tile of at most `most` columns for `columns` sums."""
    return next(n for n in (8, 4, 2, 1) if n * columns <= max(columns, most))


@dataclass(frozen=True)
class Table:
    """One pass of a plan.

    numbers : the table
    panels : the packed matrices have ``panels[0] * Hp * Hp + panels[1] * H * Hp`` elements
    scratch : vectors of the sums of a tile, at most
    products : number of products
    """

    numbers: Array
    panels: tuple[int, int]
    scratch: int
    products: int


def make_table(plan: Plan, backward: bool, codes: Sequence[int], constants: int) -> Table:
    """The table of one pass, from the addresses of its stages' code and of the cell's constants."""
    stages = backward_stages(plan) if backward else forward_stages(plan)
    numbers = _Numbers(HEADER)
    header = {
        STATES_COUNT: plan.n_states, GATES: plan.n_gates, MATRICES: plan.n_matrices, KEEPS: plan.n_keep,
        SLOTS: plan.n_da, CONSTANTS_AT: constants, UNITS_ROWS: len(plan.unit_rows), USES: len(plan.weight_terms),
    }  # fmt: skip
    by_stage = [runs(stage) for stage in stages]
    widest = [max((run.columns for run in found), default=1) for found in by_stage]
    several, alone = ([unit_vectors(n, most) for n in widest] for most in (TILE_COLUMNS, TILE_COLUMNS_ALONE))
    flat = [(i, run) for i, found in enumerate(by_stage) for run in found]
    at = numbers.rows([*_product(plan, run, numbers, backward and i == 0), i] for i, run in flat)
    header |= {PRODUCTS_FROM: at, ALL_PRODUCTS: len(flat)}
    rows = []
    for stage, code, found, *vectors in zip(stages, codes, by_stage, several, alone, strict=True):
        rows.append([code, len(with_products(stage)), len(found), at, *vectors])
        at += PRODUCT * len(found)
    header[STAGES_AT] = numbers.rows(rows)
    header[STAGES_END] = header[STAGES_AT] + STAGE * len(stages)
    header[UNITS_AT] = numbers.rows(_units(plan, numbers))
    header[USES_AT] = numbers.rows(_uses(plan))
    column = {sum: i for i, sum in enumerate(with_products(stages[0]))}
    header[GRADS_AT] = numbers.rows([[-1 if acc is None else column[acc]] for acc in plan.grad_acc if backward])
    # For the sums of a tile, and for the gradient of the input if its columns do not fill whole vectors.
    most = max(TILE_ROWS)
    sums = [len(with_products(stage)) * most * max(v) for stage, *v in zip(stages, several, alone, strict=True)]
    header[SCRATCH] = max(TILE_COLUMNS * most, *sums)
    for place, value in header.items():
        numbers[place] = value
    wide = sum((len(run.product.sources) - 1) * run.columns for _, run in flat)
    panels = wide, sum(run.columns for _, run in flat)
    return Table(np.array(numbers, np.int64), panels, header[SCRATCH], len(flat))


class _Numbers(list[int]):
    """A table while it grows."""

    def __init__(self, header: int) -> None:
        super().__init__([0] * header)

    def rows(self, rows: Iterable[Sequence[int]]) -> int:
        """Append `rows`, after the rows that making them appends; returns the position of the first."""
        made = list(rows)
        at = len(self)
        for row in made:
            self.extend(row)
        return at


def _source(plan: Plan, kind: str, index: int) -> list[int]:
    """Entry of the record, block in a row, and blocks of a row."""
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
    return [[p.slot, *_source(plan, *p.vector), p.matrix] for p in plan.weight_terms]


def tile_shapes() -> list[tuple[int, int, int]]:
    """Rows, columns and parts of the depth of every size of tile."""
    rows = sorted({*TILE_ROWS, 4, 2, 1})
    shapes = [(r, c) for c in range(1, TILE_COLUMNS + 1) for r in rows if r <= most_rows(c)]
    # Wider tiles hold a power of 2 of vectors for each sum.
    shapes += [(1, c) for c in range(TILE_COLUMNS + 1, TILE_COLUMNS_ALONE + 1) if c % 2 == 0]
    return [(r, c, max(1, SUMS_UNDER_WAY // (r * c))) for r, c in shapes]


def most_rows(columns: int) -> int:
    """Rows of the largest tile with `columns` columns."""
    return TILE_ROWS[1] if columns < TILE_COLUMNS else TILE_ROWS[0]


def tile_addresses(addresses: dict[str, Any]) -> Array:
    """The addresses of the tiles, at ``rows * 16 + columns``."""
    table = np.zeros(16 * (max(TILE_ROWS) + 1), np.int64)
    for rows, columns, _ in tile_shapes():
        table[rows * 16 + columns] = addresses[f"tile_{rows}x{columns}"]
    return table
