"""Choices of k items of n: f sees k-hot samples, with exactly k ones in the last dimension."""

from __future__ import annotations

import torch
from torch import Tensor

from ..choice import gumbel_topk
from ..noise import KeyedNoise, work_dtype
from ..relax import relaxed_topk
from ..subsets import topk_log_prob
from ._common import Loss, call, check_problem, sum_factors, with_gradient

__all__ = ["subset_reinforce", "subset_straight_through"]


def subset_reinforce(
    f: Loss,
    logits: Tensor,
    *,
    k: int,
    num_samples: int = 2,
    generator: torch.Generator | None = None,
    noise: Tensor | KeyedNoise | None = None,
    ordered: bool = False,
) -> Tensor:
    """``1 / (m - 1) sum_s (f(z_s) - mean_r f(z_r)) grad log P(z_s)``: z_s a set of k items drawn without replacement.

    The score function of Gumbel-top-k, with the mean loss of the other samples as the baseline. Unbiased for E f over
    subsets, for any f; f is called once, on m = num_samples >= 2 k-hot samples, and needs no gradient in them.
    A *keyed* function.

    Args:
        f: from k-hot samples of shape ``(num_samples, *logits.shape)`` to losses ``(num_samples, *batch)``. ``batch``
            is a leading part of ``logits.shape[:-1]``; the dimensions after it are independent factors of one joint
            choice, each with a subset of its own.
        logits: shape ``(*batch, *factors, n)``, any floating dtype; -inf forbids an item.
        k: how many items, at most the number of allowed items in every row.
        num_samples: how many samples the estimate is made of.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.
        noise: a tensor of Gumbel noise of shape ``(num_samples, *logits.shape)``, or a ``KeyedNoise``.
        ordered: score the sequence that was drawn (Plackett-Luce). The default scores the set, which is the same
            averaged over all orders: never more variance, but an integral for each sample.

    Returns:
        The mean loss at the samples, of shape ``batch`` (float32 for half precision). Its gradient is the estimate; for
        parameters inside f, the plain gradient of that mean.

    Raises:
        ValueError, TypeError: as :func:`reinforce_loo`; k negative or larger than the support of some row.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.estimators import subset_reinforce
        >>> logits = torch.zeros(32, 10, requires_grad=True)
        >>> loss = subset_reinforce(lambda z: z @ torch.arange(10.0), logits, k=3, num_samples=4)
        >>> loss.mean().backward()

    Source: Williams 1992; Plackett 1975, "The analysis of permutations"; Kool, van Hoof and Welling 2020, "Estimating
    gradients for discrete random variables by sampling without replacement" (the probability of a set).
    """
    check_problem(f, logits, num_samples, least=2)
    x = logits.detach().expand(num_samples, *logits.shape)
    indices = gumbel_topk(x, k, generator=generator, noise=noise).indices
    loss = call(f, _k_hot(indices, logits), logits)
    log_p = topk_log_prob(logits.to(work_dtype(logits.dtype)), indices, ordered=ordered)
    advantage = (loss - loss.mean(0)).detach() * (num_samples / (num_samples - 1))
    return with_gradient(loss.mean(0), (advantage * sum_factors(log_p, loss)).mean(0))


def subset_straight_through(
    f: Loss,
    logits: Tensor,
    *,
    k: int,
    num_samples: int = 1,
    generator: torch.Generator | None = None,
    noise: Tensor | KeyedNoise | None = None,
    tau: float | Tensor = 1,
) -> Tensor:
    """``mean_s f(z_s)``, z_s k-hot: the top k of ``logits + G_s``, with the gradient of the relaxed top k of the same.

    The relaxed one is :func:`argumbel.relaxed_topk`, k successive softmaxes. Biased for E f over subsets, and of low
    variance. f is called once, on num_samples k-hot samples, where it must be differentiable. A *keyed* function: under
    the same noise it draws the subsets of :func:`subset_reinforce`.

    Args:
        tau: temperature of the relaxed top k, a number or a tensor that broadcasts against logits; above 0.
        f, logits, k, num_samples, generator, noise: as :func:`subset_reinforce`.

    Returns:
        The mean loss at the samples, of shape ``batch`` (float32 for half precision). Its gradient for logits is the
        estimate; for parameters inside f, the plain gradient of that mean.

    Raises:
        ValueError, TypeError: as :func:`subset_reinforce`; tau < 0.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.estimators import subset_straight_through
        >>> logits = torch.zeros(32, 10, requires_grad=True)
        >>> loss = subset_straight_through(lambda z: z @ torch.arange(10.0), logits, k=3, tau=0.5)
        >>> loss.mean().backward()

    Source: Xie and Ermon 2019, "Reparameterizable subset sampling via continuous relaxations"; Paulus et al. 2020,
    "Gradient estimation with stochastic softmax tricks".
    """
    check_problem(f, logits, num_samples)
    x = logits.expand(num_samples, *logits.shape)
    return call(f, relaxed_topk(x, k, tau, hard=True, noise=noise, generator=generator), logits).mean(0)


def _k_hot(indices: Tensor, logits: Tensor) -> Tensor:
    """k-hot vectors in the dtype of logits; NaN in a bad row, which has the index -1."""
    bad = (indices < 0).any(-1, keepdim=True)
    zeros = logits.new_zeros((*indices.shape[:-1], logits.shape[-1]))
    return zeros.scatter(-1, indices.clamp(min=0), 1.0).masked_fill(bad, torch.nan)
