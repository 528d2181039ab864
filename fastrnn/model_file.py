"""The file of a model: whoever wrote it, nothing in it is believed before it is checked.

A safetensors file whose metadata hold, beside what the user gives, one JSON text: the version, a configuration of
every layer and, from version 2 on, a checksum of all of it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from .errors import known_keys

Array = NDArray[Any]
Kind = tuple[tuple[int, ...], str]
"""Shape and dtype of a tensor."""

KEY = "fastrnn"
VERSION = 2
_CHECKSUM = "sha256"
_DTYPES = {"F32": "float32", "F64": "float64"}
# Some thousand layers; what is read before anything can be compared has to have an end.
_MOST_TEXT = 1 << 20
_MOST_OF_A_MESSAGE = 300


@dataclass(frozen=True)
class ModelFile:
    """An open file of a model: its header, read; its tensors, to be read.

    Attributes
    ----------
    kinds : dict of str to (shape, dtype)
        The tensors that the file holds, all of them there.
    layers : list
        A configuration for each layer, as JSON has it: unchecked.
    metadata : dict of str to str
        What the user gave.
    tensor : callable
        The array of a name.
    """

    path: Path
    kinds: dict[str, Kind]
    layers: list[Any]
    metadata: dict[str, str]
    tensor: Callable[[str], Array]
    _checksum: str | None

    def check(self) -> None:
        """Raises ValueError if the file is not as it was saved, as far as its version allows to know."""
        if self._checksum is None:
            return
        with refusing(self.path):
            found = _checksum(self.layers, self.metadata, self.kinds, self.tensor)
        if found != self._checksum:
            raise ValueError(f"path: {self.path} is damaged or was changed: its checksum is not that of its content")


@contextmanager
def open_model(path: Path) -> Iterator[ModelFile]:
    """The model file at `path`, of which only the header has been read.

    Raises
    ------
    OSError
        If it cannot be opened.
    ValueError
        If it is not the file of a model.
    """
    from safetensors import SafetensorError, safe_open

    # For the system's own errors: safetensors says "No such device" of a folder.
    open(path, "rb").close()
    try:
        file: Any = safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ValueError(f"path: {path} is not a whole safetensors file ({_one_line(error)})") from error
    with file:
        metadata = file.metadata() or {}
        if KEY not in metadata:
            raise ValueError(f"path: expected a model saved by fastrnn, got {path}")
        with refusing(path):
            layers, checksum = _parse(metadata.pop(KEY))
            kinds = {name: _kind(name, file.get_slice(name)) for name in file.keys()}  # noqa: SIM118
        yield ModelFile(path, kinds, layers, metadata, file.get_tensor, checksum)


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Whatever is wrong with the configuration becomes one kind of error, which names the file."""
    try:
        yield
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"path: the configuration in {path} cannot be used ({_one_line(error)})") from error


def pack(params: Mapping[str, Array], layers: list[dict[str, Any]], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a model's file.

    Raises
    ------
    ValueError
        If the configuration is larger than :func:`open_model` reads, or holds a number that is not finite.
    """
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(value) for name, value in params.items()}
    kinds = {name: (array.shape, array.dtype.name) for name, array in arrays.items()}
    checksum = _checksum(layers, metadata, kinds, arrays.__getitem__)
    try:
        text = json.dumps({"version": VERSION, "layers": layers, _CHECKSUM: checksum}, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"save: expected finite numbers in the configuration of every layer ({error})") from error
    if len(text) > _MOST_TEXT:
        raise ValueError(f"save: expected layers described in {_MOST_TEXT:,} characters, got {len(text):,}")
    data: bytes = save(arrays, {**metadata, KEY: text})
    return data


def _checksum(
    layers: list[Any], metadata: Mapping[str, str], kinds: Mapping[str, Kind], tensor: Callable[[str], Array]
) -> str:
    names = sorted(kinds)
    described = [layers, dict(metadata), [[name, *kinds[name]] for name in names]]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name in names:
        array = tensor(name)
        # As the file has it, on processors that turn the bytes of a number around, too.
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).data)
    return digest.hexdigest()


def _parse(text: str) -> tuple[list[Any], str | None]:
    """The configurations of the layers, and the checksum, which version 1 does not have."""
    if len(text) > _MOST_TEXT:
        raise ValueError(f"expected at most {_MOST_TEXT:,} characters, got {len(text):,}")
    config = json.loads(text, object_pairs_hook=_unique, parse_constant=_not_a_number)
    if not isinstance(config, dict):
        raise ValueError(f"expected an object, got {type(config).__name__}")
    version = config.pop("version", None)
    if type(version) is not int or version < 1:
        raise ValueError(f"version: expected a number from 1 to {VERSION}, got {version!r}")
    if version > VERSION:
        raise ValueError(f"version: expected at most {VERSION}, got {version}: saved by a later fastrnn")
    known_keys("keys", config, ["layers"] if version == 1 else ["layers", _CHECKSUM], ())
    layers, checksum = config["layers"], config.get(_CHECKSUM)
    if not isinstance(layers, list):
        raise ValueError(f"layers: expected a list, got {type(layers).__name__}")
    if version > 1 and not isinstance(checksum, str):
        raise ValueError(f"{_CHECKSUM}: expected a string, got {type(checksum).__name__}")
    return layers, checksum


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} is there twice")
        result[key] = value
    return result


def _not_a_number(text: str) -> NoReturn:
    raise ValueError(f"expected finite numbers, got {text}")


def _kind(name: str, piece: Any) -> Kind:
    dtype = piece.get_dtype()
    if dtype not in _DTYPES:
        raise ValueError(f"tensor {name!r}: expected dtype {' or '.join(_DTYPES)}, got {dtype}")
    return tuple(piece.get_shape()), _DTYPES[dtype]


def _one_line(error: Exception) -> str:
    """The error's message, which may quote the file, fit for a terminal."""
    text = "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split()))
    return text if len(text) <= _MOST_OF_A_MESSAGE else f"{text[:_MOST_OF_A_MESSAGE]}..."


def write_atomically(path: Path, data: bytes) -> None:
    """All of `data` or, should the process die on the way, what was there before.

    A link stays one: the file that it points to is replaced. Its mode stays, too.
    """
    path = Path(os.path.realpath(path))
    if path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    before = path.stat().st_mode if path.exists() else None
    if before is not None and not stat.S_ISREG(before):
        raise OSError(errno.EEXIST, "not a regular file", str(path))
    # Not tempfile: its files are readable by their owner alone, whatever the umask says.
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    # Nobody may read while it is written what nobody may read afterwards.
    mode = 0o666 if before is None else stat.S_IMODE(before)
    try:
        with open(beside, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if before is not None:
            # The umask may have taken something away.
            os.chmod(beside, mode)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
