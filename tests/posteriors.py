"""Conditional draws of the noise by name, a sample of races to condition on, and what a posterior is compared with."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import numpy as np
import scipy.stats
import torch
from torch import Tensor

import argumbel as ag
from argumbel.reverse import posterior_gumbel, posterior_gumbel_subset, posterior_gumbel_topk

from . import oracles
from .statistics import FAILURE_RATE, check_cdf, check_independent, quantile_bins

# Every conditional draw as a function of logits and the whole order of the race, of which it uses what it may know.
GIVEN: dict[str, Callable[..., Tensor]] = {
    "the winner": lambda x, order, dim=-1, **own: posterior_gumbel(x, order.select(dim, 0), dim=dim, **own),
    "the first": lambda x, order, dim=-1, **own: posterior_gumbel_topk(x, order.narrow(dim, 0, 1), dim=dim, **own),
    "the first two": lambda x, order, dim=-1, **own: posterior_gumbel_topk(x, order.narrow(dim, 0, 2), dim=dim, **own),
    "the order of all": lambda x, order, dim=-1, **own: posterior_gumbel_topk(x, order, dim=dim, **own),
    "a set of one": lambda x, order, dim=-1, **own: posterior_gumbel_subset(x, order.narrow(dim, 0, 1), dim=dim, **own),
    "a set of two": lambda x, order, dim=-1, **own: posterior_gumbel_subset(x, order.narrow(dim, 0, 2), dim=dim, **own),
    "a set of three": lambda x, order, dim=-1, **own: posterior_gumbel_subset(
        x, order.narrow(dim, 0, 3).flip(dim), dim=dim, **own
    ),
    "nothing": lambda x, order, dim=-1, **own: posterior_gumbel_subset(x, order, dim=dim, **own),
}
KNOWN = {
    "the winner": 1,
    "the first": 1,
    "the first two": 2,
    "the order of all": 4,
    "a set of one": 1,
    "a set of two": 2,
    "a set of three": 3,
    "nothing": 4,
}
X = torch.tensor([0.0, 1.5, -1.0, 0.5])
DRAWS = 40_000


@functools.cache
def race(dtype: torch.dtype = torch.float64) -> Tensor:
    """The perturbed values of so many races between the items of X."""
    return X.to(dtype) + ag.KeyedNoise(11).gumbel((DRAWS, len(X)), dtype=dtype)


def check_prior(noise: Tensor) -> None:
    """Standard Gumbel noise, item by item and, on a grid of quantiles, pair by pair."""
    bins = [quantile_bins(column.double().numpy(), oracles.gumbel_cdf, 8) for column in noise.T]
    for column in noise.T:
        check_cdf(column.double().numpy(), oracles.gumbel_cdf)
    for a, b in itertools.combinations(bins, 2):
        check_independent(a, b, np.full(8, 1 / 8), np.full(8, 1 / 8))


def check_same(ours: Tensor, theirs: Tensor) -> None:
    """Two samples of one law of several numbers: each number by Kolmogorov-Smirnov, each pair by counts on a grid."""
    assert min(len(ours), len(theirs)) > 1500
    cuts = theirs.double().quantile(torch.arange(1, 5, dtype=torch.float64) / 5, 0)
    for i in range(ours.shape[1]):
        assert scipy.stats.ks_2samp(ours[:, i].numpy(), theirs[:, i].numpy()).pvalue > FAILURE_RATE
    for i, j in itertools.combinations(range(ours.shape[1]), 2):
        counts = [
            np.histogram2d(
                np.searchsorted(cuts[:, i].numpy(), v[:, i].numpy()),
                np.searchsorted(cuts[:, j].numpy(), v[:, j].numpy()),
                bins=[np.arange(6) - 0.5] * 2,
            )[0].ravel()
            for v in (ours, theirs)
        ]
        table = np.array(counts)
        table = table[:, table.sum(0) >= 20]
        assert scipy.stats.chi2_contingency(table).pvalue > FAILURE_RATE


def check_sound(name: str, x: Tensor, order: Tensor, values: Tensor) -> None:
    allowed, known = x > -torch.inf, min(KNOWN[name], order.shape[-1])
    assert values.shape == x.shape
    assert values.dtype == x.dtype
    assert torch.equal(values > -torch.inf, allowed)
    assert values.masked_fill(~allowed, 0).isfinite().all()
    if name == "nothing":
        return
    if name == "the order of all":
        known = order.shape[-1]
    elif name == "a set of three":
        known = min(3, order.shape[-1])
    inside = values.gather(-1, order[..., :known])
    outside = values.scatter(-1, order[..., :known], -torch.inf).amax(-1)
    assert (inside.amin(-1) > outside).all()
    if "set" not in name:
        assert (inside.diff(dim=-1) < 0).all()
