"""A small language model: its model, training, texts and commands."""

from __future__ import annotations

import dataclasses
import gzip
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from argumbel import cli
from argumbel.experiments.text import Alphabet, Corpus, TextConfig, TextModel, TextRun, fit_text, sample_texts

SMALL: dict[str, Any] = {
    "width": 16, "layers": 1, "heads": 2, "window": 12, "steps": 30, "batch": 4, "log_every": 10, "valid_every": 10,
    "threads": 1,
}  # fmt: skip
TEXT = "the quick brown fox jumps over the lazy dog.\n" * 30


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> TextRun:
    folder = tmp_path_factory.mktemp("text")
    (folder / "fox.txt").write_text(TEXT)
    return fit_text(TextConfig(data=str(folder / "fox.txt"), **(SMALL | {"steps": 150, "lr": 1e-2})), folder / "run")


def small_model(window: int = 7, layers: int = 3) -> TextModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TextModel(11, width=16, layers=layers, heads=2, window=window).double().eval()
        for parameter in model.parameters():
            parameter.data.mul_(3)
    return model


# --- the model -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [[1] * 20, [5, 15], [12, 1, 7], [20]])
def test_a_text_in_parts_has_the_logits_of_the_whole(cuts: list[int]) -> None:
    model = small_model()
    tokens = torch.randint(11, (2, 20), generator=torch.Generator().manual_seed(1))
    whole, _ = model(tokens)
    cache, parts = None, []
    for part in tokens.split(cuts, 1):
        logits, cache = model(part, cache)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    assert cache is not None
    assert cache.length == 20
    assert cache.past.shape[4] == 6


def test_a_layer_looks_no_further_than_the_window() -> None:
    """With L layers of window w, a logit depends on the last L (w - 1) + 1 characters, and on no later one."""
    model = small_model(window=4, layers=2)
    tokens = torch.randint(1, 11, (1, 15), generator=torch.Generator().manual_seed(1))
    before, _ = model(tokens)
    changed = tokens.clone()
    changed[0, 5] = 0
    difference = (model(changed)[0] - before).abs().amax(-1)[0]
    assert (difference > 1e-9).nonzero().flatten().tolist() == list(range(5, 5 + 2 * 3 + 1))


# --- corpus and training ---------------------------------------------------------------------------------------------


def test_the_corpora(tmp_path: Path) -> None:
    python = Corpus.load()
    assert len(python.train) > 300_000
    assert len(python.train) > 15 * len(python.valid) > 0
    assert "lambda" in python.alphabet.decode(python.train)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("añb".encode() * 40))
    own = Corpus.load(str(tmp_path / "a.txt.gz"))
    assert own.alphabet == Alphabet("abñ")
    assert own.alphabet.decode(own.train[:3]) == "añb"
    with pytest.raises(ValueError, match="data must be a text file, but there is no file"):
        Corpus.load(str(tmp_path / "b.txt"))
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="data must be text in UTF-8"):
        Corpus.load(str(tmp_path / "c.txt"))
    with pytest.raises(ValueError, match="prompt must have the characters of the text"):
        own.alphabet.encode("abc")


def test_training_learns_and_repeats(finished: TextRun, tmp_path: Path) -> None:
    losses = [r["loss"] for r in finished.records() if r["kind"] == "valid"]
    assert losses[-1] < 0.7 * losses[0]
    _, alphabet, state = finished.language_model()
    assert state["loss"] == min(losses)
    assert alphabet == Corpus.of(TEXT).alphabet
    runs = [fit_text(dataclasses.replace(finished.config(), steps=20), tmp_path / name) for name in "ab"]
    first, second = (run.load("best.pt")["model"] for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_bad_settings(tmp_path: Path, finished: TextRun) -> None:
    with pytest.raises(ValueError, match="width must be a multiple of twice the heads, 4, but it is 18; give 16"):
        TextConfig(**(SMALL | {"width": 18}))
    with pytest.raises(ValueError, match="steps must be at least 1"):
        TextConfig(**(SMALL | {"steps": 0}))
    with pytest.raises(ValueError, match="data must be longer than the window"):
        fit_text(dataclasses.replace(finished.config(), window=2000), tmp_path / "run")
    with pytest.raises(ValueError, match="run must be a folder without a run"):
        fit_text(finished.config(), finished.path)
    with pytest.raises(ValueError, match="run must be a folder that argumbel train-text wrote"):
        TextRun.open(tmp_path)
    with pytest.raises(FloatingPointError, match="loss must be finite"):
        fit_text(dataclasses.replace(finished.config(), lr=1e12), tmp_path / "run")


# --- texts ---------------------------------------------------------------------------------------------------------


def test_a_text_is_a_function_of_its_seed(finished: TextRun) -> None:
    model, alphabet, _ = finished.language_model()
    model = model.double()  # where another batch changes nothing that a race could notice
    together = sample_texts(model, alphabet, "the ", [3, 4, 2**64 - 1], 40, top_p=0.95)
    assert [len(text) for text in together] == [40] * 3
    assert len(set(together)) == 3
    assert sample_texts(model, alphabet, "the ", [4], 40, top_p=0.95) == [together[1]]
    assert sample_texts(model, alphabet, "the ", [-1], 40, top_p=0.95) == [together[2]]
    # A text that is given back goes on as it would have gone on.
    rest = sample_texts(model, alphabet, "the " + together[1][:25], [4], 15, top_p=0.95)
    assert rest == [together[1][25:]]
    assert sample_texts(model, alphabet, "t", [0], 20, temperature=0) == sample_texts(
        model, alphabet, "t", [1], 20, temperature=0
    )
    assert sample_texts(model, alphabet, "t", [0, 1], 0) == ["", ""]
    with pytest.raises(ValueError, match="prompt must have at least one character"):
        sample_texts(model, alphabet, "", [0], 5)


# --- the commands ----------------------------------------------------------------------------------------------------


pytestmark = pytest.mark.usefixtures("plain_terminal")


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)


def test_the_commands(finished: TextRun) -> None:
    Path("fox.txt").write_text(TEXT)
    words = ["--width", "16", "--layers", "1", "--heads", "2", "--window", "12", "--steps", "20", "--threads", "1"]
    result = call("train-text", "--data", "fox.txt", *words, "--run", "mine")
    assert result.exit_code == 0, result.output
    assert "Report: mine/report.html" in result.output
    page = Path("mine/report.html").read_text()
    assert re.findall("<h3>temperature ([^<]+)</h3>", page) == ["0", "0.5", "0.8", "1", "1.3"]
    assert '<img alt="Learning" src="data:image/png;base64,' in page
    assert "trained on fox.txt" in page
    assert not re.search(r'(src|href)="(?!data:)|url\(|@import|<script', page)
    refused = call("train-text", "--data", "fox.txt", *words, "--run", "mine")
    assert refused.exit_code == 2
    assert "run must be a folder without a run" in " ".join(refused.output.split())

    arguments = ["text", "sample", finished.path, "--length", "30", "--prompt", "the "]
    one = call(*arguments, "--seed", "8")
    assert one.exit_code == 0, one.output
    assert one.output.startswith("the ")
    several = call(*arguments, "--seed", "7", "--count", "2", "--top-p", "0.9")
    assert re.findall(r"--- seed (\d+)", several.output) == ["7", "8"]
    assert call("text", "sample", Path("nowhere")).exit_code == 2
    assert "not one of them" in " ".join(call(*arguments[:-1], "Ω").output.split())
