"""Times of calls taken in turns: the one measuring loop of all commands. Imports nothing that has threads."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

Run = Callable[[], Any]
Result = TypeVar("Result")
# A line of figures, as JSON holds it.
Row = dict[str, Any]

# Other processes' share of the machine from which a figure is not to be trusted: libraries whose threads spin for
# each other are then slowed by orders of magnitude.
DISTURBED = 0.1
# Seconds of a turn at least, so that the clock and a switch of processes disturb little.
LEAST = 0.02


def timed(run: Run, times: int = 1) -> float:
    """Seconds of one call, as the mean of `times` calls."""
    start = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - start) / times


def in_turns(
    runs: Mapping[str, Run],
    rounds: int,
    least: float = 0.0,
    before: Callable[[str], object] = lambda name: None,
) -> dict[str, list[float]]:
    """Seconds of a call of each in every round; a round times all in turn, each for at least `least` seconds.

    `before` is called with the name before each turn, outside of what is timed. Every round begins with another.
    """
    times = {}
    for name, run in runs.items():
        before(name)
        times[name] = _repeats(run, least)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            before(name)
            if times[name] > 1:
                # The others' turns have emptied the caches; a long call fills them by itself.
                runs[name]()
            seconds[name].append(timed(runs[name], times[name]))
    return seconds


def medians(
    runs: Mapping[str, Run],
    rounds: int,
    least: float = 0.0,
    before: Callable[[str], object] = lambda name: None,
) -> dict[str, float]:
    """Median over the rounds of :func:`in_turns`."""
    return {name: statistics.median(s) for name, s in in_turns(runs, rounds, least, before).items()}


def measured(runs: Mapping[str, Run], steps: int, rounds: int, attempts: int, before: Callable[[str], object]) -> Row:
    """Figures of one point: µs a step of each, median and range over the rounds, and what other processes took.

    `steps` are those of a call. With a single round, which is for trying a command, turns are short as well.
    """
    least = LEAST if rounds > 1 else LEAST / 10
    seconds, share = undisturbed(lambda: in_turns(runs, rounds, least, before), attempts)
    us = {name: [1e6 * s / steps for s in values] for name, values in seconds.items()}
    return {
        "us": {name: statistics.median(values) for name, values in us.items()},
        "range": {name: [min(values), max(values)] for name, values in us.items()},
        "others": share,
    }


def _repeats(run: Run, least: float) -> int:
    """How many calls take `least` seconds."""
    once = timed(run)
    if once < least:
        # Short calls are disturbed easily, and one that was would be repeated too little.
        once = min(once, *(timed(run) for _ in range(3)))
    return max(1, round(least / max(once, 1e-9)))


def quiet(limit: float = 1.0, window: float = 0.004) -> None:
    """Wait until no thread of this process works, at most `limit` seconds.

    After a call, pools of threads spin for up to a tenth of a second (OpenBLAS) for work that does not come. The
    next one's threads would share the processors with them.
    """
    end = time.perf_counter() + limit
    while time.perf_counter() < end:
        used = time.process_time()
        time.sleep(window)
        if time.process_time() - used < 0.1 * window:
            return


class Others:
    """How busy other processes are: call it for their share of the processors since the last call, 0 to 1."""

    def __init__(self) -> None:
        self._before = self._now()

    def __call__(self) -> float:
        """0 where the system does not tell."""
        before, self._before = self._before, self._now()
        wall, busy, own = (now - then for now, then in zip(self._before, before, strict=True))
        return max(0.0, busy - own) / (wall * (os.cpu_count() or 1))

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds: of the clock, of work of all processors, of work of this process."""
        stat = Path("/proc/stat")
        own = time.process_time()
        if not stat.exists():
            return time.perf_counter(), own, own
        user, nice, system, _, _, *interrupts = map(int, stat.read_text().split("\n", 1)[0].split()[1:9])
        busy = (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), busy, own


def undisturbed(work: Callable[[], Result], attempts: int) -> tuple[Result, float]:
    """The result of the attempt that other processes disturbed least, and their share of the machine meanwhile."""
    done = []
    for _ in range(attempts):
        others = Others()
        done.append((work(), others()))
        if done[-1][1] <= DISTURBED:
            break
    return min(done, key=lambda attempt: attempt[1])
