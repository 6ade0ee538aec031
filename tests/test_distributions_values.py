"""Values of every type that torch's classes accept: numbers, integers, booleans, indices in any dtype."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

import argumbel.distributions as agd
from argumbel.distributions import PlackettLuce, TopKSubset

INF = torch.inf
X = torch.tensor([0.5, -0.3, 1.2, 0.0], dtype=torch.float64)
BINARY = ["LogitRelaxedBernoulli", "RelaxedBernoulli", "RelaxedBernoulliStraightThrough", "HardConcrete"]


def scalar(name: str, checks: bool) -> Any:
    if name == "Gumbel":
        return agd.Gumbel(0.3, 2.0, validate_args=checks)
    return getattr(agd, name)(0.5, logits=0.3, validate_args=checks)


@pytest.mark.parametrize("checks", [False, True])
@pytest.mark.parametrize("name", ["Gumbel", *BINARY])
def test_numbers(name: str, checks: bool) -> None:
    d = scalar(name, checks)
    for value in (1, 1.0, np.float32(1.0), np.float64(1.0), np.int64(1), torch.tensor(1), torch.tensor(True)):
        expected = d.log_prob(torch.tensor(1.0))
        assert torch.equal(d.log_prob(value), expected)
        assert d.log_prob(value).dtype == torch.float32
        if hasattr(d, "icdf") and "Straight" not in name:
            assert torch.equal(d.cdf(value), d.cdf(torch.tensor(1.0)))
            assert torch.equal(d.icdf(value), d.icdf(torch.tensor(1.0)))
    if "Straight" not in name:
        assert torch.equal(d.icdf(0.5), d.icdf(torch.tensor(0.5)))
        for bad in (1.5, -1):
            if checks:
                with pytest.raises(ValueError, match="value must be a probability"):
                    d.icdf(bad)
    for bad in ("1", [1.0], None, True):
        with pytest.raises(TypeError, match="value must be a"):
            d.log_prob(bad)


def test_numbers_are_right_far_out() -> None:
    """As torch's class gives them."""
    ours, theirs = (cls(0.0, 1.0, validate_args=False) for cls in (agd.Gumbel, torch.distributions.Gumbel))
    torch.testing.assert_close(ours.cdf(20.0), theirs.cdf(torch.tensor(20.0)))
    torch.testing.assert_close(ours.icdf(0.5), theirs.icdf(torch.tensor(0.5)))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool, torch.float64])
@pytest.mark.parametrize("name", ["RelaxedOneHotCategorical", "RelaxedOneHotCategoricalStraightThrough"])
def test_one_hot_vectors(name: str, dtype: torch.dtype) -> None:
    d = getattr(agd, name)(0.5, logits=X)
    corner = torch.tensor([0, 1, 0, 0])
    assert torch.equal(d.log_prob(corner.to(dtype)), d.log_prob(corner.double()))


# --- subsets -----------------------------------------------------------------------------------------------------

ORDER = torch.tensor([2, 0, 1])


@pytest.mark.parametrize("checks", [False, True])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, torch.float32, torch.float16, torch.float64])
def test_indices(dtype: torch.dtype, checks: bool) -> None:
    d = PlackettLuce(X, 3, validate_args=checks)
    assert torch.equal(d.log_prob(ORDER.to(dtype)), d.log_prob(ORDER))
    pair = PlackettLuce(X[:2], validate_args=checks)
    assert torch.equal(pair.log_prob(torch.tensor([True, False])), pair.log_prob(torch.tensor([1, 0])))


def test_bad_indices() -> None:
    d = PlackettLuce(X, 3)
    for bad in ([2.0, 0.0, 0.5], [2.0, 0.0, torch.nan], [2.0, -1.0, 0.0], [2.0, 2.0, 0.0]):
        with pytest.raises(ValueError, match="value must lie in the support"):
            d.log_prob(torch.tensor(bad))
    for bad in ([2, 0, 1], torch.zeros(3, dtype=torch.complex64)):
        with pytest.raises(TypeError, match="value must be a tensor of indices"):
            d.log_prob(bad)


@pytest.mark.parametrize("checks", [False, True])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.int64, torch.uint8, torch.float16])
def test_sets(dtype: torch.dtype, checks: bool) -> None:
    d = TopKSubset(X, 2, validate_args=checks)
    for items in itertools.combinations(range(4), 2):
        k_hot = torch.zeros(4, dtype=torch.float64)
        k_hot[list(items)] = 1
        assert torch.equal(d.log_prob(k_hot.to(dtype)), d.log_prob(k_hot))


@pytest.mark.parametrize("row", [[-INF, -INF, -INF], [0.0, -INF, 1.0], [0.3, 0.0, 1.0]])
@pytest.mark.parametrize("cls", [PlackettLuce, TopKSubset])
def test_the_empty_set(cls: Any, row: list[float]) -> None:
    """It is drawn with probability 1, whatever is possible."""
    x = torch.tensor([row, [0.0, 0.0, 0.0]], requires_grad=True)
    d = cls(x, 0)
    z = d.sample((4,))
    assert z.shape == (4, 2, 0 if cls is PlackettLuce else 3)
    assert not z.any()
    assert torch.equal(d.log_prob(z), torch.zeros(4, 2))
    assert torch.equal(d.entropy(), torch.zeros(2))
    assert d.enumerate_support().shape[:2] == (1, 2)
    assert not d.mode.any()
    if cls is TopKSubset:
        assert torch.equal(d.mean, torch.zeros(2, 3))
        assert not d.rsample((4,)).any()
        (d.log_prob(z).sum() + d.mean.sum() + d.rsample().sum()).backward()
        assert not x.grad.any()
