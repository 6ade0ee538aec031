"""What ``argumbel sweep`` can train. A recipe is the protocol of a published comparison of estimators."""

from __future__ import annotations

import math
from typing import Any

from . import data, sbn, structures
from .estimator import parse
from .evaluate import gradient_variance
from .polynomial import EXACT, minimise
from .recipe import Figure, Job, Outcome, Recipe, recorded
from .run import Config, Run, stream
from .train import fit

__all__ = ["RECIPES", "Figure", "Job", "Outcome", "Recipe"]


def train_vae(job: Job) -> Outcome | None:
    """Train the categorical VAE. ``train_elbo`` is the mean of the last ``log_every`` steps, such as an epoch."""
    config = Config.make(
        **job.settings,
        data=None if job.data is None else str(job.data),
        seed=job.seed,
        steps=job.steps,
        threads=job.threads,
        device="cpu",
    )
    run = Run(job.folder)
    if (job.folder / "checkpoint.pt").is_file() and _same(run, config):
        if run.load("checkpoint.pt")["step"] < config.steps:
            fit(config, resume=run)
    else:
        fit(config, job.folder, overwrite=True)
    state = run.load("checkpoint.pt")
    if state["step"] < config.steps:
        return None
    last = {record["kind"]: record for record in run.records()}
    figures = {
        "train_elbo": last["train"]["elbo"],
        "train_kl": last["train"]["kl"],
        "valid_elbo": last["valid"]["elbo"],
    }
    return Outcome(figures, state["seconds"])


def train_kool(job: Job) -> Outcome | None:
    """Train the categorical VAE, then measure at its last weights the gradient variance of the published estimators."""
    outcome = train_vae(job)
    if outcome is None:
        return None
    run = Run(job.folder)
    config = run.config()
    images = config.images()
    model = config.model(images)
    model.load_state_dict(run.load("checkpoint.pt")["model"])
    figures = {
        f"log_variance/{estimator}": math.log(
            gradient_variance(
                model, images.valid, estimator, batch=config.batch, repeats=200, seed=stream(job.seed, "variance")
            )
        )
        for estimator in _KOOL_PUBLISHED
    }
    return Outcome(outcome.figures | figures, outcome.seconds)


def _same(run: Run, config: Config) -> bool:
    return run.config(data=config.data, threads=config.threads) == config


def train_polynomial(job: Job) -> Outcome:
    """Learn the coins of polynomial programming."""
    return recorded(job, minimise, powers=_POWERS)


def train_sbn(job: Job) -> Outcome:
    """Train the sigmoid belief network."""
    return recorded(job, sbn.maximise, images=data.load("mnist_static", job.data))


def _rows(*texts: str, **common: Any) -> dict[str, dict[str, Any]]:
    """Rows whose names are their estimators."""
    return {text: {"estimator": text, **common} for text in texts}


_POWERS = (1.5, 2.0, 3.0)
_TRAIN = Figure("train_elbo", "-ELBO, training", sign=-1)
_VALID = Figure("valid_elbo", "-ELBO, validation", sign=-1)
_VAE_CURVES = (
    Figure("train/elbo", "-ELBO, training (nats)", sign=-1),
    Figure("valid/elbo", "-ELBO, validation (nats)", sign=-1),
)

DIGITS = Recipe(
    title="Categorical VAE on small digits",
    text=(
        "The digits that come with scikit-learn, 6 latents of 8 classes, one hidden layer of 128. It is small, to "
        "try a sweep in a minute. No published results can be compared with it."
    ),
    rows=_rows(
        *(
            "gumbel_softmax",
            "softmax_straight_through",
            "gumbel_straight_through",
            "reinmax",
            "reinforce_loo(num_samples=4)",
        ),
        dataset="digits",
        latents=6,
        classes=8,
        hidden=(128,),
        schedule="constant:0.7",
        log_every=50,
        valid_every=100,
    ),
    train=train_vae,
    figures=(_VALID, _TRAIN),
    curves=_VAE_CURVES,
    steps=1000,
    seeds=(0, 1),
)

