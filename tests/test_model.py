"""Model: the chain, its gradient, and its file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import fastrnn
from cases import CELLS
from differences import assert_gradient
from fastrnn import GRU, LSTM, RNN, Embedding, Linear, Model, Recurrent
from fastrnn.losses import softmax_cross_entropy
from fastrnn.model import read_metadata

X = np.array([[0, 1], [2, 3], [4, 4]])
TARGETS = np.array([[1, 2], [3, 4], [0, 0]])
LENGTHS = [3, 2]


@pytest.fixture(autouse=True)
def reference_backend() -> Iterator[None]:
    """No backend has a part in what is tested here: the quickest to load will do."""
    with fastrnn.use_backend("numpy"):
        yield


def small_model(dtype: str = "float64") -> Model:
    return Model(
        [
            Embedding(5, 3, dtype=dtype, seed=0),
            LSTM(3, 4, bidirectional=True, dtype=dtype, seed=1),
            GRU(8, 3, dtype=dtype, seed=2),
            Linear(3, 5, dtype=dtype, seed=3),
        ]
    )


# The chain.


def test_gradient_of_the_chain() -> None:
    model = small_model()
    _, last = model(X)
    first = [tuple(s + 0.1 for s in last[0]), last[1] + 0.1]
    dlast = [tuple(0.3 * s for s in last[0]), 0.2 * last[1]]

    def loss() -> float:
        y, (lstm, gru) = model(X, first, LENGTHS)
        ends = (*zip(lstm, dlast[0], strict=True), (gru, dlast[1]))
        return softmax_cross_entropy(y, TARGETS)[0] + sum(float((s * d).sum()) for s, d in ends)

    y, _ = model.forward(X, first, LENGTHS)
    assert model.backward(softmax_cross_entropy(y, TARGETS)[1], dlast) is None
    for name, value in model.params.items():
        assert_gradient(model.grads[name], loss, value)


def test_gradient_of_the_input() -> None:
    model = Model([Linear(3, 2, dtype="float64", seed=0), RNN(2, 4, dtype="float64", seed=1)])
    x, dy = np.random.default_rng(0).standard_normal((3, 2, 3)), np.ones((3, 2, 4))
    model.forward(x)
    assert_gradient(model.backward(dy), lambda: float(model(x)[0].sum()), x)


def test_truncation_reaches_the_layers() -> None:
    model = Model([RNN(3, 4, dtype="float64", seed=0)])
    x, dy = np.random.default_rng(0).standard_normal((2, 4, 2, 3))[0], np.ones((4, 2, 4))
    model.forward(x)
    dx = model.backward(dy, truncate=1)
    layer = RNN(3, 4, dtype="float64", seed=0)
    layer.forward(x)
    np.testing.assert_array_equal(dx, layer.backward(dy, truncate=1)[0])
    layer.forward(x)
    assert (dx != layer.backward(dy)[0]).any()


def test_parameters_and_gradients_are_the_layers_own_arrays() -> None:
    model = small_model()
    assert list(model.params)[:3] == ["0.W", "1.Wx_l0", "1.bx_l0"]
    assert model.params.keys() == model.grads.keys()
    assert model.params["1.Wh_l0_reverse"] is model.layers[1].params["Wh_l0_reverse"]
    y, _ = model.forward(X)
    model.backward(np.ones_like(y))
    assert model.grads["3.W"] is model.layers[3].grads["W"] and model.grads["3.W"].any()
    model.zero_grad()
    assert not any(g.any() for g in model.grads.values())


def test_masks_and_resets_reach_the_layers() -> None:
    model = Model([RNN(3, 4, 2, dtype="float64", seed=0), LSTM(4, 3, dtype="float64", seed=1)])
    rng = np.random.default_rng(0)
    x, flags = rng.standard_normal((5, 2, 3)), {"mask": rng.random((5, 2)) < 0.6, "resets": rng.random((5, 2)) < 0.4}
    lower, first = model.layers[0](x, **flags)
    upper, second = model.layers[1](lower, **flags)
    for y, (one, other) in (model(x, **flags), model.forward(x, **flags)):
        np.testing.assert_array_equal(y, upper)
        np.testing.assert_array_equal(one, first)
        np.testing.assert_array_equal(other, second)
    assert (upper != model(x)[0]).any()


def test_states_continue_a_sequence() -> None:
    model = Model([RNN(3, 4, 2, dtype="float64", seed=0), LSTM(4, 3, dtype="float64", seed=1)])
    x = np.random.default_rng(0).standard_normal((5, 2, 3))
    y, last = model(x)
    first, states = model(x[:2])
    second, end = model.forward(x[2:], states)
    np.testing.assert_allclose(np.concatenate([first, second]), y, rtol=0, atol=1e-13)
    assert end[0].shape == (2, 2, 4) and [s.shape for s in end[1]] == [(1, 2, 3)] * 2
    np.testing.assert_allclose(end[0], last[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize("fails", [Embedding, LSTM, GRU, Linear])
def test_a_backward_that_does_not_end_adds_nothing(monkeypatch: pytest.MonkeyPatch, fails: type) -> None:
    model = small_model()
    y, _ = model.forward(X)
    model.backward(y)
    before = {name: grad.copy() for name, grad in model.grads.items()}

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    model.forward(X)
    with monkeypatch.context() as patch:
        patch.setattr(fails, "backward", interrupt)
        with pytest.raises(KeyboardInterrupt):
            model.backward(y)
    for name, grad in model.grads.items():
        np.testing.assert_array_equal(grad, before[name])
    model.forward(X)
    model.backward(y)
    for name, grad in model.grads.items():
        np.testing.assert_allclose(grad, 2 * before[name], rtol=1e-12)
    # And each layer alone adds at once, as ever.
    model.forward(X)
    model.layers[3].backward(y)
    np.testing.assert_allclose(model.grads["3.W"], 3 * before["3.W"], rtol=1e-12)


def test_a_call_keeps_nothing() -> None:
    model = small_model()
    y, _ = model(X)
    with pytest.raises(RuntimeError, match="backward: call forward first"):
        model.backward(y)


TWICE = Linear(2, 2)


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda m: Model([]), ValueError, "layers: expected at least one"),
        (lambda m: Model([np.tanh]), TypeError, r"layers\[0\]"),
        (lambda m: Model(3), TypeError, "layers: expected a sequence of layers, got int"),
        (lambda m: Model([TWICE, RNN(2, 2), TWICE]), ValueError, r"layers\[2\]"),
        (lambda m: m(X, [None]), ValueError, r"state: expected a list of 2 .* got 1"),
        (lambda m: m(X, np.zeros((1, 2, 3))), TypeError, "state: expected a list of 2"),
        (lambda m: m.backward(np.zeros((3, 2, 5)), [None] * 3), ValueError, "dstate"),
        (lambda m: m(X.astype(float)), TypeError, "x"),
    ],
)
def test_bad_calls(call: Callable[[Model], Any], error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=rf"^{named}"):
        call(small_model())


# The file.


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.safetensors"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_file_gives_the_model_back(path: Path, dtype: str) -> None:
    model = small_model(dtype)
    model.save(path, {"note": "x"})
    again = Model.load(str(path))
    np.testing.assert_array_equal(model(X)[0], again(X)[0])
    assert [layer.config() for layer in again.layers] == [layer.config() for layer in model.layers]
    assert read_metadata(path) == {"note": "x"}
    assert load_file(path).keys() == model.params.keys(), "any reader of safetensors finds the parameters"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_saving_again_replaces_the_file(path: Path) -> None:
    model = small_model()
    model.save(path)
    model.params["3.b"][:] = 7
    model.save(path)
    assert (Model.load(path).params["3.b"] == 7).all()


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_others_may_read_the_file(path: Path) -> None:
    """Files of tempfile are for their owner only, and models once were."""
    path.touch()
    usual = path.stat().st_mode
    small_model().save(path)
    assert path.stat().st_mode == usual


def test_a_users_cell_is_asked_for_by_name(path: Path) -> None:
    model = Model([Recurrent(CELLS["leaky"], 2, 3, seed=0)])
    model.save(path)
    with pytest.raises(ValueError, match=r"^cells: expected the cell 'leaky' that the model uses, got none"):
        Model.load(path)
    x = np.ones((2, 1, 2), np.float32)
    other_constants = CELLS["leaky"](tau=99.0)
    again = Model.load(path, cells={"leaky": other_constants})
    np.testing.assert_array_equal(model(x)[0], again(x)[0])


@pytest.mark.parametrize(
    ("cells", "error", "named"),
    [
        ({"mgu": CELLS["mgu"]}, ValueError, "cells: expected the cell 'leaky' that the model uses, got mgu"),
        ({"leaky": lambda x, U, h: h}, TypeError, r"cells\['leaky'\]: expected a Cell"),
        ({"leaky": CELLS["mgu"]}, ValueError, "path: the configuration .*has no constant"),
    ],
)
def test_cells_that_are_not_the_models(path: Path, cells: Any, error: type[Exception], named: str) -> None:
    Model([Recurrent(CELLS["leaky"], 2, 3)]).save(path)
    with pytest.raises(error, match=rf"^{named}"):
        Model.load(path, cells)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.99])
def test_torn_files(path: Path, share: float) -> None:
    small_model().save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    for read in (Model.load, read_metadata):
        with pytest.raises(ValueError, match=r"^path: .* is not a whole safetensors file"):
            read(path)


def test_foreign_files(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Model.load(path)
    path.write_bytes(b"once upon a time, there was a text file")
    with pytest.raises(ValueError, match=r"^path: .*not a whole safetensors file"):
        Model.load(path)
    save_file({"weight": np.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"^path: expected a model saved by fastrnn"):
        Model.load(path)


def linear(**changes: Any) -> dict[str, Any]:
    return {"type": "Linear", "input_size": 2, "output_size": 3} | changes


def saved(*layers: Any, **changes: Any) -> str:
    return json.dumps({"version": 1, "layers": list(layers)} | changes)


@pytest.mark.parametrize(
    "configuration",
    [
        "{",
        "null",
        "[]",
        "{}",
        saved(),
        saved(3),
        saved({}),
        saved(layers=3),
        saved(linear(), version=2),
        saved(linear(type="Conv")),
        saved(linear(type=["Linear"])),
        saved(linear(size=1)),
        saved(linear(input_size=-1)),
        saved(linear(input_size="2")),
        saved(linear(dtype="int8")),
        saved(linear(dtype="float64")),
        saved(linear(output_size=4)),
        saved(linear(), linear()),
        saved({"type": "Recurrent"}),
    ],
)
def test_configurations_that_do_not_fit(path: Path, configuration: str) -> None:
    arrays = {f"0.{name}": value for name, value in Linear(2, 3).params.items()}
    save_file(arrays, path, {"fastrnn": saved(linear())})
    assert isinstance(Model.load(path), Model)
    save_file(arrays, path, {"fastrnn": configuration})
    with pytest.raises(ValueError, match=": "):
        Model.load(path)


def test_a_failed_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    model.save(path)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, fail)
            with pytest.raises(OSError, match="disk full"):
                model.save(path)
        assert path.read_bytes() == before
        assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    model = small_model()
    with pytest.raises(FileNotFoundError):
        model.save(tmp_path / "no" / "m.safetensors")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        model.save(tmp_path / "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("metadata", [{"steps": 3}, {3: "steps"}, {"fastrnn": "mine"}, {"a": "\ud800"}])
def test_metadata_is_strings(path: Path, metadata: Any) -> None:
    with pytest.raises(ValueError, match=r"^metadata: expected strings"):
        small_model().save(path, metadata)
    assert not path.exists()


@pytest.mark.parametrize("metadata", ["steps", 3, ["steps"], np.arange(2)])
def test_metadata_is_a_mapping(path: Path, metadata: Any) -> None:
    with pytest.raises(TypeError, match=r"^metadata: expected a mapping of strings to strings, got "):
        small_model().save(path, metadata)
    assert not path.exists()


@pytest.mark.parametrize(
    ("wrong", "error"), [(None, TypeError), (3, TypeError), (b"m", TypeError), (["m"], TypeError), ("a\0b", ValueError)]
)
@pytest.mark.parametrize("use", [small_model().save, Model.load, read_metadata])
def test_what_is_no_path_is_named(use: Callable[[Any], Any], wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^path: expected a path, got "):
        use(wrong)


def test_cells_come_in_a_mapping(path: Path) -> None:
    small_model().save(path)
    with pytest.raises(TypeError, match=r"^cells: expected a mapping of names to cells, got list"):
        Model.load(path, [CELLS["mgu"]])


def test_a_layer_of_another_kind_is_not_saved(path: Path) -> None:
    class Scaled(Linear):
        pass

    with pytest.raises(TypeError, match=r"^save: expected one of the layers .* got Scaled"):
        Model([Scaled(2, 2)]).save(path)
    assert not path.exists()
