"""Files of models that somebody else wrote, or that are no longer what they were."""

from __future__ import annotations

import json
import os
import stat
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import fastrnn
from cases import CELLS
from fastrnn import GRU, LSTM, RNN, Embedding, Linear, Model, Recurrent
from fastrnn.model import read_metadata
from fastrnn.model_file import write_atomically
from fastrnn.ops import tanh

VERSION_1 = Path(__file__).parent / "data" / "model_version_1.safetensors"
NOTE = {"note": "of yesterday"}
USERS = {"leaky": CELLS["leaky"]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.safetensors"


def model() -> Model:
    return Model(
        [
            Embedding(5, 3, seed=0),
            LSTM(3, 2, 2, bidirectional=True, dropout=0.25, seed=1),
            GRU(4, 3, bias=False, reset_after=False, seed=2),
            Recurrent(CELLS["leaky"], 3, 2, seed=3),
            RNN(2, 2, nonlinearity="relu", batch_first=True, seed=4),
            Linear(2, 5, seed=5),
        ]
    )


def refused(path: Path, message: str = "path", read: Callable[[Path], Any] = Model.load) -> str:
    """The message of the one kind of error that there is."""
    with pytest.raises(ValueError, match=message) as error:
        read(path)
    assert type(error.value) is ValueError
    text = str(error.value)
    assert text.startswith("path: ")
    assert str(path) in text
    assert text.isprintable()
    assert len(text) < 1000
    return text


# --- what the configuration says ---


def write(path: Path, *layers: Any, arrays: Any = None, text: str | None = None, **changes: Any) -> None:
    """A file of version 1, which has no checksum to be found out by; `text` in place of the whole configuration."""
    arrays = {f"0.{name}": value for name, value in LSTM(2, 3).params.items()} if arrays is None else arrays
    config = {"version": 1, "layers": list(layers)} | changes
    save_file(arrays, path, {"fastrnn": json.dumps(config) if text is None else text})


def lstm(**changes: Any) -> dict[str, Any]:
    return {"type": "LSTM", **LSTM(2, 3).config()} | changes


@pytest.mark.parametrize(
    "layer",
    [
        lstm(num_layers=10**6),
        lstm(num_layers=10**18),
        lstm(hidden_size=10**9),
        lstm(input_size=10**9),
        {"type": "Embedding", "num_embeddings": 10**12, "embedding_size": 10**12},
        {"type": "Linear", "input_size": 10**9, "output_size": 10**9},
    ],
    ids=lambda layer: " ".join(f"{name} {len(str(n)) - 1}" for name, n in layer.items() if type(n) is int and n > 99),
)
def test_a_small_file_claims_much_and_takes_little(path: Path, layer: dict[str, Any]) -> None:
    write(path, layer)
    tracemalloc.start()
    try:
        refused(path, "it asks for 0.* the file has")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_as_many_layers_as_a_text_can_name(path: Path) -> None:
    write(path, *[lstm()] * 4000)
    refused(path, r"it asks for 1\.Wx_l0 of shape .* the file has none")
    write(path, *[lstm()] * 10_000)
    refused(path, r"expected at most 1,048,576 characters")


def test_a_users_function_is_run_for_no_more_layers_than_there_are(path: Path) -> None:
    runs = []

    def step(x: Any, U: Any, h: Any, *, a: float = 1.0) -> Any:
        runs.append(a)
        return tanh(a * x.g + U.g @ h)

    cell = fastrnn.cell(gates="g")(step)
    layer = {"type": "Recurrent", **Recurrent(cell, 2, 3).config()}
    before = len(runs)
    write(path, *[layer] * 1000)
    refused(path, "path", lambda path: Model.load(path, {"step": cell}))
    assert len(runs) - before <= 2


def test_no_tensor_is_read_before_the_comparison(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    class Watched:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.file = safe_open(*arguments, **options)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *exception: object) -> None:
            pass

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def get_tensor(self, name: str) -> Any:
            read.append(name)
            return self.file.get_tensor(name)

    monkeypatch.setattr("safetensors.safe_open", Watched)
    write(path, lstm(hidden_size=4))
    refused(path, "it asks for")
    assert not read
    write(path, lstm())
    assert isinstance(Model.load(path), Model)
    assert sorted(read) == ["0.Wh_l0", "0.Wx_l0", "0.bh_l0", "0.bx_l0"]


SIZES = ["2", 2.0, True, False, None, 0, -1, 2**63, 10**4000, [2], {}]
FLAGS = [0, 1, "true", None, [True]]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(name, value) for name in ("input_size", "hidden_size", "num_layers") for value in SIZES],
        *[(name, value) for name in ("bias", "batch_first", "bidirectional") for value in FLAGS],
        *[("dropout", value) for value in (1, -0.1, 1e308, "0", True, None, [0], 10**400)],
        *[("dtype", value) for value in ("f4", "int8", "float64", "float16", 4, None, ["float32"])],
        *[("type", value) for value in ("Conv", "Layer", "lstm", 3, None, ["LSTM"], {})],
        ("seed", 1),
        ("size", 1),
        ("constants", {}),
        ("x" * 100_000 + "\n\x1b[31m", 1),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_fields_that_are_wrong(path: Path, field: str, value: Any) -> None:
    write(path, lstm(**{field: value}))
    refused(path, r"the configuration in .* cannot be used \(.*")


