"""Moves each threshold and turns each sign of the time loops, one at a time, and lists what no test sees.

Run by hand; each change is made in a copy of the tree, built if it is one of C++, and tested::

    python tests/mutations.py --list
    python tests/mutations.py --only fastrnn/thresholds.py
    python tests/mutations.py --sample 40 --seed 1

A change is settled by the first test that fails, and the tests that fail most often run first, so that most take a few
seconds. Tests run in a fork of a process that has imported what is slow to import. C++ is built without optimization,
for one instruction set (``FASTRNN_VARIANTS``, avx2 by default; changes of paths that only others have are built for
those); Numba compiles with little of it.

What the changes are stands in `changes.py`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any, NamedTuple

from changes import ROOT, Mutation, Suite, mutations, reason

# Seconds of processor time of one test, and of no news at all; bytes. A change may well run for ever.
TEST_SECONDS, SILENT_SECONDS, MEMORY = 60, 900, 8 << 30
IMPORTED = ("numpy", "numba", "hypothesis", "pytest")  # before a fork; they import nothing of fastrnn


class Outcome(NamedTuple):
    """`word` is green, red, or what hindered the run; `what` the first test that failed."""

    word: str
    what: str = ""


class History:
    """What is known of the tests of a suite: who has failed how often, and how long each takes."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.failed: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}

    def rank(self, name: str) -> tuple[float, int, float]:
        """The key by which tests are sorted."""
        first = next((i for i, part in enumerate(self.suite.first) if re.search(part, name)), len(self.suite.first))
        return -self.failed[name], first, self.seconds.get(name, 0)


class Report:
    """Plugin of pytest: sorts the tests, and tells the parent process of each."""

    def __init__(self, history: History, tell: Callable[[tuple[str, str, float]], None]) -> None:
        self.history, self.tell = history, tell

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items.sort(key=lambda item: self.history.rank(item.nodeid))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        _limit_processor_time()
        self.tell(("begins", nodeid, 0))

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.tell(("failed" if report.failed else "passed", report.nodeid, report.duration))

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.tell(("failed", report.nodeid, 0))


