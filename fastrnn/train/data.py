"""Text for the character language model: reading, vocabulary, split, batches, and the bigram model to beat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

HELD_OUT = 40_000
HELD_OUT_SHARE = 0.1
PIECES = 10
DEFAULT_TEXT = "the help topics of Python (pydoc_data.topics)"


class InputError(ValueError):
    """What was given cannot be used; the message is meant for the person at the command line."""


def default_text() -> str:
    """English text that every CPython brings along: the language reference as `help()` shows it.

    Raises
    ------
    InputError
        If this Python came without it, as some stripped-down packages do.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise InputError(f"this Python has no pydoc_data.topics ({error}); give a text file") from error
    return "\n\n".join(topics.values())


def read_text(path: str | Path) -> str:
    """Text of a UTF-8 file, line ends as ``\\n``.

    Raises
    ------
    InputError
        If it cannot be read, is not UTF-8, or holds what no text holds.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(f"{path}: not UTF-8 text (byte {error.start} is 0x{byte:02x})") from error
    if "\0" in text:
        raise InputError(f"{path}: not text: it holds NUL characters (at {text.index(chr(0))})")
    return text


@dataclass(frozen=True)
class Vocabulary:
    """The characters a model knows, each once, sorted; a character's id is its place."""

    characters: str

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> Ids:
        """Ids of the characters of `text`.

        Raises
        ------
        InputError
            If `text` has characters that are not in the vocabulary; the message lists them.
        """
        known, codes = _code_points(self.characters), _code_points(text)
        ids = np.minimum(np.searchsorted(known, codes), len(known) - 1)
        if (known[ids] != codes).any():
            unknown = sorted(set(text) - set(self.characters))
            listed = " ".join(map(repr, unknown[:10])) + (" ..." if len(unknown) > 10 else "")
            raise InputError(f"characters that the model has never seen: {listed}")
        return ids

    def decode(self, ids: Ids) -> str:
        """Text of `ids`."""
        return "".join(self.characters[i] for i in ids)


def _code_points(text: str) -> NDArray[np.uint32]:
    # A command line's undecodable bytes arrive as lone surrogates, which strict encoding would refuse.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))


@dataclass(frozen=True)
class Corpus:
    """A text as ids: (characters,) to train on, (characters of a piece, pieces) held out.

    A text's end is often unlike the rest (another play, a table at the end of a manual); pieces spread over the
    whole text give a figure for the whole text.
    """

    vocabulary: Vocabulary
    train: Ids
    held_out: Ids

    @classmethod
    def of(cls, text: str, held_out: int | None = None, pieces: int = PIECES) -> Corpus:
        """Cut `text` into `pieces` equal parts and hold out the end of each.

        Parameters
        ----------
        text : str
        held_out : int, optional
            Characters to hold out in all; by default the smaller of 40,000 and a tenth of the text.
        pieces : int
            1 holds out the end of the text in one piece.

        Raises
        ------
        InputError
            If a piece or what is left would be too short to predict anything in.
        """
        if held_out is None:
            held_out = min(HELD_OUT, int(len(text) * HELD_OUT_SHARE))
        size = held_out // pieces
        if size < 2 or len(text) // pieces - size < 2:
            raise InputError(
                f"the text is too short: {len(text):,} characters, of which {held_out:,} would be held out "
                f"in {pieces} piece(s)"
            )
        vocabulary = Vocabulary.of(text)
        ids = vocabulary.encode(text)
        ends = np.linspace(0, len(ids), pieces + 1).astype(int)
        kept = [ids[start : end - size] for start, end in pairwise(ends)]
        held = [ids[end - size : end] for end in ends[1:]]
        return cls(vocabulary, np.concatenate(kept), np.stack(held, axis=1))

    def bigram_bits(self) -> float:
        """Held-out bits per character of the bigram model of the training part."""
        return bigram_bits(self.train, self.held_out, len(self.vocabulary))


class Batches:
    """Contiguous stretches of a text side by side, cut into steps: state may flow from each batch to the next.

    Sequence n reads the n-th of `batch_size` equal stretches; what does not fill a batch is left out.

    Raises
    ------
    InputError
        If the text does not fill one batch.
    """

    def __init__(self, ids: Ids, batch_size: int, steps: int) -> None:
        needed = batch_size * steps + 1
        if len(ids) < needed:
            raise InputError(
                f"the text is too short: {len(ids):,} characters to train on, of which a batch of "
                f"{batch_size} sequences of {steps} steps needs {needed:,}; try a smaller batch"
            )
        stretch = (len(ids) - 1) // batch_size
        shape = (batch_size, stretch)
        self.x = ids[: batch_size * stretch].reshape(shape).T
        self.y = ids[1 : batch_size * stretch + 1].reshape(shape).T
        self.steps = steps

    def __len__(self) -> int:
        return len(self.x) // self.steps

    def __iter__(self) -> Iterator[tuple[Ids, Ids]]:
        """Inputs and targets (steps, batch_size) of one pass over the text."""
        for k in range(len(self)):
            part = slice(k * self.steps, (k + 1) * self.steps)
            yield self.x[part], self.y[part]


def bigram_bits(train: Ids, held_out: Ids, size: int, k: float = 0.1) -> float:
    """Bits per character on `held_out` (characters, pieces) of a bigram model of `train` with add-`k` smoothing.

    ``P(b | a) = (count(a, b) + k) / (count(a) + k * size)``; Jurafsky & Martin, *Speech and Language
    Processing* (3rd ed.), eq. 3.24-3.27.
    """
    a, b = held_out[:-1], held_out[1:]
    # Sorted pairs in place of a size x size table: texts of Chinese have many thousands of characters.
    pairs, counts = np.unique(train[:-1] * size + train[1:], return_counts=True)
    wanted = a * size + b
    places = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    joint = np.where(pairs[places] == wanted, counts[places], 0)
    before = np.bincount(train[:-1], minlength=size)[a]
    return float(-np.log2((joint + k) / (before + k * size)).mean())
