"""The sigmoid belief network: exact gradients by enumeration, the variance that is logged, training, the recipe."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from argumbel.experiments import data, recipes, sbn
from argumbel.experiments import sweep as run_sweep
from argumbel.experiments.model import bernoulli_log_prob
from argumbel.experiments.recipes import RECIPES, Job
from argumbel.experiments.run import Run

from .problems import check_equal_means

PIXELS, UNITS = 3, 2
ROWS = (*RECIPES["sbn"].rows, "stratified(num_samples=2)", "arm", "disarm(num_samples=2)")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int = 0) -> sbn.BeliefNetwork:
    """A tiny one, no number in it zero."""
    model = sbn.BeliefNetwork(torch.tensor([0.2, 0.5, 0.9]), UNITS, generator(seed)).double()
    random = generator(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.5 * torch.randn(p.shape, generator=random, dtype=p.dtype)
    return model


def exact(model: sbn.BeliefNetwork, x: Tensor) -> Tensor:
    """Minus the bound, by all z1 and z2: x (pixels,)."""
    outcomes = torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * UNITS)
    logits1, total = model.q1(x - model.mean), torch.zeros((), dtype=torch.float64)
    for z1 in outcomes:
        for z2 in outcomes:
            log_q = bernoulli_log_prob(logits1, z1) + bernoulli_log_prob(model.q2(2 * z1 - 1), z2)
            log_p = bernoulli_log_prob(model.prior, z2) + bernoulli_log_prob(model.p1(2 * z2 - 1), z1)
            total = total + log_q.exp() * (log_q - log_p - bernoulli_log_prob(model.p0(2 * z1 - 1), x))
    return total


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


# The model and its gradients


@pytest.mark.parametrize("row", ROWS)
def test_gradients_are_unbiased(row: str) -> None:
    """Each replicate is the mean over a batch of one image; the controls are as they may be, and are not trained."""
    model, x = network(), torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    weights = list(model.parameters())
    bound = sbn.Bound(model, row, generator(1)).double()
    random = generator(2)
    with torch.no_grad():
        for control in bound.controls:
            for p in control.parameters():
                p += 0.3 * torch.randn(p.shape, generator=random, dtype=p.dtype)
    replicates = []
    for _ in range(300):
        value = bound(x.expand(300, -1), random).mean()
        gradients = torch.autograd.grad(value, weights)
        replicates.append(flat([value.detach(), *gradients]))
    value = exact(model, x)
    truth = flat([value.detach(), *torch.autograd.grad(value, weights)])
    assert truth.abs().min() > 1e-4
    check_equal_means(torch.stack(replicates), truth)


def test_the_losses_sum_to_minus_the_bound_and_leave_log_q_without_gradient() -> None:
    model, x = network(), torch.rand(4, PIXELS, dtype=torch.float64).round()
    z1, z2 = (torch.rand(4, UNITS, dtype=torch.float64).round() for _ in range(2))
    logits1, logits2 = model.encode(x), model.encode_top(z1)
    loss = model.loss(x, z1, logits1) + model.loss_top(z1, z2, logits2.detach())
    log_q = bernoulli_log_prob(model.q1(x - model.mean), z1) + bernoulli_log_prob(model.q2(2 * z1 - 1), z2)
    log_p = bernoulli_log_prob(model.p0(2 * z1 - 1), x) + bernoulli_log_prob(model.p1(2 * z2 - 1), z1)
    torch.testing.assert_close(loss, log_q - log_p - bernoulli_log_prob(model.prior, z2))
    gradients = torch.autograd.grad(loss.sum(), [model.q1.weight, model.q2.weight], allow_unused=True)
    assert gradients == (None, None)


def test_a_new_network_has_the_authors_weights_and_the_mean_image() -> None:
    mean = torch.tensor([0.0, 0.3, 1.0]).repeat(200)
    model = sbn.BeliefNetwork(mean, 300, generator())
    torch.testing.assert_close(model.p0.bias.sigmoid(), mean.clamp(1e-3, 1 - 1e-3))
    for layer, inputs in ((model.q1, 600), (model.q2, 300), (model.p1, 300), (model.p0, 300)):
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / inputs), rel=0.02)
        assert layer.weight.abs().max() < 2 * math.sqrt(2.6 / inputs)
    assert not any(b.any() for b in (model.q1.bias, model.q2.bias, model.p1.bias, model.prior))


def test_a_relaxed_sample_nears_the_coin_when_cold_and_the_mean_when_hot() -> None:
    control = sbn.Control(1, 1, generator(), sees_sample=False)
    logits, noise = torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([3.0, -1.0, -1.0])
    with torch.no_grad():
        control.log_tau.fill_(-8)
        torch.testing.assert_close(control.relaxed(logits + noise, logits), (logits + noise > 0).float())
        control.log_tau.fill_(12)
        torch.testing.assert_close(control.relaxed(logits + noise, logits), logits.sigmoid(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("row", ["rebar", "relax"])
def test_a_control_begins_as_the_loss(row: str) -> None:
    control = sbn.Control(4, 5, generator(), sees_sample=row == "relax")
    loss = torch.randn(1, 3)
    assert torch.equal(control(loss, torch.rand(1, 3, 5), torch.randn(3, 4)), loss)
    torch.nn.init.ones_(control.out.weight)
    y, context = torch.rand(1, 3, 5), torch.randn(3, 4)
    changed = control(loss, y, context) != control(loss, y.roll(1, -1), context)
    assert changed.all() if row == "relax" else not changed.any()


# What is logged


def test_the_variance_is_that_of_weighted_gradients() -> None:
    weights = [torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(4))]
    variance, decay, steps = sbn.GradientVariance(weights, decay=0.9), 0.9, 30
    history = torch.randn(steps, 10, generator=generator())
    for g in history:
        weights[0].grad, weights[1].grad = g[:6].reshape(2, 3).clone(), g[6:].clone()
        measured = variance.update()
    share = (1 - decay) * decay ** torch.arange(steps - 1, -1, -1)
    first, second = share @ history, share @ history**2
    assert measured == pytest.approx((second - first**2).mean().item(), rel=1e-5)
    weights[1].grad[0] = torch.nan
    assert not math.isfinite(variance.update())


def small_images(count: int = 60) -> data.Images:
    """Of 3x3 pixels, which hang together: half of the images are the others' negatives."""
    x = (torch.rand(count, 9, generator=generator()) < torch.linspace(0.05, 0.95, 9)).to(torch.uint8)
    x[::2] = 1 - x[::2]
    return data.Images("small", (3, 3), x[:-20], x[-20:-10], x[-10:], binary=True)


