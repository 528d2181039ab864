"""A character language model: ids -> embedding or one-hot -> recurrent layers -> linear -> next character."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..layers import Embedding, Linear
from ..losses import softmax_cross_entropy
from ..model import Model, read_model
from ..recurrent import GRU, LSTM, RNN
from .data import Ids, InputError, Vocabulary

CELLS = {"lstm": LSTM, "gru": GRU, "rnn": RNN}
BITS_PER_NAT = 1 / math.log(2)
_VOCABULARY = "vocabulary"
# Steps of one call when a long text is only read: bounds the memory, long enough that a call costs nothing.
_CHUNK = 512


@dataclass(frozen=True)
class Architecture:
    """Sizes and kind of the network; `embedding_size` 0 is one-hot."""

    cell: str = "lstm"
    hidden_size: int = 192
    num_layers: int = 1
    embedding_size: int = 64
    dropout: float = 0.0
    dtype: str = "float32"


@dataclass(frozen=True)
class LanguageModel:
    """A network and the characters it was trained on."""

    network: Model
    vocabulary: Vocabulary

    @classmethod
    def new(cls, vocabulary: Vocabulary, architecture: Architecture, seed: int = 0) -> LanguageModel:
        """An untrained model."""
        a, size = architecture, len(vocabulary)
        seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(3)]
        layers: list[Any] = []
        if a.embedding_size:
            layers.append(Embedding(size, a.embedding_size, dtype=a.dtype, seed=seeds[0]))
        recurrent = CELLS[a.cell](
            a.embedding_size or size,
            a.hidden_size,
            a.num_layers,
            dropout=a.dropout,
            dtype=a.dtype,
            seed=seeds[1],
        )
        layers += [recurrent, Linear(a.hidden_size, size, dtype=a.dtype, seed=seeds[2])]
        return cls(Model(layers), vocabulary)

    def inputs(self, ids: Ids) -> NDArray[Any]:
        """What the network's first layer takes for `ids`: the ids themselves, or one-hot vectors."""
        if isinstance(self.network.layers[0], Embedding):
            return ids
        dtype = next(iter(self.network.params.values())).dtype
        return np.eye(len(self.vocabulary), dtype=dtype)[ids]

    def bits_per_character(self, ids: Ids) -> float:
        """Mean bits for each character after the first, in one stateful run over each column of `ids`."""
        nats, states = 0.0, None
        for start in range(0, len(ids) - 1, _CHUNK):
            part = ids[start : start + _CHUNK + 1]
            logits, states = self.network(self.inputs(part[:-1]), states)
            nats += softmax_cross_entropy(logits, part[1:], reduction="sum")[0]
        return nats * BITS_PER_NAT / ids[1:].size

    def save(self, path: str | Path) -> None:
        """Write a safetensors file that :meth:`load` reads, whole or not at all."""
        self.network.save(path, {_VOCABULARY: json.dumps(self.vocabulary.characters)})

    @classmethod
    def load(cls, path: str | Path) -> LanguageModel:
        """Read a model that :meth:`save` wrote.

        Raises
        ------
        InputError
            If the file cannot be read, or is not such a model.
        """
        try:
            network, metadata = read_model(path)
            return cls(network, _vocabulary(network, metadata))
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
        except ValueError as error:
            reason = str(error).removeprefix("path: ")
            raise InputError(f"{path}: not a model that fastrnn train saved, or damaged: {reason}") from error


def _vocabulary(network: Model, metadata: Mapping[str, str]) -> Vocabulary:
    """The vocabulary in `metadata`, if it is one and `network` is made for it; ValueError otherwise."""
    if _VOCABULARY not in metadata:
        raise ValueError("it has no vocabulary")
    try:
        characters = json.loads(metadata[_VOCABULARY])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its vocabulary is not JSON ({error})") from error
    if not isinstance(characters, str) or not characters:
        raise ValueError("its vocabulary is not a string of characters")
    if any("\ud800" <= character <= "\udfff" for character in characters):
        raise ValueError("its vocabulary holds surrogates, which are no characters")
    if any(a >= b for a, b in pairwise(characters)):
        raise ValueError("its vocabulary is not sorted, with each character once")
    _check_layers(network.layers, len(characters))
    return Vocabulary(characters)


def _check_layers(layers: Sequence[Any], size: int) -> None:
    """Raises ValueError unless `layers` are such as :meth:`LanguageModel.new` makes for `size` characters."""
    embedding = layers[0] if isinstance(layers[0], Embedding) else None
    kinds = [type(layer) for layer in layers[1 if embedding else 0 :]]
    if len(kinds) != 2 or kinds[0] not in CELLS.values() or kinds[1] is not Linear:
        raise ValueError("its layers are not an embedding (or none), recurrent layers and a linear one")
    recurrent, linear = layers[-2:]
    if recurrent.bidirectional or recurrent.batch_first or len({layer.dtype for layer in layers}) > 1:
        raise ValueError("its layers run in both directions, batch-first, or in several dtypes")
    width = embedding.embedding_size if embedding else size
    expected = (size, width, recurrent.hidden_size, size)
    entry = embedding.num_embeddings if embedding else size
    found = (entry, recurrent.input_size, linear.input_size, linear.output_size)
    if found != expected:
        raise ValueError(f"its vocabulary of {size} characters needs layers of the sizes {expected}, they are {found}")
