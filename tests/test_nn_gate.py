"""HardConcreteGate: the law of its gates, and the penalty that closes them."""

from __future__ import annotations

import math

import pytest
import torch

from argumbel.distributions import HardConcrete
from argumbel.nn import GumbelSoftmax, HardConcreteGate

from .test_nn_quantizer import quantizer


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_gate_starts_at_keep() -> None:
    gate = HardConcreteGate(10_000, keep=0.8)
    # 1e4 draws of N(logit 0.8, 0.01): the mean has standard deviation 1e-4; 6 of them fail once in 5e8.
    assert abs(gate.log_alpha.mean().item() - math.log(4)) < 6e-4
    assert abs(gate.log_alpha.std().item() / 0.01 - 1) < 6 / math.sqrt(2e4)


def test_training_gates_are_hard_concrete() -> None:
    gate = HardConcreteGate((3, 5), temperature=0.5)
    z = gate(generator=seeded(2))
    law = HardConcrete(0.5, logits=gate.log_alpha, gamma=-0.1, zeta=1.1)
    assert torch.equal(z, law.rsample(generator=seeded(2)))
    assert z.shape == (3, 5)
    many = gate((200,), generator=seeded(3))
    assert many.shape == (200, 3, 5)
    assert bool((many == 0).any())
    assert bool((many == 1).any())
    assert bool(((many > 0) & (many < 1)).any())
    assert bool(((many >= 0) & (many <= 1)).all())
    many.sum().backward()
    assert bool((gate.log_alpha.grad > 0).all())


def test_l0_is_the_expected_number_of_open_gates() -> None:
    gate = HardConcreteGate(4, temperature=2 / 3)
    with torch.no_grad():
        gate.log_alpha.copy_(torch.tensor([-4.0, -1.0, 0.0, 3.0]))
    expected = sum(1 / (1 + math.exp(-a + 2 / 3 * math.log(0.1 / 1.1))) for a in (-4.0, -1.0, 0.0, 3.0))
    assert gate.l0().shape == ()
    assert gate.l0().item() == pytest.approx(expected, rel=1e-5)
    # Each count is a sum of 4 independent indicators, of variance at most 1; 40,000 of them, 6 standard deviations.
    counted = (gate((40_000,), generator=seeded()) != 0).sum(-1).double().mean().item()
    assert abs(counted - expected) < 6 / math.sqrt(40_000)
    gate.l0().backward()
    assert bool((gate.log_alpha.grad > 0).all())


def test_evaluation_gates_are_deterministic() -> None:
    gate = HardConcreteGate(3).eval()
    with torch.no_grad():
        gate.log_alpha.copy_(torch.tensor([-5.0, 0.4, 5.0]))
    middle = 1.2 / (1 + math.exp(-0.4)) - 0.1
    torch.testing.assert_close(gate(), torch.tensor([0.0, middle, 1.0]))
    assert torch.equal(gate(), gate())
    assert torch.equal(gate((2,)), gate().expand(2, 3))
    gate().sum().backward()
    assert gate.log_alpha.grad[1] > 0


def test_the_penalty_closes_gates_that_do_nothing() -> None:
    """x[0] is the target and x[1] is noise: the gate of the first stays open, that of the second shuts."""
    g = seeded()
    torch.manual_seed(0)
    gate = HardConcreteGate(2)
    optimiser = torch.optim.Adam(gate.parameters(), lr=0.1)
    for _ in range(150):
        x = torch.randn(64, 2, generator=g)
        z = gate((64,), generator=g)
        loss = ((x * z).sum(-1) - x[:, 0]).square().mean() + 0.05 * gate.l0()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert gate.eval()().tolist() == [1.0, 0.0]


def test_gate_state_dict_and_repr() -> None:
    gate = HardConcreteGate((2, 3))
    other = HardConcreteGate((2, 3))
    other.load_state_dict(gate.state_dict())
    assert torch.equal(other.log_alpha, gate.log_alpha)
    assert list(gate.state_dict()) == ["log_alpha"]
    assert repr(gate) == "HardConcreteGate((2, 3), temperature=0.666667, gamma=-0.1, zeta=1.1)"
    assert repr(GumbelSoftmax(0.5)) == "GumbelSoftmax(tau=0.5, hard=False, dim=-1)"
    assert "num_vars=5" in repr(quantizer())


def test_bad_gates() -> None:
    with pytest.raises(ValueError, match="keep must lie strictly between 0 and 1, but it is 1"):
        HardConcreteGate(3, keep=1.0)
    with pytest.raises(ValueError, match="temperature"):
        HardConcreteGate(3, temperature=-1.0)
    with pytest.raises(ValueError, match="gamma"):
        HardConcreteGate(3, gamma=0.5)