def small(estimator: str = "rebar", seed: int = 0, steps: int = 20, **more: Any) -> tuple[dict[str, float], list[Any]]:
    records: list[dict[str, Any]] = []
    given = {"units": 4, "batch": 10, "epoch": 8, "every": 5, "record": records.append} | more
    figures, seconds = sbn.maximise(estimator, small_images(), seed=seed, steps=steps, **given)
    assert seconds > 0
    return figures, records


def test_figures_are_means_of_epochs_counted_from_the_end() -> None:
    figures, records = small()
    finest = [r for r in small(every=1, lr=3e-4)[1] if r["kind"] == "train"]
    assert [r["step"] for r in finest] == list(range(1, 21))
    trains, epochs = ([r for r in records if r["kind"] == kind] for kind in ("train", "epoch"))
    assert [r["step"] for r in trains] == [5, 10, 15, 20]
    assert [r["step"] for r in epochs] == [4, 12, 20]
    for record, steps in ((trains[1], range(5, 10)), (epochs[1], range(4, 12)), (epochs[2], range(12, 20))):
        assert record["elbo"] == pytest.approx(sum(finest[i]["elbo"] for i in steps) / len(steps))
        variance = sum(math.exp(finest[i]["log_variance"]) for i in steps) / len(steps)
        assert record["log_variance"] == pytest.approx(math.log(variance))
    assert epochs[-1] == {"step": 20, "kind": "epoch", **figures}
    assert {"eta1", "tau1", "eta2", "tau2"} <= trains[0].keys()
    assert not {"eta1", "tau1"} & small("reinforce")[1][0].keys()


