"""Losses: values against PyTorch, gradients against differences, and what each bad input gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from differences import assert_gradient
from fastrnn.losses import mse, softmax_cross_entropy

REDUCTIONS = ("mean", "sum")
IGNORED = -100


def classification(dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
    """Logits (3, 4, 5) and targets (3, 4), two of which are to be ignored."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 5, (3, 4))
    targets[0, 1] = targets[2, 3] = IGNORED
    return (3 * rng.standard_normal((3, 4, 5))).astype(dtype), targets


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ignore_index", [None, 2, IGNORED])
def test_cross_entropy_is_pytorchs(torch: Any, reduction: str, ignore_index: int | None, dtype: str) -> None:
    logits, targets = classification(dtype)
    if ignore_index != IGNORED:
        targets = np.abs(targets) % 5
    options = {"reduction": reduction} | ({} if ignore_index is None else {"ignore_index": ignore_index})
    loss, dlogits = softmax_cross_entropy(logits, targets, **options)
    theirs = torch.tensor(logits.reshape(-1, 5), dtype=torch.float64, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(theirs, torch.tensor(targets.reshape(-1)), **options)
    expected.backward()
    rtol = {"float32": 1e-6, "float64": 1e-12}[dtype]
    assert loss == pytest.approx(expected.item(), rel=rtol)
    assert dlogits.dtype == dtype
    np.testing.assert_allclose(dlogits.reshape(-1, 5), theirs.grad.numpy(), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_cross_entropy_gradient(reduction: str) -> None:
    logits, targets = classification()

    def loss() -> float:
        return softmax_cross_entropy(logits, targets, ignore_index=IGNORED, reduction=reduction)[0]

    _, dlogits = softmax_cross_entropy(logits, targets, ignore_index=IGNORED, reduction=reduction)
    assert_gradient(dlogits, loss, logits)


def test_huge_logits() -> None:
    logits = np.array([[1e4, 0.0], [-1e4, 0.0], [3e38, -3e38]], np.float32)
    loss, dlogits = softmax_cross_entropy(logits, [0, 0, 0])
    assert loss == pytest.approx(1e4 / 3)
    np.testing.assert_allclose(dlogits, np.array([[0, 0], [-1, 1], [0, 0]]) / 3, rtol=1e-6)


def test_what_is_ignored_may_hold_anything() -> None:
    logits, targets = classification()
    plain = softmax_cross_entropy(logits, targets, ignore_index=IGNORED)
    logits[0, 1], logits[2, 3] = np.nan, np.inf
    loss, dlogits = softmax_cross_entropy(logits, targets, ignore_index=IGNORED)
    assert loss == plain[0]
    np.testing.assert_array_equal(dlogits, plain[1])
    assert not dlogits[0, 1].any() and not dlogits[2, 3].any()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_mean_over_nothing_is_zero(reduction: str) -> None:
    for logits, targets in ((np.ones((2, 3)), [-1, -1]), (np.ones((0, 3)), np.zeros(0, int))):
        loss, dlogits = softmax_cross_entropy(logits, targets, ignore_index=-1, reduction=reduction)
        assert loss == 0 and dlogits.shape == logits.shape and not dlogits.any()
    assert mse(np.ones((0, 3)), np.ones((0, 3)), reduction=reduction)[0] == 0


def test_the_sum_is_made_in_float64() -> None:
    rows = 2**20 + 1
    loss, _ = softmax_cross_entropy(np.zeros((rows, 2), np.float32), np.zeros(rows, int), reduction="sum")
    assert loss == pytest.approx(rows * float(np.log(np.float32(2))), rel=1e-12)
    loss, _ = mse(np.full(rows, 0.1, np.float32), np.zeros(rows, np.float32))
    assert loss == pytest.approx(float(np.float32(0.1)) ** 2, rel=1e-12)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint64", ">i4"])
def test_any_integers_are_targets(dtype: str) -> None:
    logits, targets = classification()
    targets = np.abs(targets) % 5
    expected = softmax_cross_entropy(logits, targets)
    got = softmax_cross_entropy(logits, targets.astype(dtype), ignore_index=IGNORED)
    assert got[0] == expected[0]
    np.testing.assert_array_equal(got[1], expected[1])


def test_layout_does_not_matter_and_inputs_stay() -> None:
    logits, targets = classification()
    expected = softmax_cross_entropy(logits, targets, ignore_index=IGNORED)
    for same in (np.asfortranarray(logits), np.flip(np.flip(logits).copy())):
        same.flags.writeable = False
        loss, dlogits = softmax_cross_entropy(same, targets, ignore_index=IGNORED)
        assert loss == expected[0]
        np.testing.assert_allclose(dlogits, expected[1], rtol=1e-14)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_mse(reduction: str) -> None:
    y, target = np.random.default_rng(1).standard_normal((2, 2, 3))
    loss, dy = mse(y, target, reduction=reduction)
    total = sum(float(a - b) ** 2 for a, b in zip(y.flat, target.flat, strict=True))
    assert loss == pytest.approx(total / (6 if reduction == "mean" else 1), rel=1e-14)
    assert_gradient(dy, lambda: mse(y, target, reduction=reduction)[0], y)
    assert mse(y.astype("float32"), target.astype("float32"))[1].dtype == "float32"


ONES = np.ones((2, 3))


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda: softmax_cross_entropy(ONES, [0, 3]), ValueError, "targets: expected values from 0 to 2, got 3"),
        (lambda: softmax_cross_entropy(ONES, [0, -1]), ValueError, "targets"),
        (lambda: softmax_cross_entropy(ONES, [-1, -2], ignore_index=-1), ValueError, "targets"),
        (lambda: softmax_cross_entropy(ONES, [0.0, 1.0]), TypeError, "targets"),
        (lambda: softmax_cross_entropy(ONES, [True, False]), TypeError, "targets"),
        (lambda: softmax_cross_entropy(ONES, [0]), ValueError, "targets"),
        (lambda: softmax_cross_entropy(ONES, [[0], [1]]), ValueError, "targets"),
        (lambda: softmax_cross_entropy(ONES.astype(int), [0, 1]), TypeError, "logits"),
        (lambda: softmax_cross_entropy(ONES.tolist(), [0, 1]), TypeError, "logits"),
        (lambda: softmax_cross_entropy(np.array(1.0), 0), ValueError, "logits"),
        (lambda: softmax_cross_entropy(np.ones((2, 0)), [0, 1]), ValueError, "logits"),
        (lambda: softmax_cross_entropy(ONES, [0, 1], reduction="none"), ValueError, "reduction"),
        (lambda: softmax_cross_entropy(ONES, [0, 1], reduction=np.array(["mean", "sum"])), ValueError, "reduction"),
        (lambda: softmax_cross_entropy(ONES, [0, 1], ignore_index=np.array([0, 1])), TypeError, "ignore_index"),
        (lambda: softmax_cross_entropy(ONES, np.ma.array([0, 9], mask=[0, 1])), TypeError, "targets"),
        (lambda: softmax_cross_entropy(ONES, [[0], [1, 2]]), ValueError, "targets"),
        (lambda: softmax_cross_entropy(np.ma.array(ONES, mask=ONES > 0), [0, 1]), TypeError, "logits"),
        (lambda: softmax_cross_entropy(ONES.view(np.matrix), [0, 1]), TypeError, "logits"),
        (lambda: mse(ONES.view(np.matrix), ONES), TypeError, "y"),
        (lambda: mse(np.ones(2), np.ma.array([1.0, 2.0], mask=[0, 1])), TypeError, "target"),
        (lambda: mse(np.ones(2), np.ones(3)), ValueError, "target"),
        (lambda: mse(np.ones(2), np.ones(2, "float32")), TypeError, "target"),
        (lambda: mse([1.0], np.ones(1)), TypeError, "y"),
        (lambda: mse(np.ones(2), np.ones(2), reduction="none"), ValueError, "reduction"),
    ],
)
def test_bad_calls(call: Callable[[], Any], error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=rf"^{named}\b"):
        call()
