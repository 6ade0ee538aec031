"""Score-function estimators that never evaluate f twice at the same outcome.

The outcomes are joint ones, of all factors together; a beam search over the factors finds the likeliest of them, or, on
perturbed log-probabilities, draws them without replacement, without ever listing the product space.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._core.elementwise import log_softmax
from .._core.integrals import first_without
from ..noise import KeyedNoise, draw_like
from ..reverse import condition_max
from ._common import Loss, call, check_problem, factor_dims, joint_log_prob, one_hot, with_gradient
from ._score_function import Baseline, constant

__all__ = ["sum_and_sample", "unordered_set"]


def sum_and_sample(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 2,
    baseline: Baseline = 0.0,
    factors: int | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``sum_{z in C} p(z) h(z) + (1 - p(C)) h(z')``, ``h = (f - baseline) grad log p``: the likeliest outcomes summed,
    one of the other outcomes drawn.

    C holds the num_samples - 1 most probable joint outcomes; z' is drawn from all other outcomes. This is
    :func:`reinforce` with a part of the expectation taken exactly. It is good where few outcomes hold most of the
    probability.

    Unbiased, for any f. f is called on num_samples one-hot samples, all different (fewer, if there are no more
    outcomes); f need not be differentiable in the samples. f is called once more, on one sample and without a gradient,
    to learn which dimensions are factors, unless ``factors`` says so. A *keyed* function.

    Args:
        f: a function from one-hot samples of shape ``(num_samples, *batch, *factors, n)`` to losses of shape
            ``(num_samples, *batch)``. The dimensions that f sums away, ``*factors``, are independent factors of one
            joint choice, whose log-probabilities add.
        logits: scores of the items, shape ``(*batch, *factors, n)``, any floating dtype; -inf forbids an item.
        num_samples: the number of samples, at least 2.
        baseline: what is subtracted from the losses; it must not depend on the samples. A number, a tensor that
            broadcasts to ``(num_samples, *batch)``, or a function from the detached logits to such a tensor. It gets no
            gradient.
        factors: the number of dimensions of logits, before the last, that are factors; None asks f.
        noise: Gumbel noise of shape ``(num_samples, *batch, *factors, n)``, or a ``KeyedNoise``. It perturbs a beam
            search of num_samples joint outcomes.
        generator: a ``torch.Generator``; one 64-bit seed is drawn from it. Default: PyTorch's global generator.

    Returns:
        The same sum with h = f, an unbiased estimate of E f, shape ``(*batch,)`` (float32 for half precision). Its
        gradient for logits is the estimate. Parameters inside f get the plain gradient of that sum.

    Raises:
        ValueError: NaN, +inf or a row without an allowed item in logits; losses, baseline or noise of another shape;
            both noise and generator; num_samples < 2; factors out of range. Where values may not be looked at
            (accelerators, ``torch.compile``, ``vmap``) a bad row gives NaN instead.
        TypeError: logits or losses that are not floating tensors; num_samples or factors not an integer.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.estimators import sum_and_sample
        >>> logits = torch.tensor([9.0, 1.0, 0.0, 0.0], requires_grad=True)
        >>> loss = sum_and_sample(lambda z: z @ torch.tensor([1.0, 2.0, 3.0, 4.0]), logits)
        >>> loss.backward()

    Source: Liu, Regier, Tripuraneni, Jordan and McAuliffe 2019, "Rao-Blackwellized stochastic gradients for discrete
    distributions".
    """
    num_samples = check_problem(f, logits, num_samples, least=2)
    log_p, gumbel = _joint(f, logits, num_samples, factors, noise, generator)
    likeliest, mass = beam(log_p, num_samples - 1)
    drawn, height = beam(log_p, num_samples, gumbel)
    listed = (drawn.unsqueeze(-2) == likeliest.unsqueeze(-3)).all(-1).any(-1)
    rest = (~listed & (height > -torch.inf)).to(height.dtype)
    place = rest.argmax(-1, keepdim=True)  # the first outcome drawn that is not in C: by the race, a draw from the rest
    one = drawn.gather(-2, place.unsqueeze(-1).expand(*place.shape, drawn.shape[-1]))
    left = (1 - mass.exp().sum(-1, keepdim=True)).clamp(min=0) * rest.amax(-1, keepdim=True)
    outcomes, weights = torch.cat([likeliest, one], -2), torch.cat([mass.exp(), left], -1)
    samples, weights = _as_samples(outcomes, weights, logits)
    loss = call(f, samples, logits)
    weights = weights.to(loss.dtype)
    advantage = weights * (loss.detach() - constant(baseline, logits, loss))
    return with_gradient((weights * loss).sum(0), (advantage * joint_log_prob(logits, samples, loss)).sum(0))


