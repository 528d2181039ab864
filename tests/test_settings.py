"""Backend, threads and precision: the process's defaults, what holds inside `with`, and what a call reads."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Thread
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastrnn
from fastrnn import LSTM, Linear, Model, thresholds
from fastrnn.backends.numpy_backend import NumpyBackend
from fastrnn.engine import stack
from fastrnn.engine import threads as thread_module
from processes import python


class Kind(NamedTuple):
    """A setting: how it is set, used and read, and values other than the default of these tests."""

    set: Callable[[Any], None]
    use: Callable[[Any], Any]
    get: Callable[[], Any]
    default: Any
    values: tuple[Any, Any]
    wrong: Any


KINDS = {
    "backend": Kind(fastrnn.set_backend, fastrnn.use_backend, fastrnn.get_backend, "numpy", ("numba", "numpy"), "cuda"),
    "threads": Kind(fastrnn.set_num_threads, fastrnn.use_num_threads, fastrnn.get_num_threads, 3, (1, 2), 0),
    "precision": Kind(
        fastrnn.set_matmul_precision,
        fastrnn.use_matmul_precision,
        fastrnn.get_matmul_precision,
        "highest",
        ("high", "medium"),
        "low",
    ),
}


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    before = {name: kind.get() for name, kind in KINDS.items()}
    for kind in KINDS.values():
        kind.set(kind.default)
    yield
    for name, kind in KINDS.items():
        kind.set(before[name])


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def elsewhere(get: Callable[[], Any]) -> Any:
    """What a new thread gets."""
    got: list[Any] = []
    thread = Thread(target=lambda: got.append(get()))
    thread.start()
    thread.join()
    return got[0]


def test_what_is_set_holds_in_every_thread(kind: Kind) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(kind.get).result() == kind.default
        kind.set(kind.values[0])
        assert kind.get() == pool.submit(kind.get).result() == elsewhere(kind.get) == kind.values[0]
        pool.submit(kind.set, kind.values[1]).result()
        assert kind.get() == kind.values[1]


def test_what_is_used_holds_inside_with_and_in_this_thread_alone(kind: Kind) -> None:
    for value in kind.values:
        with kind.use(value):
            assert kind.get() == value
            assert elsewhere(kind.get) == kind.default
        assert kind.get() == kind.default


def test_a_default_that_is_set_inside_with_holds_after_it(kind: Kind) -> None:
    first, second = kind.values
    with kind.use(first):
        kind.set(second)
        assert kind.get() == first and elsewhere(kind.get) == second
    assert kind.get() == second


def test_nested_uses(kind: Kind) -> None:
    first, second = kind.values
    with kind.use(first):
        with kind.use(second):
            assert kind.get() == second
        assert kind.get() == first
    assert kind.get() == kind.default


def test_the_settings_do_not_touch_each_other() -> None:
    with fastrnn.use_num_threads(1), fastrnn.use_backend("numba"), fastrnn.use_matmul_precision("high"):
        got = [kind.get() for kind in KINDS.values()]
        with fastrnn.use_num_threads(2):
            inside = [kind.get() for kind in KINDS.values()]
    assert got == ["numba", 1, "high"] and inside == ["numba", 2, "high"]
    assert [kind.get() for kind in KINDS.values()] == [kind.default for kind in KINDS.values()]


def test_a_use_can_be_entered_again_and_inside_itself(kind: Kind) -> None:
    first, second = kind.values
    use = kind.use(first)
    with use:
        assert kind.get() == first
        with kind.use(second), use:
            assert kind.get() == first
        assert kind.get() == first
    assert kind.get() == kind.default
    with use:
        assert kind.get() == first
    assert kind.get() == kind.default


def test_an_error_inside_leaves_the_setting_as_it_was(kind: Kind) -> None:
    with pytest.raises(ZeroDivisionError), kind.use(kind.values[0]):
        raise ZeroDivisionError
    assert kind.get() == kind.default


def test_threads_that_leave_in_the_order_in_which_they_came(kind: Kind) -> None:
    """As they once did: the last to leave put back what the first had chosen."""
    first, second = kind.values
    steps, seen = Barrier(2, timeout=60), {}

    def one() -> None:
        with kind.use(first):
            steps.wait()  # both are in it
            steps.wait()
            seen["one"] = kind.get()
        steps.wait()  # one is out
        seen["one, out"] = kind.get()

    def other() -> None:
        steps.wait()
        with kind.use(second):
            steps.wait()
            steps.wait()
            seen["other"] = kind.get()
        seen["other, out"] = kind.get()

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(one), pool.submit(other)]:
            done.result()
    assert seen == {"one": first, "one, out": kind.default, "other": second, "other, out": kind.default}
    assert kind.get() == kind.default


def test_one_use_in_several_threads_at_once(kind: Kind) -> None:
    use, steps = kind.use(kind.values[0]), Barrier(4, timeout=60)

    def work(_: int) -> tuple[Any, Any]:
        with use:
            steps.wait()
            inside = kind.get()
        steps.wait()
        return inside, kind.get()

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(work, range(4))) == {(kind.values[0], kind.default)}
    assert kind.get() == kind.default


def test_tasks_of_one_thread(kind: Kind) -> None:
    first, second = kind.values

    async def task(value: Any, turns: int) -> list[Any]:
        got = [kind.get()]
        with kind.use(value):
            for _ in range(turns):
                await asyncio.sleep(0)
                got.append(kind.get())
        await asyncio.sleep(0)
        return [*got, kind.get()]

    async def main() -> list[list[Any]]:
        outside = asyncio.gather(task(first, 1), task(second, 3))
        with kind.use(second):
            # Made inside: it begins with what holds here.
            inside = asyncio.ensure_future(task(first, 2))
            await asyncio.sleep(0)
        return [*await outside, await inside]

    default = kind.default
    assert asyncio.run(main()) == [
        [default, first, default],
        [default, second, second, second, default],
        [second, first, first, second],
    ]
    assert kind.get() == default


def test_a_generator_that_is_left_later_than_what_was_entered_after_it(kind: Kind) -> None:
    first, second = kind.values

    def numbers() -> Iterator[int]:
        with kind.use(first):
            yield 0

    generator = numbers()
    next(generator)
    with kind.use(second):
        generator.close()
        assert kind.get() == second
    assert kind.get() == kind.default


def test_a_wrong_value_is_refused_before_anything_changes(kind: Kind) -> None:
    for call in (kind.set, kind.use):
        for wrong in (kind.wrong, np.array([kind.values[0]] * 2), None):
            with pytest.raises((ValueError, TypeError), match=r"^(name|n|precision): expected .*, got "):
                call(wrong)
    assert kind.get() == kind.default


def test_the_environment_names_the_defaults() -> None:
    code = "import fastrnn; print(fastrnn.get_backend(), fastrnn.get_num_threads())"
    done = python(code, FASTRNN_BACKEND="numpy", FASTRNN_NUM_THREADS="7")
    assert done.stdout.split() == ["numpy", "7"], done.stderr
    # Only what is read is looked at, and what is set needs no variable.
    code = "import fastrnn; fastrnn.set_backend('numpy'); print(fastrnn.get_backend())"
    done = python(code, FASTRNN_BACKEND="none", FASTRNN_NUM_THREADS="many")
    assert done.stdout.strip() == "numpy", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_child_that_is_forked_while_a_setting_is_set_can_set_it() -> None:
    code = """
