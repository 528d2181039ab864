"""Every block of Python in README and the site runs as pasted, block after block of a page; commands are known ones."""

from __future__ import annotations

import linecache
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import fastrnn
from fastrnn.backends.numba.path import NumbaPath
from fastrnn.backends.numpy_backend import NumpyPath
from fastrnn.engine.contract import Path as Described

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(p for p in DOCS.rglob("*.md") if not {"_build", "api", "gallery"} & {*p.parts})]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
# Commands that build, install, take minutes or write outside the test's folder: not run here, `.ci/run` runs most.
COMMANDS = {
    "pip install .",
    "pip install '.[test]'",
    "pip install '.[docs]'",
    "pip install '.[bench]'",
    "fastrnn train --overwrite",
    "fastrnn train --overwrite --minutes 5 --hidden-size 256",
    "fastrnn sample --prompt 'The '",
    "fastrnn gradflow",
    "fastrnn gradflow --cell rnn --hidden-size 64 book.txt",
    "fastrnn gradflow fastrnn-model.safetensors book.txt",
    "fastrnn info",
    "pytest -n auto",
    "python docs/examples/hello.py",
    "python -m sphinx -W --keep-going -b html docs docs/_build/html",
    "python tests/fuzz --minutes 30 --seed 7",
    "python tests/fuzz/sanitize.py address",
    "python tests/fuzz/sanitize.py thread",
    "python tests/mutations.py --list",
}
LANGUAGES = {"python", "sh", "text", "cpp", "{toctree}", "{include}", "{image}", "{literalinclude}"}


class Block(NamedTuple):
    language: str
    line: int
    text: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    found, opened, inner = [], None, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = re.match(r"\s*```(.*)$", line)
        if fence and opened is None:
            opened, inner = Block(fence[1].split(" ")[0], number, ""), []
        elif fence and opened is not None:
            assert not fence[1], f"{page.name}:{number}: a block begins inside of one"
            found.append(opened._replace(text="\n".join([*inner, ""])))
            opened = None
        else:
            inner.append(line)
    assert opened is None, f"{page.name}: a block does not end"
    return found


def run(page: Path) -> None:
    """Run the blocks of Python of a page, in one namespace."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "python":
            # At its own lines, so that a traceback leads to the page.
            source = "\n" * block.line + block.text
            linecache.cache[str(page)] = (len(source), None, source.splitlines(True), str(page))
            exec(compile(source, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_blocks_of_python_run(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    run(page)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_blocks_are_of_known_languages(page: Path) -> None:
    assert {block.language for block in blocks(page)} <= LANGUAGES


def test_commands_are_known() -> None:
    for page in PAGES:
        for line in [line for b in blocks(page) if b.language == "sh" for line in b.text.splitlines()]:
            words = shlex.split(line, comments=True)
            if words[:2] == ["python", "-m"] and words[2].startswith("bench."):
                assert (ROOT / words[2].replace(".", "/")).with_suffix(".py").exists(), f"{page.name}: {line}"
            elif words:
                assert line.partition("  #")[0].strip() in COMMANDS, f"{page.name}: {line}"


def test_extras_that_are_named_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page in PAGES:
        for name in re.findall(r"pip install '\.\[(\w+)\]'", page.read_text(encoding="utf-8")):
            assert name in extras, page.name


def test_links_of_readme_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (ROOT / target).exists(), f"{page.name}: {target}"


def test_a_block_that_fails_is_told_with_its_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\na = 1\n```\n\n```python\nassert a == 2\n```\n")
    with pytest.raises(AssertionError) as caught:
        run(page)
    assert caught.traceback[-1].lineno == 7


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:fastrnn|csrc|tests|bench|docs)/[\w./*-]+)`", page.read_text(encoding="utf-8"))
    assert [path for path in named if not files(path)] == []


def test_the_walk_leads_through_functions_that_exist() -> None:
    rows = re.findall(r"^\| `([\w/.]+)` \| (`[^|]+`) \|", (DOCS / "design.md").read_text(encoding="utf-8"), re.M)
    assert len(rows) > 30
    for path, names in rows:
        text = "".join(file.read_text(encoding="utf-8") for file in files(path))
        for name in re.findall(r"`([^`]+)`", names):
            assert re.search(rf"\b{name.replace('::', '.').rpartition('.')[2]}\b", text), f"{path}: {name}"


def files(path: str) -> list[Path]:
    """The files that a page names: one, a pattern of some, a module or a folder of modules."""
    place = ROOT / path
    if place.is_dir():
        return sorted(place.rglob("*.py")) or sorted(place.iterdir())
    return sorted(ROOT.glob(path)) or sorted(ROOT.glob(f"{path}.py"))


def described() -> list[str]:
    """Every line with which a path is told."""
    paths: list[Described] = [NumbaPath(1, 10), NumbaPath(2, 10), NumpyPath()]
    if "cpp" in fastrnn.available_backends():
        from fastrnn.backends.cpp_backend import CppPath

        paths += [CppPath(parts, by_units) for parts, by_units in ((1, False), (2, False), (2, True))]
        paths += [CppPath(bf16_parts=n) for n in range(4)]
        paths += [CppPath(packed=False, merged=True)]
        paths += [CppPath(input=how, chunk=10) for how in ("none", "step", "chunk", "ahead")]
    return [line for path in paths for line in path.describe()]


def test_the_performance_guide_has_every_line_of_explain() -> None:
    page = (DOCS / "guide" / "performance.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`[^|]+) \|", page, re.M)
    begins = [begin for cell in cells for begin in re.findall("`([^`]+)`", cell)]
    known = [re.compile(re.sub(r"\\ n\b", r"\\ \\d+", re.sub(r"^n\b", r"\\d+", re.escape(b)))) for b in begins]
    assert [line for line in described() if not any(begin.match(line) for begin in known)] == []
