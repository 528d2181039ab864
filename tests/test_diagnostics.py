"""`fastrnn.diagnostics`: each quantity against what it is by definition, each picture by what it shows."""

from __future__ import annotations

import copy
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastrnn
from cases import CELLS
from differences import differences
from fastrnn import AR, GRU, LSTM, RNN, Embedding, Linear, Model, Recurrent, diagnostics
from fastrnn.diagnostics import jacobians
from fastrnn.diagnostics.saturation import node_names
from fastrnn.diagnostics.verdict import reach

T, N, D, H = 6, 3, 2, 4
RNG = np.random.default_rng(0)
START = RNG.bit_generator.state
X = RNG.standard_normal((T, N, D))
MASK = np.random.default_rng(1).random((T, N)) < 0.7
RESETS = np.random.default_rng(2).random((T, N)) < 0.3


@pytest.fixture(autouse=True)
def on_the_reference_backend() -> Any:
    """And with the same random numbers, whatever ran before."""
    RNG.bit_generator.state = START
    with fastrnn.use_backend("numpy"):
        yield


def lstm(**options: Any) -> LSTM:
    return LSTM(D, H, dtype="float64", seed=0, **options)


def step_jacobian(layer: Recurrent, x: np.ndarray, state: tuple[np.ndarray, ...]) -> np.ndarray:
    """∂(states after one step)/∂(states before) of one sequence, (S*H, S*H), by central differences."""

    def after(values: np.ndarray) -> np.ndarray:
        parts = tuple(values.reshape(len(state), 1, 1, -1))
        _, last = layer.step(x[None], parts if len(state) > 1 else parts[0])
        return np.concatenate([s.ravel() for s in (last if isinstance(last, tuple) else (last,))])

    here, step = np.concatenate([s.ravel() for s in state]), 1e-5
    columns = [(after(here + step * e) - after(here - step * e)) / (2 * step) for e in np.eye(len(here))]
    return np.stack(columns, axis=1)


def jacobians_along(layer: Recurrent, x: np.ndarray) -> list[np.ndarray]:
    """Those of every step of one sequence x (T, D) of a layer of one direction."""
    state = tuple(np.zeros((1, 1, layer.hidden_size)) for _ in layer.cell.states)
    result = []
    for row in x:
        result.append(step_jacobian(layer, row, state))
        _, last = layer.step(row[None], state if len(state) > 1 else state[0])
        state = last if isinstance(last, tuple) else (last,)
    return result


# Gradients of the states.


@pytest.mark.parametrize("flags", [{}, {"mask": MASK, "resets": RESETS}], ids=["plain", "flags"])
@pytest.mark.parametrize("name", ["lstm", "gru_before", "peephole_lstm", "relaxing"])
def test_gradient_flow_is_that_of_a_second_half(name: str, flags: dict[str, np.ndarray]) -> None:
    """dL/dh_t is what BPTT of the steps after t gives for its initial state, with dy_t added."""
    layer = Recurrent(CELLS[name], D, H, dtype="float64", seed=0)
    dy = RNG.standard_normal((T, N, H))
    flow = diagnostics.gradient_flow(layer, X, dy, **flags)
    states = layer.cell.states
    assert list(flow.norms) == [f"l0.{s}" for s in states]
    _, state = layer(X[:1], **{k: v[:1] for k, v in flags.items()})
    for t in range(T - 1):
        later = {k: v[t + 1 :] for k, v in flags.items()}
        _, _, pullback = layer.vjp(X[t + 1 :], state, **later)
        dstate = pullback(dy[t + 1 :])[1]
        parts = list(dstate) if isinstance(dstate, tuple) else [dstate]
        active = flags["mask"][t][:, None] if flags else True
        parts[0] = parts[0] + np.where(active, dy[t], 0)
        for s, part in zip(states, parts, strict=True):
            assert flow.norms[f"l0.{s}"][t] == pytest.approx(np.linalg.norm(part), rel=1e-10)
        total = np.sqrt(sum(np.linalg.norm(part) ** 2 for part in parts))
        assert flow.layers["l0"][t] == pytest.approx(total, rel=1e-10)
        _, state = layer(X[t + 1 : t + 2], state, **{k: v[t + 1 : t + 2] for k, v in flags.items()})


