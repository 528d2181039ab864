"""Elementwise code of a stage as Python text: the same text serves arrays and SIMD vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..cells.expr import BINARY, Expr, topological
from ..engine.plan import Ref, Stage

_SYMBOL = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
assert _SYMBOL.keys() == BINARY.keys()


@dataclass(frozen=True)
class Code:
    """Straight-line code of one stage.

    loads : variable and the place that it is read from.
    lines : statements, in order.
    stores : the place that is written, and the expression (a variable or constant) that is.
    """

    loads: tuple[tuple[str, Ref], ...]
    lines: tuple[str, ...]
    stores: tuple[tuple[Ref, str], ...]


def stage_code(stage: Stage) -> Code:
    """The code of `stage`."""
    names: dict[Expr, str] = {}
    loads: list[tuple[str, Ref]] = []
    lines: list[str] = []

    def value(node: Expr) -> str:
        if node.op == "const":
            number: float = node.args[0]
            return f"({number!r})" if number < 0 else repr(number)
        return names[node]

    for node in topological([n for _, n in stage.stores], stop=stage.loads):
        if node in stage.loads:
            ref = stage.loads[node]
            names[node] = f"{ref.kind}{ref.index}"
            loads.append((names[node], ref))
        elif node.op != "const":
            names[node] = f"v{len(lines)}"
            lines.append(f"{names[node]} = {_operation(node, value)}")
    return Code(tuple(loads), tuple(lines), tuple((ref, value(n)) for ref, n in stage.stores))


def _operation(node: Expr, value: Callable[[Expr], str]) -> str:
    args = [value(a) for a in node.args]
    if node.op in _SYMBOL:
        return f"{args[0]} {_SYMBOL[node.op]} {args[1]}"
    if node.op == "neg":
        return f"-{args[0]}"
    return f"{node.op}({args[0]})"
