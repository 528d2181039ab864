"""Training: stateful truncated BPTT over contiguous batches, with Adam, clipping and a cosine schedule."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..dispatch import use_backend
from ..losses import softmax_cross_entropy
from ..model import Model
from ..optim import Adam, NonFiniteGradient, clip_grad_norm
from .data import Batches, Corpus, Ids, InputError
from .language_model import BITS_PER_NAT, LanguageModel

# Characters that the default settings train on, whatever the text's length: about a minute on two cores.
CHARACTER_BUDGET = 3_000_000
# Past this many passes a short text is known by heart.
MOST_EPOCHS = 50
CHECKS = 8
_WARM_UP = 0.02
_FINAL_LR = 0.02


@dataclass(frozen=True)
class Schedule:
    """How to train. Ends after `epochs` or `minutes`, whichever is first; None is no limit.

    With neither, as many epochs as make `CHARACTER_BUDGET` characters. A limit in minutes makes the result
    depend on the machine's speed.
    """

    batch_size: int = 16
    steps: int = 64
    epochs: float | None = None
    minutes: float | None = None
    lr: float = 8e-3
    clip: float = 1.0

    def total_steps(self, batches: Batches) -> float:
        """Training steps until the limit of epochs; infinite if only the time is limited."""
        epochs = self.epochs
        if epochs is None and self.minutes is not None:
            return math.inf
        if epochs is None:
            epochs = min(MOST_EPOCHS, CHARACTER_BUDGET / (len(batches) * self.batch_size * self.steps))
        return max(1, round(epochs * len(batches)))


class Check(NamedTuple):
    """Where training stood: characters trained on, and bits per character of training so far and held out."""

    characters: int
    train_bits: float
    held_out_bits: float


@dataclass
class History:
    """What happened: bits per character of every step's batch, the checks, and how it ended.

    diverged : whether the loss or a gradient was not a finite number; that step changed no weight
    went_first : the first parameter whose gradient was not, if one was
    """

    characters_per_step: int
    total_steps: float
    bits: list[float] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False
    diverged: bool = False
    went_first: str | None = None

    @property
    def divergence(self) -> str:
        """Where and by what training diverged, as a clause."""
        what = "the loss" if self.went_first is None else f"the gradient of {self.went_first}"
        return f"training diverged at step {len(self.bits) + 1}: {what} was not a finite number"

    @property
    def characters(self) -> int:
        return len(self.bits) * self.characters_per_step

    @property
    def best(self) -> Check:
        return min(self.checks, key=lambda check: check.held_out_bits)


def train(
    model: LanguageModel,
    corpus: Corpus,
    schedule: Schedule,
    on_step: Callable[[History], None] = lambda history: None,
    on_interrupt: Callable[[History], None] = lambda history: None,
) -> History:
    """Train `model` in place; it ends with the weights of the check that was best on the held-out text.

    Parameters
    ----------
    model : LanguageModel
    corpus : Corpus
    schedule : Schedule
    on_step : callable
        Called with the history after every step and after every check.
    on_interrupt : callable
        Called with the history when Ctrl-C ended the training, before anything else is done.

    Raises
    ------
    InputError
        If the text does not fill a batch, or training diverges before the first check.
    """
    return _Training(model, corpus, schedule, on_step).run(on_interrupt)


class _Training:
    def __init__(
        self, model: LanguageModel, corpus: Corpus, schedule: Schedule, on_step: Callable[[History], None]
    ) -> None:
        self.model, self.corpus, self.schedule, self.on_step = model, corpus, schedule, on_step
        self.batches = Batches(corpus.train, schedule.batch_size, schedule.steps)
        self.history = History(schedule.batch_size * schedule.steps, schedule.total_steps(self.batches))
        self.step = TrainingStep(model, schedule)
        self.best_weights: dict[str, Any] = {}
        self.started = time.perf_counter()

    def run(self, on_interrupt: Callable[[History], None]) -> History:
        history = self.history
        try:
            self._steps()
        except KeyboardInterrupt:
            history.interrupted = True
            on_interrupt(history)
        if history.diverged and not history.checks:
            raise InputError(f"{history.divergence}; try a smaller learning rate")
        checked = history.checks[-1].characters if history.checks else 0
        if history.characters > checked and not history.diverged:
            self._check()
        for name, weights in self.best_weights.items():
            self.model.network.params[name][...] = weights
        return history

    def _steps(self) -> None:
        history, next_check = self.history, 1
        while True:
            self.step.states = None
            for x, y in self.batches:
                self.step.optimizer.lr = self.schedule.lr * _lr_factor(self._done())
                bits = self._bits(x, y)
                if not math.isfinite(bits):
                    history.diverged = True
                    return
                history.bits.append(bits)
                history.seconds = time.perf_counter() - self.started
                self.on_step(history)
                done = self._done()
                if done * CHECKS >= next_check:
                    next_check = math.floor(done * CHECKS) + 1
                    self._check()
                if done >= 1:
                    return

    def _bits(self, x: Ids, y: Ids) -> float:
        """Of a step; NaN if a gradient was not finite."""
        try:
            # What overflows ends as a loss or a gradient that is not finite, and is told once.
            with np.errstate(over="ignore", invalid="ignore"):
                return self.step(x, y)
        except NonFiniteGradient as error:
            self.history.went_first = error.parameter
            return math.nan

    def _done(self) -> float:
        """Share of the training that is done."""
        done = len(self.history.bits) / self.history.total_steps
        if self.schedule.minutes is not None:
            done = max(done, (time.perf_counter() - self.started) / 60 / self.schedule.minutes)
        return done

    def _check(self) -> None:
        history = self.history
        since = history.checks[-1].characters // history.characters_per_step if history.checks else 0
        held_out = self.model.bits_per_character(self.corpus.held_out)
        history.checks.append(Check(history.characters, float(np.mean(history.bits[since:])), held_out))
        if history.best is history.checks[-1]:
            self.best_weights = {name: np.array(w) for name, w in self.model.network.params.items()}
        self.on_step(history)


class TrainingStep:
    """Forward, backward and update on a batch; the state flows on to the next."""

    def __init__(self, model: LanguageModel, schedule: Schedule) -> None:
        self.model, self.clip = model, schedule.clip
        self.optimizer = Adam(model.network.params, lr=schedule.lr)
        self.states: Any = None

    def __call__(self, x: Ids, y: Ids) -> float:
        """Bits per character on inputs and targets (steps, batch_size), before the update.

        There is none if they are not finite.

        Raises
        ------
        NonFiniteGradient
            Before the update.
        """
        network: Model = self.model.network
        network.zero_grad()
        logits, self.states = network.forward(self.model.inputs(x), self.states)
        nats, dlogits = softmax_cross_entropy(logits, y)
        network.backward(dlogits)
        clip_grad_norm(network.grads, self.clip, error_if_nonfinite=True)
        if math.isfinite(nats):
            self.optimizer.step(network.grads)
        return nats * BITS_PER_NAT


def _lr_factor(done: float) -> float:
    """Linear warm-up, then half a cosine (Loshchilov & Hutter 2017, eq. 5)."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(done, 1)))
    return min(1, (done + 1e-3) / _WARM_UP) * (_FINAL_LR + (1 - _FINAL_LR) * cosine)


def seconds_per_step(model: LanguageModel, corpus: Corpus, schedule: Schedule, backend: str, repeats: int = 5) -> float:
    """Median time of a training step on `backend`; the weights of `model` stay as they are."""
    step = TrainingStep(model, schedule)
    # The same work at a rate that cannot diverge.
    step.optimizer.lr = 0.0
    x, y = next(iter(Batches(corpus.train, schedule.batch_size, schedule.steps)))
    with use_backend(backend):
        # What the first step compiles or reads from a cache is not a step's time.
        step(x, y)
        return statistics.median(_seconds(lambda: step(x, y)) for _ in range(repeats))


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
