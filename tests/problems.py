"""Problems for the tests: seeded inputs of a cell, what the naive oracle makes of them, and bounds.

Results of every implementation are dicts from the name of a quantity to an array: ``hs``, ``dx``,
``last.0``, ``dstate.0`` (one per state), ``dWx``, ``dbh``, ...: one function compares them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

import naive

Result = dict[str, np.ndarray]

ORACLE_RTOL = {"float64": 1e-12, "float32": 2e-6}


@dataclass(frozen=True, eq=False)
class Problem:
    """Inputs and output gradients of one call, read-only; float32 holds the values exactly."""

    cell: str
    x: np.ndarray  # (T, N, D)
    state: tuple[np.ndarray, ...]  # each (N, H)
    params: dict[str, np.ndarray]
    dhs: np.ndarray  # (T, N, H)
    dlast: tuple[np.ndarray, ...]  # each (N, H)

    def astype(self, dtype: str) -> Problem:
        """The same numbers in `dtype`."""
        return Problem(self.cell, *(_map(lambda a: _frozen(a.astype(dtype)), part) for part in self.parts()))

    def parts(self) -> tuple[Any, ...]:
        return self.x, self.state, self.params, self.dhs, self.dlast


def _map(function: Any, part: Any) -> Any:
    if isinstance(part, dict):
        return {name: function(a) for name, a in part.items()}
    return tuple(function(a) for a in part) if isinstance(part, tuple) else function(part)


def _frozen(a: np.ndarray) -> np.ndarray:
    a.flags.writeable = False
    return a


@cache
def problem(
    cell: str,
    T: int = 5,
    N: int = 4,
    D: int = 3,
    H: int = 4,
    dtype: str = "float64",
    scale: float = 1.0,
) -> Problem:
    """A seeded problem; weights are normal with deviation scale / sqrt(rows)."""
    if dtype != "float64":
        return problem(cell, T, N, D, H, scale=scale).astype(dtype)
    rng = np.random.default_rng([T, N, D, H])

    def normal(shape: tuple[int, ...], deviation: float = 1.0) -> np.ndarray:
        return _frozen((deviation * rng.standard_normal(shape)).astype("float32").astype("float64"))

    oracle = naive.CELLS[cell]
    return Problem(
        cell,
        x=normal((T, N, D)),
        state=tuple(normal((N, H)) for _ in range(oracle.states)),
        params={
            name: normal(shape, scale * (max(shape[0], 1) ** -0.5 if len(shape) == 2 else 0.3))
            for name, shape in oracle.param_shapes(D, H).items()
        },
        dhs=normal((T, N, H)),
        dlast=tuple(normal((N, H)) for _ in range(oracle.states)),
    )


def reset_state(p: Problem) -> tuple[np.ndarray, ...]:
    """A reset state for `p`, each (N, H), unlike its initial state."""
    return tuple(_frozen((-0.5 * a[::-1] + a.dtype.type(0.25)).astype(a.dtype)) for a in p.state)


@cache
def oracle(p: Problem, call: naive.Call = naive.PLAIN, to_state: bool = False) -> Result:
    """What the naive implementation makes of `p`; `to_state`: resets are to :func:`reset_state`."""
    r = naive.differentiate(naive.CELLS[p.cell].step, *p.parts(), call, reset_state(p) if to_state else None)
    shapes = {"hs": p.dhs.shape, "dx": p.x.shape}
    dparams = r.dparams if r.dreset is None else {**r.dparams, "reset_state": r.dreset}
    result = named(np.array(r.hs), np.array(r.last), np.array(r.dx), np.array(r.dstate), dparams)
    return {name: a.reshape(shapes.get(name, a.shape)) for name, a in result.items()}


def named(
    hs: np.ndarray,
    last: Iterable[Any],
    dx: np.ndarray,
    dstate: Iterable[Any],
    dparams: Mapping[str, Any],
) -> Result:
    """The parts of a result under their names."""
    return {
        "hs": hs,
        "dx": dx,
        **{f"last.{k}": np.asarray(a) for k, a in enumerate(last)},
        **{f"dstate.{k}": np.asarray(a) for k, a in enumerate(dstate)},
        **{f"d{name}": np.asarray(a) for name, a in dparams.items()},
    }


def assert_close(got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], rtol: float) -> None:
    """Every quantity within ``atol + rtol * max|expected|`` of what is expected, atol = rtol / 10.

    The norm is the array's largest magnitude: an element that cancels to nearly nothing is held
    to the accuracy of the numbers it was made of.
    """
    assert got.keys() == expected.keys()
    for name, want in expected.items():
        have = got[name]
        assert have.shape == want.shape, f"{name}: shape {have.shape}, expected {want.shape}"
        if want.size == 0:
            continue
        error = np.abs(have - want).max()
        bound = 0.1 * rtol + rtol * np.abs(want).max()
        assert error <= bound, f"{name}: error {error:.3g} > {bound:.3g}"


def assert_equal(got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Every quantity the same, bit for bit (NaN equals NaN)."""
    assert got.keys() == expected.keys()
    for name, want in expected.items():
        np.testing.assert_array_equal(got[name], want, err_msg=name)
