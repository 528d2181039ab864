"""Pickles and copies of cells, layers, models and optimizers, here and in other processes."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

import fastrnn
import user_cells
from fastrnn import AR, GRU, LSTM, RNN, Cell, Embedding, Linear, Model, Recurrent, cell
from fastrnn.cells import builtin, tanh
from fastrnn.losses import softmax_cross_entropy
from fastrnn.optim import SGD, Adagrad, Adam, Optimizer, RMSprop
from processes import python, script

PROTOCOLS = [2, 3, 4, 5]
# One that Numba has compiled for other tests, in whatever way it is described.
LEAKY = user_cells.leaky(tau=5.0, dt=0.5)
LAYERS: dict[str, Callable[[], Any]] = {
    "rnn": lambda: RNN(5, 6, nonlinearity="relu", seed=0),
    "lstm": lambda: LSTM(5, 20, 2, batch_first=True, seed=0),
    "gru": lambda: GRU(5, 6, bidirectional=True, dtype="float64", seed=0),
    "gru_before": lambda: GRU(5, 6, 2, reset_after=False, seed=0),
    "recurrent": lambda: Recurrent(LEAKY, 5, 6, seed=0),
    "ar": lambda: AR(3, 5, 6, seed=0),
    "linear": lambda: Linear(5, 6, seed=0),
    "embedding": lambda: Embedding(7, 6, seed=0),
}
OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda params: SGD(params, 0.1),
    "momentum": lambda params: SGD(params, 0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda params: Adam(params, 0.1),
    "rmsprop": lambda params: RMSprop(params, 0.1),
    "adagrad": lambda params: Adagrad(params, 0.1),
}
COPIES: dict[str, Callable[[Any], Any]] = {
    **{f"protocol{p}": lambda value, p=p: pickle.loads(pickle.dumps(value, p)) for p in PROTOCOLS},
    "cloudpickle": lambda value: cloudpickle.loads(cloudpickle.dumps(value)),
    "deepcopy": copy.deepcopy,
}


@pytest.fixture(params=COPIES)
def copied(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """A way to a copy that shares no memory."""
    return COPIES[request.param]


@pytest.fixture
def reference_backend() -> Any:
    with fastrnn.use_backend("numpy"):
        yield


def local_cell() -> Cell:
    @cell(gates="a", name="leaky")
    def own(x, U, h, *, rate=1.0):
        return h + rate * (tanh(x.a + U.a @ h) - h)

    return own


def an_input(layer: Any) -> np.ndarray:
    rng = np.random.default_rng(0)
    if isinstance(layer, Embedding):
        return rng.integers(0, layer.num_embeddings, (4, 3))
    return rng.standard_normal((4, 3, layer.input_size)).astype(layer.dtype)


def forward_and_backward(layer: Any, x: np.ndarray) -> list[np.ndarray]:
    """Everything that a pass gives, gradients last."""
    y = layer.forward(x)
    outputs = [y] if isinstance(y, np.ndarray) else [y[0], *(y[1] if isinstance(y[1], tuple) else [y[1]])]
    dx = layer.backward(np.ones_like(outputs[0]))
    dx = [] if dx is None else [dx] if isinstance(dx, np.ndarray) else [dx[0]]
    return [*outputs, *dx, *layer.grads.values()]


def assert_same(got: Any, want: Any) -> None:
    for ours, theirs in zip(got, want, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


# Cells.


@pytest.mark.parametrize("kind", builtin.built_in(), ids=lambda c: c.name)
def test_a_built_in_cell_is_itself_again(kind: Cell, copied: Callable[[Any], Any]) -> None:
    assert copied(kind) is kind
    assert kind() is kind


def test_a_users_cell_is_found_by_name(copied: Callable[[Any], Any]) -> None:
    assert copied(user_cells.mgu) is user_cells.mgu
    mine = user_cells.leaky(tau=5.0)
    assert copied(mine) is mine
    assert copied(mine) is user_cells.leaky(tau=5.0)


def test_constants_that_are_equal_but_not_the_same_make_two_cells() -> None:
    assert user_cells.leaky(tau=5.0) is user_cells.leaky(tau=5.0)
    whole = user_cells.leaky(tau=5)
    assert whole is not user_cells.leaky(tau=5.0)
    assert isinstance(pickle.loads(pickle.dumps(whole)).constants["tau"], int)


def test_a_shallow_copy_of_a_cell_is_itself() -> None:
    for mine in (builtin.lstm, user_cells.mgu, local_cell()):
        assert copy.copy(mine) is mine


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_constants_arrive_in_another_process(protocol: int, tmp_path: Path) -> None:
    file = tmp_path / "cell"
    file.write_bytes(pickle.dumps([user_cells.leaky(tau=5.0), builtin.rnn("relu")], protocol))
    done = python(
        "import os, pickle\n"
        "leaky, rnn = pickle.loads(open(os.environ['FILE'], 'rb').read())\n"
        "import fastrnn, user_cells\n"
        "assert leaky is user_cells.leaky(tau=5.0) and rnn is fastrnn.cells.rnn('relu')\n"
        "print(leaky)",
        FILE=str(file),
    )
    assert done.stdout == "<cell leaky: states h, gates a, tau=5.0, dt=1.0>\n", done.stderr


def test_a_cell_that_is_gone_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps(user_cells.mgu)
    monkeypatch.setattr(user_cells, "mgu", 3)
    expected = r"^expected the cell 'mgu' in module 'user_cells', found "
    with pytest.raises(pickle.UnpicklingError, match=expected + "an object of type int$"):
        pickle.loads(data)
    monkeypatch.delattr(user_cells, "mgu")
    with pytest.raises(pickle.UnpicklingError, match=expected + "nothing$"):
        pickle.loads(data)


def test_a_constant_that_is_gone_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps(user_cells.leaky(tau=5.0))
    monkeypatch.setattr(user_cells, "leaky", user_cells.mgu)
    with pytest.raises(TypeError, match=r"^cell 'mgu' has no constant 'tau'"):
        pickle.loads(data)


@pytest.mark.parametrize(
    "nameless",
    [local_cell(), cell(gates="a", name="leaky")(lambda x, h: x.a + h)],
    ids=["local", "lambda"],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_pickle_says_why_it_cannot_find_a_cell(nameless: Cell, protocol: int) -> None:
    expected = r"cell 'leaky' \(not at the top level of a module .*: put it there, or use cloudpickle\)"
    with pytest.raises(pickle.PicklingError, match=expected):
        pickle.dumps(nameless, protocol)
    with pytest.raises(pickle.PicklingError, match=expected):
        pickle.dumps(Recurrent(nameless, 2, 3), protocol)
    # The same in pickle's other form, in Python.
    with pytest.raises(pickle.PicklingError, match=expected):
        pickle._Pickler(io.BytesIO(), protocol).dump(nameless)


def test_a_name_that_leads_to_another_cell_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = user_cells.mgu
    monkeypatch.setattr(user_cells, "mgu", user_cells.indrnn)
    with pytest.raises(pickle.PicklingError, match="cell 'mgu'"):
        pickle.dumps(mine)
    assert cloudpickle.loads(cloudpickle.dumps(mine)) is mine


def test_a_local_cell_goes_through_cloudpickle(backend: str, tmp_path: Path) -> None:
    layer = Recurrent(local_cell()(rate=0.1), 5, 6, seed=0)
    x = an_input(layer)
    files = [tmp_path / "first", tmp_path / "second"]
    for file in files:
        file.write_bytes(cloudpickle.dumps((layer, layer.cell, x)))
    done = python(
        "import os, pickle, cloudpickle\n"
        "first, second = (open(file, 'rb').read() for file in os.environ['FILES'].split('|'))\n"
        "(layer, cell, x), (other, _, _) = pickle.loads(first), pickle.loads(second)\n"
        "assert layer is not other and layer.cell is other.cell is cell, 'one cell, compiled once'\n"
        "assert cell is pickle.loads(cloudpickle.dumps(cell))\n"
        "assert cell(rate=7.0).constants == {'rate': 7.0}\n"
        "print(layer(x)[0].tobytes().hex())",
        FILES="|".join(map(str, files)),
        FASTRNN_BACKEND=backend,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == layer(x)[0].tobytes().hex()


def test_a_local_cell_that_comes_back_is_itself() -> None:
    mine = local_cell()
    other = mine(rate=0.3)
    assert cloudpickle.loads(cloudpickle.dumps([mine, other, mine])) == [mine, other, mine]
    assert local_cell() is not mine
    assert cloudpickle.loads(cloudpickle.dumps(local_cell())) is not mine


def test_a_cell_whose_function_has_another_meaning_by_now_is_not_sent() -> None:
    scale = 0.5

    @cell(gates="a")
    def scaled(x, h):
        return scale * (x.a + h)

    cloudpickle.dumps(scaled)
    scale = 2.0
    with pytest.raises(pickle.PicklingError, match=r"^cell 'scaled': what its function refers to has changed"):
        cloudpickle.dumps(scaled)


# Layers.


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_that_has_run_arrives_whole(backend: str, kind: str, copied: Callable[[Any], Any]) -> None:
    layer = LAYERS[kind]()
    x = an_input(layer)
    layer(x)
    forward_and_backward(layer, x)
    twin = copied(layer)
    assert type(twin) is type(layer) and twin.config() == layer.config()
    assert list(twin.params) == list(layer.params) and list(twin.grads) == list(layer.grads)
    assert_same([*twin.params.values(), *twin.grads.values()], [*layer.params.values(), *layer.grads.values()])
    assert not any(np.shares_memory(twin.params[name], layer.params[name]) for name in layer.params)
    assert getattr(twin, "cell", None) is getattr(layer, "cell", None)
    assert_same(forward_and_backward(twin, x), forward_and_backward(layer, x))
    y, again = layer(x), twin(x)
    assert_same([again] if isinstance(again, np.ndarray) else again[:1], [y] if isinstance(y, np.ndarray) else y[:1])


def test_the_quick_ways_of_every_backend_stay_behind() -> None:
    layer = GRU(3, 4, seed=0)
    for name in fastrnn.available_backends():
        with fastrnn.use_backend(name):
            layer.step(np.ones((1, 3), np.float32))
    assert set(layer._prepared.stacks) == set(fastrnn.available_backends())
    assert len(pickle.dumps(layer)) < len(pickle.dumps(GRU(3, 4, seed=0))) + 200


@pytest.mark.usefixtures("reference_backend")
def test_dropout_goes_on_where_it_was(copied: Callable[[Any], Any]) -> None:
    layer = LSTM(3, 4, 2, dropout=0.5, seed=0)
    x = an_input(layer)
    layer.forward(x)
    twin = copied(layer)
    for _ in range(3):
        assert_same([twin.forward(x)[0]], [layer.forward(x)[0]])


@pytest.mark.usefixtures("reference_backend")
@pytest.mark.parametrize("kind", LAYERS)
def test_what_a_forward_pass_kept_stays_behind(kind: str, copied: Callable[[Any], Any]) -> None:
    layer = LAYERS[kind]()
    y = layer.forward(an_input(layer))
    y = y if isinstance(y, np.ndarray) else y[0]
    twin = copied(layer)
    with pytest.raises(RuntimeError, match="call forward first"):
        twin.backward(np.ones_like(y))
    layer.backward(np.ones_like(y))


@pytest.mark.usefixtures("reference_backend")
@pytest.mark.parametrize("frozen", [False, True])
def test_a_shallow_copy_shares_the_arrays(frozen: bool) -> None:
    layer = GRU(3, 4, seed=0)
    layer.forward(an_input(layer))
    before = dict(layer.params)
    if frozen:
        layer.params["Wh_l0"].flags.writeable = False
    twin = copy.copy(layer)
    for name, array in before.items():
        assert twin.params[name] is layer.params[name] is array
    with pytest.raises(RuntimeError, match="call forward first"):
        twin.backward(None)
    layer.backward(None)


# Models and optimizers.


def small_model() -> Model:
    return Model([Embedding(5, 3, seed=0), LSTM(3, 4, bidirectional=True, seed=1), Linear(8, 5, seed=2)])


def train(model: Model, optimizer: Optimizer, steps: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    for _ in range(steps):
        x, targets = rng.integers(0, 5, (2, 4, 3))
        y, _ = model.forward(x)
        model.zero_grad()
        model.backward(softmax_cross_entropy(y, targets)[1])
        optimizer.step(model.grads)
    return list(model.params.values())


def test_a_models_arrays_are_its_layers(backend: str, copied: Callable[[Any], Any]) -> None:
    model = small_model()
    train(model, SGD(model.params))
    x = np.array([[0, 1], [2, 3], [4, 4]])
    want, _ = model(x)
    twin = copied(model)
    for i, layer in enumerate(twin.layers):
        for name in layer.params:
            assert twin.params[f"{i}.{name}"] is layer.params[name]
            assert twin.grads[f"{i}.{name}"] is layer.grads[name]
    assert list(twin.params) == list(model.params) and list(twin.grads) == list(model.grads)
    assert_same(twin.grads.values(), model.grads.values())
    assert_same([twin(x)[0]], [want])


@pytest.mark.usefixtures("reference_backend")
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("first", ["model", "optimizer"])
def test_training_goes_on_with_the_same_bits(kind: str, first: str, copied: Callable[[Any], Any]) -> None:
    model = small_model()
    optimizer = OPTIMIZERS[kind](model.params)
    train(model, optimizer)
    if first == "model":
        model2, optimizer2 = copied((model, optimizer))
    else:
        optimizer2, model2 = copied((optimizer, model))
    for name, array in model2.params.items():
        assert optimizer2.params[name] is array
    assert_same(train(model2, optimizer2), train(model, optimizer))


@pytest.mark.usefixtures("reference_backend")
def test_an_optimizer_alone_updates_arrays_of_its_own(copied: Callable[[Any], Any]) -> None:
    model = small_model()
    optimizer = Adam(model.params)
    before = [a.copy() for a in model.params.values()]
    twin = copied(optimizer)
    twin.step({name: np.ones_like(a) for name, a in model.params.items()})
    assert (twin.steps, optimizer.steps) == (1, 0)
    assert_same(model.params.values(), before)


# Other processes.

SCRIPT = """
import multiprocessing, pickle, sys
import joblib
import numpy as np
import fastrnn
from fastrnn.ops import tanh

