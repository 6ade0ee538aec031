"""The report's figures are the laws' own: closed forms, quadrature, and what must not depend on how it was asked."""

from __future__ import annotations

import functools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import image
from torch import Tensor
from typer.testing import CliRunner, Result

from argumbel import cli, estimators, plots
from argumbel.estimators import ESTIMATORS, Report, _quality, report
from argumbel.experiments import Config, fit, problems

from .statistics import Z, check_frequency

P, T = 0.3, 0.45
LOGITS = torch.tensor([0.0, math.log(P / (1 - P))], dtype=torch.float64)
COST = torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.5, -0.7]], dtype=torch.float64)


def toy(z: Tensor) -> Tensor:
    return (z[..., 1] - T) ** 2


def quadratic(z: Tensor) -> Tensor:
    return (z * COST).sum((-2, -1)) ** 2


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def figures(r: Report) -> dict[str, object]:
    """All but the times."""
    timed = ("seconds", "variance_time")
    return {row["label"]: {k: v for k, v in row.items() if k not in timed} for row in r.to_dict()["rows"]}


# -------------------------------------------------------------------------------------------------------- closed forms


def test_reinforce_on_a_bernoulli() -> None:
    """One sample: the estimate for the log odds is f(1) (1 - p) with probability p, else -f(0) p."""
    repeats = 40_000
    row = report(toy, LOGITS, ["reinforce"], num_repeats=repeats, num_samples=1, generator=generator()).rows[0]
    high, low = (1 - T) ** 2 * (1 - P), -(T**2) * P
    exact = P * (1 - P) * ((1 - T) ** 2 - T**2)
    share = (float(row.mean[1]) - low) / (high - low)  # how often item 1 was drawn
    check_frequency(round(share * repeats), repeats, P)
    assert share * repeats == pytest.approx(round(share * repeats), abs=1e-6)
    variance = repeats / (repeats - 1) * share * (1 - share) * (high - low) ** 2
    assert row.variances.tolist() == pytest.approx([variance, variance])
    assert row.variance == pytest.approx(2 * variance)
    assert row.stderr == pytest.approx(math.sqrt(2 * variance / repeats))
    squared = 2 * (float(row.mean[1]) - exact) ** 2 - 2 * variance / repeats
    assert row.bias == pytest.approx(math.sqrt(max(0, squared)))
    assert abs(row.cosine) == pytest.approx(1)  # both components are opposite
    assert row.mean_cosine == pytest.approx(2 * share - 1)
    assert (row.num_samples, row.calls, row.samples, row.relaxed) == (1, 1, 1, 0)


def test_the_variance_is_that_of_the_samples_asked_for() -> None:
    """The mean of m independent estimates has an m-th of the variance."""
    rows = [
        report(toy, LOGITS, ["reinforce"], num_repeats=40_000, num_samples=m, generator=generator()).rows[0]
        for m in (1, 8)
    ]
    # A variance of 40,000 estimates has a relative standard error of 1.1% or less (kurtosis below 6).
    assert rows[0].variance / rows[1].variance == pytest.approx(8, rel=Z * math.sqrt(2) * 0.012)


def test_the_bias_of_gumbel_softmax() -> None:
    """By quadrature over the logistic noise of the log odds."""
    u = (np.arange(200_000) + 0.5) / 200_000
    y = 1 / (1 + np.exp(-(float(LOGITS[1]) + np.log(u / (1 - u))) / 0.7))
    relaxed = np.mean(2 * (y - T) * y * (1 - y) / 0.7)
    exact = P * (1 - P) * ((1 - T) ** 2 - T**2)
    estimator = functools.partial(estimators.gumbel_softmax, tau=0.7)
    row = report(toy, LOGITS, [estimator], num_repeats=40_000, num_samples=4, generator=generator()).rows[0]
    assert row.label == "gumbel_softmax(tau=0.7)"
    assert row.bias > 20 * row.stderr
    assert abs(row.bias - math.sqrt(2) * abs(relaxed - exact)) < Z * row.stderr
    assert row.relaxed == row.samples == 4


def test_unbiased_estimators_show_no_bias_and_exact_has_no_error() -> None:
    r = report(quadratic, COST / 2, num_repeats=4000, num_samples=4, generator=generator())
    assert r.enumerated
    value = estimators.exact(quadratic, (x := (COST / 2).requires_grad_()))
    torch.testing.assert_close(r.reference, torch.autograd.grad(value, x)[0])
    unbiased = ["reinforce", "reinforce_loo", "stratified", "sum_and_sample", "unordered_set", "arsm", "rebar"]
    for label in unbiased:
        assert r[label].bias < Z * r[label].stderr, label
        assert r[label].cosine > 0.99, label
    for label in ("gumbel_softmax", "softmax_straight_through", "gumbel_straight_through"):
        assert r[label].bias > Z * r[label].stderr, label
    assert r["unordered_set"].variance < r["reinforce_loo"].variance < r["reinforce"].variance
    exact = r["exact"]
    assert (exact.variance, exact.stderr, exact.cosine) == (0, 0, pytest.approx(1))
    assert exact.bias < 1e-12
    assert exact.samples == 9 + 1


