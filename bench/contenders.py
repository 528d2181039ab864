"""Who is measured: each library runs one cell at one shape, NumPy arrays in and NumPy arrays out.

Weights are put into a library once, as its users do; everything else of a call (conversion of inputs and results,
allocation, gradients set to zero) is part of what is timed. All take the same numbers, in PyTorch's layouts and
gate order, and give the same results: ``y``, and for training also the gradients of `x`, the initial states and the
weights. Each library is imported when it is first used, so that those that are missing do no harm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fastrnn

from . import textbook
from .machine import version
from .measure import Run, quiet
from .problems import Problem, joined

Arrays = dict[str, Any]


class Contender:
    """A library with the weights of a problem in it; not every library trains."""

    trains = True

    def __init__(self, problem: Problem, threads: int) -> None:
        raise NotImplementedError

    def forward(self) -> Arrays:
        """``y``, keeping nothing."""
        raise NotImplementedError

    def training(self) -> Arrays:
        """``y`` and every gradient."""
        raise NotImplementedError


class Fastrnn(Contender):
    """A layer of this library, on the backend in use: see :func:`choose`."""

    def __init__(self, problem: Problem, threads: int) -> None:
        fastrnn.set_num_threads(threads)
        _, _, D, H = problem.shape
        self.problem = problem
        self.layer = getattr(fastrnn, problem.cell)(D, H, dtype=problem.dtype)
        self.layer.load_state_dict(problem.weights)
        self.names = [(name, *self.layer.torch_name(name)) for name in self.layer.grads]

    def forward(self) -> Arrays:
        return {"y": self.layer(self.problem.x, self.problem.initial)[0]}

    def training(self) -> Arrays:
        self.layer.zero_grad()
        y, _ = self.layer.forward(self.problem.x, self.problem.initial)
        dx, dstate = self.layer.backward(self.problem.dy)
        result = {"y": y, "x": dx, **_states(dstate)}
        for name, theirs, transposed in self.names:
            grad = self.layer.grads[name]
            result[theirs] = grad.T if transposed else grad
        return result


class Textbook(Contender):
    """The LSTM that people write by hand in NumPy."""

    def __init__(self, problem: Problem, threads: int) -> None:
        if problem.cell != "LSTM":
            raise ValueError(f"problem: expected an LSTM, got {problem.cell}")
        self.problem = problem
        weights = problem.weights
        self.Wx, self.Wh = (np.ascontiguousarray(weights[f"weight_{k}_l0"].T) for k in ("ih", "hh"))
        self.b = weights["bias_ih_l0"] + weights["bias_hh_l0"]

    def forward(self, steps: list[Any] | None = None) -> Arrays:
        h, c = (s[0] for s in self.problem.state)
        return {"y": textbook.lstm_forward(self.problem.x, h, c, self.Wx, self.Wh, self.b, steps)}

    def training(self) -> Arrays:
        steps: list[Any] = []
        result = self.forward(steps)
        p = self.problem
        dx, dh, dc, dWx, dWh, db = textbook.lstm_backward(p.dy, steps, p.x, self.Wx, self.Wh)
        weights = {"weight_ih_l0": dWx.T, "weight_hh_l0": dWh.T, "bias_ih_l0": db, "bias_hh_l0": db}
        return {**result, "x": dx, "h0": dh[None], "c0": dc[None], **weights}


class Torch(Contender):
    """PyTorch's module; inference without autograd."""

    def __init__(self, problem: Problem, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        _, _, D, H = problem.shape
        self.torch, self.problem = torch, problem
        self.module = getattr(torch.nn, problem.cell)(D, H, dtype=getattr(torch, problem.dtype))
        self.module.load_state_dict({k: torch.from_numpy(v) for k, v in problem.weights.items()})
        self.parameters = dict(self.module.named_parameters())

    def _inputs(self, gradients: bool) -> tuple[Any, list[Any]]:
        arrays = [self.problem.x, *self.problem.state]
        x, *state = (self._tensor(a).requires_grad_(gradients) for a in arrays)
        return x, state

    def _tensor(self, array: Any) -> Any:
        return self.torch.from_numpy(array)

    def _array(self, tensor: Any) -> Any:
        return tensor.detach().numpy()

    def forward(self) -> Arrays:
        with self.torch.inference_mode():
            x, state = self._inputs(False)
            return {"y": self._array(self.module(x, joined(state))[0])}

    def training(self) -> Arrays:
        self.module.zero_grad()
        x, state = self._inputs(True)
        y, _ = self.module(x, joined(state))
        y.backward(self._tensor(self.problem.dy))
        result = {"y": self._array(y), "x": self._array(x.grad)}
        result |= _states(joined([self._array(s.grad) for s in state]))
        return result | {name: self._array(p.grad) for name, p in self.parameters.items()}


class OnnxRuntime(Contender):
    """ONNX Runtime; inference alone."""

    trains = False

    def __init__(self, problem: Problem, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        model = _onnx_model(problem).SerializeToString()
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        names = ("x", "h0", "c0")
        self.inputs = dict(zip(names, [problem.x, *problem.state], strict=False))

    def forward(self) -> Arrays:
        return {"y": self.session.run(["y"], self.inputs)[0][:, 0]}


class Jax(Contender):
    """``lax.scan`` over time under ``jit``, the input's projection outside the loop."""

    def __init__(self, problem: Problem, threads: int) -> None:
        import jax

        jax.config.update("jax_enable_x64", problem.dtype == "float64")
        self.problem = problem
        run = _jax_run(jax, problem.cell)
        self.weights = [jax.numpy.asarray(w.T) for w in problem.weights.values()]
        self.run = jax.jit(run)

        def gradients(dy: Any, x: Any, state: Any, weights: Any) -> Any:
            y, pull = jax.vjp(lambda *inputs: run(*inputs)[1], x, state, weights)
            return y, pull(dy)

        self.gradients = jax.jit(gradients)

    def forward(self) -> Arrays:
        return {"y": np.asarray(self.run(self.problem.x, [s[0] for s in self.problem.state], self.weights)[1])}

    def training(self) -> Arrays:
        state = [s[0] for s in self.problem.state]
        y, (dx, dstate, dweights) = self.gradients(self.problem.dy, self.problem.x, state, self.weights)
        result = {"y": np.asarray(y), "x": np.asarray(dx), **_states(joined([np.asarray(s)[None] for s in dstate]))}
        names = self.problem.weights
        return result | {name: np.asarray(d).T for name, d in zip(names, dweights, strict=True)}


# The loop over time in NumPy is the backend of that name.
BACKENDS = {"fastrnn cpp": "cpp", "fastrnn numba": "numba", "NumPy": "numpy"}
OURS: dict[str, type[Contender]] = {"fastrnn cpp": Fastrnn, "fastrnn numba": Fastrnn}
PEERS: dict[str, type[Contender]] = {
    "PyTorch": Torch,
    "ONNX Runtime": OnnxRuntime,
    "JAX": Jax,
    "NumPy": Fastrnn,
    "NumPy by hand": Textbook,
}
ALL = {**OURS, **PEERS}
# Packages that a library needs here beside this project's own.
_PACKAGES = {"PyTorch": ("torch",), "ONNX Runtime": ("onnxruntime", "onnx"), "JAX": ("jax",)}


def take_turn(name: str) -> None:
    """Make ready for a turn of the contender `name`: its backend, and nobody else at work."""
    choose(name)
    quiet()


def choose(name: str) -> None:
    """Use the backend of the contender `name`."""
    if name in BACKENDS:
        fastrnn.set_backend(BACKENDS[name])


def missing(name: str) -> str:
    """Why the contender `name` cannot run here; empty if it can."""
    if name in BACKENDS:
        return "" if BACKENDS[name] in fastrnn.available_backends() else "the backend is not built"
    absent = [package for package in _PACKAGES.get(name, ()) if version(package) == "missing"]
    return f"{' and '.join(absent)} not installed" if absent else ""


def takes_part(name: str, cell: str, dtype: str, training: bool) -> bool:
    """Whether there is such a contender: not every library has every cell, dtype, or gradients."""
    if missing(name) or (training and not ALL[name].trains):
        return False
    if name == "NumPy by hand" and cell != "LSTM":
        return False
    return dtype == "float32" or name not in ("ONNX Runtime", "JAX")


def reference(problem: Problem, mode: str) -> Arrays:
    """What all must agree with: the NumPy backend's results, and so each other's."""
    choose("NumPy")
    result: Arrays = getattr(Fastrnn(problem, 1), mode)()
    return result


def assert_same(name: str, got: Arrays, want: Arrays, dtype: str) -> None:
    """Every result within rounding of what is wanted, relative to its largest number; of nothing more or less."""
    rtol = 2e-4 if dtype == "float32" else 1e-9
    assert got.keys() == want.keys(), f"{name}: expected {list(want)}, got {list(got)}"
    for key, expected in want.items():
        bound = rtol * max(1e-3, float(np.abs(expected).max()))
        assert isinstance(got[key], np.ndarray), f"{name}: {key} is no NumPy array"
        np.testing.assert_allclose(got[key], expected, rtol=0, atol=bound, err_msg=f"{name}: {key}")


def compared(problem: Problem, mode: str, names: list[str], threads: int) -> dict[str, Run]:
    """A call of each library by name, all with the same results as the NumPy backend's."""
    want = reference(problem, mode)
    runs: dict[str, Run] = {}
    for name in names:
        runs[name] = getattr(ALL[name](problem, threads), mode)
        choose(name)
        assert_same(name, runs[name](), want, problem.dtype)
    return runs


def _states(state: Any) -> Arrays:
    parts = state if isinstance(state, tuple) else (state,)
    return dict(zip(("h0", "c0"), parts, strict=False))


def _onnx_model(problem: Problem) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    cell, (N, T, D, H) = problem.cell, problem.shape
    order = {"RNN": [0], "LSTM": [0, 3, 1, 2], "GRU": [1, 0, 2]}[cell]
    kind = TensorProto.FLOAT if problem.dtype == "float32" else TensorProto.DOUBLE

    def blocks(name: str) -> Any:
        weight = problem.weights[name]
        return weight.reshape(len(order), H, *weight.shape[1:])[order].reshape(weight.shape)

    bias = np.concatenate([blocks("bias_ih_l0"), blocks("bias_hh_l0")])
    constants = {"W": blocks("weight_ih_l0")[None], "R": blocks("weight_hh_l0")[None], "B": bias[None]}
    states = {"h0": (1, N, H), "c0": (1, N, H)} if cell == "LSTM" else {"h0": (1, N, H)}
    last = [name.replace("0", "") for name in states]
    node = helper.make_node(cell, ["x", *constants, "", *states], ["y", *last], hidden_size=H)
    if cell == "GRU":
        node.attribute.append(helper.make_attribute("linear_before_reset", 1))
    inputs = {"x": (T, N, D), **states}
    outputs = {"y": (T, 1, N, H), **dict.fromkeys(last, (1, N, H))}
    graph = helper.make_graph(
        [node],
        cell,
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _jax_run(jax: Any, cell: str) -> Callable[..., Any]:
    """The last states and the outputs, from input, states and weights."""
    jnp, sigmoid = jax.numpy, jax.nn.sigmoid

    def run(x: Any, state: Any, weights: Any) -> Any:
        Wx, Wh, bx, bh = weights

        def rnn(state: Any, a: Any) -> Any:
            h = jnp.tanh(a + state[0] @ Wh + bh)
            return [h], h

        def lstm(state: Any, a: Any) -> Any:
            i, f, g, o = jnp.split(a + state[0] @ Wh + bh, 4, axis=-1)
            c = sigmoid(f) * state[1] + sigmoid(i) * jnp.tanh(g)
            h = sigmoid(o) * jnp.tanh(c)
            return [h, c], h

        def gru(state: Any, a: Any) -> Any:
            xr, xz, xn = jnp.split(a, 3, axis=-1)
            hr, hz, hn = jnp.split(state[0] @ Wh + bh, 3, axis=-1)
            r, z = sigmoid(xr + hr), sigmoid(xz + hz)
            n = jnp.tanh(xn + r * hn)
            h = (1 - z) * n + z * state[0]
            return [h], h

        step = {"RNN": rnn, "LSTM": lstm, "GRU": gru}[cell]
        return jax.lax.scan(step, state, x @ Wx + bx)

    return run
