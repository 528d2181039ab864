"""Code in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`code` in a new process, which imports what this one does: not what lies in the current folder."""
    return _run("-c", code, env=env)


def script(path: Path, code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The same, as a file at `path`, so that processes of its own find its ``__main__``."""
    path.write_text(code, encoding="utf-8")
    return _run(str(path), env=env)


def _run(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **env}
    return subprocess.run([sys.executable, "-P", *arguments], env=env, capture_output=True, text=True, timeout=300)
