"""Sweeps: the polynomial problem, gradient variances, recipes, what is trained and what is not, the report."""

from __future__ import annotations

import base64
import dataclasses
import inspect
import io
import json
import math
import re
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import image
from torch import Tensor
from typer.testing import CliRunner, Result

from argumbel import cli
from argumbel.experiments import Config, Run, comparison, evaluate, fit, recipes, sbn, sweeps
from argumbel.experiments import sweep as run_sweep
from argumbel.experiments.estimator import Estimator
from argumbel.experiments.polynomial import EXACT, expectation, minimise
from argumbel.experiments.recipes import RECIPES, Figure, Job, Outcome, Recipe
from argumbel.experiments.structures import RECIPES as STRUCTURES
from tests.small_runs import images, small_vae

# The polynomial problem


def test_expectation_is_that_of_every_outcome() -> None:
    logits = torch.randn(2, 3, 2, dtype=torch.float64)
    powers = torch.tensor([1.5, 3.0], dtype=torch.float64)
    expected = torch.zeros(2, dtype=torch.float64)
    for outcome in torch.cartesian_prod(*[torch.arange(2)] * 3):
        p = logits.log_softmax(-1).gather(-1, outcome.expand(2, 3).unsqueeze(-1)).squeeze(-1).sum(-1).exp()
        x = (outcome == 0).double()
        expected += p * ((x - 0.3).abs() ** powers.unsqueeze(-1)).mean(-1)
    torch.testing.assert_close(expectation(logits, powers, 0.3), expected)


@pytest.mark.parametrize("row", RECIPES["polynomial"].rows)
def test_every_estimator_lowers_the_polynomial(row: str) -> None:
    records: list[dict[str, Any]] = []
    learned, seconds = minimise(row, (1.5, 2.0), seed=0, steps=40, coins=5, lr=0.1, every=15, record=records.append)
    assert [r["step"] for r in records] == [15, 30, 40]
    assert records[-1] == {"step": 40, "kind": "train", **learned}
    for p in (1.5, 2.0):
        fair = (0.45**p + 0.55**p) / 2
        gain = (fair - learned[f"p={p:g}"]) / (fair - 0.45**p)
        assert 0.02 < gain < 1
        if row.startswith(("exact", "reinforce_loo", "stratified", "arm", "disarm", "arsm", "unordered_set")):
            assert gain > 0.9  # unbiased, of small variance
        if row.startswith(("softmax_straight_through", "gumbel_", "gapped")):
            assert gain < 0.4  # the slope of |x - c|^p at 0 and at 1 is not the difference that counts
    assert seconds > 0


def test_polynomial_runs_are_functions_of_the_seed() -> None:
    def run(seed: int, steps: int = 5) -> dict[str, float]:
        return minimise("reinforce_loo(num_samples=4)", (2.0,), seed=seed, steps=steps, coins=3)[0]

    assert run(0) == run(0)
    assert run(0) != run(1)


def test_a_polynomial_that_diverges_is_told() -> None:
    with pytest.raises(FloatingPointError, match="logits must be finite, but they became infinite or NaN by step"):
        minimise("reinforce(num_samples=64)", (2.0,), seed=0, steps=20, lr=1e38)


def test_a_polynomial_step_has_its_number_of_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    forward = Estimator.forward

    def spy(self: Estimator, f: Any, logits: Tensor, **more: Any) -> Tensor:
        return forward(self, lambda z: (seen.append(z.shape), f(z))[1], logits, **more)

    monkeypatch.setattr(Estimator, "forward", spy)
    for text in ("reinmax", "reinforce_loo(num_samples=64)", "unordered_set(num_samples=4)"):
        seen.clear()
        minimise(text, (2.0, 3.0), seed=0, steps=1, coins=7)
        assert seen[-1][0] * seen[-1][1] == 64
        assert seen[-1][2:] == (2, 7, 2)
    with pytest.raises(ValueError, match=r"num_samples of reinforce_loo\(num_samples=5\) must divide the 64 draws"):
        minimise("reinforce_loo(num_samples=5)", (2.0,), seed=0, steps=1)


