"""A character language model: ids -> embedding or one-hot -> recurrent layers -> linear -> next character."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..layers import Embedding, Linear
from ..losses import softmax_cross_entropy
from ..model import Model, read_metadata
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
            network, metadata = Model.load(path), read_metadata(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: not a model that fastrnn train saved, or torn") from error
        if _VOCABULARY not in metadata:
            raise InputError(f"{path}: not a language model: it has no vocabulary")
        return cls(network, Vocabulary(json.loads(metadata[_VOCABULARY])))
