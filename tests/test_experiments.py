"""Statistical tests here have fixed seeds and thresholds of 6 standard errors or more: failure rates below 1e-8."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import io
import json
import math
import re
import signal
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributions

from argumbel import KeyedNoise
from argumbel.estimators import ESTIMATORS
from argumbel.experiments import Config, Run, data, evaluate, evaluate_run, fit, model, write_report
from argumbel.experiments.estimator import Estimator
from argumbel.experiments.run import run_on
from argumbel.experiments.train import Batches

TINY: dict[str, Any] = {
    "latents": 3,
    "classes": 4,
    "hidden": (16,),
    "batch": 32,
    "steps": 40,
    "log_every": 10,
    "valid_every": 20,
    "threads": 1,
    "device": "cpu",
}


def tiny(**changes: Any) -> Config:
    return Config.make(**(TINY | changes))


def small_vae(
    *, latents: int = 2, classes: int = 3, pixels: int = 5, seed: int = 0, **more: Any
) -> model.CategoricalVAE:
    """A VAE whose posteriors and pixels differ from uniform by far, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = model.CategoricalVAE(pixels=pixels, latents=latents, classes=classes, hidden=(7,), **more).double()
        for parameter in vae.parameters():
            parameter.data.mul_(3.0)
    return vae.eval()


