"""The expectation itself, by enumeration: an estimator without variance for small spaces, the oracle of the others."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..noise import KeyedNoise
from ._common import Loss, call, check_problem, factor_dims, joint_log_prob, one_hot

__all__ = ["exact"]

MAX_OUTCOMES = 1 << 20


def exact(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 1,
    factors: int | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``sum_z p(z) f(z)`` over all joint outcomes z: the expected loss. Its gradient has no noise.

    Exact. f is called once, on all ``n ** (number of factors)`` outcomes, which are one-hot. f is called once more, on
    one sample and without a gradient, to learn which dimensions are factors, unless ``factors`` says so.

    Args:
        f: a function from one-hot samples of shape ``(s, *batch, *factors, n)`` to losses of shape ``(s, *batch)``, for
            any number s. The dimensions that f sums away, ``*factors``, are independent factors of one joint choice.
        logits: scores of the items, shape ``(*batch, *factors, n)``, any floating dtype; -inf forbids an item: f never
            sees it.
        num_samples: ignored, as noise and generator are; all estimators take them.
        factors: the number of dimensions of logits, before the last, that are factors; None asks f.
        noise: ignored.
        generator: ignored.

    Returns:
        The expectation, shape ``(*batch,)``, in the dtype of f's losses (float32 for half precision). Differentiable in
        logits and in everything that f depends on.

    Raises:
        ValueError: more than 2^20 joint outcomes; NaN, +inf or a row without an allowed item in logits; losses of
            another shape; factors out of range.
        TypeError: logits or losses that are not floating tensors.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.estimators import exact
        >>> logits = torch.zeros(2, 3, requires_grad=True)  # two factors
        >>> cost = torch.tensor([1.0, 2.0, 6.0])
        >>> loss = exact(lambda z: (z @ cost).prod(-1), logits)
        >>> round(loss.item(), 4)  # the mean cost is 3
        9.0
    """
    num_samples = check_problem(f, logits, num_samples)
    batch = logits.ndim - 1 - factor_dims(f, logits, factors)
    shape, n = logits.shape[batch:-1], logits.shape[-1]
    outcomes = n ** math.prod(shape)
    if outcomes > MAX_OUTCOMES:
        raise ValueError(
            f"logits must have at most {MAX_OUTCOMES} joint outcomes to be enumerated, but {math.prod(shape)} factors "
            f"of {n} items have {n}**{math.prod(shape)}; use an estimator that samples, for example reinforce_loo"
        )
    power = n ** torch.arange(math.prod(shape), device=logits.device)
    index = torch.arange(outcomes, device=logits.device).unsqueeze(-1) // power % n
    samples = one_hot(index.reshape(outcomes, *[1] * batch, *shape), logits).expand(outcomes, *logits.shape)
    p = joint_log_prob(logits, samples, samples.new_empty((outcomes, *logits.shape[:batch]))).exp()
    # A forbidden outcome has no weight. f may be infinite there, so f sees the likeliest outcome instead.
    allowed = (p > 0).reshape(*p.shape, *[1] * (samples.ndim - p.ndim))
    loss = call(f, torch.where(allowed, samples, one_hot(logits.detach().argmax(-1), logits)), logits)
    return (p * loss).sum(0)
