"""Derivatives of ``torch.func`` in compiled code: those of eager code."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import argumbel as ag
from tests.test_modes import DIFFERENTIABLE, KEY

Function = Callable[[Tensor], Tensor]

FUNCTIONS: dict[str, Function] = {
    **{
        name: DIFFERENTIABLE[name] for name in ("gumbel_softmax", "hard", "gumbel_sigmoid", "gumbel_max", "gumbel_topk")
    },
    **{name: DIFFERENTIABLE[name] for name in ("posterior_gumbel", "straight_through", "linear_gumbel_max")},
    "choice": lambda x: x.gather(-1, ag.gumbel_max(x, noise=KEY).indices.unsqueeze(-1)),
    "learned tau": lambda x: ag.gumbel_softmax(x, x.square().mean(), noise=KEY),
}


def loss(function: Function, x: Tensor) -> Tensor:
    y = function(x)
    return (y * torch.linspace(1, 2, y.numel()).reshape(y.shape)).sum()


TRANSFORMS: dict[str, Callable[[Function], Function]] = {
    "grad": lambda function: torch.func.grad(lambda x: loss(function, x)),
    "jvp": lambda function: lambda x: torch.func.jvp(function, (x,), (x.cos(),))[1],
    "vmap of grad": lambda function: torch.vmap(torch.func.grad(lambda x: loss(function, x[None]))),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_derivatives(name: str, transform: str) -> None:
    """An operator has no rule for them: they were errors, and those of jvp zero."""
    torch._dynamo.reset()
    x = torch.randn(4, 5)
    function = TRANSFORMS[transform](FUNCTIONS[name])
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(compiled, function(x))
    assert compiled.any()