def test_the_exact_gradient_goes_to_the_least() -> None:
    learned, _ = minimise(EXACT, (1.5, 2.0, 3.0), seed=0, steps=300, coins=2, lr=0.1)
    for p in (1.5, 2.0, 3.0):
        assert learned[f"p={p:g}"] == pytest.approx(0.45**p, rel=1e-3)


def test_straight_through_comes_to_rest_where_the_mean_slope_is_zero() -> None:
    powers = (1.5, 2.0, 3.0)
    learned, _ = minimise("softmax_straight_through", powers, seed=0, steps=500, coins=64, lr=5e-3)
    for p in powers:
        odds = (0.45 / 0.55) ** (p - 1)
        rest = (odds * 0.55**p + 0.45**p) / (1 + odds)
        assert learned[f"p={p:g}"] == pytest.approx(rest, abs=0.01 * (0.55**p - 0.45**p))


# Gradient variances


def test_gradient_variance_agrees_with_enumeration() -> None:
    """One latent of two classes, one image: the gradient of reinforce has two values, and its variance a formula."""
    vae, x = small_vae(latents=1, classes=2, seed=4), images(1)
    weights = [*vae.encoder.parameters(), *vae.decoder.parameters()]
    logits = vae.encode(x)
    p = logits.exp().flatten().detach()
    gradients = []
    for k in range(2):
        z = torch.nn.functional.one_hot(torch.tensor([[k]]), 2).double()
        loss = -evaluate.bernoulli_log_prob(vae.decode(z), x)
        surrogate = (loss + loss.detach() * logits[0, 0, k] + evaluate.categorical_kl(logits)).sum()
        parts = torch.autograd.grad(surrogate, weights, retain_graph=True)
        gradients.append(torch.cat([part.flatten() for part in parts]))
    # Var over weights of a two-valued gradient: p (1 - p) |g_0 - g_1|^2.
    exact = float(p[0] * p[1] * (gradients[0] - gradients[1]).square().sum())
    drawn, repeats = evaluate.gradient_variance(vae, x, "reinforce", batch=1, repeats=1500, seed=5), 1500
    # The estimate is exact / (p q) times the sample variance of 0 and 1.
    q = float(p[0] * p[1])
    spread = math.sqrt(q * (1 - 4 * q) / repeats) / q + 1 / repeats
    assert abs(drawn / exact - 1) < 6 * spread
    assert spread < 0.08