@pytest.mark.parametrize("missing", ["type", "input_size", "hidden_size"])
def test_fields_that_are_missing(path: Path, missing: str) -> None:
    layer = lstm()
    del layer[missing]
    write(path, layer)
    refused(path, missing)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        *[("RNN", {"nonlinearity": value}) for value in ("step", 3, None, ["tanh"])],
        *[("GRU", {"reset_after": value}) for value in FLAGS],
        *[("Recurrent", {"cell": value}) for value in (3, None, ["leaky"], {"leaky": 1})],
        *[("Recurrent", {"constants": value}) for value in (3, None, [1.0], {"tau": "1"}, {"tau": True})],
        *[("Recurrent", {"constants": {key: 1.0}}) for key in ("taau", "self", "", "x" * 10_000)],
        ("Recurrent", {"constants": {"tau": 10**400}}),
        ("Recurrent", {"constants": {"tau": 0.0}}),
        ("Recurrent", {}),
    ],
)
def test_fields_of_other_kinds_that_are_wrong(path: Path, kind: str, changes: dict[str, Any]) -> None:
    layers = {"RNN": RNN(2, 3), "GRU": GRU(2, 3), "Recurrent": Recurrent(CELLS["leaky"], 2, 3)}
    config = {"type": kind, **layers[kind].config()} | changes
    if not changes:
        del config["constants"]
    write(path, config, arrays={f"0.{name}": value for name, value in layers[kind].params.items()})
    refused(path, "cannot be used", lambda path: Model.load(path, USERS))


def test_a_users_cell_that_is_missing_names_the_file_too(path: Path) -> None:
    Model([Recurrent(CELLS["leaky"], 2, 3)]).save(path)
    with pytest.raises(ValueError, match=r"^cells: expected the cell 'leaky' that the model uses, got none") as error:
        Model.load(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[" * 100_000, "recursion"),
        ('{"version": 1, "layers": ' + '{"a":' * 100_000, "recursion"),
        ("null", "expected an object, got NoneType"),
        ('"text"', "expected an object, got str"),
        ("[]", "expected an object, got list"),
        ("{}", "version"),
        ('{"version": 1}', "missing layers"),
        ('{"version": 1, "layers": [], "more": 1}', "unknown more"),
        ('{"version": 1, "layers": {}}', "layers: expected a list, got dict"),
        ('{"version": 1, "layers": []}', "it asks for 0 tensors, the file has 4"),
        ('{"version": 1, "layers": [3]}', r"layers\[0\]: expected an object, got int"),
        ('{"version": 1, "version": 1, "layers": []}', "'version' is there twice"),
        ('{"version": 1, "layers": [{"type": "LSTM", "type": "GRU"}]}', "'type' is there twice"),
        ('{"version": 1, "layers": [{"dropout": Infinity}]}', "Infinity"),
        ('{"version": 1, "layers": [{"dropout": NaN}]}', "NaN"),
        ('{"version": 1, "layers": [' + "9" * 5000 + "]}", "."),
        ('{"version": 1, "layers": [], "sha256": ""}', "unknown sha256"),
        ('{"version": 2, "layers": []}', "missing sha256"),
        ('{"version": 2, "layers": [], "sha256": null}', "sha256: expected a string"),
        ('{"version": 3, "layers": []}', "saved by a later fastrnn"),
        *[(f'{{"version": {version}, "layers": []}}', "version") for version in ("0", "-1", "1.0", "true", '"1"')],
        (" " * (1 << 20) + "{}", "expected at most"),
    ],
    ids=lambda text: text[:50],
)
def test_texts_that_are_no_configuration(path: Path, text: str, message: str) -> None:
    write(path, text=text)
    refused(path, message)


def test_nested_about_as_deep_as_can_be_read(path: Path) -> None:
    """What JSON can just read, it may not be able to write."""
    for depth in range(850, 1000):
        layers = "[" * depth + "]" * depth
        write(path, text=f'{{"version": 2, "layers": {layers}, "sha256": ""}}')
        refused(path)
        refused(path, "path", read_metadata)


