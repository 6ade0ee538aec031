"""The categorical variational autoencoder of Jang et al. 2017: functions of tensors, and a module that calls them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._core.checks import one_of
from ..distributions import ExpRelaxedCategorical
from ..noise import KeyedNoise
from ..relax import log_gumbel_softmax
from .estimator import Estimator

__all__ = [
    "ACTIVATIONS",
    "KL_FORMS",
    "CategoricalVAE",
    "bernoulli_log_prob",
    "categorical_kl",
    "relaxed_kl",
]

KL_FORMS = ("categorical", "relaxed")
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "leaky_relu": lambda: nn.LeakyReLU(0.1)}
_RELAXED = ("gumbel_softmax", "gumbel_straight_through")  # their sample is a relaxed sample, or its argmax


def bernoulli_log_prob(logits: Tensor, x: Tensor) -> Tensor:
    """``sum_d [x_d l_d - log(1 + exp(l_d))]``: log-probability (nats) of binary images under independent Bernoullis.

    It is minus ``binary_cross_entropy_with_logits``, summed over pixels. For a grey image in (0, 1) it is the mean of
    the log-probability over binary images that are drawn from the grey image. This mean is not a likelihood of the grey
    image.

    Args:
        logits: ``(*batch, pixels)``.
        x: the images, ``(*batch, pixels)``. The two shapes may broadcast to each other.

    Returns:
        ``(*batch)``.

    >>> bernoulli_log_prob(torch.zeros(2, 3), torch.ones(2, 3))
    tensor([-2.0794, -2.0794])
    """
    logits, x = torch.broadcast_tensors(logits, x.to(logits.dtype))
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


def categorical_kl(logits: Tensor) -> Tensor:
    """``KL(q || uniform) = N log K - sum_n H(q_n)`` in nats, for N categoricals of K classes.

    With discrete samples, this is the exact KL term of the evidence lower bound. With *relaxed* samples, log-likelihood
    minus this KL is not a lower bound of anything: the sample and the KL belong to different models. Jang et al. 2017
    train this objective.

    Args:
        logits: log-probabilities (normalised), ``(*batch, N, K)``.

    Returns:
        ``(*batch)``.

    >>> categorical_kl(torch.full((4, 2, 10), 0.1).log()).abs().max() < 1e-5
    tensor(True)
    """
    return logits.shape[-2] * math.log(logits.shape[-1]) + (logits.exp() * logits).sum((-1, -2))


def relaxed_kl(logits: Tensor, log_y: Tensor, tau: float, prior_tau: float) -> Tensor:
    """``sum_n log q(log y_n) - log p(log y_n)``: one-sample KL of N ExpConcrete posteriors to uniform priors.

    Everything is computed from ``log y``, so that small temperatures do not underflow. The log-likelihood of relaxed
    samples minus the expectation of this KL is a lower bound of the evidence of the model with relaxed latents.

    Args:
        logits: of the posterior, ``(*batch, N, K)``.
        log_y: logarithm of the relaxed sample, ``(*batch, N, K)``.
        tau: temperature of the posterior.
        prior_tau: temperature of the prior.

    Returns:
        ``(*batch)``.

    >>> x = torch.zeros(5, 2, 10)
    >>> relaxed_kl(x, log_gumbel_softmax(x, 0.5), 0.5, 0.5)  # posterior = prior
    tensor([0., 0., 0., 0., 0.])

    Source: Maddison, Mnih and Teh 2017, appendix C.
    """
    posterior = ExpRelaxedCategorical(tau, logits=logits, validate_args=False)
    prior = ExpRelaxedCategorical(prior_tau, logits=torch.zeros_like(logits), validate_args=False)
    return (posterior.log_prob(log_y) - prior.log_prob(log_y)).sum(-1)


class CategoricalVAE(nn.Module):
    """N categorical latents of K classes between two multilayer perceptrons, and Bernoulli pixels.

    Args:
        pixels: of an image.
        latents: N.
        classes: K.
        hidden: sizes of the encoder's hidden layers. The decoder has them in reverse order.
        estimator: text for :class:`~argumbel.experiments.estimator.Estimator`, the gradient estimator of the latents.
        kl: ``categorical`` (:func:`categorical_kl`) or ``relaxed`` (:func:`relaxed_kl`).
        prior_tau: temperature of the prior of the relaxed KL; None takes the temperature of the posterior.
        activation: ``relu`` or ``leaky_relu``.
        mean: the mean training image, ``(pixels,)``, probabilities. It is subtracted from the encoder's input, and the
            decoder's last bias starts at its logits, so that the untrained model predicts the mean image. None leaves
            the input as it is, and starts this bias as PyTorch starts all biases.

    Raises:
        ValueError: an unknown name, a size that is too small, or an estimator that does not fit ``kl``.
    """

    mean: Tensor | None

    def __init__(
        self,
        *,
        pixels: int,
        latents: int,
        classes: int,
        hidden: Sequence[int],
        estimator: str = "gumbel_softmax",
        kl: str = "categorical",
        prior_tau: float | None = None,
        activation: str = "relu",
        mean: Tensor | None = None,
    ) -> None:
        super().__init__()
        one_of("kl", kl, KL_FORMS)
        one_of("activation", activation, ACTIVATIONS)
        self.estimator = Estimator(estimator)
        if kl == "relaxed" and self.estimator.name not in _RELAXED:
            raise ValueError(
                f"estimator must have a relaxed sample if kl is 'relaxed' ({' or '.join(_RELAXED)}), but it is "
                f"{self.estimator.name!r}; use kl='categorical' with it"
            )
        if prior_tau is not None and (kl != "relaxed" or not prior_tau > 0):
            raise ValueError(
                f"prior_tau must be above 0 if kl is 'relaxed', else None, but it is {prior_tau} and kl is {kl!r}; "
                "leave it out, or pass a positive number and kl='relaxed'"
            )
        if latents < 1 or classes < 2 or any(width < 1 for width in hidden):
            raise ValueError(
                "latents must be at least 1, classes at least 2 and hidden sizes at least 1, but they are "
                f"latents={latents}, classes={classes}, hidden={tuple(hidden)}; pass larger numbers"
            )
        self.latents, self.classes, self.kl, self.prior_tau = latents, classes, kl, prior_tau
        self.encoder = _perceptron([pixels, *hidden, latents * classes], activation)
        self.decoder = _perceptron([latents * classes, *reversed(hidden), pixels], activation)
        self.register_buffer("mean", None if mean is None else mean.float())
        if mean is not None:
            last = self.decoder[-1]
            assert isinstance(last, nn.Linear)
            with torch.no_grad():
                last.bias.copy_(torch.logit(mean, eps=1e-3))

    @property
    def dtype(self) -> torch.dtype:
        return next(self.decoder.parameters()).dtype

    def encode(self, x: Tensor) -> Tensor:
        """Log-probabilities of the latents, ``(batch, N, K)``, given images, ``(batch, pixels)``."""
        x = x.to(self.dtype)
        logits = _at_least_float32(self.encoder(x if self.mean is None else x - self.mean))
        return logits.unflatten(-1, (self.latents, self.classes)).log_softmax(-1)

    def decode(self, z: Tensor) -> Tensor:
        """Logits of the pixels, ``(*batch, pixels)``, given latents, ``(*batch, N, K)``, one-hot or relaxed."""
        return _at_least_float32(self.decoder(z.flatten(-2).to(self.dtype)))

    def forward(self, x: Tensor, tau: float, seed: int | Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log-likelihood and KL of each image, by the estimator's draws of the latents. Their difference is the ELBO.

        Args:
            x: images, ``(batch, pixels)``.
            tau: temperature of the relaxed sample.
            seed: seed of the draws: the latents are drawn with ``KeyedNoise(seed, rows)``.
            rows: the row of each latent of each image, ``(batch, N)`` or the same flattened. An estimator with m
                samples uses m rows of the noise for each of them.

        Returns:
            Log-likelihood and KL in nats, ``(batch,)`` each.
        """
        logits = self.encode(x)
        count = self.estimator.num_samples
        if rows is not None and count > 1:
            rows = (rows.flatten() * count + torch.arange(count, device=rows.device).unsqueeze(-1)).flatten()
        noise = KeyedNoise(seed, rows)

        def loss(z: Tensor) -> Tensor:
            return -bernoulli_log_prob(self.decode(z), x)

        log_likelihood = -self.estimator(loss, logits, tau=tau, noise=noise)
        if self.kl == "categorical":
            return log_likelihood, categorical_kl(logits)
        # Keyed noise is a function, so this is the draw that the loss was computed from.
        log_relaxed = log_gumbel_softmax(logits.expand(count, *logits.shape), tau, noise=noise)
        return log_likelihood, relaxed_kl(logits, log_relaxed, tau, self.prior_tau or tau).mean(0)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _perceptron(widths: Sequence[int], activation: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])