def test_gradient_variance_of_a_batch_and_its_own_estimator() -> None:
    vae, x = small_vae(latents=2, classes=3), images(40)
    own = vae.estimator
    one, many = (evaluate.gradient_variance(vae, x, "reinforce", batch=b, repeats=300) for b in (1, 20))
    assert many < one / 10
    assert vae.estimator is own
    assert one == evaluate.gradient_variance(vae, x, "reinforce", batch=1, repeats=300)
    better = evaluate.gradient_variance(vae, x, "reinforce_loo(num_samples=4)", batch=1, repeats=300)
    assert better < one / 2
    for changes, message in (
        ({"batch": 41}, "batch must be between 1 and the number of images, 40, but it is 41"),
        ({"repeats": 1}, "repeats must be at least 2, but it is 1"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate.gradient_variance(vae, x, "reinforce", **({"batch": 1, "repeats": 2} | changes))


# Recipes


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_sound(name: str) -> None:
    recipe = RECIPES[name]
    for settings in recipe.rows.values():
        if recipe.train is recipes.train_polynomial:
            assert settings == {"estimator": EXACT} or Estimator(settings["estimator"])
        elif recipe.train is recipes.train_sbn:
            assert settings["estimator"] in sbn.CONTROLLED or Estimator(settings["estimator"]).name in sbn.SCORED
        elif name in STRUCTURES:
            assert settings  # tests/test_experiments_structures.py trains them
        else:
            Config.make(**settings, steps=recipe.steps)
    keys = {figure.key for figure in recipe.figures}
    assert len(keys) == len(recipe.figures)
    for key, rows in recipe.published.items():
        assert key in keys
        assert rows.keys() <= recipe.rows.keys()
    folders = [sweeps._folder_name(row) for row in recipe.rows]
    assert len(set(folders)) == len(folders)
    assert all(re.fullmatch(r"[\w.][\w.-]*", folder) for folder in folders)


def test_an_epoch_is_what_the_recipes_say() -> None:
    for name, images_, epochs in (("reinmax", 50_000, 20), ("kool", 50_000, 15)):
        recipe = RECIPES[name]
        for settings in recipe.rows.values():
            assert settings["log_every"] == images_ // settings["batch"]
            assert recipe.steps == epochs * settings["log_every"]
    epoch = inspect.signature(sbn.maximise).parameters["epoch"].default
    for settings in RECIPES["sbn"].rows.values():
        assert epoch == math.ceil(50_000 / settings["batch"])
        assert RECIPES["sbn"].steps == 4 * epoch


def test_the_page_of_tables_says_what_the_recipes_say() -> None:
    docs = Path(__file__).parent.parent / "docs"
    tables, structures = (
        " ".join((docs / name).read_text().split()) for name in ("estimator_tables.md", "structures-experiments.md")
    )
    for name, recipe in RECIPES.items():
        page = structures if name in STRUCTURES else tables
        for difference in recipe.differences:
            assert f"- {difference}" in page, (name, difference)
        for rows in recipe.published.values():
            assert all(f"| {value} |" in page for value in rows.values())
    for estimator, value in recipes._KOOL_PUBLISHED.items():
        assert re.search(rf"\| `{re.escape(estimator)}` \|[^|]+\| {value:.2f} \|", tables)
    for row, settings in RECIPES["reinmax"].rows.items():
        tau = settings["schedule"].removeprefix("constant:")
        rate = f"{settings['lr']:.0e}".replace("e-0", "e-")
        assert f"| `{row}` | {rate} | {tau} |" in tables


# What is trained

TINY = {"latents": 2, "classes": 3, "hidden": (8,), "log_every": 5, "valid_every": 10}


def tiny_recipe(**changes: Any) -> Recipe:
    rows = recipes._rows("reinmax", "reinforce_loo(num_samples=3)", dataset="digits", **TINY)
    hot = {"estimator": "gumbel_softmax", "optimizer": "sgd", "lr": 1e38, "lr_schedule": "constant"}
    rows["too fast"] = {**rows["reinmax"], **hot}
    given = {"steps": 20, "seeds": (0, 1), "published": {"train_elbo": {"reinmax": "1 < 2"}}, "rows": rows}
    return dataclasses.replace(RECIPES["digits"], **(given | changes))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Job]]:
    """Trains in this process, where the recipe ``tiny`` is known too; yields the jobs that were trained."""
    trained: list[Job] = []

    def train_all(jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, dict[str, Any]]]:
        for job in jobs:
            trained.append(job)
            result = sweeps._train(job)
            if result is None:
                raise KeyboardInterrupt
            yield job, result

    monkeypatch.setattr(sweeps, "_train_all", train_all)
    monkeypatch.setitem(RECIPES, "tiny", tiny_recipe())
    yield trained
    torch.set_num_threads(1)


