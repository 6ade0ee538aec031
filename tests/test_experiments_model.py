"""The model and its objective, by every estimator, against torch.distributions and enumeration.

Statistical tests here have fixed seeds and thresholds of 6 standard errors or more: failure rates below 1e-8.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, distributions

from argumbel import KeyedNoise
from argumbel.estimators import ESTIMATORS
from argumbel.experiments import fit, model
from argumbel.experiments.estimator import Estimator
from tests.small_runs import images, small_vae, tiny


def test_terms_agree_with_torch_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((6, 3, 4), generator=generator, dtype=torch.float64).log_softmax(-1)
    prior = distributions.Categorical(logits=torch.zeros(4, dtype=torch.float64))
    expected = distributions.kl_divergence(distributions.Categorical(logits=logits), prior).sum(-1)
    torch.testing.assert_close(model.categorical_kl(logits), expected)
    pixels, x = torch.randn((6, 9), generator=generator), images(6, 9)
    expected = distributions.Bernoulli(logits=pixels).log_prob(x.float()).sum(-1)
    torch.testing.assert_close(model.bernoulli_log_prob(pixels, x), expected)
    log_y = torch.randn((6, 3, 4), generator=generator, dtype=torch.float64).log_softmax(-1)
    from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

    q = ExpRelaxedCategorical(torch.tensor(0.4, dtype=torch.float64), logits=logits)
    p = ExpRelaxedCategorical(torch.tensor(0.9, dtype=torch.float64), logits=torch.zeros_like(logits))
    expected = (q.log_prob(log_y) - p.log_prob(log_y)).sum(-1)
    torch.testing.assert_close(model.relaxed_kl(logits, log_y, 0.4, 0.9), expected)


def test_relaxed_kl_is_finite_where_the_simplex_underflows() -> None:
    logits = torch.zeros(50, 1, 1000).log_softmax(-1)
    log_y = model.log_gumbel_softmax(logits, 0.02, noise=KeyedNoise(0))
    assert (log_y.exp() == 0).any()
    assert model.relaxed_kl(logits, log_y, 0.02, 0.5).isfinite().all()


def test_relaxed_kl_gives_an_unbiased_weight_and_so_a_bound() -> None:
    # E_q exp(log p(x | y) - [log q(y) - log p(y)]) = p(x) for the model with relaxed latents.
    vae = small_vae(latents=1, classes=2, kl="relaxed", prior_tau=0.7, seed=3)
    x, count = images(1, seed=4), 200_000
    with torch.no_grad():
        log_likelihood, kl = vae(x.expand(count, -1), 0.5, 1)
        weight = (log_likelihood - kl).exp()
        relaxed = model.log_gumbel_softmax(
            torch.zeros(count, 1, 2, dtype=torch.float64), 0.7, noise=KeyedNoise(2)
        ).exp()
        evidence = model.bernoulli_log_prob(vae.decode(relaxed), x).exp()
    error = (weight.var() / count + evidence.var() / count).sqrt()
    assert abs(weight.mean() - evidence.mean()) < 6 * error
    assert error / evidence.mean() < 0.02
    assert (log_likelihood - kl).mean() < evidence.mean().log()


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_every_estimator_trains_the_encoder(name: str) -> None:
    classes = 2 if name in ("arm", "disarm") else 3
    vae, x = small_vae(classes=classes, estimator=name), images(8)
    log_likelihood, kl = vae(x, 0.5, 5)
    assert log_likelihood.shape == kl.shape == (8,)
    torch.testing.assert_close(kl, model.categorical_kl(vae.encode(x)))
    gradient = torch.autograd.grad(log_likelihood.sum(), list(vae.parameters()))
    assert all(g.isfinite().all() for g in gradient)
    assert gradient[0 if name != "rebar" else 2].abs().max() > 1e-6  # rebar's own two come first
    seen = []
    vae.decode = lambda z: (seen.append(z), type(vae).decode(vae, z))[1]
    vae(x, 0.5, 5)
    soft = name in ("gumbel_softmax", "rebar")
    torch.testing.assert_close(seen[-1].sum(-1), torch.ones_like(seen[-1][..., 0]))
    assert bool(((seen[-1] == 0) | (seen[-1] == 1)).all()) is not soft


@pytest.mark.parametrize("name", ["gumbel_softmax", "gumbel_straight_through", "reinmax"])
def test_relaxed_kl_is_of_the_sample_that_is_decoded(name: str) -> None:
    if name == "reinmax":
        with pytest.raises(
            ValueError, match=r"must have a relaxed sample .* but it is 'reinmax'; use kl='categorical'"
        ):
            small_vae(estimator=name, kl="relaxed")
        return
    vae, x = small_vae(estimator=f"{name}(num_samples=3)", kl="relaxed"), images(8)
    seen = []
    vae.decode = lambda z: (seen.append(z), type(vae).decode(vae, z))[1]
    _, kl = vae(x, 0.5, 5)
    logits = vae.encode(x)
    log_relaxed = model.log_gumbel_softmax(logits.expand(3, *logits.shape), 0.5, noise=KeyedNoise(5))
    assert torch.equal(log_relaxed.argmax(-1), seen[0].argmax(-1))
    torch.testing.assert_close(kl, model.relaxed_kl(logits, log_relaxed, 0.5, 0.5).mean(0))


def test_grey_images_stay_grey_and_are_not_centred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    encode = model.CategoricalVAE.encode
    monkeypatch.setattr(model.CategoricalVAE, "encode", lambda vae, x: (seen.append(x), encode(vae, x))[1])
    config = tiny(binarize="none", centre=False, steps=2)
    fit(config, tmp_path / "run")
    assert len(seen) == 3  # two batches, and the validation images
    assert all(((x > 0) & (x < 1)).any() for x in seen)
    vae = config.model(config.images())
    assert vae.mean is None
    assert not torch.equal(vae.decoder[-1].bias, tiny().model(config.images()).decoder[-1].bias)
    x = config.images().valid[:4]
    torch.testing.assert_close(vae.encode(x), vae.encoder(x).view(4, 3, 4).log_softmax(-1))


def test_an_unbiased_estimator_trains_by_the_exact_gradient() -> None:
    """The mean gradient of reinforce_loo over many draws is that of exact, for the encoder and for the decoder."""
    x, count = images(1, seed=3), 20_000
    gradients = {}
    for name, copies in (("exact", 1), ("reinforce_loo(num_samples=4)", count)):
        vae = small_vae(estimator=name)
        logits = vae.encode(x).detach().expand(copies, -1, -1).requires_grad_()
        vae.encode = lambda _, logits=logits: logits
        log_likelihood, _ = vae(x, 1.0, 7)
        (gradients[name],) = torch.autograd.grad(log_likelihood.sum(), logits)
    exact, drawn = gradients.values()
    error = drawn.std(0) / count**0.5
    assert bool(((drawn.mean(0) - exact[0]).abs() < 6 * error + 1e-9).all())
    assert exact.abs().max() > 0.05


def test_rows_of_several_samples_are_shared_out_by_global_ids() -> None:
    vae, x = small_vae(estimator="reinforce_loo(num_samples=4)"), images(8)
    rows = torch.arange(100, 116)
    whole, _ = vae(x, 1.0, 3, rows)
    parts = [vae(x[half], 1.0, 3, rows.view(8, 2)[half])[0] for half in (slice(0, 3), slice(3, 8))]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert not torch.allclose(whole, vae(x, 1.0, 3, rows + 16)[0])
    seen = []
    vae.estimator.forward = lambda f, logits, *, tau, noise: (seen.append(noise.rows), f(logits.unsqueeze(0))[0])[1]
    for step in range(2):
        vae(x, 1.0, 3, rows + 16 * step)
    assert len(torch.cat(seen).unique()) == 2 * 16 * 4  # no draw is like another


def test_rebar_tunes_its_temperature_and_strength() -> None:
    vae, x = small_vae(estimator="rebar"), images(50)
    assert dict(vae.estimator.named_parameters()).keys() == {"log_eta", "log_tau"}
    optimizer = torch.optim.Adam(vae.estimator.parameters(), lr=0.05)

    def variance() -> float:
        logits = vae.encode(x[:1]).detach().expand(4000, -1, -1).requires_grad_()
        log_likelihood = vae.estimator(
            lambda z: -model.bernoulli_log_prob(vae.decode(z), x[0]), logits, tau=9.0, noise=KeyedNoise(11)
        )
        (gradient,) = torch.autograd.grad(log_likelihood.sum(), logits)
        return float(gradient.var(0).sum())

    with torch.no_grad():
        vae.estimator.log_eta.fill_(1.5)  # far too strong
    before = variance()
    for step in range(60):
        optimizer.zero_grad()
        (-vae(x, 9.0, 1, torch.arange(100) + 100 * step)[0]).mean().backward()
        optimizer.step()
    assert variance() < 0.7 * before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("magic", r"estimator must be one of 'exact', 'reinforce', .* but it is 'magic'"),
        ("reinmax(", "estimator must be a name, or a name with arguments, but it is 'reinmax\\('"),
        ("", "estimator must be a name, or a name with arguments"),
        ("reinmax(1.0)", "estimator must be a name, or a name with arguments"),
        ("a.reinmax", "estimator must be a name, or a name with arguments"),
        ("reinmax()()", "estimator must be a name, or a name with arguments"),
        ("reinmax(gap=1)", "arguments of estimator reinmax must be among num_samples, tau, but .* has 'gap'"),
        ("reinmax(**{'tau': 1})", "arguments of estimator reinmax must be among num_samples, tau, but .* has None"),
        (
            "reinmax(generator=1)",
            "arguments of estimator reinmax must be among num_samples, tau, but .* has 'generator'",
        ),
        ("reinmax(tau=open('x'))", "tau of estimator reinmax must be a number or a quoted text"),
        ("rebar(num_samples=True)", "num_samples of estimator rebar must be a number or a quoted text"),
        ("rebar(coupled=1)", "coupled of estimator rebar must be True or False"),
        ("reinmax(tau=None)", "tau of estimator reinmax must be a number or a quoted text"),
        ("reinmax(num_samples=0)", "num_samples of estimator reinmax must be an integer, at least 1, but it is 0"),
        ("reinmax(num_samples=1.5)", "num_samples of estimator reinmax must be an integer, at least 1, but it is 1.5"),
    ],
)
def test_bad_estimators(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Estimator(text)
    with pytest.raises(ValueError, match=message):
        tiny(estimator=text)


def test_who_decides_the_temperature() -> None:
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    loss = lambda z: z[..., 0] ** 2  # noqa: E731

    def gradient(text: str, tau: float) -> Tensor:
        return torch.autograd.grad(Estimator(text)(loss, logits, tau=tau, noise=KeyedNoise(1)).sum(), logits)[0]

    assert not torch.allclose(gradient("reinmax", 0.5), gradient("reinmax", 2.0))
    assert torch.equal(gradient("reinmax(tau=0.5)", 2.0), gradient("reinmax", 0.5))
    assert torch.equal(gradient("reinforce", 0.5), gradient("reinforce", 2.0))
    assert torch.equal(gradient("rebar", 0.5), gradient("rebar", 2.0))


def test_the_untrained_model_predicts_the_mean_image() -> None:
    mean = torch.tensor([0.1, 0.5, 0.9, 0.0, 1.0])
    vae = model.CategoricalVAE(pixels=5, latents=2, classes=3, hidden=(), mean=mean)
    for parameter in vae.decoder.parameters():
        if parameter.ndim == 2:
            parameter.data.zero_()
    torch.testing.assert_close(vae.decode(torch.zeros(1, 2, 3)).sigmoid()[0], mean.clamp(1e-3, 1 - 1e-3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "tanh"}, "activation must be one of 'relu', 'leaky_relu', but it is 'tanh'"),
        ({"kl": "none"}, "kl must be one of 'categorical', 'relaxed', but it is 'none'"),
        (
            {"prior_tau": 0.5},
            "prior_tau must be above 0 if kl is 'relaxed', else None, but it is 0.5 and kl is 'categorical'",
        ),
        ({"kl": "relaxed", "prior_tau": 0.0}, "prior_tau must be above 0"),
        ({"classes": 1}, "classes at least 2 .*but they are latents=2, classes=1"),
        ({"hidden": (3, 0)}, r"hidden=\(3, 0\)"),
    ],
)
def test_bad_model(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.CategoricalVAE(**{"pixels": 5, "latents": 2, "classes": 3, "hidden": (4,)} | changes)
