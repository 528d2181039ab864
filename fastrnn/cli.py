"""The command line: ``fastrnn train``, ``fastrnn sample``, ``fastrnn gradflow``, ``fastrnn info``."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from . import __version__
from .diagnostics import command as gradflow
from .dispatch import available_backends, get_backend, load_backend, use_backend
from .engine.threads import get_num_threads
from .info import describe
from .train import command
from .train.data import DEFAULT_TEXT, HELD_OUT, PIECES, InputError
from .train.language_model import CELLS, Architecture, LanguageModel
from .train.loop import CHARACTER_BUDGET, MOST_EPOCHS, Schedule
from .train.sample import LENGTH, TEMPERATURE, sample

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
DEFAULT_OUTPUT = "fastrnn-model.safetensors"
DEFAULT_PICTURE = "fastrnn-gradflow.png"

_OVERVIEW = """\
Recurrent networks on the CPU, compiled, from one command: train a character
language model on any text, then let it write.

  fastrnn train                     about a minute, on a text that Python brings along
  fastrnn train --overwrite         the same again, in place of the model that is there
  fastrnn train book.txt            on a text of yours
  fastrnn sample fastrnn-model.safetensors --prompt "The "
  fastrnn gradflow --cell lstm      whether its gradients vanish or explode, and a picture
  fastrnn info                      what to paste into the report of a problem
"""

_TRAIN = f"""\
Train a character language model on a text, and measure it on a part of the
text that was held out.

The network (embedding or one-hot, recurrent layers, linear, softmax) learns to
predict each next character by truncated BPTT: the text is cut into as many
stretches as a batch has sequences, which are read side by side, and the state
flows from one batch to the next. Adam; the learning rate warms up, then falls
along half a cosine.

Held out are {HELD_OUT:,} characters, or a tenth of a short text, in {PIECES} pieces
spread over the text. The result is given in bits per character (lower is
better) beside that of a bigram model, and the time of a training step beside
that of the same step as a loop in NumPy. The weights that were best on the
held-out text are kept.

A model that is there already is replaced with --overwrite only. Ctrl-C ends
the training early and saves what is there. The same text, options, backend and
machine give the same model, unless --minutes ends the training.
"""

_TRAIN_EXAMPLES = """\
examples:
  fastrnn train                                              the defaults, about a minute
  fastrnn train book.txt --output book.safetensors           also writes book.png
  fastrnn train book.txt --minutes 10 --hidden-size 512
  fastrnn train book.txt --cell gru --num-layers 2 --dropout 0.2 --epochs 20
"""

_SAMPLE_EXAMPLES = """\
examples:
  fastrnn sample fastrnn-model.safetensors
  fastrnn sample fastrnn-model.safetensors --prompt "The " --length 200 --seed 1
  fastrnn sample fastrnn-model.safetensors --temperature 0
"""

_GRADFLOW = """\
Show how far gradients reach in a character language model: one that fastrnn
train saved, or a new one as training would begin with.