def unordered_set(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 2,
    factors: int | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``sum_{s in S} w_s (f(s) - b_s) grad log p(s)``: S drawn without replacement, ``w_s = P(s came first | S)``.

    S holds num_samples joint outcomes, drawn by Gumbel-top-k; the estimate is the average over all orders in which they
    may have come. The baseline b_s estimates E f from S, given that s came first. Made for low entropy, where
    independent samples would repeat one outcome again and again; at high entropy it becomes :func:`reinforce_loo`.

    Unbiased, for any f. f is called on num_samples one-hot samples, all different (fewer, if there are no more
    outcomes); f need not be differentiable in the samples. f is called once more, on one sample and without a gradient,
    to learn which dimensions are factors, unless ``factors`` says so. The weights need an integral, whose cost grows
    with the square of num_samples. A *keyed* function.

    Args:
        f, logits, num_samples, factors, noise, generator: as :func:`sum_and_sample`.

    Returns:
        ``sum_s w_s f(s)``, an unbiased estimate of E f, shape ``(*batch,)`` (float32 for half precision). Its gradient
        for logits is the estimate. Parameters inside f get the plain gradient of that sum.

    Raises:
        ValueError, TypeError: as :func:`sum_and_sample`.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.estimators import unordered_set
        >>> logits = torch.zeros(32, 20, 10, requires_grad=True)  # 32 joint choices of 20 factors
        >>> loss = unordered_set(lambda z: (z[..., 0].sum(-1) - 3) ** 2, logits, num_samples=4)
        >>> loss.mean().backward()

    Source: Kool, van Hoof and Welling 2020, "Estimating gradients for discrete random variables by sampling without
    replacement".
    """
    num_samples = check_problem(f, logits, num_samples, least=2)
    log_p, gumbel = _joint(f, logits, num_samples, factors, noise, generator)
    outcomes, mass = beam(log_p, num_samples, gumbel)
    first, second = _came_first(mass)
    samples, weights = _as_samples(outcomes, first, logits)
    loss = call(f, samples, logits)
    weights = weights.to(loss.dtype)
    fixed = loss.detach()
    baseline = torch.einsum("...st,t...->s...", second.to(loss.dtype), fixed)
    score = (weights * (fixed - baseline) * joint_log_prob(logits, samples, loss)).sum(0)
    return with_gradient((weights * loss).sum(0), score)


def beam(log_p: Tensor, size: int, gumbel: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The ``size`` likeliest joint outcomes of independent factors; with Gumbel noise, so many without replacement.

    A product of factors is a tree, a level for each factor. A prefix races with the best of what is below it: its value
    is known before its children are, whose values are then drawn given that the best of them has it. So the first size
    prefixes of each level are enough to find the first size outcomes.

    Args:
        log_p: log-probabilities, shape ``(*batch, factors, n)``.
        gumbel: shape ``(*batch, size, factors, n)``, or None for the likeliest.

    Returns:
        ``(outcomes, log_prob)`` of shapes ``(*batch, s, factors)`` and ``(*batch, s)``, the first first, with
        ``s = min(size, n ** factors)``; log_prob -inf where fewer outcomes are possible.
    """
    *batch, factors, n = log_p.shape
    mass = value = log_p.new_zeros((*batch, 1))
    outcomes = torch.empty((*batch, 1, 0), dtype=torch.int64, device=log_p.device)
    for d in range(factors):
        below = mass.unsqueeze(-1) + log_p[..., d, :].unsqueeze(-2)
        race = below
        if gumbel is not None:
            dead = (mass == -torch.inf).unsqueeze(-1)
            race = (below + gumbel[..., : mass.shape[-1], d, :]).masked_fill(dead, 0)
            race = condition_max(race, value.masked_fill(dead.squeeze(-1), 0)).masked_fill(dead, -torch.inf)
        value, place = race.flatten(-2).topk(min(size, race.shape[-2] * n))
        mass = below.flatten(-2).gather(-1, place)
        parents = outcomes.gather(-2, (place // n).unsqueeze(-1).expand(*place.shape, d))
        outcomes = torch.cat([parents, (place % n).unsqueeze(-1)], -1)
    return outcomes, mass


def _joint(
    f: Loss,
    logits: Tensor,
    num_samples: int,
    factors: int | None,
    noise: Tensor | KeyedNoise | None,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and noise for num_samples outcomes, as :func:`beam` takes them, in float64."""
    x = logits.detach().expand(num_samples, *logits.shape)
    gumbel = draw_like(x, x.ndim - 1, noise, generator, "gumbel").double()
    batch = logits.shape[: logits.ndim - 1 - factor_dims(f, logits, factors)]
    shape = (*batch, math.prod(logits.shape[len(batch) : -1]), logits.shape[-1])
    log_p = log_softmax(logits.detach().double()).reshape(shape)
    return log_p, gumbel.reshape(num_samples, *shape).movedim(0, -3)


def _as_samples(outcomes: Tensor, weights: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Outcomes as one-hot samples and their weights, samples in front; f never sees an impossible outcome, it gets the
    first in its place."""
    outcomes = torch.where((weights > 0).unsqueeze(-1), outcomes, outcomes[..., :1, :])
    samples = one_hot(outcomes.movedim(-2, 0), logits)
    return samples.reshape(len(samples), *logits.shape), weights.movedim(-1, 0)


def _came_first(log_p: Tensor) -> tuple[Tensor, Tensor]:
    """``P(s came first | S) = p_s P(S without s | without s) / P(S)``, shape ``(*batch, k)``, and the weights of the
    baselines, shape ``(*batch, k, k)``: row s estimates E f from S, given that s came first.

    ``P(A | ...)`` is the probability that the outcomes of A race ahead of all outside S.
    """
    # Where the sum rounds to 1 the rest is lost, and with it weights too small to matter.
    log_rest = (1 - log_p.exp().sum(-1, keepdim=True)).clamp(min=1e-280).log()
    one, two = first_without((log_p - log_rest).masked_fill(log_p == -torch.inf, torch.inf))
    itself = torch.eye(log_p.shape[-1], dtype=torch.bool, device=log_p.device)
    log_second = torch.where(itself, 0, two) + log_p.unsqueeze(-2)
    return torch.exp(log_p + one), log_second.exp()
