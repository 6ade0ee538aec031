"""Sample: who wins the race of logits plus Gumbel noise, and who are the first k."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import kernels
from ._core.checks import can_raise, check_dim, check_k, check_logits, forbid, raise_bad_logits
from .noise import KeyedNoise, as_keyed, perturb

__all__ = ["Choice", "categorical", "gumbel_max", "gumbel_topk", "sample_without_replacement"]


class Choice(NamedTuple):
    """Perturbed values and the items they belong to, as ``torch.max`` and ``torch.topk`` return them."""

    values: Tensor
    indices: Tensor


class Draw(NamedTuple):
    """The keys of items drawn without replacement (perturbed logits, falling) and the items."""

    keys: Tensor
    indices: Tensor


def categorical(
    logits: Tensor,
    sample_shape: Sequence[int] = (),
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw ``i`` with probability ``exp(logits[i]) / sum(exp(logits))``.

    A *law* function: the outcome has exactly this law, by the fastest algorithm there is, which may differ between
    backends and versions. By max-stability a block of items races as one Gumbel at its logsumexp, so few random
    numbers are drawn. Where the individual noise matters, use :func:`gumbel_max`.

    Args:
        logits: any shape, any floating dtype; need not be normalised; -inf forbids an item.
        sample_shape: how many independent draws of the whole batch.
        dim: where the items lie.
        mask: bool, broadcasts to logits; True where an item is allowed.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        int64 indices of shape ``sample_shape + logits.shape`` without ``dim``, as ``Categorical(logits=).sample``.

    Raises:
        ValueError: NaN or +inf in logits, a row with nothing allowed, a mask that does not fit, a generator on another
            device. On an accelerator, under ``torch.compile`` and under ``vmap`` a bad row gives index -1 instead.
        TypeError: logits are not a floating tensor, or mask is not bool.

    Example:
        >>> import torch, argumbel as ag
        >>> logits = torch.tensor([[0.1, 0.6, 0.3], [0.0, 1.0, 0.0]]).log()
        >>> ag.categorical(logits, (5,)).shape
        torch.Size([5, 2])
        >>> ag.categorical(logits)[1]
        tensor(1)

    Source: Maddison, Tarlow and Minka 2014, "A* sampling" (max-stability); Gumbel 1954.
    """
    check_logits(logits)
    dim = check_dim(logits, dim)
    x = forbid(logits, mask).detach().movedim(dim, -1)
    seed = as_keyed(None, generator, logits.device).seed
    draws, _, bad = kernels.categorical(x, seed, torch.Size(sample_shape))
    if bad:
        raise_bad_logits(x, -1)
    return draws