class Copy:
    """A copy of the tree, built once, of which one file is changed at a time."""

    def __init__(self, folder: Path, variants: str) -> None:
        self.folder, self.variants = folder, variants
        names = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, stdout=subprocess.PIPE
        )
        for name in filter(None, names.stdout.decode().split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("FASTRNN_")} | {
            "PYTHONPATH": "",
            "FASTRNN_REQUIRE_EXT": "1",
            "FASTRNN_CACHE_DIR": str(folder.parent / "cache"),
            "NUMBA_OPT": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self.commands: list[list[str]] = []
        self.made = 0
        if variants:
            self._build_once()
        else:
            for built in (ROOT / "fastrnn" / "backends").glob("_cpp.*"):
                shutil.copy(built, folder / "fastrnn" / "backends" / built.name)

    def _build_once(self) -> None:
        setup = self.folder / "setup.py"
        setup.write_text(setup.read_text(encoding="utf-8").replace('"-O3"', '"-O0"'), encoding="utf-8")
        self.environment["FASTRNN_VARIANTS"] = self.variants
        code, text = self._run([sys.executable, "setup.py", "build_ext", "--build-lib", "."])
        if code:
            raise RuntimeError(f"the build fails without a change:\n{text}")
        # What the build did, to do some of it again.
        commands = [shlex.split(line) for line in text.splitlines() if re.search(r" (-c csrc/|-shared )", line)]
        self.commands = sorted(commands, key=lambda command: "-shared" in command)

    def _run(self, command: list[str]) -> tuple[int, str]:
        out, mixed = subprocess.PIPE, subprocess.STDOUT
        done = subprocess.run(command, cwd=self.folder, env=self.environment, stdout=out, stderr=mixed, text=True)
        return done.returncode, done.stdout

    def can_run(self) -> bool:
        """Whether this processor has the instruction sets."""
        code = "from fastrnn.backends import _cpp; print(*_cpp.variants())"
        return not self.variants or self._run([sys.executable, "-c", code])[1].split() == self.variants.split()

    def build(self, file: str) -> bool:
        """Whether it compiles, after a change of `file`."""
        if not file.endswith(".h"):
            return True
        for command in self.commands:
            sources = [part for part in command if part.endswith(".cpp")]
            wanted = "-shared" in command or any(self._includes(source, file) for source in sources)
            if wanted and self._run(command)[0]:
                return False
        return True

    def _includes(self, source: str, file: str) -> bool:
        text = (self.folder / source).read_text(encoding="utf-8")
        included = [f"csrc/{name}" for name in re.findall(r'(?m)^#include "(.*)"', text)]
        return source == file or any(self._includes(name, file) for name in included)

    def write(self, file: str, text: str) -> None:
        path = self.folder / file
        path.write_text(text, encoding="utf-8")
        # Python and Numba compile again what is of another time, in whole seconds.
        self.made += 1
        os.utime(path, (10**9 + self.made,) * 2)

    def test(self, history: History) -> Outcome:
        """What the first test says that fails."""
        receive, send = get_context("fork").Pipe(duplex=False)
        child = get_context("fork").Process(target=self._tests, args=(history, send))
        child.start()
        send.close()
        running, failed = "", ""
        try:
            while not failed and receive.poll(SILENT_SECONDS):
                word, name, seconds = receive.recv()
                running = name
                if word == "passed":
                    history.seconds[name] = history.seconds.get(name, 0) + seconds
                failed = name if word == "failed" else ""
        except EOFError:
            child.join()
            if child.exitcode == 0:
                return Outcome("green")
        _end(child)
        history.failed[failed or running] += 1
        said = "" if running else self.log()
        return Outcome("red", failed or f"{running or said} (ends with {child.exitcode})")

    def _tests(self, history: History, send: connection.Connection) -> None:
        os.setsid()
        os.chdir(self.folder)
        os.environ.clear()
        os.environ.update(self.environment)
        _limit_processor_time()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        ours = (ROOT, ROOT / "tests")
        sys.path[:] = [str(self.folder), *(path for path in sys.path if Path(path).resolve() not in ours)]
        files = [f"tests/{name}.py" for name in history.suite.files.split()]
        ignored = "ignore::pytest.PytestAssertRewriteWarning"
        options = ["-x", "-p", "no:cacheprovider", "-p", "no:benchmark", "-W", ignored]
        arguments = [*options, "-k", history.suite.which, *files]
        sys.exit(int(sys.modules["pytest"].main(arguments, [Report(history, send.send)])))

    def log(self) -> str:
        """What the tests have said at last."""
        return (self.folder / "log").read_text(errors="replace")[-2000:]

    def run(self, mutation: Mutation, history: History) -> Outcome:
        self.write(mutation.file, mutation.changed())
        try:
            if not self.build(mutation.file):
                return Outcome("does not compile")
            outcome, last = self.test(history), history.suite.last()
            return self.test(History(last)) if outcome.word == "green" and last else outcome
        finally:
            self.write(mutation.file, mutation.text)


def _limit_processor_time() -> None:
    until = int(time.process_time()) + TEST_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (until, resource.RLIM_INFINITY))


def _end(child: Any) -> None:
    """End a process and all that it has started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        child.kill()
    child.join()


def run_all(chosen: list[Mutation]) -> list[tuple[Mutation, Outcome]]:
    """What becomes of each, in turn."""
    for name in IMPORTED:
        importlib.import_module(name)
    results = []
    with tempfile.TemporaryDirectory(prefix="fastrnn-mutations-") as folder:
        for suite, variants in dict.fromkeys((m.suite, m.variants()) for m in chosen):
            copy = Copy(Path(folder, variants.replace(" ", "_") or "python"), variants)
            if not copy.can_run():
                print(f"not run: this processor has not {variants}")
                continue
            history = History(suite)
            without = copy.test(history)
            if without.word != "green":
                raise SystemExit(f"red without a change: {without.what}\n{copy.log()}")
            for mutation in [m for m in chosen if (m.suite, m.variants()) == (suite, variants)]:
                begin = time.monotonic()
                outcome = copy.run(mutation, history)
                print(f"{outcome.word:5} {mutation}  {outcome.what}  [{time.monotonic() - begin:.0f} s]", flush=True)
                results.append((mutation, outcome))
            shutil.rmtree(copy.folder)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print the changes, and run none")
    parser.add_argument("--only", default="", metavar="REGEX", help="those in whose file and line it is found")
    parser.add_argument("--sample", type=int, metavar="N", help="so many of them")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
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
    results = run_all(chosen)
    for word in ("red", "does not compile", "green"):
        print(f"{word}: {sum(outcome.word == word for _, outcome in results)}")
    for mutation, outcome in results:
        if outcome.word == "green":
            print(f"green {mutation}")


if __name__ == "__main__":
    main()
