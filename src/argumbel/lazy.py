"""Sample: who wins a race of very many items, when the best few are known and the others are scored on demand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._core.checks import check_logits
from .choice import categorical
from .noise import KeyedNoise, as_keyed, gumbel, work_dtype

__all__ = ["LazyDraw", "Top", "lazy_categorical", "search_top"]


class LazyDraw(NamedTuple):
    """Items drawn, the perturbed scores they won with, and how many items each draw looked at."""

    indices: Tensor
    values: Tensor
    touched: Tensor


class Top(NamedTuple):
    """Scores and ids of the best items."""

    scores: Tensor
    ids: Tensor


def lazy_categorical(
    top_scores: Tensor,
    top_ids: Tensor,
    n: int,
    score: Callable[[Tensor], Tensor],
    sample_shape: Sequence[int] = (),
    *,
    bound: float | None = None,
    generator: torch.Generator | None = None,
) -> LazyDraw:
    """Draw ``i`` in 0, ..., n - 1 with probability ``exp(score(i)) / Z``, looking at about sqrt(n) items when the
    sqrt(n) best are known.

    A *law* function. The k top items race as one: the height M of the best is a Gumbel at the logsumexp of their
    scores, and who it is an independent draw. A tail item of score s overtakes it only if its noise exceeds M - s,
    which is at least M - bound. Gumbel noise is -log of the first arrival of a Poisson process of rate 1, so noise
    above M - bound means an arrival before ``exp(bound - M)``. There are ``Poisson((n - k) exp(bound - M))`` arrivals
    in all, each at an item of the tail uniformly at random, with noise ``M - bound`` plus a standard exponential. Only
    these items are scored. (One that arrives twice counts by its first arrival, the larger noise, as it should, so
    nothing has to be drawn without replacement.) The mean number of arrivals is
    ``(n - k) exp(bound) / sum(exp(top_scores))``, at most (n - k) / k when bound is the least top score.

    Args:
        top_scores: ``(k,)``, the scores of the top set, in any order; any floating dtype.
        top_ids: ``(k,)``, their ids, all different.
        n: how many items there are in all.
        score: from int64 ids of tail items, of shape ``(m,)``, all different and rising, to their scores ``(m,)``.
            Called at most once, for all draws together.
        sample_shape: how many independent draws.
        bound: no tail item scores more. Default: the least top score, with 1e-6 (relative, or absolute if that is more)
            to spare for rounding. For a top set that may have missed some of the best, state a bound that holds.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        ``(indices, values, touched)``, each of shape ``sample_shape``: int64 ids; the perturbed maxima, Gumbels at log
        Z independent of the ids, in the dtype of top_scores, from which :func:`argumbel.partition.log_partition` tells
        log Z; and k plus the number of arrivals. No gradients: differentiate the scores of the items drawn.

    Raises:
        ValueError: NaN or +inf in a score, a top set that is empty, all -inf, or not of k different ids below n; a tail
            score above the bound; a bound above the logsumexp of top_scores, with which more items would be touched
            than there are. Values are always looked at, on any device; not for ``torch.compile`` or ``vmap``.
        TypeError: scores are not floating tensors, ids are not integers, n is not an integer.

    Example:
        >>> import torch
        >>> from argumbel.lazy import lazy_categorical
        >>> logits = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
        >>> top = logits.topk(100)
        >>> draw = lazy_categorical(*top, 10_000, lambda ids: logits[ids], (1000,))
        >>> draw.indices.shape, bool(draw.touched.float().mean() < 200)
        (torch.Size([1000]), True)

    Source: Mussmann, Levy and Ermon 2017, "Fast amortized inference and learning in log-linear models with randomly
    perturbed nearest neighbor search"; Mussmann and Ermon 2016, "Learning and inference via maximum inner product
    search".
    """
    _check_top(top_scores, top_ids, n)
    device, k = top_scores.device, top_scores.numel()
    top_scores = top_scores.detach()
    total = float(top_scores.double().logsumexp(0))
    if bound is None:
        least = float(top_scores.min())
        bound = least if least == -math.inf else least + 1e-6 * max(1.0, abs(least))
    elif not bound <= total:
        raise ValueError(
            f"bound must be at most the logsumexp of top_scores, {total:.6g}, for a lazy draw to be worth it, but it "
            f"is {bound:.6g}; give more top items or a better bound, or score all and use argumbel.categorical"
        )
    # Counts and subsets of random sizes need a stateful generator: one of our own, from the one seed.
    seed = as_keyed(None, generator, device).seed
    own = torch.Generator(device).manual_seed(int(seed))
    draws = math.prod(sample_shape)

    best = total + gumbel((draws,), generator=own, dtype=torch.float64)
    place = categorical(top_scores.to(work_dtype(top_scores.dtype)), (draws,), generator=own)
    indices = top_ids.to(device, torch.int64)[place]
    arrivals = torch.poisson((n - k) * torch.exp(bound - best), generator=own).long()
    draw = torch.repeat_interleave(arrivals)
    if draw.numel():
        ids = _tail_ids(top_ids.to(device, torch.int64), n, draw.numel(), own)
        scores = _tail_scores(score, ids, bound)
        above = KeyedNoise.from_generator(own).exponential((draw.numel(),), dtype=torch.float64)
        keys = best[draw] + (scores - bound) + above
        best = best.scatter_reduce(0, draw, keys, "amax")
        won = keys == best[draw]
        indices[draw[won]] = ids[won]
    values = best.to(top_scores.dtype)
    return LazyDraw(*(x.reshape(tuple(sample_shape)) for x in (indices, values, arrivals + k)))


def search_top(search: Callable[[Any, int], tuple[Any, Any]], query: object, k: int) -> Top:
    """``search(query, k)`` of a nearest-neighbour index by inner product, as a top set for :func:`lazy_categorical`.

    The calling convention of FAISS and its kin: scores and ids for each of a batch of queries, as arrays or tensors,
    with id -1 where less than k were found. Here for one query.

    Args:
        search: from ``(query, k)`` to ``(scores, ids)``, larger scores first or in any order; each of shape ``(k,)`` or
            ``(1, k)``.
        query: whatever search takes for one query.
        k: how many to ask for.

    Returns:
        ``(scores, ids)`` tensors of shape ``(at most k,)``. If the search is exact the least score bounds all others,
        which is the default bound of :func:`lazy_categorical`; if it is not, pass a bound that holds.

    Raises:
        ValueError: scores and ids of other shapes, or of more than one query.

    Example:
        >>> import torch
        >>> from argumbel.lazy import lazy_categorical, search_top
        >>> features = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
        >>> search = lambda queries, k: (queries @ features.T).topk(k)  # an index would stand here
        >>> query = torch.ones(1, 8) / 4
        >>> draw = lazy_categorical(*search_top(search, query, 45), 2000, lambda ids: features[ids] @ query[0])
        >>> 0 <= draw.indices < 2000
        tensor(True)

    Source: Mussmann, Levy and Ermon 2017, as :func:`lazy_categorical`.
    """
    scores, ids = (torch.as_tensor(x) for x in search(query, k))
    if scores.shape != ids.shape or scores.shape[:-1].numel() != 1 or scores.ndim == 0:
        raise ValueError(
            f"search must return scores and ids of shape (k,) or (1, k), for one query, but their shapes are "
            f"{tuple(scores.shape)} and {tuple(ids.shape)}"
        )
    scores, ids = scores.flatten(), ids.flatten()
    return Top(scores[ids >= 0], ids[ids >= 0])


def _check_top(scores: Tensor, ids: Tensor, n: int) -> None:
    check_logits(scores, "top_scores")
    if not isinstance(ids, Tensor) or ids.dtype.is_floating_point or ids.dtype in (torch.bool, torch.complex64):
        what = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise TypeError(f"top_ids must be a tensor of integers, but it is {what}")
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"n must be an integer, the number of all items, but it is a {type(n).__name__}; pass int(n)")
    if scores.ndim != 1 or ids.shape != scores.shape or not scores.numel():
        raise ValueError(
            f"top_scores and top_ids must have the same shape (k,), k at least 1, but the shapes are "
            f"{tuple(scores.shape)} and {tuple(ids.shape)}"
        )
    if not bool(((ids >= 0) & (ids < n)).all()) or ids.unique().numel() != ids.numel():
        raise ValueError(f"top_ids must be different ids between 0 and n - 1 = {n - 1}, but some repeat or are outside")
    if not bool(scores.amax().abs() < math.inf):  # NaN comes through amax
        raise ValueError("top_scores must not be NaN or +inf, nor -inf throughout, but they are")


def _tail_ids(top_ids: Tensor, n: int, count: int, generator: torch.Generator) -> Tensor:
    """So many items outside the top set, uniformly, with replacement: the rank r of an item in the tail is its id less
    the number of top ids before it."""
    rank = torch.randint(n - top_ids.numel(), (count,), generator=generator, device=top_ids.device)
    before = top_ids.sort().values - torch.arange(top_ids.numel(), device=top_ids.device)
    return rank + torch.searchsorted(before, rank, right=True)


def _tail_scores(score: Callable[[Tensor], Tensor], ids: Tensor, bound: float) -> Tensor:
    """Scores of tail items, each of them asked for once; checked against the bound."""
    distinct, place = ids.unique(return_inverse=True)
    scores = score(distinct)
    if not isinstance(scores, Tensor) or not scores.dtype.is_floating_point:
        what = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
        raise TypeError(f"score must return a floating tensor, but it returned {what}")
    if scores.shape != distinct.shape:
        raise ValueError(
            f"score must return one number for each id, of shape {tuple(distinct.shape)}, but their shape is "
            f"{tuple(scores.shape)}"
        )
    scores = scores.detach().double()
    if not bool((scores <= bound).all()):
        worst = int((scores <= bound).int().argmin())
        raise ValueError(
            f"score must be at most bound, {bound:.9g}, for all tail items, but item {int(distinct[worst])} has "
            f"{float(scores[worst]):.9g}; pass a bound that holds, or a top set that has the best items"
        )
    return scores[place]
