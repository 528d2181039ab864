"""Streaming: one sequence, a step or a block of steps at a time, the state carried from call to call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .cases import Shape
from .contenders import BACKENDS, Arrays, Fastrnn, OnnxRuntime, Problem, Torch, choose, installed, joined

Run = Callable[[], Any]


def contenders(cell: str, size: int, steps: int) -> dict[str, Run]:
    """One call of each library, with D = H = `size`; they agree on the output."""
    problem = Problem(cell, Shape(1, steps, size, size))
    runs: dict[str, Run] = {name: _ours(problem) for name in BACKENDS if installed(name)}
    if installed("PyTorch"):
        runs["PyTorch"] = Torch(problem, 1).forward
        if steps == 1:
            runs["PyTorch cell"] = _torch_cell(problem)
    if installed("ONNX Runtime"):
        runs["ONNX Runtime"] = OnnxRuntime(problem, 1).forward
    choose("NumPy")
    want = _output(runs["NumPy"]())
    for name, run in runs.items():
        choose(name)
        np.testing.assert_allclose(_output(run()), want, rtol=0, atol=1e-5, err_msg=name)
    return runs


def _output(result: Any) -> Any:
    return np.asarray(result["y"] if isinstance(result, dict) else result[0]).reshape(-1)


def _ours(problem: Problem) -> Run:
    layer, state = Fastrnn(problem, 1).layer, problem.initial
    if problem.shape.T > 1:
        return lambda: layer(problem.x, state)
    x = problem.x[0]
    return lambda: layer.step(x, state)


def _torch_cell(problem: Problem) -> Run:
    """A single step by PyTorch's cell module, which has no loop over time."""
    import torch

    _, _, D, H = problem.shape
    module = getattr(torch.nn, f"{problem.cell}Cell")(D, H)
    module.load_state_dict({k.removesuffix("_l0"): torch.from_numpy(v) for k, v in problem.weights.items()})

    def run() -> Arrays:
        with torch.inference_mode():
            state = [torch.from_numpy(s[0]) for s in problem.state]
            result = module(torch.from_numpy(problem.x[0]), joined(state))
            return {"y": (result[0] if isinstance(result, tuple) else result).numpy()}

    return run