@pytest.mark.parametrize("t", [0, 3, T - 1])
def test_gradient_flow_of_a_lower_layer_comes_from_above_and_from_later_steps(t: int) -> None:
    """Against differences: the first layer's state moves after step t, and with it what the second layer is given."""
    layer = GRU(D, H, 2, dtype="float64", seed=0)
    halves = GRU(D, H, dtype="float64"), GRU(H, H, dtype="float64")
    for number, half in enumerate(halves):
        half.params = {name: layer.params[name.replace("_l0", f"_l{number}")] for name in half.params}
    dy, moved = RNG.standard_normal((T, N, H)), np.zeros((1, N, H))

    def loss() -> float:
        before, state = halves[0](X[: t + 1])
        before[t] += moved[0]
        after = halves[0](X[t + 1 :], state + moved)[0] if t + 1 < T else before[:0]
        return float((halves[1](np.concatenate([before, after]))[0] * dy).sum())

    flow = diagnostics.gradient_flow(layer, X, dy)
    expected = np.linalg.norm(differences(loss, moved))
    assert flow.norms["l0.h"][t] == pytest.approx(expected, rel=1e-7)


def test_gradient_flow_goes_through_all_layers_of_a_model_and_changes_nothing() -> None:
    layers = [Embedding(5, 3, seed=0), AR(2, 3, 4, seed=0), LSTM(4, H, 2, bidirectional=True, seed=1)]
    model = Model([*layers, Linear(2 * H, 3, seed=2), GRU(3, 2, batch_first=False, seed=3)])
    before, grads = copy.deepcopy(dict(model.params)), copy.deepcopy(dict(model.grads))
    ids = RNG.integers(0, 5, (T, N))
    flow = diagnostics.gradient_flow(model, ids, lengths=[6, 4, 2])
    directions = ["2.l0", "2.l0_reverse", "2.l1", "2.l1_reverse", "4.l0"]
    assert list(flow.layers) == directions
    assert list(flow.norms) == [*(f"{d}.{s}" for d in directions[:4] for s in "hc"), "4.l0.h"]
    assert flow.from_the_end == {d: d.endswith("reverse") for d in directions}
    assert all((norms > 0).any() and np.isfinite(norms).all() for norms in flow.norms.values())
    for old, new in ((before, model.params), (grads, model.grads)):
        for name, value in old.items():
            np.testing.assert_array_equal(new[name], value)
    with pytest.raises(RuntimeError, match="call forward first"):
        model.backward(np.zeros((T, N, 2), "float32"))


def test_flow_through_a_model_is_the_gradient_of_its_states() -> None:
    """A linear layer on either side: dL/dh_t by adding to the state where the sequence is cut in two."""
    model = Model([Linear(D, 3, dtype="float64", seed=0), GRU(3, H, dtype="float64", seed=1)])
    model = Model([*model.layers, Linear(H, 2, dtype="float64", seed=2)])
    dy = RNG.standard_normal((T, N, 2))
    flow = diagnostics.gradient_flow(model, X, dy)
    for t in range(T - 1):
        _, state = model(X[: t + 1])
        model.forward(X[t + 1 :], state)
        d = model.layers[2].backward(dy[t + 1 :])  # type: ignore[attr-defined]
        _, dh = model.layers[1].backward(d)  # type: ignore[attr-defined]
        expected = dh[0] + dy[t] @ model.layers[2].params["W"].T
        assert flow.norms["1.l0.h"][t] == pytest.approx(np.linalg.norm(expected), rel=1e-10)


def test_a_gradient_without_dy_begins_at_the_last_step_of_each_sequence() -> None:
    layer = RNN(D, H, dtype="float64", seed=0)
    alone = diagnostics.gradient_flow(layer, X[:, :1])
    assert alone.norms["l0.h"][-1] == pytest.approx(1)
    short = diagnostics.gradient_flow(layer, X[:, :1], lengths=[4])
    assert short.norms["l0.h"][3] == pytest.approx(1)
    np.testing.assert_allclose(short.norms["l0.h"][:4], diagnostics.gradient_flow(layer, X[:4, :1]).norms["l0.h"])
    reverse = diagnostics.gradient_flow(RNN(D, H, reverse=True, dtype="float64", seed=0), X[::-1, :1])
    np.testing.assert_allclose(reverse.norms["l0.h"][::-1], alone.norms["l0.h"], rtol=1e-12)


