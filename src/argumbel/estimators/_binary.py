"""Choices between two items, and swaps between many: estimators that evaluate f at antithetic samples.

The race in their language: swapping the noise of two items gives another draw from the same law, which is as far from
the first as can be.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..choice import gumbel_max
from ..noise import KeyedNoise, draw_like
from ._common import Loss, call, check_problem, one_hot, sum_factors, with_gradient

__all__ = ["arm", "arsm", "disarm"]


def arm(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 2,
    generator: torch.Generator | None = None,
    noise: Tensor | KeyedNoise | None = None,
) -> Tensor:
    """``(f(z) - f(z')) (1/2 - u)`` for the log odds, with z' the winners once both items have swapped their noise.

    The log odds are ``logits[..., 1] - logits[..., 0]``, and u = sigmoid(noise_0 - noise_1) is the uniform number of
    the draw: item 1 wins in z where u < sigmoid(log odds), in z' where 1 - u is.

    Unbiased, for any f. f is called once, on num_samples one-hot samples, which are num_samples / 2 antithetic pairs;
    it needs no gradient in them. :func:`disarm` has the same cost and never more variance. A *keyed* function.

    Args:
        f: from one-hot samples of shape ``(num_samples, *logits.shape)`` to losses ``(num_samples, *batch)``. ``batch``
            is a leading part of ``logits.shape[:-1]``; the dimensions after it are independent factors of one joint
            choice.
        logits: shape ``(*batch, *factors, 2)``, any floating dtype; -inf forbids an item.
        num_samples: an even number.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.
        noise: a tensor of Gumbel noise of shape ``(num_samples, *logits.shape)``, or a ``KeyedNoise``; the first half
            of the samples is used.

    Returns:
        The mean loss at the samples, of shape ``batch`` (float32 for half precision). Its gradient is the estimate; for
        parameters inside f, the plain gradient of that mean.

    Raises:
        ValueError: not two items, an odd number of samples; else as :func:`reinforce`.
        TypeError: as :func:`reinforce`.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.estimators import arm
        >>> log_odds = torch.zeros(32, 10, requires_grad=True)
        >>> logits = torch.stack([torch.zeros_like(log_odds), log_odds], -1)
        >>> loss = arm(lambda z: (z[..., 1].sum(-1) - 3) ** 2, logits)
        >>> loss.mean().backward()

    Source: Yin and Zhou 2019, "ARM: augment-REINFORCE-merge gradient for stochastic binary networks".
    """
    loss, difference, _, gumbel = _pairs(f, logits, num_samples, generator, noise)
    weight = 0.5 - torch.sigmoid(gumbel[..., 0] - gumbel[..., 1])
    return with_gradient(loss.mean(0), _along_log_odds(logits, weight, difference))


def disarm(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 2,
    generator: torch.Generator | None = None,
    noise: Tensor | KeyedNoise | None = None,
) -> Tensor:
    """``(f(z) - f(z')) / 2 * (z_1 - z'_1) sigmoid(|log odds|)`` for the log odds, z and z' an antithetic pair.

    :func:`arm` averaged over all that led to the same pair of outcomes: a factor that came out the same in both samples
    contributes nothing. Unbiased, for any f. f is called once, on num_samples one-hot samples, which are
    num_samples / 2 antithetic pairs; it needs no gradient in them.

    Arguments, returns and errors as :func:`arm`.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.estimators import disarm
        >>> logits = torch.zeros(32, 10, 2, requires_grad=True)
        >>> loss = disarm(lambda z: (z[..., 1].sum(-1) - 3) ** 2, logits, num_samples=4)
        >>> loss.mean().backward()

    Source: Dong, Mnih and Tucker 2020, "DisARM: an antithetic gradient estimator for binary latent variables" (also
    Yin, Ho, Yan, Qian and Zhou 2020, "Probabilistic best subset selection via gradient-based optimization", as U2G).
    """
    loss, difference, samples, _ = _pairs(f, logits, num_samples, generator, noise)
    log_odds = (logits[..., 1] - logits[..., 0]).detach().to(difference.dtype)
    apart = (samples[0] - samples[1])[..., 1].to(difference.dtype)
    return with_gradient(loss.mean(0), _along_log_odds(logits, apart * torch.sigmoid(log_odds.abs()) / 2, difference))


def arsm(
    f: Loss,
    logits: Tensor,
    *,
    num_samples: int = 1,
    generator: torch.Generator | None = None,
    noise: Tensor | KeyedNoise | None = None,
) -> Tensor:
    """``sum_j (f(z^{cj}) - mean_m f(z^{mj})) (1/n - pi_j)`` for logit c, z^{cj} the winner once c, j swap their noise.

    :func:`arm` for any number of items n: pi = softmax(-noise) is uniform on the simplex. With several factors all swap
    the same two items at once.

    Unbiased, for any f. f is called once, on ``num_samples * (n (n - 1) / 2 + 1)`` one-hot samples, so n should be
    small; it needs no gradient in them. A *keyed* function.

    Args:
        f: from one-hot samples of shape ``(s, *logits.shape)`` to losses ``(s, *batch)``, s the number just given.
        logits: shape ``(*batch, *factors, n)``, any floating dtype; -inf forbids an item.
        num_samples: how many draws the estimate is the mean of.
        generator, noise: as :func:`reinforce`.

    Returns:
        The mean loss at all samples, of shape ``batch`` (float32 for half precision). Its gradient is the estimate; for
        parameters inside f, the plain gradient of that mean.

    Raises: as :func:`reinforce`.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.estimators import arsm
        >>> logits = torch.zeros(32, 4, requires_grad=True)
        >>> arsm(lambda z: z[..., 0] - z[..., 1], logits).mean().backward()

    Source: Yin, Yue and Zhou 2019, "ARSM: augment-REINFORCE-swap-merge estimator for gradient backpropagation through
    categorical variables".
    """
    check_problem(f, logits, num_samples)
    n, x = logits.shape[-1], logits.detach().expand(num_samples, *logits.shape)
    gumbel = draw_like(x, x.ndim - 1, noise, generator, "gumbel")
    swaps, which = _swaps(n, logits.device)
    index = gumbel_max(x.expand(len(swaps), *x.shape), noise=gumbel[..., swaps].movedim(-2, 0)).indices
    loss = call(f, one_hot(index.flatten(0, 1), logits), logits)
    swapped = loss.detach().unflatten(0, (len(swaps), num_samples))[which]  # (c, j, num_samples, *batch)
    advantage = (swapped - swapped.mean(0)).movedim((0, 1), (-2, -1))
    factors = x.ndim - 2 - (loss.ndim - 1)
    share = (1 / n - torch.softmax(-gumbel, -1)).to(torch.promote_types(gumbel.dtype, loss.dtype))
    advantage = advantage.reshape(num_samples, *loss.shape[1:], *[1] * factors, n, n).to(share.dtype)
    gradient = (advantage @ share.unsqueeze(-1)).squeeze(-1)
    movable = logits.masked_fill(logits == -torch.inf, 0).to(gradient.dtype)  # a forbidden item has no gradient
    return with_gradient(loss.mean(0), sum_factors((gradient * movable).sum(-1), loss[:num_samples]).mean(0))


def _pairs(
    f: Loss,
    logits: Tensor,
    num_samples: int,
    generator: torch.Generator | None,
    noise: Tensor | KeyedNoise | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The losses of all samples; for each antithetic pair the difference of its losses, its samples (two in front), and
    the noise of the first."""
    check_problem(f, logits, num_samples, least=2)
    if num_samples % 2:
        raise ValueError(f"num_samples must be even, for antithetic pairs, but it is {num_samples}")
    if logits.shape[-1] != 2:
        raise ValueError(
            f"logits must have two items in the last dimension, but the shape is {tuple(logits.shape)}; for more use "
            "arsm, or for log odds torch.stack([torch.zeros_like(log_odds), log_odds], -1)"
        )
    x, pairs = logits.detach().expand(num_samples, *logits.shape), num_samples // 2
    gumbel = draw_like(x, x.ndim - 1, noise, generator, "gumbel")[:pairs]
    gumbel = torch.cat([gumbel, gumbel.flip(-1)])
    samples = one_hot(gumbel_max(x, noise=gumbel).indices, logits)
    loss = call(f, samples, logits)
    difference = loss.detach()[:pairs] - loss.detach()[pairs:]
    return loss, difference, samples.unflatten(0, (2, pairs)), gumbel[:pairs]


def _along_log_odds(logits: Tensor, weight: Tensor, difference: Tensor) -> Tensor:
    """What has ``weight * difference`` as its gradient for the log odds, summed over factors, mean over pairs; a factor
    with a forbidden item has none."""
    sure = (logits == -torch.inf).any(-1, keepdim=True)
    x = logits.masked_fill(sure, 0).to(difference.dtype)
    return (sum_factors(weight * (x[..., 1] - x[..., 0]), difference) * difference).mean(0)


def _swaps(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """All permutations of n items that swap at most two, as rows; and which row swaps c and j, of shape (n, n)."""
    i, j = torch.triu_indices(n, n, 1, device=device)
    rows = torch.arange(1, len(i) + 1, device=device)
    swaps = torch.arange(n, device=device).repeat(len(i) + 1, 1)
    swaps[rows, i], swaps[rows, j] = j, i
    which = torch.zeros(n, n, dtype=torch.int64, device=device)
    which[i, j] = which[j, i] = rows
    return swaps, which
