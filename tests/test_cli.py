from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch
import typer
from matplotlib import image
from typer.testing import CliRunner, Result

import argumbel
from argumbel import cli
from argumbel.cli._train import signature
from argumbel.experiments import Config, Run, config, train
from argumbel.experiments.settings import Setting

TINY = ["--latents", "3", "--classes", "4", "--hidden", "16", "--batch", "32"]
TINY += ["--threads", "1", "--device", "cpu", "--log-every", "10", "--valid-every", "20"]


pytestmark = pytest.mark.usefixtures("plain_terminal")


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)


def refused(*words: str | Path) -> str:
    result = call(*words)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def test_train_evaluates_reports_and_says_where() -> None:
    result = call("train", *TINY, "--steps", "40", "--samples", "2,8", "--run", "mine")
    assert result.exit_code == 0, result.output
    run = Run.open(Path("mine"))
    for name in ("config.json", "metrics.jsonl", "checkpoint.pt", "best.pt", "evaluation.json", "report.html"):
        assert (run.path / name).stat().st_size > 0
    assert "Report: mine/report.html" in result.output
    stored = run.read_json("evaluation.json")
    assert stored is not None
    for what in ("elbo", "bound_2", "bound_8", "baseline"):
        assert f"{stored[what]['mean']:.2f} ± {stored[what]['stderr']:.2f}" in result.output
    for title in ("test ELBO", "bound on log p(x), 8 samples", "latents ignored"):
        assert title in result.output
    assert "Trained 40 steps" in result.output
    assert max(len(line) for line in result.output.splitlines()) <= 100


def test_evaluate_again_with_more_samples() -> None:
    call("train", *TINY, "--steps", "20", "--samples", "2", "--run", "mine")
    before = json.loads(Path("mine/evaluation.json").read_text())
    Path("mine/report.html").unlink()
    result = call("evaluate", "mine", "--samples", "3,5", "--seed", "7", "--threads", "1")
    assert result.exit_code == 0, result.output
    after = json.loads(Path("mine/evaluation.json").read_text())
    assert {"bound_3", "bound_5"} < set(after)
    assert after["seed"] == 7
    assert after["kl"] == before["kl"]
    assert f"{after['bound_5']['mean']:.2f}" in Path("mine/report.html").read_text()


def test_resume_carries_on_to_the_same_weights() -> None:
    words = [*TINY, "--lr-schedule", "constant", "--samples", "2"]
    call("train", *words, "--steps", "40", "--run", "straight")
    call("train", *words, "--steps", "20", "--run", "stopped")
    result = call("train", "--resume", "stopped", "--steps", "40", "--samples", "2")
    assert result.exit_code == 0, result.output
    a, b = (Run(Path(name)).load("checkpoint.pt") for name in ("straight", "stopped"))
    assert a["step"] == b["step"] == 40
    assert all(torch.equal(a["model"][key], b["model"][key]) for key in a["model"])
    message = refused("train", "--resume", "stopped", "--lr", "0.1", "--batch", "3", "--overwrite")
    assert "--resume must come without the options that a run keeps from its start" in message
    assert "but here are --batch, --lr, --overwrite" in message
    assert "steps must be more than the 40 steps that stopped has, but it is 40" in refused(
        "train", "--resume", "stopped"
    )
    assert "but there is a run in stopped; continue it" in refused("train", *TINY, "--run", "stopped")


def test_images_of_an_npz_file_by_name() -> None:
    bits = np.random.default_rng(0).integers(0, 2, (60, 64), dtype=np.uint8)
    np.savez("bits.npz", a=np.packbits(bits, axis=1)[:50], b=np.packbits(bits, axis=1)[50:])
    words = [
        "train",
        *TINY,
        "--dataset",
        "mine",
        "--data",
        "bits.npz",
        "--arrays",
        "a,b",
        "--steps",
        "3",
        "--samples",
        "2",
    ]
    result = call(*words, "--estimator", "gumbel_straight_through", "--schedule", "linear:1,0.5,3")
    assert result.exit_code == 0, result.output
    run = Run.open(Path("runs/mine-gumbel_straight_through"))
    assert Path(run.config().data or "").is_absolute()
    assert run.config().arrays == ("a", "b")
    assert "mine: 8x8 binary, 45 / 5 / 10 images" in run.report.read_text()