def test_batch_first_flows_as_time_major_does() -> None:
    plain, other = lstm(), lstm(batch_first=True)
    for name, norms in diagnostics.gradient_flow(plain, X).norms.items():
        got = diagnostics.gradient_flow(other, X.swapaxes(0, 1)).norms[name]
        np.testing.assert_allclose(got, norms, rtol=1e-12)


@pytest.mark.parametrize("backend", ["cpp", "numba"])
def test_backends_agree(backend: str) -> None:
    if backend not in fastrnn.available_backends():
        pytest.skip("the extension was not built")
    layer = lstm()
    expected = diagnostics.gradient_flow(layer, X), diagnostics.jacobian_norms(layer, X)
    with fastrnn.use_backend(backend):
        got = diagnostics.gradient_flow(layer, X), diagnostics.jacobian_norms(layer, X)
    np.testing.assert_allclose(got[0].layers["l0"], expected[0].layers["l0"], rtol=1e-10)
    np.testing.assert_allclose(got[1]["l0"], expected[1]["l0"], atol=1e-10)


# Jacobians.


@pytest.mark.parametrize("formed", [True, False])
@pytest.mark.parametrize("name", ["rnn_tanh", "lstm", "gru_after", "relaxing"])
def test_jacobian_norms_are_singular_values_of_the_product(
    name: str, formed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jacobians, "_DECOMPOSED" if formed else "FORMED", 0)
    layer = Recurrent(CELLS[name], D, H, dtype="float64", seed=0)
    got = diagnostics.jacobian_norms(layer, X)["l0"]
    assert got.shape == (T, N)
    for n in range(N):
        steps, product = jacobians_along(layer, X[:, n]), np.eye(len(layer.cell.states) * H)
        assert got[T - 1, n] == 0
        for t in reversed(range(T - 1)):
            product = product @ steps[t + 1]
            assert got[t, n] == pytest.approx(np.log(np.linalg.norm(product, 2)), abs=1e-6)


def test_jacobian_norms_of_every_layer_and_direction() -> None:
    layer = lstm(num_layers=2, bidirectional=True)
    got = diagnostics.jacobian_norms(layer, X)
    assert list(got) == ["l0", "l0_reverse", "l1", "l1_reverse"]
    single = lstm()
    for end, suffix in ((T - 1, ""), (0, "_reverse")):
        assert not got[f"l0{suffix}"][end].any()
        for name in single.params:
            single.params[name] = layer.params[f"{name}{suffix}"]
        alone = diagnostics.jacobian_norms(single, X[::-1] if suffix else X)["l0"]
        np.testing.assert_allclose(got[f"l0{suffix}"][::-1] if suffix else got["l0"], alone, atol=1e-12)


def test_products_beyond_the_range_of_numbers_keep_their_logarithm() -> None:
    layer = RNN(1, 2, nonlinearity="identity", bias=False, dtype="float32", seed=0)
    for factor in (1e-4, 1e4):
        layer.params["Wh_l0"] = np.float32(factor) * np.eye(2, dtype="float32")
        got = diagnostics.jacobian_norms(layer, np.zeros((201, 1, 1), "float32"))["l0"]
        np.testing.assert_allclose(got[:, 0], np.arange(200, -1, -1) * np.log(np.float64(np.float32(factor))))


def test_a_reset_lets_nothing_back() -> None:
    resets = np.zeros((T, N), bool)
    resets[3, 1] = True
    got = diagnostics.jacobian_norms(lstm(), X, resets=resets)["l0"]
    assert np.isneginf(got[:3, 1]).all() and np.isfinite(got[3:, 1]).all() and np.isfinite(got[:, [0, 2]]).all()
    held = diagnostics.jacobian_norms(lstm(), X, lengths=[6, 3, 6])["l0"]
    assert not held[2:, 1].any() and held[1, 1] != 0


