"""Choices of k items out of n: f sees k-hot samples, with exactly k ones in the last dimension."""

from __future__ import annotations

import torch
from torch import Tensor

from ..choice import gumbel_topk
from ..noise import KeyedNoise, work_dtype
from ..relax import relaxed_topk
from ..subsets import topk_log_prob
from ._common import Loss, above_others, call, check_problem, sum_factors, with_gradient

__all__ = ["subset_reinforce", "subset_straight_through"]


def subset_reinforce(
    f: Loss,
    logits: Tensor,
    *,
    k: int,
    num_samples: int = 2,
    ordered: bool = False,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``1 / (m - 1) sum_s (f(z_s) - mean_r f(z_r)) grad log P(z_s)``: z_s a set of k items drawn without replacement.

    The score function of Gumbel-top-k; the baseline of a sample is the mean loss of the other samples. Unbiased for E f
    over subsets, for any f. f is called once, on m = num_samples k-hot samples; f need not be differentiable in the
    samples. A *keyed* function.

    Args:
        f: a function from k-hot samples of shape ``(num_samples, *batch, *factors, n)`` to losses of shape
            ``(num_samples, *batch)``. The dimensions that f sums away, ``*factors``, are independent factors of one
            joint choice; each factor has a subset of its own.
        logits: scores of the items, shape ``(*batch, *factors, n)``, any floating dtype; -inf forbids an item.
        k: the number of items drawn, at most the number of allowed items in every row.
        num_samples: the number of samples, at least 2.
        ordered: score the sequence that was drawn (Plackett-Luce). By default the set is scored, which is the average
            over all orders: its variance is never larger, but each sample needs an integral.
        noise: Gumbel noise of shape ``(num_samples, *batch, *factors, n)``, or a ``KeyedNoise``.
        generator: a ``torch.Generator``; one 64-bit seed is drawn from it. Default: PyTorch's global generator.

    Returns:
        The mean loss at the samples, shape ``(*batch,)`` (float32 for half precision). Its gradient for logits is the
        estimate. Parameters inside f get the plain gradient of that mean.

    Raises:
        ValueError: NaN, +inf or a row without an allowed item in logits; k negative or larger than the number of
            allowed items in some row; num_samples < 2; losses or noise of another shape; both noise and generator.
            Where values may not be looked at (accelerators, ``torch.compile``, ``vmap``) a bad row gives NaN instead.
        TypeError: logits or losses that are not floating tensors; k or num_samples not an integer.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.estimators import subset_reinforce
        >>> logits = torch.zeros(32, 10, requires_grad=True)
        >>> loss = subset_reinforce(lambda z: z @ torch.arange(10.0), logits, k=3, num_samples=4)
        >>> loss.mean().backward()

    Source: Williams 1992; Plackett 1975, "The analysis of permutations"; Kool, van Hoof and Welling 2020, "Estimating
    gradients for discrete random variables by sampling without replacement" (the probability of a set).
    """
    num_samples = check_problem(f, logits, num_samples, least=2)
    x = logits.detach().expand(num_samples, *logits.shape)
    indices = gumbel_topk(x, k, noise=noise, generator=generator).indices
    loss = call(f, _k_hot(indices, logits), logits)
    log_p = topk_log_prob(logits.to(work_dtype(logits.dtype)), indices, ordered=ordered)
    return with_gradient(loss.mean(0), (above_others(loss) * sum_factors(log_p, loss)).mean(0))


def subset_straight_through(
    f: Loss,
    logits: Tensor,
    *,
    k: int,
    num_samples: int = 1,
    tau: float | Tensor = 1,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``mean_s f(z_s)``: z_s are the k-hot top k of ``logits + G_s``, with the gradient of a relaxed top k.

    The relaxed top k is :func:`argumbel.relaxed_topk` of the same ``logits + G_s``, the marginals of a law of subsets.
    Biased for E f over subsets, and of low variance. f is called once, on num_samples k-hot samples, where f must be
    differentiable. A *keyed* function: under the same noise it draws the same subsets as :func:`subset_reinforce`.

    Args:
        f, logits, k, noise, generator: as :func:`subset_reinforce`.
        num_samples: the number of samples; the estimate is their mean.
        tau: divides the perturbed logits in the relaxed top k: a number, or a tensor that broadcasts against
            ``(num_samples, *batch, *factors, 1)``; above 0.

    Returns:
        The mean loss at the samples, shape ``(*batch,)`` (float32 for half precision). Its gradient for logits is the
        estimate. Parameters inside f get the plain gradient of that mean.

    Raises:
        ValueError: as :func:`subset_reinforce`, but num_samples < 1; tau < 0.
        TypeError: as :func:`subset_reinforce`.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.estimators import subset_straight_through
        >>> logits = torch.zeros(32, 10, requires_grad=True)
        >>> loss = subset_straight_through(lambda z: z @ torch.arange(10.0), logits, k=3, tau=0.5)
        >>> loss.mean().backward()

    Source: Paulus et al. 2020, "Gradient estimation with stochastic softmax tricks"; Ahmed et al. 2023, "SIMPLE: a
    gradient estimator for k-subset sampling" (the marginals).
    """
    num_samples = check_problem(f, logits, num_samples)
    x = logits.expand(num_samples, *logits.shape)
    return call(f, relaxed_topk(x, k, tau, hard=True, noise=noise, generator=generator), logits).mean(0)


def _k_hot(indices: Tensor, logits: Tensor) -> Tensor:
    """k-hot vectors in the dtype of logits; NaN in a bad row, which has the index -1."""
    bad = (indices < 0).any(-1, keepdim=True)
    zeros = logits.new_zeros((*indices.shape[:-1], logits.shape[-1]))
    return zeros.scatter(-1, indices.clamp(min=0), 1.0).masked_fill(bad, torch.nan)
