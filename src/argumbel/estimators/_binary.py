"""Choices between two items, and swaps between many: estimators that evaluate f at antithetic samples.

Items that swap their noise give another draw with the same law. Of two items, the two draws are antithetic: as
negatively correlated as they can be.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..choice import gumbel_max
from ..noise import KeyedNoise, draw_like
from ._common import Loss, call, check_pairs, check_problem, one_hot, sum_factors, with_gradient

__all__ = ["arm", "arsm", "disarm"]


def arm(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 2,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``(f(z) - f(z')) (1/2 - u)`` for the log odds: z' are the winners once both items have swapped their noise.

    The log odds are ``logits[..., 1] - logits[..., 0]``, and u = sigmoid(noise_0 - noise_1) is the uniform number of
    the draw: item 1 wins in z where u < sigmoid(log odds), and in z' where 1 - u < sigmoid(log odds).

    Unbiased, for any f. f is called once, on num_samples one-hot samples, which are num_samples / 2 antithetic pairs;
    f need not be differentiable in the samples. :func:`disarm` costs the same and never has more variance. A *keyed*
    function.

    Args:
        f: a function from one-hot samples of shape ``(num_samples, *batch, *factors, 2)`` to losses of shape
            ``(num_samples, *batch)``. The dimensions that f sums away, ``*factors``, are independent factors of one
            joint choice.
        logits: scores of the two items, shape ``(*batch, *factors, 2)``, any floating dtype; -inf forbids an item.
        num_samples: the number of samples, even.
        noise: Gumbel noise of shape ``(num_samples, *batch, *factors, 2)``, or a ``KeyedNoise``; only the first half of
            the samples is used.
        generator: a ``torch.Generator``; one 64-bit seed is drawn from it. Default: PyTorch's global generator.

    Returns:
        The mean loss at the samples, shape ``(*batch,)`` (float32 for half precision). Its gradient for logits is the
        estimate. Parameters inside f get the plain gradient of that mean.

    Raises:
        ValueError: not two items; an odd number of samples; NaN, +inf or a row without an allowed item in logits;
            losses or noise of another shape; both noise and generator. Where values may not be looked at
            (accelerators, ``torch.compile``, ``vmap``) a bad row gives NaN instead.
        TypeError: logits or losses that are not floating tensors; num_samples not an integer.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.estimators import arm
        >>> log_odds = torch.zeros(32, 10, requires_grad=True)
        >>> logits = torch.stack([torch.zeros_like(log_odds), log_odds], -1)
        >>> loss = arm(lambda z: (z[..., 1].sum(-1) - 3) ** 2, logits)
        >>> loss.mean().backward()

    Source: Yin and Zhou 2019, "ARM: augment-REINFORCE-merge gradient for stochastic binary networks".
    """
    loss, difference, _, gumbel = _pairs(f, logits, num_samples, noise, generator)
    weight = 0.5 - torch.sigmoid(gumbel[..., 0] - gumbel[..., 1])
    return with_gradient(loss.mean(0), _log_odds_surrogate(logits, weight, difference))