@pytest.mark.parametrize("symmetric", [True, False])
def test_lyapunov_exponents_of_a_linear_cell_are_logarithms_of_its_eigenvalues(symmetric: bool) -> None:
    eigenvalues = np.array([1.3, 1.0, -0.7, 0.2])
    basis = np.random.default_rng(3).standard_normal((4, 4))
    basis = np.linalg.qr(basis)[0] if symmetric else basis
    layer = RNN(D, 4, nonlinearity="identity", dtype="float64", seed=0)
    layer.params["Wh_l0"] = basis @ np.diag(eigenvalues) @ np.linalg.inv(basis)
    x = RNG.standard_normal((260, 2, D))
    got = diagnostics.lyapunov_exponents(layer, x, warmup=150)
    assert list(got) == ["l0"]
    np.testing.assert_allclose(got["l0"], np.log([1.3, 1.0, 0.7, 0.2]), atol=1e-10)


def test_complex_eigenvalues_share_an_exponent() -> None:
    angle = 0.3
    layer = RNN(D, 2, nonlinearity="identity", dtype="float64", seed=0)
    layer.params["Wh_l0"] = 0.9 * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    got = diagnostics.lyapunov_exponents(layer, X)["l0"]
    np.testing.assert_allclose(got, np.log([0.9, 0.9]), atol=1e-12)


@pytest.mark.parametrize("name", ["lstm", "gru_after", "leaky"])
def test_lyapunov_exponents_add_up_to_the_change_of_volume(name: str) -> None:
    layer = Recurrent(CELLS[name], D, H, dtype="float64", seed=0)
    got = diagnostics.lyapunov_exponents(layer, X)["l0"]
    assert got.shape == (len(layer.cell.states) * H,) and (np.diff(got) <= 0).all()
    volumes = [np.linalg.slogdet(J)[1] for n in range(N) for J in jacobians_along(layer, X[:, n])]
    assert got.sum() == pytest.approx(np.mean(volumes), abs=1e-6)


def test_lyapunov_exponents_of_a_dead_network_are_minus_infinity() -> None:
    layer = RNN(D, 3, nonlinearity="relu", dtype="float64", seed=0)
    layer.params["bx_l0"] = np.full(3, -100.0)
    assert np.isneginf(diagnostics.lyapunov_exponents(layer, X)["l0"]).all()
    several = diagnostics.lyapunov_exponents(Model([GRU(D, 2, 2, dtype="float64", seed=0)]), X)
    assert {name: values.shape for name, values in several.items()} == {"0.l0": (2,), "0.l1": (2,)}


# Saturated and dead units.


def test_activity_counts_what_the_equations_give() -> None:
    layer, x = lstm(), 3 * X
    p = layer.params
    h, c = np.zeros((N, H)), np.zeros((N, H))
    counts: dict[str, list[np.ndarray]] = {}
    for t in range(T):
        a = x[t] @ p["Wx_l0"] + h @ p["Wh_l0"] + p["bx_l0"] + p["bh_l0"]
        i, f, o = (1 / (1 + np.exp(-a[:, k * H : (k + 1) * H])) for k in (0, 1, 3))
        g = np.tanh(a[:, 2 * H : 3 * H])
        c = f * c + i * g
        h = o * np.tanh(c)
        for name, value in (("sigmoid(i)", i), ("sigmoid(f)", f), ("sigmoid(o)", o)):
            counts.setdefault(name, []).append(2 * value - 1)
        for name, value in (("tanh(g)", g), ("tanh(c)", np.tanh(c))):
            counts.setdefault(name, []).append(value)
    got = diagnostics.activity(layer, x, threshold=0.8)
    assert [node.node for node in got.nodes] == ["sigmoid(i)", "sigmoid(f)", "tanh(g)", "sigmoid(o)", "tanh(c)"]
    assert sum(node.saturated > 0 for node in got.nodes) >= 3
    for node in got.nodes:
        values = np.array(counts[node.node]).reshape(-1, H)
        np.testing.assert_allclose(node.low, (values < -0.8).mean(axis=0), err_msg=node.node)
        np.testing.assert_allclose(node.high, (values > 0.8).mean(axis=0), err_msg=node.node)


@pytest.mark.parametrize("name", CELLS)
def test_every_nonlinearity_of_every_cell_is_looked_at(name: str) -> None:
    layer = Recurrent(CELLS[name], D, H, 2, dtype="float64", seed=0)
    got = diagnostics.activity(layer, X, mask=MASK, resets=RESETS)
    names = list(node_names(CELLS[name]).values())
    assert len(set(names)) == len(names)
    assert [(n.layer, n.node) for n in got.nodes] == [(layer, n) for layer in ("l0", "l1") for n in names]