Printed are whether the gradient of a loss at the last step vanishes, is healthy
or explodes on its way back, since which step and how fast, which units are
saturated or dead, the largest Lyapunov exponents, and what to try. The picture
shows each of these: norms of the gradient at every step and layer, the largest
singular value of the product of Jacobians, saturation, Lyapunov exponents.
"""

_GRADFLOW_EXAMPLES = """\
examples:
  fastrnn gradflow --cell rnn --hidden-size 64               a network before training
  fastrnn gradflow fastrnn-model.safetensors book.txt        a trained one on a text of yours
  fastrnn gradflow --cell gru --steps 500 --output gru.png
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for bad input, 130 after Ctrl-C."""
    # A terminal that cannot show a character of the text is no reason to stop.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    args = _parser().parse_args(argv)
    try:
        with _backend(args):
            code: int = args.run(args)
        sys.stdout.flush()
        return code
    except InputError as error:
        return _fail(args, str(error))
    except MemoryError:
        return _fail(args, "not enough memory; try smaller sizes")
    except KeyboardInterrupt:
        print(f"fastrnn {args.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has left, as `| head` does; Python's own flush at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _fail(args: argparse.Namespace, message: str) -> int:
    print(f"fastrnn {args.command}: error: {message}", file=sys.stderr)
    return 2


@contextmanager
def _backend(args: argparse.Namespace) -> Iterator[None]:
    # What does not compute tells what is wrong with the choice, if something is.
    if not hasattr(args, "backend"):
        yield
        return
    try:
        chosen = use_backend(args.backend or get_backend())
    except ValueError as error:
        source = "--backend" if args.backend else "FASTRNN_BACKEND"
        names = ", ".join(available_backends())
        raise InputError(f"{source}: expected one of {names} (see fastrnn info)") from error
    with chosen:
        try:
            # Both read a variable of the environment when they are first asked.
            load_backend()
            get_num_threads()
        except (ValueError, ImportError) as error:
            raise InputError(f"{error} (see fastrnn info)") from error
        yield


def _train(args: argparse.Namespace) -> int:
    history = command.train_command(
        command.Options(
            text_file=args.text_file,
            architecture=Architecture(
                args.cell, args.hidden_size, args.num_layers, args.embedding_size, args.dropout, args.dtype
            ),
            schedule=Schedule(args.batch_size, args.steps_per_batch, args.epochs, args.minutes, args.lr, args.clip),
            held_out=args.valid_chars,
            pieces=args.valid_pieces,
            seed=args.seed,
            output=args.output,
            overwrite=args.overwrite,
            plot=not args.no_plot,
            quiet=args.quiet,
        )
    )
    return INTERRUPTED if history.interrupted else 0


def _sample(args: argparse.Namespace) -> int:
    model = LanguageModel.load(args.model)
    characters = sample(model, args.prompt, args.length, args.temperature, args.seed)
    print(args.prompt, end="")
    for character in characters:
        print(character, end="", flush=True)
    print()
    return 0


def _gradflow(args: argparse.Namespace) -> int:
    model_file, text_file = gradflow.files_of(args.files)
    sizes = {"cell": args.cell, "hidden_size": args.hidden_size, "num_layers": args.num_layers}
    given = {name: value for name, value in sizes.items() if value is not None}
    if model_file and given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(f"{options}: expected without a model, which has its own, got {model_file}")
    gradflow.gradflow_command(
        gradflow.Options(
            model_file=model_file,
            text_file=text_file,
            architecture=None if model_file else Architecture(**{"hidden_size": 64, **given}),
            steps=args.steps,
            sequences=args.sequences,
            seed=args.seed,
            output=args.output,
            overwrite=args.overwrite,
            plot=not args.no_plot,
        )
    )
    return 0


def _info(args: argparse.Namespace) -> int:
    print(describe())
    return 0


class _Parser(argparse.ArgumentParser):
    """Errors in one line, without the usage of every option above it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fastrnn", description=_OVERVIEW, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"fastrnn {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for name, add, short, description, epilog in (
        ("train", _add_train, "train a character language model on a text", _TRAIN, _TRAIN_EXAMPLES),
        ("sample", _add_sample, "let a trained model write", "Let a trained model write.", _SAMPLE_EXAMPLES),
        ("gradflow", _add_gradflow, "see how far gradients reach", _GRADFLOW, _GRADFLOW_EXAMPLES),
        ("info", _add_info, "versions, backends, CPU, threads, cache folder", "What this installation can.", ""),
    ):
        subparser = commands.add_parser(
            name,
            help=short,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add(subparser)
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_train)
    add = parser.add_argument
    add("text_file", nargs="?", type=Path, metavar="TEXT_FILE", help=f"UTF-8 text (default: {DEFAULT_TEXT})")
    _add_network(parser.add_argument_group("network"))
    _add_schedule(parser.add_argument_group("training"))
    add = parser.add_argument_group("input and output").add_argument
    add(
        "--valid-chars",
        type=_number(int, at_least=2),
        metavar="N",
        help=f"characters to hold out (default: {HELD_OUT:,}, at most a tenth of the text)",
    )
    add(
        "--valid-pieces",
        type=_number(int, at_least=1),
        default=PIECES,
        metavar="N",
        help="pieces, spread evenly over the text, that they are; 1 is the end of the text (default: %(default)s)",
    )
    add(
        "--output",
        type=Path,
        default=Path(DEFAULT_OUTPUT),
        metavar="FILE",
        help="where the model goes, a .safetensors file; the loss curves go beside it, as .png (default: %(default)s)",
    )
    add("--overwrite", action="store_true", help="replace the model and the curves that are there already")
    add("--no-plot", action="store_true", help="no loss curves")
    add("--quiet", action="store_true", help="no progress, only the results")


def _add_network(group: argparse._ArgumentGroup) -> None:
    add, default = group.add_argument, Architecture()
    size = _number(int, at_least=1)
    add("--cell", choices=tuple(CELLS), default=default.cell, help="(default: %(default)s)")
    add("--hidden-size", type=size, default=default.hidden_size, metavar="N", help="(default: %(default)s)")
    add("--num-layers", type=size, default=default.num_layers, metavar="N", help="(default: %(default)s)")
    add(
        "--embedding-size",
        type=_number(int, at_least=0),
        default=default.embedding_size,
        metavar="N",
        help="0 for one-hot input (default: %(default)s)",
    )
    add(
        "--dropout",
        type=_number(float, at_least=0, below=1),
        default=default.dropout,
        metavar="P",
        help="between stacked layers; needs --num-layers 2 or more (default: %(default)s)",
    )
    add("--dtype", choices=("float32", "float64"), default=default.dtype, help="(default: %(default)s)")


def _add_schedule(group: argparse._ArgumentGroup) -> None:
    add, default = group.add_argument, Schedule()
    size, positive = _number(int, at_least=1), _number(float, above=0)
    add(
        "--epochs",
        type=positive,
        metavar="X",
        help="passes over the text, fractions allowed (default: as many as make "
        f"{CHARACTER_BUDGET:,} characters, at most {MOST_EPOCHS}; no limit if --minutes is given)",
    )
    add("--minutes", type=positive, metavar="X", help="limit of time (default: none)")
    add(
        "--batch-size",
        type=size,
        default=default.batch_size,
        metavar="N",
        help="stretches of text read side by side (default: %(default)s)",
    )
    add(
        "--steps-per-batch",
        type=size,
        default=default.steps,
        metavar="T",
        help="characters through which gradients flow back (default: %(default)s)",
    )
    add("--lr", type=positive, default=default.lr, metavar="X", help="highest learning rate (default: %(default)s)")
    add(
        "--clip",
        type=positive,
        default=default.clip,
        metavar="X",
        help="largest norm of a step's gradient (default: %(default)s)",
    )
    _add_backend(group)
    _add_seed(group, 0, "%(default)s")


def _add_sample(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_sample)
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="what fastrnn train saved")
    add(
        "--prompt",
        default="",
        metavar="TEXT",
        help="text to continue, of characters that the model has seen (default: start as after a line end)",
    )
    add(
        "--temperature",
        type=_number(float, at_least=0),
        default=TEMPERATURE,
        metavar="X",
        help="below 1 more cautious, above 1 more daring, 0 always the likeliest character (default: %(default)s)",
    )
    add(
        "--length",
        type=_number(int, at_least=0),
        default=LENGTH,
        metavar="N",
        help="characters to write (default: %(default)s)",
    )
    _add_backend(parser)
    _add_seed(parser, None, "a new one each time")


