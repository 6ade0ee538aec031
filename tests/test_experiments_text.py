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
from argumbel.experiments.text import (
    Alphabet,
    Corpus,
    TextConfig,
    TextModel,
    TextRun,
    beam_texts,
    detect_watermark,
    fit_text,
    rewrite_text,
    sample_texts,
    watermark_texts,
)

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


def test_beams_are_different_texts_with_their_probabilities(finished: TextRun) -> None:
    model, alphabet, _ = finished.language_model()
    model = model.double()
    rules: dict[str, Any] = {"temperature": 1.5, "top_k": 5}
    texts = beam_texts(model, alphabet, "the ", 6, 8, seed=3, end=" ", **rules)
    assert len({one.text for one in texts}) == 6
    assert all(" " not in one.text[:-1] and (len(one.text) == 8 or one.text[-1] == " ") for one in texts)
    assert [one.value for one in texts] == sorted((one.value for one in texts), reverse=True)
    fewer = beam_texts(model, alphabet, "the ", 2, 8, seed=3, end=" ", **rules)
    assert [one.text for one in fewer] == [one.text for one in texts[:2]]
    for one in texts:  # the probability is the product over the characters
        tokens = alphabet.encode("the " + one.text).unsqueeze(0)
        logits = model(tokens)[0][0, 3:-1].detach() / 1.5
        kept = logits.masked_fill(logits < logits.topk(5).values[:, -1:], -torch.inf).log_softmax(-1)
        expected = kept.gather(1, tokens[0, 4:, None]).sum()
        assert one.log_prob == pytest.approx(float(expected), rel=1e-6)
    (only,) = beam_texts(model, alphabet, "the ", 6, 8, temperature=0)
    assert only.log_prob == pytest.approx(0)
    assert only.weight == pytest.approx(1)
    assert only.text == sample_texts(model, alphabet, "the ", [0], 8, temperature=0)[0]
    with pytest.raises(ValueError, match="end must be one character, but it is 'ab'"):
        beam_texts(model, alphabet, "the ", 6, 8, end="ab")


def test_a_watermark_is_found_by_its_secret_alone(finished: TextRun) -> None:
    model, alphabet, _ = finished.language_model()
    model = model.double()
    own: dict[str, Any] = {"temperature": 3, "width": 3}
    texts = watermark_texts(model, alphabet, "the ", [5, 6], 150, secret=9, **own)
    assert len(set(texts)) == 2
    assert watermark_texts(model, alphabet, "the ", [6], 150, secret=9, **own) == texts[1:]
    # Until a context is complete, a text is that of text sample.
    plain = sample_texts(model, alphabet, "the ", [5, 6], 3, temperature=3)
    assert [text[:3] for text in texts] == plain
    for text in texts:
        found = detect_watermark(alphabet, text, secret=9, width=3)
        assert found.p_value() < 1e-9
        assert found.p_value(0) == 1
        assert found.p_value() < found.p_value(20) < 1e-2
        assert detect_watermark(alphabet, text, secret=8, width=3).p_value() > 1e-3
        # Characters that the model does not know are no reason to fail: they, and the contexts with them, do not count.
        changed = detect_watermark(alphabet, text[:70] + "Ω" + text[71:], secret=9, width=3)
        assert not changed.counted[70:74].any()
        assert changed.p_value() < 1e-9


def test_a_text_is_written_again_with_the_same_luck(finished: TextRun) -> None:
    model, alphabet, _ = finished.language_model()
    model = model.double()
    # Luck that is known: the noise of each place, whatever the prompt.
    (old,) = sample_texts(model, alphabet, "the ", [4], 60, temperature=1.2)
    assert sample_texts(model, alphabet, "the quick ", [4], 60, temperature=1.2, first=4) != [old]
    assert sample_texts(model, alphabet, "e ", [4], 1, first=4, temperature=1e9) == sample_texts(
        model, alphabet, "the ", [4], 1, temperature=1e9
    )
    # Luck that is drawn given the text.
    rules = {"temperature": 1.2}
    assert rewrite_text(model, alphabet, "the ", old, rules=rules) == old
    warmer = rewrite_text(model, alphabet, "the ", old, rules=rules, new_rules={"temperature": 2})
    assert len(warmer) == len(old)
    assert warmer != old
    assert warmer != rewrite_text(model, alphabet, "the ", old, rules=rules, new_rules={"temperature": 2}, seed=1)
    assert rewrite_text(model, alphabet, "the ", old, rules=rules, new_prompt="the ") == old
    with torch.random.fork_rng():
        torch.manual_seed(1)
        other = finished.config().model(alphabet).double()
    assert rewrite_text(model, alphabet, "the ", old, rules=rules, new_model=other) != old


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
    assert page.count("<section>") == 5
    assert re.search(r"with the watermark: p = [0-9.e-]+<", page)
    assert re.search("<b>sum</b></td><td><b>[0-9.e-]+</b>", page)
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