def test_a_sweep_trains_every_row_with_every_seed_once(tmp_path: Path, here: list[Job]) -> None:
    heard: list[tuple[str, int]] = []
    listener = lambda job, result: heard.append((job.label, job.seed))  # noqa: E731
    summary = run_sweep("tiny", tmp_path, listener=listener)
    assert len(here) == len(heard) == 6
    assert json.loads((tmp_path / "sweep.json").read_text()) == summary
    run, _ = fit(Config.make(**RECIPES["tiny"].rows["reinmax"], seed=1, steps=20, threads=1, device="cpu"), tmp_path)
    last = {record["kind"]: record for record in run.records()}
    row = summary["rows"][0]
    assert row["runs"][1]["figures"]["train_elbo"] == last["train"]["elbo"]
    assert row["runs"][1]["figures"]["valid_elbo"] == last["valid"]["elbo"]
    values = [r["figures"]["valid_elbo"] for r in row["runs"]]
    assert row["figures"]["valid_elbo"] == {
        "mean": pytest.approx(statistics.fmean(values)),
        "std": pytest.approx(abs(values[0] - values[1]) / 2**0.5),
        "runs": 2,
    }
    assert 0 < row["milliseconds"] < 1000
    # Nothing is trained twice; what is new is added.
    assert run_sweep("tiny", tmp_path, listener=listener) == summary
    assert (len(here), len(heard)) == (6, 12)
    more = run_sweep("tiny", tmp_path, rows=["reinmax"], seeds=[7, 7])
    assert (len(here), here[-1].seed) == (7, 7)
    assert [len(r["runs"]) for r in more["rows"]] == [3, 2, 2]
    with pytest.raises(
        ValueError,
        match=r"reinmax.seed-0 must be those of this sweep, but it holds a run with other settings; give --steps 20",
    ):
        run_sweep("tiny", tmp_path, steps=21)


def test_a_sweep_takes_numbers_of_numpy(tmp_path: Path, here: list[Job]) -> None:
    numbers = {"steps": np.int64(20), "jobs": np.int64(1), "threads": np.int64(1)}
    summary = run_sweep("tiny", tmp_path, rows=["reinmax"], seeds=np.arange(1), **numbers)
    assert json.loads((tmp_path / "sweep.json").read_text()) == summary
    assert run_sweep("tiny", tmp_path, rows=["reinmax"], seeds=[0], steps=20) == summary
    assert len(here) == 1
    with pytest.raises(TypeError, match="each of seeds must be an integer, but it is a float"):
        run_sweep("tiny", tmp_path, seeds=[0.5])


def test_a_run_that_diverges_is_told_and_does_not_stop_the_others(tmp_path: Path, here: list[Job]) -> None:
    summary = run_sweep("tiny", tmp_path, seeds=[0])
    rows = {row["row"]: row for row in summary["rows"]}
    assert "lower the learning rate" in rows["too fast"]["runs"][0]["failed"]
    assert rows["too fast"]["figures"] == {}
    assert rows["reinmax"]["figures"]["valid_elbo"]["std"] is None
    table = (tmp_path / "table.md").read_text()
    assert re.search(r"\| `too fast` \|  \|  \|  \| 1 \(1 failed\) \|  \|", table)
    page = (tmp_path / "report.html").read_text()
    assert re.search(r"too fast, seed 0: [\w ]+ must be finite, but became", page)
    run_sweep("tiny", tmp_path, seeds=[0])
    assert len(here) == 3