def disarm(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 2,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``(f(z) - f(z')) / 2 * (z_1 - z'_1) sigmoid(|log odds|)`` for the log odds: z and z' are an antithetic pair.

    :func:`arm`, averaged over all noise that gives the same pair of outcomes: a factor with the same outcome in both
    samples contributes nothing. Unbiased, for any f. f is called once, on num_samples one-hot samples, which are
    num_samples / 2 antithetic pairs; f need not be differentiable in the samples. A *keyed* function.

    Args:
        f, logits, num_samples, noise, generator: as :func:`arm`.

    Returns:
        The mean loss at the samples, shape ``(*batch,)``, as :func:`arm`.

    Raises:
        ValueError, TypeError: as :func:`arm`.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.estimators import disarm
        >>> logits = torch.zeros(32, 10, 2, requires_grad=True)
        >>> loss = disarm(lambda z: (z[..., 1].sum(-1) - 3) ** 2, logits, num_samples=4)
        >>> loss.mean().backward()

    Source: Dong, Mnih and Tucker 2020, "DisARM: an antithetic gradient estimator for binary latent variables" (also
    Yin, Ho, Yan, Qian and Zhou 2020, "Probabilistic best subset selection via gradient-based optimization", as U2G).
    """
    loss, difference, samples, _ = _pairs(f, logits, num_samples, noise, generator)
    log_odds = (logits[..., 1] - logits[..., 0]).detach().to(difference.dtype)
    change = (samples[0] - samples[1])[..., 1].to(difference.dtype)
    weight = change * torch.sigmoid(log_odds.abs()) / 2
    return with_gradient(loss.mean(0), _log_odds_surrogate(logits, weight, difference))


def arsm(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 1,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``sum_j (f(z^{cj}) - mean_m f(z^{mj})) (1/n - pi_j)`` for logit c: z^{cj} is the winner once c, j swap noise.

    :func:`arm` for any number of items n: pi = softmax(-noise) is uniform on the simplex. With several factors, all
    factors swap the same two items at once.

    Unbiased, for any f. f is called once, on ``s = num_samples * (n (n - 1) / 2 + 1)`` one-hot samples, so n should be
    small; f need not be differentiable in the samples. A *keyed* function.

    Args:
        f: a function from one-hot samples of shape ``(s, *batch, *factors, n)`` to losses of shape ``(s, *batch)``. The
            dimensions that f sums away, ``*factors``, are independent factors of one joint choice.
        logits: scores of the items, shape ``(*batch, *factors, n)``, any floating dtype; -inf forbids an item.
        num_samples: the number of draws; the estimate is their mean.
        noise: Gumbel noise of shape ``(num_samples, *batch, *factors, n)``, or a ``KeyedNoise``.
        generator: a ``torch.Generator``; one 64-bit seed is drawn from it. Default: PyTorch's global generator.

    Returns:
        The mean loss at all s samples, shape ``(*batch,)`` (float32 for half precision). Its gradient for logits is the
        estimate. Parameters inside f get the plain gradient of that mean.

    Raises:
        ValueError: NaN, +inf or a row without an allowed item in logits; losses or noise of another shape; both noise
            and generator; num_samples < 1. Where values may not be looked at (accelerators, ``torch.compile``,
            ``vmap``) a bad row gives NaN instead.
        TypeError: logits or losses that are not floating tensors; num_samples not an integer.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.estimators import arsm
        >>> logits = torch.zeros(32, 4, requires_grad=True)
        >>> arsm(lambda z: z[..., 0] - z[..., 1], logits).mean().backward()

    Source: Yin, Yue and Zhou 2019, "ARSM: augment-REINFORCE-swap-merge estimator for gradient backpropagation through
    categorical variables".
    """
    num_samples = check_problem(f, logits, num_samples)
    n, x = logits.shape[-1], logits.detach().expand(num_samples, *logits.shape)
    gumbel = draw_like(x, x.ndim - 1, noise, generator, "gumbel")
    swaps, swap_of = _swaps(n, logits.device)
    index = gumbel_max(x.expand(len(swaps), *x.shape), noise=gumbel[..., swaps].movedim(-2, 0)).indices
    loss = call(f, one_hot(index.flatten(0, 1), logits), logits)
    swapped = loss.detach().unflatten(0, (len(swaps), num_samples))[swap_of]  # (c, j, num_samples, *batch)
    advantage = (swapped - swapped.mean(0)).movedim((0, 1), (-2, -1))
    factors = x.ndim - 2 - (loss.ndim - 1)
    weight = (1 / n - torch.softmax(-gumbel, -1)).to(torch.promote_types(gumbel.dtype, loss.dtype))
    advantage = advantage.reshape(num_samples, *loss.shape[1:], *[1] * factors, n, n).to(weight.dtype)
    gradient = (advantage @ weight.unsqueeze(-1)).squeeze(-1)
    finite = logits.masked_fill(logits == -torch.inf, 0).to(gradient.dtype)  # a forbidden item has no gradient
    return with_gradient(loss.mean(0), sum_factors((gradient * finite).sum(-1), loss[:num_samples]).mean(0))


def _pairs(
    f: Loss,
    logits: Tensor,
    num_samples: int,
    noise: Tensor | KeyedNoise | None,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The losses of all samples; and of each antithetic pair the difference of its losses, its samples (the two in the
    first dimension), and the noise of its first sample."""
    num_samples = check_problem(f, logits, num_samples, least=2)
    check_pairs(num_samples)
    if logits.shape[-1] != 2:
        raise ValueError(
            f"logits must have two items in the last dimension, but the shape is {tuple(logits.shape)}; for more "
            "items use arsm; of log odds make logits by torch.stack([torch.zeros_like(log_odds), log_odds], -1)"
        )
    x, pairs = logits.detach().expand(num_samples, *logits.shape), num_samples // 2
    gumbel = draw_like(x, x.ndim - 1, noise, generator, "gumbel")[:pairs]
    gumbel = torch.cat([gumbel, gumbel.flip(-1)])
    samples = one_hot(gumbel_max(x, noise=gumbel).indices, logits)
    loss = call(f, samples, logits)
    difference = loss.detach()[:pairs] - loss.detach()[pairs:]
    return loss, difference, samples.unflatten(0, (2, pairs)), gumbel[:pairs]


def _log_odds_surrogate(logits: Tensor, weight: Tensor, difference: Tensor) -> Tensor:
    """A number whose gradient for the log odds is ``mean(weight * difference)`` over pairs; zero for a factor with a
    forbidden item."""
    certain = (logits == -torch.inf).any(-1, keepdim=True)
    x = logits.masked_fill(certain, 0).to(difference.dtype)
    return (sum_factors(weight * (x[..., 1] - x[..., 0]), difference) * difference).mean(0)


def _swaps(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """All permutations of n items that swap at most two, as rows; and the number of the row that swaps c and j, shape
    ``(n, n)``."""
    i, j = torch.triu_indices(n, n, 1, device=device)
    rows = torch.arange(1, len(i) + 1, device=device)
    swaps = torch.arange(n, device=device).repeat(len(i) + 1, 1)
    swaps[rows, i], swaps[rows, j] = j, i
    swap_of = torch.zeros(n, n, dtype=torch.int64, device=device)
    swap_of[i, j] = swap_of[j, i] = rows
    return swaps, swap_of
