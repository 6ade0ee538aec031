"""Numbers of NumPy, and plain integers as shapes, wherever the distributions, estimators, modules and schedules take
numbers: the result is the one of Python's own numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import argumbel.distributions as agd
from argumbel import estimators, nn, schedules

X = torch.tensor([[0.1, -0.4, 0.7], [1.0, 0.0, -1.0]])
RELAXED = [
    name for name in agd.__all__ if name.startswith(("Relaxed", "ExpRelaxed", "LogitRelaxed", "HardConcrete"))
]  # fmt: skip
MAKE: dict[str, Callable[[], Any]] = {name: lambda name=name: getattr(agd, name)(0.5, logits=X) for name in RELAXED}
MAKE |= {
    "Gumbel": lambda: agd.Gumbel(X, 2.0),
    "PlackettLuce": lambda: agd.PlackettLuce(X, 2),
    "TopKSubset": lambda: agd.TopKSubset(X, 2),
}
HALVES = [np.float32(0.5), np.float64(0.5), np.float16(0.5), np.array(0.5)]
TWOS = [2, np.int64(2), np.int32(2), np.uint8(2), np.array(2)]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def loss(z: Tensor) -> Tensor:
    return z[..., 0] - 2 * z[..., 1]


# --- distributions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("two", TWOS, ids=repr)
@pytest.mark.parametrize("name", MAKE)
def test_sample_shapes(name: str, two: Any) -> None:
    d = MAKE[name]()
    expected = d.sample((2,), generator=seeded())
    for shape in (two, [two], (two,), torch.Size([2])):
        assert torch.equal(d.sample(shape, generator=seeded()), expected)
    if d.has_rsample:
        assert torch.equal(d.rsample(two, generator=seeded()), d.rsample((2,), generator=seeded()))
    assert d.expand([two, *d.batch_shape]).batch_shape == (2, *d.batch_shape)
    assert torch.equal(d.entropy(two, generator=seeded()), d.entropy(2, generator=seeded()))


def test_a_plain_integer_is_a_batch_shape() -> None:
    assert agd.Gumbel(0.0, 1.0).expand(3).batch_shape == (3,)
    assert agd.PlackettLuce(X[0]).expand(3).batch_shape == (3,)


@pytest.mark.parametrize(
    ("shape", "error", "match"),
    [
        (2.0, TypeError, "sample_shape must be an integer or a sequence of integers, but it is a float"),
        ("2", TypeError, "sample_shape must be an integer or a sequence of integers, but it is a str"),
        ((2.5,), TypeError, "sample_shape must be an integer, but it is a float"),
        ((-1,), ValueError, "sample_shape must be at least 0, but it is -1"),
    ],
)
@pytest.mark.parametrize("name", MAKE)
def test_bad_shapes(name: str, shape: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        MAKE[name]().sample(shape)


@pytest.mark.parametrize("half", HALVES, ids=repr)
@pytest.mark.parametrize("name", RELAXED)
def test_temperatures_and_parameters(name: str, half: Any) -> None:
    cls = getattr(agd, name)
    assert torch.equal(cls(half, logits=X).temperature, cls(0.5, logits=X).temperature)
    if "Categorical" not in name:
        d = cls(half, probs=half)
        assert d.probs.dtype == torch.float32
        assert d.probs == 0.5


def test_other_arguments_of_distributions() -> None:
    half, two = np.float32(0.5), np.int64(2)
    assert torch.equal(agd.Gumbel(half, half).mean, agd.Gumbel(0.5, 0.5).mean)
    assert agd.HardConcrete(half, half, gamma=-half, zeta=1 + half).mean.dtype == torch.float32
    assert agd.TopKSubset(X, two, half).rsample(two).shape == (2, 2, 3)
    assert agd.PlackettLuce(X, two).event_shape == (2,)
    p, q = agd.Gumbel(0.0, 1.0), agd.Gumbel(1.0, 1.0)
    estimates = [agd.kl_monte_carlo(p, q, m, generator=seeded()) for m in (two, 2)]
    assert torch.equal(*estimates)


# --- estimators --------------------------------------------------------------------------------------------------

HALF, TWO = np.float32(0.5), np.int64(2)
CALLS: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
    name: (estimator, {"num_samples": TWO}) for name, estimator in estimators.ESTIMATORS.items()
} | {
    "vimco": (estimators.vimco, {"num_samples": TWO}),
    "reinforce, baseline": (estimators.reinforce, {"baseline": HALF}),
    "rebar, tau": (estimators.rebar, {"tau": HALF, "eta": HALF}),
    "gumbel_softmax, tau": (estimators.gumbel_softmax, {"tau": HALF}),
    "gumbel_rao, num_conditional": (estimators.gumbel_rao, {"num_conditional": TWO}),
    "gapped, gap": (estimators.gapped_straight_through, {"gap": HALF}),
    "decoupled, temperature": (estimators.decoupled_straight_through, {"temperature": HALF, "tau": HALF}),
    "exact, factors": (estimators.exact, {"factors": np.int64(0)}),
    "unordered_set, factors": (estimators.unordered_set, {"factors": np.int64(0)}),
    "subset_reinforce": (estimators.subset_reinforce, {"k": TWO, "num_samples": TWO}),
    "subset_straight_through": (estimators.subset_straight_through, {"k": TWO, "num_samples": TWO, "tau": HALF}),
}


@pytest.mark.parametrize("name", CALLS)
def test_estimators(name: str) -> None:
    estimator, own = CALLS[name]
    x = X[:, :2] if name in ("arm", "disarm") else X
    gradients = []
    for arguments in (own, {key: value.item() for key, value in own.items()}):
        leaf = x.clone().requires_grad_()
        value = estimator(loss, leaf, generator=seeded(), **arguments)
        gradients += [torch.autograd.grad(value.sum(), leaf)[0]]
    assert torch.equal(*gradients)


def test_report() -> None:
    r = estimators.report(loss, X, ["reinforce"], num_repeats=TWO, num_samples=TWO, chunk=TWO, generator=seeded())
    json.dumps(r.to_dict())


# --- modules and schedules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", HALVES, ids=repr)
def test_modules(half: Any) -> None:
    assert nn.GumbelSoftmax(half).tau.dtype == torch.float32
    assert nn.GumbelSoftmax(np.int64(1)).tau == 1
    for schedule in (lambda n: np.maximum(np.exp(-3e-5 * n), half), lambda n: torch.tensor(0.5)):
        layer = nn.GumbelSoftmax(schedule)
        layer.set_step(np.int64(100_000))
        assert layer.tau == 0.5
    q = nn.GumbelVectorQuantizer(np.int64(4), np.int64(4), (half, half, half), np.int64(2), vq_dim=np.int64(4))
    assert q.vars.shape == (1, 8, 2)
    gate = nn.HardConcreteGate(np.int64(4), half, -half, 1 + half, keep=half)
    assert gate(np.int64(3)).shape == gate.eval()(3).shape == (3, 4)
    assert "temperature=0.5" in repr(gate)


@pytest.mark.parametrize("half", HALVES, ids=repr)
def test_schedules(half: Any) -> None:
    ten = np.int64(10)
    for ours, theirs in [
        (schedules.Constant(half), schedules.Constant(0.5)),
        (schedules.Exponential(half, half, half, ten), schedules.Exponential(0.5, 0.5, 0.5, 10)),
        (schedules.Exponential.from_factor(half, half), schedules.Exponential.from_factor(0.5, 0.5)),
        (schedules.Linear(half, half, ten), schedules.Linear(0.5, 0.5, 10)),
        (schedules.HalfCosine(half, half, ten), schedules.HalfCosine(0.5, 0.5, 10)),
    ]:
        assert ours == theirs == schedules.parse(str(ours)) == schedules.from_state_dict(ours.state_dict())
        assert json.loads(json.dumps(ours.state_dict())) == theirs.state_dict()
        assert type(ours(3)) is float
