"""What all commands share: a process with pinned threads for the measuring, a table on the screen, figures in a file.

A command is a module with `rows`, which measures, and `tables`, which writes Markdown; its `main` calls :func:`run`.
That starts ``python -m bench.NAME`` anew for each number of threads, as BLAS reads its own once, before NumPy is
imported, with as many processors. The child prints a line of JSON for each row.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .machine import describe, environment, processors, thread_environment, usable
from .measure import Row
from .results import FOLDER, Result, save

Rows = Callable[[argparse.Namespace], Iterator[Row]]
Tables = Callable[[list[Result]], list[str]]
# How often a figure is taken again while other processes are busy.
ATTEMPTS = 3


def parser(description: str | None, threads: Sequence[int] = (1,), rounds: int = 5) -> argparse.ArgumentParser:
    """The options of every command."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--rounds", type=int, default=rounds, help="rounds of each measurement (default: %(default)s)")
    found.add_argument("--quick", action="store_true", help="a few small points in one round, to see that it runs")
    where = f"keep the figures as JSON, for python -m bench.report, in this folder (default: bench/{FOLDER.name})"
    found.add_argument("--save", nargs="?", type=Path, const=FOLDER, metavar="FOLDER", help=where)
    several = len(threads) > 1
    if several:
        threads = [n for n in threads if n <= usable()]
        help_text = f"numbers of threads, each in a process of its own (default: {' '.join(map(str, threads))})"
        found.add_argument("--threads", nargs="+", type=int, default=threads, help=help_text)
    found.set_defaults(threads=list(threads), several=several)
    found.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    return found


def run(name: str, arguments: argparse.ArgumentParser, rows: Rows, tables: Tables) -> None:
    """Parse the command line, measure in a child for each number of threads, print the tables, keep the figures."""
    options = arguments.parse_args()
    options.rounds = 1 if options.quick else options.rounds
    options.attempts = 1 if options.rounds == 1 else ATTEMPTS
    if options.worker:
        for row in rows(options):
            print(json.dumps(row), flush=True)
        return
    if options.several and not all(0 < n <= usable() for n in options.threads):
        arguments.error(f"--threads: expected 1 to the {usable()} processors of this process, got {options.threads}")
    if options.save == FOLDER and _is_part(options, arguments):
        arguments.error("--save: the tables want the whole measurement; name another folder for a part of it")
    results, failed = [], []
    for threads in options.threads:
        shown = f"{name} --threads {threads}" if options.several else name
        result, complete = _in_child(name, threads, options)
        result = {"command": f"python -m bench.{shown}", **result}
        results.append(result)
        if not complete:
            failed.append(str(threads))
        if options.save:
            where = save(result, f"{name}-{threads}{'' if complete else '.incomplete'}", options.save)
            print(f"written: {where}", file=sys.stderr)
    print(described(results), "", *tables(results), sep="\n")
    if failed:
        raise SystemExit(f"not everything was measured: failed with {' and '.join(failed)} thread(s), see above")


def described(results: list[Result]) -> str:
    """Where figures are from: the commands, a paragraph for each machine and day."""
    commands: dict[str, list[str]] = {}
    for result in results:
        rounds = result["rounds"]
        where = f"{rounds} round{'s' * (rounds > 1)}. {describe(result)}."
        commands.setdefault(where, []).append(f"`{result['command']}`")
    return "\n\n".join(f"{', '.join(names)}, {where}" for where, names in commands.items())


def _is_part(options: argparse.Namespace, arguments: argparse.ArgumentParser) -> bool:
    """Whether the options leave points or rounds out."""
    chosen = {key: value for key, value in vars(options).items() if key not in ("save", "threads", "attempts")}
    return any(value != arguments.get_default(key) for key, value in chosen.items())


def _in_child(name: str, threads: int, options: argparse.Namespace) -> tuple[Result, bool]:
    """The result of a process that has `threads` processors, and whether it came to its end."""
    rows: list[Row] = []
    result: Result = {
        **environment(),
        "threads": threads,
        "rounds": options.rounds,
        "rows": rows,
    }
    flags = "" if threads > 1 else "--xla_cpu_multi_thread_eigen=false"
    env = {**os.environ, **thread_environment(threads), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", f"bench.{name}", *sys.argv[1:], "--worker", str(threads)]
    with _pinned(command, env, processors(threads)) as child:
        assert child.stdout is not None
        for line in child.stdout:
            rows.append(json.loads(line))
            print(f"{threads} thread(s): {_progress(rows[-1])}", file=sys.stderr, flush=True)
    return result, child.returncode == 0


def _pinned(command: list[str], env: dict[str, str], chosen: list[int] | None) -> subprocess.Popen[str]:
    """A process that begins on the chosen processors, as do all threads of its libraries."""
    if chosen is None:
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen)
    try:
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    finally:
        os.sched_setaffinity(0, mine)


def _progress(row: Row) -> str:
    """A row in one line: what it is of, and its figures."""
    words = [str(value) for value in row.values() if isinstance(value, str)]
    figures = [
        f"{name} {figure:.4g}" if isinstance(figure, float) else f"{name} {figure}"
        for key, value in row.items()
        if isinstance(value, dict) and key != "range"
        for name, figure in value.items()
    ]
    return f"{' '.join(words)}: {', '.join(figures)}"
