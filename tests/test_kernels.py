"""The C++ engine's kernels one by one: microkernel, packing, products over many steps, memory, threads.

The references here are a few lines of NumPy, and say what a kernel promises. Numbers are whole and so small that every
sum of them is exact: results are the same bit for bit, in whatever order they were added.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from bf16 import product, split
from kernel_library import VARIANTS, Engine, Kernels, Placed


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = Engine(tmp_path_factory.mktemp("kernels"))
    yield engine
    engine.close()


def of_all(*formats: str, storage: bool = False) -> Any:
    """A fixture: kernels of every instruction set, for those of its formats of operands that are given.

    storage : also for formats that the instruction set only packs
    """
    pairs = []
    for name in VARIANTS:
        split = {"amx": 3, "avx512bf16": 3 if storage else 1}.get(name, 0)
        has = [f"bf16 x {parts}" for parts in range(1, split + 1)] or ["float32", "float64"]
        pairs += [(name, format) for format in has if format in formats]

    @pytest.fixture(scope="module", params=pairs, ids="-".join)
    def kernels(request: pytest.FixtureRequest, engine: Engine) -> Kernels:
        return engine.kernels(*request.param)

    return kernels


PLAIN, SPLIT = ("float32", "float64"), ("bf16 x 1", "bf16 x 2", "bf16 x 3")
kernels = of_all(*PLAIN, *SPLIT)
plain = of_all(*PLAIN)
storage = of_all(*PLAIN, *SPLIT, storage=True)
splitting = of_all(*SPLIT, storage=True)


# Bits of the numbers on both sides of a product: sums of 40 are exact in float32, and split numbers have several parts.
BITS = {0: [(3, 3)], 1: [(3, 3)], 2: [(9, 9), (15, 2), (2, 15)], 3: [(9, 9), (17, 1), (1, 17)]}


def whole(k: Kernels, rng: np.random.Generator, shape: Sequence[int], bits: int = 3) -> np.ndarray:
    """Whole numbers of so many bits, with a sign."""
    most = 2**bits - 1
    return rng.integers(-most, most, tuple(shape), endpoint=True).astype(k.dtype)


def items(k: Kernels, a: np.ndarray) -> np.ndarray:
    """Numbers (..., depth) as operands (parts, ..., items), zeros after the last.

    An operand is a number as it is, or two bf16 numbers that are neighbours along the depth, the first in the low half.
    Of three parts, the numbers are those of 2**24 times as large ones: none of them is then too small for bf16.
    """
    if not k.bf16:
        return a[None]
    depth = a.shape[-1]
    a = np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, -depth % k.whole_numbers)])
    parts = np.array(split(a * np.float32(2**24 if k.bf16 == 3 else 1), k.bf16))
    halves = (parts.view(np.uint32) >> 16).astype(np.uint16)
    return np.ascontiguousarray(halves).view("<i4")


def right_side(k: Kernels, B: np.ndarray) -> np.ndarray:
    """Numbers (depth, sums, columns) as operands (parts, items, sums, columns)."""
    return np.ascontiguousarray(np.moveaxis(items(k, np.moveaxis(B, 0, -1)), -1, 1))


def left_side(k: Kernels, a: np.ndarray, gap: int = 0) -> Placed:
    """Numbers (rows, depth) as rows of operands, part after part, `gap` apart."""
    rows = np.moveaxis(items(k, a), 0, 1).reshape(len(a), -1)
    return Placed(rows, (rows.shape[1] + gap, 1))


def blocks(first: int, last: int, vectors: int, width: int) -> list[tuple[int, int]]:
    """First column and vectors of the blocks of a range: as many vectors as may be, then half as many, down to one."""
    found = []
    while first < last:
        while vectors * width > last - first:
            vectors //= 2
        found.append((first, vectors))
        first += vectors * width
    return found


def strided(shape: tuple[int, int], order: str) -> tuple[int, int]:
    """Strides of a matrix whose rows lie along memory, whose columns do, or neither; with gaps."""
    rows, columns = shape
    return {"rows": (columns + 3, 1), "columns": (1, rows + 3), "neither": (2, 2 * rows + 3)}[order]


ORDERS = ("rows", "columns", "neither")


def sizes(k: Kernels) -> list[int]:
    """Numbers of columns on, below and above whole vectors."""
    W = k.width
    return sorted({1, W - 1, W, W + 1, 2 * W, 3 * W + 2, 7 * W, 11 * W - 1} - {0})


# --- vectors ---


def test_heads_of_vectors_touch_nothing_beyond(plain: Kernels) -> None:
    k, W, rng = plain, plain.width, np.random.default_rng(0)
    vector = rng.standard_normal(W).astype(k.dtype)
    for count in range(-2, W + 3):
        inside = min(max(count, 0), W)
        head = Placed(vector[:inside])
        loaded = Placed(np.ones(W, k.dtype))
        k.run("load_head", k.format, head, count, loaded)
        loaded.assert_holds(np.append(vector[:inside], np.zeros(W - inside, k.dtype)), f"load {count}")
        stored = Placed(np.ones(inside, k.dtype))
        k.run("store_head", k.format, stored, Placed(vector), count)
        stored.assert_holds(vector[:inside], f"store {count}")
        masked = Placed(np.ones(W, k.dtype))
        k.run("head_mask", k.format, max(count, 0), Placed(vector), masked)
        masked.assert_holds(np.append(vector[:inside], np.zeros(W - inside, k.dtype)), f"mask {count}")


def test_rows_are_copied_and_nothing_beyond(plain: Kernels) -> None:
    k = plain
    for count in range(3 * k.width + 2):
        row = np.arange(1, count + 1, dtype=k.dtype)
        copy = Placed(np.zeros(count, k.dtype))
        k.run("copy_row", k.format, copy, Placed(row), count)
        copy.assert_holds(row)


def test_transpose(plain: Kernels) -> None:
    k, W = plain, plain.width
    square = np.arange(W * W, dtype=k.dtype).reshape(W, W)
    placed = Placed(square)
    k.run("transpose", k.format, placed)
    placed.assert_holds(square.T)


# --- operands ---


def test_numbers_are_split_to_the_nearest(splitting: Kernels) -> None:
    k, W, rng = splitting, splitting.width, np.random.default_rng(0)
    numbers = (rng.standard_normal((2, W)) * 2.0 ** rng.integers(-60, 60, (2, W))).astype("f4")
    numbers[:, 0] = 0
    numbers[:, 1] = 1 + 2.0**-8  # as near to two: the even one is taken
    numbers[:, 2] = -1 - 3 * 2.0**-8
    numbers[:, 3] = 1 - 2.0**-24
    out = Placed(np.zeros((k.parts, W), "i4"))
    k.run("across", k.format, Placed(numbers[0]), Placed(numbers[1]), out)
    expected = items(k, np.pad(numbers.T, [(0, 0), (0, k.whole_numbers - 2)]))
    out.assert_holds(expected[:, :, 0])
    row = numbers.ravel()
    for count in range(2 * W + 1):
        out = Placed(np.zeros((k.parts, W), "i4"))
        k.run("along", k.format, Placed(row[:count]), count, out)
        head = np.append(row[:count], np.zeros(2 * k.whole_numbers + 2 * W - count, "f4"))
        out.assert_holds(items(k, head)[:, :W], f"{count} numbers")


def test_what_is_left_of_an_infinite_number_is_zero(splitting: Kernels) -> None:
    k = splitting
    largest = np.float32(3.4e38)  # to the nearest bf16 number, which is infinite
    row = np.array([np.inf, -np.inf, largest, -largest], "f4")
    out = Placed(np.zeros((k.parts, k.width), "i4"))
    k.run("along", k.format, Placed(row), len(row), out)
    halves = out.view.view("<u2")[:, :4]
    np.testing.assert_array_equal(halves[0], [0x7F80, 0xFF80, 0x7F80, 0xFF80])
    assert not halves[1:].any()


def test_rows_of_operands(splitting: Kernels) -> None:
    k, rng = splitting, np.random.default_rng(0)
    for depth in (0, 1, 2, 31, 32, 33, 70):
        a = rng.standard_normal((3, depth)).astype("f4")
        want = left_side(k, a)
        out, row = Placed(np.zeros(want.shape, "i4")), np.zeros(1, np.int64)
        k.run("rows", k.format, Placed(a, (depth + 5, 1)), depth + 5, 3, depth, out, row)
        out.assert_holds(want.view, f"{depth} numbers")
        assert row[0] == want.shape[1]


# --- the microkernel ---

DEPTHS = (0, 1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 40)


def tiles(k: Kernels, layout: str) -> Iterator[tuple[int, int, int]]:
    """Rows, sums and vectors a sum of all tiles that there are; a packed left operand meets one sum."""
    most = 1 if layout == "packed" else k.max_sums
    for sums, vectors in itertools.product(range(1, most + 1), (1, 2, 4, 8)):
        if sums * vectors <= 16:
            for rows in range(1, k.get("max_rows", sums * vectors) + 1):
                yield rows, sums, vectors


def layouts(k: Kernels) -> tuple[str, ...]:
    """Of the left operand: rows apart from each other, or one element of each row after the other."""
    return ("rows",) if k.bf16 else ("rows", "packed")


def run_tile(
    k: Kernels,
    layout: str,
    a: np.ndarray,
    B: np.ndarray,
    starts: list[Placed],
    rows_apart: list[int],
    outs: list[Placed],
) -> None:
    """A tile of a (rows, depth) and B (depth, sums, columns); of each sum, where it begins and where it goes."""
    left = left_side(k, a, gap=3) if layout == "rows" else Placed(a.T)
    right, sums, vectors = right_side(k, B), B.shape[1], B.shape[2] // k.width
    k.run(
        "tile", k.format, layout == "packed", len(a), sums, vectors, left, left.strides[0],
        Placed(right), right.shape[1], starts, rows_apart, outs, outs[0].strides[0],
    )  # fmt: skip


def test_tile_is_begin_plus_product(kernels: Kernels) -> None:
    """``out[s] = begin[s] + a @ B[:, s]`` for all sizes of tiles; of a sum one row of `begin` may serve all rows."""
    k, rng = kernels, np.random.default_rng(0)
    every = [(layout, *tile) for layout in layouts(k) for tile in tiles(k, layout)]
    for number, (layout, rows, sums, vectors) in enumerate(every):
        columns, depth = vectors * k.width, DEPTHS[number % len(DEPTHS)]
        bits, other = BITS[k.bf16][number % len(BITS[k.bf16])]
        a, B = whole(k, rng, (rows, depth), bits), whole(k, rng, (depth, sums, columns), other)
        begin = [whole(k, rng, (rows, columns), 6) for _ in range(sums)]
        outs = [Placed(np.zeros((rows, columns), k.dtype), (columns + 3, 1)) for _ in range(sums)]
        starts = [Placed(start, (columns + 5 + s, 1)) for s, start in enumerate(begin)]
        begin_row = [start.strides[0] for start in starts]
        for s in range(number % 2, sums, 2):
            begin[s] = np.broadcast_to(begin[s][0], begin[s].shape)
            starts[s], begin_row[s] = Placed(begin[s][0]), 0
        run_tile(k, layout, a, B, starts, begin_row, outs)
        for s in range(sums):
            expected = begin[s] + product(a, B[:, s], k.bf16)
            outs[s].assert_holds(expected, f"{layout}: {rows} rows, {sums} sums of {vectors}, {depth} deep")


def test_tile_of_every_depth(kernels: Kernels) -> None:
    """Also of so few sums that each is added up in several chains; `begin` is `out` itself."""
    k, rng = kernels, np.random.default_rng(1)
    few = {(1, 1, 1), (2, 1, 2), (1, 2, 1), (1, 3, 1), (3, 2, 1)}
    every = [(layout, *tile) for layout in layouts(k) for tile in sorted(few & set(tiles(k, layout)))]
    for depth, (layout, rows, sums, vectors) in itertools.product(range(41), every):
        bits, other = BITS[k.bf16][0]
        columns = vectors * k.width
        a, B = whole(k, rng, (rows, depth), bits), whole(k, rng, (depth, sums, columns), other)
        outs = [Placed(np.ones((rows, columns), k.dtype)) for _ in range(sums)]
        run_tile(k, layout, a, B, outs, [columns] * sums, outs)
        for s in range(sums):
            outs[s].assert_holds(1 + product(a, B[:, s], k.bf16), f"{layout}: {rows} rows, {depth} deep")


@pytest.fixture
def ahead(plain: Kernels) -> Kernels:
    if not plain.get("can_project_ahead"):
        pytest.skip("these instructions have too few registers to project ahead")
    return plain


def test_a_piece_beside_a_tile_changes_neither(ahead: Kernels) -> None:
    """A tile of one row, and of a projection one vector of columns for some rows."""
    k, W, rng = ahead, ahead.width, np.random.default_rng(0)
    rows, most = k.get("ahead", 0), k.get("ahead", 1)
    for sums, vectors in itertools.product((1, 2, 3, 4), (1, 2, 4, 8)):
        if sums * vectors > most:
            continue
        columns = vectors * W
        for depth, x_depth in ((0, 7), (7, 0), (9, 9), (17, 40), (40, 17)):
            a, B = whole(k, rng, (1, depth)), whole(k, rng, (depth, sums, columns))
            x, x_B = whole(k, rng, (rows, x_depth)), whole(k, rng, (x_depth, W))
            begin, x_begin = whole(k, rng, (sums, columns), 6), whole(k, rng, (W,), 6)
            outs = [Placed(np.zeros(columns, k.dtype)) for _ in range(sums)]
            x_out = Placed(np.zeros((rows, W), k.dtype), (W + 5, 1))
            k.run(
                "beside", k.format, sums, vectors, Placed(a), Placed(B), depth, [Placed(b) for b in begin], outs,
                Placed(x, (x_depth + 3, 1)), x_depth + 3, Placed(x_B), Placed(x_begin), x_depth, x_out, W + 5,
            )  # fmt: skip
            for s in range(sums):
                outs[s].assert_holds(begin[s] + (a @ B[:, s])[0], f"sum {s} of {sums}, {depth} and {x_depth} deep")
            x_out.assert_holds(x_begin + x @ x_B, f"{sums} sums of {vectors}, {depth} and {x_depth} deep")


def test_what_is_due_of_a_projection_is_all_done_by_the_last_turn(ahead: Kernels) -> None:
    k, W, rng = ahead, ahead.width, np.random.default_rng(0)
    rows, depth = k.get("ahead", 0), 11
    for vectors, turns in itertools.product(([1], [3, 3], [2, 0, 5], [1, 2, 3, 4]), (1, 2, 3, 10, 33)):
        columns, ends = [v * W for v in vectors], np.cumsum([v * W + 2 for v in vectors])
        first = [int(end) - size for end, size in zip(ends, columns, strict=True)]
        x = whole(k, rng, (rows, depth))
        B, begin = [whole(k, rng, (depth, n)) for n in columns], [whole(k, rng, (n,), 6) for n in columns]
        # The columns of a gate are packed vector by vector.
        panels = [np.concatenate([b[:, u : u + W].ravel() for u in range(0, b.shape[1], W)] or [b.ravel()]) for b in B]
        expected = np.zeros((rows, int(ends[-1])), k.dtype)
        out, taken = Placed(expected), np.zeros(turns, np.int64)
        k.run(
            "ahead_turns", k.format, len(vectors), [Placed(p) for p in panels], [Placed(b) for b in begin], first,
            vectors, Placed(x), depth, depth, out, out.strides[0], turns, taken,
        )  # fmt: skip
        for g, at in enumerate(first):
            expected[:, at : at + columns[g]] = begin[g] + x @ B[g]
        out.assert_holds(expected, f"{vectors} in {turns} turns")
        each = np.diff(taken, prepend=0)
        assert taken[-1] == sum(vectors) and np.ptp(each) <= 1, "every turn does its share"


# --- panels ---


def panel(k: Kernels, B: Sequence[Sequence[np.ndarray]], stride: int, columns: int, vectors: int) -> np.ndarray:
    """The packed right side of products, from matrices B[source][sum] (rows, H): items one after the other.

    The sources are above each other, `stride` rows from one to the next, and meet as many numbers of the left side::

        for each block of units, of `vectors` vectors and what is left in smaller ones:
            for each group of sums that one tile takes:
                for each part of the numbers:
                    for each item of the depth:
                        for each sum of the group:
                            the units of the block

    There are zeros beyond H columns, between the sources, and after the last up to whole items.
    """
    sources, sums, (rows, H) = len(B), len(B[0]), B[0][0].shape
    numbers = np.zeros(((sources - 1) * stride + rows, sums, columns), k.dtype)
    for source, s in itertools.product(range(sources), range(sums)):
        numbers[source * stride : source * stride + rows, s, :H] = B[source][s]
    operands = right_side(k, numbers)
    groups = range(0, sums, k.max_sums)
    return np.concatenate(
        [
            operands[:, :, g : g + k.max_sums, u : u + v * k.width].ravel()
            for u, v in blocks(0, columns, vectors, k.width)
            for g in groups
        ]
    )


def matrices(k: Kernels, rng: np.random.Generator, sources: int, sums: int, rows: int, H: int, bits: int = 0) -> Any:
    """B[source][sum] (rows, H): normal, or whole numbers of so many bits."""

    def one() -> np.ndarray:
        return whole(k, rng, (rows, H), bits) if bits else rng.standard_normal((rows, H)).astype(k.dtype)

    return [[one() for _ in range(sums)] for _ in range(sources)]


def flat(B: Any, strides: tuple[int, int]) -> list[Placed]:
    return [Placed(matrix, strides) for source in B for matrix in source]


ROWS = (1, 2, 7, 8, 9, 16, 17, 33, 40)


@pytest.mark.parametrize("order", ORDERS)
def test_panels_are_packed_as_described(storage: Kernels, order: str) -> None:
    k, rng = storage, np.random.default_rng(0)
    shapes = itertools.product(sizes(k), ROWS)
    for number, (H, rows) in enumerate(shapes):
        sources, sums, vectors = number % 3 + 1, number % 4 + 1, 2 ** (number % 5 % 4)
        columns, stride = k.padded(H), k.padded(rows)
        B, strides = matrices(k, rng, sources, sums, rows, H), strided((rows, H), order)
        want = panel(k, B, stride, columns, vectors)
        size = np.zeros(1, np.int64)
        given = (k.format, flat(B, strides), *strides, sources, sums, rows, stride, H, columns)
        k.run("pack", *given, 0, columns, vectors, None, size)
        assert size[0] == want.size
        out = Placed(np.zeros_like(want))
        k.run("pack", *given, 0, columns, vectors, out, size)
        out.assert_holds(want, f"{sources} of {sums} matrices of {rows} x {H}, {vectors} vectors")


@pytest.mark.parametrize("order", ["rows", "columns"])
def test_shares_of_a_panel_are_packed_apart(storage: Kernels, order: str) -> None:
    k, rng = storage, np.random.default_rng(0)
    H, rows, vectors = 11 * k.width - 1, 21, 2
    columns, stride = k.padded(H), k.padded(rows)
    B, strides = matrices(k, rng, 2, 3, rows, H), strided((rows, H), order)
    given = (k.format, flat(B, strides), *strides, 2, 3, rows, stride, H, columns)
    size, want = np.zeros(1, np.int64), panel(k, B, stride, columns, vectors)
    whole_of_it = np.zeros_like(want)
    for first, last in shares(k, columns, vectors, 3):
        out = Placed(np.zeros_like(want))
        k.run("pack", *given, first, last, vectors, out, size)
        own = slice(want.size // columns * first, want.size // columns * last)
        expected = np.zeros_like(want)
        expected[own] = want[own]
        out.assert_holds(expected, f"units {first} to {last}")
        whole_of_it += out.view
    np.testing.assert_array_equal(whole_of_it, want)


@pytest.mark.parametrize("order", ORDERS)
def test_columns_beyond_the_matrix_are_packed_as_zeros(storage: Kernels, order: str) -> None:
    """Some columns of some matrices side by side: (parts, items, matrices, columns)."""
    k, W, rng = storage, storage.width, np.random.default_rng(0)
    H, columns = 2 * W + 1, 2 * W
    for rows, count, u in itertools.product((1, 2, 5, 19), (1, 2), (0, W, 2 * W, 3 * W)):
        B, strides = matrices(k, rng, 1, count, rows, H), strided((rows, H), order)
        numbers = np.zeros((rows, count, u + columns), k.dtype)
        numbers[:, :, : min(H, u + columns)] = np.stack(B[0], axis=1)[:, :, : u + columns]
        want = right_side(k, numbers[:, :, u:])
        # Parts need not follow each other at once, and there may be more items than numbers fill.
        extra = 3
        padded = np.zeros((k.parts, want.shape[1] + extra, count, columns), k.item)
        padded[:, : want.shape[1]] = want
        out = Placed(np.ones_like(padded), (padded[0].size + 7, count * columns, columns, 1))
        k.run(
            "pack_columns", k.format, out, out.strides[0], flat(B, strides), *strides,
            count, rows, padded.shape[1], H, u, columns,
        )  # fmt: skip
        out.assert_holds(padded, f"columns {u} to {u + columns} of {count} matrices of {rows} rows")


@pytest.mark.parametrize("order", ["rows", "columns"])
def test_product_with_a_panel(kernels: Kernels, order: str) -> None:
    """All sources and sums, block by block, in tiles of rows: ``out[:, s] += sum of a[source] @ B[source][s]``."""
    k, rng = kernels, np.random.default_rng(0)
    for number, H in enumerate(sizes(k)):
        bits, other = BITS[k.bf16][number % len(BITS[k.bf16])]
        sources, sums, rows, count = number % 3 + 1, number % 4 + 1, (13, 9, 12)[number % 3], (1, 3, 17, 40)[number % 4]
        # No more vectors of sums than a tile has.
        vectors = min(2 ** (number % 4), 16 // {3: 4}.get(min(sums, k.max_sums), min(sums, k.max_sums)))
        columns, stride = k.padded(H), k.padded(rows)
        B, strides = matrices(k, rng, sources, sums, rows, H, other), strided((rows, H), order)
        a = np.zeros((count, (sources - 1) * stride + rows), k.dtype)
        start = whole(k, rng, (count, sums, columns), 6)
        expected = start.copy()
        for source in range(sources):
            own = whole(k, rng, (count, rows), bits)
            a[:, source * stride : source * stride + rows] = own
            for s in range(sums):
                expected[:, s, :H] += product(own, B[source][s], k.bf16).astype(k.dtype)
        out = Placed(start, (sums * (columns + 3), columns + 3, 1))
        k.run(
            "multiply", k.format, flat(B, strides), *strides, sources, sums, rows, stride, H, columns, vectors,
            Placed(a, (a.shape[1] + 3, 1)), a.shape[1] + 3, count, out, *out.strides[:2],
        )  # fmt: skip
        out.assert_holds(expected, f"{count} rows, {sources} of {sums} matrices of {rows} x {H}, {vectors} vectors")


# --- matrices as they are ---


@pytest.mark.parametrize("backwards", [False, True])
def test_products_with_matrices_in_place(plain: Kernels, backwards: bool) -> None:
    """``sums[to[s]] += a @ B(s)`` for a range of columns, all of them or not."""
    k, rng = plain, np.random.default_rng(0)
    # Matrices of a row's blocks: sums that follow each other, and such that do not.
    uses = [
        ((0,), (0,)),
        ((0, 1, 2), (0, 1, 2)),
        ((2, 0), (1, 0)),
        ((0, 1, 3), (0, 1, 2)),
        ((0, 1, 2, 3), (3, 2, 1, 0)),
    ]
    for number, (H, depth) in enumerate(itertools.product(sizes(k), (0, 1, 7, 8, 9, 24, 25))):
        block, to = uses[number % len(uses)]
        rows = (1, 2, 3, 5)[number % 4]
        first, last = (0, H) if number % 3 or H < 3 else (H // 3, H - 1)
        B, a = whole(k, rng, (depth, 4 * H)), whole(k, rng, (rows, depth))
        start = whole(k, rng, (rows, 4, H), 6)
        expected = start.copy()
        for m, s in zip(block, to, strict=True):
            expected[:, s, first:last] += a @ B[:, m * H + first : m * H + last]
        sum_step = H + 3 * (number % 2)
        out = Placed(start, (4 * sum_step + 5, sum_step, 1))
        k.run(
            "multiply_in_place", k.format, Placed(B, (4 * H + 1, 1)), 4 * H + 1, [m * H for m in block], len(block),
            list(to), Placed(a, (depth + 2, 1)), depth + 2, depth, rows, first, last, H, backwards,
            out, *out.strides[:2],
        )  # fmt: skip
        out.assert_holds(expected, f"{rows} rows, {block} to {to}, {depth} x {H}, columns {first} to {last}")


def test_products_with_transposed_matrices_in_place(plain: Kernels) -> None:
    """``y += a @ B.T`` for a range of columns of y, with several pieces of the rows."""
    k, W, rng = plain, plain.width, np.random.default_rng(0)
    for number, (depth, columns) in enumerate(itertools.product((1, W - 1 or 1, W, 2 * W + 3), sizes(k))):
        rows, sources = (1, 2, 3, 5)[number % 4], number % 4 + 1
        first = W if columns > W and number % 2 else 0
        left = [s * (depth + 2) for s in range(sources)]
        right = [(sources - 1 - s) * (depth + 1) for s in range(sources)]
        a = whole(k, rng, (rows, left[-1] + depth))
        B = whole(k, rng, (columns, right[0] + depth))
        start = whole(k, rng, (rows, columns), 6)
        expected = start.copy()
        for at, to in zip(left, right, strict=True):
            expected[:, first:] += a[:, at : at + depth] @ B[first:, to : to + depth].T
        y = Placed(start, (columns + 3, 1))
        k.run(
            "multiply_transposed", k.format, y, y.strides[0], Placed(a), a.shape[1], rows, first, columns,
            Placed(B, (B.shape[1] + 1, 1)), B.shape[1] + 1, depth, sources, depth + 2, right,
        )  # fmt: skip
        y.assert_holds(expected, f"{rows} rows, columns {first} to {columns}, {sources} pieces of {depth}")


# --- products over many steps ---


@pytest.mark.parametrize("order", ["rows", "columns"])
def test_projection_of_many_steps(kernels: Kernels, order: str) -> None:
    """``out = begin + A @ B`` for rows within steps, which follow each other or not."""
    k, rng = kernels, np.random.default_rng(0)
    counts = (1, 3, 14, 15, 29, 33)
    for number, (columns, depth) in enumerate(itertools.product(sizes(k), (0, 1, 2, 33, 40))):
        bits, other = BITS[k.bf16][number % len(BITS[k.bf16])]
        steps, count = number % 3 + 1, counts[number % len(counts)]
        A, B = whole(k, rng, (steps, count, depth), bits), whole(k, rng, (depth, columns), other)
        begin = whole(k, rng, (k.padded(columns),), 6) if number % 2 else None
        # Rows of either side that lie close together are taken as those of one step.
        gap, out_gap = number % 3, (number + 1) % 2
        row, out_row = depth + gap, columns + out_gap
        strides = (count * row + 5 * (number % 4 > 1), row, 1), (count * out_row + 5 * (number % 5 > 1), out_row, 1)
        placed, out = Placed(A, strides[0]), Placed(np.ones((steps, count, columns), k.dtype), strides[1])
        matrix = Placed(B, strided(B.shape, order))
        k.run(
            "project", k.format, placed, *strides[0][:2], depth, matrix, *matrix.strides,
            None if begin is None else Placed(begin), out, *strides[1][:2], steps, count, columns,
        )  # fmt: skip
        expected = product(A.reshape(steps * count, depth), B, k.bf16).reshape(steps, count, columns)
        expected += 0 if begin is None else begin[:columns]
        out.assert_holds(expected, f"{steps} steps of {count} x {depth} to {columns}, gap {gap}")


def test_outer_products_of_many_rows(kernels: Kernels) -> None:
    """``to += x.T @ g`` or, where it is fresh, ``=``; and ``sum += g.sum(axis=0)``."""
    k, rng = kernels, np.random.default_rng(0)
    numbers = (1, 2, 3, 8, 31, 32, 33, 40)
    for number, (count, n) in enumerate(itertools.product((1, 2, 13, 14, 15, 16, 17, 29, 40), numbers)):
        bits, other = BITS[k.bf16][number % len(BITS[k.bf16])]
        vectors, fresh = number % 2 + 1, number % 3 == 0
        columns = vectors * k.width
        x, g = whole(k, rng, (n, count), bits), whole(k, rng, (n, columns), other)
        start, total = whole(k, rng, (count, columns), 6), whole(k, rng, (columns,), 6)
        to, sums = Placed(start, (columns + 3, 1)), Placed(total)
        if fresh:
            to.view[...] = np.nan  # holds nothing yet
        k.run(
            "outer", k.format, Placed(x, (count + 3, 1)), count + 3, count, Placed(g, (columns + 3, 1)), columns + 3, n,
            vectors, to, to.strides[0], fresh, sums,
        )  # fmt: skip
        to.assert_holds((0 if fresh else start) + product(x.T, g, k.bf16), f"{n} rows of {count}, {vectors} vectors")
        sums.assert_holds(total + g.sum(axis=0))


# --- who does what ---


def test_blocks_cover_a_range_once(plain: Kernels) -> None:
    k, W = plain, plain.width

    def found(first: int, last: int, vectors: int, backwards: int) -> list[tuple[int, int]]:
        out = np.zeros(2 * ((last - first) // W + 1), np.int64)
        count = k.get("each_block", k.format, first, last, vectors, backwards, out)
        return [(int(u), int(v)) for u, v in out[: 2 * count].reshape(-1, 2)]

    for first, size, vectors in itertools.product((0, 3 * W), range(40), (1, 2, 4, 8)):
        want = blocks(first, first + size * W, vectors, W)
        assert found(first, first + size * W, vectors, 0) == want
        assert found(first, first + size * W, vectors, 1) == want[::-1], "backwards"


def shares(k: Kernels, columns: int, vectors: int, parts: int) -> list[tuple[int, int]]:
    found = []
    for part in range(parts):
        out = np.zeros(2, np.int64)
        k.get("share", k.dtype.itemsize, columns, vectors, parts, part, out)
        found.append((int(out[0]), int(out[1])))
    return found


def test_every_column_is_in_one_share(plain: Kernels) -> None:
    """Of whole blocks, as many as in any other share or one more; the last share has what does not fill a block too."""
    k, W = plain, plain.width
    for size, vectors, parts in itertools.product(range(30), (1, 2, 4, 8), (1, 2, 3, 7)):
        columns, block = size * W, vectors * W
        found = shares(k, columns, vectors, parts)
        assert found[0][0] == 0 and found[-1][1] == columns
        assert all(one[1] == after[0] for one, after in itertools.pairwise(found))
        assert all(first % block == 0 for first, _ in found)
        counts = [(last - first) // block for first, last in found]
        assert sum(counts) == columns // block and max(counts) - min(counts) <= 1


def test_rows_are_balanced_over_tiles(plain: Kernels) -> None:
    """As few tiles as may be, none too large, and none of which is more than a row larger than another."""
    for count, most in itertools.product(range(100), (1, 2, 3, 6, 14, 32)):
        found = []
        while sum(found) < count:
            found.append(plain.get("balanced", sum(found), count, most))
        assert sum(found) == count and len(found) == -(-count // most)
        assert not found or (max(found) <= most and max(found) - min(found) <= 1)


@pytest.mark.parametrize("by_units", [False, True])
def test_every_sequence_and_every_unit_is_in_one_part(plain: Kernels, by_units: bool) -> None:
    """Divided by sequences, a part has all units of its own rows; by units, all rows and a share of the units."""
    k, columns = plain, 5 * plain.width
    for N, parts in itertools.product((0, 1, 2, 5, 16, 17), (1, 2, 3, 5)):
        if not by_units and parts > max(N, 1):
            continue
        done = np.zeros((N, columns), int)
        owners = set()
        for part in range(parts):
            out = np.zeros(7, np.int64)
            k.get("division", k.dtype.itemsize, N, parts, by_units, columns, 2, part, out)
            begin, end, first, last, most_rows, count, owner = map(int, out)
            done[begin:end, first:last] += 1
            assert end - begin <= most_rows and most_rows >= 1
            owners.add(owner)
            # Memory of its own for each part, or one for all that share the sequences.
            assert count == (1 if by_units else parts) and 0 <= owner < count
        assert (done == 1).all()
        assert len(owners) == count and most_rows == max(1, N if by_units else -(-N // parts))


# --- memory ---


def workspace(engine: Engine, *sizes: int) -> list[int]:
    at = np.zeros(len(sizes), np.uint64)
    engine.host.run("workspace", len(sizes), list(sizes), at)
    return [int(address) for address in at]


def in_a_new_thread(work: Any) -> Any:
    """Memory is kept for each thread: a new one has none."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