import os, threading, warnings, fastrnn
from fastrnn.engine import settings
warnings.simplefilter("ignore")
held, done = threading.Event(), threading.Event()
def hold():
    with settings._lock:
        held.set(); done.wait()
thread = threading.Thread(target=hold); thread.start(); held.wait()
child = os.fork()
if not child:
    fastrnn.set_num_threads(2)
    os._exit(0)
done.set(); thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = python(code)
    assert done.stdout.strip() == "0", done.stderr


# What a call reads.


X = np.ones((4, 1, 3), np.float32)


def settings_of(layer: Any) -> set[tuple[Any, ...]]:
    """What the calls of a layer's last forward pass ran with."""
    pullback = layer._saved
    return {(pullback._stack.backend.name, call.threads, call.bf16_parts) for call in pullback._saved.calls}


@pytest.fixture
def all_work_is_worth_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thresholds, "WORTH_A_THREAD", 1)


@pytest.fixture
def somebody_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread sets every default when a call's first layer has run."""
    run = NumpyBackend.forward

    def and_set(*arguments: Any, **options: Any) -> Any:
        result = run(*arguments, **options)
        elsewhere(lambda: (fastrnn.set_backend("numba"), fastrnn.set_num_threads(5)))
        elsewhere(lambda: fastrnn.set_matmul_precision("medium"))
        return result

    monkeypatch.setattr(NumpyBackend, "forward", and_set)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_call_reads_the_settings_once(
    somebody_sets: None, all_work_is_worth_threads: None, bidirectional: bool
) -> None:
    layer = LSTM(3, 5, 3, bidirectional=bidirectional, seed=0)
    with fastrnn.use_num_threads(1):
        layer.forward(X)
    assert settings_of(layer) == {("numpy", 1, 3)}
    # Several sequences: the quick way, which makes no calls to look at, is for one thread.
    layer.forward(np.ones((4, 5, 3), np.float32))
    assert settings_of(layer) == {("numba", 5, 1)}


