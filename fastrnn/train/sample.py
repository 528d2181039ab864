"""Text from a trained model, a character at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .data import InputError
from .language_model import LanguageModel

LENGTH = 500
TEMPERATURE = 0.8


def sample(
    model: LanguageModel,
    prompt: str = "",
    length: int = LENGTH,
    temperature: float = TEMPERATURE,
    seed: int | None = None,
) -> Iterator[str]:
    """The characters that follow `prompt`, one by one.

    Parameters
    ----------
    model : LanguageModel
    prompt : str
        Text to continue, which is not repeated. Empty: the model starts as if after a line end, or after its
        first character if it knows no line ends.
    length : int
        How many characters to give.
    temperature : float
        Divides the logits: below 1 more cautious, above 1 more daring, 0 always the likeliest character.
    seed : int, optional
        The same seed, model and backend give the same text.

    Raises
    ------
    InputError
        If `prompt` has characters that the model has never seen, or a number is out of range.
    """
    if not (temperature >= 0 and math.isfinite(temperature)):
        raise InputError(f"temperature: expected a number of at least 0, got {temperature}")
    if length < 0:
        raise InputError(f"length: expected at least 0, got {length}")
    vocabulary = model.vocabulary
    start = prompt or ("\n" if "\n" in vocabulary.characters else vocabulary.characters[0])
    return _characters(model, vocabulary.encode(start)[:, None], length, temperature, seed)


def _characters(
    model: LanguageModel, ids: NDArray[np.int64], length: int, temperature: float, seed: int | None
) -> Iterator[str]:
    rng = np.random.default_rng(seed)
    states = None
    for _ in range(length):
        logits, states = model.network(model.inputs(ids), states)
        ids = np.array([[_draw(logits[-1, 0], temperature, rng)]])
        yield model.vocabulary.characters[ids[0, 0]]


def _draw(logits: NDArray[Any], temperature: float, rng: np.random.Generator) -> int:
    if temperature == 0:
        return int(np.argmax(logits))
    # Subtracted first: a tiny temperature then sends all but the largest to exp(-inf) = 0.
    scaled = (logits - logits.max()).astype(np.float64)
    with np.errstate(over="ignore"):
        cumulative = np.cumsum(np.exp(scaled / temperature))
    drawn = np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")
    # The product may round up to the last sum.
    return min(int(drawn), len(cumulative) - 1)