# --- the tensors ---


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.pop("0.Wx_l0"),
        lambda arrays: arrays.update({"0.more": np.zeros(1, "f")}),
        lambda arrays: arrays.update({"1.Wx_l0": arrays.pop("0.Wx_l0")}),
        lambda arrays: arrays.update({"0.Wx_l0": arrays["0.Wx_l0"].T.copy()}),
        lambda arrays: arrays.update({"0.Wx_l0": arrays["0.Wx_l0"].reshape(-1)}),
        lambda arrays: arrays.update({"0.bx_l0": arrays["0.bx_l0"].astype("d")}),
    ],
)
def test_tensors_that_do_not_fit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    arrays = {f"0.{name}": value for name, value in LSTM(2, 3).params.items()}
    change(arrays)
    write(path, lstm(), arrays=arrays)
    refused(path, "it asks for .* the file has")


@pytest.mark.parametrize("dtype", ["float16", "int64", "uint8", "bool"])
def test_tensors_of_another_dtype(path: Path, dtype: str) -> None:
    write(path, lstm(), arrays={f"0.{k}": v.astype(dtype) for k, v in LSTM(2, 3).params.items()})
    for read in (Model.load, read_metadata):
        refused(path, r"tensor '0\.\w+': expected dtype F32 or F64, got [FIUB]", read)