def test_an_interrupted_sweep_goes_on(tmp_path: Path, here: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_sweep("tiny", tmp_path / "whole", rows=["reinmax"])
    stops: list[int | None] = [12, None]

    def stopping(*args: Any, **more: Any) -> Any:
        return fit(*args, **more, stop_at=stops.pop(0) if stops else None)

    monkeypatch.setattr(recipes, "fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_sweep("tiny", tmp_path / "parts", rows=["reinmax"])
    assert Run(tmp_path / "parts/reinmax/seed-0").load("checkpoint.pt")["step"] == 12
    parts = run_sweep("tiny", tmp_path / "parts", rows=["reinmax"])
    assert [r["figures"] for r in parts["rows"][0]["runs"]] == [r["figures"] for r in whole["rows"][0]["runs"]]
    # Ended, but killed before its result was written: nothing is trained again.
    (tmp_path / "parts/reinmax/seed-0/result.json").unlink()
    monkeypatch.setattr(recipes, "fit", lambda *a, **k: pytest.fail("trained again"))
    again = run_sweep("tiny", tmp_path / "parts", rows=["reinmax"])
    assert again["rows"][0]["figures"] == parts["rows"][0]["figures"]


def test_what_is_left_of_another_run_is_replaced(tmp_path: Path, here: list[Job]) -> None:
    fit(Config.make("digits", **TINY, steps=3, threads=1, device="cpu"), tmp_path / "reinmax/seed-0")
    summary = run_sweep("tiny", tmp_path, rows=["reinmax"], seeds=[0])
    clean = run_sweep("tiny", tmp_path / "clean", rows=["reinmax"], seeds=[0])
    assert summary["rows"][0]["figures"] == clean["rows"][0]["figures"]


def test_gradient_variances_are_measured_at_the_trained_model(
    tmp_path: Path, here: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def measure(vae: Any, x: Tensor, estimator: str, **more: Any) -> float:
        calls.append((vae, x, estimator, more))
        return math.e

    monkeypatch.setattr(recipes, "gradient_variance", measure)
    monkeypatch.setitem(RECIPES, "tiny", tiny_recipe(train=recipes.train_kool))
    run_sweep("tiny", tmp_path, rows=["reinmax"], seeds=[0])
    result = Run(tmp_path / "reinmax/seed-0").read_json("result.json")
    assert result is not None
    assert {key for key in result["figures"] if key.startswith("log_variance/")} == {
        figure.key for figure in RECIPES["kool"].figures if figure.key.startswith("log_variance/")
    }
    assert result["figures"]["log_variance/arsm"] == 1
    vae, x, _, more = calls[0]
    saved = Run(tmp_path / "reinmax/seed-0").load("checkpoint.pt")["model"]
    assert all(torch.equal(value, saved[name]) for name, value in vae.state_dict().items())
    assert torch.equal(x, Config.make("digits").images().valid)
    assert (more["batch"], more["repeats"]) == (64, 200)


def test_no_result_that_is_not_a_number(tmp_path: Path, here: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tiny_recipe(train=lambda job: Outcome({"valid_elbo": math.nan, "train_elbo": 1.0}, 1.0))
    monkeypatch.setitem(RECIPES, "tiny", broken)
    summary = run_sweep("tiny", tmp_path, rows=["reinmax"], seeds=[0])
    assert summary["rows"][0]["runs"][0]["failed"] == "valid_elbo became infinite or NaN"
    (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"name": "magic"},
            "recipe must be one of 'digits', 'polynomial', 'reinmax', 'kool', 'sbn', 'paths', .*, but it is 'magic'",
        ),
        ({"rows": ["magic"]}, "rows of digits must be among gumbel_softmax, .*but one is 'magic'"),
        ({"jobs": 0}, "jobs must be at least 1, but it is 0"),
        ({"threads": 0}, "threads must be at least 1, but it is 0"),
        ({"steps": 0}, "steps must be at least 1, but it is 0"),
        ({"data": Path()}, "data must be left out for the recipe digits, which needs none, but it is ."),
        (
            {"name": "reinmax"},
            "data of the recipe reinmax must be the folder of the MNIST IDX files, but there is none; give it",
        ),
    ],
)
def test_bad_sweeps(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_sweep(**({"name": "digits", "out": tmp_path} | changes))
    assert not list(tmp_path.iterdir())


# The report


def test_table() -> None:
    recipe = tiny_recipe(figures=(Figure("train_elbo", "-ELBO", 1, sign=-1), Figure("p", "p", 3)))
    rows = [
        {
            "row": "reinmax",
            "runs": [{}, {}],
            "figures": {"train_elbo": {"mean": -12.34, "std": 0.56, "runs": 2}, "p": {"mean": 1.0, "std": None}},
            "milliseconds": 1.2345,
        },
        {"row": "too fast", "runs": [{"failed": "x"}], "figures": {}, "milliseconds": None},
    ]
    assert comparison.table(recipe, {"rows": rows}).splitlines() == [
        "| estimator | -ELBO | published | p | runs | ms a step |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| `reinmax` | 12.3 ± 0.6 | 1 < 2 | 1.000 | 2 | 1.23 |",
        "| `too fast` |  |  |  | 1 (1 failed) |  |",
    ]


def test_report_is_one_file_with_curves_of_every_run(tmp_path: Path, here: list[Job]) -> None:
    run_sweep("tiny", tmp_path)
    page = (tmp_path / "report.html").read_text()
    (picture,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    pixels = image.imread(io.BytesIO(base64.b64decode(picture, validate=True)))
    assert pixels.shape[1] >= 1500
    for colour in comparison._COLOURS[:2]:  # of the two rows that did not fail
        rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        assert (abs(pixels[..., :3] - rgb).max(-1) < 0.02).sum() > 50
    assert not re.search(r'(src|href)="(?!data:)|url\(|@import|<script', page)
    assert "1 &lt; 2" in page
    assert "hidden 8" in page
    for line in (tmp_path / "table.md").read_text().splitlines()[2:]:
        assert all(f"<td>{cell.strip(' `').replace('<', '&lt;')}</td>" in page for cell in line.split("|")[1:-1])


def test_curves_have_the_values_of_all_seeds() -> None:
    runs = [[{"step": s, "kind": "train", "elbo": -float(s * (i + 1))} for s in (10, 20)] for i in range(2)]
    runs[1].append({"step": 20, "kind": "valid", "elbo": 5.0})
    assert comparison._points(Figure("train/elbo", "", sign=-1), runs) == [(10, [10.0, 20.0]), (20, [20.0, 40.0])]
    assert comparison._points(Figure("valid/elbo", ""), runs) == [(20, [5.0])]


# The command


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in (("COLUMNS", "160"), ("NO_COLOR", "1"), ("TERM", "dumb")):
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("terminal")
def test_the_command_trains_in_processes() -> None:
    words = [
        "sweep",
        "digits",
        "--steps",
        "20",
        "--seeds",
        "3",
        "--row",
        "reinmax",
        "--row",
        "softmax_straight_through",
    ]
    result = call(*words, "--jobs", "2")
    assert result.exit_code == 0, result.output
    assert "Report: runs/sweep-digits/report.html" in result.output
    summary = json.loads(Path("runs/sweep-digits/sweep.json").read_text())
    assert [row["row"] for row in summary["rows"]] == ["softmax_straight_through", "reinmax"]
    for row in summary["rows"]:
        value = f"{-row['figures']['valid_elbo']['mean']:.2f}"
        assert re.search(rf"{row['row']} +│ +{value} ", result.output)
        assert f"{row['row']}, seed 3: train_elbo" in result.output
    config = Run(Path("runs/sweep-digits/reinmax/seed-3")).config()
    straight, _ = fit(dataclasses.replace(config), Path("here"))
    saved = [run.load("checkpoint.pt")["model"] for run in (straight, Run(Path("runs/sweep-digits/reinmax/seed-3")))]
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])


@pytest.mark.usefixtures("terminal")
def test_the_command_says_that_it_can_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(jobs: object, workers: int) -> Iterator[None]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(sweeps, "_train_all", stop)
    result = call("sweep", "digits", "--run", "mine")
    assert result.exit_code == 130
    assert "Stopped. The same command continues the sweep." in result.output


@pytest.mark.usefixtures("terminal")
def test_help_names_the_recipes_and_bad_words_are_one_line() -> None:
    text = " ".join(call("sweep", "--help").output.split())
    assert all(name in text for name in RECIPES)
    result = call("sweep", "digits", "--seeds", "x")
    assert result.exit_code == 2
    assert "--seeds must be numbers separated by commas, but it is 'x'" in result.output
    assert "recipe must be one of" in call("sweep", "magic").output
