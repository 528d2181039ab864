"""The plan of a cell: its forward and backward step as stages that every backend can run.

A stage is a group of matrix products followed by elementwise code. Forward, the first stage multiplies old states, and
a later one multiplies a vector that an earlier stage has computed. Backward, the first stage takes the gradient of the
states from the step after, and a later one propagates it through such a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ..cells.cell import Cell
from ..cells.diff import Adjoints, differentiate
from ..cells.expr import Expr, children, leaf, make, topological, transform
from .minimum_cut import minimum_kept, never_again


class Ref(NamedTuple):
    """Where a vector of H elements of one step is stored, for every sequence of the batch.

    kind : what it is
        ``x``: input projection of gate `index`; ``acc``: sum `index` of the stage's products; ``prev``, ``next``:
        state `index` before and after the step; ``unit``: unit row `index`, see :class:`UnitRow`; ``keep``: slot
        `index` of the values that the forward step keeps; ``grad``: gradient of state `index` after the step;
        ``carry``: the part of the gradient of state `index` before the step that does not come through products;
        ``da``: slot `index` of the values that the backward step computes.
    """

    kind: str
    index: int  # type: ignore[assignment]


class Term(NamedTuple):
    """A vector times block `matrix` of ``Wh`` (forward) or of its transpose (backward)."""

    source: Ref
    matrix: int


@dataclass(frozen=True)
class Stage:
    """Products, then elementwise code.

    products : for each ``acc`` the terms of the sum.
    loads : where each value that the code reads is stored.
    stores : the values that the code computes, and where they are stored.
    """

    products: tuple[tuple[Term, ...], ...]
    loads: dict[Expr, Ref]
    stores: tuple[tuple[Ref, Expr], ...]


class UnitRow(NamedTuple):
    """A row of H elements, one for each hidden unit: a bias (the sum of those named) or a per-unit parameter."""

    gate: int | None = None
    matrices: tuple[int, ...] = ()
    name: str = ""


class WeightTerm(NamedTuple):
    """A term of the gradient of the weights: ``dWh[matrix] += vector.T @ da[slot]``."""

    matrix: int
    vector: Ref
    slot: int


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that a backend needs to know about a cell.

    forward, backward : stages of one step.
    unit_rows : biases, then per-unit parameters.
    weight_terms : one for each product.
    unit_slots : ``da`` slot of each parameter of the cell, in the order of ``cell.units``.
    grad_acc : for each state the ``acc`` of the first backward stage that carries its gradient, or None.
    n_keep, n_da : numbers of slots; slots ``0..G-1`` of ``da`` are the adjoints of the gates' projections.
    """

    cell: Cell
    forward: tuple[Stage, ...]
    backward: tuple[Stage, ...]
    unit_rows: tuple[UnitRow, ...]
    weight_terms: tuple[WeightTerm, ...]
    unit_slots: tuple[int, ...]
    grad_acc: tuple[int | None, ...]
    n_keep: int
    n_da: int

    @property
    def n_gates(self) -> int:
        return len(self.cell.gates)

    @property
    def n_states(self) -> int:
        return len(self.cell.states)

    @property
    def n_matrices(self) -> int:
        return len(self.cell.recurrent)


def make_plan(cell: Cell) -> Plan:
    """The plan of `cell`: the same object as long as the cell is alive."""
    # Stored in the cell, so that both are freed together.
    plan: Plan | None = cell.__dict__.get("_plan")
    return cell.__dict__.setdefault("_plan", _plan(cell)) if plan is None else plan


def _plan(cell: Cell) -> Plan:
    return plan_keeping(cell, ())[0]


