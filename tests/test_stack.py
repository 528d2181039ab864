"""A layer's call and step, which a backend may run its own quick way, against its forward pass."""

from __future__ import annotations

import copy
from collections.abc import Callable
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastrnn
import user_cells
from conftest import PROMISED_BACKENDS
from fastrnn import GRU, LSTM, RNN, Prepared, Recurrent

LAYERS: dict[str, Callable[..., Recurrent]] = {
    "rnn": RNN,
    "lstm": LSTM,
    "gru": GRU,
    "gru_before": lambda *sizes, **options: GRU(*sizes, reset_after=False, **options),
    "peephole_lstm": lambda *sizes, **options: Recurrent(user_cells.peephole_lstm, *sizes, **options),
}
ODD: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "plain": np.array,
    "read-only": lambda a: frozen(a),
    "Fortran": np.asfortranarray,
    "backwards": lambda a: a[..., ::-1].copy()[..., ::-1],
    "every second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "unaligned": lambda a: np.frombuffer(b"." + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder()).view(a.dtype.newbyteorder()),
    "subclass": lambda a: a.view(Subclass),
    "memory-mapped": lambda a: mapped(a),
}


class Subclass(np.ndarray):
    """Somebody's own kind of array."""


def mapped(a: np.ndarray) -> np.memmap:
    with TemporaryFile() as file:
        result = np.memmap(file, a.dtype, "w+", shape=a.shape)
    result[...] = a
    return result


