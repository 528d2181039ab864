"""Cells made at random: the compiler of descriptions on expressions that nobody thought of.

A program is a list of instructions on a growing list of registers. It is run twice: on fastrnn's
symbols, as the body of a description, and on scalars, as the step of the naive oracle.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

import cases
import fastrnn
import naive
from fastrnn import ops
from fastrnn.cells.expr import topological
from fastrnn.cells.table import OPERATIONS
from naive import Call
from problems import assert_close, oracle, problem, reset_state

START = ("xa", "xb", "u", "h", "c")
LENGTH = 12
UNARY = ("tanh", "sigmoid", "relu", "softplus", "exp_tanh", "neg")
BINARY = ("add", "sub", "mul", "div", "affine")
# The programs of seeds up to FEW have these alone.
FEW = 1000
MORE_UNARY = ("hard_sigmoid", "log_positive", "sqrt_positive", "sin", "cos", "abs")
MORE_BINARY = ("maximum", "minimum", "where_less", "where_at_least", "log_or", "sqrt_or")


class Instruction(NamedTuple):
    """The result of `op` on registers; for ``product`` the matrix is the second number."""

    op: str
    a: int
    b: int = 0


def random_program(seed: int) -> list[Instruction]:
    rng = np.random.default_rng(seed)
    more = (*MORE_UNARY, *MORE_BINARY) if seed > FEW else ()
    program = []
    for size in range(len(START), len(START) + LENGTH):
        op = rng.choice([*UNARY, *BINARY, *more, "product", "product", "product"])
        # Late registers are likelier, so that programs grow deep.
        a, b = (int(size * rng.random() ** 0.5) for _ in range(2))
        program.append(Instruction(str(op), a, int(rng.integers(3)) if op == "product" else b))
    return program


def live(program: list[Instruction]) -> list[Instruction]:
    """The instructions that the last two registers depend on."""
    needed, found = {len(START) + LENGTH - 1, len(START) + LENGTH - 2}, []
    for register in reversed(range(len(START), len(START) + LENGTH)):
        if register in needed:
            op, a, b = program[register - len(START)]
            needed |= {a, b} if op in BINARY + MORE_BINARY else {a}
            found.append(program[register - len(START)])
    return found


def matrices(program: list[Instruction]) -> list[int]:
    return sorted({i.b for i in live(program) if i.op == "product"})


def evaluate(op: str, f: Any, a: Any, b: Any) -> Any:
    """One elementwise instruction, with the functions of `f`."""
    table = {
        "exp_tanh": lambda: f.exp(f.tanh(a)),
        "neg": lambda: -a,
        "add": lambda: a + b,
        "sub": lambda: a - b,
        "mul": lambda: a * b,
        "div": lambda: a / (1.5 + b * b),
        "affine": lambda: 1 - 0.5 * a + b / 4 - 2.0,
        "abs": lambda: f.absolute(a),
        "log_positive": lambda: f.log(0.1 + a * a),
        "sqrt_positive": lambda: f.sqrt(0.1 + a * a),
        "maximum": lambda: f.maximum(a, b),
        "minimum": lambda: f.minimum(a, b),
        "where_less": lambda: f.where(f.less(a, b), b * a, f.cos(a)),
        "where_at_least": lambda: f.where(f.less_equal(0.25, a), 0.5 * b, 1.0),
        # Below 0 what is not taken is NaN.
        "log_or": lambda: f.where(f.less(0.1, a), f.log(a), b),
        "sqrt_or": lambda: f.where(f.less(0.1, a), f.sqrt(a), b),
    }
    return table[op]() if op in table else getattr(f, op)(a)


def symbols() -> Any:
    """The functions of a description, with names for the operators."""
    named = {name: getattr(ops, name) for name in ops.__all__}
    return SimpleNamespace(**named, absolute=abs, less=lambda a, b: a < b, less_equal=lambda a, b: a <= b)


def finish(f: Any, h: Any, c: Any, xa: Any, xb: Any, u: Any) -> tuple[Any, Any]:
    """New states that are bounded and use all that the cell declares."""
    return f.tanh(h + xa), f.sigmoid(c * xb + u)


def described(seed: int) -> fastrnn.Cell:
    program = random_program(seed)

    @fastrnn.cell(
        gates="a b",
        recurrent=[f"m{m}" for m in matrices(program)],
        units="u",
        name=f"random_{seed}",
    )
    def body(x: Any, U: Any, p: Any, h: Any, c: Any) -> Any:
        f = symbols()
        registers = [x.a, x.b, p.u, h, c]
        for op, a, b in program:
            if op != "product":
                registers.append(evaluate(op, f, registers[a], registers[b]))
            elif b in matrices(program):
                registers.append(getattr(U, f"m{b}") @ registers[a])
            else:
                registers.append(registers[a])  # dead code: no live instruction reads it
        return finish(f, registers[-1], registers[-2], x.a, x.b, p.u)

    return body


def naive_step(seed: int) -> naive.Step:
    program = random_program(seed)
    block = {m: i for i, m in enumerate(matrices(program))}

    def step(p: naive.Params, x: naive.Vector, h: naive.Vector, c: naive.Vector) -> naive.States:
        size = len(h)
        registers = [naive.from_x(p, x, 0, size), naive.from_x(p, x, 1, size), p["u"], h, c]
        for op, a, b in program:
            if op != "product":
                pairs = zip(registers[a], registers[b], strict=True)
                registers.append([evaluate(op, naive, v, w) for v, w in pairs])
            else:
                registers.append(naive.from_vector(p, registers[a], block[b]) if b in block else registers[a])
        units = zip(registers[-1], registers[-2], *registers[:3], strict=True)
        new_h, new_c = zip(*(finish(naive, *values) for values in units), strict=True)
        return list(new_h), list(new_c)

    return step


def covering(seeds: Iterable[int]) -> list[int]:
    found = {seed: {i.op for i in live(random_program(seed))} for seed in seeds}
    left, chosen = set().union(*found.values()), []
    while left:
        chosen.append(max(found, key=lambda seed: len(found[seed] & left)))
        left -= found[chosen[-1]]
    return chosen


# With Numba a cell takes a fifth of a second; numpy tries what the plan does to many.
# 387: products of two vectors in one sum share their adjoint; the backward pass mixed them up. 73, 764: products of one
# vector with matrices that are neighbours in Wh, and with others.
# Some that have every instruction together, those with most new ones first.
COMPILED = covering(range(FEW + 1, FEW + 200))
CASES = [("numpy", seed) for seed in (*range(60), 73, 387, 764, *range(FEW + 1, FEW + 61))]
CASES += [("numba", seed) for seed in (*range(12), 23, 73, 387, 764, *COMPILED)]
# Steps at which one sequence is held and another is reset to a state that gets a gradient.
FLAGGED = Call(
    mask=((True, True), (False, True), (True, False), (True, True)),
    resets=((False, True), (True, False), (False, False), (True, False)),
)


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_every_operation_is_in_a_cell(name: str) -> None:
    """One that is missing wants its line in MORE_UNARY or MORE_BINARY."""
    graphs = [topological(list(described(seed).outputs)) for backend, seed in CASES if backend == name]
    assert OPERATIONS.keys() <= {node.op for graph in graphs for node in graph}


@pytest.mark.parametrize(("name", "seed"), CASES)
def test_random_cell(name: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = f"random_{seed}"
    n = len(matrices(random_program(seed)))
    monkeypatch.setitem(naive.CELLS, cell, naive.Naive(naive_step(seed), 2, n, 2, ("u",)))
    monkeypatch.setitem(cases.CELLS, cell, described(seed))
    p = problem(cell, T=4, N=2, D=2, H=3)
    with fastrnn.use_backend(name):
        for call in (Call(), Call(lengths=(1, 4), reverse=True, truncate=2)):
            assert_close(cases.run(p, call), oracle(p, call), 1e-12)
        flagged = cases.run(p, FLAGGED, reset_state=reset_state(p))
        assert_close(flagged, oracle(p, FLAGGED, to_state=True), 1e-12)