def gumbel_max(
    logits: Tensor,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Choice:
    """``torch.max(logits + noise, dim)`` with standard Gumbel noise: the index is an exact draw from softmax(logits).

    A *keyed* function: the outcome is the argmax under the noise given, item by item, so the same ``KeyedNoise`` gives
    the same choice whatever the batch, chunk or device. The value is distributed as Gumbel at logsumexp(logits),
    independently of the index.

    Args:
        logits: any shape, any floating dtype; need not be normalised; -inf forbids an item. Half precision is perturbed
            and compared in float32, so there are no ties.
        dim: where the items lie.
        mask: bool, broadcasts to logits; True where an item is allowed.
        noise: a tensor of Gumbel noise in the shape of logits, or a ``KeyedNoise``.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        ``(values, indices)`` as ``torch.max``; values in the dtype of logits. The gradient of a value with respect to
        logits is the one-hot of its index.

    Raises:
        ValueError: NaN or +inf in logits, a row with nothing allowed, noise or mask of the wrong shape, both noise and
            generator. On an accelerator, under ``torch.compile`` and under ``vmap`` a bad row gives value NaN and index
            -1 instead.
        TypeError: logits are not a floating tensor, or mask is not bool.

    Example:
        >>> import torch, argumbel as ag
        >>> logits = torch.tensor([2.0, 1.0, -torch.inf])
        >>> ag.gumbel_max(logits, noise=torch.tensor([0.1, 1.5, 9.0]))
        Choice(values=tensor(2.5000), indices=tensor(1))

    Source: Yellott 1977, "The relationship between Luce's choice axiom, Thurstone's theory of comparative judgment, and
    the double exponential distribution"; Maddison, Tarlow and Minka 2014, "A* sampling".
    """
    check_logits(logits)
    return _race(forbid(logits, mask), None, check_dim(logits, dim), noise, generator)


def gumbel_topk(
    logits: Tensor,
    k: int,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Choice:
    """``torch.topk(logits + noise, k, dim)`` with standard Gumbel noise: k items without replacement, in order drawn.

    A *keyed* function. The ordered indices follow the Plackett-Luce law: the first is drawn from softmax(logits), the
    next from softmax over what remains, and so on.

    Args:
        k: how many items, at most the number of allowed items in every row.
        logits, dim, mask, noise, generator: as :func:`gumbel_max`.

    Returns:
        ``(values, indices)`` as ``torch.topk``, sorted by falling value; values in the dtype of logits.

    Raises:
        ValueError: as :func:`gumbel_max`, and k negative or larger than the support of some row (where the values may
            not be looked at, the places beyond the support hold NaN and -1).
        TypeError: as :func:`gumbel_max`, and k not an integer.

    Example:
        >>> import torch, argumbel as ag
        >>> logits = torch.zeros(2, 5)
        >>> values, indices = ag.gumbel_topk(logits, 3, noise=ag.KeyedNoise(seed=0))
        >>> indices.shape, bool((values[:, :-1] >= values[:, 1:]).all())
        (torch.Size([2, 3]), True)

    Source: Vieira 2014, "Gumbel-max trick and weighted reservoir sampling" (blog post); Kool, van Hoof and Welling
    2019, "Stochastic beams and where to find them".
    """
    check_logits(logits)
    dim = check_dim(logits, dim)
    check_k(k, logits.shape[dim])
    return _race(forbid(logits, mask), k, dim, noise, generator)


def sample_without_replacement(
    logits: Tensor,
    k: int,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Draw:
    """k items without replacement with weights exp(logits), in order drawn, and their keys.

    A *law* function: keys and indices have the joint law of :func:`gumbel_topk`, by the fastest algorithm there is,
    which may differ between backends and versions.

    Args:
        k: how many items, at most the number of allowed items in every row.
        logits, dim, mask, generator: as :func:`categorical`.

    Returns:
        ``(keys, indices)``: the k largest of ``logits + Gumbel noise``, falling, in the dtype of logits; int64 indices.

    Raises:
        ValueError, TypeError: as :func:`gumbel_topk`.

    Example:
        >>> import torch, argumbel as ag
        >>> logits = torch.tensor([0.0, -torch.inf, 0.0, 0.0])
        >>> sorted(ag.sample_without_replacement(logits, 3).indices.tolist())
        [0, 2, 3]

    Source: Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir".
    """
    check_logits(logits)
    dim = check_dim(logits, dim)
    check_k(k, logits.shape[dim])
    x = forbid(logits.detach(), mask)
    noise = as_keyed(None, generator, x.device)
    items_last = x.movedim(dim, -1)
    if not kernels.is_native(items_last, (noise.seed, None, None)):
        return Draw(*gumbel_topk(x, k, dim=dim, noise=noise))
    keys, indices, bad = kernels.sample_without_replacement(items_last, k, noise.seed)
    if bad:
        raise_bad_logits(x, dim, k=k)
    return Draw(keys.movedim(-1, dim), indices.movedim(-1, dim))


def _race(
    x: Tensor, k: int | None, dim: int, noise: Tensor | KeyedNoise | None, generator: torch.Generator | None
) -> Choice:
    """The first k of every row, or, for k None, the winner, whose dimension is then dropped."""
    if not isinstance(noise, Tensor):
        noise, generator = as_keyed(noise, generator, x.device), None
        items_last = x.movedim(dim, -1)
        key = noise.key(items_last.shape, x.device)
        if kernels.is_native(items_last, key):
            if k is None:
                values, indices, bad = kernels.gumbel_max(items_last, key)
            else:
                values, indices, bad = kernels.gumbel_topk(items_last, k, key)
                values, indices = values.movedim(-1, dim), indices.movedim(-1, dim)
            if bad:
                raise_bad_logits(x.detach(), dim, k=1 if k is None else k)
            return Choice(values, indices)
    keys = perturb(x, dim, noise, generator)
    values, indices = keys.max(dim) if k is None else keys.topk(k, dim)
    return Choice(*_checked(x, dim, noise, values, indices, 1 if k is None else k))


def _checked(
    logits: Tensor, dim: int, noise: object, values: Tensor, indices: Tensor, k: int = 1
) -> tuple[Tensor, Tensor]:
    """Values in the dtype of logits; bad rows raise where they may be looked at, else become NaN and -1."""
    bad = ~values.isfinite()
    if values.ndim == logits.ndim and k:  # of the first k: where the best is NaN or +inf, nothing of the row is sound
        best = values.narrow(dim, 0, 1)
        bad = bad | best.isnan() | (best == torch.inf)
    if can_raise(values):
        if bool(bad.any()):
            raise_bad_logits(logits, dim, noise, k)
    else:
        values, indices = values.masked_fill(bad, torch.nan), indices.masked_fill(bad, -1)
    return values.to(logits.dtype), indices
