"""Reverse: the winner of the race is known; what was the noise?"""

from __future__ import annotations

import torch
from torch import Tensor

from ._checks import can_raise, check_dim, check_logits, forbid, raise_bad_logits
from .noise import KeyedNoise, draw_like

__all__ = ["posterior_gumbel", "posterior_noise"]


def posterior_gumbel(
    logits: Tensor,
    index: Tensor,
    *,
    value: Tensor | None = None,
    dim: int = -1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | KeyedNoise | None = None,
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
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.
        noise: a tensor of standard Gumbel noise in the shape of logits, or a ``KeyedNoise``.

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
    x, g, won, bad, dim = _known_race(logits, index, dim, mask, noise, generator)
    height, unsound = _known_height(value, won, g.dtype)
    top = x.logsumexp(-1, keepdim=True) + g.gather(-1, won) if height is None else height
    values = _strictly_below(_truncate(x, g, top), top, logits.dtype)
    values = torch.where(_is_at(won, x), _representable(top, logits.dtype), values)
    return values.masked_fill(bad | unsound, torch.nan).movedim(-1, dim)


def posterior_noise(
    logits: Tensor,
    index: Tensor,
    *,
    value: Tensor | None = None,
    dim: int = -1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | KeyedNoise | None = None,
) -> Tensor:
    """``noise[index] = T - logits[index]``, ``noise[i] = -logaddexp(-G[i], logits[i] - T)``: the noise of a race whose
    winner is known, with T its height, ``logsumexp(logits) + G[index]``.

    ``logits + posterior_noise(logits, index)`` is :func:`posterior_gumbel`, but the noise is computed without
    subtracting, and is finite everywhere: an item of zero weight took no part in the race, so its noise is as free as
    it was before. It can therefore be replayed under other logits. (What would have won there? For many samples, and
    exact also where logits + noise would round, see :func:`argumbel.counterfactual`.) A *keyed* function.

    Args:
        logits, index, value, dim, mask, generator, noise: as :func:`posterior_gumbel`.

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
    x, g, won, bad, dim = _known_race(logits, index, dim, mask, noise, generator)
    height, unsound = _known_height(value, won, g.dtype)
    shift = x.detach().amax(-1, keepdim=True)  # noise does not change when all logits move: so they move to 0
    x = x - shift
    top = x.logsumexp(-1, keepdim=True) + g.gather(-1, won) if height is None else height - shift
    drawn = torch.where(_is_at(won, x), top - x, -torch.logaddexp(-g, x - top))
    return drawn.masked_fill(bad | unsound, torch.nan).movedim(-1, dim)


def _truncate(x: Tensor, g: Tensor, upper: Tensor) -> Tensor:
    """Gumbels at x with noise g, given that they are at most upper; -inf stays -inf."""
    absent = x == -torch.inf  # kept out of the arithmetic: its gradient would be NaN
    return -torch.logaddexp(-(x.masked_fill(absent, 0) + g), -upper).masked_fill(absent, torch.inf)


def _strictly_below(values: Tensor, ceiling: Tensor, dtype: torch.dtype) -> Tensor:
    """values in dtype; where rounding brought one up to the ceiling, the number below it (with the gradient of the
    ceiling, which is what the value was rounded to)."""
    values, ceiling = values.to(dtype), _representable(ceiling, dtype)
    edge = ceiling.detach()
    below = ceiling + (torch.nextafter(edge, torch.full_like(edge, -torch.inf)) - edge)
    return torch.where(values < ceiling, values, below)


def _representable(values: Tensor, dtype: torch.dtype) -> Tensor:
    """values in dtype, where float16 overflows its largest number."""
    return values.to(dtype).clamp(max=torch.finfo(dtype).max)


def _is_at(place: Tensor, x: Tensor) -> Tensor:
    """The one-hot of a place, as bool, items last."""
    return torch.arange(x.shape[-1], device=x.device) == place


def _known_race(
    logits: Tensor,
    index: Tensor,
    dim: int,
    mask: Tensor | None,
    noise: Tensor | KeyedNoise | None,
    generator: torch.Generator | None,
    *,
    name: str = "index",
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """The door of all posteriors: logits and noise, at least float32, and indices of items that can have won, all with
    items last; which rows are bad, in the shape (..., 1); and dim counted from the front.

    ``index`` is of one item and has no dimension of items; ``indices`` has one.
    """
    check_logits(logits)
    dim = check_dim(logits, dim)
    x = forbid(logits, mask)
    at = _checked_indices(index, x, dim, name)
    g = draw_like(x, dim, noise, generator, "gumbel").movedim(dim, -1)
    x = x.to(g.dtype).movedim(dim, -1)
    won = at.clamp(0, x.shape[-1] - 1)
    nobody = x.amax(-1, keepdim=True) == -torch.inf
    unsound = nobody | (x.isnan() | (x == torch.inf) | ~g.isfinite()).any(-1, keepdim=True)
    again = (won.sort(-1).values.diff(dim=-1) == 0).any(-1, keepdim=True)
    wrong = again | ((won != at) | (x.gather(-1, won) == -torch.inf)).any(-1, keepdim=True)
    if can_raise(x) and can_raise(won) and can_raise(g):
        if bool(unsound.any()):
            raise_bad_logits(x, -1, noise)
        if bool(wrong.any()):
            raise ValueError(
                f"{name} must name items that can have won: from 0 to {x.shape[-1] - 1}, allowed by logits and mask, "
                "none twice; but some row has another"
            )
    return x, g, won, unsound | wrong, dim


def _checked_indices(index: Tensor, logits: Tensor, dim: int, name: str) -> Tensor:
    """index, or indices, as int64 with items last."""
    if not isinstance(index, Tensor) or index.dtype.is_floating_point or index.dtype in (torch.bool, torch.complex64):
        what = index.dtype if isinstance(index, Tensor) else type(index).__name__
        raise TypeError(f"{name} must be a tensor of integers, but it is {what}; pass an int64 tensor")
    n, others = logits.shape[dim], (*logits.shape[:dim], *logits.shape[dim + 1 :])
    if name == "index":
        if index.shape != others:
            raise ValueError(
                f"index must have the shape {others} of logits without dim, but its shape is {tuple(index.shape)}; "
                "expand an index that rows are meant to share"
            )
        return index.to(torch.int64).unsqueeze(-1)
    at = index.movedim(dim, -1) if index.ndim == logits.ndim else index
    if index.ndim != logits.ndim or at.shape[:-1] != others or not 1 <= at.shape[-1] <= n:
        raise ValueError(
            f"indices must have the shape {tuple(logits.shape)} of logits with 1 to {n} items along dim, but their "
            f"shape is {tuple(index.shape)}"
        )
    return at.to(torch.int64)


def _known_height(value: Tensor | None, won: Tensor, work: torch.dtype) -> tuple[Tensor | None, Tensor | bool]:
    """The height of the winner, if it is known, with a dimension of items; and which rows have none that is finite."""
    if value is None:
        return None, False
    if not isinstance(value, Tensor) or not value.dtype.is_floating_point:
        what = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"value must be a floating tensor, but it is {what}; pass torch.as_tensor(value).float()")
    if value.shape != won.shape[:-1]:
        raise ValueError(
            f"value must have the shape {tuple(won.shape[:-1])} of index, but its shape is {tuple(value.shape)}"
        )
    height = value.to(work).unsqueeze(-1)
    unsound = ~height.isfinite()
    if can_raise(height) and bool(unsound.any()):
        raise ValueError("value must be finite, but some is not; leave it out where the height is not known")
    return height, unsound
