"""Calls that work, for `wrong` to damage."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastrnn
from cases import CELLS
from fastrnn import diagnostics, functional, losses, online, optim

from .damage import D, H, N, T


class Entry(NamedTuple):
    """A call that works, and of which kind each of its arguments is.

    given : new arguments that work
    function : takes them
    kinds : of those that may be made wrong
    names : what messages may call arguments beside their names
    """

    given: Callable[[], dict[str, Any]]
    function: Callable[..., Any]
    kinds: dict[str, str]
    names: tuple[str, ...] = ()


def _array(*shape: int, dtype: str = "float32") -> np.ndarray:
    rng = np.random.default_rng(shape)
    a = (0.5 * rng.standard_normal(shape)).astype(dtype)
    a.flags.writeable = False
    return a


def _cell_entries() -> dict[str, Entry]:
    def sequence(gates: int, states: tuple[str, ...], biases: tuple[str, ...]) -> dict[str, Any]:
        columns = {name: _array(gates * H) for name in biases}
        first = {name: _array(N, H) for name in states}
        return {"x": _array(T, N, D), **first, "Wx": _array(D, gates * H), "Wh": _array(H, gates * H), **columns}

    arrays = {"x": "array", "Wx": "matrix", "Wh": "matrix"}
    shared = {"lengths": "lengths", "batch_first": "flag", "reverse": "flag"}
    entries = {}
    for name, gates, biases, options in (
        ("rnn", 1, ("b",), {"nonlinearity": "choice"}),
        ("lstm", 4, ("b",), {"gate_order": "order"}),
        ("gru", 3, ("bx", "bh"), {"gate_order": "order", "reset_after": "flag"}),
    ):
        long = ("h0", "c0") if name == "lstm" else ("h0",)
        short = tuple(s[0] + "_prev" for s in long)
        kinds = arrays | dict.fromkeys(biases, "optional array") | options
        if gates == 1:
            kinds["Wh"] = "square"
        forward, step = getattr(functional, f"{name}_forward"), getattr(functional, f"{name}_step_forward")

        def given(gates: int = gates, states: Any = long, biases: Any = biases) -> dict[str, Any]:
            return {**sequence(gates, states, biases), "lengths": [5, 2, 0, 3]}

        def given_step(gates: int = gates, states: Any = short, biases: Any = biases) -> dict[str, Any]:
            arguments = sequence(gates, states, biases)
            return arguments | {"x": arguments["x"][0]}

        states = dict.fromkeys(long, "optional matrix")
        entries[f"{name}_forward"] = Entry(given, forward, kinds | states | shared, ("params",))
        states = dict.fromkeys(short, "optional matrix")
        entries[f"{name}_step_forward"] = Entry(given_step, step, kinds | states | {"x": "matrix"}, ("params",))
        last = tuple(f"d{s[0]}_last" for s in long)
        following = tuple(f"d{s[0]}_next" for s in long)

        def given_back(forward: Any = forward, given: Any = given, last: Any = last) -> dict[str, Any]:
            cache = forward(**given())[-1]
            return {"dhs": _array(T, N, H), "cache": cache, **{name: _array(N, H) for name in last}}

        def given_step_back(step: Any = step, given: Any = given_step, names: Any = following) -> dict[str, Any]:
            return {"cache": step(**given())[-1], **{name: _array(N, H) for name in names}}

        back = {"dhs": "optional array", "cache": "cache", "truncate": "truncate"}
        backward = getattr(functional, f"{name}_backward")
        entries[f"{name}_backward"] = Entry(given_back, backward, back | dict.fromkeys(last, "optional matrix"))
        step_back = {"cache": "cache"} | dict.fromkeys(following, "optional matrix")
        entries[f"{name}_step_backward"] = Entry(
            given_step_back, getattr(functional, f"{name}_step_backward"), step_back
        )
    return entries | {"cell_forward": _any_cell(), "cell_backward": _any_cell_back()}


def _any_cell_given() -> dict[str, Any]:
    cell = CELLS["peephole_lstm"]
    params = {name: _array(*shape) for name, shape in cell.param_shapes(D, H).items()}
    return {"cell": cell, "x": _array(T, N, D), "state": (_array(N, H), _array(N, H)), "params": params}


def _any_cell() -> Entry:
    kinds = {"cell": "cell", "x": "array", "state": "tuple of states", "params": "mapping"}
    kinds |= {"lengths": "lengths", "batch_first": "flag", "reverse": "flag", "keep": "flag"}
    return Entry(_any_cell_given, functional.cell_forward, kinds, tuple(CELLS["peephole_lstm"].param_shapes(1, 1)))


def _any_cell_back() -> Entry:
    def given() -> dict[str, Any]:
        cache = functional.cell_forward(**_any_cell_given())[2]
        return {"dhs": _array(T, N, H), "cache": cache, "dlast": (_array(N, H), _array(N, H))}

    kinds = {"dhs": "optional array", "cache": "cache", "dlast": "tuple of states", "truncate": "truncate"}
    return Entry(given, functional.cell_backward, kinds)


def _layer_entries() -> dict[str, Entry]:
    sizes = {"input_size": "count", "hidden_size": "count", "num_layers": "count"}
    options = {"bias": "flag", "batch_first": "flag", "bidirectional": "flag", "dropout": "share", "dtype": "dtype"}
    options |= {"seed": "seed"}

    def made(cls: Any, own: dict[str, str], **given: Any) -> Entry:
        return Entry(lambda: {"input_size": D, "hidden_size": H, "num_layers": 2, **given}, cls, sizes | options | own)

    def layer() -> fastrnn.LSTM:
        return fastrnn.LSTM(D, H, 2, seed=0)

    def states() -> tuple[np.ndarray, np.ndarray]:
        return _array(2, N, H), _array(2, N, H)

    def after_forward() -> fastrnn.LSTM:
        ready = layer()
        ready.forward(_array(T, N, D))
        return ready

    entries = {
        "RNN": made(fastrnn.RNN, {"nonlinearity": "choice"}),
        "LSTM": made(fastrnn.LSTM, {}),
        "GRU": made(fastrnn.GRU, {"reset_after": "flag"}),
        "Recurrent": made(fastrnn.Recurrent, {"cell": "cell"}, cell=CELLS["mgu"]),
    }
    called = {"x": "array", "state": "tuple of states", "lengths": "lengths"}
    for name in ("__call__", "forward"):
        entries[f"LSTM.{name}"] = Entry(
            lambda: {"self": layer(), "x": _array(T, N, D), "state": states()},
            lambda self, name=name, **a: getattr(self, name)(**a),
            called | ({"recompute": "recompute"} if name == "forward" else {}),
        )
    entries["LSTM.step"] = Entry(
        lambda: {"self": layer(), "x": _array(N, D), "state": states()},
        lambda self, **a: self.step(**a),
        {"x": "matrix", "state": "tuple of states"},
    )
    entries["LSTM.backward"] = Entry(
        lambda: {"self": after_forward(), "dy": _array(T, N, H), "dstate": states()},
        lambda self, **a: self.backward(**a),
        {"dy": "optional array", "dstate": "tuple of states", "truncate": "truncate"},
    )
    entries["LSTM.load_state_dict"] = Entry(
        lambda: {"self": layer(), "state_dict": layer().state_dict()},
        lambda self, **a: self.load_state_dict(**a),
        {"state_dict": "parameters"},
    )
    return entries


def _other_entries() -> dict[str, Entry]:
    def arrays() -> dict[str, np.ndarray]:
        return {name: np.array(_array(*shape)) for name, shape in (("a", (3, 2)), ("b", (4,)))}

    def model() -> fastrnn.Model:
        layers = [fastrnn.Embedding(5, D, seed=0), fastrnn.LSTM(D, H, seed=0), fastrnn.Linear(H, 5, seed=0)]
        return fastrnn.Model(layers)

    def after_forward() -> fastrnn.Model:
        ready = model()
        ready.forward(np.ones((T, N), int))
        return ready

    def save_in_a_folder(self: fastrnn.Model, path: Any, **arguments: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder) / path if isinstance(path, str) else path, **arguments)

    def method(name: str, given: Callable[[], dict[str, Any]], **kinds: str) -> Entry:
        return Entry(given, lambda self, **a: getattr(self, name)(**a), kinds)

    numbers = {"lr": "number", "weight_decay": "number"}
    entries = {
        "softmax_cross_entropy": Entry(
            lambda: {"logits": _array(T, N, 7), "targets": np.ones((T, N), int)},
            losses.softmax_cross_entropy,
            {"logits": "logits", "targets": "targets", "reduction": "choice", "ignore_index": "index"},
        ),
        "mse": Entry(
            lambda: {"y": _array(T, N), "target": _array(T, N)},
            losses.mse,
            {"target": "matrix", "reduction": "choice"},
        ),
        "SGD": Entry(lambda: {"params": arrays()}, optim.SGD, numbers | {"params": "tensors", "momentum": "number"}),
        "Adam": Entry(
            lambda: {"params": arrays()}, optim.Adam, numbers | {"params": "tensors", "betas": "pair", "eps": "number"}
        ),
        "RMSprop": Entry(
            lambda: {"params": arrays()}, optim.RMSprop, numbers | {"params": "tensors", "alpha": "share"}
        ),
        "Adagrad": Entry(lambda: {"params": arrays()}, optim.Adagrad, numbers | {"params": "tensors"}),
        "Adam.step": method("step", lambda: {"self": optim.Adam(arrays()), "grads": arrays()}, grads="mapping"),
        "clip_grad_norm": Entry(
            lambda: {"grads": arrays(), "max_norm": 0.5},
            optim.clip_grad_norm,
            {"grads": "tensors", "max_norm": "number"},
        ),
        "Linear": Entry(
            lambda: {"input_size": 2, "output_size": 3},
            fastrnn.Linear,
            {"input_size": "count", "output_size": "count", "bias": "flag", "dtype": "dtype"},
        ),
        "Linear.forward": method("forward", lambda: {"self": fastrnn.Linear(D, 2), "x": _array(T, N, D)}, x="rows"),
        "Embedding": Entry(
            lambda: {"num_embeddings": 2, "embedding_size": 3},
            fastrnn.Embedding,
            {"num_embeddings": "count", "embedding_size": "count", "dtype": "dtype"},
        ),
        "Embedding.forward": method(
            "forward", lambda: {"self": fastrnn.Embedding(5, 2), "x": np.ones((T, N), int)}, x="indices"
        ),
        "Model": Entry(lambda: {"layers": [fastrnn.Linear(2, 3)]}, fastrnn.Model, {"layers": "layers"}),
        "Model.forward": method(
            "forward",
            lambda: {"self": model(), "x": np.ones((T, N), int), "state": [(_array(1, N, H), _array(1, N, H))]},
            x="indices",
            state="list of states",
            lengths="lengths",
        ),
        "Model.backward": method(
            "backward",
            lambda: {"self": after_forward(), "dy": _array(T, N, 5)},
            dy="array",
            dstate="list of states",
            truncate="truncate",
        ),
        "Model.save": Entry(
            lambda: {"self": model(), "path": "model"}, save_in_a_folder, {"path": "path", "metadata": "texts"}
        ),
        "Model.load": Entry(lambda: {"path": "/nowhere/model"}, fastrnn.Model.load, {"path": "path", "cells": "cells"}),
        "set_num_threads": Entry(lambda: {"n": 1}, fastrnn.set_num_threads, {"n": "count"}),
        "set_matmul_precision": Entry(
            lambda: {"precision": "highest"}, fastrnn.set_matmul_precision, {"precision": "choice"}
        ),
        "use_backend": Entry(lambda: {"name": "numpy"}, fastrnn.use_backend, {"name": "choice"}),
    }
    return entries


def _window_entries() -> dict[str, Entry]:
    def layer() -> fastrnn.AR:
        return fastrnn.AR(3, D, H, seed=0)

    def after_forward() -> fastrnn.AR:
        ready = layer()
        ready.forward(_array(T, N, D))
        return ready

    sizes = {"order": "count", "input_size": "count", "bias": "flag", "batch_first": "flag", "dtype": "dtype"}
    given = {"x": _array(T, N, D), "state": _array(2, N, D)}
    kinds = {"x": "array", "state": "optional array", "lengths": "lengths"}
    return {
        "AR": Entry(lambda: {"order": 3, "input_size": D}, fastrnn.AR, sizes | {"seed": "seed"}),
        "AR.forward": Entry(lambda: {"self": layer(), **given}, lambda self, **a: self.forward(**a), kinds),
        "AR.step": Entry(
            lambda: {"self": layer(), "x": _array(N, D), "state": _array(2, N, D)},
            lambda self, **a: self.step(**a),
            {"x": "matrix", "state": "optional array"},
        ),
        "AR.backward": Entry(
            lambda: {"self": after_forward(), "dy": _array(T, N, H), "dstate": _array(2, N, D)},
            lambda self, **a: self.backward(**a),
            {"dy": "optional array", "dstate": "optional array", "truncate": "truncate"},
        ),
        "AR.fit": Entry(
            lambda: {"self": fastrnn.AR(3, D, seed=0), "x": _array(T, N, D)},
            lambda self, **a: self.fit(**a),
            {"x": "array", "lengths": "lengths"},
        ),
    }


def _diagnostic_entries() -> dict[str, Entry]:
    def given() -> dict[str, Any]:
        return {"layer": fastrnn.LSTM(D, H, seed=0), "x": _array(T, N, D), "state": (_array(1, N, H),) * 2}

    kinds = {"layer": "cell", "x": "array", "state": "tuple of states"}
    sizes = dict.fromkeys(("input_size", "hidden_size", "steps", "batch", "samples"), "count")
    return {
        "gradient_flow": Entry(
            lambda: {**given(), "dy": _array(T, N, H)},
            diagnostics.gradient_flow,
            kinds | {"dy": "optional array", "lengths": "lengths"},
        ),
        "jacobian_norms": Entry(given, diagnostics.jacobian_norms, kinds | {"lengths": "lengths"}),
        "lyapunov_exponents": Entry(given, diagnostics.lyapunov_exponents, kinds),
        "activity": Entry(given, diagnostics.activity, kinds | {"lengths": "lengths"}),
        "report": Entry(given, diagnostics.report, kinds | {"lengths": "lengths"}),
        "gradcheck": Entry(
            lambda: {"layer_or_cell": CELLS["mgu"], "samples": 1, "steps": 2},
            fastrnn.gradcheck,
            sizes | {"seed": "seed"},
        ),
    }


def _forward_entries() -> dict[str, Entry]:
    def given() -> dict[str, Any]:
        x, state = _array(T, N, D), (_array(1, N, H),) * 2
        return {"self": fastrnn.LSTM(D, H, seed=0), "x": x, "state": state, "x_dot": x, "state_dot": state}

    def gradient(y: Any, y_dot: Any) -> tuple[Any, Any]:
        return y, y_dot

    kinds = {"x": "array", "state": "tuple of states", "lengths": "lengths"}
    return {
        "Recurrent.jvp": Entry(
            given,
            lambda self, **a: self.jvp(**a),
            kinds | {"x_dot": "optional array", "state_dot": "tuple of states"},
        ),
        "hvp": Entry(
            lambda: {
                "layer": fastrnn.LSTM(D, H, seed=0),
                "gradient": gradient,
                "x": _array(T, N, D),
                "params_dot": {"bx_l0": _array(4 * H)},
            },
            fastrnn.hvp,
            {"layer": "cell", "x": "array", "lengths": "lengths"},
        ),
    }


def _online_entries() -> dict[str, Entry]:
    def after_forward() -> online.RTRL:
        # The first step says how many sequences there are.
        made = online.RTRL(fastrnn.LSTM(D, H, seed=0))
        made.forward(_array(N, D))
        return made

    entries = {
        name: Entry(lambda: {"layer": fastrnn.LSTM(D, H, seed=0)}, getattr(online, name), {"layer": "cell"})
        for name in ("RTRL", "RFLO", "EProp", "SnAp1", "UORO")
    }
    entries["RTRL"].kinds["max_bytes"] = "count"
    entries["UORO"].kinds["seed"] = "seed"
    return entries | {
        "Learner.forward": Entry(
            lambda: {"self": after_forward(), "x": _array(N, D)}, lambda self, **a: self.forward(**a), {"x": "matrix"}
        ),
        "Learner.backward": Entry(
            lambda: {"self": after_forward(), "dy": _array(N, H)},
            lambda self, **a: self.backward(**a),
            {"dy": "matrix"},
        ),
    }


CALLS: dict[str, Entry] = {
    **_cell_entries(),
    **_layer_entries(),
    **_other_entries(),
    **_window_entries(),
    **_diagnostic_entries(),
    **_forward_entries(),
    **_online_entries(),
}
