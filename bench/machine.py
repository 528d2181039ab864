"""The machine and the software that figures depend on. Imports nothing that has threads."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = ("fastrnn", "numpy", "numba", "torch", "onnxruntime", "jax", "jaxlib")
# Libraries read them once, when they are imported.
THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "FASTRNN_NUM_THREADS",
)


def thread_environment(threads: int) -> dict[str, str]:
    """Environment variables that give every library this number of threads."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def usable() -> int:
    """How many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processors(threads: int) -> list[int] | None:
    """Processors for `threads` threads, one of each core as far as there are; None where they cannot be chosen."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    mine = sorted(os.sched_getaffinity(0))
    first = {_core(i): i for i in reversed(mine)}.values()
    others = [i for i in mine if i not in first]
    return (sorted(first) + others)[:threads]


def _core(processor: int) -> str:
    """What two processors of one core have in common."""
    siblings = Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
    return siblings.read_text() if siblings.exists() else str(processor)


def environment() -> dict[str, Any]:
    """Machine, versions, commit and day, as the file of a result holds them."""
    commit, changed = _commit()
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit,
        "changed since": changed,
        "machine": {
            "cpu": _cpu(),
            "processors": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "instruction set": _instruction_set(),
        },
        "versions": {"Python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
    }


def describe(found: dict[str, Any]) -> str:
    """One line of what :func:`environment` found."""
    machine = found["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number != "missing")
    commit = f"commit {found['commit'][:12] or 'unknown'}{' with changes' * found['changed since']}"
    what = f"{machine['cpu']}, {machine['processors']} processors, {machine['instruction set']}"
    return f"{what}; {versions}; {commit}, {found['date']}"


def _commit() -> tuple[str, bool]:
    """The commit of the package that is measured, and whether its code was changed since; empty without git."""
    spec = find_spec("fastrnn")
    assert spec is not None and spec.origin is not None
    root = Path(spec.origin).parents[1]

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)

    try:
        head = git("rev-parse", "HEAD")
    except FileNotFoundError:
        return "", False
    if head.returncode or not (root / "csrc").exists():
        return "", False
    changed = git("diff", "--quiet", "HEAD", "--", "fastrnn", "csrc", "setup.py", "bench/*.py").returncode != 0
    return head.stdout.strip(), changed


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor() or platform.machine()


def _instruction_set() -> str:
    """That of the C++ backend."""
    from fastrnn.dispatch import available_backends, load_backend

    return str(getattr(load_backend("cpp"), "target", "")) if "cpp" in available_backends() else "no extension"


def version(package: str) -> str:
    """Version of an installed package, or a word that there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"
