"""Damaged model files: loading gives the model that was saved, or a ValueError."""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import fastrnn
from cases import CELLS
from fastrnn.model import read_metadata

from .arrays import pick

DEFAULTS: dict[str, Any] = {"model": "chain", "changes": []}
USER_CELLS = {"leaky": CELLS["leaky"]}
# What a configuration may say by mistake or on purpose; the last is put into brackets a hundred thousand times.
VALUES = [0, -1, 1, 2, 3, 64, 10**6, 10**18, 0.5, -0.5, 1e300, True, False, None, "", "float64", "tanh", [], {}, [1]]
DEEP = "deep"
# Bytes that loading a file of some hundred bytes may take.
ROOM = 1 << 28


@cache
def saved(name: str) -> tuple[fastrnn.Model, bytes]:
    """A model and its file."""
    models = {
        "chain": lambda: [
            fastrnn.Embedding(5, 3, seed=0),
            fastrnn.LSTM(3, 4, bidirectional=True, seed=1),
            fastrnn.GRU(8, 3, 2, dropout=0.5, seed=2),
            fastrnn.Linear(3, 5, seed=3),
        ],
        "user": lambda: [fastrnn.Recurrent(USER_CELLS["leaky"], 2, 3, dtype="float64", seed=4), fastrnn.RNN(3, 2)],
    }
    model = fastrnn.Model(models[name]())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save(path, {"note": "of the fuzzer"})
        return model, path.read_bytes()


def draw(rng: np.random.Generator, quick: bool) -> dict[str, Any]:
    changes: list[list[Any]] = []
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(1 << 20))
        kind = pick(rng, ("flip", "flip", "set", "cut", "insert", "zero", "config", "config", "config"))
        value: Any = int(rng.integers(256))
        if kind == "config":
            value = DEEP if rng.random() < 0.05 else pick(rng, VALUES)
        changes.append([kind, at, value])
    return {"model": pick(rng, ("chain", "user")), "changes": changes}


def run(case: dict[str, Any]) -> None:
    model, data = saved(case["model"])
    for change in case["changes"]:
        data = changed(data, *change)
    with tempfile.TemporaryDirectory() as folder, limited_memory():
        path = Path(folder) / "model.safetensors"
        path.write_bytes(data)
        try:
            loaded = fastrnn.Model.load(path, USER_CELLS)
        except ValueError as error:
            assert str(error).startswith(("path: ", "cells: ")), f"names no argument: {error}"
        else:
            assert loaded.params.keys() == model.params.keys()
            for name, value in model.params.items():
                np.testing.assert_array_equal(loaded.params[name], value, err_msg=f"loaded {name} is another")
        try:
            read_metadata(path)
        except ValueError as error:
            assert str(error).startswith("path: "), f"names no argument: {error}"


def changed(data: bytes, kind: str, at: int, value: Any) -> bytes:
    """`data` with one change, at a place that depends on `at`."""
    if kind == "config":
        return with_configuration(data, at, value)
    if not data:
        return data
    at %= len(data)
    if kind == "cut":
        return data[:at]
    if kind == "insert":
        return data[:at] + bytes([value]) + data[at:]
    new = bytearray(data)
    if kind == "zero":
        new[at : at + value] = bytes(len(new[at : at + value]))
    else:
        new[at] = new[at] ^ 1 << value % 8 if kind == "flip" else value
    return bytes(new)


def with_configuration(data: bytes, at: int, value: Any) -> bytes:
    """`data` with another value in its configuration; as it is if that can no longer be read."""
    try:
        (size,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + size])
        configuration = json.loads(header["__metadata__"]["fastrnn"])
        places = [(configuration, key) for key in configuration]
        places += [(layer, key) for layer in configuration["layers"] for key in layer]
        holder, key = places[at % len(places)]
        if key == "version" and value == 1:
            return data  # which says that the file has no checksum
        holder[key] = "DEEP" if value == DEEP else value
        text = json.dumps(configuration)
    except (ValueError, KeyError, TypeError, RecursionError, struct.error):
        return data
    header["__metadata__"]["fastrnn"] = text.replace('"DEEP"', "[" * 100_000 + "]" * 100_000)
    new = json.dumps(header).encode()
    new += b" " * (-len(new) % 8)
    return struct.pack("<Q", len(new)) + new + data[8 + size :]


@contextmanager
def limited_memory() -> Iterator[None]:
    """So much address space and no more, where the system can do that and no sanitizer needs terabytes of it."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        yield
        return
    now = pages * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    if now > 1 << 40:
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
