"""What ``fastrnn gradflow`` does: gradients of a network on a text, in words and as a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..dispatch import get_backend
from ..layers import Embedding
from ..recurrent import Recurrent
from ..train.data import DEFAULT_TEXT, Ids, InputError, Vocabulary, default_text, read_text
from ..train.language_model import Architecture, LanguageModel
from . import plots
from .jacobians import FORMED, jacobian_norms, lyapunov_exponents
from .verdict import Report, report

MODEL_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Options:
    """What the command line asked for; `architecture` is None for a model from a file."""

    model_file: Path | None
    text_file: Path | None
    architecture: Architecture | None
    steps: int
    sequences: int
    seed: int
    output: Path
    overwrite: bool
    plot: bool


def files_of(names: Sequence[Path]) -> tuple[Path | None, Path | None]:
    """Which of the files on the command line is the model and which the text: models end in .safetensors."""
    models = [name for name in names if name.suffix == MODEL_SUFFIX]
    texts = [name for name in names if name.suffix != MODEL_SUFFIX]
    if len(models) > 1 or len(texts) > 1:
        raise InputError(f"expected at most one model (*{MODEL_SUFFIX}) and one text, got {', '.join(map(str, names))}")
    return next(iter(models), None), next(iter(texts), None)


def gradflow_command(options: Options) -> None:
    """Print the report and write the picture.

    Raises
    ------
    InputError
        If an option, a file or the place of the output cannot be used.
    """
    _check_output(options)
    text = read_text(options.text_file) if options.text_file else default_text()
    model = _model(options, text)
    if options.model_file and not options.text_file:
        known = set(model.vocabulary.characters)
        text = "".join(c for c in text if c in known)
    x = model.inputs(_stretches(model.vocabulary.encode(text), options))
    _print_task(options, model, text)
    found = report(model.network, x)
    print(f"\n{found}\n")
    exponents = _exponents(model, x)
    for name, values in exponents.items():
        print(f"largest Lyapunov exponent of {name}: {values[0]:.3g} per step")
    if options.plot:
        print(f"picture  {_save_plot(options, model, x, found, exponents)}")


def _check_output(options: Options) -> None:
    output = options.output
    if output.suffix != ".png":
        raise InputError(f"--output: expected a name that ends in .png, got {output}")
    if not options.plot:
        return
    target = Path(os.path.realpath(output))
    if not target.parent.is_dir() or (target.exists() and not target.is_file()):
        raise InputError(f"--output: cannot write {output}")
    if target.exists() and not options.overwrite:
        raise InputError(f"--output: {output} would be replaced: give --overwrite, or another name")


def _model(options: Options, text: str) -> LanguageModel:
    if options.model_file:
        return LanguageModel.load(options.model_file)
    assert options.architecture is not None
    if not text:
        raise InputError(f"{options.text_file}: expected a text, got an empty file")
    return LanguageModel.new(Vocabulary.of(text), options.architecture, options.seed)


def _stretches(ids: Ids, options: Options) -> Ids:
    """(steps, sequences): stretches spread evenly over the text."""
    if len(ids) < options.steps:
        raise InputError(
            f"the text is too short: expected at least {options.steps} characters that the model knows (--steps), "
            f"got {len(ids)}"
        )
    starts = np.linspace(0, len(ids) - options.steps, options.sequences).astype(int)
    return np.stack([ids[start : start + options.steps] for start in starts], axis=1)


def _print_task(options: Options, model: LanguageModel, text: str) -> None:
    recurrent = _recurrent(model)
    where = options.model_file or f"a new network, seed {options.seed}"
    layers = f"{recurrent.num_layers} x " if recurrent.num_layers > 1 else ""
    entry = "embedding" if isinstance(model.network.layers[0], Embedding) else "one-hot"
    kind = f"{entry}, {layers}{type(recurrent).__name__} {recurrent.hidden_size}"
    print(f"text     {options.text_file or DEFAULT_TEXT}: {options.sequences} stretches of {options.steps} characters")
    print(f"network  {where}: {kind}, {recurrent.dtype}, backend {get_backend()}")


def _recurrent(model: LanguageModel) -> Recurrent:
    found: Recurrent = next(layer for layer in model.network.layers if isinstance(layer, Recurrent))
    return found


def _exponents(model: LanguageModel, x: Any) -> dict[str, Any]:
    """Of the first stretch; none of networks so wide that it would take minutes."""
    recurrent = _recurrent(model)
    if len(recurrent.cell.states) * recurrent.hidden_size > FORMED:
        return {}
    return lyapunov_exponents(model.network, x[:, :1], warmup=len(x) // 5)


def _save_plot(options: Options, model: LanguageModel, x: Any, found: Report, exponents: dict[str, Any]) -> str:
    try:
        figure = plots.new_figure((13, 9))
    except ImportError:
        return plots.HINT
    axes = figure.subplots(2, 2)
    plots.plot_gradients(found.flow, axes=axes[0, 0])
    plots.plot_jacobians(jacobian_norms(model.network, x[:, :1]), axes=axes[0, 1])
    plots.plot_activity(found.activity, axes=axes[1, 0])
    if exponents:
        plots.plot_lyapunov(exponents, axes=axes[1, 1])
    else:
        axes[1, 1].set_axis_off()
    figure.suptitle(f"{options.model_file or 'new network'}: gradients {found.verdict}")
    try:
        plots.save(figure, options.output)
    except OSError as error:
        raise InputError(f"--output: cannot write {options.output}: {error.strerror or error}") from error
    return str(options.output)
