"""k of n items, one item after another: what may still follow. For samples of sets, and for sets whose neighbours have
scores together.

Scores are ``(*batch, n)``, one for each item, or with pairs ``(*batch, 2 n - 1)``: then one for each pair of neighbours
i and i + 1, that counts where both are chosen. The state before an item is whether the item before it was chosen, and
how many are still to be chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._core.elementwise import logaddexp
from .gibbs import LOWEST, gibbs
from .operator import Operator

__all__ = ["best_subset", "correlated_log_partition", "correlated_marginals", "sample_subset"]


def _parts(x: Tensor, correlated: bool) -> tuple[Tensor, Tensor | None]:
    """The scores of items, and those of an item and the one before it, 0 for the first."""
    if not correlated:
        return x, None
    n = (x.shape[-1] + 1) // 2
    items, pairs = torch.split(x, [n, n - 1], -1)
    return items, torch.nn.functional.pad(pairs, (1, 0))


def _following(
    items: Tensor, pairs: Tensor | None, k: int, add: Callable[[Tensor, Tensor], Tensor], nothing: float
) -> list[Tensor]:
    """For each item, and for the end, of each state the sum, or the maximum, over all that may follow: ``(*batch, 2,
    k + 1)``, by whether the item before was chosen (without pairs: ``(*batch, 1, k + 1)``), and how many are still to
    be chosen."""
    counts = torch.arange(k + 1, device=items.device)
    table = torch.where(counts == 0, 0.0, nothing).to(items.dtype)
    table = table.expand(*items.shape[:-1], 1 if pairs is None else 2, k + 1)
    tables = [table]
    for i in range(items.shape[-1] - 1, -1, -1):
        gain = items[..., i].reshape(*items.shape[:-1], 1, 1)
        if pairs is not None:
            both = gain + pairs[..., i].reshape(gain.shape)
            gain = torch.cat([gain, both], -2)
        chosen = torch.nn.functional.pad(table[..., -1:, :-1], (1, 0), value=nothing)
        table = add(table[..., :1, :].expand(table.shape), chosen + gain)
        tables.append(table)
    return tables[::-1]


def _walk(x: Tensor, noise: Tensor | None, k: int, correlated: bool) -> Tensor:
    """The best set, or with logistic noise a sample. Leading dimensions of x may be 1 where those of noise are not."""
    items, pairs = _parts(x, correlated)
    nothing = -torch.inf if noise is None else LOWEST
    tables = _following(items, pairs, k, torch.maximum if noise is None else logaddexp, nothing)
    lead = x.shape[:-1] if noise is None else noise.shape[:-1]
    left = torch.full((*lead, 1), k, dtype=torch.int64, device=x.device)
    before = torch.zeros_like(left, dtype=torch.bool)
    chosen = []
    for i in range(items.shape[-1]):
        table = tables[i + 1].expand(*lead, *tables[i + 1].shape[-2:])
        without = table[..., 0, :].gather(-1, left)
        with_it = table[..., -1, :].gather(-1, (left - 1).clamp(min=0)) + items[..., i : i + 1]
        if pairs is not None:
            with_it = with_it + torch.where(before, pairs[..., i : i + 1], 0)
        with_it = with_it.masked_fill(left == 0, nothing)
        before = with_it >= without if noise is None else with_it - without + noise[..., i : i + 1] > 0
        left = left - before.to(left.dtype)
        chosen.append(before)
    hot = torch.cat(chosen, -1)
    return torch.cat([hot, hot[..., :-1] & hot[..., 1:]], -1) if correlated else hot


def _best(x: Tensor, k: int, key: tuple[()]) -> tuple[Tensor, bool]:
    return _walk(x, None, k, True), False


def _best_outputs(x: Tensor, k: int) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.bool)


#: ``best_subset(x, k, ()) -> (chosen, bad)``: which of the 2 n - 1 items and pairs the best set of k items has, bool. x
#: is float64 without NaN; -inf forbids. Of equal sets, the one that has the first item in which they differ.
best_subset = Operator(
    "best_subset(Tensor x, SymInt k) -> Tensor",
    outputs=_best_outputs,
    reference=_best,
    triton=False,
    float64=True,
)


def _sample(x: Tensor, noise: Tensor, k: int, correlated: bool, key: tuple[()]) -> tuple[Tensor, bool]:
    return _walk(x, noise, k, correlated), False


def _sample_outputs(x: Tensor, noise: Tensor, *_: Any) -> Tensor:
    return x.new_empty((*noise.shape[:-1], x.shape[-1]), dtype=torch.bool)


#: ``sample_subset(x, noise, k, correlated, ()) -> (chosen, bad)``: sets from ``exp(score) / Z``, bool ``(*batch, n)``,
#: or ``(*batch, 2 n - 1)`` where correlated. Standard logistic noise is ``(*batch, n)``; there x may have size 1.
sample_subset = Operator(
    "sample_subset(Tensor x, Tensor noise, SymInt k, bool correlated) -> Tensor",
    outputs=_sample_outputs,
    reference=_sample,
    triton=False,
    float64=True,
)


def _log_z(x: Tensor, k: int) -> Tensor:
    items, pairs = _parts(x, True)
    return _following(items, pairs, k, logaddexp, LOWEST)[0][..., 0, k]


#: ``correlated_log_partition(x, k)``: log of the sum of exp(score) over all sets of k items, with pairs. x is float64,
#: and LOWEST where forbidden. ``correlated_marginals(x, k)`` is its gradient.
correlated_log_partition, correlated_marginals = gibbs("correlated_log_partition(Tensor x, SymInt k)", 1, _log_z)
