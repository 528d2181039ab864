"""Online learners: gradients carried forward, against BPTT over the whole sequence and against naive rules."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import fastrnn
import guarded
import user_cells
from fastrnn import Embedding, Linear, Model, Recurrent, cell
from fastrnn.backends.numba.online import step as compiled_step
from fastrnn.cells import Cell, sigmoid, tanh
from fastrnn.cells.builtin import built_in
from fastrnn.online import RFLO, RTRL, UORO, EProp, SnAp1

CELLS = [*built_in(), *(getattr(user_cells, name) for name in ("leaky", "mgu", "peephole_lstm", "indrnn", "relaxing"))]


@cell(gates="z n")
def mingru(x: Any, h: Any) -> Any:
    """Minimal GRU without recurrent matrices: Feng et al., arXiv:2410.01201 (2024), eq. 6."""
    z = sigmoid(x.z)
    return (1 - z) * h + z * x.n


@cell(gates="a", units="w")
def two_states(x: Any, p: Any, h: Any, s: Any) -> Any:
    """Two states of a unit that act on each other, without recurrent matrices."""
    return tanh(x.a + p.w * s), 0.5 * h + 0.9 * s


DIAGONAL = [user_cells.indrnn, mingru, two_states]


@pytest.fixture(params=["numba", "numpy"])
def engine(request: pytest.FixtureRequest) -> Any:
    """The learners have their own code on these."""
    with fastrnn.use_backend(request.param):
        yield request.param


def stack(cell: Cell, *, D: int = 3, H: int = 4, dtype: str = "float64", **options: Any) -> Recurrent:
    return Recurrent(cell, D, H, dtype=dtype, seed=7, **options)


def stream(layer: Any, T: int = 7, N: int = 2, D: int = 3, outputs: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.standard_normal((T, N, D)), rng.standard_normal((T, N, outputs))


def by_bptt(layer: Any, x: np.ndarray, dy: np.ndarray, **flags: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    layer.zero_grad()
    y, _ = layer.forward(x, **flags)
    layer.backward(dy)
    return np.array(y), {name: grad.copy() for name, grad in layer.grads.items()}


def online(learner: Any, x: np.ndarray, dy: np.ndarray, resets: Any = None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    learner.layer.zero_grad()
    ys = []
    for t in range(len(x)):
        ys.append(learner.forward(x[t], resets=None if resets is None else resets[t]))
        learner.backward(dy[t])
    return np.array(ys), {name: grad.copy() for name, grad in learner.layer.grads.items()}


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray], rtol: float = 1e-10) -> None:
    norm = np.sqrt(sum(np.sum(e**2) for e in expected.values()))
    assert norm > 0
    for name, value in expected.items():
        assert np.linalg.norm(got[name] - value) <= rtol * norm, name


@pytest.mark.parametrize("cell", [*CELLS, mingru, two_states, user_cells.choosing], ids=lambda c: c.name)
@pytest.mark.parametrize("layers", [1, 2])
def test_rtrl_is_bptt_over_the_whole_sequence(cell: Cell, layers: int, engine: str) -> None:
    layer = stack(cell, num_layers=layers)
    x, dy = stream(layer)
    y, expected = by_bptt(layer, x, dy)
    learner = RTRL(layer)
    ys, got = online(learner, x, dy)
    assert np.allclose(ys, y, rtol=1e-12, atol=1e-14)
    assert_same(got, expected)
    for a, b in zip(np.atleast_1d(learner.state), np.atleast_1d(layer(x)[1]), strict=True):
        assert np.allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("cell", [fastrnn.cells.lstm, fastrnn.cells.gru(reset_after=False)], ids=lambda c: c.name)
def test_rtrl_of_sizes_that_are_no_whole_vectors(cell: Cell, engine: str) -> None:
    layer = stack(cell, D=5, H=19, num_layers=2, bias=False)
    x, dy = stream(layer, T=4, N=3, D=5, outputs=19)
    _, expected = by_bptt(layer, x, dy)
    assert_same(online(RTRL(layer), x, dy)[1], expected)


def test_rtrl_of_a_model_with_layers_without_memory_everywhere(engine: str) -> None:
    net = Model(
        [
            Embedding(5, 3, dtype="float64", seed=1),
            Linear(3, 4, dtype="float64", seed=4),
            stack(fastrnn.cells.gru(), D=4, num_layers=2),
            Linear(4, 3, dtype="float64", seed=2, bias=False),
            stack(fastrnn.cells.lstm),
            Linear(4, 2, dtype="float64", seed=3),
        ]
    )
    rng = np.random.default_rng(0)
    x, dy = rng.integers(0, 5, (6, 3)), rng.standard_normal((6, 3, 2))
    y, expected = by_bptt(net, x, dy)
    learner = RTRL(net)
    ys, got = online(learner, x, dy)
    assert np.allclose(ys, y, rtol=1e-12)
    assert_same(got, expected)
    assert learner.backward(dy[-1]) is None
    for a, b in zip(learner.state, net(x)[1], strict=True):
        assert all(np.allclose(p, q, rtol=1e-12) for p, q in zip(np.atleast_1d(a), np.atleast_1d(b), strict=True))


LEARNERS = [RTRL, RFLO, EProp, SnAp1, UORO]


@pytest.mark.parametrize("kind", LEARNERS, ids=lambda k: k.__name__)
def test_resets_begin_anew(kind: Any, engine: str) -> None:
    layer = stack(fastrnn.cells.lstm)
    x, dy = stream(layer, T=6)
    resets = np.zeros((6, 2), bool)
    resets[3, 1] = resets[4, 0] = resets[0, 0] = True
    y, expected = by_bptt(layer, x, dy, resets=resets)
    if kind is RTRL:
        ys, got = online(RTRL(layer), x, dy, resets)
        assert_same(got, expected)
    else:
        # A reset at step 3 is as good as a learner that begins there.
        options = {"seed": 0} if kind is UORO else {}
        ys, _ = online(kind(layer, **options), x, dy, resets)
        everything = np.zeros((6, 2), bool)
        everything[3] = True
        ours, fresh = (kind(layer, **options) for _ in range(2))
        if kind is not UORO:
            _, whole = online(ours, x, dy, everything)
            parts = [online(kind(layer), x[part], dy[part])[1] for part in (slice(0, 3), slice(3, 6))]
            assert_same(whole, {name: parts[0][name] + parts[1][name] for name in whole}, 1e-13)
            online(fresh, x, dy)
            fresh.reset()
            assert_same(online(fresh, x[:3], dy[:3])[1], parts[0], 1e-13)
    assert np.allclose(ys, y, rtol=1e-12)


@pytest.mark.parametrize("kind", LEARNERS, ids=lambda k: k.__name__)
@pytest.mark.parametrize("cell", [fastrnn.cells.lstm, fastrnn.cells.gru(reset_after=False)], ids=lambda c: c.name)
def test_dx_is_the_gradient_through_this_step(kind: Any, cell: Cell, engine: str) -> None:
    layer = stack(cell, num_layers=2)
    x, dy = stream(layer, T=3)
    learner = kind(layer)
    before = None
    for t in range(3):
        learner.forward(x[t])
        dx = learner.backward(dy[t])
        _, _, pullback = layer.vjp(x[t : t + 1], before)
        assert np.allclose(dx, pullback(dy[t : t + 1])[0][0], rtol=1e-11, atol=1e-13)
        before = learner.state


def test_a_step_may_have_several_losses_or_none(engine: str) -> None:
    layer = stack(fastrnn.cells.gru())
    x, dy = stream(layer)
    dy[2] = dy[4] = 0
    _, expected = by_bptt(layer, x, dy)
    layer.zero_grad()
    learner = RTRL(layer)
    for t in range(len(x)):
        learner.forward(x[t])
        if t not in (2, 4):
            learner.backward(0.25 * dy[t])
            learner.backward(0.75 * dy[t])
    assert_same(dict(layer.grads), expected)


@pytest.mark.parametrize("cell", DIAGONAL, ids=lambda c: c.name)
def test_snap1_is_exact_for_cells_whose_units_do_not_see_each_other(cell: Cell, engine: str) -> None:
    layer = stack(cell)
    x, dy = stream(layer)
    _, expected = by_bptt(layer, x, dy)
    assert_same(online(SnAp1(layer), x, dy)[1], expected)
    # Without matrices there are no products for RFLO to leave out.
    assert_same(online(RFLO(layer), x, dy)[1], expected)


@pytest.mark.parametrize("cell", [fastrnn.cells.lstm, fastrnn.cells.gru(), fastrnn.cells.rnn()], ids=lambda c: c.name)
def test_snap1_is_exact_for_diagonal_matrices_and_rflo_is_not(cell: Cell, engine: str) -> None:
    layer = stack(cell)
    for m in range(len(cell.recurrent)):
        block = layer.params["Wh_l0"][:, m * 4 : (m + 1) * 4]
        block[...] = np.diag(block.diagonal())
    x, dy = stream(layer)
    _, expected = by_bptt(layer, x, dy)
    got = online(SnAp1(layer), x, dy)[1]
    for name in set(expected) - {"Wh_l0"}:
        assert np.linalg.norm(got[name] - expected[name]) <= 1e-10 * np.linalg.norm(expected[name]), name
    rflo = online(RFLO(layer), x, dy)[1]
    assert np.linalg.norm(rflo["Wx_l0"] - expected["Wx_l0"]) > 1e-3 * np.linalg.norm(expected["Wx_l0"])


def naive_traces(layer: Recurrent, x: np.ndarray, dy: np.ndarray, diagonal: bool) -> dict[str, np.ndarray]:
    """RFLO and SnAp-1 of a leaky RNN, one number at a time."""
    Wx, Wh, b = layer.params["Wx_l0"], layer.params["Wh_l0"], layer.params["bx_l0"] + layer.params["bh_l0"]
    D, H = Wx.shape
    share = layer.cell.constants["dt"] / layer.cell.constants["tau"]
    grads = {"Wx_l0": np.zeros((D, H)), "Wh_l0": np.zeros((H, H)), "bx_l0": np.zeros(H)}
    for n in range(x.shape[1]):
        h, trace = np.zeros(H), {name: np.zeros_like(g) for name, g in grads.items()}
        for t in range(len(x)):
            a = np.tanh(x[t, n] @ Wx + h @ Wh + b)
            for j in range(H):
                slope = share * (1 - a[j] ** 2)
                keep = 1 - share + (slope * Wh[j, j] if diagonal else 0)
                for name, source in (("Wx_l0", x[t, n]), ("Wh_l0", h)):
                    for i in range(len(source)):
                        trace[name][i, j] = keep * trace[name][i, j] + slope * source[i]
                trace["bx_l0"][j] = keep * trace["bx_l0"][j] + slope
            h = (1 - share) * h + share * a
            for name, g in grads.items():
                g += dy[t, n] * trace[name]
    return {**grads, "bh_l0": grads["bx_l0"]}


@pytest.mark.parametrize(("kind", "diagonal"), [(RFLO, False), (EProp, False), (SnAp1, True)])
def test_traces_are_those_of_the_papers(kind: Any, diagonal: bool, engine: str) -> None:
    layer = stack(user_cells.leaky(tau=3.0))
    x, dy = stream(layer)
    assert_same(online(kind(layer), x, dy)[1], naive_traces(layer, x, dy, diagonal), 1e-12)


def test_eprop_of_an_lstm_is_that_of_its_paper(engine: str) -> None:
    """Bellec et al. (2020), supplement: the hidden state of an LSTM is c, and ``dc'/dc = f``."""
    layer = stack(fastrnn.cells.lstm)
    x, dy = stream(layer, N=1)
    p, H = layer.params, 4
    h, c, trace = np.zeros(H), np.zeros(H), np.zeros((3, 4 * H))
    expected = np.zeros((3, 4 * H))
    for t in range(len(x)):
        a = x[t, 0] @ p["Wx_l0"] + p["bx_l0"] + h @ p["Wh_l0"] + p["bh_l0"]
        i, f, o = (1 / (1 + np.exp(-a[k * H : (k + 1) * H])) for k in (0, 1, 3))
        g = np.tanh(a[2 * H : 3 * H])
        slopes = np.concatenate([g * i * (1 - i), c * f * (1 - f), i * (1 - g**2), 0 * o])
        trace = np.tile(f, 4) * trace + x[t, 0][:, None] * slopes
        c = f * c + i * g
        through_c = np.tile(dy[t, 0] * o * (1 - np.tanh(c) ** 2), 4) * trace
        through_c[:, 3 * H :] = x[t, 0][:, None] * (dy[t, 0] * np.tanh(c) * o * (1 - o))
        expected += through_c
        h = o * np.tanh(c)
    assert_same(online(EProp(layer), x, dy)[1] | {}, {"Wx_l0": expected}, 1e-12)