def images(count: int, pixels: int = 5, seed: int = 1) -> Tensor:
    return torch.randint(2, (count, pixels), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def enumerate_log_joint(vae: model.CategoricalVAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x, z) and log q(z | x) for every z: each (K**N, batch)."""
    codes = torch.cartesian_prod(*[torch.arange(vae.classes)] * vae.latents).reshape(-1, vae.latents)
    one_hot = torch.nn.functional.one_hot(codes, vae.classes).double()
    with torch.no_grad():
        pixels = vae.decode(one_hot)
        log_p = distributions.Bernoulli(logits=pixels[:, None]).log_prob(x.double()).sum(-1)
        log_q = (vae.encode(x)[None] * one_hot[:, None]).sum((-1, -2))
    return log_p - vae.latents * math.log(vae.classes), log_q


# data


def write_idx(folder: Path, name: str, pixels: np.ndarray, *, zipped: bool) -> None:
    content = struct.pack(">IIII", 0x803, *pixels.shape) + pixels.tobytes()
    (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(content) if zipped else content)


def test_digits_are_bundled_and_always_split_alike() -> None:
    digits = data.load("digits")
    assert [len(part) for part in (digits.train, digits.valid, digits.test)] == [1197, 200, 400]
    assert digits.shape == (8, 8)
    assert not digits.binary
    assert torch.equal(digits.test, data.load("digits").test)
    bundled = pytest.importorskip("sklearn.datasets").load_digits().data / 16.0
    ours = torch.cat((digits.train, digits.valid, digits.test)).numpy()
    order = lambda rows: rows[np.lexsort(rows.T)]  # noqa: E731
    np.testing.assert_allclose(order(ours.astype(np.float64)), order(bundled), atol=1e-7)
    assert not np.array_equal(ours, bundled.astype(np.float32))  # shuffled: the bundled order groups writers


@pytest.mark.parametrize("zipped", [True, False])
def test_mnist_from_idx_files(tmp_path: Path, zipped: bool) -> None:
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (n, 4, 6), dtype=np.uint8) for n in (60, 10))
    write_idx(tmp_path, "train-images-idx3-ubyte", train, zipped=zipped)
    write_idx(tmp_path, "t10k-images-idx3-ubyte", test, zipped=zipped)
    loaded = data.load("mnist", tmp_path)
    assert (loaded.shape, len(loaded.train), len(loaded.valid), len(loaded.test)) == ((4, 6), 50, 10, 10)
    np.testing.assert_allclose(torch.cat((loaded.train, loaded.valid)).numpy() * 255, train.reshape(60, -1), rtol=1e-6)
    np.testing.assert_allclose(loaded.test.numpy() * 255, test.reshape(10, -1), rtol=1e-6)


def test_mnist_without_a_folder_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    import sklearn.datasets

    rows = np.zeros((60_010, 784), dtype=np.int64)
    rows[49_999:50_001, 0] = 255
    rows[60_000, 1] = 51
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", lambda name, **_: SimpleNamespace(data=rows))
    loaded = data.load("mnist")
    assert [len(part) for part in (loaded.train, loaded.valid, loaded.test)] == [50_000, 10_000, 10]
    assert loaded.train[-1, 0] == loaded.valid[0, 0] == 1.0
    assert loaded.test[0, 1] == pytest.approx(0.2)

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", offline)
    with pytest.raises(ValueError, match=r"the download failed \(no route to host\); give a folder"):
        data.load("mnist")


@pytest.mark.parametrize(
    "content", [b"", struct.pack(">IIII", 0x801, 1, 2, 2) + b"1234", struct.pack(">IIII", 0x803, 2, 2, 2)]
)
def test_broken_idx_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(ValueError, match="train-images-idx3-ubyte must be a whole IDX file"):
        data.load("mnist", tmp_path)


BITS = np.random.default_rng(1).integers(0, 2, (30, 784), dtype=np.uint8)
GREY = np.random.default_rng(2).integers(0, 256, (30, 5, 7), dtype=np.uint8)


@pytest.mark.parametrize(
    ("stored", "shape", "binary", "expected"),
    [
        (np.packbits(BITS, axis=1), (28, 28), True, BITS),
        (BITS, (28, 28), True, BITS),
        (BITS.astype(bool).reshape(30, 28, 28), (28, 28), True, BITS),
        (BITS.astype(np.float64), (28, 28), True, BITS),
        (BITS.astype(np.int64), (28, 28), True, BITS),
        (GREY, (5, 7), False, GREY.reshape(30, 35) / 255),
        (GREY[..., None], (5, 7), False, GREY.reshape(30, 35) / 255),
        (GREY[:, None], (5, 7), False, GREY.reshape(30, 35) / 255),
        (GREY.astype(np.float32) / 255, (5, 7), False, GREY.reshape(30, 35) / 255),
    ],
)
def test_npz_of_every_kind(
    tmp_path: Path, stored: np.ndarray, shape: tuple, binary: bool, expected: np.ndarray
) -> None:
    np.savez(tmp_path / "a.npz", train=stored[:20], valid=stored[20:25], test=stored[25:])
    loaded = data.load("mine", tmp_path / "a.npz")
    assert (loaded.name, loaded.shape, loaded.binary) == ("mine", shape, binary)
    assert loaded.train.dtype == (torch.uint8 if binary else torch.float32)
    ours = torch.cat((loaded.train, loaded.valid, loaded.test)).numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-7)


def test_npz_names(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    np.savez(file, x_train=BITS[:20], validation_data=BITS[20:22], x_test=BITS[22:], labels=np.arange(30))
    loaded = data.load("a", file)
    assert [len(s) for s in (loaded.train, loaded.valid, loaded.test)] == [20, 2, 8]
    named = data.load("a", file, arrays=["x_train", "x_test"])
    assert [len(s) for s in (named.train, named.valid, named.test)] == [18, 2, 8]
    alone = data.load("a", file, arrays=["x_train"])
    assert [len(s) for s in (alone.train, alone.valid, alone.test)] == [16, 2, 2]
    rows = {bytes(row) for part in (alone.train, alone.valid, alone.test) for row in part.numpy()}
    assert rows == {bytes(row) for row in BITS[:20]}
    np.savez(tmp_path / "one.npz", pictures=BITS)
    assert len(data.load("one", tmp_path / "one.npz").train) == 24


@pytest.mark.parametrize(
    ("arrays", "asked", "message"),
    [
        ({"a": BITS, "b": BITS}, [], "holds a, b; name the arrays with --arrays"),
        ({"train": BITS}, ["x"], "arrays must be names of arrays in .*: train, but one is 'x'"),
        ({"train": BITS}, ["train"] * 4, "one to three names"),
        ({"train": BITS[:, :51]}, [], r"train images of shape .* must be square.*but a row has 51 numbers of uint8"),
        ({"train": BITS.astype(float)[:, :98]}, [], "but a row has 98 numbers of float64"),
        ({"train": BITS[0]}, [], r"must be \(n, height, width\) or \(n, pixels\), but their shape is \(784,\)"),
        ({"train": BITS * 1.5}, [], r"of float64 must lie in \[0, 1\], but their values go from 0.0 to 1.5"),
        ({"train": BITS * math.nan}, [], r"must lie in \[0, 1\]"),
        ({"train": BITS.astype(np.int32) - 1}, [], "but their values go from -1 to 0"),
        ({"train": BITS.astype(str)}, [], "must be bool, uint8 or floating, but they are <U3"),
        (
            {"train": BITS, "test": BITS[:, :400]},
            [],
            r"images of one shape, but the shapes are \[\(20, 20\), \(28, 28\)\]",
        ),
        ({"train": BITS[:2]}, [], "no image is left for train"),
    ],
)
def test_bad_npz(tmp_path: Path, arrays: dict, asked: list[str], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        data.load("a", tmp_path / "a.npz", arrays=asked)


def test_bad_sources(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("not a zip file")
    for dataset, path, arrays, message in [
        ("digits", tmp_path, (), "data must be left out for the dataset digits"),
        ("other", None, (), "dataset must be digits or mnist, but it is 'other'; give .* with --data FILE.npz"),
        ("other", tmp_path, (), "data of dataset 'other' must be a .npz file"),
        ("mnist", tmp_path, (), "has no train-images-idx3-ubyte"),
        ("a", tmp_path / "missing.npz", (), "is not a file"),
        ("a", tmp_path / "text.npz", (), "cannot be read as a .npz file"),
        ("digits", None, ("train",), "data must be a .npz file if arrays are named, but it is None"),
    ]:
        with pytest.raises(ValueError, match=message):
            data.load(dataset, path, arrays=arrays)


def test_binarize() -> None:
    grey = torch.rand((4000, 6), generator=torch.Generator().manual_seed(0))
    source = data.Images("grey", (2, 3), grey, grey.clone(), grey.clone(), binary=False)
    threshold = data.binarize(source, "threshold", seed=0)
    assert torch.equal(threshold.train, (grey >= 0.5).to(torch.uint8))
    static, again, other = (data.binarize(source, "static", seed=s) for s in (3, 3, 4))
    assert torch.equal(static.train, again.train)
    for a, b in ((static.train, other.train), (static.train, static.valid), (static.valid, static.test)):
        assert not torch.equal(a, b)
    # E (b - x)^2 = x (1 - x), 1/6 on average for uniform x: with 24,000 draws its standard error is below 0.0013.
    assert abs(float((static.train - grey).square().mean()) - 1 / 6) < 0.008
    assert abs(float((static.train - grey).mean())) < 6 * (1 / 6 / 24_000) ** 0.5
    dynamic = data.binarize(source, "dynamic", seed=3)
    assert dynamic.train is grey
    assert not dynamic.binary
    assert torch.equal(dynamic.test, static.test)
    assert data.binarize(static, "dynamic", seed=9) is static
    assert data.binarize(source, "none", seed=3) is source
    with pytest.raises(
        ValueError, match="binarize must be one of 'threshold', 'static', 'dynamic', 'none', but it is 'sometimes'"
    ):
        data.binarize(source, "sometimes", seed=0)


# model


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


# figures


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


# training


def test_batches_are_a_function_of_the_step() -> None:
    source = torch.arange(23)[:, None].expand(-1, 4)
    batches = Batches(source, 5, seed=1, fixed=True)
    whole = [batches(step)[:, 0].tolist() for step in range(12)]
    for epoch in range(3):
        rows = [row for batch in whole[4 * epoch : 4 * epoch + 4] for row in batch]
        assert len(set(rows)) == 20
    assert whole[:4] != whole[4:8]
    jump = Batches(source, 5, seed=1, fixed=True)
    for step in (11, 0, 6, 3):
        assert jump(step)[:, 0].tolist() == whole[step]
    assert Batches(source, 5, seed=2, fixed=True)(0)[:, 0].tolist() != whole[0]
    shares = [Batches(source, 4, seed=1, fixed=True, rank=r, world=2)(7) for r in range(2)]
    assert torch.equal(torch.cat(shares), Batches(source, 4, seed=1, fixed=True)(7))
    with pytest.raises(ValueError, match="batch must be at most the number of training images, 23, but it is 24"):
        Batches(source, 24, seed=1, fixed=True)


def test_grey_batches_are_drawn_afresh_every_step() -> None:
    grey = torch.tensor([0.0, 0.25, 1.0]).expand(400, 3)
    batches = Batches(grey, 400, seed=0, fixed=False)
    first, second = batches(0), batches(1)
    assert torch.equal(first, batches(0))
    assert not torch.equal(first, second)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    means = torch.stack([batches(step).mean(0) for step in range(20)]).mean(0)
    assert means[0] == 0
    assert means[2] == 1
    assert abs(means[1] - 0.25) < 6 * (0.25 * 0.75 / 8000) ** 0.5
    shares = [Batches(grey, 400, seed=0, fixed=False, rank=r, world=4)(3) for r in range(4)]
    assert torch.equal(torch.cat(shares), batches(3))


def state_of(run: Run) -> dict[str, Any]:
    return run.load("checkpoint.pt")


def assert_same(a: Any, b: Any, path: str = "") -> None:
    """Equal to the bit, tensors inside dictionaries and lists included."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}/{i}")
    elif isinstance(a, Tensor):
        assert torch.equal(a, b), path
    elif path != "/seconds":
        assert a == b, path


