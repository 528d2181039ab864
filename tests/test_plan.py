"""What a plan keeps for the backward pass, against all that it could keep; what it stores between stages."""

from __future__ import annotations

from collections.abc import Collection
from itertools import combinations

import numpy as np
import pytest

from fastrnn.cells.expr import Expr, children, leaf, make
from fastrnn.cells.table import OPERATIONS
from fastrnn.engine.minimum_cut import minimum_kept
from fastrnn.engine.plan import make_plan
from test_random_cells import described

NEVER_AGAIN = {"x", *(name for name, row in OPERATIONS.items() if row.transcendental)}


def random_graph(seed: int) -> tuple[list[Expr], set[Expr], set[Expr]]:
    """Nodes in the order of their computation, those that are needed, and those that are at hand anyway."""
    rng = np.random.default_rng(seed)
    free = [leaf("state", "h"), leaf("state", "c")]
    order = dict.fromkeys([leaf("x", "a"), leaf("x", "b"), *free])
    while len(order) < 13:
        nodes = list(order)
        a, b = (nodes[i] for i in rng.integers(len(nodes), size=2))
        node = (a + b, a - b, a * b, make("tanh", a))[rng.integers(4)]
        if node.op != "const":
            order.setdefault(node)
    nodes = list(order)
    return nodes, {nodes[i] for i in rng.choice(range(4, 13), 4, replace=False)}, set(free)


def computed_again(needed: Collection[Expr], at_hand: Collection[Expr]) -> set[Expr] | None:
    """What must be computed again if `at_hand` is there; None if that is not enough."""
    again: set[Expr] = set()
    stack = [node for node in needed if node not in at_hand]
    while stack:
        node = stack.pop()
        if node.op in NEVER_AGAIN:
            return None
        again.add(node)
        stack += [child for child in children(node) if child not in at_hand and child.op != "const"]
    return again


@pytest.mark.parametrize("seed", range(60))
def test_the_fewest_are_kept_and_of_these_what_leaves_least_to_compute(seed: int) -> None:
    order, needed, free = random_graph(seed)
    kept = minimum_kept(order, needed, free)
    again = computed_again(needed, {*kept, *free})
    assert again is not None
    nodes = [node for node in order if node.op != "state"]
    for size in range(len(kept) + 1):
        enough = [computed_again(needed, {*some, *free}) for some in combinations(nodes, size)]
        assert min((len(a) for a in enough if a is not None), default=99) >= (len(again) if size == len(kept) else 99)


@pytest.mark.parametrize(("seed", "slots"), [(1, 5), (4, 7), (10, 5)])
def test_what_follows_from_a_slot_by_arithmetic_has_none_of_its_own(seed: int, slots: int) -> None:
    assert make_plan(described(seed)).n_da == slots
