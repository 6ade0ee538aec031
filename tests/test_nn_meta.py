"""Modules that are made without values: on the meta device, and then loaded, moved, reset or cast."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor, nn

from argumbel.nn import GumbelSoftmax, set_step
from argumbel.schedules import Exponential

from .test_nn_quantizer import quantizer


def holding(tau: float) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), GumbelSoftmax(tau))


MAKE = {
    "a number": lambda: holding(0.3),
    "a schedule": lambda: holding(Exponential(0.9, 0.1)),
    "a quantizer": lambda: quantizer(temp=(2.0, 0.5, 0.9)),
    "a parameter": lambda: holding(nn.Parameter(torch.tensor(0.3))),
}


def tau_of(model: nn.Module) -> Tensor:
    (tau,) = [m.tau for m in model.modules() if isinstance(m, GumbelSoftmax)]
    return tau


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("step", [0, 7])
def test_from_the_meta_device(name: str, step: int) -> None:
    """Made on meta, given memory, loaded: the model that was saved. Memory without values is NaN here."""
    trained = MAKE[name]()
    set_step(trained, step)
    for assign in (False, True):
        with torch.device("meta"):
            model = MAKE[name]()
        if not assign:
            model.to_empty(device="cpu")
        model.load_state_dict(trained.state_dict(), assign=assign)
        assert tau_of(model).device.type == "cpu"
        assert torch.equal(tau_of(model), tau_of(trained))
        set_step(model, 9)
        set_step(trained, 9)
        assert torch.equal(tau_of(model), tau_of(trained))
        set_step(trained, step)


def test_buffers_survive_without_a_state_dict() -> None:
    with torch.device("meta"):
        model = MAKE["a schedule"]()
        set_step(model, 7)
    model.to_empty(device="cpu")
    assert (int(model[1].step), tau_of(model).item()) == (7, pytest.approx(0.9 * math.exp(-0.7)))
    model.to_empty(device="cpu")
    assert int(model[1].step) == 7
    model[1].reset_parameters()
    assert (int(model[1].step), tau_of(model).item()) == (0, pytest.approx(0.9))
    model.to("meta")
    model.to_empty(device="cpu")
    assert int(model[1].step) == 0
    own = GumbelSoftmax(torch.tensor([[0.5], [2.0]]))
    own.to_empty(device="cpu")
    assert own.tau.tolist() == [[0.5], [2.0]]


def test_moves_keep_values_that_were_copied_in() -> None:
    """As a running average of models copies its buffers."""
    model, average = GumbelSoftmax(Exponential(1.0, 0.1)), GumbelSoftmax(Exponential(1.0, 0.1))
    set_step(model, 5)
    for mine, theirs in zip(average.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)
    average.double()
    assert average.tau.dtype == torch.float64
    assert average.tau == model.tau
    assert int(average.step) == 5


def test_a_cast_rounds_as_a_cast_does() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert torch.equal(GumbelSoftmax(0.3).to(dtype).tau, torch.tensor(0.3).to(dtype))
    assert GumbelSoftmax(0.3).half().float().tau == torch.tensor(0.3).half().float()


def test_parameters_are_reset() -> None:
    layer = GumbelSoftmax(nn.Parameter(torch.tensor(0.3)))
    with torch.no_grad():
        layer.tau.fill_(9.0)
    layer.reset_parameters()
    assert layer.tau == torch.tensor(0.3)
    with torch.device("meta"):
        layer = GumbelSoftmax(nn.Parameter(torch.tensor(0.3)))
    with pytest.raises(ValueError, match="tau must have a value to be reset to"):
        layer.to_empty(device="cpu").reset_parameters()


def test_a_meta_model_loads_nothing_and_stays_meta() -> None:
    with torch.device("meta"):
        model = MAKE["a schedule"]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.load_state_dict(MAKE["a schedule"]().state_dict())
    assert tau_of(model).is_meta


def test_made_in_inference_mode_trained_outside() -> None:
    with torch.inference_mode():
        layer = GumbelSoftmax(Exponential(1.0, 0.1))
    set_step(layer, 3)
    x = torch.zeros(2, 600, requires_grad=True)
    layer(x)[:, 0].sum().backward()
    assert x.grad is not None
