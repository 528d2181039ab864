"""Ctrl-C ends a call of the C++ engine before its last step, and leaves everything as it was."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fastrnn
from conftest import PROMISED_BACKENDS

pytestmark = [
    pytest.mark.skipif("cpp" not in PROMISED_BACKENDS, reason="the extension was not built"),
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timer that sends a signal"),
]


class Pressed(Exception):
    """What the handler of the signal raises, as Python's own raises KeyboardInterrupt."""


@pytest.fixture(autouse=True)
def cpp() -> Iterator[None]:
    with fastrnn.use_backend("cpp"):
        yield


@pytest.fixture(autouse=True)
def timer() -> Iterator[None]:
    """A signal whose handler raises, and no timer that is left over."""

    def press(*_: Any) -> None:
        raise Pressed

    before = signal.signal(signal.SIGALRM, press)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def steps_done() -> int:
    """Steps that the last call's first layer has done."""
    from fastrnn.backends import _cpp

    layers, _ = _cpp.last_call()
    return layers[0][1]


def interrupted(call: Callable[[], Any], seconds: float = 0.03) -> None:
    with pytest.raises(Pressed):
        signal.setitimer(signal.ITIMER_REAL, seconds)
        call()


# Each takes seconds, were it not ended, and BPTT through a tenth of it several looks of 50 ms: by kind of division, the
# number of threads, layers, T, N and H.
CALLS = {
    "alone": (1, 1, 6_000_000, 1, 20),
    "by sequences": (2, 1, 120_000, 16, 64),
    "by units": (2, 1, 80_000, 1, 256),
    "layers at the same time": (2, 2, 2_000_000, 1, 20),
    "layers one after the other": (1, 2, 6_000_000, 1, 20),
}


def layer_and_input(kind: str) -> tuple[fastrnn.LSTM, np.ndarray]:
    threads, layers, T, N, H = CALLS[kind]
    fastrnn.set_num_threads(threads)
    layer = fastrnn.LSTM(2, H, layers, seed=0)
    return layer, np.broadcast_to(np.ones((1, 1, 2), "f4"), (T, N, 2))


@pytest.mark.parametrize("kind", CALLS)
def test_a_call_ends_before_its_last_step(kind: str) -> None:
    layer, x = layer_and_input(kind)
    few = x[:40].copy()
    want = layer(few)
    interrupted(lambda: layer(x))
    assert 0 < steps_done() < len(x)
    got = layer(few)
    np.testing.assert_array_equal(got[0], want[0])


@pytest.mark.parametrize("kind", ["alone", "by sequences", "by units", "layers one after the other"])
def test_bptt_ends_before_its_last_step_and_adds_nothing(kind: str) -> None:
    layer, x = layer_and_input(kind)
    x = x[: len(x) // 10].copy()
    y, _ = layer.forward(x)
    layer.backward(y)
    want = {name: grad.copy() for name, grad in layer.grads.items()}
    layer.forward(x)
    # Late enough that the engine runs by then: what the call before has noted would be taken for this one's.
    interrupted(lambda: layer.backward(y), 0.02)
    assert 0 <= steps_done() < len(x)
    for name, grad in layer.grads.items():
        np.testing.assert_array_equal(grad, want[name])
    layer.zero_grad()
    # What it keeps is used up by a backward pass that ends.
    layer.backward(y)
    for name, grad in layer.grads.items():
        np.testing.assert_array_equal(grad, want[name])


def test_a_handler_that_raises_nothing_ends_nothing() -> None:
    seen = []
    signal.signal(signal.SIGALRM, lambda *_: seen.append(True))
    layer, x = layer_and_input("alone")
    x = x[:300_000]
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    layer(x)
    assert seen and steps_done() == len(x)


@pytest.mark.parametrize("kind", ["alone", "by units", "layers at the same time"])
def test_a_handler_may_call_the_engine(kind: str) -> None:
    """Its call has memory of its own; the call that waits for it goes on as if nothing had been."""
    layer, x = layer_and_input(kind)
    x = x[: len(x) // 10]
    other, few = fastrnn.GRU(2, 40, seed=1), x[:50].copy()
    want, want_within, within = layer(x), other(few), []
    signal.signal(signal.SIGALRM, lambda *_: within.append(other(few)))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    got = layer(x)
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(within[0][0], want_within[0])


def test_a_call_of_another_thread_is_not_asked() -> None:
    """Python runs handlers in its main thread alone: that one gets the signal, and the call goes on."""
    layer, x = layer_and_input("alone")
    results, done = [], threading.Event()

    def call() -> None:
        results.append(layer(x[:300_000]))
        done.set()

    with pytest.raises(Pressed):
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        threading.Thread(target=call).start()
        done.wait(60)
    assert not done.is_set() and done.wait(60)
    assert results[0][0].shape == (300_000, 1, 20)
