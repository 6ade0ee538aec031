"""Figures of a trained model: ELBO with discrete latents, importance-weighted bounds, and a model without latents."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..choice import categorical
from .data import Images
from .estimator import Estimator
from .model import CategoricalVAE, bernoulli_log_prob, categorical_kl
from .run import Run, run_on

__all__ = [
    "baseline",
    "code_usage",
    "discrete_elbo",
    "evaluate",
    "evaluate_run",
    "gradient_variance",
    "importance_bounds",
]

_ROWS = 4096  # decoded at a time: about 13 MB of 784 float32 pixels, whatever the number of samples and images


def evaluate_run(
    run: Run,
    images: Images,
    *,
    samples: Sequence[int] = (64, 1000),
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Evaluate the best weights of a run on its test images, write ``evaluation.json``, and return what it holds."""
    device = run_on(device)
    model, state = run.trained(images)
    model.to(device)
    figures = evaluate(
        model, images.test.to(device), images.train.to(device), samples=samples, seed=seed, progress=progress
    )
    evaluation = {"step": state["step"], "seed": seed, **figures}
    run.write_json("evaluation.json", evaluation)
    return evaluation


def evaluate(
    model: CategoricalVAE,
    test: Tensor,
    train: Tensor,
    *,
    samples: Sequence[int] = (64, 1000),
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """The figures of ``evaluation.json``, in nats per image: ELBO, its parts, bounds on log p(x), and the baseline.

    ``progress`` is called with the fraction done.
    """
    figures = importance_bounds(model, test, samples=samples, seed=seed, progress=progress)
    usage, kl = code_usage(model, test)
    return {
        "images": len(test),
        **{name: _summary(values) for name, values in figures.items()},
        "baseline": _summary(baseline(train, test)),
        "perplexity": torch.special.entr(usage).sum(-1).exp().tolist(),
        "kl_per_latent": kl.tolist(),
    }


@torch.no_grad()
def discrete_elbo(model: CategoricalVAE, x: Tensor, *, seed: int, samples: int = 1) -> tuple[float, float]:
    """Mean log-likelihood and mean KL (nats) of images under one-hot latents; the ELBO is their difference.

    ``E_q log p(x | z)`` is estimated by ``samples`` discrete draws an image, the KL to the uniform prior is exact.
    """
    generator = torch.Generator(device=x.device).manual_seed(seed)
    log_likelihood = kl = 0.0
    for part in x.split(max(1, _ROWS // samples)):
        logits = model.encode(part)
        z = categorical(logits, (samples,), generator=generator)
        log_likelihood += float(_log_likelihood(model, part, z).double().mean(0).sum())
        kl += float(categorical_kl(logits).double().sum())
    return log_likelihood / len(x), kl / len(x)


@torch.no_grad()
def importance_bounds(
    model: CategoricalVAE,
    x: Tensor,
    *,
    samples: Sequence[int] = (64, 1000),
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Tensor]:
    """``log (1/m) sum_i p(x, z_i) / q(z_i | x)``, z_i ~ q: a lower bound of log p(x) for each m in ``samples``.

    One pass of max(samples) draws an image gives them all: the bound of m samples uses the first m. Log weights are
    summed in float64, and memory does not grow with the number of samples or images.

    Returns: per image (n,) in float64: ``elbo`` (all samples, exact KL), ``log_likelihood``, ``kl``, ``bound_<m>``.

    Source: Burda, Grosse and Salakhutdinov 2016.
    """
    if not samples or min(samples) < 1:
        raise ValueError(f"samples must name one or more numbers of samples, each 1 or more; got {tuple(samples)}")
    generator = torch.Generator(device=x.device).manual_seed(seed)
    wanted = sorted(set(samples))
    log_prior = -model.latents * math.log(model.classes)
    columns: dict[str, list[Tensor]] = {}
    images = max(1, min(len(x), _ROWS // 64))
    done = 0
    for part in x.split(images):
        logits = model.encode(part)
        chunk = max(1, _ROWS // len(part))
        total = torch.full((len(part),), -math.inf, dtype=torch.float64, device=x.device)
        likelihood = torch.zeros_like(total)
        figures: dict[str, Tensor] = {}
        drawn = 0
        for stop in wanted:
            while drawn < stop:
                count = min(chunk, stop - drawn)
                z = categorical(logits, (count,), generator=generator)
                log_q = logits.expand(count, *logits.shape).gather(-1, z.unsqueeze(-1)).squeeze(-1).double().sum(-1)
                log_p = _log_likelihood(model, part, z).double()
                total = torch.logaddexp(total, (log_p + log_prior - log_q).logsumexp(0))
                likelihood += log_p.sum(0)
                drawn += count
            figures[f"bound_{stop}"] = total - math.log(stop)
        kl = categorical_kl(logits).double()
        figures = {"elbo": likelihood / drawn - kl, "log_likelihood": likelihood / drawn, "kl": kl, **figures}
        for name, values in figures.items():
            columns.setdefault(name, []).append(values)
        done += len(part)
        if progress is not None:
            progress(done / len(x))
    return {name: torch.cat(parts) for name, parts in columns.items()}


def gradient_variance(
    model: CategoricalVAE, x: Tensor, estimator: str, *, tau: float = 1.0, batch: int, repeats: int, seed: int = 0
) -> float:
    """``sum_w Var(dL/dw)`` over all weights of encoder and decoder, L the mean -ELBO of a batch by the estimator named.

    Each of ``repeats`` gradients has images of its own, drawn without replacement from ``x``, and noise of its own: the
    variance is that of a training step. The model keeps its own estimator.
    """
    if not 1 <= batch <= len(x):
        raise ValueError(f"batch must be 1 to {len(x)}, the number of images; got {batch}")
    if repeats < 2:
        raise ValueError(f"repeats must be 2 or more; got {repeats}")
    generator = torch.Generator().manual_seed(seed)
    weights = [*model.encoder.parameters(), *model.decoder.parameters()]
    chosen, own = Estimator(estimator).to(x.device), model.estimator
    mean = squares = torch.zeros((), device=x.device)
    try:
        model.estimator = chosen
        for count in range(1, repeats + 1):
            images = x[torch.randperm(len(x), generator=generator)[:batch].to(x.device)]
            log_likelihood, kl = model(images, tau, int(torch.randint(2**62, (), generator=generator)))
            gradients = torch.autograd.grad((kl - log_likelihood).mean(), weights)
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            away = flat - mean  # Welford's recurrence: no difference of large numbers
            mean = mean + away / count
            squares = squares + away * (flat - mean)
    finally:
        model.estimator = own
    return float(squares.double().sum()) / (repeats - 1)


def baseline(train: Tensor, test: Tensor) -> Tensor:
    """Log-probability (nats) of each test image under independent pixels with the training set's frequencies.

    It is the best a model of this family can do when it ignores its latents: a decoder of constant output, KL zero.
    Frequencies have one success and one failure added (Laplace), so that a pixel never seen on is not impossible.
    """
    p = (train.double().sum(0) + 1.0) / (len(train) + 2.0)
    return bernoulli_log_prob(torch.logit(p), test.double())


@torch.no_grad()
def code_usage(model: CategoricalVAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """What the latents do over images: mean probability of each class (N, K), and mean KL of each latent (N,).

    The perplexity of a row u of the first, ``exp(-sum_k u_k log u_k)``, goes from 1 (one class for every image) to K. A
    latent that says nothing of the image, its posterior always the prior, has perplexity K too: its KL of zero tells
    the two apart. Both are float64.
    """
    usage = torch.zeros(model.latents, model.classes, dtype=torch.float64, device=x.device)
    kl = torch.zeros(model.latents, dtype=torch.float64, device=x.device)
    for part in x.split(_ROWS):
        logits = model.encode(part)
        usage += logits.exp().double().sum(0)
        kl += categorical_kl(logits.unsqueeze(-2)).double().sum(0)
    return usage / len(x), kl / len(x)


def _log_likelihood(model: CategoricalVAE, x: Tensor, z: Tensor) -> Tensor:
    one_hot = F.one_hot(z, model.classes).to(model.dtype)
    return bernoulli_log_prob(model.decode(one_hot), x)


def _summary(values: Tensor) -> dict[str, float]:
    """Mean over images and its standard error."""
    spread = float(values.std()) if len(values) > 1 else math.nan
    return {"mean": float(values.mean()), "stderr": spread / math.sqrt(len(values))}