def test_cost_is_counted() -> None:
    r = report(quadratic, COST, num_repeats=2, num_samples=4, generator=generator())
    assert [(r[x].calls, r[x].samples, r[x].relaxed) for x in ("reinforce", "rebar", "arsm", "unordered_set")] == [
        (1, 4, 0), (3, 12, 8), (1, 16, 0), (2, 5, 0)
    ]  # fmt: skip
    assert all(row.seconds > 0 and row.variance_time == row.variance * row.seconds for row in r.measured)


# ------------------------------------------------------------------------------------------------- what must not matter


def test_the_noise_is_that_of_the_generator_whatever_is_asked_beside() -> None:
    def ask(names: list[str], seed: int = 1, **own: object) -> dict[str, object]:
        return figures(report(quadratic, COST, names, num_repeats=50, num_samples=4, generator=generator(seed), **own))

    names = ["reinforce", "rebar", "gumbel_rao", "unordered_set"]
    together = ask(names)
    assert ask(names) == together
    assert ask(["unordered_set"])["unordered_set"] == together["unordered_set"]
    assert ask(names, seed=2) != together
    for chunk in (1, 7, 50):
        for label, row in ask(names, chunk=chunk).items():
            for what in ("bias", "stderr", "variance", "cosine", "mean_cosine"):
                assert row[what] == pytest.approx(together[label][what], rel=1e-9), (label, chunk, what)


def test_the_global_generator_is_the_default() -> None:
    def ask() -> dict[str, object]:
        return figures(report(toy, LOGITS, ["reinforce"], num_repeats=20))

    torch.manual_seed(3)
    first, second = ask(), ask()
    torch.manual_seed(3)
    assert ask() == first != second


def test_rows_of_a_batch_add_up() -> None:
    """A batch of two problems has the gradient of both: variances side by side, biases by Pythagoras."""
    x = torch.stack([LOGITS, 2 * LOGITS])
    weight = torch.tensor([1.0, 3.0], dtype=torch.float64)
    both = report(
        lambda z: weight * toy(z), x, ["softmax_straight_through"], num_repeats=5000, generator=generator()
    ).rows[0]
    assert both.variances.shape == x.shape
    assert both.variance == pytest.approx(float(both.variances.sum()))
    for i in range(2):
        alone = report(
            lambda z, i=i: weight[i] * toy(z),
            x[i],
            ["softmax_straight_through"],
            num_repeats=5000,
            generator=generator(5),
        ).rows[0]
        # Another draw of the noise: means and variances within their errors.
        error = (alone.variances / 5000).sqrt()
        assert bool(((both.mean[i] - alone.mean).abs() < Z * math.sqrt(2) * error).all())