def plan_keeping(cell: Cell, more: Iterable[Expr]) -> tuple[Plan, dict[Expr, Ref]]:
    """A plan whose forward step also keeps `more`, values of the outputs of :func:`with_biases`; and where each is."""
    outputs, unit_rows, unit_index = with_biases(cell)
    order = topological(outputs)
    adjoints = differentiate(cell.states, tuple(outputs))
    # In the order of the matrices, so that adjacent blocks of Wh can be multiplied together.
    products = sorted((n for n in order if n.op == "product"), key=lambda p: cell.recurrent.index(p.args[0]))
    slots = _Slots(cell, adjoints, products)

    base = {n: Ref("prev", cell.states.index(n.args[0])) for n in order if n.op == "state"}
    base |= {leaf("unit", name): Ref("unit", i) for name, i in unit_index.items()}
    vectors = list(dict.fromkeys(p.args[1] for p in products if p.args[1].op != "state"))
    # An output that is also a leaf (a state returned unchanged) is stored where the leaf is.
    after = {n: Ref("next", k) for k, n in enumerate(outputs) if n not in base and n.op != "const"}
    kept = vectors + _kept(order, adjoints, slots.targets(cell, adjoints), [*base, *after, *vectors])
    keep = {n: Ref("keep", j) for j, n in enumerate(dict.fromkeys([*kept, *more]))}

    forward, keep = _forward_stages(cell, outputs, products, base, after, keep)
    backward, grad_acc, n_da = _backward_stages(cell, adjoints, products, {**after, **keep, **base}, slots)
    vector_of = base | keep | _states(base)
    plan = Plan(
        cell=cell,
        forward=forward,
        backward=backward,
        unit_rows=unit_rows,
        weight_terms=tuple(
            WeightTerm(cell.recurrent.index(p.args[0]), vector_of[p.args[1]], slots.of[p]) for p in products
        ),
        unit_slots=tuple(slots.of[leaf("unit", u)] for u in cell.units),
        grad_acc=grad_acc,
        n_keep=len(keep),
        n_da=n_da,
    )
    return plan, keep


def _states(base: dict[Expr, Ref]) -> dict[Expr, Ref]:
    """Old states, which products multiply where they are, kept or not."""
    return {n: ref for n, ref in base.items() if n.op == "state"}


def with_biases(cell: Cell) -> tuple[list[Expr], tuple[UnitRow, ...], dict[str, int]]:
    """The outputs with biases added, the rows that hold them, and each row's index by leaf name.

    A product that is only ever added to the projection of one gate shares that gate's bias: both have one row.
    """
    home = _bias_homes(list(cell.outputs))
    rows = [
        UnitRow(gate=g, matrices=tuple(cell.recurrent.index(m) for m, to in home.items() if to == name))
        for g, name in enumerate(cell.gates)
    ]
    alone = [m for m in cell.recurrent if m not in home]
    rows += [UnitRow(matrices=(cell.recurrent.index(m),)) for m in alone]
    rows += [UnitRow(name=u) for u in cell.units]
    # Names with a dot cannot clash with those of the cell.
    names = [f"bx.{g}" for g in cell.gates] + [f"bh.{m}" for m in alone] + list(cell.units)

    def biased(node: Expr) -> Expr:
        if node.op == "x":
            return make("add", node, leaf("unit", f"bx.{node.args[0]}"))
        if node.op == "product" and node.args[0] in alone:
            return make("add", node, leaf("unit", f"bh.{node.args[0]}"))
        return node

    outputs = transform(list(cell.outputs), biased)
    return outputs, tuple(rows), {name: i for i, name in enumerate(names)}


def _bias_homes(outputs: list[Expr]) -> dict[str, str]:
    """For each matrix whose products are only ever added to the projection of one gate: that gate."""
    order = topological(outputs)
    users: dict[Expr, list[Expr | None]] = {n: [] for n in order}
    for node in order:
        for child in children(node):
            users[child].append(node)
    for output in outputs:
        users[output].append(None)

    def summands(node: Expr) -> Iterator[Expr]:
        for child in node.args:
            if len(users[child]) == 1:
                if child.op == "add":
                    yield from summands(child)
                else:
                    yield child

    home: dict[str, str] = {}
    for node in order:
        if node.op == "add":
            parts = list(summands(node))
            gates = [n.args[0] for n in parts if n.op == "x"]
            if gates:
                home |= {n.args[0]: gates[0] for n in parts if n.op == "product"}
    count: dict[str, int] = {}
    for node in order:
        if node.op == "product":
            count[node.args[0]] = count.get(node.args[0], 0) + 1
    return {m: g for m, g in home.items() if count[m] == 1}


