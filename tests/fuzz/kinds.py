"""The kinds of cases by name: what each draws, runs, and takes for a field that a line leaves out."""

from __future__ import annotations

import json
from typing import Any, NamedTuple, Protocol

import numpy as np

from . import cells, endless, files, layers, together, wrong

Case = dict[str, Any]


class Kind(Protocol):
    """A module of cases.

    DEFAULTS : the fields of a case and the simplest value of each
    draw : fields at random; fewer cells with `quick`, so that little is compiled
    run : raises if the package does not do what it promises
    """

    DEFAULTS: Case

    def draw(self, rng: np.random.Generator, quick: bool) -> Case: ...

    def run(self, case: Case) -> None: ...


class Share(NamedTuple):
    kind: Kind
    of_cases: float


KINDS = {
    "cell": Share(cells, 0.5),
    "layer": Share(layers, 0.24),
    "wrong": Share(wrong, 0.15),
    "file": Share(files, 0.06),
    "together": Share(together, 0.04),
    "endless": Share(endless, 0.01),
}


def draw(seed: int, number: int, kind: str | None = None, quick: bool = False) -> Case:
    """Case `number` of `seed`; of any kind if none is given."""
    rng = np.random.default_rng([seed, number])
    names = list(KINDS)
    kind = kind or names[rng.choice(len(names), p=[share.of_cases for share in KINDS.values()])]
    return {"kind": kind, **KINDS[kind].kind.draw(rng, quick)}


def run(case: Case) -> None:
    """Raises if `case` fails."""
    fields = dict(case)
    module = KINDS[fields.pop("kind")].kind
    unknown = fields.keys() - module.DEFAULTS.keys()
    if unknown:
        raise KeyError(f"a case of this kind has no {', '.join(sorted(unknown))}")
    module.run(module.DEFAULTS | fields)


def to_line(case: Case) -> str:
    """`case` in one line, without what is as simple as it could be."""
    defaults = KINDS[case["kind"]].kind.DEFAULTS
    short = {k: v for k, v in case.items() if k == "kind" or v != defaults[k]}
    return json.dumps(short, separators=(",", ":"))


def from_line(line: str) -> Case:
    case: Case = json.loads(line)
    return case
