"""``fastrnn gradflow``: what it prints, draws and refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fastrnn
from fastrnn import diagnostics
from fastrnn.cli import main
from fastrnn.diagnostics import command, plots
from fastrnn.train.data import Vocabulary
from fastrnn.train.language_model import Architecture, LanguageModel

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 20
QUICK = ["--hidden-size", "6", "--steps", "30", "--sequences", "2", "--backend", "numpy"]


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text and a model of it in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text(TEXT, encoding="utf-8")
    with fastrnn.use_backend("numpy"):
        LanguageModel.new(Vocabulary.of(TEXT), Architecture("gru", 6, 2, 4)).save("m.safetensors")


def test_a_new_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradflow", "--cell", "lstm", *QUICK, "book.txt"]) == 0
    out = capsys.readouterr().out
    assert "text     book.txt: 2 stretches of 30 characters" in out
    assert "network  a new network, seed 0: embedding, LSTM 6, float32, backend numpy" in out
    assert "gradients: vanishing\n  1.l0: vanishing since step " in out
    assert "tanh(c) 0% saturated" in out and "what to try:" in out
    assert "largest Lyapunov exponent of 1.l0: -" in out
    assert "picture  fastrnn-gradflow.png" in out
    assert Path("fastrnn-gradflow.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("names", [["m.safetensors", "book.txt"], ["book.txt", "m.safetensors"], ["m.safetensors"]])
def test_a_saved_model_on_a_text_or_on_what_it_knows_of_the_default(
    names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path("m.safetensors").read_bytes()
    assert main(["gradflow", *names, "--steps", "20", "--no-plot", "--backend", "numpy"]) == 0
    out = capsys.readouterr().out
    assert "network  m.safetensors: embedding, 2 x GRU 6, float32" in out
    assert "  1.l0: " in out and "  1.l1: " in out
    assert ("text     book.txt" in out) == ("book.txt" in names)
    assert not list(Path().glob("*.png"))
    assert Path("m.safetensors").read_bytes() == before


def test_what_it_prints_is_what_the_functions_give(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["gradflow", "m.safetensors", "book.txt", "--steps", "20", "--sequences", "3", "--no-plot"]
    assert main([*arguments, "--backend", "numpy"]) == 0
    model = LanguageModel.load("m.safetensors")
    ids = model.vocabulary.encode(TEXT)
    x = np.stack([ids[s : s + 20] for s in (0, (len(ids) - 20) // 2, len(ids) - 20)], axis=1)
    with fastrnn.use_backend("numpy"):
        report = diagnostics.report(model.network, x)
        exponents = diagnostics.lyapunov_exponents(model.network, x[:, :1], warmup=4)
    out = capsys.readouterr().out
    assert str(report) in out
    assert f"exponent of 1.l1: {exponents['1.l1'][0]:.3g} per step" in out


def test_exponents_of_wide_networks_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "FORMED", 5)
    assert main(["gradflow", *QUICK, "--cell", "rnn", "book.txt"]) == 0
    assert "Lyapunov" not in capsys.readouterr().out
    assert Path("fastrnn-gradflow.png").exists()


def test_missing_matplotlib_is_a_hint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(*arguments: object) -> None:
        raise ImportError

    monkeypatch.setattr(plots, "new_figure", missing)
    assert main(["gradflow", *QUICK, "book.txt"]) == 0
    assert "pip install 'fastrnn[plot]'" in capsys.readouterr().out


def test_a_picture_that_is_there_is_replaced_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.png").write_text("of yesterday")
    arguments = ["gradflow", *QUICK, "book.txt", "--output", "a.png"]
    assert main(arguments) == 2
    assert "--output: a.png would be replaced: give --overwrite" in capsys.readouterr().err
    assert Path("a.png").read_text() == "of yesterday"
    assert main([*arguments, "--overwrite"]) == 0
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m.safetensors", "--cell", "rnn", "--hidden-size", "3"], "--cell, --hidden-size: expected without a model"),
        (["a.txt", "b.txt"], "expected at most one model (*.safetensors) and one text, got a.txt, b.txt"),
        (["m.safetensors", "n.safetensors"], "expected at most one model"),
        (["missing.txt"], "missing.txt: cannot be read"),
        (["missing.safetensors"], "missing.safetensors: cannot be read"),
        (["m.safetensors", "other.txt"], "characters that the model has never seen"),
        (["empty.txt"], "empty.txt: expected a text, got an empty file"),
        (["other.txt", "--steps", "100"], "the text is too short: expected at least 100 characters"),
        (["book.txt", "--steps", "0"], "--steps: expected a whole number, at least 1, got '0'"),
        (["book.txt", "--cell", "cnn"], "invalid choice"),
        (["book.txt", "--output", "a.jpg"], "--output: expected a name that ends in .png, got a.jpg"),
        (["book.txt", "--output", "missing/a.png"], "--output: cannot write missing/a.png"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("other.txt").write_text("ÄÖÜ", encoding="utf-8")
    Path("empty.txt").touch()
    try:
        code = main(["gradflow", *arguments, "--backend", "numpy"])
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        code = ended.code
    err = capsys.readouterr().err
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not list(Path().glob("*.png"))


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["gradflow", "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: fastrnn gradflow [options] [MODEL | --cell NAME --hidden-size N] [TEXT]")
    for part in ("--num-layers", "default: 64", "--overwrite", "examples:", "Lyapunov"):
        assert part in out