class _Slots:
    """The ``da`` slot that holds the adjoint of each projection, product and parameter."""

    def __init__(self, cell: Cell, adjoints: Adjoints, products: list[Expr]) -> None:
        self.values: list[Expr] = [adjoints[leaf("x", g)] for g in cell.gates]
        self.of: dict[Expr, int] = {leaf("x", g): i for i, g in enumerate(cell.gates)}
        for node in [*products, *(leaf("unit", u) for u in cell.units)]:
            self.of[node] = self.slot(adjoints[node])

    def slot(self, value: Expr) -> int:
        for i, known in enumerate(self.values):
            if known is value:
                return i
        self.values.append(value)
        return len(self.values) - 1

    def targets(self, cell: Cell, adjoints: Adjoints) -> list[Expr]:
        """The nodes that the backward step must compute."""
        return [*self.values, *(adjoints[leaf("state", s)] for s in cell.states)]


def _kept(order: list[Expr], adjoints: Adjoints, targets: list[Expr], at_hand: list[Expr]) -> list[Expr]:
    forward = set(order)
    needed: set[Expr] = set()
    seen: set[Expr] = set()
    stack = list(targets)
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in forward:
            needed.add(node)
        elif node.op != "dvec":
            stack.extend(children(node))
    constants = [n for n in order if n.op == "const"]
    return minimum_kept(order, needed, {*at_hand, *constants})


def _forward_stages(
    cell: Cell,
    outputs: list[Expr],
    products: list[Expr],
    base: dict[Expr, Ref],
    after: dict[Expr, Ref],
    keep: dict[Expr, Ref],
) -> tuple[tuple[Stage, ...], dict[Expr, Ref]]:

    def of_product(p: Expr) -> int:
        return 0 if p.args[1].op == "state" else 1 + level(p.args[1])

    level = _Levels({}, of_product)
    base = base | {n: Ref("x", cell.gates.index(n.args[0])) for n in topological(outputs) if n.op == "x"}
    n_stages = 1 + max((level(n) for n in [*outputs, *keep]), default=0)
    accs: list[dict[Expr, tuple[Term, ...]]] = [{} for _ in range(n_stages)]
    vector = base | keep | _states(base)
    for p in products:
        accs[level(p)][p] = (Term(vector[p.args[1]], cell.recurrent.index(p.args[0])),)
    stores = [(Ref("next", k), n) for k, n in enumerate(outputs)] + [(r, n) for n, r in keep.items()]
    builder = _StageBuilder(level, accs, base, "keep", {**after, **keep}, len(keep))
    stages = builder.build(stores)
    return stages, keep | builder.crossing


def _backward_stages(
    cell: Cell,
    adjoints: Adjoints,
    products: list[Expr],
    at_hand: dict[Expr, Ref],
    slots: _Slots,
) -> tuple[tuple[Stage, ...], tuple[int | None, ...], int]:
    by_vector: dict[Expr, list[Expr]] = {}
    for p in products:
        if p in adjoints.of:
            by_vector.setdefault(p.args[1], []).append(p)

    def of_product(d: Expr) -> int:
        return 1 + max(level(adjoints[p]) for p in by_vector[d.args[0]])

    level = _Levels(at_hand, of_product)
    values = slots.targets(cell, adjoints)
    n_stages = 1 + max(level(n) for n in values)
    accs: list[dict[Expr, tuple[Term, ...]]] = [{} for _ in range(n_stages)]
    grad_acc: list[int | None] = [None] * len(cell.states)
    for vector, users in by_vector.items():
        terms = tuple(Term(Ref("da", slots.of[p]), cell.recurrent.index(p.args[0])) for p in users)
        if vector.op == "state":
            # The gradient of a state arrives with the step after: products of the first stage.
            grad_acc[cell.states.index(vector.args[0])] = len(accs[0])
            accs[0][leaf("dvec", vector)] = terms
        else:
            node = leaf("dvec", vector)
            accs[level(node)][node] = terms
    stores = [(Ref("da", i), n) for i, n in enumerate(slots.values)]
    known = {n: r for r, n in reversed(stores) if n.op != "const"}
    stores += [(Ref("carry", k), adjoints[leaf("state", s)]) for k, s in enumerate(cell.states)]
    grads: dict[Expr, Ref] = {leaf("dstate", s): Ref("grad", k) for k, s in enumerate(cell.states)}
    builder = _StageBuilder(level, accs, at_hand, "da", known, len(slots.values), first=grads)
    stages = builder.build(stores)
    return stages, tuple(grad_acc), len(slots.values) + len(builder.crossing)