def test_dead_relus_and_saturated_tanhs_are_found() -> None:
    relu = RNN(D, H, nonlinearity="relu", seed=0)
    relu.params["bx_l0"] = np.array([-100, -100, 100, 0], "float32")
    (node,) = diagnostics.activity(relu, X.astype("float32")).nodes
    np.testing.assert_array_equal(node.low[:3], [1, 1, 0])
    assert node.dead == 0.5 and node.saturated == 0
    tanh = RNN(D, H, seed=0)
    tanh.params["bx_l0"] = np.array([-100, -100, -100, 100], "float32")
    (node,) = diagnostics.activity(tanh, X.astype("float32")).nodes
    assert (node.low.mean(), node.high.mean(), node.saturated, node.dead) == (0.75, 0.25, 1, 0)
    assert str(diagnostics.activity(tanh, X.astype("float32"))) == "l0: tanh(h) 100% saturated"


def test_inactive_steps_do_not_count() -> None:
    layer, x = RNN(D, H, dtype="float64", seed=0), X.copy()
    x[~MASK] = 1e6
    a = diagnostics.activity(layer, x, mask=MASK).nodes[0]
    x[~MASK] = np.nan
    b = diagnostics.activity(layer, x, mask=MASK).nodes[0]
    assert a.saturated < 0.9
    np.testing.assert_array_equal([a.low, a.high], [b.low, b.high])


def test_the_initial_state_and_all_chunks_count(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = GRU(D, H, dtype="float64", seed=0)
    state = 50 * np.ones((1, N, H))
    whole = diagnostics.activity(layer, X, state)
    assert whole.nodes[0].saturated > diagnostics.activity(layer, X).nodes[0].saturated
    monkeypatch.setattr("fastrnn.diagnostics.saturation._CHUNK", 1)
    for a, b in zip(whole.nodes, diagnostics.activity(layer, X, state).nodes, strict=True):
        np.testing.assert_allclose([a.low, a.high], [b.low, b.high])


# Updates.


def test_update_ratios() -> None:
    before = {"a": np.array([3.0, 4.0]), "b": np.zeros(2), "c": np.zeros(2)}
    after = {"a": np.array([3.0, 4.5]), "b": np.zeros(2), "c": np.ones(2)}
    assert diagnostics.update_ratios(before, after) == {"a": pytest.approx(0.1), "b": 0, "c": np.inf}


def test_the_recorder_follows_an_optimizer() -> None:
    layer = RNN(D, H, dtype="float64", seed=0)
    ratios, optimizer = diagnostics.UpdateRatios(layer.params), fastrnn.optim.SGD(layer.params, 0.5)
    norm = np.linalg.norm(layer.params["Wh_l0"])
    for step in (1, 2):
        grads = {name: np.full_like(value, step) for name, value in layer.params.items()}
        before = np.linalg.norm(layer.params["Wh_l0"])
        optimizer.step(grads)
        assert ratios.record()["Wh_l0"] == pytest.approx(0.5 * step * H / before)
    assert len(ratios.history["bh_l0"]) == 2 and ratios.history["Wh_l0"][0] == pytest.approx(0.5 * H / norm)


# The report.


def scaled(radius: float, nonlinearity: str = "identity") -> RNN:
    layer = RNN(D, H, nonlinearity=nonlinearity, dtype="float64", seed=0)
    layer.params["Wh_l0"] = radius * np.linalg.qr(RNG.standard_normal((H, H)))[0]
    return layer


@pytest.mark.parametrize(
    ("radius", "verdict", "since", "steps", "words"),
    [
        (
            0.5,
            "vanishing",
            39,
            10,
            ["since step 39: 10 steps before the end", "halved every 1 steps", "LSTM"],
        ),
        (2.0, "exploding", 39, 10, ["exploding since step 39", "doubled every 1 steps", "clip_grad_norm", "truncate"]),
        (1.0, "healthy", None, 50, ["l0: healthy", "multiplied by 1 a step"]),
        (0.9, "healthy", None, 50, ["multiplied by 0.9 a step"]),
    ],
)
def test_report_on_known_rates(radius: float, verdict: str, since: int, steps: int, words: list[str]) -> None:
    x = RNG.standard_normal((50, 2, D))
    got = diagnostics.report(scaled(radius), x)
    assert got.verdict == verdict or (radius == 0.9 and got.verdict == "vanishing")
    if radius != 0.9:
        (found,) = got.reaches
        assert (found.layer, found.verdict, found.since, found.steps) == ("l0", verdict, since, steps)
        assert found.factor == pytest.approx(radius)
        assert all(word in str(got) for word in words)
        assert bool(got.advice) == (verdict != "healthy")


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (LSTM(D, H, seed=0), "larger bias of the forget gate"),
        (GRU(D, H, seed=0), "larger bias of the update gate"),
        (RNN(D, H, nonlinearity="sigmoid", seed=0), "tanh in place of sigmoid"),
        (RNN(D, H, seed=0), "orthogonal"),
    ],
    ids=["lstm", "gru", "sigmoid", "tanh"],
)
def test_advice_is_for_the_cell(layer: Recurrent, words: str) -> None:
    x = RNG.standard_normal((60, 2, D)).astype("float32")
    got = diagnostics.report(layer, x)
    assert got.verdict == "vanishing"
    assert words in str(got)