@pytest.mark.parametrize("row", ["relax", "reinforce_loo(num_samples=2)"])
def test_runs_are_functions_of_the_seed(row: str) -> None:
    assert small(row) == small(row)
    assert small(row)[0] != small(row, seed=1)[0]


@pytest.mark.parametrize("row", RECIPES["sbn"].rows)
def test_every_row_learns(row: str) -> None:
    _, records = small(row, steps=400, epoch=100, lr=0.01, every=100)
    epochs = [r["elbo"] for r in records if r["kind"] == "epoch"]
    assert epochs[-1] > epochs[0] + 0.5
    if row in sbn.CONTROLLED:
        tuned = [r for r in records if r["kind"] == "train"][-1]
        for name, start in (("eta", 1.0), ("tau", 0.5)):
            for layer in (1, 2):
                assert abs(tuned[f"{name}{layer}"] - start) > 1e-3


def test_controls_lower_the_variance() -> None:
    values = {row: small(row, steps=300, epoch=100)[0]["log_variance"] for row in ("reinforce", "rebar", "relax")}
    assert max(values["rebar"], values["relax"]) < values["reinforce"] - 0.5


def test_errors() -> None:
    grey = data.load("digits")
    with pytest.raises(ValueError, match="must be binary, but the images of digits are grey; give a binary"):
        sbn.maximise("rebar", grey, seed=0, steps=1)
    for row in ("reinmax", "rebar(eta=0.5)", "exact"):
        with pytest.raises(
            ValueError, match=r"must be one of reinforce, .* or rebar or relax without arguments, but it is"
        ):
            small(row)
    with pytest.raises(ValueError, match="batch must be at most the number of training images, 40, but it is 41"):
        small(batch=41)
    with pytest.raises(FloatingPointError, match=r"infinite or NaN by step \d+; lower the learning rate"):
        small(lr=1e38)


# The recipe


def test_the_recipe_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = small_images(300)
    file = tmp_path / "small.npz"
    np.savez(file, **{split: getattr(images, split).numpy() for split in ("train", "valid", "test")})
    settings = {"estimator": "rebar", "units": 4, "batch": 10, "epoch": 6, "every": 3}
    job = Job("sbn", "rebar", settings, 3, 12, tmp_path / "run", file)
    outcome = recipes.train_sbn(job)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert lines[-1] == {"step": 12, "kind": "epoch", **outcome.figures}
    assert {figure.key for figure in RECIPES["sbn"].figures} == outcome.figures.keys()
    assert outcome.figures == recipes.train_sbn(job).figures


def test_a_sweep_of_the_recipe(tmp_path: Path) -> None:
    images = small_images(300)
    file = tmp_path / "small.npz"
    np.savez(file, **{split: getattr(images, split).numpy() for split in ("train", "valid", "test")})
    rows = ["relax", "reinforce_loo(num_samples=2)"]
    summary = run_sweep("sbn", tmp_path / "out", data=file, rows=rows, seeds=[0], steps=4)
    assert [row["row"] for row in summary["rows"]] == rows
    table = (tmp_path / "out/table.md").read_text()
    assert table.startswith("| estimator | -ELBO, training | published | log variance of the gradient | published |")
    for row in summary["rows"]:
        records = list(Run(tmp_path / "out" / row["runs"][0]["folder"]).records())
        assert [r["kind"] for r in records] == ["train", "epoch"]
        assert row["figures"]["elbo"]["mean"] == records[-1]["elbo"]
