"""The distributions as sites of Pyro, where Pyro is installed: as docs/distributions.md says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import argumbel.distributions as agd

pyro = pytest.importorskip("pyro")

from pyro import poutine  # noqa: E402
from pyro.distributions.torch_distribution import TorchDistributionMixin  # noqa: E402
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO  # noqa: E402
from pyro.infer.reparam import GumbelSoftmaxReparam  # noqa: E402

NAMES = [name for name in agd.__all__ if isinstance(getattr(agd, name), type)]


def site(name: str) -> Any:
    return type(name, (getattr(agd, name), TorchDistributionMixin), {})


def make(name: str) -> Any:
    x = torch.zeros(4, 3)
    if name == "Gumbel":
        return site(name)(x, 1.0)
    if name in ("PlackettLuce", "TopKSubset"):
        return site(name)(x, 2)
    return site(name)(0.5, logits=x)


@pytest.mark.parametrize("name", NAMES)
def test_sites(name: str) -> None:
    pyro.clear_param_store()
    d = make(name)

    def model() -> torch.Tensor:
        with pyro.plate("rows", 4, dim=-1):
            return pyro.sample("z", d if d.event_shape else d.to_event(1))

    trace = poutine.trace(model).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["z"]["value"].shape == (4, *trace.nodes["z"]["fn"].event_shape)
    assert trace.nodes["z"]["log_prob"].shape == (4,)
    assert type(d.expand((2, *d.batch_shape))).__name__ == name


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_a_straight_through_guide(elbo: Any) -> None:
    """By samples of log q - log p, and by the divergence in closed form."""
    cls, prior = site("RelaxedOneHotCategoricalStraightThrough"), torch.tensor([0.5, 0.3, 0.15, 0.05])
    pyro.clear_param_store()
    pyro.set_rng_seed(0)

    def model() -> None:
        with pyro.plate("samples", 64):
            pyro.sample("z", cls(torch.tensor(0.5), probs=prior))

    def guide() -> None:
        logits = pyro.param("logits", torch.zeros(4))
        with pyro.plate("samples", 64):
            pyro.sample("z", cls(torch.tensor(0.5), logits=logits))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.03}), elbo())
    for _ in range(400):
        svi.step()
    torch.testing.assert_close(torch.softmax(pyro.param("logits"), -1).detach(), prior, atol=0.05, rtol=0)


def test_the_reparameterisation_of_pyro_accepts_a_site_that_is_also_pyros() -> None:
    class Site(agd.RelaxedOneHotCategorical, pyro.distributions.RelaxedOneHotCategorical):
        pass

    d = Site(torch.tensor(0.5), logits=torch.zeros(3))

    def model() -> torch.Tensor:
        return pyro.sample("z", d)

    value = poutine.reparam(model, {"z": GumbelSoftmaxReparam()})()
    assert value.sum().item() == pytest.approx(1, abs=1e-5)
    assert torch.equal(d.rsample(generator=torch.Generator().manual_seed(0)),
                       agd.RelaxedOneHotCategorical(0.5, logits=torch.zeros(3)).rsample(
                           generator=torch.Generator().manual_seed(0)))  # fmt: skip
