"""Code in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`code` in a new process."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **env}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
