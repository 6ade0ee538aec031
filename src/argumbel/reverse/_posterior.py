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

    The height of the winner does not depend on who won: it is Gumbel at logsumexp(logits). The others are Gumbels at
    their logits, truncated at that height. Draw a winner and then this, and the values have the law of logits plus
    noise. A *keyed* function: G is one number per item.

    Differentiable in logits and value: with T the height, d values[i] / d logits[i] = 1 - exp(values[i] - T),
    d values[i] / dT = exp(values[i] - T) and dT / d logits = softmax(logits). An estimator that wants the noise held
    fixed instead, as Gumbel-Rao does, must detach the result: this path has another mean.

    Args:
        logits: any shape, any floating dtype; need not be normalised; -inf forbids an item. Half precision is computed
            in float32.
        index: integers in the shape of logits without ``dim``: who won.
        value: the height of the winner, in the shape of index, if it is known too. Default: drawn.
        dim: where the items lie.
        mask: bool, broadcasts to logits; True where an item is allowed.
        noise: a tensor of standard Gumbel noise in the shape of logits, or a ``KeyedNoise``.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        Perturbed values in the shape and dtype of logits. The winner's is strictly the largest, also after rounding;
        that of a forbidden item is -inf.

    Raises:
        ValueError: NaN or +inf in logits, a row with nothing allowed, an index of the wrong shape, out of range or of a
            forbidden item, a value that is not finite, noise or mask of the wrong shape, both noise and generator. On
            an accelerator, under ``torch.compile`` and under ``vmap`` a bad row is NaN instead.
        TypeError: logits are not a floating tensor, index does not hold integers, or mask is not bool.

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
        known_winners(logits, index, rows.dim, mask)  # says what is wrong, if not the noise
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
    winner is known, with T its height, ``logsumexp(logits) + G[index]``.

    ``logits + posterior_noise(logits, index)`` is :func:`posterior_gumbel`, but the noise is computed without
    subtracting, and is finite everywhere: an item of zero weight took no part in the race, so its noise is as free as
    it was before. It can therefore be replayed under other logits. (What would have won there? For many samples, and
    exact also where logits + noise would round, see :func:`argumbel.counterfactual`.) A *keyed* function.

    Args:
        logits, index, value, dim, mask, noise, generator: as :func:`posterior_gumbel`.

    Returns:
        Noise in the shape of logits, in float32 or, for float64 logits, float64; differentiable in logits and value.

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
    """The noise of a race at logits x, items last, given its winner, (..., 1), and perhaps its height, (..., 1)."""
    shift = x.detach().amax(-1, keepdim=True)  # noise does not change when all logits move: so they move to 0
    x = x - shift
    top = x.logsumexp(-1, keepdim=True) + g.gather(-1, won) if top is None else top - shift
    return torch.where(is_at(won, x), top - x, -logaddexp(-g, x - top))
