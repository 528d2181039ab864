"""The character language model: text, bigram model, training, saving, sampling."""

from __future__ import annotations

import builtins
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fastrnn
from fastrnn.train import loop, plot
from fastrnn.train.data import (
    Batches,
    Corpus,
    InputError,
    Vocabulary,
    bigram_bits,
    default_text,
    read_text,
)
from fastrnn.train.language_model import Architecture, LanguageModel
from fastrnn.train.loop import CHARACTER_BUDGET, CHECKS, History, Schedule, seconds_per_step, train
from fastrnn.train.sample import sample

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 60
SMALL = Architecture(hidden_size=16, embedding_size=8)
QUICK = Schedule(batch_size=4, steps=16, epochs=2, lr=1e-2)


@pytest.fixture(autouse=True)
def numpy_backend() -> Iterator[None]:
    """Nothing here depends on the backend, and this one need not compile."""
    with fastrnn.use_backend("numpy"):
        yield


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.of(TEXT)


def new_model(corpus: Corpus, architecture: Architecture = SMALL) -> LanguageModel:
    return LanguageModel.new(corpus.vocabulary, architecture, seed=1)


# --- text ---


def test_default_text_is_some_hundred_kilobytes_of_english() -> None:
    text = default_text()
    assert len(text) > 200_000
    assert text.count(" the ") > 1000


def test_read_text_takes_bom_and_foreign_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo \xc3\xa9\n")
    assert read_text(path) == "one\ntwo é\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), (b"caf\xe9 au lait", "byte 3 is 0xe9"), (b"a\0b", "NUL")],
)
def test_what_is_not_text_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_text(path)
    assert str(path) in str(error.value)


def test_vocabulary_there_and_back() -> None:
    text = "héllo wörld 日本 🙂\n"
    vocabulary = Vocabulary.of(text)
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert list(vocabulary.characters) == sorted(set(text))
    assert vocabulary.encode("").shape == (0,)


@pytest.mark.parametrize("unknown", ["Z", "\0", "\U0010ffff", "\udcff"])
def test_vocabulary_names_what_it_does_not_know(unknown: str) -> None:
    with pytest.raises(InputError, match="never seen") as error:
        Vocabulary.of("abc").encode("a" + unknown)
    assert repr(unknown) in str(error.value)


# --- split and batches ---


def test_every_piece_held_out_ends_its_part_of_the_text() -> None:
    text = "".join(chr(0x4E00 + i) for i in range(103))
    corpus = Corpus.of(text, held_out=10, pieces=2)
    decode = corpus.vocabulary.decode
    assert [decode(piece) for piece in corpus.held_out.T] == [text[46:51], text[98:]]
    assert decode(corpus.train) == text[:46] + text[51:98]


@pytest.mark.parametrize(("length", "held_out"), [(1_115_394, 40_000), (100_000, 10_000)])
def test_held_out_by_default(length: int, held_out: int) -> None:
    assert Corpus.of("ab" * (length // 2)).held_out.size == held_out


@pytest.mark.parametrize(("text", "held_out"), [("", None), ("ab" * 20, None), ("ab" * 20, 40), ("ab" * 20, 10**6)])
def test_too_short_to_split(text: str, held_out: int | None) -> None:
    with pytest.raises(InputError, match=f"too short: {len(text)} characters"):
        Corpus.of(text, held_out)


def test_batches_continue_each_other() -> None:
    ids = np.arange(50)
    batches = list(Batches(ids, batch_size=3, steps=5))
    assert len(batches) == len(Batches(ids, 3, 5)) == 3
    x = np.concatenate([x for x, _ in batches])
    np.testing.assert_array_equal(x, np.arange(15)[:, None] + 16 * np.arange(3))
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), x + 1)


def test_text_that_just_fills_a_batch() -> None:
    assert len(Batches(np.arange(16), batch_size=3, steps=5)) == 1
    with pytest.raises(InputError, match="15 characters to train on"):
        Batches(np.arange(15), batch_size=3, steps=5)


def test_bigram_against_counting() -> None:
    rng = np.random.default_rng(0)
    train_ids, held_out = rng.integers(5, size=200), rng.integers(5, size=(30, 2))
    pairs, firsts = Counter(pairwise(train_ids)), Counter(train_ids[:-1])
    k, total = 0.5, 0.0
    for column in held_out.T:
        for a, b in pairwise(column):
            total -= math.log2((pairs[a, b] + k) / (firsts[a] + 5 * k))
    assert bigram_bits(train_ids, held_out, 5, k) == pytest.approx(total / 58)


# --- model ---


