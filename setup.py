"""The optional C++ extension; all else is in pyproject.toml.

The engine is compiled once for each instruction set of the processor family, and the best that runs is chosen
when it is imported. Without a compiler the package installs all the same and runs on Numba.

``FASTRNN_REQUIRE_EXT=1`` makes a failed build an error; ``FASTRNN_NO_EXT=1`` does not build.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

REQUIRED = os.environ.get("FASTRNN_REQUIRE_EXT") == "1"
UNWANTED = os.environ.get("FASTRNN_NO_EXT") == "1"

FLAGS = ["-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fvisibility=hidden", "-Wno-psabi"]
# Best first: name, compiler flags, bytes of a vector, vector registers.
X86 = [
    ("avx512", ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma"], 64, 32),
    ("avx2", ["-mavx2", "-mfma"], 32, 16),
    ("sse2", [], 16, 16),
]
OTHER = [("generic", [], 16, 32)]


def variants() -> list[tuple[str, list[str], int, int]]:
    """The instruction sets of this processor family."""
    machine = os.environ.get("ARCHFLAGS", platform.machine()).lower()
    return X86 if any(name in machine for name in ("x86_64", "amd64")) else OTHER


def _notice(error: Exception) -> None:
    """One line; the whole command of a compiler that failed would be many."""
    why = f"{type(error).__name__}, FASTRNN_REQUIRE_EXT=1 shows it whole"
    print(f"fastrnn: the C++ extension is not built ({why}); Numba will run instead", file=sys.stderr)


class build(build_ext):
    """Compiles the engine for every instruction set, then the binding; gives up gracefully."""

    def build_extension(self, ext: Extension) -> None:
        try:
            self._use_vector_compiler()
            ext.extra_objects = [obj for variant in variants() for obj in self._compile(ext, *variant)]
            super().build_extension(ext)
        except Exception as error:
            if REQUIRED:
                raise
            _notice(error)

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

    def _compile(self, ext: Extension, name: str, flags: list[str], vector_bytes: int, registers: int) -> list[str]:
        prefix = "/clang:" if self.compiler.compiler_type == "msvc" else ""
        return self.compiler.compile(
            ["csrc/variant.cpp"],
            output_dir=os.path.join(self.build_temp, name),
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

    names = " ".join(f"X({name})" for name, *_ in variants())
    binding = Extension(
        "fastrnn.backends._cpp",
        ["csrc/_cpp.pyx", "csrc/runtime.cpp", "csrc/memory.cpp", "csrc/threads.cpp"],
        include_dirs=["csrc", numpy.get_include()],
        define_macros=[("FASTRNN_VARIANTS(X)", names), ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
        extra_compile_args=[] if sys.platform == "win32" else [*FLAGS, "-pthread"],
        extra_link_args=[] if sys.platform == "win32" else ["-pthread"],
        language="c++",
        optional=not REQUIRED,
    )
    return cythonize([binding], build_dir="build")[0]


def extensions() -> list[Extension]:
    """The extension, if it is wanted and can be prepared."""
    if UNWANTED:
        return []
    try:
        return [extension()]
    except Exception as error:
        if REQUIRED:
            raise
        _notice(error)
        return []


setup(ext_modules=extensions(), cmdclass={"build_ext": build})