@fastrnn.cell(gates="a")
def leaky(x, U, h, *, tau=10.0, dt=0.5):
    return h + dt / tau * (tanh(x.a + U.a @ h) - h)

def run(layer, x):
    y, _ = layer.forward(x)
    layer.backward(np.ones_like(y))
    return [layer(x)[0].tobytes(), *(g.tobytes() for g in layer.grads.values())], layer.cell

def fit(model, optimizer, x):
    for _ in range(3):
        y, _ = model.forward(x)
        model.zero_grad()
        model.backward(y)
        optimizer.step(model.grads)
    return {name: value.tobytes() for name, value in model.params.items()}, model, optimizer

def check(map):
    layers = [fastrnn.GRU(5, 6, 2, seed=0), fastrnn.Recurrent(leaky(tau=5.0), 5, 6, seed=0)]
    layers.append(fastrnn.Recurrent(leaky(tau=5.0), 5, 6, seed=1))
    xs = [np.random.default_rng(i).standard_normal((7, 3, 5)).astype(np.float32) for i in range(3)]
    there = map(run, layers, xs)
    for (bits, cell), layer, x in zip(there, layers, xs, strict=True):
        assert bits == run(layer, x)[0]
        assert cell is layer.cell

def check_training(map):
    model = fastrnn.Model([fastrnn.LSTM(5, 6, seed=0), fastrnn.Linear(6, 1, seed=0)])
    optimizer = fastrnn.optim.Adam(model.params)
    x = np.ones((7, 3, 5), np.float32)
    fit(model, optimizer, x)
    (there, model2, optimizer2), = map(fit, [model], [optimizer], [x])
    here = fit(model, optimizer, x)[0]
    assert there == here
    assert all(optimizer2.params[name] is value for name, value in model2.params.items())
    assert fit(model2, optimizer2, x)[0] == fit(model, optimizer, x)[0]
