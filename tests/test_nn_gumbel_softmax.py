"""GumbelSoftmax calls the function, and holds its tau: a number, a parameter or a schedule."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import nn

import argumbel as ag
from argumbel.nn import GumbelSoftmax, set_step
from argumbel.schedules import Exponential

from .test_nn_quantizer import quantizer

LOGITS = torch.tensor([[0.3, -1.0, 2.0, 0.0], [1.5, 1.4, -3.0, 0.2], [0.0, 0.1, 0.2, 0.3]])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("dim", [0, -1])
def test_training_is_the_function(hard: bool, dim: int) -> None:
    layer = GumbelSoftmax(0.7, hard, dim)
    noise = ag.gumbel(LOGITS.shape, generator=seeded())
    assert torch.equal(layer(LOGITS, noise=noise), ag.gumbel_softmax(LOGITS, 0.7, hard, dim=dim, noise=noise))
    drawn = ag.gumbel_softmax(LOGITS, 0.7, hard, dim=dim, generator=seeded(5))
    assert torch.equal(layer(LOGITS, generator=seeded(5)), drawn)
    keyed = ag.KeyedNoise(3)
    assert torch.equal(layer(LOGITS, noise=keyed), ag.gumbel_softmax(LOGITS, 0.7, hard, dim=dim, noise=keyed))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_evaluation_is_the_argmax(dtype: torch.dtype) -> None:
    layer = GumbelSoftmax(0.7).eval()
    logits = LOGITS.to(dtype)
    y = layer(logits)
    assert y.dtype == dtype
    assert torch.equal(y, nn.functional.one_hot(LOGITS.argmax(-1), 4).to(dtype))
    assert torch.equal(y, layer(logits, noise=ag.KeyedNoise(1), generator=None))
    assert torch.equal(layer(logits, torch.tensor([True, True, False, True])).argmax(-1), torch.tensor([0, 0, 3]))


def test_evaluation_has_the_gradient_of_the_softmax() -> None:
    weights = torch.randn(4, generator=seeded())
    logits = LOGITS.clone().requires_grad_()
    (GumbelSoftmax(0.7).eval()(logits) * weights).sum().backward()
    expected = LOGITS.clone().requires_grad_()
    (torch.softmax(expected / 0.7, -1) * weights).sum().backward()
    torch.testing.assert_close(logits.grad, expected.grad)


def test_training_does_not_move_the_global_generator_in_evaluation() -> None:
    layer = GumbelSoftmax().eval()
    before = torch.get_rng_state()
    layer(LOGITS)
    assert torch.equal(before, torch.get_rng_state())


def test_parameter_temperature_is_trained_and_saved() -> None:
    layer = GumbelSoftmax(nn.Parameter(torch.tensor(0.8)))
    (layer(LOGITS, generator=seeded()) ** 2).sum().backward()
    assert layer.tau.grad is not None
    assert float(layer.tau.grad) != 0.0
    assert list(layer.state_dict()) == ["tau"]


def test_tensor_temperature_broadcasts() -> None:
    tau = torch.tensor([[0.1], [1.0], [10.0]])
    noise = ag.KeyedNoise(2)
    assert torch.equal(GumbelSoftmax(tau)(LOGITS, noise=noise), ag.gumbel_softmax(LOGITS, tau, noise=noise))


def test_constant_temperature_is_configuration_not_state() -> None:
    layer = GumbelSoftmax(0.5)
    assert layer.state_dict() == {}
    layer.load_state_dict({})
    set_step(layer, 1000)
    assert layer.tau.item() == 0.5


def test_schedule_follows_set_step_and_survives_a_checkpoint() -> None:
    schedule = Exponential(1.0, 1e-3, floor=0.2)
    model = nn.Sequential(nn.Linear(4, 4), GumbelSoftmax(schedule))
    assert model[1].tau.item() == pytest.approx(1.0)
    set_step(model, 300)
    assert model[1].tau.item() == pytest.approx(schedule(300))
    for _ in range(3):
        model(LOGITS)  # forward passes are not steps
    assert model[1].tau.item() == pytest.approx(schedule(300))

    resumed = nn.Sequential(nn.Linear(4, 4), GumbelSoftmax(schedule))
    resumed.load_state_dict(model.state_dict())
    assert int(resumed[1].step) == 300
    assert torch.equal(resumed[1].tau, model[1].tau)
    noise = ag.KeyedNoise(9)
    assert torch.equal(resumed[1](LOGITS, noise=noise), model[1](LOGITS, noise=noise))


def test_schedule_survives_deepcopy_and_pickle() -> None:
    layer = GumbelSoftmax(Exponential(1.0, 1e-3))
    layer.set_step(500)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other.tau, layer.tau)
        other.set_step(0)
        assert other.tau.item() == 1.0
    assert layer.tau.item() == pytest.approx(math.exp(-0.5))


def test_set_step_finds_nested_modules() -> None:
    model = nn.ModuleDict({"a": GumbelSoftmax(Exponential(1.0, 0.1)), "q": quantizer(temp=(2.0, 0.5, 0.9))})
    set_step(model, 3)
    assert model["a"].tau.item() == pytest.approx(math.exp(-0.3))
    assert model["q"].choose.tau.item() == pytest.approx(2.0 * 0.9**3)
    set_step(model, 10_000)
    assert model["q"].choose.tau.item() == 0.5


@pytest.mark.parametrize("hard", [False, True])
def test_compiles_as_one_graph_that_a_schedule_does_not_recompile(hard: bool) -> None:
    torch._dynamo.reset()
    layer = GumbelSoftmax(Exponential(1.0, 0.1), hard=hard)
    graphs = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    noise = ag.gumbel(LOGITS.shape, generator=seeded())
    for step in range(12):
        set_step(layer, step)
        torch.testing.assert_close(compiled(LOGITS, noise=noise), layer(LOGITS, noise=noise))
    assert len(graphs) == 1
    layer.eval()
    assert torch.equal(compiled(LOGITS), layer(LOGITS))


def test_compiles_with_its_own_noise() -> None:
    torch._dynamo.reset()
    layer = GumbelSoftmax(0.5, hard=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    y = compiled(torch.zeros(500, 4))
    assert torch.equal(y.sum(-1), torch.ones(500))
    assert not torch.equal(y, compiled(torch.zeros(500, 4)))


@pytest.mark.parametrize(
    ("tau", "error"), [(-1.0, ValueError), (math.nan, ValueError), (math.inf, ValueError), ("1", TypeError),
                       (True, TypeError), (None, TypeError), (lambda step: -1.0, ValueError)]
)  # fmt: skip
def test_bad_temperature(tau: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="tau must be"):
        GumbelSoftmax(tau)  # type: ignore[arg-type]


def test_a_bad_step_leaves_the_temperature_as_it_was() -> None:
    layer = GumbelSoftmax(lambda step: 1.0 - step)
    with pytest.raises(ValueError, match="tau must be"):
        layer.set_step(2)
    assert (int(layer.step), layer.tau.item()) == (0, 1.0)