def test_tensors_in_bfloat16(path: Path) -> None:
    """Which NumPy does not know."""
    config = json.dumps({"version": 1, "layers": [{"type": "Linear", **Linear(1, 2, bias=False).config()}]})
    tensor = {"dtype": "BF16", "shape": [1, 2], "data_offsets": [0, 4]}
    header = json.dumps({"__metadata__": {"fastrnn": config}, "0.W": tensor}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    for read in (Model.load, read_metadata):
        refused(path, r"tensor '0.W': expected dtype F32 or F64, got BF16", read)


def test_a_torn_header_that_quotes_itself(path: Path) -> None:
    """An error shows what it found in the file, but leaves the terminal alone."""
    header = json.dumps({"0.W": {"dtype": "F\n\x1b[31m", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    refused(path, "is not a whole safetensors file")


# --- checksum and version ---


def test_every_file_has_a_checksum(path: Path) -> None:
    model().save(path, NOTE)
    with safe_open(path, framework="numpy") as file:
        config = json.loads(file.metadata()["fastrnn"])
    assert config["version"] == 2
    assert len(config["sha256"]) == 64


def test_the_checksum_is_of_numbers_layers_and_metadata(path: Path) -> None:
    model().save(path, NOTE)
    arrays = load_file(path)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    save_file(arrays, path, metadata)
    assert read_metadata(path) == NOTE, "written by another, but the same"
    assert Model.load(path, USERS).params.keys() == model().params.keys()

    def changed(name: str, value: Any) -> dict[str, Any]:
        return {**arrays, name: value}

    other = arrays["1.Wh_l1"].copy()
    other[0, 0] = np.nextafter(other[0, 0], np.float32(9))
    exchanged = changed("1.Wh_l0", arrays["1.Wh_l1"]) | {"1.Wh_l1": arrays["1.Wh_l0"]}
    dropout = metadata["fastrnn"].replace('"dropout": 0.25', '"dropout": 0.5')
    assert dropout != metadata["fastrnn"]
    for tensors, texts in (
        (changed("1.Wh_l1", other), metadata),
        (exchanged, metadata),
        (arrays, {**metadata, "note": "of today"}),
        (arrays, {**metadata, "more": ""}),
        (arrays, {"fastrnn": metadata["fastrnn"]}),
        (arrays, {**metadata, "fastrnn": dropout}),
    ):
        save_file(tensors, path, texts)
        refused(path, "checksum", lambda path: Model.load(path, USERS))
        refused(path, "checksum", read_metadata)


def test_a_file_of_version_1(path: Path) -> None:
    loaded = Model.load(VERSION_1)
    assert [type(layer) for layer in loaded.layers] == [Embedding, GRU, Linear]
    assert loaded.layers[1].config() == GRU(2, 2, 2, reset_after=False).config()
    # As many 64ths as there are parameters, in their order.
    values = np.concatenate([value.ravel() for value in loaded.params.values()])
    np.testing.assert_array_equal(values, np.arange(len(values), dtype="f") / 64)
    assert read_metadata(VERSION_1) == {"vocabulary": '"abc"'}
    loaded.save(path, read_metadata(VERSION_1))
    again = Model.load(path)
    for name, value in loaded.params.items():
        np.testing.assert_array_equal(value, again.params[name])


def test_what_could_not_be_read_again_is_not_saved(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @fastrnn.cell(gates="g")
    def unlimited(x: Any, U: Any, h: Any, *, most: float = float("inf")) -> Any:
        return tanh(x.g + U.g @ h) + 1 / most

    with pytest.raises(ValueError, match=r"^save: expected finite numbers"):
        Model([Recurrent(unlimited, 2, 3)]).save(path)
    monkeypatch.setattr("fastrnn.model_file._MOST_TEXT", 1000)
    with pytest.raises(ValueError, match=r"^save: expected layers described in 1,000 characters"):
        Model([Linear(1, 1) for _ in range(20)]).save(path)
    assert not path.exists()


# --- damage ---


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """`data` with a part changed, taken out, put in, or cut off."""
    at = int(rng.integers(len(data) - 1))
    count = int(rng.integers(1, 9))
    kind = rng.integers(6)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + data[at + count :]
    if kind == 2:
        return data[:at] + rng.bytes(count) + data[at:]
    if kind == 3:
        return data[:at] + rng.bytes(count) + data[at + count :]
    if kind == 4:  # A digit for a digit: what JSON would not notice.
        digits = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
        at = int(rng.choice(digits))
        return data[:at] + str(rng.integers(10)).encode() + data[at + 1 :]
    return data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_file_is_the_model_or_an_error(path: Path, seed: int) -> None:
    whole = model()
    whole.save(path, NOTE)
    data = path.read_bytes()
    rng = np.random.default_rng(seed)
    unharmed = 0
    for _ in range(100):
        changed = damaged(data, rng)
        path.write_bytes(changed)
        try:
            loaded, note = Model.load(path, USERS), read_metadata(path)
        except ValueError as error:
            assert str(error).startswith(("path: ", "cells: "))
            assert str(path) in str(error)
            assert str(error).isprintable()
            continue
        unharmed += 1
        assert note == NOTE
        assert [layer.config() for layer in loaded.layers] == [layer.config() for layer in whole.layers]
        for name, value in whole.params.items():
            np.testing.assert_array_equal(loaded.params[name], value)
    assert unharmed < 20


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_file_without_a_checksum_is_a_model_or_the_error(path: Path, seed: int) -> None:
    data = VERSION_1.read_bytes()
    rng = np.random.default_rng(seed)
    for _ in range(100):
        path.write_bytes(damaged(data, rng))
        try:
            Model.load(path)
        except ValueError as error:
            assert str(error).startswith(("path: ", "cells: "))
            assert str(path) in str(error)


# --- writing ---

links = pytest.mark.skipif(os.name != "posix", reason="links and modes as POSIX has them")


@links
@pytest.mark.parametrize("relative", [False, True])
def test_a_link_stays_a_link(tmp_path: Path, relative: bool) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "target").write_bytes(b"of yesterday")
    link = tmp_path / "link"
    link.symlink_to("folder/target" if relative else folder / "target")
    second = tmp_path / "second"
    second.symlink_to("link")
    write_atomically(second, b"of today")
    assert second.is_symlink() and link.is_symlink()
    assert not (folder / "target").is_symlink()
    assert (folder / "target").read_bytes() == b"of today"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "link", "second"]
    assert [p.name for p in folder.iterdir()] == ["target"]


@links
def test_a_link_to_nothing_gets_its_file(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("target")
    write_atomically(link, b"of today")
    assert link.is_symlink()
    assert (tmp_path / "target").read_bytes() == b"of today"
    link.unlink()
    link.symlink_to("no/target")
    with pytest.raises(FileNotFoundError):
        write_atomically(link, b"of today")
    assert link.is_symlink()


@links
def test_what_is_no_file_stays(tmp_path: Path) -> None:
    circle, pipe = tmp_path / "circle", tmp_path / "pipe"
    circle.symlink_to("circle")
    os.mkfifo(pipe)
    for path in (circle, pipe, tmp_path):
        with pytest.raises(OSError):
            write_atomically(path, b"of today")
    assert circle.is_symlink() and pipe.is_fifo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["circle", "pipe"]


@links
def test_a_failed_write_through_a_link_leaves_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"of yesterday")
    link.symlink_to("target")

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    for step in ("fsync", "chmod", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, fail)
            with pytest.raises(OSError, match="disk full"):
                write_atomically(link, b"of today")
        assert link.is_symlink()
        assert target.read_bytes() == b"of yesterday"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "target"]


@links
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o666, 0o755, 0o444])
def test_the_mode_of_a_file_stays(tmp_path: Path, mode: int) -> None:
    path, link = tmp_path / "m", tmp_path / "link"
    path.write_bytes(b"of yesterday")
    path.chmod(mode)
    link.symlink_to("m")
    write_atomically(link, b"of today")
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_bytes() == b"of today"


@links
def test_what_few_may_read_is_never_open_to_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"of yesterday")
    path.chmod(0o600)
    modes = []
    fsync = os.fsync

    def watch(file: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(file).st_mode))
        fsync(file)

    monkeypatch.setattr(os, "fsync", watch)
    write_atomically(path, b"of today")
    assert modes == [0o600]


@links
def test_the_mode_of_a_new_file_is_the_umasks(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "m", b"of today")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == 0o640