def frozen(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


def parts(state: Any) -> tuple[np.ndarray, ...]:
    return state if isinstance(state, tuple) else (state,)


def problem(layer: Recurrent, T: int, N: int) -> tuple[np.ndarray, Any]:
    """Input and state for `layer`."""
    rng = np.random.default_rng(T * 100 + N)
    outer = (N, T) if layer.batch_first else (T, N)
    x = rng.standard_normal((*outer, layer.input_size)).astype(layer.dtype)
    shape = (layer.num_layers, N, layer.hidden_size)
    state = tuple(rng.standard_normal(shape).astype(layer.dtype) for _ in layer.cell.states)
    return x, state if len(state) > 1 else state[0]


def assert_close(got: tuple[np.ndarray, Any], want: tuple[np.ndarray, Any]) -> None:
    for ours, theirs in zip((got[0], *parts(got[1])), (want[0], *parts(want[1])), strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 if ours.dtype == np.float32 else 1e-13)


@pytest.mark.parametrize("backend", [name for name in PROMISED_BACKENDS if name != "numpy"])
@given(
    kind=st.sampled_from(sorted(LAYERS)),
    sizes=st.tuples(*[st.integers(1, 9)] * 4),
    wide=st.sampled_from([0, 16, 31]),
    layers=st.integers(1, 3),
    bias=st.booleans(),
    batch_first=st.booleans(),
    dtype=st.sampled_from(["float32", "float64"]),
    with_state=st.booleans(),
)
def test_a_call_is_the_forward_pass(
    backend: str,
    kind: str,
    sizes: tuple[int, int, int, int],
    wide: int,
    layers: int,
    bias: bool,
    batch_first: bool,
    dtype: str,
    with_state: bool,
) -> None:
    T, N, D, H = sizes
    options = {"bias": bias, "batch_first": batch_first, "dtype": dtype, "seed": 0}
    layer = LAYERS[kind](D, H + wide, layers, **options)
    x, state = problem(layer, T, N)
    state = state if with_state else None
    one = (x[:, 0] if batch_first else x[0]).copy()
    with fastrnn.use_backend(backend):
        want = layer.forward(x, state)
        expected = layer.forward(one[:, None] if batch_first else one[None], state)
        # The extension leaves a user's cell to Numba and has no quick way for it; else the long way must not run.
        with pytest.MonkeyPatch.context() as patch:
            if (backend, kind) != ("cpp", "peephole_lstm"):
                patch.setattr(Prepared, "_given", lambda *_: pytest.fail("took the long way"))
            got, step = layer(x, state), layer.step(one, state)
    assert_close(got, want)
    assert_close(step, ((expected[0][:, 0] if batch_first else expected[0][0]), expected[1]))


@pytest.mark.parametrize("layout", ODD)
@pytest.mark.parametrize("where", ["x", "state", "params"])
def test_arrays_of_any_layout(backend: str, where: str, layout: str) -> None:
    layer = LSTM(5, 7, 2, seed=0)
    x, state = problem(layer, 4, 3)
    with fastrnn.use_backend("numpy"):
        want = layer(x, state)
    if where == "x":
        x = ODD[layout](x)
    elif where == "state":
        state = tuple(map(ODD[layout], state))
    given = layer.params
    if where == "params":
        given = {name: ODD[layout](value) for name, value in layer.params.items()}
        layer = LSTM(5, 7, 2, seed=1)
    if layout == "big-endian":
        with pytest.raises(TypeError, match="expected dtype"):
            layer.params = given
            layer(x, state)
    else:
        layer.params = given
        assert_close(layer(x, state), want)


def masked(a: np.ndarray) -> np.ma.MaskedArray:
    return np.ma.array(a, mask=a > 0)


USES: dict[str, Callable[[Recurrent, np.ndarray, Any, Callable[[np.ndarray], Any]], object]] = {
    "x of a call": lambda layer, x, state, odd: layer(odd(x), state),
    "x of forward": lambda layer, x, state, odd: layer.forward(odd(x), state),
    "x of a step": lambda layer, x, state, odd: layer.step(odd(x[0]), state),
    "state of a call": lambda layer, x, state, odd: layer(x, odd(state)),
    "state of a step": lambda layer, x, state, odd: layer.step(x[0], odd(state)),
    "dy of backward": lambda layer, x, state, odd: layer.backward(odd(layer.forward(x, state)[0])),
    "dstate of backward": lambda layer, x, state, odd: layer.backward(layer.forward(x, state)[0], odd(state)),
    "lengths of a call": lambda layer, x, state, odd: layer(x, state, odd(np.array([1, 4, 2]))),
    "params of a layer": lambda layer, x, state, odd: layer.params.update(Wx_l0=odd(layer.params["Wx_l0"])),
}


@pytest.mark.parametrize("use", USES)
def test_masked_arrays_are_refused(backend: str, use: str) -> None:
    layer = GRU(5, 7, 2, seed=0)
    x, state = problem(layer, 4, 3)
    named = use.split()[0]
    with pytest.raises(TypeError, match=rf"^{named}.*: expected a NumPy array, got MaskedArray"):
        USES[use](layer, x, state, masked)


@pytest.mark.parametrize("use", ["x of a step", "params of a layer", "lengths of a call"])
def test_matrices_are_refused(backend: str, use: str) -> None:
    layer = GRU(5, 7, 2, seed=0)
    x, state = problem(layer, 4, 3)
    with pytest.raises(TypeError, match=rf"^{use.split()[0]}.*: expected a NumPy array, got matrix"):
        USES[use](layer, x, state, lambda a: a.view(np.matrix))


def test_new_parameters_are_seen(backend: str) -> None:
    layer, other = GRU(3, 16, seed=0), GRU(3, 16, seed=1)
    x, state = problem(layer, 3, 2)
    layer(x, state)
    for name, value in other.params.items():
        layer.params[name] = value
    assert_close(layer(x, state), other(x, state))
    layer.params["Wh_l0"][...] = 0
    assert_close(layer(x, state), layer.forward(x, state))


@pytest.mark.parametrize("name", ["Wx_l0", "Wh_l1", "bx_l1", "bh_l0"])
def test_a_parameter_of_a_wrong_shape_is_refused_and_the_old_one_stays(backend: str, name: str) -> None:
    layer = LSTM(3, 4, 2, seed=0)
    x, state = problem(layer, 2, 1)
    want = layer(x, state)
    with pytest.raises(ValueError, match=rf"^params\['{name}'\]: expected shape"):
        layer.params[name] = layer.params[name][:-1]
    assert_close(layer(x, state), want)


@pytest.mark.parametrize("name", ["Wx_l0", "Wh_l1", "pf_l0"])
def test_no_parameter_can_be_deleted(backend: str, name: str) -> None:
    layer = LAYERS["peephole_lstm"](3, 4, 2, seed=0)
    x, state = problem(layer, 2, 1)
    want = layer(x, state)
    with pytest.raises(TypeError, match=f"^params: expected to keep all of .*{name}"):
        del layer.params[name]
    assert_close(layer(x, state), want)


def test_the_input_and_the_state_are_left_alone(backend: str) -> None:
    layer = LSTM(3, 4, 2, seed=0)
    x, state = problem(layer, 2, 1)
    before = x.copy(), *(part.copy() for part in state)
    y, last = layer(x, state)
    layer.step(x[0], state)
    for array, copied in zip((x, *state), before, strict=True):
        np.testing.assert_array_equal(array, copied)
    assert not any(np.shares_memory(out, given) for out in (y, *last) for given in (x, *state))


def test_a_layer_that_has_run_can_be_copied(backend: str) -> None:
    layer = GRU(3, 4, seed=0)
    x, state = problem(layer, 2, 1)
    want = layer(x, state)
    twin = copy.deepcopy(layer)
    assert twin.cell is layer.cell
    layer.params["Wx_l0"][...] = 0
    assert_close(twin(x, state), want)