@pytest.mark.parametrize("figure", ["simplex", "expectations"])
def test_plot(figure: str) -> None:
    result = call("plot", figure, "--tau", "0.5,2", "-o", "deep/picture.png", "--dpi", "60", "--seed", "1")
    assert result.exit_code == 0, result.output
    assert "Wrote deep/picture.png" in result.output
    first = image.imread("deep/picture.png")
    assert first[..., :3].std() > 0.02
    call("plot", figure, "--tau", "0.5,2", "-o", "again.png", "--dpi", "60", "--seed", "1")
    call("plot", figure, "--tau", "0.5,2", "-o", "other.png", "--dpi", "60", "--seed", "2")
    assert np.array_equal(first, image.imread("again.png"))
    assert not np.array_equal(first, image.imread("other.png"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train --estimator magic", "estimator must be one of 'exact', 'reinforce',"),
        (
            "train --estimator reinmax(gap=1)",
            "arguments of estimator reinmax must be among num_samples, tau, but 'reinmax(gap=1)' has 'gap'",
        ),
        ("train --hidden 3,x", "--hidden must be numbers separated by commas, but it is '3,x'"),
        ("train --samples ,", "--samples must be numbers separated by commas"),
        ("train --schedule exp:1", "schedule must be exp:start,rate,floor,every"),
        (
            "train --dataset digits --data .",
            "data must be left out for the dataset digits, which is bundled, but it is",
        ),
        ("train --resume nowhere", "run must be a folder that argumbel train wrote, but nowhere has no config.json"),
        ("train --batch 5000 --steps 1", "batch must be at most the number of training images, 1197, but it is 5000"),
        ("evaluate nowhere", "run must be a folder that argumbel train wrote, but nowhere has no config.json"),
        ("plot simplex --tau warm", "--tau must be numbers separated by commas, but it is 'warm'"),
        ("plot simplex --tau 0", "taus must be one or more finite numbers above 0"),
        ("plot expectations -o picture.gif", "--output must end in .png, .svg or .pdf, but it is picture.gif"),
    ],
)
def test_bad_words_are_one_line(words: str, message: str) -> None:
    assert f"error: {message}" in refused(*words.split())


def test_help_and_version() -> None:
    assert call("--version").output == f"argumbel {argumbel.__version__}\n"
    overview = call("--help").output
    assert all(command in overview for command in ("train", "evaluate", "plot"))
    assert all(command in call("plot", "--help").output for command in ("simplex", "expectations"))


