"""A backend's path through a call: watched, and forced."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

import fastrnn
from fastrnn import dispatch
from fastrnn.engine.contract import Call, Gradients, Layout, Path, Result
from fastrnn.engine.stack import LayerByLayer


class Forced(NamedTuple):
    """A path for each pass, or None for the one that the backend chooses, and the threads that the call may use."""

    forward: Path | None = None
    backward: Path | None = None
    threads: int = 1


class Watched:
    """A backend that fails if a pass takes another path than the forced one or, if none is, than the one it tells.

    It notes the paths that ran, and the threads that called it.
    """

    def __init__(self, name: str, forced: Forced | None) -> None:
        self._backend, self._forced = dispatch.load_backend(name), forced
        self.ran: list[Path] = []
        self.threads: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def prepare(self, layout: Layout, params: Mapping[str, Any]) -> LayerByLayer:
        # Whatever quicker way through a stack the backend has, it has not this one's eyes.
        return LayerByLayer(self, layout, params)

    def forward(self, call: Call, keep: bool) -> Result:
        call, path = self._of(call, 0)
        result = self._backend.forward(call, keep, path)
        self._note(result.path, path or self._backend.forward_path(call))
        return result

    def backward(self, call: Call, *given: Any, **more: Any) -> Gradients:
        call, path = self._of(call, 1)
        result = self._backend.backward(call, *given, path, **more)
        self._note(result.path, path or self._backend.backward_path(call))
        return result

    def _of(self, call: Call, which: int) -> tuple[Call, Path | None]:
        if self._forced is None:
            return call, None
        return replace(call, threads=self._forced.threads), self._forced[which]

    def _note(self, ran: Path, told: Path) -> None:
        assert ran == told
        self.ran.append(ran)
        self.threads.add(threading.get_ident())


@contextmanager
def watched(name: str, forced: Forced | None = None) -> Iterator[Watched]:
    """Calls inside run on the backend `name`, watched; in an inner ``use_backend`` on that one."""
    backend = Watched(name, forced)
    with pytest.MonkeyPatch.context() as patch, fastrnn.use_backend(name):
        patch.setitem(dispatch._loaded, name, backend)
        yield backend