"""

JOBLIB = """
def with_joblib(f, *arguments):
    parallel = joblib.Parallel(n_jobs=2, **OPTIONS)
    return parallel(joblib.delayed(f)(*each) for each in zip(*arguments, strict=True))

if __name__ == "__main__":
    check(with_joblib)
    check_training(with_joblib)
    print("done")
"""

SPAWN = """
def with_spawn(f, *arguments):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.starmap(f, zip(*arguments, strict=True))

if __name__ == "__main__":
    for protocol in range(2, 6):
        assert pickle.loads(pickle.dumps(leaky(tau=5.0), protocol)) is leaky(tau=5.0)
    check(with_spawn)
    check_training(with_spawn)
    print("done")
"""


def test_a_script_sends_its_layers_through_joblib(backend: str, tmp_path: Path) -> None:
    done = script(tmp_path / "main.py", "OPTIONS = {}" + SCRIPT + JOBLIB, FASTRNN_BACKEND=backend)
    assert done.stdout == "done\n", done.stderr


def test_arrays_that_joblib_hands_over_read_only_can_be_trained(tmp_path: Path) -> None:
    done = script(tmp_path / "main.py", "OPTIONS = {'max_nbytes': 1}" + SCRIPT + JOBLIB, FASTRNN_BACKEND="numpy")
    assert done.stdout == "done\n", done.stderr


def test_a_script_sends_its_layers_to_spawned_processes(backend: str, tmp_path: Path) -> None:
    done = script(tmp_path / "main.py", SCRIPT + SPAWN, FASTRNN_BACKEND=backend)
    assert done.stdout == "done\n", done.stderr
