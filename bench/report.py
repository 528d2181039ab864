"""Tables from kept figures: `python -m bench.report` writes them into RESULTS.md, README and the documentation.

``bench/RESULTS.md`` is ``bench/remarks.md``, which is written by hand, with figures in it; other files have their
figures renewed where they stand. A place for them is a pair of comments, with the name of a table from `FIGURES`::

    <!-- figures: peers summary -->
    <!-- end of figures -->

Figures are those of ``bench/results``, kept by a command's ``--save``. ``--check`` writes nothing and fails if a file
is not what would be written.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from . import interrupt, memory, numpy_baseline, online, picture, precision, recompute, saturated, tables
from .command import described
from .results import Result, load

BENCH = Path(__file__).parent
ROOT = BENCH.parent
# A table's name: the command whose figures it shows, and how it is written.
FIGURES: dict[str, tuple[str, Callable[[list[Result]], list[str]]]] = {
    "peers": ("peers", tables.peers),
    "peers summary": ("peers", tables.peers_summary),
    "peers behind": ("peers", tables.behind),
    "numpy_baseline": ("numpy_baseline", numpy_baseline.tables),
    "precision": ("precision", precision.tables),
    "precision summary": ("precision", precision.summary),
    "memory": ("memory", memory.tables),
    "recompute": ("recompute", recompute.tables),
    "saturated": ("saturated", saturated.tables),
    "interrupt": ("interrupt", interrupt.tables),
    "online": ("online", online.tables),
}
PLACE = re.compile(r"(<!-- figures: ([\w ]+?) -->\n).*?(<!-- end of figures -->)", re.DOTALL)
MADE = "<!-- Made by `python -m bench.report` from remarks.md and results/: change those. -->\n"


def main() -> None:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if a file is out of date")
    check = parser.parse_args().check
    late = {path: text for path, text in reported().items() if path.read_text(encoding="utf-8") != text}
    if check and late:
        names = " and ".join(str(path.relative_to(ROOT)) for path in late)
        raise SystemExit(f"{names}: not what the figures give; run python -m bench.report")
    if check:
        return
    for path, text in late.items():
        path.write_text(text, encoding="utf-8")
        print(f"written: {path.relative_to(ROOT)}")
    if results := load("peers"):
        picture.draw(results, ROOT / "docs" / "peers.png")


def reported() -> dict[Path, str]:
    """Every file with figures in it, and what it should hold."""
    results, remarks = ((BENCH / name).read_text(encoding="utf-8") for name in ("RESULTS.md", "remarks.md"))
    texts = {BENCH / "RESULTS.md": MADE + filled(remarks, before=results)}
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        if PLACE.search(text):
            texts[path] = filled(text)
    return texts


def filled(text: str, before: str = "") -> str:
    """The text with the newest figures in their places.

    A place whose figures were never kept is left as it is, or as it is in `before`, an earlier version of the text.
    """
    earlier = {place[2]: place[0] for place in PLACE.finditer(before)}
    return PLACE.sub(lambda place: _figures(place) or earlier.get(place[2], place[0]), text)


def _figures(place: re.Match[str]) -> str:
    """A place with its figures; empty if there are none."""
    begin, name, end = place.groups()
    if name not in FIGURES:
        raise SystemExit(f"figures: expected one of {', '.join(FIGURES)}; got {name!r}")
    command, write = FIGURES[name]
    results = load(command)
    if not results:
        print(f"no figures for {name!r}: python -m bench.{command} --save", file=sys.stderr)
        return ""
    return "\n".join([begin.rstrip(), described(results), "", *write(results), end])


if __name__ == "__main__":
    main()
