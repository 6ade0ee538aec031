"""Results of a trained model: ELBO with discrete latents, importance-weighted bounds, and a model without latents."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._core.checks import count, integer
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

_ROWS = 4096  # rows that are decoded together: 784 float32 pixels need about 13 MB, for any number of samples


def evaluate_run(
    run: Run,
    images: Images,
    *,
    samples: Sequence[int] = (64, 1000),
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Evaluate the best weights of a run on its test images, and write ``evaluation.json``.

    Args:
        run: a run that has a ``best.pt``.
        images: the images of the run, ``run.config().images()``.
        samples: numbers of samples; each gives an importance-weighted bound.
        seed: seed of the samples.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: is called with the fraction that is done.

    Returns:
        The content of ``evaluation.json``.

    Raises:
        ValueError: the run has no ``best.pt``, the device does not exist, or ``samples`` has no positive numbers.
    """
    device, seed = run_on(device), integer("seed", seed)
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
    """The results in ``evaluation.json``, in nats per image: ELBO and its parts, bounds on log p(x), and the baseline.

    Args:
        model: a trained model.
        test: the images to evaluate, ``(n, pixels)``.
        train: the training images, ``(m, pixels)``, for the baseline.
        samples: numbers of samples; each gives an importance-weighted bound.
        seed: seed of the samples.
        progress: is called with the fraction that is done.
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
    """Mean log-likelihood and mean KL (nats) of images ``(n, pixels)`` under one-hot latents. Their difference is the
    ELBO.

    ``E_q log p(x | z)`` is estimated from ``samples`` discrete draws for each image. The KL to the uniform prior is
    exact.
    """
    samples = count("samples", samples, least=1)
    generator = torch.Generator(device=x.device).manual_seed(integer("seed", seed))
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

    All bounds come from one pass of max(samples) draws for each image: the bound of m samples uses the first m draws.
    The logarithms of the weights are summed in float64. Memory does not grow with the number of samples or images.

    Args:
        model: a trained model.
        x: images, ``(n, pixels)``.
        samples: the numbers m.
        seed: seed of the draws.
        progress: is called with the fraction that is done.

    Returns:
        For each image, ``(n,)`` in float64: ``elbo`` (from all samples, with the exact KL), ``log_likelihood``, ``kl``
        and ``bound_<m>``.

    Raises:
        ValueError: ``samples`` is empty, or one of the numbers is below 1.

    Source: Burda, Grosse and Salakhutdinov 2016, "Importance weighted autoencoders".
    """
    wanted = sorted({integer("each of samples", m) for m in samples})
    if not wanted or wanted[0] < 1:
        raise ValueError(
            f"samples must be one or more numbers, each at least 1, but they are {wanted}; give for example (64, 1000)"
        )
    generator = torch.Generator(device=x.device).manual_seed(integer("seed", seed))
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
                number = min(chunk, stop - drawn)
                z = categorical(logits, (number,), generator=generator)
                log_q = logits.expand(number, *logits.shape).gather(-1, z.unsqueeze(-1)).squeeze(-1).double().sum(-1)
                log_p = _log_likelihood(model, part, z).double()
                total = torch.logaddexp(total, (log_p + log_prior - log_q).logsumexp(0))
                likelihood += log_p.sum(0)
                drawn += number
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
    """``sum_w Var(dL/dw)`` over all weights w of encoder and decoder; L is the mean of -ELBO over a batch.

    The variance is the variance of a training step: each of the ``repeats`` gradients has other images, drawn without
    replacement from ``x``, and other noise. The model keeps its own estimator.

    Args:
        model: a model.
        x: images, ``(n, pixels)``.
        estimator: text for :class:`~argumbel.experiments.estimator.Estimator`, the estimator of the gradient of L.
        tau: its temperature, unless the text gives one.
        batch: images in each batch.
        repeats: number of gradients.
        seed: seed of the batches and the noise.

    Raises:
        ValueError: ``batch`` is not in [1, n], ``repeats`` is below 2, or the text names no estimator.
    """
    batch = count("batch", batch, least=1, most=len(x), of="the number of images, ")
    repeats = count("repeats", repeats, least=2)
    generator = torch.Generator().manual_seed(integer("seed", seed))
    weights = [*model.encoder.parameters(), *model.decoder.parameters()]
    measured, kept = Estimator(estimator).to(x.device), model.estimator
    mean = squares = torch.zeros((), device=x.device)
    try:
        model.estimator = measured
        for number in range(1, repeats + 1):
            images = x[torch.randperm(len(x), generator=generator)[:batch].to(x.device)]
            log_likelihood, kl = model(images, tau, int(torch.randint(2**62, (), generator=generator)))
            gradients = torch.autograd.grad((kl - log_likelihood).mean(), weights)
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            deviation = flat - mean  # Welford's recurrence: no difference of large numbers
            mean = mean + deviation / number
            squares = squares + deviation * (flat - mean)
    finally:
        model.estimator = kept
    return float(squares.double().sum()) / (repeats - 1)


def baseline(train: Tensor, test: Tensor) -> Tensor:
    """Log-probability (nats) of each test image, ``(n,)``, under independent pixels with the training frequencies.

    A model of this family that ignores its latents (constant output of the decoder, KL of 0) cannot do better. One
    success and one failure are added to the counts (Laplace), so that a pixel that is never on is not impossible.
    """
    p = (train.double().sum(0) + 1.0) / (len(train) + 2.0)
    return bernoulli_log_prob(torch.logit(p), test.double())


@torch.no_grad()
def code_usage(model: CategoricalVAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """How the latents are used: mean probability of each class, ``(N, K)``, and mean KL of each latent, ``(N,)``.

    The means are over the images ``x``, ``(n, pixels)``, in float64. The perplexity of a row u of the first result,
    ``exp(-sum_k u_k log u_k)``, goes from 1 (one class for every image) to K. A latent that is independent of the image
    (its posterior is the prior) has perplexity K too, but its KL is 0.
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
    """The mean over the images, and the standard error of the mean."""
    spread = float(values.std()) if len(values) > 1 else math.nan
    return {"mean": float(values.mean()), "stderr": spread / math.sqrt(len(values))}
