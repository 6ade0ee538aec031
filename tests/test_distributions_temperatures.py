"""Shapes of temperatures: torch's idioms mean what they mean in torch, or are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import argumbel.distributions as agd
from argumbel.distributions import TopKSubset

CATEGORICAL = ["ExpRelaxedCategorical", "RelaxedOneHotCategorical", "RelaxedOneHotCategoricalStraightThrough"]


def shapes(cls: Any, temperature: tuple[int, ...], logits: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    d = cls(torch.full(temperature, 0.5), logits=torch.zeros(logits))
    return tuple(d.batch_shape), tuple(d.sample().shape), tuple(d.log_prob(d.sample()).shape)


@pytest.mark.parametrize("name", CATEGORICAL)
@pytest.mark.parametrize(
    ("temperature", "logits"),
    [((), (4,)), ((1,), (4,)), ((), (3, 4)), ((1,), (3, 4)), ((1, 1), (3, 4)), ((1, 1, 1), (2, 3, 4)), ((1,), (1, 4))],
)
def test_one_element_is_torchs(name: str, temperature: tuple[int, ...], logits: tuple[int, ...]) -> None:
    batch, sample, _ = shapes(torch.distributions.RelaxedOneHotCategorical, temperature, logits)
    ours = shapes(getattr(agd, name), temperature, logits)
    assert ours == (batch, sample, batch)


@pytest.mark.parametrize("name", CATEGORICAL)
@pytest.mark.parametrize(
    ("temperature", "logits", "batch"),
    [
        ((3,), (3, 4), (3,)),  # one for each row
        ((5, 1), (3, 4), (5, 3)),  # every one with every row
        ((3, 3), (3, 4), (3, 3)),
        ((2, 3, 1), (2, 3, 4), (2, 3)),  # torch's; nothing else fits
        ((5,), (4,), (5,)),
        ((2, 1), (2, 3, 4), (2, 3)),
        ((5, 1, 1), (2, 3, 4), (5, 2, 3)),
    ],
)
def test_meanings(name: str, temperature: tuple[int, ...], logits: tuple[int, ...], batch: tuple[int, ...]) -> None:
    assert shapes(getattr(agd, name), temperature, logits) == (batch, (*batch, logits[-1]), batch)


@pytest.mark.parametrize("name", CATEGORICAL)
@pytest.mark.parametrize(("temperature", "logits"), [((3, 1), (3, 4)), ((2, 1, 1), (2, 3, 4)), ((3, 3, 1), (3, 3, 4))])
def test_two_meanings(name: str, temperature: tuple[int, ...], logits: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="temperature must have one meaning") as info:
        shapes(getattr(agd, name), temperature, logits)
    assert "squeeze(-1)" in str(info.value)
    rows = torch.full(temperature, 0.5).squeeze(-1)
    assert getattr(agd, name)(rows, logits=torch.zeros(logits)).batch_shape == logits[:-1]


def test_one_temperature_for_each_row_is_the_row_alone() -> None:
    x, tau = torch.randn(3, 4), torch.tensor([0.3, 1.0, 2.0])
    y = torch.softmax(torch.randn(3, 4), -1)
    whole = agd.RelaxedOneHotCategorical(tau, logits=x).log_prob(y)
    for i in range(3):
        torch.testing.assert_close(agd.RelaxedOneHotCategorical(tau[i : i + 1], logits=x[i]).log_prob(y[i]), whole[i])


def test_tau_of_subsets() -> None:
    x = torch.zeros(3, 4)
    for good in (0.0, 2, torch.tensor(0.5), torch.ones(3), torch.ones(1)):
        d = TopKSubset(x, 2, good)
        assert d.rsample((5,)).shape == d.sample((5,)).shape == (5, 3, 4)
        assert d.expand((2, 3)).rsample().shape == (2, 3, 4)
    for bad in (-1.0, float("nan"), torch.tensor(-1.0), torch.tensor([1.0, float("nan"), 1.0])):
        with pytest.raises(ValueError, match="tau must be at least 0"):
            TopKSubset(x, 2, bad)
    for shape in ((2, 1), (4,), (5, 3), (1, 3)):
        with pytest.raises(ValueError, match=r"tau must broadcast to the batch shape \(3,\)"):
            TopKSubset(x, 2, torch.ones(shape))
    with pytest.raises(TypeError, match="tau must be a number or a tensor"):
        TopKSubset(x, 2, "1")


@pytest.mark.parametrize("name", [*CATEGORICAL, "RelaxedBernoulli", "HardConcrete"])
def test_whole_numbers(name: str) -> None:
    cls, logits = getattr(agd, name), torch.zeros(2, 1, 3, dtype=torch.float64)
    tau = torch.tensor([[1], [2]])
    whole, floating = (cls(t if name in CATEGORICAL else t[..., None], logits=logits) for t in (tau, tau.float()))
    assert torch.equal(whole.temperature, floating.temperature)
    assert whole.temperature.is_floating_point()
    seed = torch.Generator()
    assert torch.equal(*(d.rsample(generator=seed.manual_seed(0)) for d in (whole, floating)))
