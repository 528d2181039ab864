"""Wrong calls: each raises TypeError or ValueError naming an argument, and changes nothing."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

import fastrnn
from fastrnn import optim

from .arrays import pick
from .calls import CALLS
from .damage import FREE, KINDS
from .settings import BACKENDS, VARIANTS, settings
from .settings import DEFAULTS as SETTINGS

DEFAULTS: dict[str, Any] = {**SETTINGS, "call": "lstm_forward", "changes": {}}


def draw(rng: np.random.Generator, quick: bool) -> dict[str, Any]:
    call = pick(rng, CALLS)
    kinds = CALLS[call].kinds
    names = [pick(rng, kinds) for _ in range(1 if rng.random() < 0.8 else 2)]
    # Arguments are checked before a backend is asked, but for the quick way that each may have through a layer.
    backend = pick(rng, [name for name in ("numpy", *BACKENDS) if not quick or name != "numba"])
    return {
        "backend": backend,
        "variant": pick(rng, VARIANTS) if backend == "cpp" else "",
        "call": call,
        "changes": {name: pick(rng, KINDS[kinds[name]]) for name in names},
    }


def run(case: dict[str, Any]) -> None:
    entry = CALLS[case["call"]]
    with settings(case):
        given = entry.given()
        wrong = {}
        for name, change in case["changes"].items():
            wrong[name] = KINDS[entry.kinds[name]][change](given.get(name))
        before = _content(given)
        try:
            entry.function(**(given | wrong))
        except (TypeError, ValueError) as error:
            assert type(error) in (TypeError, ValueError), f"{type(error).__name__} and not ValueError itself: {error}"
            named = re.match(r"\w+", str(error))
            known = {*entry.kinds, *given, *entry.names} - {"self"}
            assert named and named[0] in known, f"{type(error).__name__} names no argument: {error}"
            assert _content(given) == before, "something was changed before the call was refused"
        else:
            refused = [name for name in wrong if entry.kinds[name] not in FREE]
            assert not refused, f"{' and '.join(refused)} was taken"


def _content(value: Any) -> Any:
    """What is in arguments, parameters and gradients, to be compared."""
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, fastrnn.Layer | fastrnn.Model):
        return _content(dict(value.params)), _content(dict(value.grads))
    if isinstance(value, optim.Optimizer):
        return _content(dict(value.params))
    if isinstance(value, dict):
        return {key: _content(part) for key, part in value.items()}
    return [_content(part) for part in value] if isinstance(value, list | tuple) else repr(value)