def test_too_many_outcomes_are_compared_with_a_long_run(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = report(quadratic, COST, ["reinmax", "exact"], num_repeats=400, generator=generator())
    monkeypatch.setattr(_quality, "MAX_ENUMERATED", 0)
    many = functools.partial(estimators.reinforce_loo, num_samples=64)
    long = report(quadratic, COST, ["reinmax", ("many", many)], num_repeats=400, generator=generator())
    assert not long.enumerated
    # The long run is another draw of the same law.
    assert not torch.equal(long.reference, long["many"].mean)
    assert long.reference_error == pytest.approx(float(long["many"].stderr / long.reference.norm()), rel=0.2)
    distance = float((long.reference - exact.reference).norm() / exact.reference.norm())
    assert 0 < distance < 5 * long.reference_error < 0.25
    assert long["reinmax"].bias is None
    assert long["reinmax"].variance == exact["reinmax"].variance
    assert long["reinmax"].cosine == pytest.approx(exact["reinmax"].cosine, abs=5 * long.reference_error)
    assert "long run of reinforce_loo" in str(long)
    known = report(quadratic, COST, ["reinmax"], num_repeats=400, generator=generator(), reference=exact.reference)
    assert figures(known)["reinmax"] == figures(exact)["reinmax"]


def test_what_cannot_be_enumerated_says_so() -> None:
    x = torch.zeros(40, 2)
    r = report(lambda z: z[..., 1].sum(-1), x, ["exact", "disarm"], num_repeats=10, generator=generator())
    assert "2**40" in r["exact"].reason
    assert r["disarm"].reason is None


# -------------------------------------------------------------------------------------------------- what does not apply


def test_what_does_not_apply_is_listed_with_the_reason() -> None:
    def picky(z: Tensor) -> Tensor:
        if bool(((z != 0) & (z != 1)).any()):
            raise ValueError("one-hot vectors only,\nplease")
        return quadratic(z)

    r = report(picky, COST, num_repeats=10, num_samples=2, generator=generator())
    assert [row.label for row in r.rows] == list(ESTIMATORS)
    assert {row.label for row in r.rows if row.reason} == {"arm", "disarm", "rebar", "gumbel_softmax"}
    assert r["gumbel_softmax"].reason == "one-hot vectors only, please"
    assert r["gumbel_softmax"].variance is r["gumbel_softmax"].variance_time is None
    assert "gumbel_softmax does not apply: one-hot vectors only, please" in str(r)
    assert "arm does not apply: logits must have two items" in r.to_markdown()


def test_a_black_box_has_no_gradient() -> None:
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)  # a gradient for something else is no help
    for factor in (1.0, weight):
        r = report(lambda z, c=factor: c * z.argmax(-1).double(), LOGITS, num_repeats=10, generator=generator())
        for label in ("softmax_straight_through", "reinmax", "gumbel_softmax"):
            assert r[label].reason == (
                "f must have a gradient with respect to its samples, but it has none; leave out estimators that use it"
            )
        assert r["reinforce_loo"].reason is None


def test_one_sample_is_too_few_for_some() -> None:
    r = report(toy, LOGITS, ["reinforce", "reinforce_loo"], num_samples=1, num_repeats=10, generator=generator())
    assert r["reinforce"].reason is None
    assert "num_samples must be at least 2" in r["reinforce_loo"].reason


def test_a_loss_that_does_not_move_has_no_direction() -> None:
    r = report(lambda z: 0 * z.sum(-1) + 1, LOGITS, ["exact", "reinforce"], num_repeats=100, generator=generator())
    assert r["reinforce"].cosine is r["reinforce"].mean_cosine is None
    assert r["reinforce"].variance > 0
    assert "-" in str(r)


def test_forbidden_items_and_half_precision() -> None:
    x = torch.tensor([0.0, 1.0, -torch.inf], dtype=torch.bfloat16)
    r = report(lambda z: z @ torch.arange(3.0).to(z), x, num_repeats=300, num_samples=2, generator=generator())
    for row in r.measured:
        assert math.isfinite(row.variance), row.label
        assert row.mean[2] == 0, row.label


# ------------------------------------------------------------------------------------------------------ labels and text


def test_labels() -> None:
    many = functools.partial(estimators.gumbel_rao, num_conditional=30)
    ours = ("mine", functools.partial(estimators.reinforce, num_samples=8, baseline=0.2))
    r = report(toy, LOGITS, [many, ours, ("loo", "reinforce_loo"), estimators.arm], num_repeats=10)
    assert [row.label for row in r.rows] == ["gumbel_rao(num_conditional=30)", "mine", "loo", "arm"]
    assert [row.samples for row in r.rows] == [2, 8, 2, 2]
    assert r["mine"].num_samples == 8
    with pytest.raises(KeyError, match="nobody"):
        r["nobody"]


def test_table_and_json() -> None:
    r = report(toy, LOGITS, ["reinforce", "arsm", "gumbel_softmax"], num_repeats=10, generator=generator())
    lines = str(r).splitlines()
    assert len({len(line) for line in lines[:4]}) == 1
    assert [line.split()[0] for line in lines[:4]] == ["estimator", "reinforce", "arsm", "gumbel_softmax"]
    assert f"{r['reinforce'].variance:.3g}" in lines[1]
    assert "2 (2 relaxed)" in lines[3]
    table = r.to_markdown().splitlines()[:5]
    assert {line.count("|") for line in table} == {10}
    stored = json.loads(json.dumps(r.to_dict()))
    assert stored["rows"][0]["variance"] == r["reinforce"].variance
    assert stored["num_repeats"] == 10


