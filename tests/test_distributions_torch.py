"""What code written for torch.distributions expects of the classes: their types, supports, transforms, log_cdf."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import TransformedDistribution, kl_divergence
from torch.distributions.constraint_registry import biject_to, transform_to

import argumbel.distributions as agd
from tests.versions import newer_compiler

td = torch.distributions
X = torch.tensor([[0.5, -0.3, 1.2], [0.0, 2.0, -1.0]], dtype=torch.float64)
TORCH: dict[str, Any] = {
    "Gumbel": td.Gumbel,
    "ExpRelaxedCategorical": td.relaxed_categorical.ExpRelaxedCategorical,
    "RelaxedOneHotCategorical": td.RelaxedOneHotCategorical,
    "LogitRelaxedBernoulli": td.relaxed_bernoulli.LogitRelaxedBernoulli,
    "RelaxedBernoulli": td.RelaxedBernoulli,
}
TAU = torch.tensor(0.7, dtype=torch.float64)


def pair(name: str) -> tuple[Any, Any]:
    """Ours and torch's."""
    if name == "Gumbel":
        return agd.Gumbel(X, TAU), td.Gumbel(X, TAU)
    return getattr(agd, name)(TAU, logits=X), TORCH[name](TAU, logits=X)


@pytest.mark.parametrize("name", TORCH)
def test_a_distribution_is_one_of_torchs(name: str) -> None:
    ours, theirs = pair(name)
    for d in (ours, ours.expand((4, *ours.batch_shape)), copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(d) is getattr(agd, name)
        assert isinstance(d, TORCH[name])
        assert isinstance(d, TransformedDistribution) == isinstance(theirs, TransformedDistribution)
    assert (ours.batch_shape, ours.event_shape) == (theirs.batch_shape, theirs.event_shape)
    assert ours.has_rsample
    if name != "Gumbel":
        assert torch.equal(ours.temperature.broadcast_to(ours.batch_shape), TAU.expand(ours.batch_shape))
        assert ours.param_shape == X.shape
        with pytest.raises(AttributeError):
            ours.temperature = TAU
    assert td.Independent(ours, 1).log_prob(ours.sample()).shape == ours.batch_shape[:-1]


@pytest.mark.parametrize("name", ["Gumbel", "RelaxedOneHotCategorical", "RelaxedBernoulli"])
def test_a_transformed_distribution_is_its_base_transformed(name: str) -> None:
    ours, theirs = pair(name)
    y = ours.sample((7,))
    assert [type(t) for t in ours.transforms] == [type(t) for t in theirs.transforms]
    rebuilt = TransformedDistribution(ours.base_dist, ours.transforms, validate_args=False)
    torch.testing.assert_close(rebuilt.log_prob(y), ours.log_prob(y), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", TORCH)
def test_supports_have_the_transforms_of_torchs(name: str) -> None:
    ours, theirs = pair(name)
    free = torch.randn(2, 2 if name == "RelaxedOneHotCategorical" else 3, dtype=torch.float64)
    for registry in (biject_to, transform_to):
        mine, other = registry(ours.support), registry(theirs.support)
        x = torch.randn(2, 3, dtype=torch.float64) if registry is transform_to else free
        torch.testing.assert_close(mine(x), other(x))
        assert ours.support.check(mine(x)).all()


def test_dispatch_of_divergences_is_not_ambiguous() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in TORCH:
            ours, theirs = pair(name)
            for p, q in ((ours, ours), (ours, theirs), (theirs, ours)):
                assert kl_divergence(p, q).abs().max() < 1e-6 or "Categorical" in name
        with pytest.raises(NotImplementedError):
            kl_divergence(agd.Gumbel(0.0, 1.0), td.Laplace(0.0, 1.0))


@newer_compiler
@pytest.mark.parametrize("name", TORCH)
def test_divergences_compile(name: str) -> None:
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")

        def f(x: Tensor) -> Tensor:
            p, q = (
                agd.Gumbel(y, 1.0) if name == "Gumbel" else getattr(agd, name)(0.5, logits=y, validate_args=False)
                for y in (x, x)
            )
            return kl_divergence(p, q)

        assert not torch.compile(f, fullgraph=True, backend="aot_eager")(X).any()


# --- log_cdf -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Gumbel", "LogitRelaxedBernoulli", "RelaxedBernoulli", "HardConcrete"])
def test_log_cdf(name: str) -> None:
    d = agd.HardConcrete(TAU, logits=X) if name == "HardConcrete" else pair(name)[0]
    y = d.sample((50,))
    torch.testing.assert_close(d.log_cdf(y), d.cdf(y).log(), rtol=1e-9, atol=1e-12)
    assert torch.equal(d.log_cdf(0.5), d.log_cdf(torch.tensor(0.5, dtype=torch.float64)))


def test_log_cdf_where_the_cdf_underflows() -> None:
    def far(d: Any, y: float) -> Tensor:
        return d.log_cdf(torch.tensor(y))

    assert far(agd.Gumbel(0.0, 1.0), -6.0).item() == pytest.approx(-(2.718281828459045**6), rel=1e-5)
    assert far(agd.LogitRelaxedBernoulli(1.0, logits=0.0), -200.0).item() == -200
    assert far(agd.RelaxedBernoulli(1.0, logits=200.0), 0.5).item() == -200
    gates = agd.HardConcrete(1.0, logits=200.0)
    assert far(gates, 0.5).item() == pytest.approx(-200, rel=1e-6)
    assert far(gates, 1.0).item() == 0


# --- subsets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [agd.PlackettLuce, agd.TopKSubset])
def test_parameters_of_subsets(cls: Any) -> None:
    d = cls(X, 2)
    assert d.logits is X
    assert d.param_shape == X.shape
    torch.testing.assert_close(d.probs, torch.softmax(X, -1))
    first = agd.PlackettLuce(X[0], 1)
    torch.testing.assert_close(first.log_prob(first.enumerate_support()).exp(), first.probs)
