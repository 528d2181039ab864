"""The command line: what it prints, writes and returns."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import fastrnn
from fastrnn import LSTM, Embedding, Linear, Model
from fastrnn.cli import main
from fastrnn.layers import Layer
from fastrnn.train import command, plot
from fastrnn.train.data import Corpus, InputError, Vocabulary
from fastrnn.train.language_model import Architecture, LanguageModel
from fastrnn.train.loop import History
from processes import python

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 60
SMALL = ["--hidden-size", "8", "--embedding-size", "4", "--batch-size", "4", "--steps-per-batch", "16"]
QUICK = [*SMALL, "--epochs", "1", "--backend", "numpy"]


@pytest.fixture
def text_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small text in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text(TEXT, encoding="utf-8")
    return "book.txt"


@pytest.fixture
def model_file(text_file: str, capsys: pytest.CaptureFixture[str]) -> str:
    """A model of that text."""
    assert main(["train", text_file, *QUICK, "--no-plot", "--quiet"]) == 0
    capsys.readouterr()
    return "fastrnn-model.safetensors"


def test_train_prints_and_writes(backend: str, text_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", text_file, *SMALL, "--epochs", "1", "--output", "m.safetensors"]) == 0
    out = capsys.readouterr().out
    assert "2,700 characters, 29 different; 270 held out in 10 piece(s)" in out
    assert f"backend {backend}" in out
    assert "bigram model" in out
    assert "NumPy loop" in out
    assert "sample, temperature" in out
    assert sorted(p.name for p in Path().iterdir()) == ["book.txt", "m.png", "m.safetensors"]
    # The figure in the text is that of the saved model.
    bits = LanguageModel.load("m.safetensors").bits_per_character(Corpus.of(TEXT).held_out)
    assert f"{bits:.3f} bits per character" in out


def test_train_twice_writes_the_same_model(text_file: str) -> None:
    for name in ("a", "b"):
        assert main(["train", text_file, *QUICK, "--no-plot", "--output", f"{name}.safetensors"]) == 0
    a, b = (LanguageModel.load(f"{name}.safetensors").network.params for name in ("a", "b"))
    for name, weights in a.items():
        np.testing.assert_array_equal(weights, b[name])


def test_quiet_and_no_plot(text_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", text_file, *QUICK, "--quiet", "--no-plot"]) == 0
    printed = capsys.readouterr()
    assert "a second" not in printed.out
    assert printed.err == ""
    assert "bigram model" in printed.out
    assert not list(Path().glob("*.png"))


@pytest.mark.parametrize("options", [["--cell", "gru", "--embedding-size", "0"], ["--minutes", "1e-6"]])
def test_other_options(text_file: str, options: list[str]) -> None:
    assert main(["train", text_file, *QUICK, "--quiet", "--no-plot", *options]) == 0


def test_default_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *QUICK, "--epochs", "1e-6", "--no-plot"]) == 0
    assert "pydoc_data.topics" in capsys.readouterr().out


def test_missing_matplotlib_is_a_hint(
    text_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*arguments: object) -> None:
        raise ImportError

    monkeypatch.setattr(plot, "save_curves", missing)
    assert main(["train", text_file, *QUICK]) == 0
    assert "pip install 'fastrnn[plot]'" in capsys.readouterr().out


def test_interrupt_saves_and_says_so(
    text_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command._Progress, "__call__", _press_after(3))
    assert main(["train", text_file, *QUICK, "--no-plot"]) == 130
    out = capsys.readouterr().out
    assert "interrupted after 192 characters: model saved to fastrnn-model.safetensors" in out
    LanguageModel.load("fastrnn-model.safetensors")


def test_interrupt_before_the_first_step_replaces_nothing(
    model_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press(*arguments: object) -> None:
        raise KeyboardInterrupt

    before = Path(model_file).read_bytes()
    monkeypatch.setattr("fastrnn.train.loop.TrainingStep.__call__", press)
    assert main(["train", "book.txt", *QUICK, "--seed", "7", "--overwrite"]) == 130
    assert "nothing to save" in capsys.readouterr().out
    assert Path(model_file).read_bytes() == before


@pytest.mark.parametrize("there", ["m.safetensors", "m.png"])
def test_what_is_there_is_replaced_only_when_asked(
    there: str, text_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(there).write_text("of yesterday")
    command_line = ["train", text_file, *QUICK, "--quiet", "--output", "m.safetensors"]
    with monkeypatch.context() as patch:
        patch.setattr(command, "train", None)  # It must not come to that.
        assert main(command_line) == 2
    assert capsys.readouterr().err.startswith(f"fastrnn train: error: --output: {there} would be replaced: ")
    assert sorted(p.name for p in Path().iterdir()) == ["book.txt", there]
    assert Path(there).read_text() == "of yesterday"
    assert main([*command_line, "--overwrite"]) == 0
    assert Path("m.png").read_bytes().startswith(b"\x89PNG")
    LanguageModel.load("m.safetensors")


@pytest.mark.skipif(os.name != "posix", reason="links as POSIX has them")
def test_output_through_a_link(
    text_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    link = Path("m.safetensors")
    command_line = ["train", text_file, *QUICK, "--quiet", "--no-plot", "--output", "m.safetensors"]
    with monkeypatch.context() as patch:
        patch.setattr(command, "train", None)  # It must not come to that.
        for target in ("missing/m.safetensors", "m.safetensors", os.devnull):
            link.symlink_to(target)
            assert main([*command_line, "--overwrite"]) == 2
            assert "cannot write m.safetensors" in capsys.readouterr().err
            link.unlink()
    link.symlink_to("of_today")
    assert main(command_line) == 0
    assert link.is_symlink()
    LanguageModel.load("of_today")


def test_a_picture_is_in_nobodys_way_without_a_plot(text_file: str) -> None:
    Path("m.png").write_text("of yesterday")
    assert main(["train", text_file, *QUICK, "--quiet", "--no-plot", "--output", "m.safetensors"]) == 0
    assert Path("m.png").read_text() == "of yesterday"


def test_second_interrupt_leaves_the_saved_model(
    text_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press(*arguments: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(command._Progress, "__call__", _press_after(3))
    monkeypatch.setattr(LanguageModel, "bits_per_character", press)
    assert main(["train", text_file, *QUICK, "--epochs", "9"]) == 130
    assert capsys.readouterr().err == "fastrnn train: interrupted\n"
    LanguageModel.load("fastrnn-model.safetensors")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for a single process")
def test_a_real_ctrl_c(text_file: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "fastrnn", "train", text_file, *QUICK, "--epochs", "100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**_environment(), "PYTHONUNBUFFERED": "1"},
        # A suite that runs in the background may have been told to ignore it, and so would this process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("model"):
            pass
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted after" in out
    assert "Traceback" not in err
    LanguageModel.load("fastrnn-model.safetensors")


def test_sample(model_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*options: str) -> str:
        assert main(["sample", model_file, "--prompt", "the ", "--length", "40", *options]) == 0
        return capsys.readouterr().out

    with fastrnn.use_backend("numpy"):
        text = run("--seed", "1")
        assert text.startswith("the ")
        assert len(text) == len("the ") + 40 + len("\n")
        assert run("--seed", "1") == text != run("--seed", "2")
        assert run("--temperature", "0") == run("--temperature", "0")


KNOWN = "".join(sorted(set(TEXT)))
DAMAGED_VOCABULARIES = {
    "no JSON": ("the quick brown fox", "is not JSON"),
    "torn": (json.dumps(KNOWN)[:-5], "is not JSON"),
    "nested": ("[" * 100_000, "is not JSON"),
    "empty text": ("", "is not JSON"),
    "null": ("null", "not a string"),
    "a number": ("28", "not a string"),
    "a list": (json.dumps(list(KNOWN)), "not a string"),
    "an object": (json.dumps({c: i for i, c in enumerate(KNOWN)}), "not a string"),
    "no characters": ('""', "not a string"),
    "unsorted": (json.dumps(KNOWN[::-1]), "not sorted"),
    "two exchanged": (json.dumps(KNOWN[1::-1] + KNOWN[2:]), "not sorted"),
    "one twice": (json.dumps(KNOWN[:-1] + KNOWN[-2]), "not sorted"),
    "one missing": (json.dumps(KNOWN[:-1]), "28 characters"),
    "one too many": (json.dumps(KNOWN + "é"), "30 characters"),
    "half a pair": (json.dumps(KNOWN[:-1] + "\ud83d"), "surrogates"),
}


@pytest.mark.parametrize("embedding_size", ["4", "0"])
@pytest.mark.parametrize(("vocabulary", "message"), DAMAGED_VOCABULARIES.values(), ids=[*DAMAGED_VOCABULARIES])
def test_sample_of_a_damaged_vocabulary(
    vocabulary: str, message: str, embedding_size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.safetensors"
    _network(len(KNOWN), int(embedding_size)).save(path, {"vocabulary": vocabulary})
    assert message in _sample_fails(path, capsys)


@pytest.mark.parametrize(
    "layers",
    [
        [Linear(29, 29)],
        [Embedding(29, 4), Linear(4, 29)],
        [Embedding(29, 4), Linear(4, 3), Linear(3, 29)],
        [LSTM(29, 4), LSTM(4, 29)],
        [LSTM(29, 4), LSTM(4, 4), Linear(4, 29)],
        [Embedding(29, 4), LSTM(5, 4), Linear(4, 29)],
        [Embedding(29, 4), LSTM(4, 4), Linear(5, 29)],
        [Embedding(29, 4), LSTM(4, 4), Linear(4, 28)],
        [Embedding(30, 4), LSTM(4, 4), Linear(4, 29)],
        [LSTM(28, 4), Linear(4, 29)],
        [LSTM(29, 4, bidirectional=True), Linear(8, 29)],
        [LSTM(29, 4, batch_first=True), Linear(4, 29)],
        [LSTM(29, 4, dtype="float64"), Linear(4, 29)],
    ],
)
def test_sample_of_layers_that_are_no_language_model(
    layers: list[Layer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.safetensors"
    Model(layers).save(path, {"vocabulary": json.dumps(KNOWN)})
    assert "layers" in _sample_fails(path, capsys)


def test_sample_without_a_vocabulary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.safetensors"
    _network(len(KNOWN), 4).save(path)
    assert "no vocabulary" in _sample_fails(path, capsys)


def test_sample_of_a_changed_vocabulary(model_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = Path(model_file).read_bytes()
    assert data.count(b"abcdefghij") == 1
    Path(model_file).write_bytes(data.replace(b"abcdefghij", b"ABCDEFGHIJ"))
    assert "checksum" in _sample_fails(Path(model_file), capsys)


def test_sample_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot be read" in _sample_fails(tmp_path, capsys)


def test_sample_of_a_model_of_version_1(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(__file__).parent / "data" / "model_version_1.safetensors"
    assert main(["sample", str(path), "--prompt", "abc", "--length", "9", "--backend", "numpy"]) == 0
    assert set(capsys.readouterr().out.rstrip()) <= set("abc")


def _network(size: int, embedding_size: int) -> Model:
    vocabulary = Vocabulary("".join(chr(0x4E00 + i) for i in range(size)))
    return LanguageModel.new(vocabulary, Architecture(hidden_size=4, embedding_size=embedding_size)).network


def _sample_fails(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that says why."""
    assert main(["sample", str(path), "--length", "3", "--backend", "numpy"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"fastrnn sample: error: {path}: ")
    assert printed.err.count("\n") == 1
    return printed.err


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for part in (fastrnn.__version__, "numpy", "numba", "backend numpy", "CPU", "threads", "cache folder"):
        assert part in out


def test_info_tells_why_a_backend_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> None:
        raise ImportError("No module named 'numba'")

    monkeypatch.setattr("fastrnn.info.load_backend", missing)
    assert main(["info"]) == 0
    assert "missing: No module named 'numba'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("FASTRNN_CPU", "foo", r"^backend cpp .*FASTRNN_CPU: expected one of .*got 'foo'$"),
        ("FASTRNN_BACKEND", "foo", r"^backend  .*FASTRNN_BACKEND: expected one of .*got 'foo'$"),
        ("FASTRNN_NUM_THREADS", "abc", r"^threads .*FASTRNN_NUM_THREADS: expected a positive integer, got 'abc'; \d"),
        ("FASTRNN_CACHE_DIR", os.path.join(__file__, "folder"), r"^cache folder .*folder cannot be written$"),
    ],
)
def test_info_tells_what_is_wrong_with_a_variable(variable: str, value: str, line: str, tmp_path: Path) -> None:
    if variable == "FASTRNN_CPU" and "cpp" not in fastrnn.available_backends():
        pytest.skip("the extension is not built")
    result = _run(["info"], **{variable: value, "TMPDIR": str(tmp_path)})
    assert result.returncode == 0
    assert result.stderr == ""
    assert re.search(line, result.stdout, re.MULTILINE)
    assert re.search("^backend numpy +(in use|available)$", result.stdout, re.MULTILINE)


