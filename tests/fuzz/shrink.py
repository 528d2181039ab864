"""A failing case made simpler, as long as it fails in the same way."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

from .kinds import KINDS, Case, to_line
from .worker import Verdict

# Where a kind can be no smaller than this.
LEAST = {"T": 1, "N": 0, "D": 1, "H": 1, "layers": 1, "threads": 1, "callers": 1, "rounds": 1}


def signature(case: Case, verdict: Verdict) -> str:
    """What failures that are alike have in common: all but sizes and numbers."""
    where = " ".join(str(case[k]) for k in ("kind", "backend", "call") if k in case)
    return f"{where}: {re.sub(r'[-+]?[0-9.]+(e[-+]?[0-9]+)?', '#', verdict.what)[:60]}"


def shrink(case: Case, verdict: Verdict, run: Callable[[str], Verdict], seconds: float = 60) -> tuple[Case, Verdict]:
    """`case` with as many fields at their simplest and as small sizes as can be found in so many seconds."""
    way = _way(verdict)
    end = time.monotonic() + seconds
    progress = True
    while progress:
        progress = False
        for simpler in _simpler(case):
            if time.monotonic() > end:
                return case, verdict
            found = run(to_line(simpler))
            if found.failed and _way(found) == way:
                case, verdict, progress = simpler, found, True
                break
    return case, verdict


def _way(verdict: Verdict) -> str:
    """The first words, up to what is measured."""
    return re.split(r"[:0-9]", verdict.what)[0]


def _simpler(case: Case) -> Iterator[Case]:
    defaults = KINDS[case["kind"]].kind.DEFAULTS
    for name, value in case.items():
        if name in ("kind", "backend", "call", "variant"):
            continue
        simplest = defaults[name]
        if value == simplest and name not in LEAST:
            continue
        if name in LEAST:
            sizes = {LEAST[name], value // 2, value - 1}
            yield from ({**case, name: n} for n in sorted(sizes) if LEAST[name] <= n < value)
        elif isinstance(value, dict):
            yield from ({**case, name: {k: v for k, v in value.items() if k != key}} for key in value if len(value) > 1)
            if name != "changes":
                yield {**case, name: simplest}
        elif isinstance(value, list) and name in ("changes", "calls"):
            yield from ({**case, name: value[:i] + value[i + 1 :]} for i in range(len(value)) if len(value) > 1)
        elif name != "seed":
            yield {**case, name: simplest}
