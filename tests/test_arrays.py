"""Parameters and gradients by name: the arrays stay, what is assigned is checked and copied."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from fastrnn import GRU, LSTM, Embedding, Linear, Model, optim
from fastrnn.arrays import Arrays

MAKE: dict[str, Callable[[int], Any]] = {
    "linear": lambda seed: Linear(3, 2, seed=seed),
    "embedding": lambda seed: Embedding(4, 3, seed=seed),
    "lstm": lambda seed: LSTM(3, 4, 2, bidirectional=True, seed=seed),
    "model": lambda seed: Model([GRU(3, 4, seed=seed), Linear(4, 2, seed=seed)]),
}


@pytest.fixture(params=MAKE)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def other_values(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value + 1 for name, value in arrays.items()}


def assert_holds(arrays: Mapping[str, np.ndarray], own: dict[str, np.ndarray], values: dict[str, np.ndarray]) -> None:
    """`arrays` are still `own`, with `values` in them."""
    assert list(arrays) == list(own) and len(arrays) == len(own)
    for name, array in arrays.items():
        assert array is own[name] and not any(array is value for value in values.values())
        np.testing.assert_array_equal(array, values[name])


ASSIGN: dict[str, Callable[[Any, str, dict[str, np.ndarray]], None]] = {}


def assigns(do: Callable[[Any, str, dict[str, np.ndarray]], None]) -> Callable[..., None]:
    ASSIGN[do.__name__] = do
    return do


@assigns
def item(owner: Any, which: str, values: dict[str, np.ndarray]) -> None:
    for name, value in values.items():
        getattr(owner, which)[name] = value


@assigns
def all_at_once(owner: Any, which: str, values: dict[str, np.ndarray]) -> None:
    setattr(owner, which, values)


@assigns
def update(owner: Any, which: str, values: dict[str, np.ndarray]) -> None:
    getattr(owner, which).update(values)


@assigns
def update_with_pairs(owner: Any, which: str, values: dict[str, np.ndarray]) -> None:
    getattr(owner, which).update(values.items())


@assigns
def update_in_place(owner: Any, which: str, values: dict[str, np.ndarray]) -> None:
    # Python reads the mapping, updates it, and assigns it to the attribute.
    if which == "params":
        owner.params |= values
    else:
        owner.grads |= values


@pytest.mark.parametrize("which", ["params", "grads"])
@pytest.mark.parametrize("way", ASSIGN)
def test_what_is_assigned_is_copied_into_the_own_array(kind: str, which: str, way: str) -> None:
    owner = MAKE[kind](0)
    own = dict(getattr(owner, which))
    values = other_values(own)
    ASSIGN[way](owner, which, values)
    assert_holds(getattr(owner, which), own, values)


@pytest.mark.parametrize("way", ASSIGN)
@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda a: a[:-1], ValueError, "expected shape"),
        (lambda a: a[None], ValueError, "expected shape"),
        (lambda a: a.astype("float64"), TypeError, "expected dtype float32 as the layer has, got float64"),
        (lambda a: a.tolist(), TypeError, "expected a NumPy array, got list"),
        (lambda a: 0.0, TypeError, "expected a NumPy array, got float"),
        (lambda a: None, TypeError, "expected a NumPy array, got NoneType"),
        (lambda a: np.ma.array(a, mask=a > 0), TypeError, "expected a NumPy array, got MaskedArray"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_copied(
    kind: str, way: str, change: Callable[[np.ndarray], Any], error: type[Exception], says: str
) -> None:
    owner = MAKE[kind](0)
    own, before = dict(owner.params), {name: value.copy() for name, value in owner.params.items()}
    *_, last = own
    values = other_values(own) if way != "item" else {}
    values[last] = change(own[last])
    with pytest.raises(error, match=rf"^params\['{last}'\]: {says}"):
        ASSIGN[way](owner, "params", values)
    assert_holds(owner.params, own, before)


@pytest.mark.parametrize("way", ASSIGN)
def test_unknown_names_are_refused_before_anything_is_copied(kind: str, way: str) -> None:
    owner = MAKE[kind](0)
    own, before = dict(owner.params), {name: value.copy() for name, value in owner.params.items()}
    values = (other_values(own) if way != "item" else {}) | {"Wy": np.zeros(2, np.float32)}
    with pytest.raises(KeyError, match=f"params: expected one of {next(iter(own))}.*, got 'Wy'"):
        ASSIGN[way](owner, "params", values)
    assert_holds(owner.params, own, before)


def test_a_whole_assignment_has_every_name(kind: str) -> None:
    owner = MAKE[kind](0)
    first, *others = owner.params
    with pytest.raises(ValueError, match=f"^params: expected {first}.*; missing {first}"):
        owner.params = {name: owner.params[name] for name in others}
    with pytest.raises(TypeError, match=r"^params: expected a mapping of arrays, got list"):
        owner.params = list(owner.params.values())


def test_nothing_can_be_deleted_or_added(kind: str) -> None:
    owner = MAKE[kind](0)
    own, before = dict(owner.params), {name: value.copy() for name, value in owner.params.items()}
    name = next(iter(own))
    deletions: list[Callable[[], Any]] = [
        lambda: owner.params.__delitem__(name),
        lambda: owner.params.pop(name),
        lambda: owner.params.popitem(),
        lambda: owner.params.clear(),
    ]
    for delete in deletions:
        with pytest.raises(TypeError, match=r"^params: expected to keep all of"):
            delete()
    with pytest.raises(KeyError, match="params: expected one of"):
        owner.params.setdefault("Wy", np.zeros(2, np.float32))
    assert owner.params.setdefault(name, np.zeros(2)) is own[name]
    assert_holds(owner.params, own, before)


def test_arithmetic_in_place() -> None:
    layer = Linear(3, 2, seed=0)
    own, before = layer.params["W"], layer.params["W"].copy()
    layer.params["W"] *= 2
    layer.params["W"] += 1
    assert layer.params["W"] is own
    np.testing.assert_array_equal(own, before * 2 + 1)


def test_own_arrays_may_change_places() -> None:
    layer = LSTM(4, 4, bidirectional=True, seed=0)
    before = {name: value.copy() for name, value in layer.params.items()}
    there, back = "Wh_l0", "Wh_l0_reverse"
    layer.params.update({there: layer.params[back], back: layer.params[there]})
    np.testing.assert_array_equal(layer.params[there], before[back])
    np.testing.assert_array_equal(layer.params[back], before[there])


def test_what_is_assigned_is_what_the_optimizer_updates_and_the_layer_uses(backend: str) -> None:
    layer, other = GRU(3, 4, seed=0), GRU(3, 4, seed=1)
    optimizer = optim.SGD(layer.params, lr=0.5)
    x = np.ones((5, 2, 3), np.float32)
    layer(x)
    for name in layer.params:
        layer.params[name] = other.params[name]
    np.testing.assert_array_equal(layer(x)[0], other(x)[0])
    optimizer.step({name: np.ones_like(value) for name, value in layer.params.items()})
    for name, value in layer.params.items():
        np.testing.assert_array_equal(value, other.params[name] - np.float32(0.5))


def test_a_models_mapping_and_its_layers_are_of_the_same_arrays() -> None:
    model = MAKE["model"](0)
    model.params["1.W"] = np.full((4, 2), 7, np.float32)
    assert (model.layers[1].params["W"] == 7).all()
    model.layers[0].params = {name: value * 0 for name, value in model.layers[0].params.items()}
    assert not any(value.any() for name, value in model.params.items() if name.startswith("0."))


def test_copies_are_of_their_own_arrays(kind: str) -> None:
    owner = MAKE[kind](0)
    for again in (copy.deepcopy(owner.params), pickle.loads(pickle.dumps(owner.params))):
        assert isinstance(again, Arrays)
        own = dict(again)
        again.update(other_values(owner.params))
        assert_holds(again, own, other_values(owner.params))
