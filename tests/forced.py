"""A backend that takes the path it is given and fails if another one ran."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fastrnn
from fastrnn.backends import registry
from fastrnn.engine.call import Call, Gradients, Path, Result


class _Forced:
    """A backend with the paths of both its passes given; None for those that it chooses itself."""

    def __init__(self, backend: Any, forward: Path | None, backward: Path | None) -> None:
        self._backend, self._forward, self._backward = backend, forward, backward
        self.ran = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def forward(self, call: Call, keep: bool) -> Result:
        wanted = self._forward or self._backend.forward_path(call)
        result = self._backend.forward(call, keep, wanted)
        assert result.path == wanted, f"forward: wanted {wanted}, {result.path} ran"
        self.ran += 1
        return result

    def backward(self, call: Call, saved: Any, *gradients: Any) -> Gradients:
        wanted = self._backward or self._backend.backward_path(call)
        result = self._backend.backward(call, saved, *gradients, wanted)
        assert result.path == wanted, f"backward: wanted {wanted}, {result.path} ran"
        self.ran += 1
        return result


@contextmanager
def forced(name: str, forward: Path | None = None, backward: Path | None = None) -> Iterator[None]:
    """Run the backend `name` on the given paths, and fail if it did not run at all."""
    backend = registry.load_backend(name)
    wrapped: Any = _Forced(backend, forward, backward)
    registry._loaded[name] = wrapped
    try:
        with fastrnn.use_backend(name):
            yield
    finally:
        registry._loaded[name] = backend
    assert wrapped.ran, f"{name} did not run"
