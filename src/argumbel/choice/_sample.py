"""Sample: which item wins the race of logits plus Gumbel noise, and which items are the first k."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import kernels
from .._core.checks import Rows, can_raise, check_k, sizes
from ..kernels.race import first
from ..noise import KeyedNoise, Shards, draw_like, is_shards, key_for, seed_from
from ._terms import Limit, RowTerms, divided, row_limits, row_terms

__all__ = [
    "Choice",
    "categorical",
    "gumbel_max",
    "gumbel_topk",
    "noise_for",
    "race",
    "sample_without_replacement",
    "summands",
]


class Choice(NamedTuple):
    """Perturbed values and the indices of their items, as ``torch.max`` and ``torch.topk`` return them."""

    values: Tensor
    indices: Tensor


def categorical(
    logits: Tensor,
    sample_shape: int | Sequence[int] = (),
    *,
    temperature: float | Tensor = 1,
    top_k: Limit = None,
    top_p: Limit = None,
    min_p: Limit = None,
    dim: int = -1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw item ``i`` with probability ``exp(logits[i]) / sum(exp(logits))``.

    A *law* function: the outcome has exactly this distribution, and the random numbers behind the outcome may differ
    between backends and versions. The largest value in a block of items is a Gumbel at the logsumexp of the block
    (max-stability), so a draw needs few random numbers. If the noise of single items matters, use :func:`gumbel_max`.

    Args:
        logits: shape ``(*batch, n)`` for ``dim=-1``, any floating dtype; need not be normalised; -inf forbids an item.
            A ``DTensor`` may be sharded along any dimension but dim; so is the result then.
        sample_shape: the shape of the independent draws of every row; default one draw.
        temperature: divides logits; at least 0, where 0 (or below 2^-60) gives the argmax; a number, or a tensor that
            broadcasts to ``(*batch,)``.
        top_k: leaves the k largest logits of a row, and all that tie with the k-th; default all.
        top_p: then leaves the fewest items, largest first, whose probabilities add up to at least top_p, in (0, 1]; of
            items that tie, the first.
        min_p: then leaves items whose probability is at least min_p, in [0, 1], times that of the likeliest. Limits are
            numbers, or tensors that broadcast to ``(*batch,)``; they are applied in this order, after the temperature.
        dim: where the items lie.
        mask: bool, broadcasts to logits; True where an item is allowed.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        int64 indices, shape ``(*sample_shape, *batch)``, as ``Categorical(logits=logits).sample(sample_shape)``.

    Raises:
        ValueError: NaN or +inf in logits, a row with nothing allowed, a mask of the wrong shape, a temperature or limit
            out of its range, a generator on another device. On an accelerator, under ``torch.compile`` and under
            ``vmap`` a bad row gives index -1 instead.
        TypeError: logits are not a floating tensor, mask is not bool, or top_k is not an integer.

    Example:
        >>> import torch, argumbel as ag
        >>> logits = torch.tensor([[0.1, 0.6, 0.3], [0.0, 1.0, 0.0]]).log()
        >>> ag.categorical(logits, (5,)).shape
        torch.Size([5, 2])
        >>> ag.categorical(logits)[1]
        tensor(1)

    Source: Maddison, Tarlow and Minka 2014, "A* sampling" (max-stability); Gumbel 1954.
    """
    shape = torch.Size(sizes("sample_shape", sample_shape))
    if is_shards(logits):
        shards = Shards(logits, dim)
        own = Rows(shards.local, shards.dim, shards.part(mask, "mask"))
        limits = row_limits(own, temperature, top_k, top_p, min_p, is_shard=True)
        return shards.join(_draw(own, shape, limits, shards.own_seed(generator)), front=len(shape), gone=True)
    rows = Rows(logits, dim, mask)
    limits = row_limits(rows, temperature, top_k, top_p, min_p)
    return _draw(rows, shape, limits, seed_from(generator, logits.device))


def _draw(rows: Rows, shape: torch.Size, limits: kernels.Limits | None, seed: Tensor | int) -> Tensor:
    x = rows.x.detach()
    if limits is None:
        draws, _, bad = kernels.categorical(x, shape, False, (seed,))
    else:
        draws, bad = kernels.limited_categorical(x, *limits, shape, (seed,))
    if bad:
        rows.complain()
    return draws