BROKEN_EXTENSION = """\
import sys
from importlib.machinery import ModuleSpec

class Broken:
    def find_spec(self, name, *_):
        return ModuleSpec(name, self) if name == "fastrnn.backends._cpp" else None
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        raise {error}

sys.meta_path.insert(0, Broken())
from fastrnn.cli import main
sys.exit(main(["info"]))
"""


@pytest.mark.parametrize("error", ["ImportError('undefined symbol: f')", "RuntimeError('undefined symbol: f')"])
def test_info_tells_what_is_wrong_with_the_extension(error: str) -> None:
    result = python(BROKEN_EXTENSION.format(error=error))
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search("^backend cpp .*undefined symbol: f$", result.stdout, re.MULTILINE)


def test_info_goes_on_where_a_line_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise KeyError("blas")

    monkeypatch.setattr(np, "show_config", fail)
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert "KeyError: 'blas'" in out
    assert "cache folder" in out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--help"], ["train", "sample", "info", "about a minute"]),
        (["train", "--help"], ["--hidden-size", "default: 192", "Ctrl-C", "--overwrite", "examples:", "a tenth"]),
        (["sample", "--help"], ["--temperature", "default: 0.8", "examples:"]),
        (["info", "--help"], ["usage: fastrnn info"]),
        (["--version"], [fastrnn.__version__]),
    ],
)
def test_help(arguments: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    out = capsys.readouterr().out
    for part in parts:
        assert part in out


def test_every_option_of_train_tells_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    entries = capsys.readouterr().out.split("positional arguments:")[1].split("examples:")[0].split("\n  --")
    switches = ("no-plot", "overwrite", "quiet")
    assert [e for e in entries[1:] if "default" not in e and not e.startswith(switches)] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["fly"], "invalid choice"),
        (["train", "missing.txt", "--overwrite"], "missing.txt: cannot be read"),
        (["train", ".", "--overwrite"], "cannot be read"),
        (["train", "short.txt", "--overwrite"], "too short"),
        (["train", "binary.txt", "--overwrite"], "not UTF-8 text"),
        (["train", "book.txt", "--batch-size", "100", "--overwrite"], "try a smaller batch"),
        (["train", "--hidden-size", "0"], "--hidden-size: expected a whole number, at least 1, got '0'"),
        (["train", "--hidden-size", "ten"], "got 'ten'"),
        (["train", "--lr", "nan"], "--lr"),
        (["train", "--epochs", "inf"], "--epochs"),
        (["train", "--cell", "cnn"], "invalid choice"),
        (["train", "--dropout", "1"], "at least 0 and below 1"),
        (["train", "--dropout", "0.5"], "--num-layers"),
        (["train", "--output", "book.txt"], "ends in .safetensors"),
        (["train", "--output", "missing/m.safetensors"], "cannot write"),
        (["train", "book.txt"], "fastrnn-model.safetensors would be replaced: give --overwrite"),
        (["train", "--backend", "abacus"], "--backend: expected one of"),
        (["sample", "missing.safetensors"], "cannot be read"),
        (["sample", "book.txt"], "not a model"),
        (["sample", "fastrnn-model.safetensors", "--prompt", "THE"], "'E' 'H' 'T'"),
        (["sample", "fastrnn-model.safetensors", "--temperature", "-1"], "--temperature"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_code_2(
    arguments: list[str], message: str, model_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("short.txt").write_text("hi", encoding="utf-8")
    Path("binary.txt").write_bytes(b"\xff\xfe\x00\x01")
    try:
        code = main(arguments)
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        code = ended.code
    err = capsys.readouterr().err
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert Path("book.txt").read_text(encoding="utf-8") == TEXT


@pytest.mark.parametrize("command", ["train", "sample"])
@pytest.mark.parametrize("variable", ["FASTRNN_BACKEND", "FASTRNN_CPU", "FASTRNN_NUM_THREADS"])
def test_bad_environment_is_one_line_and_code_2(variable: str, command: str, model_file: str) -> None:
    if variable == "FASTRNN_CPU" and "cpp" not in fastrnn.available_backends():
        pytest.skip("the extension is not built")
    before = Path(model_file).read_bytes()
    arguments = ["train", "book.txt", "--overwrite"] if command == "train" else ["sample", model_file]
    result = _run(arguments, **{variable: "abacus"})
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"fastrnn {command}: error: {variable}: expected ")
    assert result.stderr.endswith("(see fastrnn info)\n")
    assert result.stderr.count("\n") == 1
    assert Path(model_file).read_bytes() == before


def test_full_disk_is_one_line(
    text_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LanguageModel, "save", full)
    assert main(["train", text_file, *QUICK, "--quiet"]) == 2
    assert "No space left on device" in capsys.readouterr().err


def test_other_errors_are_not_hidden(text_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(command, "train", broken)
    with pytest.raises(ValueError, match="a defect") as error:
        main(["train", text_file, *QUICK])
    assert not isinstance(error.value, InputError)


def test_as_a_module() -> None:
    result = _run(["--version"])
    assert result.returncode == 0
    assert result.stdout == f"fastrnn {fastrnn.__version__}\n"


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes that break")
def test_reader_that_leaves(model_file: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "fastrnn", "sample", model_file, "--backend", "numpy", "--length", "100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=60) == 1


def _press_after(steps: int):  # type: ignore[no-untyped-def]
    def on_step(self: object, history: History) -> None:
        if len(history.bits) == steps and not history.interrupted:
            raise KeyboardInterrupt

    return on_step


def _run(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "fastrnn", *arguments],
        capture_output=True,
        text=True,
        env={**_environment(), **environment},
        check=False,
        timeout=60,
    )


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(fastrnn.__file__).parents[1])}
