"""The winner of the race is known: what was the noise?"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import kernels
from .._core.checks import Rows
from .._core.elementwise import logaddexp
from ..kernels.posterior import is_at, posterior, put_on_top
from ..noise import KeyedNoise, draw_like, key_for, work_dtype
from ._known import checked_indices, known_race, known_winners, one_per_row

__all__ = ["noise_given_winner", "posterior_gumbel", "posterior_noise"]


def posterior_gumbel(
    logits: Tensor,
    index: Tensor,
    *,
    value: Tensor | None = None,
    dim: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``values[index] = T = logsumexp(logits) + G[index]``, ``values[i] = -logaddexp(-(logits[i] + G[i]), -T)``: the
    perturbed logits of a race whose winner is known.

    T, the value of the winner, is a Gumbel at logsumexp(logits) and does not depend on which item won. The value of
    every other item is a Gumbel at its logit, truncated at T. Draw a winner from softmax(logits), then draw the values
    given this winner: the values have the law of logits + noise. A *keyed* function: G is one number of noise per item.

    The gradients are ``d values[i] / d logits[i] = 1 - exp(values[i] - T)``, ``d values[i] / dT = exp(values[i] - T)``
    and ``dT / d logits = softmax(logits)``. Some estimators, such as Gumbel-Rao, must hold the noise fixed and so must
    detach the result: the mean gradient through the values is another gradient.

    Args:
        logits: shape ``(*batch, n)`` for ``dim=-1``, any floating dtype; need not be normalised; -inf forbids an item.
            Half precision is computed in float32.
        index: the winner of each row, integers ``(*batch,)``.
        value: the value of each winner, ``(*batch,)``, any floating dtype, if it is known too. Default: it is drawn.
        dim: where the items lie.
        mask: bool, broadcasts to logits; True where an item is allowed.
        noise: a tensor of standard Gumbel noise in the shape of logits, or a ``KeyedNoise``.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        Perturbed values in the shape and dtype of logits, differentiable in logits and value. The value of the winner
        is strictly the largest, also after rounding. The value of a forbidden item is -inf.

    Raises:
        ValueError: NaN or +inf in logits, a row with nothing allowed, an index of the wrong shape, out of range or of a
            forbidden item, a value of the wrong shape or not finite, noise or mask of the wrong shape, both noise and
            generator. On an accelerator, under ``torch.compile`` and under ``vmap`` a bad row is NaN instead.
        TypeError: logits or value are not floating tensors, index does not hold integers, or mask is not bool.

    Example:
        >>> import torch, argumbel as ag
        >>> logits, index = torch.tensor([[0.0, 2.0, -torch.inf], [9.0, 0.0, 1.0]]), torch.tensor([0, 2])
        >>> values = ag.posterior_gumbel(logits, index)
        >>> values.argmax(-1)
        tensor([0, 2])

    Source: Maddison and Tarlow 2017, "Gumbel machinery" (blog post); Maddison, Tarlow and Minka 2014, "A* sampling".
    """
    rows = Rows(logits, dim, mask)
    at = checked_indices(index, logits, rows.dim, "index").squeeze(-1)
    dtype = work_dtype(logits.dtype)
    if isinstance(noise, Tensor):
        g = draw_like(logits, rows.dim, noise, generator, "gumbel").movedim(rows.dim, -1)
        dtype = g.dtype
    top = None
    if value is not None:
        top = one_per_row(value, at.unsqueeze(-1), dtype, "value", "index")[0].squeeze(-1)
    if isinstance(noise, Tensor):
        values, bad = posterior(rows.x.to(dtype), g, at, top)
    else:
        values, bad = kernels.posterior_gumbel(rows.x, at, top, key_for(rows.x, noise, generator))
    if bad:
        known_winners(logits, index, rows.dim, mask)  # raises the error, unless the noise is bad
        rows.complain(noise)
    if values.dtype != logits.dtype:
        won = at.unsqueeze(-1).clamp(0, values.shape[-1] - 1)
        values = put_on_top(values, values.gather(-1, won), won, logits.dtype)
    return rows.back(values)


def posterior_noise(
    logits: Tensor,
    index: Tensor,
    *,
    value: Tensor | None = None,
    dim: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``noise[index] = T - logits[index]``, ``noise[i] = -logaddexp(-G[i], logits[i] - T)``: the noise of a race whose
    winner is known, with ``T = logsumexp(logits) + G[index]`` the value of the winner.

    ``logits + posterior_noise(logits, index)`` is :func:`posterior_gumbel`. The noise is not computed as values minus
    logits, so it is finite everywhere: a forbidden item took no part in the race, and its noise has the law of fresh
    noise. The noise can therefore be added to other logits. To ask what would have won under other logits, use
    :func:`argumbel.counterfactual`: it draws many answers, and rounding cannot change them. A *keyed* function.

    Args:
        logits: shape ``(*batch, n)`` for ``dim=-1``, any floating dtype; need not be normalised; -inf forbids an item.
        index: the winner of each row, integers ``(*batch,)``.
        value: the value of each winner, ``(*batch,)``, any floating dtype, if it is known too. Default: it is drawn.
        dim: where the items lie.
        mask: bool, broadcasts to logits; True where an item is allowed.
        noise: a tensor of standard Gumbel noise in the shape of logits, or a ``KeyedNoise``.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        Noise in the shape of logits, float32, or float64 if logits or the noise are float64. It is differentiable in
        logits and value.

    Raises:
        ValueError, TypeError: as :func:`posterior_gumbel`.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.reverse import posterior_noise
        >>> logits = torch.tensor([0.0, 2.0, -torch.inf])
        >>> noise = posterior_noise(logits, torch.tensor(0))
        >>> ag.gumbel_max(logits, noise=noise).indices, bool(noise.isfinite().all())
        (tensor(0), True)

    Source: Oberst and Sontag 2019, "Counterfactual off-policy evaluation with Gumbel-max structural causal models".
    """
    x, g, won, bad, dim = known_race(logits, index, dim, mask, noise, generator)
    top = None
    if value is not None:
        top, unsound = one_per_row(value, won, g.dtype, "value", "index")
        bad = bad | unsound
    return noise_given_winner(x, g, won, top).masked_fill(bad, torch.nan).movedim(-1, dim)


def noise_given_winner(x: Tensor, g: Tensor, won: Tensor, top: Tensor | None = None) -> Tensor:
    """The noise of a race at logits x, items last, given its winner, ``(*batch, 1)``, and perhaps the value of the
    winner, ``(*batch, 1)``."""
    shift = x.detach().amax(-1, keepdim=True)  # a common shift of all logits does not change the noise
    x = x - shift
    top = x.logsumexp(-1, keepdim=True) + g.gather(-1, won) if top is None else top - shift
    return torch.where(is_at(won, x), top - x, -logaddexp(-g, x - top))