POLYNOMIAL = Recipe(
    title="Polynomial programming",
    text=(
        "128 coins x_i, each with its own odds, minimise E mean |x_i - 0.45|^p by Adam at 1e-3, with 64 draws in each "
        "step and temperature 1. The figures are exact losses of the learned odds. The smallest loss, 0.45^p, is never "
        "reached, because it needs infinite odds. One run learns all three p, each with its own coins and noise."
    ),
    rows={
        EXACT: {"estimator": EXACT},
        **_rows(
            *(
                "softmax_straight_through",
                "gumbel_softmax",
                "gumbel_straight_through",
                "gumbel_rao(num_conditional=10)",
            ),
            *("gapped_straight_through(gap=1.0)", "reinmax", "rebar(num_samples=64)", "reinforce(num_samples=64)"),
            *("reinforce_loo(num_samples=64)", "stratified(num_samples=64)", "arm(num_samples=64)"),
            *("disarm(num_samples=64)", "arsm(num_samples=64)", "sum_and_sample(num_samples=4)"),
            "unordered_set(num_samples=4)",
        ),
    },
    train=train_polynomial,
    figures=tuple(Figure(f"p={p:g}", f"p = {p:g} (least {0.45**p:.5f})", 5) for p in _POWERS),
    curves=tuple(Figure(f"train/p={p:g}", f"exact loss, p = {p:g}", 5) for p in _POWERS),
    steps=8000,
    seeds=(0, 1),
    differences=(
        "The authors show curves of the mean sampled loss of each 200 steps; here the loss is exact.",
        "A step has 64 draws of all coins for every estimator; arsm evaluates the loss twice a draw, rebar thrice.",
        "gumbel_rao has 10 conditional draws; the authors take 100.",
        "rebar tunes its eta and tau as it goes, one pair for the three p.",
        "decoupled_straight_through is left out, for it minimises the loss at another temperature.",
    ),
    source="Liu et al. 2023, section 5, and the authors' code",
)

_MNIST_VAE: dict[str, Any] = {
    "dataset": "mnist",
    "binarize": "none",
    "latents": 4,
    "classes": 8,
    "hidden": (512, 256),
    "centre": False,
    "batch": 100,
    "lr_schedule": "constant",
    "log_every": 500,
    "valid_every": 2500,
}


def _reinmax(estimator: str, lr: float, tau: float) -> dict[str, dict[str, Any]]:
    return {estimator: {**_MNIST_VAE, "estimator": estimator, "lr": lr, "schedule": f"constant:{tau}"}}


REINMAX = Recipe(
    title="MNIST VAE of ReinMax, 4 latents of 8 classes",
    text=(
        "Grey MNIST in [0, 1] as targets of the cross-entropy; 784-512-256-(4 x 8), ReLU, the same layers in reverse "
        "in the decoder, exact KL to the uniform prior; Adam, batch 100; learning rate and temperature of each "
        "estimator as published. The training figure is the mean over the steps of the last epoch."
    ),
    rows={
        **_reinmax("softmax_straight_through", 1e-3, 1.3),
        **_reinmax("gumbel_straight_through", 3e-4, 0.5),
        **_reinmax("gumbel_rao(num_conditional=100)", 5e-4, 0.5),
        **_reinmax("gapped_straight_through(gap=1.0)", 5e-4, 1.0),
        **_reinmax("reinmax", 5e-4, 1.3),
    },
    train=train_vae,
    figures=(_TRAIN, _VALID),
    curves=_VAE_CURVES,
    steps=10_000,
    data="the folder of the MNIST IDX files",
    published={"train_elbo": {"reinmax": "124.66 ± 0.88"}},
    differences=(
        "20 epochs of 500 steps; published: 160 epochs of 600 steps (--steps 80000 is 160 epochs).",
        "50,000 training images, the other 10,000 validate; published: all 60,000.",
        "3 seeds; published: 10.",
    ),
    source="Liu et al. 2023, table 2, and the authors' code",
)

_KOOL_PUBLISHED = {
    "reinforce_loo(num_samples=4)": 7.04,
    "unordered_set(num_samples=4)": 7.05,
    "sum_and_sample(num_samples=4)": 13.76,
    "reinforce": 13.80,
    "arsm": 15.55,
}