def test_a_model_reads_the_settings_once(somebody_sets: None, all_work_is_worth_threads: None) -> None:
    model = Model([LSTM(3, 5, seed=0), Linear(5, 3), LSTM(3, 5, seed=0)])
    model.forward(X)
    assert settings_of(model.layers[0]) == settings_of(model.layers[2]) == {("numpy", 3, 3)}


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_of_a_call_have_its_settings(all_work_is_worth_threads: None, threads: int) -> None:
    layer = LSTM(3, 5, 2, bidirectional=True, seed=0)
    fastrnn.set_backend("numba")
    fastrnn.set_num_threads(7)
    with fastrnn.use_backend("numpy"), fastrnn.use_num_threads(threads), fastrnn.use_matmul_precision("high"):
        # One sequence: a thread for each direction, if there are two.
        layer.forward(X)
    assert settings_of(layer) == {("numpy", threads, 2)}


def test_the_pools_threads_have_the_callers_settings_and_keep_nothing_of_them(kind: Kind) -> None:
    def both() -> list[Any]:
        steps = Barrier(2, timeout=60)
        return thread_module.run_together(lambda _: (steps.wait(), kind.get())[1], range(2))

    with kind.use(kind.values[0]):
        assert both() == [kind.values[0]] * 2
    assert both() == [kind.default] * 2


def test_backward_takes_as_many_threads_as_forward(
    all_work_is_worth_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, taken = LSTM(3, 5, bidirectional=True, seed=0), []
    monkeypatch.setattr(stack, "run_together", lambda work, parts: taken.append(1) or list(map(work, parts)))
    for most in (1, 2):
        with fastrnn.use_num_threads(most):
            y, _ = layer.forward(X)
        taken.clear()
        with fastrnn.use_num_threads(3 - most):
            layer.backward(y)
        assert len(taken) == most - 1


# The plain call.


def test_a_plain_call_sets_the_default_and_warns_where_it_stands() -> None:
    fastrnn.use_backend("numba")
    with pytest.warns(DeprecationWarning, match="use set_backend") as caught:
        assert fastrnn.get_backend() == "numba"
    assert [warning.filename for warning in caught] == [__file__]
    assert elsewhere(fastrnn.get_backend) == "numba"
    assert fastrnn.get_backend() == "numba", "and warns once"


def test_a_plain_call_counts_before_what_comes_after_it() -> None:
    fastrnn.use_backend("numba")
    with pytest.warns(DeprecationWarning), fastrnn.use_backend("numpy"):
        assert fastrnn.get_backend() == "numpy"
    assert fastrnn.get_backend() == "numba"
    fastrnn.use_backend("numba")
    with pytest.warns(DeprecationWarning):
        fastrnn.set_backend("numpy")
    assert fastrnn.get_backend() == "numpy"
    fastrnn.use_backend("numpy")
    fastrnn.use_backend("numba")
    with pytest.warns(DeprecationWarning) as caught:
        assert fastrnn.get_backend() == "numba"
    assert len(caught) == 2


def test_a_plain_call_is_seen_by_a_layers_call() -> None:
    layer = LSTM(3, 5, seed=0)
    fastrnn.use_backend("numba")
    with pytest.warns(DeprecationWarning):
        layer.forward(X)
    assert layer._saved._stack.backend.name == "numba"


def test_with_never_warns_nor_changes_the_default_even_for_a_moment() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        use = fastrnn.use_backend("numba")
        assert elsewhere(fastrnn.get_backend) == "numpy"
        with use:
            assert fastrnn.get_backend() == "numba" and elsewhere(fastrnn.get_backend) == "numpy"
        with fastrnn.use_backend("numpy"), fastrnn.use_backend("numba"):
            pass
        assert fastrnn.get_backend() == elsewhere(fastrnn.get_backend) == "numpy"
    assert not caught
