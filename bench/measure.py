"""Times of calls taken in turns, and the machine that they were taken on."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any


def timed(run: Callable[[], Any], times: int = 1) -> float:
    """Seconds of one call, as the mean of `times` calls."""
    start = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - start) / times


def medians(
    runs: Mapping[str, Callable[[], Any]],
    rounds: int,
    least: float = 0.0,
    before: Callable[[str], object] = lambda name: None,
) -> dict[str, float]:
    """Median seconds of a call of each; every round times all in turn, each for at least `least` seconds.

    `before` is called with the name before each turn, outside of what is timed.
    """
    times, seconds = {}, {name: [0.0] * rounds for name in runs}
    for name, run in runs.items():
        before(name)
        times[name] = max(1, round(least / max(timed(run), 1e-9)))
    for i in range(rounds):
        for name, run in runs.items():
            before(name)
            seconds[name][i] = timed(run, times[name])
    return {name: statistics.median(values) for name, values in seconds.items()}


def machine(*packages: str) -> str:
    """The processor and the versions that the figures depend on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    return f"{cpu}; Python {platform.python_version()}, " + ", ".join(f"{p} {version(p)}" for p in packages)


def version(package: str) -> str:
    """Version of an installed package, or a word that there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"
