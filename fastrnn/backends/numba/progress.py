"""A line on stderr for those who wait for a compiler."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .disk_cache import _wanted_folder, cache_folder

# Seconds that nobody wonders about.
PATIENCE = 1.0


@contextmanager
def compiling(what: str) -> Iterator[None]:
    """Tell that `what` is being compiled, if that takes longer than :data:`PATIENCE` and somebody is watching.

    Notes
    -----
    Whoever sits before a terminal or a notebook is told, so that what a program leaves in files and pipes depends on no
    cache; ``FASTRNN_QUIET=1`` tells nobody.
    """
    if os.environ.get("FASTRNN_QUIET") == "1" or not _watched():
        yield
        return
    timer = threading.Timer(PATIENCE, _tell, [what])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _watched() -> bool:
    # A notebook is no terminal, but has a prompt. A program without a console has no stderr.
    return sys.stderr is not None and (sys.stderr.isatty() or hasattr(sys, "ps1"))


def _tell(what: str) -> None:
    folder = cache_folder()
    wanted = _wanted_folder()
    kept = f"kept for later runs in {folder}" if folder == wanted else f"not kept: {wanted} cannot be written"
    print(f"fastrnn: compiling {what} ({kept})", file=sys.stderr, flush=True)
