"""The figures of a trained model against enumeration.

Statistical tests here have fixed seeds and thresholds of 6 standard errors or more: failure rates below 1e-8.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributions

from argumbel.experiments import evaluate, fit, model
from tests.small_runs import enumerate_log_joint, images, small_vae, tiny


def test_bounds_agree_with_enumeration() -> None:
    vae, x = small_vae(), images(12)
    log_joint, log_q = enumerate_log_joint(vae, x)
    evidence = log_joint.logsumexp(0)
    elbo = (log_q.exp() * (log_joint - log_q)).sum(0)
    figures = evaluate.importance_bounds(vae, x, samples=(1000, 8000), seed=0)
    spread = (log_q.exp() * (log_joint - log_q - elbo).square()).sum(0).sqrt()
    assert bool(((figures["elbo"] - elbo).abs() < 6.5 * spread / 8000**0.5 + 1e-9).all())
    second_moment = (2 * log_joint - log_q).logsumexp(0)
    weight_spread = (second_moment.exp() - (2 * evidence).exp()).sqrt() / evidence.exp()
    assert bool(((figures["bound_8000"] - evidence).abs() < 7 * weight_spread / 8000**0.5 + 1e-9).all())
    assert float((evidence - elbo).mean()) > 0.05  # there is a gap for the bound to close
    torch.testing.assert_close(figures["log_likelihood"] - figures["kl"], figures["elbo"])


def test_bound_of_few_samples_has_its_own_expectation() -> None:
    # With N = 1 and K = 2 the bound of two samples is a sum of four terms.
    vae, x = small_vae(latents=1, classes=2, seed=2), images(1)
    log_joint, log_q = enumerate_log_joint(vae, x)
    weight, q = (log_joint - log_q)[:, 0].exp(), log_q[:, 0].exp()
    values = (0.5 * (weight[:, None] + weight[None])).log()
    probabilities = q[:, None] * q[None]
    expected = float((probabilities * values).sum())
    spread = float((probabilities * (values - expected).square()).sum().sqrt())
    drawn = evaluate.importance_bounds(vae, x.expand(40_000, -1), samples=(2,))["bound_2"]
    assert abs(float(drawn.mean()) - expected) < 6 * spread / 200
    assert spread > 1e-3


def test_bounds_take_part_of_the_images_alike_and_refuse_no_samples() -> None:
    vae, x = small_vae(), images(3)
    figures = evaluate.importance_bounds(vae, x, samples=(10, 5000))
    assert set(figures) == {"elbo", "log_likelihood", "kl", "bound_10", "bound_5000"}
    assert all(v.shape == (3,) and v.dtype == torch.float64 for v in figures.values())
    assert bool((figures["elbo"] < figures["bound_5000"]).all())
    seen: list[float] = []
    evaluate.importance_bounds(vae, images(150), samples=(1,), progress=seen.append)
    assert seen == sorted(seen)
    assert (seen[-1], len(seen)) == (1.0, 3)
    for bad in ((), (0, 10)):
        with pytest.raises(ValueError, match="samples must be one or more numbers, each at least 1"):
            evaluate.importance_bounds(vae, x, samples=bad)


def test_discrete_elbo_agrees_with_enumeration() -> None:
    vae, x = small_vae(), images(40)
    log_joint, log_q = enumerate_log_joint(vae, x)
    expected = (log_q.exp() * (log_joint - log_q)).sum(0).mean()
    log_likelihood, kl = evaluate.discrete_elbo(vae, x, seed=0, samples=2000)
    torch.testing.assert_close(torch.tensor(kl).double(), model.categorical_kl(vae.encode(x)).mean().detach())
    spread = (log_q.exp() * (log_joint - log_q).square()).sum(0).mean().sqrt()
    assert abs(log_likelihood - kl - float(expected)) < 6 * float(spread) / (40 * 2000) ** 0.5
    assert evaluate.discrete_elbo(vae, x, seed=0) == evaluate.discrete_elbo(vae, x, seed=0)


def test_baseline_is_the_best_model_without_latents() -> None:
    train, test = images(500, seed=1), images(50, seed=2)
    test[:, 0], train[:, 0] = 1, 0  # a pixel never seen on must cost much, and not everything
    ours = evaluate.baseline(train, test)
    p = (train.double().sum(0) + 1) / 502
    torch.testing.assert_close(ours, distributions.Bernoulli(p).log_prob(test.double()).sum(-1))
    assert ours.isfinite().all()
    flat = evaluate.baseline(train, train).mean()
    for shift in (-0.05, 0.05):
        moved = (
            distributions.Bernoulli((p[1:] + shift).clamp(0.01, 0.99)).log_prob(train[:, 1:].double()).sum(-1).mean()
        )
        assert moved < flat


def test_code_usage() -> None:
    vae, x = small_vae(), images(30)
    usage, kl = evaluate.code_usage(vae, x)
    torch.testing.assert_close(usage, vae.encode(x).exp().mean(0).detach())
    torch.testing.assert_close(kl.sum(), model.categorical_kl(vae.encode(x)).mean().detach())


def test_numbers_of_numpy_in_an_evaluation(tmp_path: Path) -> None:
    config = tiny(steps=2, valid_every=1)
    run, _ = fit(config, tmp_path / "a")
    evaluation = evaluate.evaluate_run(run, config.images(), samples=np.array([2]), seed=np.int64(7))
    assert run.read_json("evaluation.json") == evaluation
    vae, x = small_vae(), images(5)
    for call in (
        lambda of: evaluate.evaluate(vae, x, x, samples=[of(2), of(3)], seed=of(7)),
        lambda of: evaluate.discrete_elbo(vae, x, seed=of(7), samples=of(2)),
        lambda of: evaluate.gradient_variance(vae, x, "reinforce", batch=of(2), repeats=of(3), seed=of(7)),
    ):
        assert json.dumps(call(np.int64)) == json.dumps(call(int))
    bounds = evaluate.importance_bounds(vae, x, samples=np.array([2, 3]), seed=np.uint8(7))
    assert set(bounds) == {"elbo", "log_likelihood", "kl", "bound_2", "bound_3"}
    with pytest.raises(TypeError, match="each of samples must be an integer, but it is a float"):
        evaluate.importance_bounds(vae, x, samples=(2.0,))