def test_errors() -> None:
    for bad, message in (
        (["magic"], "must be among exact"),
        (["arm", "arm"], "'arm' is there twice"),
        ([], "least one"),
    ):
        with pytest.raises(ValueError, match=message):
            report(toy, LOGITS, bad)
    for odd in ([3], [("arm", 3)], [(3, "arm")]):
        with pytest.raises(TypeError, match="names, functions, or pairs"):
            report(toy, LOGITS, odd)
    for name in ("num_repeats", "num_samples", "chunk"):
        with pytest.raises(TypeError, match=f"{name} must be an integer"):
            report(toy, LOGITS, **{name: 2.0})
        with pytest.raises(ValueError, match=f"{name} must be at least"):
            report(toy, LOGITS, **{name: 0})
    with pytest.raises(ValueError, match="reference must have the shape"):
        report(toy, LOGITS, reference=torch.zeros(3))
    with pytest.raises(ValueError, match="NaN"):
        report(toy, LOGITS * torch.nan)
    with pytest.raises(TypeError, match="logits must be a tensor"):
        report(toy, [0.0, 0.0])
    with pytest.raises(ValueError, match="one loss per sample"):
        report(lambda z: z, LOGITS)
    with pytest.raises(ZeroDivisionError):  # a fault of f is no reason of an estimator
        report(lambda z: toy(z) / (1 // 0), LOGITS)


# ------------------------------------------------------------------------------------------------------------- picture


def test_the_picture_shows_the_figures() -> None:
    names = ["softmax_straight_through", "reinforce", "exact", "arm"]
    r = report(quadratic, COST, names, num_repeats=2000, generator=generator())
    figure = plots.estimator_report(r, title="mine")
    error, direction, time = figure.axes
    order = ["exact", "softmax_straight_through", "reinforce"]  # by variance + bias^2; arm does not apply
    assert [tick.get_text() for tick in error.get_yticklabels()] == order
    lines = {line.get_label(): dict(zip(order, line.get_xdata(), strict=True)) for line in error.lines}
    assert math.isnan(lines["variance"]["exact"])
    assert [text.get_text() for text in error.texts] == ["0"]
    assert lines["variance"]["reinforce"] == r["reinforce"].variance
    assert lines["squared bias"]["softmax_straight_through"] == r["softmax_straight_through"].bias ** 2
    assert math.isnan(lines["squared bias"]["reinforce"])
    (hidden,) = (label for label in lines if "hidden" in label)
    assert lines[hidden]["reinforce"] == r["reinforce"].stderr ** 2
    assert math.isnan(lines[hidden]["softmax_straight_through"])
    assert list(direction.lines[0].get_xdata()) == [r[name].mean_cosine for name in order]
    assert list(time.lines[0].get_xdata()) == [1e3 * r[name].seconds for name in order]
    assert figure.get_suptitle() == "mine"
    assert error.get_xscale() == "log"


def test_the_picture_without_exact_gradient_or_without_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_quality, "MAX_ENUMERATED", 0)
    r = report(quadratic, COST, ["reinforce", "arm"], num_repeats=20, generator=generator())
    error = plots.estimator_report(r).axes[0]
    assert [line.get_label() for line in error.lines] == ["variance"]
    assert error.get_xlabel() == "variance"
    with pytest.raises(ValueError, match="none does"):
        plots.estimator_report(report(quadratic, COST, ["arm"], num_repeats=20))


# ------------------------------------------------------------------------------------------------------------- problems


def test_problems_are_what_they_say() -> None:
    z = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    for t in (0.45, 0.499):
        p = problems.load(f"toy-{t}")
        assert p.f(z[:, 0]).tolist() == pytest.approx([t**2, (1 - t) ** 2])
    for p in (1.5, 2.0, 3.0):
        task = problems.polynomial(p)
        assert task.f(z.expand(2, 128, 2)).tolist() == pytest.approx([0.45**p, 0.55**p])
        x = task.logits.clone().requires_grad_()  # coin by coin, which are independent
        value = estimators.exact(lambda z, p=p: (z[..., 1] - 0.45).abs() ** p / 128, x).sum()
        torch.testing.assert_close(task.gradient, torch.autograd.grad(value, x)[0])
    assert problems.load("quadratic").logits.shape == (3, 4)


def test_the_vae_problem_is_the_loss_of_the_run(tmp_path: Path) -> None:
    config = Config.make(
        "digits", latents=2, classes=3, hidden=(8,), steps=5, threads=1, device="cpu", log_every=5, valid_every=5
    )
    run, _ = fit(config, tmp_path / "run")
    task = problems.load("vae", checkpoint=run.path, count=3)
    images = config.images()
    model, _ = run.trained(images)
    z = torch.eye(3)[torch.tensor([[[0, 1], [2, 2], [1, 0]]])]  # one sample of three images of two latents
    pixels = torch.distributions.Bernoulli(logits=model.decode(z))
    torch.testing.assert_close(task.f(z), -pixels.log_prob(images.test[:3].float()).sum(-1))
    torch.testing.assert_close(task.logits, model.encode(images.test[:3]))
    assert not task.f(z).requires_grad
    assert "3 images of digits, 2 latents of 3 classes, after 5 steps" in task.text
    with pytest.raises(ValueError, match="count must be at least 1, but it is 0"):
        problems.vae(run.path, count=0)


# --------------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*words: str) -> Result:
    return CliRunner().invoke(cli.app, ["compare", *words, "--threads", "1"], catch_exceptions=False)


@pytest.fixture(autouse=True)
def _threads() -> None:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_compare_prints_draws_and_writes(here: Path) -> None:
    words = ["toy-0.499", "--estimators", "reinforce, stratified(num_samples=4,method='antithetic'),arsm"]
    result = call(*words, "--num-repeats", "50", "--plot", "deep/a.png", "--json", "deep/a.json", "--seed", "3")
    assert result.exit_code == 0, result.output
    for word in ("(b - 0.499)^2", "50 repeats", "Wrote deep/a.json", "Wrote deep/a.png"):
        assert word in result.output
    assert image.imread("deep/a.png")[..., :3].std() > 0.02
    stored = json.loads(Path("deep/a.json").read_text())
    assert stored["problem"] == "toy-0.499"
    assert [row["samples"] for row in stored["rows"]] == [2, 4, 4]
    expected = report(
        lambda z: (z[..., 1] - 0.499) ** 2, torch.zeros(2), ["reinforce"], num_repeats=50, generator=generator(3)
    )
    assert stored["rows"][0]["variance"] == expected.rows[0].variance
    assert f"{expected.rows[0].variance:.3g}" in result.output


def test_compare_takes_the_formula_of_the_polynomial(here: Path) -> None:
    result = call("polynomial-2", "--estimators", "reinmax", "--num-repeats", "300", "--json", "a.json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(Path("a.json").read_text())["rows"]
    assert row["bias"] < Z * row["stderr"]  # ReinMax is exact for quadratic losses


def test_compare_a_problem_of_yours(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import torch\n\n\ndef make():\n    return lambda z: z[..., 0], torch.zeros(3)\n\n\ndef none():\n    pass\n"
    (here / "my_choices.py").write_text(code)
    monkeypatch.delitem(sys.modules, "my_choices", raising=False)
    path = list(sys.path)
    result = call("my_choices:make", "--estimators", "exact", "--num-repeats", "2")
    assert result.exit_code == 0, result.output
    assert "my_choices:make" in result.output
    assert sys.path == path
    refused = call("my_choices:none")
    assert refused.exit_code == 2
    assert "error: my_choices:none must return a pair (f, logits)" in refused.output
    monkeypatch.delitem(sys.modules, "my_choices")


def test_compare_trains_a_small_vae(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Config.make
    monkeypatch.setattr(problems.Config, "make", lambda *a, **own: make(*a, **(own | {"steps": 10, "valid_every": 10})))
    result = call("vae", "--images", "2", "--estimators", "reinforce_loo,rebar", "--num-repeats", "20")
    assert result.exit_code == 0, result.output
    assert "2 images of digits, 4 latents of 4 classes, after 10 steps" in result.output
    assert "against the exact gradient" in result.output
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("magic", "problem must be one of toy-0.45, toy-0.499"),
        ("toy-0.45 --estimators magic", "estimator must be one of 'exact'"),
        ("toy-0.45 --estimators gumbel_rao(gap=3)", "arguments of estimator gumbel_rao must be among"),
        ("toy-0.45 --num-repeats 1", "num_repeats must be at least 2"),
        ("toy-0.45 --num-samples 0", "num_samples must be at least 1"),
        ("toy-0.45 --checkpoint runs/a", "problem must be vae if there is a --checkpoint, but it is 'toy-0.45'"),
        ("vae --checkpoint nowhere", "run must be a folder that argumbel train wrote, but nowhere has no config.json"),
        ("vae --images 0", "count must be at least 1, but it is 0"),
        ("nowhere_at_all:f", "problem must name a module that can be imported, but 'nowhere_at_all' cannot"),
        ("math:nothing", "problem must name a function of math, but 'nothing' is no function there"),
        ("math:pi", "problem must name a function of math, but 'pi' is no function there"),
        ("toy-0.45 --plot a.gif", "--plot must end in .png, .svg or .pdf, but it is a.gif"),
    ],
)
def test_bad_words_are_one_line(here: Path, words: str, message: str) -> None:
    result = call(*words.split())
    assert result.exit_code == 2
    assert f"error: {message}" in " ".join(result.output.split())
    assert "Traceback" not in result.output
