"""What ``fastrnn train`` does, from the text to the files and the figures."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tqdm import tqdm

from ..dispatch import get_backend
from . import plot
from .data import DEFAULT_TEXT, Corpus, InputError, default_text, read_text
from .language_model import Architecture, LanguageModel
from .loop import History, Schedule, seconds_per_step, train
from .sample import TEMPERATURE, sample

_SAMPLE_LENGTH = 400


@dataclass(frozen=True)
class Options:
    """What the command line asked for."""

    text_file: Path | None
    architecture: Architecture
    schedule: Schedule
    held_out: int | None
    pieces: int
    seed: int
    output: Path
    overwrite: bool
    plot: bool
    quiet: bool

    @property
    def curves(self) -> Path:
        """Where the loss curves go."""
        return self.output.with_suffix(".png")


def train_command(options: Options) -> History:
    """Train, save, and print the results.

    Raises
    ------
    InputError
        If an option, the text or the place of the output cannot be used; all but the last before training.
    """
    _check(options)
    text = read_text(options.text_file) if options.text_file else default_text()
    corpus = Corpus.of(text, options.held_out, options.pieces)
    model = LanguageModel.new(corpus.vocabulary, options.architecture, options.seed)
    _print_task(options, corpus, model)
    with _Progress(options.quiet) as progress:
        history = train(
            model, corpus, options.schedule, progress, lambda history: _save_interrupted(model, options, history)
        )
    if history.bits:
        _save(model, options)
        _print_results(options, corpus, model, history)
    return history


def _check(options: Options) -> None:
    """What would otherwise be found out after a minute."""
    if options.architecture.dropout and options.architecture.num_layers == 1:
        raise InputError("--dropout acts between stacked layers: expected --num-layers of at least 2")
    output = options.output
    # Also keeps `--output book.txt` from replacing a book.
    if output.suffix != ".safetensors":
        raise InputError(f"--output: expected a name that ends in .safetensors, got {output}")
    # A link is written through.
    target = Path(os.path.realpath(output))
    free = target.is_file() or not (target.exists() or target.is_symlink())
    if not free or not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise InputError(f"--output: cannot write {output}")
    # Curves come with a model, so they too replace nothing unasked.
    there = [str(path) for path in (output, options.curves)[: 1 + options.plot] if path.exists()]
    if there and not options.overwrite:
        raise InputError(f"--output: {' and '.join(there)} would be replaced: give --overwrite, or another name")


def _save(model: LanguageModel, options: Options) -> None:
    try:
        model.save(options.output)
    except OSError as error:
        raise InputError(f"--output: cannot write {options.output}: {error.strerror or error}") from error


def _save_interrupted(model: LanguageModel, options: Options, history: History) -> None:
    # At once: a second Ctrl-C must not cost the model.
    if history.bits:
        _save(model, options)
        print(f"\ninterrupted after {history.characters:,} characters: model saved to {options.output}")
    else:
        print("\ninterrupted before the first step: nothing to save")


class _Progress:
    """Bar with characters per second and loss, and a line for every check."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.bar: tqdm[None] | None = None
        self.checks = 0

    def __call__(self, history: History) -> None:
        if self.quiet:
            return
        if self.bar is None:
            total = history.total_steps * history.characters_per_step
            # A log file needs no bar: it gets the checks.
            self.bar = tqdm(
                total=int(total) if total < float("inf") else None,
                unit="characters",
                unit_scale=True,
                disable=None,
                leave=False,
                dynamic_ncols=True,
            )
        self.bar.set_postfix_str(f"{history.bits[-1]:.2f} bits/character", refresh=False)
        self.bar.update(history.characters - self.bar.n)
        if len(history.checks) > self.checks:
            self.checks = len(history.checks)
            check = history.checks[-1]
            self.bar.write(
                f"{check.characters:>12,} characters, {history.characters / history.seconds:,.0f} a second: "
                f"{check.train_bits:.3f} bits per character, held out {check.held_out_bits:.3f}"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.close()


def _print_task(options: Options, corpus: Corpus, model: LanguageModel) -> None:
    a, held_out = options.architecture, corpus.held_out
    layers = f"{a.num_layers} x " if a.num_layers > 1 else ""
    entry = f"embedding {a.embedding_size}" if a.embedding_size else "one-hot"
    parameters = sum(w.size for w in model.network.params.values())
    print(f"text   {options.text_file or DEFAULT_TEXT}")
    print(
        f"       {corpus.train.size + held_out.size:,} characters, {len(corpus.vocabulary)} different; "
        f"{held_out.size:,} held out in {held_out.shape[1]} piece(s)"
    )
    print(
        f"model  {entry}, {layers}{a.cell.upper()} {a.hidden_size}, linear: {parameters:,} parameters, {a.dtype}, "
        f"backend {get_backend()}"
    )


def _print_results(options: Options, corpus: Corpus, model: LanguageModel, history: History) -> None:
    bigram, best = corpus.bigram_bits(), history.best
    print(f"\ntrained        {history.characters:,} characters in {history.seconds:.0f} s")
    print(f"held out       {best.held_out_bits:.3f} bits per character; bigram model {bigram:.3f}")
    if history.diverged:
        print(f"               {history.divergence}; try a smaller learning rate")
    if history.diverged or best is not history.checks[-1]:
        print(f"               best after {best.characters:,} characters, and these weights are kept")
    print(f"training step  {_step_times(options, corpus)}")
    print(f"model          {options.output}")
    if options.plot:
        print(f"loss curves    {_save_plot(options, history, bigram)}")
    print(f"\nsample, temperature {TEMPERATURE}:\n")
    print("".join(sample(model, length=_SAMPLE_LENGTH, seed=options.seed)).strip())


def _step_times(options: Options, corpus: Corpus) -> str:
    backend = get_backend()
    model = LanguageModel.new(corpus.vocabulary, options.architecture)
    ours = seconds_per_step(model, corpus, options.schedule, backend)
    if backend == "numpy":
        return f"{1e3 * ours:.1f} ms as a NumPy loop"
    loop = seconds_per_step(model, corpus, options.schedule, "numpy")
    return f"{1e3 * ours:.1f} ms; as a NumPy loop {1e3 * loop:.1f} ms, {loop / ours:.1f} times as long"


def _save_plot(options: Options, history: History, bigram: float) -> str:
    path = options.curves
    try:
        plot.save_curves(path, history, bigram, str(options.text_file or DEFAULT_TEXT))
    except ImportError:
        return plot.HINT
    except OSError as error:
        return f"cannot write {path}: {error.strerror or error}"
    return str(path)