@pytest.mark.parametrize("kind", [RFLO, SnAp1])
@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.name)
def test_traces_agree_between_backends(kind: Any, cell: Cell) -> None:
    found = []
    for name in ("numpy", "numba"):
        net = Model([Linear(3, 5, dtype="float64", seed=2), stack(cell, D=5, H=19, num_layers=2)])
        x, dy = stream(net, T=4, outputs=19)
        with fastrnn.use_backend(name):
            found.append(online(kind(net), x, dy)[1])
    assert_same(found[1], found[0], 1e-12)


@pytest.mark.parametrize("cell", [fastrnn.cells.rnn(), fastrnn.cells.lstm], ids=lambda c: c.name)
def test_uoro_is_right_in_the_mean(cell: Cell) -> None:
    """Over many draws, here the sequences of one batch, the error falls as for independent samples."""
    layer = stack(cell, num_layers=2, H=3)
    x, dy = stream(layer, T=4, N=1, outputs=3)
    _, expected = by_bptt(layer, x, dy)
    draws = 20000
    learner = UORO(layer, seed=1)
    _, got = online(learner, np.repeat(x, draws, axis=1), np.repeat(dy, draws, axis=1))
    mean = {name: grad / draws for name, grad in got.items()}
    assert_same(mean, expected, 0.05)
    few = online(UORO(layer, seed=1), x, dy)[1]
    assert max(np.linalg.norm(few[n] - expected[n]) for n in few) > 0.1