def test_advice_on_a_forget_gate_helps() -> None:
    layer, x = LSTM(D, H, bias=True, seed=0), 0.1 * RNG.standard_normal((60, 2, D)).astype("float32")
    for name in ("bx_l0", "bh_l0"):
        layer.params[name][...] = 0
    before = diagnostics.report(layer, x)
    layer.params["bx_l0"][H : 2 * H] += np.log(60)
    after = diagnostics.report(layer, x)
    assert (before.verdict, after.verdict) == ("vanishing", "healthy")
    assert before.reaches[0].factor < 0.7 and after.reaches[0].factor > 0.9


def test_report_names_saturated_and_dead_units() -> None:
    layer = RNN(D, H, dtype="float64", seed=0)
    layer.params["bx_l0"] = np.full(H, 20.0)
    got = str(diagnostics.report(layer, X))
    assert "100% of tanh(h) in l0 are saturated: smaller inputs" in got
    relu = RNN(D, H, nonlinearity="relu", dtype="float64", seed=0)
    relu.params["bx_l0"] = np.full(H, -20.0)
    dead = diagnostics.report(relu, X)
    assert dead.verdict == "vanishing" and "100% of the units of l0 are dead" in str(dead)


def test_reach_of_norms_that_are_no_numbers_or_nothing() -> None:
    assert reach("l0", np.zeros(5)).verdict == "vanishing"
    overflow = reach("l0", np.array([np.nan, np.inf, 1e200, 1.0]))
    assert (overflow.verdict, overflow.since, overflow.steps) == ("exploding", 2, 1)
    assert reach("l0", np.array([np.nan, np.inf, 1.0])).factor == np.inf
    padded = reach("l0", np.array([1e-4, 0.5, 1.0, 0.0, 0.0]))
    assert (padded.verdict, padded.since, padded.steps) == ("vanishing", 0, 2)
    turned = reach("l0", np.array([1.0, 0.5, 1e-4]), from_the_end=True)
    assert (turned.verdict, turned.since, turned.steps) == ("vanishing", 2, 2)
    assert reach("l0", np.array([2.0])).factor == 1
    from_both_ends = reach("l0", np.concatenate([0.5 ** np.arange(20), 0.5 ** np.arange(20)[::-1]]))
    assert from_both_ends.factor == pytest.approx(0.5) and from_both_ends.since == 29


# Pictures.


def pictures() -> dict[str, Any]:
    layer = LSTM(D, H, 2, seed=0)
    x = X.astype("float32")
    return {
        "plot_gradients": diagnostics.gradient_flow(layer, x),
        "plot_jacobians": diagnostics.jacobian_norms(layer, x),
        "plot_lyapunov": diagnostics.lyapunov_exponents(layer, x),
        "plot_activity": diagnostics.activity(layer, x),
        "plot_updates": {"Wx": [1e-3, 2e-3], "Wh": [0.0, np.inf]},
    }