def without_clock(run: Run) -> list[dict]:
    return [{k: v for k, v in record.items() if k != "steps_per_second"} for record in run.records()]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "sgd", "lr": 0.001, "estimator": "gumbel_straight_through", "binarize": "dynamic"},
        {"precision": "64-true"},
        {"optimizer": "radam", "kl": "relaxed", "weight_decay": 0.01},
        {
            "optimizer": "adamw",
            "estimator": "softmax_straight_through",
            "lr_schedule": "constant",
            "schedule": "constant:1",
        },
        {"estimator": "rebar", "binarize": "none", "activation": "leaky_relu", "centre": False},
        {"estimator": "unordered_set(num_samples=4)"},
    ],
)
def test_a_resumed_run_is_the_run_not_stopped(tmp_path: Path, changes: dict) -> None:
    config = tiny(**changes)
    straight, _ = fit(config, tmp_path / "straight")
    # 15 is no multiple of log_every: the running mean has to travel too.
    stopped, state = fit(config, tmp_path / "stopped", stop_at=15)
    assert state.step == 15
    resumed, _ = fit(stopped.config(), resume=Run.open(stopped.path))
    assert_same(state_of(straight), state_of(resumed))
    assert_same(straight.load("best.pt"), resumed.load("best.pt"))
    assert without_clock(straight) == without_clock(resumed)
    assert [r["step"] for r in straight.records() if r["kind"] == "train"] == [10, 20, 30, 40]