def _add_gradflow(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_gradflow)
    parser.usage = "fastrnn gradflow [options] [MODEL | --cell NAME --hidden-size N] [TEXT]"
    add, size = parser.add_argument, _number(int, at_least=1)
    add(
        "files",
        nargs="*",
        type=Path,
        metavar="MODEL TEXT",
        help="a model that fastrnn train saved (.safetensors), and a UTF-8 text "
        f"(default: a new network, {DEFAULT_TEXT})",
    )
    add("--cell", choices=tuple(CELLS), help="of a new network (default: lstm)")
    add("--hidden-size", type=size, metavar="N", help="of a new network (default: 64)")
    add("--num-layers", type=size, metavar="N", help="of a new network (default: 1)")
    add("--steps", type=size, default=100, metavar="T", help="length of a stretch of text (default: %(default)s)")
    add("--sequences", type=size, default=4, metavar="N", help="stretches, spread over the text (default: %(default)s)")
    add(
        "--output",
        type=Path,
        default=Path(DEFAULT_PICTURE),
        metavar="FILE",
        help="where the picture goes, a .png file (default: %(default)s)",
    )
    add("--overwrite", action="store_true", help="replace the picture that is there already")
    add("--no-plot", action="store_true", help="no picture")
    _add_backend(parser)
    _add_seed(parser, 0, "%(default)s")


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_info)


def _add_backend(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--backend",
        metavar="NAME",
        help=f"one of {', '.join(available_backends())} (default: the variable FASTRNN_BACKEND, else the first)",
    )


def _add_seed(parser: argparse._ActionsContainer, default: int | None, shown: str) -> None:
    parser.add_argument(
        "--seed",
        type=_number(int, at_least=0),
        default=default,
        metavar="N",
        help=f"of the random numbers (default: {shown})",
    )


def _number(
    kind: Callable[[str], Any],
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> Callable[[str], Any]:
    """Reader of an option's number, for argparse."""
    bounds = [
        f"{word} {bound}"
        for word, bound in (("at least", at_least), ("above", above), ("below", below))
        if math.isfinite(bound)
    ]
    expected = f"{'a whole' if kind is int else 'a'} number, {' and '.join(bounds)}"

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (value >= at_least and value > above and value < below):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return value

    return read