class _Levels:
    """The stage in which a node can first be computed: 0 unless it depends on a later product."""

    def __init__(self, at_hand: dict[Expr, Ref], of_product: Callable[[Expr], int]) -> None:
        self._memo: dict[Expr, int] = dict.fromkeys(at_hand, 0)
        self._of_product = of_product

    def __call__(self, node: Expr) -> int:
        if node not in self._memo:
            if node.op in ("product", "dvec"):
                self._memo[node] = self._of_product(node)
            else:
                self._memo[node] = max((self(c) for c in children(node)), default=0)
        return self._memo[node]


class _StageBuilder:
    """Cuts elementwise code at the stages; a value that crosses a cut gets a slot."""

    def __init__(
        self,
        level: _Levels,
        accs: list[dict[Expr, tuple[Term, ...]]],
        base: dict[Expr, Ref],
        slot_kind: str,
        stored: dict[Expr, Ref],
        n_slots: int,
        first: dict[Expr, Ref] | None = None,
    ) -> None:
        self._level, self._accs, self._base = level, accs, base
        self._slot_kind, self._stored, self._n_slots = slot_kind, dict(stored), n_slots
        self._first = first or {}
        self.crossing: dict[Expr, Ref] = {}

    def build(self, stores: list[tuple[Ref, Expr]]) -> tuple[Stage, ...]:
        by_stage: list[list[tuple[Ref, Expr]]] = [[] for _ in self._accs]
        for ref, node in stores:
            by_stage[self._level(node)].append((ref, node))
        stages = []
        # Last stage first: what it needs of the stages before it becomes their work.
        for s in reversed(range(len(by_stage))):
            loads = self._loads(s, [n for _, n in by_stage[s]], by_stage)
            stages.append(Stage(tuple(self._accs[s].values()), loads, tuple(by_stage[s])))
        return tuple(reversed(stages))

    def _loads(self, s: int, values: list[Expr], by_stage: list[list[tuple[Ref, Expr]]]) -> dict[Expr, Ref]:
        accs = {n: Ref("acc", i) for i, n in enumerate(self._accs[s])}
        here = self._base | accs | (self._first if s == 0 else {})
        loads: dict[Expr, Ref] = {}
        seen: set[Expr] = set()
        stack = list(values)
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            if node in here:
                loads[node] = here[node]
            elif self._level(node) < s and (node in self._stored or not self._cheap(node)):
                loads[node] = self._slot(node, by_stage)
            else:
                stack.extend(children(node))
        return loads

    def _slot(self, node: Expr, by_stage: list[list[tuple[Ref, Expr]]]) -> Ref:
        if node not in self._stored:
            ref = Ref(self._slot_kind, self._n_slots + len(self.crossing))
            self._stored[node] = self.crossing[node] = ref
            by_stage[self._level(node)].append((ref, node))
        return self._stored[node]

    def _cheap(self, node: Expr) -> bool:
        """Whether `node` follows by arithmetic from what a later stage can load."""
        if node in self._base or node in self._stored or node.op == "const":
            return True
        if never_again(node) or node.op in ("dvec", "dstate"):
            return False
        return all(self._cheap(c) for c in children(node))
