"""The expectation itself, by enumeration: an estimator without variance for small spaces, the oracle of the rest."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..noise import KeyedNoise
from ._common import Loss, call, check_problem, factor_dims, joint_log_prob, one_hot

__all__ = ["exact"]

LIMIT = 1 << 20


def exact(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 1,
    generator: torch.Generator | None = None,
    noise: Tensor | KeyedNoise | None = None,
    factors: int | None = None,
) -> Tensor:
    """``sum_z p(z) f(z)`` over all joint outcomes z: the expected loss, and its gradient without noise.

    Exact. f is called once, on all ``n ** (number of factors)`` outcomes, which are one-hot; and once more, on one
    sample and without gradient, to learn which dimensions are factors, unless ``factors`` says so.

    Args:
        f: from one-hot samples of shape ``(s, *logits.shape)`` to losses ``(s, *batch)``. ``batch`` is a leading part
            of ``logits.shape[:-1]``; the dimensions after it are independent factors of one joint choice.
        logits: shape ``(*batch, *factors, n)``, any floating dtype; -inf forbids an item: f never sees it.
        num_samples, generator, noise: ignored; all estimators take them.
        factors: how many dimensions of logits before the last are factors; None asks f.

    Returns:
        The expectation, of shape ``batch``, in the dtype of f's losses, or float32 for half precision; differentiable
        in logits and in all that f depends on.

    Raises:
        ValueError: more than 2^20 joint outcomes, bad logits, losses of another shape.
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
    check_problem(f, logits, num_samples)
    batch = logits.ndim - 1 - factor_dims(f, logits, factors)
    shape, n = logits.shape[batch:-1], logits.shape[-1]
    outcomes = n ** math.prod(shape)
    if outcomes > LIMIT:
        raise ValueError(
            f"the joint space must have at most {LIMIT} outcomes to be enumerated, but {math.prod(shape)} factors of "
            f"{n} items have {n}**{math.prod(shape)}; use an estimator that samples, reinforce_loo say"
        )
    place = n ** torch.arange(math.prod(shape), device=logits.device)
    index = torch.arange(outcomes, device=logits.device).unsqueeze(-1) // place % n
    samples = one_hot(index.reshape(outcomes, *[1] * batch, *shape), logits).expand(outcomes, *logits.shape)
    p = joint_log_prob(logits, samples, samples.new_empty((outcomes, *logits.shape[:batch]))).exp()
    # A forbidden outcome has no weight; f, which may be infinite there, sees the likeliest one instead.
    allowed = (p > 0).reshape(*p.shape, *[1] * (samples.ndim - p.ndim))
    loss = call(f, torch.where(allowed, samples, one_hot(logits.detach().argmax(-1), logits)), logits)
    return (p * loss).sum(0)