def test_the_command_beam(finished: TextRun) -> None:
    result = call("text", "beam", finished.path, "--prompt", "the ", "-k", "4", "--length", "12", "--end", " ")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("After the␣")
    assert len(re.findall(r"│ +\d │ \S+ +│ +[0-9.e-]+ │ +[0-9.e-]+ │", result.output)) == 4
    assert "The probabilities add up to" in result.output
    few = call("text", "beam", finished.path, "--temperature", "0")
    assert "There is no more than 1 text." in few.output
    refused = call("text", "beam", finished.path, "--end", "ab")
    assert refused.exit_code == 2
    assert "end must be one character" in " ".join(refused.output.split())


def test_the_commands_watermark_and_detect(finished: TextRun) -> None:
    rules = ["--secret", "9", "--width", "3"]
    marked = call("text", "watermark", finished.path, "--temperature", "3", "--length", "200", *rules)
    assert marked.exit_code == 0, marked.output
    assert re.search(r"Seed 0: \d+ of 200 characters count; p-value \d", marked.stderr)
    assert "p-value" not in marked.stdout
    Path("marked.txt").write_text(marked.stdout)
    found = call("text", "detect", finished.path, "marked.txt", *rules)
    assert "This text carries the watermark." in found.output
    assert "marked.txt, secret 9" in found.output
    arguments = ["text", "detect", str(finished.path)]
    piped = CliRunner().invoke(cli.app, [*arguments, *rules], input=marked.stdout)
    assert piped.output.splitlines()[1:] == found.output.splitlines()[1:]
    other = CliRunner().invoke(cli.app, [*arguments, "-", "--secret", "8"], input=marked.stdout)
    assert "No sign of the watermark." in other.output
    empty = CliRunner().invoke(cli.app, arguments, input="\n")
    assert empty.exit_code == 2
    assert "the text must have at least one character" in " ".join(empty.output.split())
    assert call(*arguments, "nowhere.txt").exit_code == 2
    Path("bytes").write_bytes(b"\xff\xfe")
    assert "the text must be in UTF-8" in " ".join(call(*arguments, "bytes").output.split())


def test_the_command_counterfactual(finished: TextRun, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["text", "counterfactual", finished.path, "--prompt", "the ", "--length", "90"]
    same = call(*arguments, "--new-temperature", "0.8")
    assert same.exit_code == 0, same.output
    assert "The texts are the same." in same.output
    (drawn,) = re.findall("the (.*)", call("text", "sample", *arguments[2:-1], "40").stdout)[:1]
    assert f"│ {drawn[:30]}" in same.output

    warmer = call(*arguments, "--new-temperature", "2")
    differ, total, first = re.findall(
        r"(\d+) of (\d+) characters differ \(\^\), the first at\splace\s(\d+)", warmer.output
    )[0]
    assert (int(total), warmer.output.count("^")) == (90, 2 * int(differ) + 1)
    rows = [line.split("│") for line in warmer.output.splitlines() if line.startswith("│")]
    old, new = ("".join(row[i][1:-1] for row in rows[::2]) for i in (1, 2))
    assert [a != b for a, b in zip(old, new, strict=True)].index(True) + 1 == int(first)
    assert "with prompt quick␣" in call(*arguments, "--new-prompt", "quick ").output
    assert "The texts are the same." in call(*arguments, "--new-run", finished.path).output

    with monkeypatch.context() as patch:  # on a terminal the differing characters are inverted
        patch.setenv("FORCE_COLOR", "1")
        patch.setenv("TERM", "xterm")
        patch.delenv("NO_COLOR")
        shown = call(*arguments, "--new-temperature", "2")
    assert "^" not in shown.output
    inverted = "".join(re.findall("\x1b\\[1;7m([^\x1b]*)", shown.output))
    assert len(inverted) == 2 * int(differ)

    Path("fox.txt").write_text("the quick brown dog jumps\n")
    own = call(*arguments, "--new-temperature", "1", "--temperature", "1", "--text", "fox.txt")
    assert "│ quick brown dog jumps " in own.output
    assert "The texts are the same." in own.output

    for more, words in (
        ([], "the question must change something"),
        (["--new-run", "nowhere"], "nowhere"),
        (["--new-prompt", ""], "prompt must have at least one character"),
    ):
        refused = call(*arguments, *more)
        assert refused.exit_code == 2
        assert words in " ".join(refused.output.split())
    Path("abc.txt").write_text("abc" * 500)
    config = TextConfig(data="abc.txt", **(SMALL | {"steps": 1}))
    other = fit_text(config, Path("other"))
    refused = call(*arguments, "--new-run", other.path)
    assert "--new-run must have the characters of RUN" in " ".join(refused.output.split())
