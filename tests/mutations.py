"""Moves each threshold and turns each sign of the time loops, one at a time, and lists what no test sees.

Run by hand; a change is built and tested in a copy of the tree::

    python tests/mutations.py --list
    python tests/mutations.py --only thresholds.h
    python tests/mutations.py --sample 40 --seed 1

``FASTRNN_VARIANTS`` names the instruction set that is built, avx2 by default; changes of paths that only others have
are built for those. What stays green needs a test that fails, or, if no result changes, an entry in a table here.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

ROOT = Path(__file__).parents[1]

ENGINE = ("csrc/forward.h", "csrc/backward.h", "csrc/run.h", "csrc/division.h", "csrc/path.h")
NUMBA_LOOPS = "fastrnn/backends/numba/loops.py"
ENGINE_THRESHOLDS, PYTHON_THRESHOLDS = "csrc/thresholds.h", "fastrnn/thresholds.py"

# Every constant of both files of thresholds stands in one of these two tables.
MOVED = {
    ENGINE_THRESHOLDS: {
        "worth_packing",
        "worth_packing_transposed",
        "worth_hoisting",
        "worth_projecting_ahead",
        "ahead_rows",
        "gemm_depth",
        "worth_merging",
        "worth_splitting",
        "step_work",
        "few_rows",
        "worth_a_wave",
        "wave_steps",
    },
    PYTHON_THRESHOLDS: {
        "WORTH_A_THREAD",
        "CHUNK_BYTES",
        "CHUNK_ROWS",
        "WORTH_PACKING",
        "TILE_COLUMNS",
        "TILE_COLUMNS_ALONE",
        "TILE_ROWS",
        "SUMS_UNDER_WAY",
    },
}
CHANGES_NO_RESULT = {
    ENGINE_THRESHOLDS: {
        "pack_rows": "order of the reads of a matrix that is packed",
        "unpacked_rows": "order of the reads of a matrix that is not packed",
        "ahead_columns": "width of a tile: every sum has its own chain of additions",
        "most_block_units": "width of a block: every sum has its own chain of additions",
        "most_block_sums": "width of a block: every sum has its own chain of additions",
        "sum_rows": "order of the additions of a sum, within rounding",
        "min_chains": "order of the additions of a sum, within rounding",
        "worth_tiles": "needs AMX: the choice of a path, on other processors never asked",
        "worth_splitting_in_three": "needs AMX: the choice of a path, on other processors never asked",
        "idle_spins": "time only",
        "short_spins": "time only",
        "poll_milliseconds": "time only: how soon Ctrl-C ends a call",
        "poll_work": "time only: how soon Ctrl-C ends a call",
        "workspace_bytes": "memory that is kept",
        "spare_bytes": "memory that is kept",
        "huge_page": "alignment of large blocks",
    },
    PYTHON_THRESHOLDS: {"KEPT_BYTES": "memory that is kept"},
}

# Changes of signs that no result shows: a file, a part of the changed line with the change in «», and why.
EQUAL = "the smaller or larger of two numbers that are equal"
EQUIVALENT: list[tuple[str, str, str]] = [
    (ENGINE_THRESHOLDS, "N <= «9»", "of nine sequences, eight steps are the first that are worth it either way"),
    ("csrc/forward.h", "input «>=» stage", EQUAL),
    ("csrc/forward.h", "needed «<=» run.T_", EQUAL),
    ("csrc/forward.h", "first + chunk «<=» run.T_", EQUAL),
    ("csrc/forward.h", "rest «<=» chunk", EQUAL),
    ("csrc/forward.h", "steps «>=» ran.chunk", EQUAL),
    ("csrc/forward.h", "division.by_units ? «1 : division.parts»", "size of a block"),
    ("csrc/forward.h", "r «<=» rows && !tail.all", "one more row of scratch, which nobody reads"),
    ("csrc/backward.h", "chunk * rows «<=» gemm_depth", EQUAL),
    ("csrc/backward.h", "source_of(i) + 1 «>=» count", EQUAL),
    ("csrc/backward.h", "done.steps «>=» ran.chunk", EQUAL),
]


class Mutation(NamedTuple):
    """`text[start:end]` of a file becomes `after`."""

    file: str
    start: int
    end: int
    after: str
    text: str

    def changed(self) -> str:
        return self.text[: self.start] + self.after + self.text[self.end :]

    def line(self) -> str:
        """The changed line, the change in «»."""
        begin, end = self.text.rfind("\n", 0, self.start) + 1, self.text.find("\n", self.end)
        return " ".join(f"{self.text[begin : self.start]}«{self.after}»{self.text[self.end : end]}".split())

    def __str__(self) -> str:
        number = self.text.count("\n", 0, self.start) + 1
        before = " ".join(self.text[self.start : self.end].split())
        return f"{self.file}:{number}: {self.line()} (was {before!r})"

    def variants(self) -> str:
        """The instruction sets that have what is changed."""
        if self.file == PYTHON_THRESHOLDS or self.file == NUMBA_LOOPS:
            return ""
        around = self.line()
        if self.file != ENGINE_THRESHOLDS:  # the function around it says it, or the line itself
            begin = max((m.start() for m in re.finditer(r"(?m)^ {0,4}\S[^\n]*\{$", self.text[: self.start])), default=0)
            around += self.text[begin : self.text.find("\n", begin)]
        if re.search("splitting|left_size|per_item", around):
            return "avx512bf16 avx512"
        if re.search("ahead|beside", around):
            return "avx512"
        return os.environ.get("FASTRNN_VARIANTS", "avx2")


def blanked(text: str, *patterns: str) -> str:
    """`text` with spaces for what the patterns find, and every character else where it was."""
    for pattern in patterns:
        text = re.sub(pattern, lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    return text


def code_of(file: str, text: str) -> str:
    """What is neither comment nor, in C++, text or directive; in Python texts are code: they become the loops."""
    if file.endswith(".py"):
        return blanked(text, r'(?s)""".*?"""', r"(?m)^\s*#.*$", r"(?m)^(from|import) .*$")
    return blanked(text, r"//.*", r'"[^"\n]*"', r"(?m)^\s*#.*$")


# -- Thresholds -------------------------------------------------------------------------------------------------------


def constants(file: str, text: str) -> dict[str, tuple[int, int]]:
    """Where the value of every constant stands: from its ``=`` or ``{`` on to its end."""
    code, found = code_of(file, text), {}
    if file.endswith(".py"):
        for match in re.finditer(r"(?m)^([A-Z_]+) = (.*)$", code):
            found[match[1]] = match.span(2)
        return found
    for match in re.finditer(r"(?m)^constexpr \w+ (\w+)\([^)]*\) (\{.*\}|(?s:\{.*?^\}))", code):
        found[match[1]] = match.span(2)
    for line in re.finditer(r"(?m)^constexpr \w+ (\w+ = .*;)$", code):
        for match in re.finditer(r"(\w+) = ([^,;]+)", line[1]):
            found[match[1]] = (line.start(1) + match.start(2), line.start(1) + match.end(2))
    return found


def moved_thresholds(file: str) -> Iterator[Mutation]:
    """Every number of a constant one or, if it is large, twice as large, and smaller likewise."""
    text = (ROOT / file).read_text(encoding="utf-8")
    for name, (first, last) in constants(file, text).items():
        if name not in MOVED[file]:
            continue
        # Keys of a table and the 20 of `1 << 20` are no sizes.
        for match in re.finditer(r"(?<![\w<])(?<!<< )\d[\d_]*(?![\w:])", text[first:last]):
            number = int(match[0])
            for other in (number + 1, number - 1) if number < 100 else (2 * number, number // 2):
                yield Mutation(file, first + match.start(), first + match.end(), str(other), text)


# -- Signs ------------------------------------------------------------------------------------------------------------

TURNED = {
    "+": "-",
    "-": "+",
    "<": "<=",
    "<=": "<",
    ">": ">=",
    ">=": ">",
    "==": "!=",
    "!=": "==",
    "&&": "||",
    "||": "&&",
    "+=": "-=",
    "and": "or",
    "or": "and",
}


def turned_signs(file: str) -> Iterator[Mutation]:
    """Operators between spaces, which tells them from templates and pointers; ``x - 1`` to ``x``; choices."""
    text = (ROOT / file).read_text(encoding="utf-8")
    code = code_of(file, text)
    words = TURNED if file.endswith(".py") else [sign for sign in TURNED if not sign.isalpha()]
    for match in re.finditer(f"(?<= )({'|'.join(map(re.escape, sorted(words, key=len, reverse=True)))})(?= )", code):
        yield Mutation(file, *match.span(), TURNED[match[0]], text)
    for match in re.finditer(r" [+-] 1\b(?![.])", code):
        yield Mutation(file, *match.span(), "", text)
    yield from (_python_choices if file.endswith(".py") else _choices)(file, text, code)


def _python_choices(file: str, text: str, code: str) -> Iterator[Mutation]:
    for match in re.finditer(r"(?<= if )([^\n]+?)(?= else )", code):
        yield Mutation(file, *match.span(), f"not ({match[0]})", text)


def _choices(file: str, text: str, code: str) -> Iterator[Mutation]:
    """``? a : b`` to ``? b : a``."""
    for match in re.finditer(r" \? ", code):
        middle = _end_of(code, match.end(), " : ")
        end = _end_of(code, middle + 3, None)
        a, b = text[match.end() : middle], text[middle + 3 : end]
        yield Mutation(file, match.end(), end, f"{b} : {a}", text)


def _end_of(code: str, at: int, sign: str | None) -> int:
    """Where an arm of a choice ends: at `sign`, or where the expression around it goes on."""
    depth = choices = 0
    while True:
        if depth == 0 and choices == 0 and sign and code.startswith(sign, at):
            return at
        if code.startswith(" ? ", at):
            choices += 1
        elif code.startswith(" : ", at):
            choices -= 1
        if depth == 0 and (code[at] in ";,)]}" or (sign is None and choices < 0)):
            return at
        depth += (code[at] in "([{") - (code[at] in ")]}")
        at += 1


def mutations() -> list[Mutation]:
    """All of them, thresholds first."""
    found = [m for file in MOVED for m in moved_thresholds(file)]
    return found + [m for file in (*ENGINE, NUMBA_LOOPS) for m in turned_signs(file)]


def reason(mutation: Mutation) -> str | None:
    """Why no test can see it, if it is in the table."""
    line = mutation.line()
    return next((why for file, part, why in EQUIVALENT if file == mutation.file and part in line), None)


# -- Build and run ----------------------------------------------------------------------------------------------------

# Others do without the engine, or wait for Numba; one counts on fused multiply-adds, which unoptimized code has not.
_ENGINE_TESTS = (
    "not (numba or numpy or leaky or mgu or coupled or peephole or indrnn or relaxing or fall_to_another)"
    " and not as_precise_as_float32"
)
# Quickest first: files, and which of their tests.
ENGINE_STAGES = [
    ("test_cpp_paths.py", f"(chosen or oracle or ahead_where or follows or refused) and {_ENGINE_TESTS}"),
    ("test_cpp_paths.py", f"not (chosen or oracle or ahead_where or follows or refused) and {_ENGINE_TESTS}"),
    ("test_cpp.py test_threads.py test_stack.py test_properties.py test_gradients.py test_precision.py", _ENGINE_TESTS),
    ("test_functional.py test_interrupt.py", f"cpp and {_ENGINE_TESTS}"),
]
NUMBA_STAGES = [
    ("test_threads.py test_paths.py", "worth or chooses or quick or memory_up_to or tiles_of or (numba and told)"),
    ("test_paths.py", "numba and gru_before and float64"),
    ("test_paths.py", "numba and float64 and (lstm or relaxing)"),
    ("test_paths.py test_threads.py", "numba and not float32"),
]
CPU_SECONDS, WALL_SECONDS, MEMORY = 240, 1200, 8 << 30


class Outcome(NamedTuple):
    """`word` is green, red, or what hindered the run; `what` the first test that failed."""

    word: str
    what: str = ""


class Copy:
    """A copy of the tree, built once, of which one file is changed at a time."""

    def __init__(self, folder: Path, variants: str) -> None:
        self.folder, self.variants = folder, variants
        names = _run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], ROOT)[1].split("\0")
        for name in filter(None, names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        self.commands: list[list[str]] = []
        if not variants:
            for built in (ROOT / "fastrnn" / "backends").glob("_cpp.*"):
                shutil.copy(built, folder / "fastrnn" / "backends" / built.name)
            return
        # Without optimization: it takes less than half the time.
        setup = folder / "setup.py"
        setup.write_text(setup.read_text(encoding="utf-8").replace('"-O3"', '"-O0"'), encoding="utf-8")
        build = [sys.executable, "setup.py", "build_ext", "--build-lib", "."]
        code, text = _run(build, folder, FASTRNN_VARIANTS=variants, FASTRNN_REQUIRE_EXT="1")
        if code:
            raise RuntimeError(f"the build fails without a change:\n{text}")
        # What the build did, to do some of it again.
        self.commands = [
            shlex.split(line) for line in text.splitlines() if re.search(r" (-c csrc/|-c build/|-shared )", line)
        ]

    def can_run(self) -> bool:
        """Whether this processor has the instruction sets."""
        code = "from fastrnn.backends import _cpp; print(*_cpp.variants())"
        return not self.variants or self.python("-c", code)[1].split() == self.variants.split()

    def build(self, file: str) -> bool:
        """Whether it compiles, after a change of `file`."""
        if not file.startswith("csrc/"):
            return True
        # Of the others only this one reads sizes that change a path.
        sources = {"csrc/variant.cpp", "csrc/runtime.cpp"} if file == ENGINE_THRESHOLDS else {"csrc/variant.cpp"}
        for command in self.commands:
            if ("-shared" in command or not sources.isdisjoint(command)) and _run(command, self.folder)[0]:
                return False
        return True

    def test(self, stages: list[tuple[str, str]]) -> Outcome:
        for files, which in stages:
            paths = [f"tests/{file}" for file in files.split()]
            code, text = self.python("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *paths, "-k", which)
            if code:
                failed = re.findall(r"(?m)^(?:FAILED|ERROR) (?:tests/)?(\S+)", text)
                failed = failed or re.findall(r" in (test_\w+)", text)
                how = f" (signal {-code})" if code < 0 else ""
                return Outcome("red", (failed[0] if failed else text[-300:]) + how)
        return Outcome("green")

    def python(self, *arguments: str) -> tuple[int, str]:
        environment = {
            "PYTHONPATH": str(self.folder),
            "FASTRNN_REQUIRE_EXT": "1",
            "FASTRNN_CACHE_DIR": str(self.folder.parent / "cache"),
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return _run([sys.executable, *arguments], self.folder, **environment)

    def run(self, mutation: Mutation, stages: list[tuple[str, str]]) -> Outcome:
        path = self.folder / mutation.file
        path.write_text(mutation.changed(), encoding="utf-8")
        try:
            return self.test(stages) if self.build(mutation.file) else Outcome("does not compile")
        finally:
            path.write_text(mutation.text, encoding="utf-8")


def _run(command: list[str], folder: Path, **environment: str) -> tuple[int, str]:
    """Exit code and output; a change may well run for ever or ask for all memory."""

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    given = {name: value for name, value in os.environ.items() if not name.startswith("FASTRNN_")}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=given | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=WALL_SECONDS,
            preexec_fn=bounded,
        )
    except subprocess.TimeoutExpired:
        return -9, ""
    return done.returncode, done.stdout


def run_all(chosen: list[Mutation], jobs: int) -> list[tuple[Mutation, Outcome]]:
    """What becomes of each, in turn."""
    results = []
    with tempfile.TemporaryDirectory(prefix="fastrnn-mutations-") as folder:
        for variants in dict.fromkeys(m.variants() for m in chosen):
            stages = ENGINE_STAGES if variants else NUMBA_STAGES
            copies: SimpleQueue[Copy] = SimpleQueue()
            for job in range(jobs):
                copies.put(Copy(Path(folder, f"{variants.replace(' ', '_')}_{job}"), variants))
            copy = copies.get()
            if not copy.can_run():
                print(f"not run: this processor has not {variants}")
                continue
            without = copy.test(stages)
            if without.word != "green":
                raise SystemExit(f"red without a change: {without.what}")
            copies.put(copy)

            def one(
                mutation: Mutation, copies: SimpleQueue[Copy] = copies, stages: list[tuple[str, str]] = stages
            ) -> Outcome:
                copy, begin = copies.get(), time.monotonic()
                try:
                    outcome = copy.run(mutation, stages)
                finally:
                    copies.put(copy)
                print(f"{outcome.word:5} {mutation}  {outcome.what}  [{time.monotonic() - begin:.0f} s]", flush=True)
                return outcome

            some = [m for m in chosen if m.variants() == variants]
            with ThreadPoolExecutor(jobs) as pool:
                results += zip(some, pool.map(one, some), strict=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print the changes, and run none")
    parser.add_argument("--only", default="", metavar="REGEX", help="those in whose file and line it is found")
    parser.add_argument("--sample", type=int, metavar="N", help="so many of them")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=1, help="so many at a time")
    arguments = parser.parse_args()
    chosen = [m for m in mutations() if re.search(arguments.only, str(m)) and (arguments.list or not reason(m))]
    if arguments.sample is not None and arguments.sample < len(chosen):
        picked = random.Random(arguments.seed).sample(range(len(chosen)), arguments.sample)
        chosen = [chosen[i] for i in sorted(picked)]
    if arguments.list:
        for mutation in chosen:
            print(mutation, f"-- {reason(mutation)}" if reason(mutation) else "")
        print(f"{len(chosen)} changes")
        return
    results = run_all(chosen, arguments.jobs)
    for word in ("red", "does not compile", "green"):
        print(f"{word}: {sum(outcome.word == word for _, outcome in results)}")
    for mutation, outcome in results:
        if outcome.word == "green":
            print(f"green {mutation}")


if __name__ == "__main__":
    main()