def test_each_quantity_has_one_plot_by_one_call(tmp_path: Path) -> None:
    scales = {"plot_lyapunov": "linear", "plot_activity": "linear"}
    for name, value in pictures().items():
        path = tmp_path / f"{name}.png"
        figure = getattr(diagnostics, name)(value, path)
        assert path.read_bytes().startswith(b"\x89PNG")
        (axes,) = figure.axes
        assert axes.get_yscale() == scales.get(name, "log"), name
        assert axes.get_xlabel() and axes.get_title() and axes.get_legend()
        assert axes.get_ylabel() or name == "plot_activity"
        assert getattr(diagnostics, name)(value, axes=axes) is figure


def test_what_has_no_place_on_a_logarithmic_axis_is_left_out() -> None:
    figure = diagnostics.plot_jacobians({"l0": np.array([[-np.inf], [-800.0], [np.inf], [0.0]])})
    line = next(line for line in figure.axes[0].lines if line.get_label() == "l0")
    np.testing.assert_array_equal(line.get_ydata(), [np.nan, np.nan, np.nan, 1])


def test_matplotlib_is_imported_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    importlib.reload(diagnostics.plots)
    with pytest.raises(ImportError, match=r"pip install 'fastrnn\[plot\]'"):
        diagnostics.plots.plot_updates({"a": [1.0]})


# Wrong use.


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: diagnostics.gradient_flow(Linear(2, 2), X), TypeError, "layer: expected a recurrent layer or a Model"),
        (lambda: diagnostics.report(Model([Linear(2, 2)]), X), ValueError, "layer: expected a Model with a recurrent"),
        (lambda: diagnostics.gradient_flow(lstm(), X[0]), ValueError, r"x: expected shape \(T, N, 2\)"),
        (lambda: diagnostics.gradient_flow(lstm(), X.astype("float32")), TypeError, "x: expected dtype float64"),
        (lambda: diagnostics.gradient_flow(lstm(), X[:0]), ValueError, "x: expected at least one step"),
        (lambda: diagnostics.gradient_flow(lstm(), X[:, :0]), ValueError, "x: expected at least one step of one seq"),
        (lambda: diagnostics.gradient_flow(lstm(), X, X), ValueError, r"dy: expected shape \(6, 3, 4\)"),
        (lambda: diagnostics.gradient_flow(lstm(), X, state=X), TypeError, "state: expected a tuple of 2"),
        (lambda: diagnostics.gradient_flow(lstm(), X, lengths=[9, 1, 1]), ValueError, "lengths: expected values"),
        (lambda: diagnostics.jacobian_norms(lstm(), X, mask=MASK.T), ValueError, "mask: expected shape"),
        (lambda: diagnostics.jacobian_norms("lstm", X), TypeError, "layer: expected"),
        (
            lambda: diagnostics.lyapunov_exponents(lstm(), X, warmup=6),
            ValueError,
            "warmup: expected at least 0 and",
        ),
        (lambda: diagnostics.lyapunov_exponents(lstm(), X, warmup=0.5), TypeError, "warmup: expected an integer"),
        (lambda: diagnostics.activity(lstm(), X, threshold=1), ValueError, "threshold: expected a number above 0"),
        (lambda: diagnostics.activity(lstm(), X, threshold="a"), ValueError, "threshold: expected a number"),
        (lambda: diagnostics.update_ratios([], {}), TypeError, "before: expected a mapping"),
        (lambda: diagnostics.update_ratios({"a": X}, {"b": X}), ValueError, "after: expected a; missing a; unknown b"),
        (lambda: diagnostics.update_ratios({"a": X}, {"a": X[0]}), ValueError, r"after\['a'\]: expected shape"),
        (lambda: diagnostics.UpdateRatios(3), TypeError, "params: expected a mapping"),
        (lambda: diagnostics.plot_gradients({}), TypeError, "flow: expected what gradient_flow returns"),
        (lambda: diagnostics.plot_jacobians({"l0": X}), TypeError, r"norms\['l0'\]: expected an array of 2 dimensions"),
        (lambda: diagnostics.plot_lyapunov([]), TypeError, "exponents: expected a mapping"),
        (lambda: diagnostics.plot_activity({}), TypeError, "units: expected what activity returns"),
        (lambda: diagnostics.plot_updates([1.0]), TypeError, "history: expected a mapping"),
        (lambda: diagnostics.plot_updates({"a": [1.0]}, axes=3), TypeError, "axes: expected the axes"),
        (lambda: diagnostics.plot_updates({"a": [1.0]}, 3), TypeError, "path: expected a path"),
    ],
)
def test_wrong_use(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
