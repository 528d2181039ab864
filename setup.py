"""The optional C++ extension; all else is in pyproject.toml.

The engine is compiled once for each instruction set of the processor family, and the best that runs is chosen
when it is imported. Without a compiler the package installs all the same and runs on Numba; why is written into it.

``FASTRNN_REQUIRE_EXT=1`` makes a failed build an error; ``FASTRNN_NO_EXT=1`` does not build; ``FASTRNN_VARIANTS``
names the instruction sets to build, all of the processor family by default: one builds in a fifth of the time.
``FASTRNN_CXXFLAGS`` is added to the compiler's flags, after all others: those of a sanitizer or a debugger.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

REQUIRED = os.environ.get("FASTRNN_REQUIRE_EXT") == "1"
UNWANTED = os.environ.get("FASTRNN_NO_EXT") == "1"

AVX512 = ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma"]
# Python's own flags may ask for what a debugger needs: six times the size. And GCC takes values that its own headers
# leave open on purpose for mistakes.
FLAGS = ["-std=c++17", "-O3", "-g0", "-ffp-contract=fast", "-fno-math-errno", "-fvisibility=hidden"]
FLAGS += ["-Wno-psabi", "-Wno-maybe-uninitialized"]
FLAGS += os.environ.get("FASTRNN_CXXFLAGS", "").split()
# Best first: name, compiler flags, bytes of a vector, vector registers. Those in `EXTRA` add products of bf16 numbers
# to the ones below them.
X86 = [
    ("amx", [*AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"], 64, 32),
    ("avx512bf16", [*AVX512, "-mavx512bf16"], 64, 32),
    ("avx512", AVX512, 64, 32),
    ("avx2", ["-mavx2", "-mfma"], 32, 16),
    ("sse2", [], 16, 16),
]
EXTRA = ("amx", "avx512bf16")
OTHER = [("generic", [], 16, 32)]


def variants() -> list[tuple[str, list[str], int, int]]:
    """The instruction sets of this processor family, or those of them that `FASTRNN_VARIANTS` names."""
    machine = os.environ.get("ARCHFLAGS", platform.machine()).lower()
    family = X86 if any(name in machine for name in ("x86_64", "amd64")) else OTHER
    wanted = os.environ.get("FASTRNN_VARIANTS", "").split()
    known = [name for name, *_ in family]
    if not set(wanted) <= set(known) or (wanted and set(wanted) <= set(EXTRA)):
        raise ValueError(f"FASTRNN_VARIANTS: expected some of {' '.join(known)}, not only {EXTRA}; got {wanted}")
    return [variant for variant in family if not wanted or variant[0] in wanted]


def missing_compiler() -> str:
    """What is looked for in vain, in a sentence; empty if there is a compiler."""
    if sys.platform == "win32":
        return "" if shutil.which("clang-cl") else "no C++ compiler was found: clang-cl is not on the path"
    for variable, usual in (("CXX", "c++"), ("CC", "cc")):
        name = shlex.split(os.environ.get(variable) or sysconfig.get_config_var(variable) or usual)[0]
        if shutil.which(name) is None:
            return f"no C++ compiler was found: {name} is not on the path ({variable} names another)"
    return ""


class Outcome:
    """Why there is no extension; `why` is empty as long as nothing stands against one.

    A wheel takes it along as ``_build.json``, see ``fastrnn/extension.py``: pip shows nothing of what is printed here.
    """

    why = ""
    failed = False

    def gives_up(self, error: Exception) -> None:
        """One line; the whole command of a compiler that failed would be many."""
        told = " ".join(str(error).split())
        told = told if len(told) <= 120 else f"{told[:120]}..."
        self.why, self.failed = f"its build failed ({type(error).__name__}: {told})", True
        self.notice()

    def notice(self) -> None:
        """For those who see what a build prints."""
        more = "; FASTRNN_REQUIRE_EXT=1 shows it whole" if self.failed else ""
        print(f"fastrnn: no C++ extension, Numba will run instead: {self.why}{more}", file=sys.stderr)

    def record(self, package: Path) -> None:
        """Write it into the package, or remove what an earlier build wrote."""
        package.mkdir(parents=True, exist_ok=True)
        path = package / "_build.json"
        if self.why:
            path.write_text(json.dumps({"why": self.why, "failed": self.failed}) + "\n", encoding="utf-8")
        else:
            path.unlink(missing_ok=True)


OUTCOME = Outcome()


class copy_package(build_py):
    """Copies the package, and what is known of the extension before its build: there may be none."""

    def run(self) -> None:
        super().run()
        if self.packages:
            OUTCOME.record(Path("fastrnn") if self.editable_mode else Path(self.build_lib, "fastrnn"))


class build(build_ext):
    """Compiles the engine for every instruction set, then the binding; gives up gracefully."""

    def run(self) -> None:
        super().run()
        OUTCOME.record(Path("fastrnn") if self.inplace else Path(self.build_lib, "fastrnn"))

    def build_extension(self, ext: Extension) -> None:
        try:
            self._use_vector_compiler()
            built = self._build_variants()
            names = " ".join(f"X({name})" for name in built)
            ext.define_macros.append(("FASTRNN_VARIANTS(X)", names))
            ext.extra_objects = [obj for objects in built.values() for obj in objects]
            # To link them as well: by the sources of the binding alone, which have not changed, nothing would be done.
            self.force = True
            super().build_extension(ext)
        except Exception as error:
            if REQUIRED:
                raise
            OUTCOME.gives_up(error)

    def _build_variants(self) -> dict[str, list[str]]:
        """Object files of every variant that the compiler knows."""
        built = {}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            works = {variant[0]: pool.submit(self._compile, *variant) for variant in variants()}
        for name, work in works.items():
            try:
                built[name] = work.result()
            except CompileError:
                if name not in EXTRA:
                    raise
                print(f"fastrnn: this compiler does not know the instructions of {name}", file=sys.stderr)
        return built

    def _use_vector_compiler(self) -> None:
        """Vector types are of GCC and Clang; on Windows that is clang-cl, which takes the place of cl."""
        if self.compiler.compiler_type != "msvc":
            return
        if not self.compiler.initialized:
            self.compiler.initialize()
        found = shutil.which("clang-cl")
        if found is None:
            raise RuntimeError("clang-cl is not on the path")
        self.compiler.cc = found

    def _compile(self, name: str, flags: list[str], vector_bytes: int, registers: int) -> list[str]:
        prefix = "/clang:" if self.compiler.compiler_type == "msvc" else ""
        folder = os.path.join(self.build_temp, name)
        # The compiler's own way to make folders is not made for several threads.
        os.makedirs(os.path.join(folder, "csrc"), exist_ok=True)
        return self.compiler.compile(
            ["csrc/variant.cpp"],
            output_dir=folder,
            macros=[
                ("FASTRNN_VARIANT", name),
                ("FASTRNN_VECTOR_BYTES", str(vector_bytes)),
                ("FASTRNN_REGISTERS", str(registers)),
            ],
            include_dirs=["csrc"],
            extra_postargs=[prefix + flag for flag in FLAGS + flags],
        )


def extension() -> Extension:
    """The binding; Cython makes its C++."""
    import numpy
    from Cython.Build import cythonize

    binding = Extension(
        "fastrnn.backends._cpp",
        ["csrc/_cpp.pyx", "csrc/runtime.cpp", "csrc/stack.cpp", "csrc/memory.cpp", "csrc/threads.cpp"],
        include_dirs=["csrc", numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
        extra_compile_args=[] if sys.platform == "win32" else [*FLAGS, "-pthread"],
        extra_link_args=[] if sys.platform == "win32" else ["-pthread"],
        language="c++",
    )
    (ready,) = cythonize([binding], build_dir="build")
    # Cython keeps no such attribute. Without it an installation in place fails for want of the file.
    ready.optional = not REQUIRED
    return ready


def extensions() -> list[Extension]:
    """The extension, if it is wanted and can be prepared."""
    if UNWANTED:
        OUTCOME.why = "FASTRNN_NO_EXT=1 was set when fastrnn was installed"
        return []
    if missing := missing_compiler():
        if REQUIRED:
            raise SystemExit(f"fastrnn: FASTRNN_REQUIRE_EXT=1 asks for the C++ extension, but {missing}")
        OUTCOME.why = missing
        OUTCOME.notice()
        return []
    try:
        return [extension()]
    except Exception as error:
        if REQUIRED:
            raise
        OUTCOME.gives_up(error)
        return []


# The tests of the kernels read the tables.
if __name__ == "__main__":
    setup(ext_modules=extensions(), cmdclass={"build_ext": build, "build_py": copy_package})
