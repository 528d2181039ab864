"""The changes that `mutations.py` makes: every threshold moved, every sign of the time loops turned.

What no test sees needs a test that fails, or, if no result changes, an entry in a table here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
ENGINE_THRESHOLDS, PYTHON_THRESHOLDS = "csrc/thresholds.h", "fastrnn/thresholds.py"


class Suite(NamedTuple):
    """The tests that a change should fail: files, which of their tests, and what to begin with, by their names.

    Those of `rest`, which take longer, run where all others pass.
    """

    files: str
    which: str
    first: tuple[str, ...] = ()
    rest: str = ""

    def last(self) -> Suite | None:
        """What runs at last, if anything."""
        return Suite(self.files, self.rest) if self.rest else None


# Others do without the engine, or wait for Numba; one counts on fused multiply-adds, which unoptimized code has not.
_WITHOUT_ENGINE = (
    "numba or numpy or leaky or mgu or coupled or peephole or indrnn or relaxing or fall_to_another or headers"
    " or as_precise_as_float32 or rnn_relu or rnn_sigmoid or rnn_identity"
)
ENGINE = Suite(
    "test_cpp_paths test_cpp_flags test_cpp test_flags test_threads test_stack test_properties test_gradients"
    " test_precision test_interrupt test_bounds",
    f"not ({_WITHOUT_ENGINE})",
    ("chosen|follows|refused", "test_cpp_paths.*(oracle|ahead_where)", "test_cpp_paths"),
)
NUMBA = Suite(
    "test_paths test_threads test_flags test_functional test_recurrent test_stack test_bounds test_random_cells"
    " test_prepared test_arrays",
    "not cpp and (numba or worth or chooses or quick or memory or few_rows or tiles or apart)"
    " and not (float32 or rnn_ or leaky or mgu or coupled or peephole or indrnn or forked or random_cell)",
    (
        "test_numba_chooses|worth|quick|memory|few_rows|tiles|apart",
        "path_is_right.*gru_before",
        "path_is_right",
        "test_paths",
    ),
    rest="numba and not (cpp or forked)",
)
PLAN = Suite(
    "test_plan test_paths test_random_cells test_flags test_prepared test_functional test_recurrent test_stack"
    " test_settings test_threads test_backends test_explain test_precision test_cpp test_bad_descriptions test_layers",
    "not (cpp or numba or forked) or headers",
    ("headers|keep|settings", "numpy-random|test_random_cell", "path_is_right"),
)

# Whose signs are turned; a file belongs to the first pattern that fits it. None: the kernels have tests of their own.
SIGNS: list[tuple[str, Suite | None]] = [
    *((f"csrc/{name}.h", None) for name in ("api", "runtime", "simd", "subnormals", "thresholds", "operand", "stack")),
    *((f"csrc/{name}.h", None) for name in ("tile", "amx", "cell", "packed", "unpacked", "gemm")),
    ("csrc/*.h", ENGINE),
    ("fastrnn/backends/numpy_backend.py", PLAN),
    ("fastrnn/engine/*.py", PLAN),
    ("fastrnn/codegen/fused.py", PLAN),
    ("fastrnn/codegen/cpp.py", None),
    ("fastrnn/codegen/*.py", NUMBA),
    *((f"fastrnn/backends/numba/{name}.py", None) for name in ("pointers", "machine", "subnormals", "disk_cache")),
    ("fastrnn/backends/numba/*.py", NUMBA),
    ("fastrnn/backends/numba/loops/*.py", NUMBA),
]

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
        "own_rows": "order of the additions of a sum, within rounding",
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
    PYTHON_THRESHOLDS: {
        "CHUNK_ROWS_OF_EACH": "order of the additions of a sum, within rounding",
        "KEPT_BYTES": "memory that is kept",
    },
}

# Changes of signs that no result shows: a file, a part of the changed line with the change in «», and why.
EQUAL = "the smaller or larger of two numbers that are equal"
EQUIVALENT: list[tuple[str, str, str]] = [
    ("fastrnn/engine/threads.py", "ThreadPoolExecutor(os.cpu_count() «and» 1", "time only"),
    ("fastrnn/engine/plan.py", "not in base «or» n.op", "a place for what is found elsewhere first"),
    (ENGINE_THRESHOLDS, "N <= «9»", "of nine sequences, eight steps are the first that are worth it either way"),
    ("csrc/products.h", "split.by_units ? «1 : split.parts»", "size of a block"),
    ("csrc/merged.h", "r «<=» rows && !columns.all", "one more row of scratch, which nobody reads"),
    ("csrc/project_ahead.h", "depth «<=» piece.depth", EQUAL),
    ("fastrnn/backends/numba/loops*", "put(record «-» 8 * X", "X is the first place of the record"),
    ("fastrnn/engine/stack.py", "«>=» 1 else", "of one array the same, in a copy"),
]


class Mutation(NamedTuple):
    """`text[start:end]` of a file becomes `after`."""

    file: str
    start: int
    end: int
    after: str
    text: str
    suite: Suite

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
        if self.file.endswith(".py"):
            return ""
        around = self.line()
        if self.file != ENGINE_THRESHOLDS:  # the function around it says it, or the line itself
            begin = max((m.start() for m in re.finditer(r"(?m)^ {0,4}\S[^\n]*\{$", self.text[: self.start])), default=0)
            around += self.text[begin : self.text.find("\n", begin)]
        if re.search("splitting|left_size|per_item", around):
            return "avx512bf16 avx512"
        if re.search("ahead|beside", around) or self.file.endswith("project_ahead.h"):
            return "avx512"
        return os.environ.get("FASTRNN_VARIANTS", "avx2")


def blanked(text: str, *patterns: str) -> str:
    """`text` with spaces for what the patterns find, and every character else where it was."""
    for pattern in patterns:
        text = re.sub(pattern, lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    return text


def code_of(file: str, text: str) -> str:
    """What is neither comment, text nor directive; but where code is generated, texts are code."""
    if file.endswith(".py"):
        texts = () if "/codegen/" in file else (r'"[^"\n]*"',)
        return blanked(text, r'(?s)""".*?"""', r"(?m)(^|(?<=\s))# .*$", r"(?m)^(from|import) .*$", *texts)
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
    suite = NUMBA if file.endswith(".py") else ENGINE
    text = (ROOT / file).read_text(encoding="utf-8")
    for name, (first, last) in constants(file, text).items():
        if name not in MOVED[file]:
            continue
        # Keys of a table and the 20 of `1 << 20` are no sizes.
        for match in re.finditer(r"(?<![\w<])(?<!<< )\d[\d_]*(?![\w:])", text[first:last]):
            number = int(match[0])
            for other in (number + 1, number - 1) if number < 100 else (2 * number, number // 2):
                yield Mutation(file, first + match.start(), first + match.end(), str(other), text, suite)


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


def turned_signs(file: str, suite: Suite) -> Iterator[Mutation]:
    """Operators between spaces, which tells them from templates and pointers; ``x - 1`` to ``x``; choices."""
    text = (ROOT / file).read_text(encoding="utf-8")
    code = code_of(file, text)
    words = TURNED if file.endswith(".py") else [sign for sign in TURNED if not sign.isalpha()]
    for match in re.finditer(f"(?<= )({'|'.join(map(re.escape, sorted(words, key=len, reverse=True)))})(?= )", code):
        yield Mutation(file, *match.span(), TURNED[match[0]], text, suite)
    for match in re.finditer(r" [+-] 1\b(?![.])", code):
        yield Mutation(file, *match.span(), "", text, suite)
    for start, end, after in (_python_choices if file.endswith(".py") else _choices)(text, code):
        yield Mutation(file, start, end, after, text, suite)


def _python_choices(text: str, code: str) -> Iterator[tuple[int, int, str]]:
    for match in re.finditer(r"(?<= if )([^\n]+?)(?= else )", code):
        yield *match.span(), f"not ({text[slice(*match.span())]})"


def _choices(text: str, code: str) -> Iterator[tuple[int, int, str]]:
    """``? a : b`` to ``? b : a``."""
    for match in re.finditer(r" \? ", code):
        middle = _end_of(code, match.end(), " : ")
        end = _end_of(code, middle + 3, None)
        a, b = text[match.end() : middle], text[middle + 3 : end]
        yield match.end(), end, f"{b} : {a}"


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
    taken: set[str] = set()
    for pattern, suite in SIGNS:
        files = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))
        for file in [file for file in files if suite and file not in taken]:
            found += turned_signs(file, suite)
        taken.update(files)
    return found


def reason(mutation: Mutation) -> str | None:
    """Why no test can see it, if it is in the table."""
    line = mutation.line()
    return next((why for pattern, part, why in EQUIVALENT if fnmatch(mutation.file, pattern) and part in line), None)