def test_more_steps_on_a_constant_rate_are_the_longer_run(tmp_path: Path) -> None:
    config = tiny(lr_schedule="constant", steps=20)
    run, _ = fit(config, tmp_path / "a")
    longer, _ = fit(run.config(steps=40), resume=run)
    straight, _ = fit(tiny(lr_schedule="constant"), tmp_path / "b")
    assert_same(state_of(longer), state_of(straight))
    with pytest.raises(
        ValueError, match=r"steps must be more than the 40 steps that .* has, but it is 40; give --steps"
    ):
        fit(longer.config(), resume=longer)


def test_a_crash_after_the_checkpoint_leaves_nothing_double(tmp_path: Path) -> None:
    config = tiny()

    def crash(record: dict) -> None:
        if record["step"] == 30:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fit(config, tmp_path / "a", listener=crash)
    run = Run.open(tmp_path / "a")
    assert state_of(run)["step"] == 20
    fit(config, resume=run)
    straight, _ = fit(config, tmp_path / "b")
    assert without_clock(run) == without_clock(straight)
    assert_same(state_of(run), state_of(straight))


def test_interrupt_ends_the_step_and_saves(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    run, state = fit(tiny(), tmp_path / "a", listener=lambda record: signal.raise_signal(signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is before
    assert state.step == state_of(run)["step"] == 10
    fit(tiny(), resume=run)
    straight, _ = fit(tiny(), tmp_path / "b")
    assert_same(state_of(run), state_of(straight))


def test_the_seed_decides(tmp_path: Path) -> None:
    torch.manual_seed(1)
    a, _ = fit(tiny(), tmp_path / "a")
    torch.manual_seed(2)
    b, _ = fit(tiny(), tmp_path / "b")
    c, _ = fit(tiny(seed=1), tmp_path / "c")
    assert_same(state_of(a), state_of(b))
    assert not torch.equal(state_of(a)["model"]["decoder.0.weight"], state_of(c)["model"]["decoder.0.weight"])


@pytest.mark.parametrize(
    "estimator",
    [
        *(
            "gumbel_softmax",
            "gumbel_straight_through",
            "softmax_straight_through",
            "reinmax",
            "gumbel_rao(num_conditional=4)",
        ),
        *("reinforce_loo(num_samples=4)", "rebar"),
    ],
)
def test_it_learns(tmp_path: Path, estimator: str) -> None:
    config = Config.make(
        latents=6, classes=8, hidden=(128,), steps=600, valid_every=200, threads=1, device="cpu", estimator=estimator
    )
    run, state = fit(config, tmp_path / "run")
    loaded = config.images()
    ignored = float(evaluate.baseline(loaded.train, loaded.valid).mean())
    assert state.best > ignored + 1.5
    best, saved = run.trained(loaded)
    assert saved["elbo"] == state.best
    again = evaluate.discrete_elbo(best, loaded.valid, seed=123, samples=8)
    assert abs(again[0] - again[1] - state.best) < 0.5


def test_kl_warmup_holds_the_kl_back_at_first(tmp_path: Path) -> None:
    config = Config.make(kl="relaxed", steps=150, log_every=50, valid_every=150, threads=1, device="cpu", hidden=(64,))
    assert config.kl_warmup == 50
    assert [config.kl_weight(step) for step in (0, 25, 50, 150)] == [0.0, 0.5, 1.0, 1.0]
    assert Config.make().kl_weight(0) == 1.0
    records = {}
    for warmup in (0, 10**6):
        run, _ = fit(dataclasses.replace(config, kl_warmup=warmup), tmp_path / str(warmup))
        records[warmup] = list(run.records())[2]
    assert records[10**6]["kl"] > 10 * records[0]["kl"]
    assert records[10**6]["log_likelihood"] > records[0]["log_likelihood"] + 2
    # The objective that is reported has the whole KL, whatever its weight.
    assert records[10**6]["elbo"] == pytest.approx(records[10**6]["log_likelihood"] - records[10**6]["kl"])


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed", "bf16-true"])
def test_precision(tmp_path: Path, precision: str) -> None:
    run, _ = fit(tiny(precision=precision, steps=20), tmp_path / "run")
    assert [r["kind"] for r in run.records()] == ["train", "train", "valid"]
    assert all(math.isfinite(r["elbo"]) for r in run.records())
    expected = {"64-true": torch.float64, "bf16-mixed": torch.float32, "bf16-true": torch.bfloat16}[precision]
    assert state_of(run)["model"]["decoder.0.weight"].dtype == expected


def test_divergence_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        FloatingPointError,
        match=r"weights must be finite, but became infinite or NaN by step \d; lower the learning rate",
    ):
        fit(tiny(optimizer="sgd", lr=1e12, lr_schedule="constant"), tmp_path / "run")
    with pytest.raises(FloatingPointError, match=r"by step 1; lower the learning rate"):  # by the validation
        fit(tiny(optimizer="sgd", lr=1e38, lr_schedule="constant", valid_every=1, log_every=9), tmp_path / "other")


def test_checkpoints_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    run.save("checkpoint.pt", {"step": 1})

    def fail(state: object, file: Path) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with pytest.raises(OSError, match="disk full"):
            run.save("checkpoint.pt", {"step": 2})
    assert run.load("checkpoint.pt") == {"step": 1}


def test_tensorboard(tmp_path: Path) -> None:
    run, _ = fit(tiny(tensorboard=True), tmp_path / "run")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    logged = [(e.step, e.value) for e in events.Scalars("train/elbo")]
    assert [step for step, _ in logged] == [10, 20, 30, 40]
    assert [v for _, v in logged] == pytest.approx([r["elbo"] for r in run.records() if r["kind"] == "train"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch must be at least 1, but it is 0"),
        ({"kl_warmup": -1}, "kl_warmup must be at least 0, but it is -1"),
        ({"threads": 0}, "threads must be at least 1, but it is 0"),
        ({"lr": -1.0}, "lr must be above 0, but it is -1.0"),
        ({"optimizer": "lion"}, "optimizer must be one of 'adam', 'adamw', 'sgd', 'radam', but it is 'lion'"),
        ({"lr_schedule": "step"}, "lr_schedule must be one of 'constant', 'cosine'"),
        ({"binarize": "no"}, "binarize must be one of"),
        ({"devices": 3}, "batch must be a multiple of the number of devices, 3, but it is 32"),
        (
            {"schedule": "linear:1,0,20"},
            "schedule must keep the temperature above 0 for all 40 steps, but it is 'linear:1,0,20'",
        ),
        ({"schedule": "warm:1"}, "schedule must be one of"),
        ({"device": "abacus"}, "device must be one of 'auto', 'cpu', 'cuda', but it is 'abacus'"),
    ],
)
def test_bad_config(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


@pytest.mark.parametrize(
    ("name", "given", "plain"),
    [
        ("latents", np.int64(3), 3),
        ("latents", torch.tensor(3), 3),
        ("seed", np.uint8(7), 7),
        ("lr", np.float64(0.25), 0.25),
        ("lr", torch.tensor(0.25), 0.25),
        ("lr", 1, 1.0),
        ("prior_tau", np.float32(0.5), 0.5),
        ("hidden", np.array([8, 4]), (8, 4)),
        ("hidden", torch.Size([8, 4]), (8, 4)),
        ("hidden", [torch.tensor(8)], (8,)),
        ("centre", np.bool_(False), False),
        ("data", Path("a.npz"), "a.npz"),
    ],
)
def test_numbers_of_numpy_and_torch_are_taken(tmp_path: Path, name: str, given: Any, plain: Any) -> None:
    config = tiny(**{name: given})
    value = getattr(config, name)
    assert value == plain
    assert type(value) is type(plain)
    if isinstance(plain, tuple):
        assert all(type(element) is int for element in value)
    assert Run.create(tmp_path, config).config() == config


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents": 3.5}, "latents must be an integer, but it is 3.5; give a whole number"),
        ({"batch": True}, "batch must be an integer, but it is True"),
        ({"lr": "0.1"}, "lr must be a number, but it is '0.1'"),
        ({"hidden": "256,128"}, "hidden must be a tuple, but it is '256,128'"),
        ({"hidden": 256}, "hidden must be a tuple, but it is 256"),
        ({"hidden": (3, "x")}, "each of hidden must be an integer, but it is 'x'"),
        ({"centre": "no"}, "centre must be True or False, but it is 'no'"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_settings_of_another_kind(changes: dict, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        tiny(**changes)


def test_run_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(steps=2, log_every=1)
    run, _ = fit(config, tmp_path / "a")
    assert run.config() == config
    with pytest.raises(ValueError, match=r"there is a run in .*a; continue it \(--resume\)"):
        fit(config, tmp_path / "a")
    fit(config, tmp_path / "a", overwrite=True)
    assert len(list(run.records())) == 3
    with pytest.raises(ValueError, match=r"run must be a folder that argumbel train wrote, but .*b has no config.json"):
        Run.open(tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    paths = [fit(config)[0].path for _ in range(2)]
    assert paths == [Path("runs/digits-gumbel_softmax"), Path("runs/digits-gumbel_softmax-2")]
    stored = json.loads((run.path / "config.json").read_text())
    earlier = {name: value for name, value in stored.items() if name not in ("activation", "centre")}
    (run.path / "config.json").write_text(json.dumps(earlier))  # of before there were these settings
    assert run.config() == config
    for before, now in (
        ("straight_through", "softmax_straight_through"),
        ("straight_through(tau=0.5)", "softmax_straight_through(tau=0.5)"),
        ("gumbel_straight_through", "gumbel_straight_through"),
    ):
        (run.path / "config.json").write_text(json.dumps(stored | {"estimator": before}))
        assert run.config().estimator == now
    (run.path / "config.json").write_text(json.dumps(stored | {"colour": "blue"}))
    with pytest.raises(
        ValueError, match=r"must have the settings of this version of argumbel, but it differs in colour"
    ):
        run.config()
    (run.path / "best.pt").unlink()
    with pytest.raises(ValueError, match=r"has no best\.pt"):
        run.load("best.pt")


def test_other_images_train_from_the_preset_of_mnist(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", train=np.packbits(rng.integers(0, 2, (64, 64), dtype=np.uint8), axis=1))
    config = Config.make("mine", data=str(tmp_path / "a.npz"), hidden=(8,), steps=3, batch=10, threads=1, device="cpu")
    assert (config.latents, config.classes, config.binarize) == (20, 10, "static")
    run, state = fit(config, tmp_path / "run")
    assert state.step == 3
    assert run.config() == config


# evaluation and report


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run, _ = fit(tiny(steps=400), tmp_path_factory.mktemp("run") / "run")
    evaluate_run(run, run.config().images(), samples=(4, 16))
    write_report(run)
    return run


def test_evaluation(finished: Run) -> None:
    stored = finished.read_json("evaluation.json")
    assert stored is not None
    loaded = finished.config().images()
    vae, best = finished.trained(loaded)
    assert (stored["images"], stored["step"]) == (400, best["step"])
    assert set(stored) == {
        *("step", "seed", "images", "elbo", "log_likelihood", "kl", "bound_4", "bound_16", "baseline"),
        *("perplexity", "kl_per_latent"),
    }
    assert stored["bound_16"]["mean"] > stored["bound_4"]["mean"] > stored["elbo"]["mean"]
    assert stored["baseline"]["mean"] == pytest.approx(float(evaluate.baseline(loaded.train, loaded.test).mean()))
    assert sum(stored["kl_per_latent"]) == pytest.approx(stored["kl"]["mean"], rel=1e-5)
    assert all(1 <= p <= 4 for p in stored["perplexity"])
    per_image = evaluate.importance_bounds(vae, loaded.test, samples=(4, 16))["bound_16"]
    assert stored["bound_16"]["mean"] == pytest.approx(float(per_image.mean()), rel=1e-12)
    assert stored["bound_16"]["stderr"] == pytest.approx(float(per_image.std()) / 20)


def test_report_is_one_file_with_its_pictures_inside(finished: Run) -> None:
    from matplotlib import image

    page = finished.report.read_text()
    pictures = re.findall(r'<img alt="([^"]+)" src="data:image/png;base64,([^"]+)"', page)
    assert [name for name, _ in pictures] == ["Learning", "Reconstructions", "Samples from the prior", "Codes in use"]
    for _, encoded in pictures:
        pixels = image.imread(io.BytesIO(base64.b64decode(encoded, validate=True)))
        assert pixels.shape[1] >= 1500
        assert pixels[..., :3].std() > 0.02
    assert not re.search(r'(src|href)="(?!data:)|url\(|@import|<script', page)
    stored = finished.read_json("evaluation.json")
    assert stored is not None
    for name in ("elbo", "bound_4", "bound_16", "baseline"):
        assert f"{stored[name]['mean']:.2f}" in page
    assert "gumbel_softmax" in page
    assert "exp:1,5e-4,0.25,100" in page


def test_report_needs_an_evaluation(finished: Run, tmp_path: Path) -> None:
    for name in ("config.json", "best.pt"):
        (tmp_path / name).write_bytes((finished.path / name).read_bytes())
    with pytest.raises(ValueError, match=r"has no evaluation\.json; run argumbel evaluate"):
        write_report(Run.open(tmp_path))


def test_report_of_large_wide_images_and_many_latents(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", train=rng.random((40, 12, 30)), test=rng.random((3, 12, 30)))
    config = Config.make(
        "a<b",
        data=str(tmp_path / "a.npz"),
        hidden=(),
        latents=40,
        classes=25,
        steps=3,
        batch=10,
        threads=1,
        device="cpu",
    )
    run, _ = fit(config, tmp_path / "run")
    evaluate_run(run, config.images(), samples=(2,))
    assert "Categorical VAE on a&lt;b" in write_report(run).read_text()


def test_config_and_state_are_json(finished: Run) -> None:
    assert json.loads((finished.path / "config.json").read_text())["hidden"] == [16]
    names = {f.name for f in dataclasses.fields(Config)}
    assert set(json.loads((finished.path / "config.json").read_text())) == names


def test_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run_on("auto") == run_on("cpu") == "cpu"
    with pytest.raises(
        ValueError,
        match="device must be one that PyTorch finds, but it is cuda and PyTorch finds none; give --device cpu",
    ):
        run_on("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [run_on(name) for name in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]
