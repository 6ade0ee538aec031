"""Sample: who wins the race of very many items, when the best few are known and other items are scored on demand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._core.checks import check_logits, count, integers
from .choice import categorical
from .noise import KeyedNoise, as_keyed, gumbel, work_dtype

__all__ = ["LazyDraw", "Top", "lazy_categorical", "search_top"]


class LazyDraw(NamedTuple):
    """The perturbed scores of the items drawn, the items, and how many items each draw touched."""

    values: Tensor
    indices: Tensor
    touched: Tensor


class Top(NamedTuple):
    """Scores ``(k,)`` and ids ``(k,)`` of the best items."""

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
    """``argmax over i of (score(i) + G[i])``, G standard Gumbel noise: item ``i`` of 0, ..., n - 1 with probability
    ``exp(score(i)) / Z``. The draw touches about sqrt(n) items when the sqrt(n) best items are known.

    A *law* function. The k known items form the top set; the other items form the tail. The top set races as one: its
    largest value M is a Gumbel at the logsumexp of its scores, and the item that has this value is an independent draw.
    A tail item of score s overtakes it only if its noise exceeds M - s, which is at least M - bound. Gumbel noise is
    -log of the first arrival time of a Poisson process of rate 1, so noise above M - bound means an arrival before
    ``exp(bound - M)``. The tail has ``Poisson((n - k) exp(bound - M))`` such arrivals in all. Each arrival is at a tail
    item chosen uniformly at random, with noise ``M - bound`` plus a standard exponential. Only these items are scored.
    (An item that arrives twice counts by its first arrival, which is its larger noise. So nothing has to be drawn
    without replacement.) The mean number of arrivals is ``(n - k) exp(bound) / sum(exp(top_scores))``, at most
    (n - k) / k when bound is the least top score.

    Args:
        top_scores: the scores of the top set in any order, ``(k,)``, any floating dtype.
        top_ids: the ids of the top set, all different, integers ``(k,)``.
        n: how many items there are in all.
        score: a function from ids of tail items, all different and rising, int64 ``(m,)``, to their scores, ``(m,)``.
            It is called at most once, for all draws together.
        sample_shape: how many independent draws.
        bound: no tail item scores more than this number. Default: the least top score plus 1e-6 (relative, or absolute
            if that is more), which allows for rounding. For a top set that may have missed some of the best items, pass
            a bound that holds.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        ``(values, indices, touched)``, each of shape ``sample_shape``. Values, in the dtype of top_scores, are the
        perturbed maxima: Gumbels at log Z, independent of the indices, from which
        :func:`argumbel.partition.log_partition` estimates log Z. Indices are int64 ids. ``touched``, int64, is k plus
        the number of arrivals. There are no gradients: differentiate the scores of the items drawn.

    Raises:
        ValueError: NaN or +inf in top_scores, or -inf throughout; an empty top set, or top_ids that are not k different
            ids below n; a tail score that is NaN or above the bound; a bound above the logsumexp of top_scores, with
            which more items would be touched than there are. Values are always looked at, on any device; so the
            function does not run under ``torch.compile`` or ``vmap``.
        TypeError: scores are not floating tensors, ids are not integers, n is not an integer.

    Example:
        >>> import torch
        >>> from argumbel.lazy import lazy_categorical
        >>> logits = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
        >>> top = logits.topk(100)
        >>> draw = lazy_categorical(*top, 10_000, lambda ids: logits[ids], (1000,))
        >>> draw.values.shape, bool(draw.touched.float().mean() < 200)
        (torch.Size([1000]), True)

    Source: Mussmann, Levy and Ermon 2017, "Fast amortized inference and learning in log-linear models with randomly
    perturbed nearest neighbor search"; Mussmann and Ermon 2016, "Learning and inference via maximum inner product
    search".
    """
    _check_top(top_scores, top_ids, n)
    device, k = top_scores.device, top_scores.numel()
    top_scores = top_scores.detach()
    peak = float(top_scores.max())  # values are kept beside it: they would be rounded far from 0
    total = float((top_scores.double() - peak).logsumexp(0))
    if bound is None:
        least = float(top_scores.min())
        bound = least if least == -math.inf else least + 1e-6 * max(1.0, abs(least))
    elif not bound - peak <= total:
        raise ValueError(
            f"bound must be at most the logsumexp of top_scores, {peak + total:.6g}, for a lazy draw to be worth it, "
            f"but it is {bound:.6g}; pass more top items or a lower bound, or score all items and use "
            "argumbel.categorical"
        )
    # Poisson counts need a stateful generator, so one is made from the one seed.
    seed = as_keyed(None, generator, device).seed
    seeded = torch.Generator(device).manual_seed(int(seed))
    draws = math.prod(sample_shape)

    values = total + gumbel((draws,), generator=seeded, dtype=torch.float64)
    place = categorical(top_scores.to(work_dtype(top_scores.dtype)), (draws,), generator=seeded)
    indices = top_ids.to(device, torch.int64)[place]
    arrivals = torch.poisson((n - k) * torch.exp(bound - peak - values), generator=seeded).long()
    draw = torch.repeat_interleave(arrivals)
    if draw.numel():
        ids = _tail_ids(top_ids.to(device, torch.int64), n, draw.numel(), seeded)
        scores = _tail_scores(score, ids, bound)
        excess = KeyedNoise.from_generator(seeded).exponential((draw.numel(),), dtype=torch.float64)
        tail_values = values[draw] + (scores - bound) + excess
        values = values.scatter_reduce(0, draw, tail_values, "amax")
        wins = tail_values == values[draw]
        indices[draw[wins]] = ids[wins]
    values = (values + peak).to(top_scores.dtype)
    return LazyDraw(*(x.reshape(tuple(sample_shape)) for x in (values, indices, arrivals + k)))


def search_top(search: Callable[[Any, int], tuple[Any, Any]], query: object, k: int) -> Top:
    """``search(query, k)`` of a nearest-neighbour index by inner product, as a top set for
    :func:`argumbel.lazy.lazy_categorical`.

    ``search`` is called as FAISS and similar libraries are called: it returns scores and ids for each of a batch of
    queries, as arrays or tensors, with id -1 in the places where it found less than k items. Here the batch is one
    query.

    Args:
        search: a function from ``(query, k)`` to ``(scores, ids)``, in any order, each ``(k,)`` or ``(1, k)``.
        query: whatever search takes for one query.
        k: how many items to ask for.

    Returns:
        ``(scores, ids)``, tensors ``(found,)`` with at most k items. If the search is exact, the least score bounds all
        other scores, which is the default bound of :func:`argumbel.lazy.lazy_categorical`. If the search is not exact,
        pass a bound that holds.

    Raises:
        ValueError: search returned other shapes, or more than one query.

    Example:
        >>> import torch
        >>> from argumbel.lazy import lazy_categorical, search_top
        >>> features = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
        >>> search = lambda queries, k: (queries @ features.T).topk(k)  # an index would stand here
        >>> query = torch.ones(1, 8) / 4
        >>> draw = lazy_categorical(*search_top(search, query, 45), 2000, lambda ids: features[ids] @ query[0])
        >>> 0 <= draw.indices < 2000
        tensor(True)

    Source: Mussmann, Levy and Ermon 2017, "Fast amortized inference and learning in log-linear models with randomly
    perturbed nearest neighbor search".
    """
    scores, ids = (torch.as_tensor(x) for x in search(query, k))
    if scores.shape != ids.shape or scores.shape[:-1].numel() != 1 or scores.ndim == 0:
        raise ValueError(
            f"search must return scores and ids of shape (k,) or (1, k), for one query, but their shapes are "
            f"{tuple(scores.shape)} and {tuple(ids.shape)}; search for one query at a time"
        )
    scores, ids = scores.flatten(), ids.flatten()
    return Top(scores[ids >= 0], ids[ids >= 0])


def _check_top(scores: Tensor, ids: Tensor, n: int) -> None:
    check_logits(scores, "top_scores")
    integers("top_ids", ids)
    count("n", n, least=1)
    if scores.ndim != 1 or ids.shape != scores.shape or not scores.numel():
        raise ValueError(
            f"top_scores and top_ids must have the same shape (k,), k at least 1, but their shapes are "
            f"{tuple(scores.shape)} and {tuple(ids.shape)}; pass one query's top set"
        )
    if not bool(((ids >= 0) & (ids < n)).all()) or ids.unique().numel() != ids.numel():
        raise ValueError(
            f"top_ids must be different ids between 0 and n - 1 = {n - 1}, but some repeat or are outside; drop the "
            "places that an index left empty, and repetitions"
        )
    if not bool(scores.amax().abs() < math.inf):  # amax of anything with a NaN is NaN
        raise ValueError(
            f"top_scores must not be NaN or +inf, nor -inf throughout, but their maximum is {float(scores.amax())}; "
            "find where it comes from"
        )


def _tail_ids(top_ids: Tensor, n: int, number: int, generator: torch.Generator) -> Tensor:
    """So many items of the tail, drawn uniformly with replacement. The rank of an item in the tail is its id minus the
    number of top ids before it."""
    rank = torch.randint(n - top_ids.numel(), (number,), generator=generator, device=top_ids.device)
    before = top_ids.sort().values - torch.arange(top_ids.numel(), device=top_ids.device)
    return rank + torch.searchsorted(before, rank, right=True)


def _tail_scores(score: Callable[[Tensor], Tensor], ids: Tensor, bound: float) -> Tensor:
    """Scores of tail items, checked against the bound. An item that occurs twice is scored once."""
    distinct, place = ids.unique(return_inverse=True)
    scores = score(distinct)
    if not isinstance(scores, Tensor) or not scores.dtype.is_floating_point:
        what = scores.dtype if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise TypeError(f"score must return a floating tensor, but it returned {what}; return scores.float()")
    if scores.shape != distinct.shape:
        raise ValueError(
            f"score must return one number for each id, of shape {tuple(distinct.shape)}, but their shape is "
            f"{tuple(scores.shape)}; return scores in the shape of the ids"
        )
    scores = scores.detach().double()
    if not bool((scores <= bound).all()):
        worst = int((scores <= bound).int().argmin())
        raise ValueError(
            f"score must be at most bound, {bound:.9g}, for all tail items, but item {int(distinct[worst])} has "
            f"{float(scores[worst]):.9g}; pass a bound that holds, or a top set that has the best items"
        )
    return scores[place]