def gumbel_max(
    logits: Tensor,
    *,
    temperature: float | Tensor = 1,
    top_k: Limit = None,
    top_p: Limit = None,
    min_p: Limit = None,
    dim: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Choice:
    """``torch.max(logits / temperature + noise, dim)`` with standard Gumbel noise: the index is an exact draw from
    ``softmax(logits / temperature)``, of the items that the limits leave.

    A *keyed* function: the outcome is the argmax under the noise given, item by item. So the same ``KeyedNoise`` gives
    the same choice in any batch, in any chunk and on any device. The value is a Gumbel at the logsumexp of the logits
    that race, and does not depend on the index. Where sums of probabilities come within rounding of top_p, backends may
    differ in the last item that it leaves.

    Args:
        logits: shape ``(*batch, n)`` for ``dim=-1``, any floating dtype; need not be normalised; -inf forbids an item.
            Half precision is perturbed and compared in float32, so that rounding makes no ties. Far from 0 the exact
            sums of logits and noise are compared, so a large common offset does not change the law.
            A ``DTensor`` may be sharded along any dimension but dim; so are the results then.
        temperature: divides logits; at least 0, where 0 (or below 2^-60) gives the argmax; a number, or a tensor that
            broadcasts to ``(*batch,)``.
        top_k: leaves the k largest logits of a row, and all that tie with the k-th; default all.
        top_p: then leaves the fewest items, largest first, whose probabilities add up to at least top_p, in (0, 1]; of
            items that tie, the first.
        min_p: then leaves items whose probability is at least min_p, in [0, 1], times that of the likeliest. Limits are
            numbers, or tensors that broadcast to ``(*batch,)``; they are applied in this order, after the temperature.
        dim: where the items lie.
        mask: bool, broadcasts to logits; True where an item is allowed.
        noise: a tensor of Gumbel noise in the shape of logits, or a ``KeyedNoise``.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        ``(values, indices)``, each of shape ``(*batch,)``: values in the dtype of logits (inf where float16 cannot hold
        a value), int64 indices. The gradient of a value with respect to logits is the one-hot vector of its index, over
        the temperature. At temperature 0 the value is the largest logit.

    Raises:
        ValueError: NaN or +inf in logits, a row with nothing allowed, a temperature or limit out of its range, noise or
            mask of the wrong shape, both noise and generator. On an accelerator, under ``torch.compile`` and under
            ``vmap`` a bad row gives value NaN and index -1 instead.
        TypeError: logits are not a floating tensor, mask is not bool, or top_k is not an integer.

    Example:
        >>> import torch, argumbel as ag
        >>> logits = torch.tensor([2.0, 1.0, -torch.inf])
        >>> ag.gumbel_max(logits, noise=torch.tensor([0.1, 1.5, 9.0]))
        Choice(values=tensor(2.5000), indices=tensor(1))

    Source: Yellott 1977, "The relationship between Luce's choice axiom, Thurstone's theory of comparative judgment, and
    the double exponential distribution"; Maddison, Tarlow and Minka 2014, "A* sampling".
    """
    if is_shards(logits):
        shards = Shards(logits, dim)
        arguments = shards.arguments(mask, noise, generator)
        rows = Rows(shards.local, arguments.pop("dim"), arguments.pop("mask"))
        terms = row_terms(rows, temperature, top_k, top_p, min_p, is_shard=True)
        own = _race_of(rows, terms, **arguments)
        return Choice(*(shards.join(x, gone=True) for x in own))
    rows = Rows(logits, dim, mask)
    return Choice(*_race_of(rows, row_terms(rows, temperature, top_k, top_p, min_p), noise, generator))


def _race_of(
    rows: Rows,
    terms: RowTerms | None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    if terms is None:
        return race(rows, noise, generator)
    x = rows.x.detach()
    if isinstance(noise, Tensor):
        g = noise_for(rows, noise, generator)
        values, indices, bad = first(kernels.tempered(x.to(g.dtype), *terms.kernel), g, None, x.dtype)
    else:
        values, indices, bad = kernels.tempered_max(x, *terms.kernel, key_for(x, noise, generator))
    if bad:
        rows.complain(noise)
    return terms.finished(rows.x, values, indices), indices


def gumbel_topk(
    logits: Tensor,
    k: int,
    *,
    temperature: float | Tensor = 1,
    dim: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Choice:
    """``torch.topk(logits / temperature + noise, k, dim)`` with standard Gumbel noise: k items without replacement, in
    order drawn.

    A *keyed* function. The indices in order follow the Plackett-Luce law: the first item is drawn from softmax(logits),
    the second from the softmax over the items that remain, and so on.

    Args:
        logits: shape ``(*batch, n)`` for ``dim=-1``, any floating dtype; need not be normalised; -inf forbids an item.
            Half precision is perturbed and compared in float32, so that rounding makes no ties. Far from 0 the exact
            sums of logits and noise are compared, so a large common offset does not change the law.
        k: how many items, at most the number of allowed items in every row.
        temperature: divides logits; at least 0, where 0 (or below 2^-60) gives the k largest logits; a number, or a
            tensor that broadcasts to ``(*batch,)``.
        dim: where the items lie.
        mask: bool, broadcasts to logits; True where an item is allowed.
        noise: a tensor of Gumbel noise in the shape of logits, or a ``KeyedNoise``.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        ``(values, indices)``, each of shape ``(*batch, k)`` for ``dim=-1``: falling values in the dtype of logits (inf
        where float16 cannot hold a value), int64 indices.

    Raises:
        ValueError: NaN or +inf in logits, a row with nothing allowed, k negative or larger than the number of allowed
            items in some row, a temperature below 0, noise or mask of the wrong shape, both noise and generator. On an
            accelerator, under ``torch.compile`` and under ``vmap`` a bad row gives values NaN and indices -1 instead (a
            row with fewer than k allowed items only in the places after these items).
        TypeError: logits are not a floating tensor, mask is not bool, or k is not an integer.

    Example:
        >>> import torch, argumbel as ag
        >>> logits = torch.zeros(2, 5)
        >>> values, indices = ag.gumbel_topk(logits, 3, noise=ag.KeyedNoise(seed=0))
        >>> indices.shape, bool((values[:, :-1] >= values[:, 1:]).all())
        (torch.Size([2, 3]), True)

    Source: Vieira 2014, "Gumbel-max trick and weighted reservoir sampling" (blog post); Kool, van Hoof and Welling
    2019, "Stochastic beams and where to find them".
    """
    rows = Rows(logits, dim, mask)
    k = _check_k(rows, k)
    racing, frozen = divided(rows, temperature)
    values, indices = race(racing, noise, generator, k)
    values = values.to(logits.dtype)
    if frozen is not None:
        exact = rows.x.topk(k, -1)
        values = torch.where(frozen.unsqueeze(-1), exact.values, values)
        indices = torch.where(frozen.unsqueeze(-1), exact.indices, indices)
    return Choice(rows.back(values), rows.back(indices))


def sample_without_replacement(
    logits: Tensor,
    k: int,
    sample_shape: int | Sequence[int] = (),
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Choice:
    """``torch.topk(logits + noise, k, dim)`` in law: k items without replacement, with weights exp(logits), in order.

    A *law* function: values and indices have the joint law of :func:`gumbel_topk`, and the random numbers behind them
    may differ between backends and versions.

    Args:
        logits: shape ``(*batch, n)`` for ``dim=-1``, any floating dtype; need not be normalised; -inf forbids an item.
        k: how many items, at most the number of allowed items in every row.
        sample_shape: the shape of the independent draws of every row; default one draw.
        dim: where the items lie.
        mask: bool, broadcasts to logits; True where an item is allowed.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        ``(values, indices)``, each of shape ``(*sample_shape, *batch, k)`` for ``dim=-1``: falling values, perturbed
        logits in the dtype of logits; int64 indices.

    Raises:
        ValueError: NaN or +inf in logits, a row with nothing allowed, k negative or larger than the number of allowed
            items in some row, a mask of the wrong shape, a generator on another device. On an accelerator, under
            ``torch.compile`` and under ``vmap`` a bad row gives values NaN and indices -1 instead (a row with fewer
            than k allowed items only in the places after these items).
        TypeError: logits are not a floating tensor, mask is not bool, or k is not an integer.

    Example:
        >>> import torch, argumbel as ag
        >>> logits = torch.tensor([0.0, -torch.inf, 0.0, 0.0])
        >>> sorted(ag.sample_without_replacement(logits, 3).indices.tolist())
        [0, 2, 3]
        >>> ag.sample_without_replacement(logits, 2, (1000,)).indices.shape
        torch.Size([1000, 2])

    Source: Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir".
    """
    rows = Rows(logits, dim, mask)
    k = _check_k(rows, k)
    seed = seed_from(generator, logits.device)
    x = rows.x.detach().expand(*sizes("sample_shape", sample_shape), *rows.x.shape)
    values, indices, bad = kernels.sample_without_replacement(x, k, (seed,))
    if bad:
        rows.complain(k=k)
    return Choice(rows.back(values), rows.back(indices))


def _check_k(rows: Rows, k: int) -> int:
    k = check_k(k, rows.x.shape[-1])
    # For no items the kernels do not look at the logits.
    if k == 0 and can_raise(rows.x) and not bool((rows.x < torch.inf).all()):
        rows.complain(k=0)
    return k


# --- for other modules of the library: a race of rows that are already checked, items last ------------------------


def race(
    rows: Rows, noise: Tensor | KeyedNoise | None, generator: torch.Generator | None, k: int | None = None
) -> tuple[Tensor, Tensor]:
    """Values and indices of the winners, or of the first k. A bad row raises an error, or is marked by NaN and -1."""
    if isinstance(noise, Tensor):
        values, indices, bad = first(*summands(rows, noise, generator), k, rows.x.dtype)
    elif k is None:
        values, indices, bad = kernels.gumbel_max(rows.x, key_for(rows.x, noise, generator))
    else:
        values, indices, bad = kernels.gumbel_topk(rows.x, k, key_for(rows.x, noise, generator))
    if bad:
        rows.complain(noise, 1 if k is None else k)
    return values, indices


def summands(rows: Rows, noise: Tensor | KeyedNoise | None, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Logits and their noise, in float32 or float64."""
    g = noise_for(rows, noise, generator)
    return rows.x.to(g.dtype), g


def noise_for(rows: Rows, noise: Tensor | KeyedNoise | None, generator: torch.Generator | None) -> Tensor:
    """Gumbel noise for these rows, items last; a tensor of noise comes in the layout of the logits."""
    if isinstance(noise, Tensor):
        return draw_like(rows.back(rows.x), rows.dim, noise, generator, "gumbel").movedim(rows.dim, -1)
    return draw_like(rows.x, rows.x.ndim - 1, noise, generator, "gumbel")
