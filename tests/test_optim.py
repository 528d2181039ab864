"""Optimizers against PyTorch's, step by step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastrnn import optim

CASES = [
    ("SGD", {}),
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    ("Adam", {}),
    ("Adam", {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ("Adam", {"betas": (0.0, 0.0)}),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 0.01, "alpha": 0.5, "eps": 1e-3, "weight_decay": 0.1}),
    ("Adagrad", {}),
    ("Adagrad", {"lr": 0.1, "eps": 1e-3, "weight_decay": 0.1}),
]


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-12), ("float32", 2e-6)])
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_same_as_pytorch(torch: Any, name: str, options: dict[str, Any], dtype: str, rtol: float) -> None:
    rng = np.random.default_rng(0)
    params = {"a": rng.standard_normal((3, 2)).astype(dtype), "b": rng.standard_normal(4).astype(dtype)}
    arrays = dict(params)
    theirs = {k: torch.tensor(v, requires_grad=True) for k, v in params.items()}
    ours = getattr(optim, name)(params, **options)
    reference = getattr(torch.optim, name)(theirs.values(), **options)
    for step in range(5):
        grads = {k: (rng.standard_normal(v.shape) * 10.0**-step).astype(dtype) for k, v in params.items()}
        before = {k: g.copy() for k, g in grads.items()}
        ours.step(grads)
        for k, t in theirs.items():
            t.grad = torch.tensor(grads[k])
        reference.step()
        for k, t in theirs.items():
            np.testing.assert_allclose(params[k], t.detach().numpy(), rtol=rtol, atol=0.1 * rtol)
            np.testing.assert_array_equal(grads[k], before[k])
    assert all(params[k] is arrays[k] and params[k].dtype == dtype for k in params), "updated in place"


def test_the_rate_can_change_between_steps() -> None:
    params = {"a": np.ones(2)}
    optimizer = optim.SGD(params, lr=1.0)
    optimizer.step({"a": np.ones(2)})
    optimizer.lr = 0.5
    optimizer.step({"a": np.ones(2)})
    np.testing.assert_array_equal(params["a"], [-0.5, -0.5])


@pytest.mark.parametrize("max_norm", [10.0, 5.0, 1.0, 1e-4, np.inf])
def test_clip_grad_norm_is_pytorchs(torch: Any, max_norm: float) -> None:
    grads = {"a": np.array([3.0, 0.0]), "b": np.array([[4.0]])}
    theirs = [torch.nn.Parameter(torch.zeros(g.shape, dtype=torch.float64)) for g in grads.values()]
    for parameter, g in zip(theirs, grads.values(), strict=True):
        parameter.grad = torch.tensor(g)
    norm = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    assert optim.clip_grad_norm(grads, max_norm) == norm.item() == 5.0
    for parameter, g in zip(theirs, grads.values(), strict=True):
        np.testing.assert_allclose(g, parameter.grad.numpy(), rtol=1e-15)


def test_clip_grad_norm_changes_no_small_gradient() -> None:
    grads = {"a": np.float32([0.1, 0.2])}
    norm = optim.clip_grad_norm(grads, 1.0)
    assert norm == pytest.approx(np.sqrt(0.05), rel=1e-7)
    np.testing.assert_array_equal(grads["a"], np.float32([0.1, 0.2]))
    assert optim.clip_grad_norm({}, 1.0) == 0


def test_the_norm_is_of_float64() -> None:
    """Squares of 1e30 overflow float32."""
    grads = {"a": np.full(4, 1e30, np.float32)}
    assert optim.clip_grad_norm(grads, 1.0) == pytest.approx(2e30, rel=1e-6)
    np.testing.assert_allclose(grads["a"], 0.5, rtol=1e-6)


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda p: optim.SGD(p, lr=-1.0), ValueError, "lr"),
        (lambda p: optim.SGD(p, lr=np.nan), ValueError, "lr"),
        (lambda p: optim.SGD(p, lr="fast"), TypeError, "lr"),
        (lambda p: optim.SGD(p, momentum=-0.1), ValueError, "momentum"),
        (lambda p: optim.SGD(p, weight_decay=-0.1), ValueError, "weight_decay"),
        (lambda p: optim.Adam(p, betas=(1.0, 0.9)), ValueError, r"betas\[0\]"),
        (lambda p: optim.Adam(p, betas=(0.9, 1.0)), ValueError, r"betas\[1\]"),
        (lambda p: optim.Adam(p, betas=0.9), TypeError, "betas"),
        (lambda p: optim.Adam(p, betas=np.array([0.9, 0.999])), TypeError, "betas"),
        (lambda p: optim.Adam(p, betas=(0.9,)), ValueError, "betas"),
        (lambda p: optim.Adam(p, betas=(0.9, 0.9, 0.9)), ValueError, "betas"),
        (lambda p: optim.Adam(p, eps=-1e-8), ValueError, "eps"),
        (lambda p: optim.RMSprop(p, alpha=1.0), ValueError, "alpha"),
        (lambda p: optim.SGD([np.zeros(2)]), TypeError, "params"),
        (lambda p: optim.SGD({"a": [0.0]}), TypeError, r"params\['a'\]"),
        (lambda p: optim.SGD({"a": np.zeros(2, int)}), TypeError, r"params\['a'\]"),
        (lambda p: optim.SGD({"a": read_only(np.zeros(2))}), ValueError, r"params\['a'\]"),
        (lambda p: optim.SGD({"a": np.ma.array([0.0, 1.0], mask=[0, 1])}), TypeError, r"params\['a'\]"),
        (lambda p: optim.SGD({"a": np.zeros((2, 2)).view(np.matrix)}), TypeError, r"params\['a'\]"),
        (lambda p: optim.SGD(p, lr=np.array([0.1, 0.2])), TypeError, "lr"),
        (lambda p: optim.clip_grad_norm(p, 0.0), ValueError, "max_norm"),
        (lambda p: optim.clip_grad_norm(p, np.nan), ValueError, "max_norm"),
        (lambda p: optim.clip_grad_norm(p, np.array([1.0, 2.0])), TypeError, "max_norm"),
        (lambda p: optim.clip_grad_norm(p, None), TypeError, "max_norm"),
        (lambda p: optim.clip_grad_norm(p, 1.0, error_if_nonfinite=1), TypeError, "error_if_nonfinite"),
        (lambda p: optim.clip_grad_norm(list(p.values()), 1.0), TypeError, "grads"),
    ],
)
def test_bad_calls(call: Callable[[Any], Any], error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=rf"^{named}: expected"):
        call({"a": np.zeros(2)})


@pytest.mark.parametrize(
    ("second", "error"),
    [
        (read_only(np.ones(3)), ValueError),
        ([1.0, 1.0], TypeError),
        (np.ones(3, int), TypeError),
        (np.ma.array([1.0, 2.0], mask=[0, 1]), TypeError),
        (np.ones((2, 2)).view(np.matrix), TypeError),
    ],
)
def test_clip_grad_norm_checks_all_before_it_scales_any(second: Any, error: type[Exception]) -> None:
    grads = {"a": np.full(2, 10.0), "b": second}
    with pytest.raises(error, match=r"^grads\['b'\]: expected"):
        optim.clip_grad_norm(grads, 1.0)
    np.testing.assert_array_equal(grads["a"], [10, 10])


@pytest.mark.parametrize(
    ("wrong", "norm"), [([1.0, np.nan], "nan"), ([-np.inf, 0], "inf"), ([np.inf, np.nan], "nan"), ([1e200, 0], "inf")]
)
def test_a_norm_that_is_not_finite_raises_if_asked_and_names_the_first(wrong: list[float], norm: str) -> None:
    grads = {"a": np.full(2, 10.0), "b": np.array(wrong), "c": np.full(3, np.nan)}
    before = {name: g.copy() for name, g in grads.items()}
    with pytest.raises(
        ValueError, match=rf"^grads\['b'\]: expected a gradient with a finite norm, got {norm}"
    ) as caught:
        optim.clip_grad_norm(grads, 1.0, error_if_nonfinite=True)
    assert isinstance(caught.value, optim.NonFiniteGradient) and caught.value.parameter == "b"
    np.testing.assert_equal(grads, before)


@pytest.mark.parametrize(("wrong", "left"), [(np.nan, [10, 10]), (np.inf, [0, 0])])
def test_a_norm_that_is_not_finite_is_returned_if_nothing_else_is_asked(wrong: float, left: list[float]) -> None:
    grads = {"a": np.full(2, 10.0), "b": np.array([wrong])}
    with np.errstate(invalid="ignore"):
        np.testing.assert_equal(optim.clip_grad_norm(grads, 1.0), wrong)
    np.testing.assert_array_equal(grads["a"], left)


def test_parameters_in_a_file_are_updated_in_it(tmp_path: Path) -> None:
    plain, file = np.arange(4.0), np.memmap(tmp_path / "a", float, "w+", shape=4)
    file[...] = plain
    for array, gradient in ((plain, np.ones(4)), (file, np.memmap(tmp_path / "g", float, "w+", shape=4))):
        gradient[...] = 3
        optim.clip_grad_norm({"a": gradient}, 1.0)
        optim.Adam({"a": array}).step({"a": gradient})
    file.flush()
    np.testing.assert_array_equal(np.fromfile(tmp_path / "a"), plain)


@pytest.mark.parametrize(
    ("grads", "error", "named"),
    [
        (None, TypeError, "grads"),
        ({"a": np.ones(2), "b": np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0])}, TypeError, r"grads\['b'\]"),
        ({}, ValueError, "grads"),
        ({"a": np.ones(2), "b": np.ones(3), "c": np.ones(1)}, ValueError, "grads"),
        ({"a": np.ones(2), "b": np.ones(3), 3: np.ones(1)}, ValueError, "grads"),
        ({"a": np.ones(2), "b": np.ones(2)}, ValueError, r"grads\['b'\]"),
        ({"a": np.ones(2), "b": [1.0] * 3}, TypeError, r"grads\['b'\]"),
        ({"a": np.ones(2), "b": np.ones(3, "float32")}, TypeError, r"grads\['b'\]"),
    ],
)
def test_gradients_that_do_not_fit_change_nothing(grads: Any, error: type[Exception], named: str) -> None:
    params = {"a": np.zeros(2), "b": np.zeros(3)}
    optimizer = optim.Adam(params)
    with pytest.raises(error, match=rf"^{named}: expected"):
        optimizer.step(grads)
    assert optimizer.steps == 0 and not any(p.any() for p in params.values())
