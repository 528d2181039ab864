"""Streaming, a step or a block of steps at a time, the state carried from call to call: `python -m bench.streams`.

Each library keeps the state in its own form; each block goes in and each output comes out as a NumPy array.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import tables
from .command import parser, run
from .contenders import BACKENDS, Fastrnn, Jax, OnnxRuntime, Torch, choose, missing, take_turn
from .measure import Row, Run, measured
from .problems import CELLS, Problem, Shape, joined

BLOCK = 64
# Sequences and units of a small model fed sample by sample, and of wider ones, such as policies of several agents.
SMALL = [(1, 8), (1, 16), (1, 32), (1, 64)]
WIDE = [(1, 128), (1, 200), (1, 256), (1, 512), (8, 128), (8, 256), (32, 128), (32, 256)]
# How the stream is fed: its name, steps at a time, streams.
FEEDS = [("step", 1, SMALL), (f"blocks of {BLOCK}", BLOCK, SMALL), ("step of wider layers", 1, WIDE)]
# Calls of one run, so that the loop around them, which all share, is short beside them.
CALLS = {1: 256, BLOCK: 16}


def main() -> None:
    """Measure and print; `bench.peers` measures the same beside its grid."""
    arguments = parser(__doc__)
    arguments.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    run("streams", arguments, rows, tables.streams)


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """A row for each cell, feed and size; one thread."""
    for cell in options.cells:
        for mode, steps, sizes in FEEDS:
            for sequences, size in sizes[:1] if options.quick else sizes:
                runs = contenders(cell, sequences, size, steps)
                calls = CALLS[steps] * steps
                yield {
                    "dtype": "float32",
                    "cell": cell,
                    "shape": f"N{sequences} D{size} H{size}",
                    "mode": mode,
                    **measured(runs, calls, options.rounds, options.attempts, take_turn),
                }


def contenders(cell: str, sequences: int, size: int, steps: int) -> dict[str, Run]:
    """A run through the same streams for each library, with D = H = `size`; they agree on the outputs."""
    problem = Problem(cell, Shape(sequences, CALLS[steps] * steps, size, size))
    runs: dict[str, Run] = {name: _ours(problem, steps) for name in BACKENDS if not missing(name)}
    if not missing("PyTorch"):
        runs["PyTorch"] = _torch(problem, steps)
        if steps == 1:
            runs["PyTorch cell"] = _torch_cell(problem)
    if not missing("ONNX Runtime"):
        runs["ONNX Runtime"] = _onnx(problem, steps)
    if not missing("JAX"):
        runs["JAX"] = _jax(problem, steps)
    choose("NumPy")
    want = np.concatenate(runs["NumPy"]()).reshape(-1)
    for name, stream in runs.items():
        choose(name)
        np.testing.assert_allclose(np.concatenate(stream()).reshape(-1), want, rtol=0, atol=2e-5, err_msg=name)
    return runs


def _stream(feed: Callable[[Any, Any], tuple[Any, Any]], blocks: list[Any], state: Any) -> Run:
    """Outputs of `feed` over the blocks, beginning with `state`."""

    def run() -> list[Any]:
        carried, outputs = state, []
        for block in blocks:
            y, carried = feed(block, carried)
            outputs.append(y)
        return outputs

    return run


def _blocks(problem: Problem, steps: int) -> list[Any]:
    return [problem.x[t : t + steps] for t in range(0, problem.shape.T, steps)]


def _ours(problem: Problem, steps: int) -> Run:
    layer = Fastrnn(problem, 1).layer
    if steps == 1:
        return _stream(layer.step, list(problem.x), problem.initial)
    return _stream(layer, _blocks(problem, steps), problem.initial)


def _torch(problem: Problem, steps: int) -> Run:
    contender = Torch(problem, 1)
    torch, module = contender.torch, contender.module

    def feed(x: Any, state: Any) -> tuple[Any, Any]:
        y, state = module(torch.from_numpy(x), state)
        return y.numpy(), state

    initial = joined([torch.from_numpy(s) for s in problem.state])
    return torch.inference_mode()(_stream(feed, _blocks(problem, steps), initial))  # type: ignore[no-any-return]


def _torch_cell(problem: Problem) -> Run:
    """A step by PyTorch's cell module, which has no loop over time."""
    torch = Torch(problem, 1).torch
    _, _, D, H = problem.shape
    module = getattr(torch.nn, f"{problem.cell}Cell")(D, H)
    module.load_state_dict({k.removesuffix("_l0"): torch.from_numpy(v) for k, v in problem.weights.items()})

    def feed(x: Any, state: Any) -> tuple[Any, Any]:
        state = module(torch.from_numpy(x), state)
        return (state[0] if isinstance(state, tuple) else state).numpy(), state

    initial = joined([torch.from_numpy(s[0]) for s in problem.state])
    return torch.inference_mode()(_stream(feed, list(problem.x), initial))  # type: ignore[no-any-return]


def _onnx(problem: Problem, steps: int) -> Run:
    session = OnnxRuntime(problem.first(steps), 1).session
    names = ("h0", "c0")[: len(problem.state)]

    def feed(x: Any, state: Any) -> tuple[Any, Any]:
        y, *state = session.run(None, {"x": x, **dict(zip(names, state, strict=True))})
        return y, state

    return _stream(feed, _blocks(problem, steps), problem.state)


def _jax(problem: Problem, steps: int) -> Run:
    contender = Jax(problem, 1)

    def feed(x: Any, state: Any) -> tuple[Any, Any]:
        state, y = contender.run(x, state, contender.weights)
        return np.asarray(y), state

    return _stream(feed, _blocks(problem, steps), [s[0] for s in problem.state])


if __name__ == "__main__":
    main()
