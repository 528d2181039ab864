"""Elementwise code of a stage as statements, and as text that Python and C++ have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ..cells.expr import Expr, topological
from ..cells.table import OPERATIONS
from ..engine.plan import Ref, Stage

# A variable, or a number.
Value = str | float
Spelling = Callable[[float], str]


class Statement(NamedTuple):
    """``name = op(*operands)``."""

    name: str
    op: str
    operands: tuple[Value, ...]

    def right_side(self, beside_symbol: Spelling, as_argument: Spelling) -> str:
        """The operation as text; the two spell a number beside ``+ - * /``, and one that a function is given."""
        symbol = OPERATIONS[self.op].symbol
        spell = beside_symbol if symbol else as_argument
        operands = [value if isinstance(value, str) else spell(value) for value in self.operands]
        if not symbol:
            return f"{self.op}({', '.join(operands)})"
        return f" {symbol} ".join(operands) if len(operands) == 2 else f"{symbol}{operands[0]}"


@dataclass(frozen=True)
class Code:
    """Straight-line code of one stage.

    loads : variable and the place that it is read from.
    lines : statements, in order.
    stores : the place that is written, and the value that is.
    """

    loads: tuple[tuple[str, Ref], ...]
    lines: tuple[Statement, ...]
    stores: tuple[tuple[Ref, Value], ...]


def stage_code(stage: Stage) -> Code:
    """The code of `stage`."""
    values: dict[Expr, Value] = {}
    loads: list[tuple[str, Ref]] = []
    lines: list[Statement] = []
    for node in topological([n for _, n in stage.stores], stop=stage.loads):
        if node in stage.loads:
            ref = stage.loads[node]
            name = f"{ref.kind}{ref.index}"
            loads.append((name, ref))
            values[node] = name
        elif node.op == "const":
            values[node] = node.args[0]
        else:
            name = f"v{len(lines)}"
            lines.append(Statement(name, node.op, tuple(values[a] for a in node.args)))
            values[node] = name
    return Code(tuple(loads), tuple(lines), tuple((ref, values[n]) for ref, n in stage.stores))