KOOL = Recipe(
    title="Static MNIST, 20 latents of 10 classes, without replacement",
    text=(
        "Statically binarised MNIST; 784-512-256-(20 x 10), leaky ReLU of slope 0.1, the same layers in reverse in the "
        "decoder, exact KL to the uniform prior; Adam at 1e-3, batch 200, 4 samples for each image. The training "
        "figure is the mean over the steps of the last epoch. A log variance (with the published one in brackets) is "
        "the logarithm of the variance of a batch's gradient by the estimator named in the heading, summed over all "
        "weights, at the trained model, from 200 gradients on validation images; reinforce and arsm have one draw "
        "for each image, the other estimators have 4."
    ),
    rows=_rows(
        *("reinforce_loo(num_samples=4)", "unordered_set(num_samples=4)", "sum_and_sample(num_samples=4)"),
        dataset="mnist_static",
        latents=20,
        classes=10,
        hidden=(512, 256),
        activation="leaky_relu",
        centre=False,
        batch=200,
        lr=1e-3,
        lr_schedule="constant",
        schedule="constant:1",
        log_every=250,
        valid_every=250,
    ),
    train=train_kool,
    figures=(
        _VALID,
        _TRAIN,
        *(
            Figure(f"log_variance/{estimator}", f"{parse(estimator)[0]}: log variance ({value:.2f})")
            for estimator, value in _KOOL_PUBLISHED.items()
        ),
    ),
    curves=_VAE_CURVES,
    steps=3750,
    seeds=(0, 1),
    data="the .npz of statically binarised MNIST",
    differences=(
        "15 epochs; the authors' code trains 1,000. The published variances are of one model, trained with "
        "reinforce_loo(num_samples=4); compare them with that row.",
        "200 gradients for a variance on validation images; published: 1,000, and the code draws training images.",
        "Weights begin as PyTorch's do; published: Glorot's, with biases of zero.",
        "arsm has the analytic KL here; published: a sampled one, and in the authors' code the sum of its gradient "
        "over the batch where others have the mean.",
        "The REINFORCE and sum-and-sample with a sampled baseline, and RELAX, of the published table are left out.",
    ),
    source="Kool, van Hoof and Welling 2020, section 5 and appendix, and the authors' code",
)

SBN = Recipe(
    title="Sigmoid belief network of two layers, of REBAR",
    text=(
        "Statically binarised MNIST; the model goes from z2 (200 coins) to z1 (200 coins) to 784 pixels, the encoder "
        "goes back; all layers are linear, and units are -1 and 1 to the next layer; Adam at 3e-4 with beta2 0.99999, "
        "batch 24, the bound from one sample. The first figure is the mean of the bound over the steps of the last "
        "epoch. The second figure is the logarithm of the mean, over the same steps, of the variance of a step's "
        "gradient; this variance includes the choice of the images, is averaged over all weights, and comes from "
        "moving moments of decay 0.999. reinforce_loo has m draws of z1, and m draws of z2 given each of them; the "
        "other estimators have one draw."
    ),
    rows=_rows(
        *("rebar", "relax", "reinforce_loo(num_samples=2)", "reinforce_loo(num_samples=4)", "reinforce"),
        units=200,
        batch=24,
        lr=3e-4,
        control_lr=3e-2,
        beta2=0.99999,
    ),
    train=train_sbn,
    figures=(Figure("elbo", "-ELBO, training", sign=-1), Figure("log_variance", "log variance of the gradient")),
    curves=(
        Figure("train/elbo", "-ELBO, training (nats)", sign=-1),
        Figure("train/log_variance", "log variance of the gradient"),
    ),
    steps=8336,
    data="the .npz of statically binarised MNIST",
    published={"elbo": {"rebar": "137.65"}, "log_variance": {"rebar": "-4.96"}},
    differences=(
        "eta, tau and the baseline networks learn at 3e-2; published: at 3e-3.",
        "Each layer has an eta, a tau and a baseline network, tuned on the squared gradient of its logits, image by "
        "image; published: one tau, one network and an eta for each matrix and bias, tuned on that of the weights.",
        "The learning signal of z2 is the terms of the bound in which z2 is; published: all of them.",
        "Epochs have 2,083 batches, and figures are means of 2,084 steps; published: the 8 images left are a batch.",
        "relax, which is not in the published log, is rebar whose baseline networks see the relaxed sample as well.",
    ),
    source="Tucker et al. 2017, the authors' code and its log",
)

RECIPES: dict[str, Recipe] = {
    "digits": DIGITS,
    "polynomial": POLYNOMIAL,
    "reinmax": REINMAX,
    "kool": KOOL,
    "sbn": SBN,
    **structures.RECIPES,
}