LARGE = 17 << 20  # more than a thread keeps


def test_memory_of_a_call_is_aligned_and_no_ones_else(engine: Engine) -> None:
    for sizes in ([1], [0, 1, 63, 64, 65, 1000], [3 << 20, 5, LARGE]):
        at = workspace(engine, *sizes)
        assert all(address % 64 == 0 for address in at)
        ordered = sorted(zip(at, sizes, strict=True))
        assert all(a + size <= b for (a, size), (b, _) in itertools.pairwise(ordered) if size)


def test_memory_of_a_call_is_kept_for_the_next_of_its_thread(engine: Engine) -> None:
    def calls() -> None:
        workspace(engine, 1000, 70)
        first = workspace(engine, 1000, 70)
        assert first[1] - first[0] == 1024, "one block, of the size of the call before"
        assert workspace(engine, 1000, 70) == first
        assert workspace(engine, 500) == first[:1], "a smaller one begins at the same place"
        workspace(engine, 5000, 9000, 1)
        grown = workspace(engine, 5000, 9000, 1)
        assert np.diff(grown).tolist() == [5056, 9024], "one block again, as large as the largest call"
        workspace(engine, 10, LARGE)
        assert workspace(engine, 5000, 9000, 1) == grown, "what is large is not kept"

    in_a_new_thread(calls)


