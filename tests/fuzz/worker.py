"""The process in which cases run, and its other end: it may die of a case, and the case is known."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

TESTS = Path(__file__).parents[1]
# Seconds after which a case hangs. A machine that does something else, or a sanitizer, takes its time.
LIMIT = 600.0


class Verdict(NamedTuple):
    """What became of a case.

    what : "" if it passed, "not here" if it cannot run on this machine, else what went wrong, in one line
    details : a traceback, or what the process said before it died
    """

    what: str
    details: str = ""

    @property
    def failed(self) -> bool:
        return self.what not in ("", "not here")


class Worker:
    """A process that runs one case after the other, started anew after one that it did not survive."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._said: IO[str] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, line: str) -> Verdict:
        """The case that `line` describes."""
        process = self._start()
        assert process.stdin and process.stdout
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(LIMIT, end)
        timer.start()
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            timer.cancel()
        return Verdict(*json.loads(answer)) if answer else self._dead(late.is_set())

    def close(self) -> None:
        """End the process."""
        if self._process:
            assert self._process.stdin and self._process.stdout and self._said
            with suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()
            self._said.close()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        if self._process is None:
            # BLAS with threads of its own would change the bits of the NumPy backend.
            single = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1")
            env = {**os.environ, **single, "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)])}
            self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fuzz.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
                env=env,
            )
        return self._process

    def _dead(self, late: bool) -> Verdict:
        assert self._process and self._said
        code = self._process.wait()
        self._said.seek(0)
        said = self._said.read()
        if late:
            what = f"hangs: more than {LIMIT:.0f} s"
        elif code < 0:
            what = f"dies of {signal.Signals(-code).name}"
        else:
            what = f"exits with {code}"
        self.close()
        return Verdict(what, said)


def verdict_of(line: str) -> Verdict:
    """Run a case in this process."""
    from .kinds import from_line, run
    from .settings import NotHere

    try:
        run(from_line(line))
    except NotHere as error:
        return Verdict("not here", str(error))
    except BaseException as error:  # even a KeyboardInterrupt is not what a case may raise
        text = " ".join(str(error).split())
        what = text if isinstance(error, AssertionError) else f"{type(error).__name__}: {text}"
        return Verdict(what[:300] or "AssertionError", traceback.format_exc())
    return Verdict("")


def main() -> None:
    """Answer every line of standard input by one of standard output."""
    import faulthandler
    import warnings

    faulthandler.enable()
    warnings.simplefilter("error")
    # Where the build of the extension has failed, its absence is known.
    warnings.filterwarnings("ignore", "the C\\+\\+ extension is missing")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed
    for line in sys.stdin:
        answer: Any = verdict_of(line)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
