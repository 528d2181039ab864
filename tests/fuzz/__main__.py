"""``python tests/fuzz``: the long mode, and one case again."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run by the folder's name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from fuzz.kinds import KINDS, Case, draw, from_line, to_line
from fuzz.shrink import shrink, signature
from fuzz.worker import Verdict, Worker, verdict_of

FAILURES = Path(__file__).with_name("failures.txt")
# Failures that are alike: of so many the line is printed, of the first it is made short and kept.
ALIKE = 3


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="how long to go on (30)")
    parser.add_argument("--cases", type=int, help="how many cases at most")
    parser.add_argument("--seed", type=int, default=0, help="of all cases (0)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (0)")
    parser.add_argument("--kind", choices=list(KINDS), help="cases of this kind alone")
    parser.add_argument("--only", action="append", default=[], metavar="FIELD=VALUE", help="a field of every case")
    parser.add_argument("--quick", action="store_true", help="compile little, as the suite does")
    parser.add_argument("--no-keep", action="store_true", help=f"do not add failures to {FAILURES.name}")
    parser.add_argument("--case", help="run this case alone, in this process")
    return parser.parse_args()


def field(text: str) -> tuple[str, Any]:
    """Name and value of ``FIELD=VALUE``, where text need not be in quotes."""
    name, _, value = text.partition("=")
    with suppress(ValueError):
        return name, json.loads(value)
    return name, value


def command(case: Case) -> str:
    """What runs `case` alone."""
    return f"python tests/fuzz --case {shlex.quote(to_line(case))}"


def one(line: str) -> int:
    """Run a case where a debugger can follow it."""
    verdict = verdict_of(line)
    print(verdict.details)
    print(f"FAILED {verdict.what}" if verdict.failed else verdict.what or "passed")
    return int(verdict.failed)


def attack(options: argparse.Namespace) -> int:
    """Case after case until the time is over; the number of failures that are not alike."""
    end = time.monotonic() + 60 * options.minutes
    only = dict(map(field, options.only))
    counts: Counter[str] = Counter()
    alike: Counter[str] = Counter()
    number = options.first
    with Worker() as worker:
        while time.monotonic() < end and (options.cases is None or number < options.first + options.cases):
            case = draw(options.seed, number, options.kind, options.quick)
            case |= {k: v for k, v in only.items() if k in case}
            number += 1
            verdict = worker.run(to_line(case))
            counts[f"{case['kind']} {'failed' if verdict.failed else verdict.what or 'passed'}"] += 1
            if verdict.failed:
                name = signature(case, verdict)
                alike[name] += 1
                if alike[name] <= ALIKE:
                    report(case, verdict, worker, alike[name] == 1, not options.no_keep)
    print(f"seed {options.seed}, cases {options.first} to {number - 1}:")
    for what, count in sorted(counts.items()):
        print(f"  {count:7} {what}")
    for name, count in alike.most_common():
        print(f"  {count:7} {name}")
    return len(alike)


def report(case: Case, verdict: Verdict, worker: Worker, first: bool, keep: bool) -> None:
    """Print the line that runs a failing case again; make the first of its kind short, and keep it."""
    if first:
        case, verdict = shrink(case, verdict, worker.run)
        print(verdict.details)
        if keep:
            with FAILURES.open("a", encoding="utf-8") as file:
                file.write(f"# {verdict.what}\n{to_line(case)}\n")
    print(f"FAILED {verdict.what}\n{command(case)}", flush=True)


def main() -> int:
    options = arguments()
    if options.case:
        return one(to_line(from_line(options.case)))
    return min(attack(options), 1)


if __name__ == "__main__":
    sys.exit(main())