def test_bits_per_character_is_one_stateful_run(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_model(corpus)
    ids = corpus.held_out
    logits, _ = model.network(ids[:-1])
    logits = logits.astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    expected = -np.take_along_axis(log_p, ids[1:, :, None], axis=2).mean() / math.log(2)
    monkeypatch.setattr("fastrnn.train.language_model._CHUNK", 7)
    assert model.bits_per_character(ids) == pytest.approx(expected, rel=1e-5)


def test_untrained_model_knows_about_nothing(corpus: Corpus) -> None:
    bits = new_model(corpus).bits_per_character(corpus.held_out)
    assert bits == pytest.approx(math.log2(len(corpus.vocabulary)), rel=0.1)


@pytest.mark.parametrize(
    "architecture",
    [
        replace(SMALL, cell="gru", dtype="float64"),
        replace(SMALL, cell="rnn", embedding_size=0),
        replace(SMALL, num_layers=2, dropout=0.2),
    ],
)
def test_saved_model_gives_the_same_figure(corpus: Corpus, architecture: Architecture, tmp_path: Path) -> None:
    model = new_model(corpus, architecture)
    history = train(model, corpus, QUICK)
    path = tmp_path / "m.safetensors"
    model.save(path)
    loaded = LanguageModel.load(path)
    assert loaded.vocabulary == corpus.vocabulary
    assert loaded.bits_per_character(corpus.held_out) == history.best.held_out_bits


def test_files_that_are_no_language_model(corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(InputError, match="cannot be read"):
        LanguageModel.load(path)
    new_model(corpus).network.save(path)
    with pytest.raises(InputError, match="no vocabulary"):
        LanguageModel.load(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="not a model"):
        LanguageModel.load(path)


# --- training ---


def test_training_beats_the_bigram_model(corpus: Corpus) -> None:
    model = new_model(corpus)
    before = model.bits_per_character(corpus.held_out)
    history = train(model, corpus, replace(QUICK, epochs=20))
    assert len(history.checks) == CHECKS
    assert history.best.held_out_bits < corpus.bigram_bits() < before
    assert history.characters == len(history.bits) * 64 == history.checks[-1].characters


def test_same_seed_same_model(corpus: Corpus) -> None:
    models = [new_model(corpus) for _ in range(2)]
    histories = [train(model, corpus, QUICK) for model in models]
    assert histories[0].bits == histories[1].bits
    for name, weights in models[0].network.params.items():
        np.testing.assert_array_equal(weights, models[1].network.params[name])


def test_state_flows_between_batches_and_starts_anew_with_the_text(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = new_model(corpus)
    starts = []
    forward = model.network.forward

    def spy(x: Any, state: Any) -> Any:
        starts.append(state is None)
        return forward(x, state)

    monkeypatch.setattr(model.network, "forward", spy)
    train(model, corpus, QUICK)
    passes = len(Batches(corpus.train, QUICK.batch_size, QUICK.steps))
    assert starts == ([True] + [False] * (passes - 1)) * 2


def test_ends_of_training(corpus: Corpus) -> None:
    batches = Batches(corpus.train, 4, 16)
    assert replace(QUICK, epochs=0.5).total_steps(batches) == round(len(batches) / 2)
    assert replace(QUICK, epochs=1e-9).total_steps(batches) == 1
    assert replace(QUICK, epochs=None, minutes=1).total_steps(batches) == math.inf
    long = Batches(np.zeros(200_000, np.int64), 4, 16)
    assert Schedule(4, 16).total_steps(long) == pytest.approx(CHARACTER_BUDGET / 64, abs=1)
    history = train(new_model(corpus), corpus, replace(QUICK, epochs=None, minutes=1e-9))
    assert len(history.bits) == len(history.checks) == 1


def test_the_best_weights_are_kept(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_model(corpus)
    figures = iter([3.0, 1.0, *[2.0] * CHECKS])
    monkeypatch.setattr(LanguageModel, "bits_per_character", lambda self, ids: next(figures))
    kept = {}

    def watch(history: History) -> None:
        if len(history.checks) == 2 and not kept:
            kept.update({name: w.copy() for name, w in model.network.params.items()})

    history = train(model, corpus, QUICK, on_step=watch)
    assert history.best is history.checks[1]
    for name, weights in model.network.params.items():
        np.testing.assert_array_equal(weights, kept[name])


def test_interrupt_keeps_what_is_there(corpus: Corpus) -> None:
    model = new_model(corpus)
    told = []

    def press(history: History) -> None:
        if len(history.bits) == 5 and not history.interrupted:
            raise KeyboardInterrupt

    history = train(model, corpus, replace(QUICK, epochs=20), press, lambda h: told.append(len(h.bits)))
    assert history.interrupted
    assert told == [len(history.bits)] == [5]
    assert history.best.characters == 5 * 64
    assert model.bits_per_character(corpus.held_out) == history.best.held_out_bits


def test_divergence_is_told(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of a batch that gives no number; before any check there is nothing to keep.
    losses = iter([3.0] * 12 + [math.nan] * 100)
    monkeypatch.setattr("fastrnn.train.loop.TrainingStep.__call__", lambda self, x, y: next(losses))
    history = train(new_model(corpus), corpus, replace(QUICK, epochs=1))
    assert history.diverged and history.went_first is None
    assert len(history.bits) == 12
    assert history.divergence == "training diverged at step 13: the loss was not a finite number"
    with pytest.raises(InputError, match="diverged at step 1: the loss was not a finite number; try"):
        train(new_model(corpus), corpus, QUICK)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_ends_training_before_a_weight_changes(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    model, weights = new_model(corpus), {}
    backward, steps = model.network.backward, []

    def spoil(dy: np.ndarray) -> None:
        backward(dy)
        steps.append(1)
        weights.update({name: w.copy() for name, w in model.network.params.items()})
        if len(steps) == 13:
            model.network.grads["1.Wh_l0"][0, 0] = wrong
            model.network.grads["2.b"][0] = wrong

    monkeypatch.setattr(model.network, "backward", spoil)
    monkeypatch.setattr("fastrnn.train.loop.CHECKS", 1)
    with pytest.raises(InputError, match=r"^training diverged at step 13: the gradient of 1.Wh_l0 was not a finite"):
        train(model, corpus, QUICK)
    for name, w in model.network.params.items():
        np.testing.assert_array_equal(w, weights[name])


def test_the_best_weights_before_a_gradient_that_is_not_finite_are_kept(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = new_model(corpus)
    backward = model.network.backward

    def spoil(dy: np.ndarray) -> None:
        backward(dy)
        if checks:
            model.network.grads["0.W"][:] = math.nan

    checks: list[History] = []
    monkeypatch.setattr(model.network, "backward", spoil)
    history = train(model, corpus, QUICK, lambda history: checks.extend([history] * len(history.checks)))
    assert history.diverged and history.went_first == "0.W"
    assert history.divergence == (
        f"training diverged at step {len(history.bits) + 1}: the gradient of 0.W was not a finite number"
    )
    assert model.bits_per_character(corpus.held_out) == history.best.held_out_bits


def test_seconds_per_step_trains_nothing(corpus: Corpus) -> None:
    model = new_model(corpus)
    before = {name: w.copy() for name, w in model.network.params.items()}
    # At such a rate a second step would not end.
    seconds_per_step(model, corpus, replace(QUICK, lr=1e30), "numpy", repeats=2)
    for name, w in model.network.params.items():
        np.testing.assert_array_equal(w, before[name])
    assert fastrnn.get_backend() == "numpy"


def test_seconds_per_step_is_the_median_without_the_first(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that steps alone move: the first, which may compile, takes the longest."""
    clock, backends, left = [0.0], [], iter([100.0, 3.0, 1.0, 20.0, 2.0, 5.0])
    run_step = loop.TrainingStep.__call__

    def step(self: loop.TrainingStep, *batch: Any) -> float:
        clock[0] += next(left)
        backends.append(fastrnn.get_backend())
        return run_step(self, *batch)

    monkeypatch.setattr(loop.TrainingStep, "__call__", step)
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    with fastrnn.use_backend("numba"):
        assert seconds_per_step(new_model(corpus), corpus, QUICK, "numpy", repeats=5) == 3.0
        assert fastrnn.get_backend() == "numba"
    assert backends == ["numpy"] * 6 and next(left, None) is None


# --- sampling ---


def test_sample_by_seed(corpus: Corpus) -> None:
    model = new_model(corpus)
    a, b, c = ("".join(sample(model, "the ", 50, seed=seed)) for seed in (1, 1, 2))
    assert a == b != c
    assert len(a) == 50
    assert set(a) <= set(corpus.vocabulary.characters)
    assert "".join(sample(model, length=0)) == ""


def test_temperature_zero_is_argmax(corpus: Corpus) -> None:
    model = new_model(corpus)
    ids = corpus.vocabulary.encode("the ")
    expected = ""
    for _ in range(10):
        logits, _ = model.network(ids[:, None])
        ids = np.append(ids, logits[-1, 0].argmax())
        expected += corpus.vocabulary.decode(ids[-1:])
    assert "".join(sample(model, "the ", 10, temperature=0)) == expected
    assert "".join(sample(model, "the ", 10, temperature=1e-300, seed=3)) == expected


def test_sample_draws_with_the_softmax_of_the_logits(corpus: Corpus) -> None:
    model = new_model(corpus)
    logits, _ = model.network(corpus.vocabulary.encode("t")[:, None])
    p = np.exp(logits[0, 0].astype(np.float64) / 0.5)
    drawn = Counter("".join("".join(sample(model, "t", 1, 0.5, seed)) for seed in range(2000)))
    counts = np.array([drawn[c] for c in corpus.vocabulary.characters])
    np.testing.assert_allclose(counts / 2000, p / p.sum(), atol=0.03)


def test_sample_without_line_ends() -> None:
    corpus = Corpus.of("abcd" * 100)
    assert len("".join(sample(new_model(corpus), length=5, seed=0))) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"prompt": "THE"}, "'E' 'H' 'T'"), ({"temperature": -1}, "temperature"), ({"length": -1}, "length")]
    + [({"temperature": t}, "temperature") for t in (math.nan, math.inf)],
)
def test_sample_of_bad_input(corpus: Corpus, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sample(new_model(corpus), **arguments)


# --- plot ---


def test_loss_curves(corpus: Corpus, tmp_path: Path) -> None:
    history = train(new_model(corpus), corpus, QUICK)
    path = tmp_path / "curves.png"
    plot.save_curves(path, history, corpus.bigram_bits(), "a title")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]


def test_without_matplotlib(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return genuine(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError):
        plot.save_curves(tmp_path / "a.png", History(1, 1), 3.0, "")