def test_buffers_that_were_given_back_serve_the_next_of_their_size(engine: Engine) -> None:
    def take(size: int) -> int:
        return engine.host.get("take_buffer", size)

    def give(at: int, size: int) -> None:
        engine.host.get("give_buffer", at, size)

    one, two = take(1 << 20), take(1 << 20)
    assert one and two and one != two
    give(one, 1 << 20)
    assert take(1 << 20) == one
    give(one, 1 << 20)
    give(two, 1 << 20)
    assert {take(1 << 20), take(1 << 20)} == {one, two}
    give(one, 1 << 20)
    give(two, 1 << 20)
    other = take(3 << 20)  # frees those of another size
    give(other, 3 << 20)
    assert take(3 << 20) == other
    give(other, 3 << 20)


# --- threads ---


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 64])
def test_every_part_runs_once(engine: Engine, parts: int) -> None:
    runs = np.zeros(parts, np.int64)
    for turn in range(1, 101):
        engine.host.get("parallel", parts, 0, runs)
        np.testing.assert_array_equal(runs, turn)


def test_parts_of_parts_run_once(engine: Engine) -> None:
    runs = np.zeros((3, 5), np.int64)
    engine.host.get("parallel", 3, 5, runs)
    np.testing.assert_array_equal(runs, 1)


def test_calls_from_several_threads_do_all_their_parts(engine: Engine) -> None:
    runs = np.zeros((4, 3), np.int64)

    def call(own: np.ndarray) -> None:
        for _ in range(200):
            engine.host.get("parallel", 3, 0, own)

    threads = [threading.Thread(target=call, args=(own,)) for own in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(runs, 200)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_behind_a_barrier_threads_see_what_the_others_wrote(engine: Engine, most: int) -> None:
    for _ in range(10):
        runs, wrong = np.zeros(most, np.int64), np.zeros(most, np.int64)
        threads = engine.host.get("together", most, 300, runs, wrong)
        assert 1 <= threads <= most
        np.testing.assert_array_equal(runs, np.arange(most) < threads, "one part a thread, numbered from 0")
        np.testing.assert_array_equal(wrong, 0)


@pytest.mark.parametrize("stride", [1, 7, 32])
def test_who_waits_for_progress_sees_what_was_done(engine: Engine, stride: int) -> None:
    for _ in range(10):
        wrong = engine.host.get("progress", 500, stride)
        if wrong < 0:
            pytest.skip("there is one processor")
        assert wrong == 0
