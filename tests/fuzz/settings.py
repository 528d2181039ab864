"""What a case sets for itself: backend, instruction set, threads, precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import fastrnn
from fastrnn import thresholds

from .arrays import often, pick

BACKENDS = tuple(name for name in fastrnn.available_backends() if name != "numpy")
PRECISIONS = ("highest", "high", "medium")


def _extension() -> Any:
    from fastrnn.backends import _cpp

    return _cpp


VARIANTS: tuple[str, ...] = _extension().variants() if "cpp" in BACKENDS else ()

DEFAULTS = {"backend": "numpy", "variant": "", "threads": 1, "precision": "highest"}


class NotHere(Exception):
    """The case needs a backend or an instruction set that this machine does not have."""


def draw(rng: np.random.Generator) -> dict[str, Any]:
    backend = "cpp" if "cpp" in BACKENDS and rng.random() < 0.8 else "numba"
    return {
        "backend": backend,
        "variant": pick(rng, VARIANTS) if backend == "cpp" else "",
        "threads": often(rng, 1, (2, 3, 4, 7)),
        "precision": often(rng, "highest", PRECISIONS, 0.9) if backend == "cpp" else "highest",
    }


@contextmanager
def settings(case: dict[str, Any]) -> Iterator[None]:
    """Those of `case`, and work of any size worth a thread."""
    if case["backend"] not in fastrnn.available_backends() or case["variant"] not in ("", *VARIANTS):
        raise NotHere(f"{case['backend']} {case['variant']}")
    worth, count, precision = thresholds.WORTH_A_THREAD, fastrnn.get_num_threads(), fastrnn.get_matmul_precision()
    variant = _extension().variant_name() if case["variant"] else ""
    try:
        thresholds.WORTH_A_THREAD = 1
        fastrnn.set_num_threads(case["threads"])
        fastrnn.set_matmul_precision(case["precision"])
        if variant:
            assert _extension().use_variant(case["variant"])
        with fastrnn.use_backend(case["backend"]):
            yield
    finally:
        thresholds.WORTH_A_THREAD = worth
        fastrnn.set_num_threads(count)
        fastrnn.set_matmul_precision(precision)
        if variant:
            _extension().use_variant(variant)


def kind_of_numbers(case: dict[str, Any]) -> str:
    """The numbers whose precision the products of `case` have at least."""
    rough = case["precision"] != "highest" and case["dtype"] == "float32"
    return "bf16" if rough else str(case["dtype"])