def help_of(command: str) -> str:
    """The help as one line of words, without the frames of its panels."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", call(command, "--help").output).split())


def test_every_setting_has_an_option_with_help() -> None:
    options = set(inspect.signature(cli.train).parameters)
    assert {field.name for field in dataclasses.fields(Config)} < options
    text = help_of("train")
    for name in options:
        assert re.search(rf"--{name.replace('_', '-')}(?: --no-\w+)?(?: <\w+>)? [A-Za-z0-9]", text), name
    for name, value in (("latents", "10 for digits"), ("lr", "3e-3 for digits"), ("steps", "6000 for digits")):
        assert str(getattr(Config.make("digits"), name)) == str(
            type(getattr(Config.make(), name))(float(value.split()[0]))
        )
        assert value in text


def test_the_help_of_a_setting_stands_in_its_panel() -> None:
    text = help_of("train")
    places = [text.index(f" {panel} --") for panel in config.PANELS]
    assert places == sorted(places)
    for name, setting in Config.settings().items():
        assert setting.help in text
        panel = config.PANELS.index(setting.panel)
        place = text.index(f"--{name.replace('_', '-')} ", places[panel])
        assert panel == len(places) - 1 or place < places[panel + 1]


def another(name: str, setting: Setting) -> tuple[list[str], Any]:
    """Words of the command line that give a setting another value than its default, and this value."""
    flag = f"--{name.replace('_', '-')}"
    texts = {"dataset": "mine", "estimator": "reinmax(tau=0.5)", "schedule": "constant:0.7", "precision": "64-true"}
    default = getattr(Config.make(), name)
    if setting.kind is bool:
        return [f"--no-{flag[2:]}" if default else flag], not default
    if setting.kind is tuple:
        return ([flag, "3, 5"], (3, 5)) if setting.element is int else ([flag, "a, b"], ("a", "b"))
    if setting.path:
        return [flag, "images.npz"], str(Path("images.npz").resolve())
    if setting.kind is str:
        value = next((choice for choice in setting.choices if choice != default), None) or texts[name]
    else:
        value = setting.kind(2 * (default or 1))
    return [flag, str(value)], value


@pytest.mark.parametrize("name", Config.settings())
def test_every_setting_goes_from_the_command_line_to_the_run_folder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Config] = []
    monkeypatch.setattr(train, "fit", lambda config, *_, **__: given.append(config))
    words, value = another(name, Config.settings()[name])
    result = call("train", *words, *(("--kl", "relaxed") if name == "prior_tau" else ()))
    assert result.exit_code == 0, result.output
    (config,) = given
    assert getattr(config, name) == value != getattr(Config.make(), name)
    run = Run.create(Path("run"), config)
    stored = json.loads((run.path / "config.json").read_text())
    assert stored[name] == (list(value) if isinstance(value, tuple) else value)
    assert run.config() == config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coloured(Config):
    """A new setting is one new field."""

    ink_colour: Annotated[
        str,
        Setting("Model", "Colour of the ink.", presets={"digits": "blue"}, choices=("blue", "black", "red")),
    ] = "black"


def test_a_new_setting_is_one_new_field() -> None:
    assert Coloured.settings().keys() - Config.settings().keys() == {"ink_colour"}
    assert [Coloured.make(name).ink_colour for name in ("digits", "mnist")] == ["blue", "black"]
    with pytest.raises(ValueError, match="ink_colour must be one of 'blue', 'black', 'red', but it is 'green'"):
        Coloured.make(ink_colour="green")
    seen: list[dict[str, Any]] = []

    def command(**options: Any) -> None:
        seen.append(options)

    command.__signature__ = signature(command, Coloured.settings())  # type: ignore[attr-defined]
    app = typer.Typer()
    app.command()(command)
    text = CliRunner().invoke(app, ["--help"]).output
    assert "Colour of the ink. Default: blue for digits, else black." in " ".join(text.replace("│", " ").split())
    CliRunner().invoke(app, ["--ink-colour", "red"], catch_exceptions=False)
    assert {name: value for name, value in seen[0].items() if value is not None} == {"ink_colour": "red"}


def test_two_processes_train_the_model_of_one() -> None:
    """Rows of noise and batches are shared out by global ids, so data parallel changes rounding and nothing else."""
    script = Path("main.py")  # the second process is started from the command line of the first
    script.write_text("from argumbel.cli import app\n\napp()\n")
    words = ["train", *TINY, "--steps", "20", "--samples", "2"]
    command = [sys.executable, str(script), *words, "--devices", "2", "--run", "two"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=240)
    call(*words, "--run", "one")
    one, two = (Run(Path(name)).load("checkpoint.pt") for name in ("one", "two"))
    for key, value in one["model"].items():
        torch.testing.assert_close(two["model"][key], value, rtol=1e-3, atol=1e-4)
    records = [list(Run(Path(name)).records()) for name in ("one", "two")]
    assert [r["step"] for r in records[1]] == [10, 20, 20]
    for a, b in zip(*records, strict=True):
        assert b["elbo"] == pytest.approx(a["elbo"], abs=1e-3)