@pytest.mark.skipif(not guarded.AVAILABLE, reason="memory is protected by POSIX's mprotect")
@pytest.mark.parametrize("at_end", [True, False], ids=["end", "begin"])
@pytest.mark.parametrize("H", [16, 19])
@pytest.mark.parametrize("kind", [RTRL, SnAp1])
@pytest.mark.parametrize("cell", [fastrnn.cells.gru(reset_after=False), user_cells.peephole_lstm], ids=lambda c: c.name)
def test_machine_code_stays_inside_its_arrays(
    cell: Cell, kind: Any, H: int, at_end: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that it reads and writes lies beside pages that no one may touch."""
    layer = stack(cell, D=5, H=H, num_layers=2)
    x, dy = stream(layer, T=2, N=3, D=5, outputs=H)
    with fastrnn.use_backend("numpy"):
        expected = online(kind(layer), x, dy)[1]

    def beside(shape: Any, dtype: Any) -> np.ndarray:
        return guarded.empty(shape, dtype, at_end=at_end) if np.prod(shape) else np.empty(shape, dtype)

    monkeypatch.setattr(compiled_step, "aligned", beside)
    for arrays in (layer._params, layer._grads):
        arrays.own.update({name: guarded.copy(a, at_end=at_end) for name, a in arrays.items()})
    x, dy = ([guarded.copy(row, at_end=at_end) for row in a] for a in (x, dy))
    with fastrnn.use_backend("numba"):
        assert_same(online(kind(layer), x, dy)[1], expected)


def test_uoro_of_one_seed_is_the_same_again() -> None:
    layer = stack(fastrnn.cells.gru())
    x, dy = stream(layer)
    first, again, other = (online(UORO(layer, seed=s), x, dy)[1] for s in (3, 3, 4))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.allclose(first["Wx_l0"], other["Wx_l0"])


@pytest.mark.parametrize("kind", LEARNERS, ids=lambda k: k.__name__)
def test_update_changes_weights_at_every_sample(kind: Any, engine: str) -> None:
    net = Model([stack(fastrnn.cells.gru(), dtype="float32"), Linear(4, 1, seed=1)])
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 1, 3)).astype("float32")
    target = x[:, :, :1] * 0.5
    learner = kind(net, loss=fastrnn.losses.mse, optimizer=fastrnn.optim.Adam(net.params, lr=0.01))
    before = {name: p.copy() for name, p in net.params.items()}
    losses = [learner.update(x[t], target[t])[1] for t in range(300)]
    assert all((net.params[name] != p).any() for name, p in before.items())
    assert np.mean(losses[-50:]) < 0.3 * np.mean(losses[:50])


@pytest.mark.parametrize("kind", LEARNERS, ids=lambda k: k.__name__)
def test_float32_is_float64_rounded(kind: Any, engine: str) -> None:
    found = []
    for dtype in ("float32", "float64"):
        layer = stack(fastrnn.cells.lstm, H=8, dtype="float32")
        wide = stack(fastrnn.cells.lstm, H=8)
        wide.params.update({name: p.astype("float64") for name, p in layer.params.items()})
        x, dy = (a.astype("float32").astype(dtype) for a in stream(layer, outputs=8))
        options = {"seed": 0} if kind is UORO else {}
        found.append(online(kind(layer if dtype == "float32" else wide, **options), x, dy)[1])
    assert all(grad.dtype == np.float32 for grad in found[0].values())
    assert_same(found[0], found[1], 1e-4)


def test_an_influence_is_a_row_for_each_state_and_a_column_for_each_parameter() -> None:
    layer = stack(fastrnn.cells.lstm, num_layers=2)
    with fastrnn.use_backend("numpy"):
        learner = RTRL(layer)
        need = learner.nbytes()
    # Two layers of 2*4 states: rows of the units, 4 gates of 3 or 4 inputs and 4 states and a bias.
    first, second = 4 * 4 * (3 + 4 + 1), 4 * 4 * (4 + 4 + 1)
    assert need == 8 * 8 * (first + first + second)


def test_an_influence_takes_as_many_bytes_as_it_says(engine: str) -> None:
    net = Model([Linear(3, 3, dtype="float64"), stack(fastrnn.cells.lstm, num_layers=2)])
    learner = RTRL(net)
    learner.forward(np.zeros((2, 3)))
    found = [getattr(node, "influence", None) for node in learner._nodes[1:]]
    assert learner.nbytes(2) == sum(a.nbytes for a in [learner._nodes[0].output_influence, *found])


def test_an_influence_that_is_too_large_names_what_is_smaller(engine: str) -> None:
    layer = stack(fastrnn.cells.lstm, num_layers=2)
    need = RTRL(layer).nbytes()
    RTRL(layer, need)
    with pytest.raises(ValueError, match=f"max_bytes: expected at least {need} .*got {need - 1}; SnAp1"):
        RTRL(layer, need - 1)
    learner = RTRL(layer, need)
    with pytest.raises(ValueError, match=f"max_bytes: expected at least {2 * need} for the influence of 2"):
        learner.forward(np.zeros((2, 3)))
    learner.forward(np.zeros((1, 3)))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: RTRL(Linear(3, 4)), TypeError, "layer: expected a recurrent layer or a Model, got Linear"),
        (lambda: RFLO(Model([Linear(3, 4)])), ValueError, "layer: expected a Model with a recurrent layer"),
        (lambda: SnAp1(fastrnn.RNN(3, 4, bidirectional=True)), ValueError, "layer: .*got bidirectional"),
        (lambda: UORO(fastrnn.RNN(3, 4, reverse=True)), ValueError, "layer: .*got reversed"),
        (lambda: RTRL(fastrnn.RNN(3, 4), 0), ValueError, "max_bytes: expected at least 1"),
        (lambda: RTRL(fastrnn.RNN(3, 4), 1.5), TypeError, "max_bytes: expected an integer"),
        (lambda: RTRL(fastrnn.RNN(3, 4), loss=3), TypeError, "loss: expected a function"),
        (lambda: RFLO(fastrnn.RNN(3, 4), optimizer=3), TypeError, "optimizer: expected one of fastrnn.optim"),
        (
            lambda: RFLO(fastrnn.RNN(3, 4), optimizer=fastrnn.optim.SGD({"a": np.zeros(3)})),
            ValueError,
            "optimizer: expected one of the parameters Wx_l0",
        ),
        (lambda: UORO(fastrnn.RNN(3, 4), "x"), TypeError, "seed: expected an integer"),
    ],
)
def test_wrong_learners_are_refused(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize("kind", LEARNERS, ids=lambda k: k.__name__)
def test_wrong_steps_are_refused_and_change_nothing(kind: Any, engine: str) -> None:
    layer = stack(fastrnn.cells.rnn())
    learner = kind(layer)
    assert learner.state is None
    with pytest.raises(RuntimeError, match="call forward first"):
        learner.backward(np.zeros((2, 4)))
    with pytest.raises(RuntimeError, match="loss= and optimizer=, no loss"):
        learner.update(np.zeros((2, 3)), 0)
    learner.forward(np.ones((2, 3)))
    before = learner.state.copy()
    wrong = [
        (np.zeros((2, 4)), ValueError, r"x: expected shape \(N, 3\)"),
        (np.zeros((1, 2, 3)), ValueError, r"x: expected shape \(N, 3\)"),
        (np.zeros((2, 3), "float32"), TypeError, "x: expected dtype float64"),
        (np.zeros((3, 3)), ValueError, r"x: expected 2 sequences .* got 3: call reset\(\)"),
        ([[0.0] * 3] * 2, TypeError, "x: expected a NumPy array"),
        (np.zeros((0, 3)), ValueError, "x: expected at least one sequence"),
    ]
    for x, error, words in wrong:
        with pytest.raises(error, match=words):
            learner.forward(x)
    with pytest.raises(ValueError, match="resets: expected shape"):
        learner.forward(np.ones((2, 3)), resets=[True])
    for again in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="a learner cannot be pickled or copied"):
            again(learner)
    for dy, error, words in (
        (np.zeros((2, 3)), ValueError, "dy: expected shape"),
        (np.zeros((2, 4), "float32"), TypeError, "dy: expected dtype"),
    ):
        with pytest.raises(error, match=words):
            learner.backward(dy)
    assert np.array_equal(learner.state, before)
    assert not any(grad.any() for grad in layer.grads.values())


@pytest.mark.parametrize("kind", LEARNERS, ids=lambda k: k.__name__)
def test_no_array_of_the_caller_is_kept_or_changed(kind: Any, engine: str) -> None:
    layer = stack(fastrnn.cells.lstm)
    x, dy = stream(layer, T=2)
    x.flags.writeable = dy.flags.writeable = False
    options = {"seed": 0} if kind is UORO else {}
    _, expected = online(kind(layer, **options), x, dy)
    learner = kind(layer, **options)
    layer.zero_grad()
    given = np.empty((2, 6))[:, ::2]
    for t in range(2):
        given[...] = x[t]
        y = learner.forward(given)
        y_before, state = y.copy(), learner.state
        given[...] = np.nan
        learner.backward(np.asfortranarray(dy[t]))
        assert np.array_equal(y, y_before)
        assert np.array_equal(state[0][0], y)
    assert_same(dict(layer.grads), expected, 1e-13)
