"""Builds the extension with a sanitizer, in a copy of the sources, and runs the suite and the attack on it.

    python tests/fuzz/sanitize.py address     AddressSanitizer and UndefinedBehaviorSanitizer
    python tests/fuzz/sanitize.py thread      ThreadSanitizer

With GCC, on Linux. The runtime of the sanitizer is loaded before the interpreter, which is not built with it; nor are
NumPy, its BLAS and what Numba compiles: only the engine is watched, and what it does to memory of theirs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).resolve().parents[2]
HERE = Path("tests/fuzz")


class Sanitizer(NamedTuple):
    """How to build, what to load first, what the runtime is told, which tests run, and a field of every case.

    Code is compiled with -O1: what the processor does is still told line by line, and a build takes a minute or two.
    """

    flags: list[str]
    libraries: list[str]
    options: dict[str, str]
    tests: list[str]
    chosen: str
    only: list[str]


FLAGS = ["-O1", "-g1", "-fno-omit-frame-pointer"]
# Numba compiles what no sanitizer watches, and PyTorch is only there to be compared with.
WITHOUT = "not numba and not torch"
THREADED = [f"tests/test_{name}.py" for name in ("threads", "stack", "cpp", "cpp_paths", "interrupt", "settings")]
SANITIZERS = {
    "address": Sanitizer(
        [*FLAGS, "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
        # The exceptions of C++ are those of a library that must be there before AddressSanitizer asks for it.
        ["libasan.so", "libubsan.so", "libstdc++.so"],
        {
            # The interpreter frees little of its own memory at its end, and asks for terabytes in tests.
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:exitcode=99",
            "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1:exitcode=99",
        },
        # test_kernels.py builds a library of its own.
        ["tests", "--ignore=tests/test_kernels.py"],
        WITHOUT,
        [],
    ),
    "thread": Sanitizer(
        [*FLAGS, "-fsanitize=thread"],
        ["libtsan.so", "libstdc++.so"],
        # Of code that it did not compile it sees the locks and not what they guard: that code is not reported.
        {"TSAN_OPTIONS": "halt_on_error=1:exitcode=99:ignore_noninstrumented_modules=1"},
        # Where threads meet; a child that was forked has none of them, and the runtime does not follow it there.
        THREADED,
        f"{WITHOUT} and not forked",
        ["threads=3"],
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sanitizer", choices=list(SANITIZERS))
    parser.add_argument("--minutes", type=float, default=10, help="how long to attack (10)")
    parser.add_argument("--tests", nargs="+", help="files of tests, for a short run; those of the sanitizer")
    parser.add_argument("--seed", type=int, default=0, help="of the attack (0)")
    parser.add_argument("--variants", default="avx2 sse2", help="the instruction sets to build (avx2 sse2)")
    parser.add_argument("--folder", type=Path, help="where to copy and build, and to leave it; a temporary one")
    options = parser.parse_args()
    if options.folder:
        return check(options, options.folder.resolve())
    with tempfile.TemporaryDirectory(prefix="fastrnn-sanitize-") as folder:
        return check(options, Path(folder))


def check(options: argparse.Namespace, folder: Path) -> int:
    """0 if the build, the suite and the attack are clean."""
    sanitizer = SANITIZERS[options.sanitizer]
    copy(folder)
    print(f"== build with the {options.sanitizer} sanitizer", flush=True)
    build = {
        "FASTRNN_REQUIRE_EXT": "1",
        "FASTRNN_VARIANTS": options.variants,
        "FASTRNN_CXXFLAGS": " ".join(sanitizer.flags),
        "LDFLAGS": " ".join(sanitizer.flags),
    }
    run(folder, build, "setup.py", "-q", "build_ext", "--inplace")
    watched = {
        "FASTRNN_REQUIRE_EXT": "1",
        "PYTHONPATH": str(folder),
        "LD_PRELOAD": " ".join(found(name) for name in sanitizer.libraries),
        **sanitizer.options,
    }
    print("== suite", flush=True)
    pytest = ["-m", "pytest", "--maxfail=10", "-p", "no:cacheprovider", "-k", sanitizer.chosen]
    suite = run(folder, watched, *pytest, *(options.tests or sanitizer.tests), check=False)
    print("== attack", flush=True)
    attack = ["--minutes", str(options.minutes), "--seed", str(options.seed), "--no-keep", "--quick"]
    for field in ("backend=cpp", *sanitizer.only):
        attack += ["--only", field]
    return run(folder, watched, str(HERE), *attack, check=False) or suite


def copy(folder: Path) -> None:
    """The sources of the working tree, and nothing that was built."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=SOURCE, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (SOURCE / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(SOURCE / name, folder / name)


def found(library: str) -> str:
    """Where the compiler has a library of its runtime."""
    asked = [os.environ.get("CC", "gcc"), f"-print-file-name={library}"]
    path = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(path):
        raise FileNotFoundError(f"{asked[0]} has no {library}: the sanitizer's runtime is not installed")
    return path


def run(folder: Path, env: dict[str, str], *command: str, check: bool = True) -> int:
    """Exit code of Python with `command` in `folder`."""
    return subprocess.run([sys.executable, *command], cwd=folder, env={**os.environ, **env}, check=check).returncode


if __name__ == "__main__":
    sys.exit(main())
