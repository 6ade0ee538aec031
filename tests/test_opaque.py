"""Functions that are one node to a compiler: the same value and derivatives in every mode of PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad

import argumbel as ag
from tests import versions


def more(x: Tensor) -> Tensor:
    return torch.cat([x, x.sin().repeat_interleave(11, -1)], -1)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "inclusion_probs": lambda x: ag.inclusion_probs(x, 2),
    "relaxed_topk": lambda x: ag.relaxed_topk(x, 2, 0.7, noise=torch.zeros_like(x)),
    "relaxed_topk of many": lambda x: ag.relaxed_topk(more(x), 40, 0.7, noise=torch.zeros_like(more(x))),
}
each = pytest.mark.parametrize("name", FUNCTIONS)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_backward(function: Callable[[Tensor], Tensor], x: Tensor, upstream: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(function(x), x, upstream)[0]


@each
def test_the_jacobian_is_that_of_differences(name: str) -> None:
    x = randn(2, 4).requires_grad_()
    assert torch.autograd.gradcheck(FUNCTIONS[name], (x,), check_forward_ad=True, check_batched_grad=True)


@each
def test_forward_derivatives(name: str) -> None:
    function = FUNCTIONS[name]
    x, direction = randn(3, 4), randn(3, 4, seed=1)
    expected = torch.stack(
        [torch.autograd.functional.jacobian(function, row) @ v for row, v in zip(x, direction, strict=True)]
    )
    value, slope = torch.func.jvp(function, (x,), (direction,))
    torch.testing.assert_close(value, function(x))
    torch.testing.assert_close(slope, expected)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(function(forward_ad.make_dual(x, direction)))
    torch.testing.assert_close(dual.tangent, expected)
    for mapped in (
        torch.vmap(lambda y, v: torch.func.jvp(function, (y,), (v,))[1])(x, direction),
        torch.func.jvp(torch.vmap(function), (x,), (direction,))[1],
    ):
        torch.testing.assert_close(mapped, expected)


@each
def test_derivatives_twice(name: str) -> None:
    function = FUNCTIONS[name]
    x = randn(4)
    weights = randn(*function(x).shape, seed=1)
    loss = lambda y: function(y) @ weights  # noqa: E731
    expected = torch.autograd.functional.hessian(loss, x)
    torch.testing.assert_close(expected, expected.T, rtol=1e-9, atol=1e-10)
    step = 1e-5
    differences = [
        (by_backward(function, x + step * e, weights) - by_backward(function, x - step * e, weights)) / (2 * step)
        for e in torch.eye(4, dtype=torch.float64)
    ]
    torch.testing.assert_close(expected, torch.stack(differences), rtol=1e-5, atol=1e-8)
    for second in (
        torch.func.hessian(loss),
        torch.func.jacrev(torch.func.jacrev(loss)),
        torch.func.jacrev(torch.func.jacfwd(loss)),
        torch.func.jacfwd(torch.func.jacfwd(loss)),
    ):
        torch.testing.assert_close(second(x), expected, rtol=1e-9, atol=1e-10)


@each
@pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
def test_a_jacobian_at_once(name: str, strategy: str) -> None:
    x = randn(2, 4)
    at_once = torch.autograd.functional.jacobian(FUNCTIONS[name], x, vectorize=True, strategy=strategy)
    torch.testing.assert_close(at_once, torch.autograd.functional.jacobian(FUNCTIONS[name], x))


@each
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_compiled_it_is_a_node(name: str, dtype: torch.dtype) -> None:
    """Value and gradient to the bit, also of the first call. (The graph had up to 20,000 nodes, and took minutes.)"""
    torch._dynamo.reset()
    sizes = []

    def count(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        sizes.append(len(graph.graph.nodes))
        return make_boxed_func(graph.forward)

    function = FUNCTIONS[name]
    compiled = torch.compile(function, fullgraph=True, backend=aot_autograd(fw_compiler=count))
    for seed in range(2):
        x = randn(3, 4, seed=seed).to(dtype)
        expected = function(x)
        upstream = randn(*expected.shape).to(dtype)
        y = x.clone().requires_grad_()
        value = compiled(y)
        assert torch.equal(value, expected)
        assert torch.equal(torch.autograd.grad(value, y, upstream)[0], by_backward(function, x, upstream))
        assert torch.equal(compiled(x), expected)
    assert max(sizes) < 250 or versions.OLDEST  # which looks into the gradient


TRANSFORMS: dict[str, Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]]] = {
    "vmap": torch.vmap,
    "grad": lambda function: torch.func.grad(lambda y: function(y).square().sum()),
    "jvp": lambda function: lambda y: torch.func.jvp(function, (y,), (y,))[1],
}


@pytest.mark.parametrize(
    ("name", "transform"),
    [*(("relaxed_topk", transform) for transform in TRANSFORMS), ("inclusion_probs", "vmap")],
)
def test_compiled_transforms(name: str, transform: str) -> None:
    """They look into the operator, so the compiler takes long."""
    torch._dynamo.reset()
    function, x = TRANSFORMS[transform](FUNCTIONS[name]), randn(2, 4)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), function(x), rtol=1e-10, atol=1e-12)


@each
def test_exported_and_traced_for_any_batch(name: str) -> None:
    class Model(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return FUNCTIONS[name](x)

    x, longer = randn(3, 4), randn(7, 4, seed=1)
    batch = torch.export.Dim("batch", min=2, max=100)
    exported = torch.export.export(Model(), (x,), dynamic_shapes={"x": {0: batch}}).module()
    traced = torch.jit.trace(FUNCTIONS[name], x, check_trace=False)
    for model in exported, traced:
        torch.testing.assert_close(model(longer), FUNCTIONS[name](longer))
    y = longer.clone().requires_grad_()
    upstream = randn(*traced(longer).shape)
    expected = by_backward(FUNCTIONS[name], longer, upstream)
    torch.testing.assert_close(torch.autograd.grad(traced(y), y, upstream)[0], expected)


@each
def test_tensors_that_are_not_real(name: str) -> None:
    expected = FUNCTIONS[name](torch.zeros(3, 4)).shape
    with FakeTensorMode():
        x = torch.zeros(3, 4, requires_grad=True)
        y = FUNCTIONS[name](x)
        y.sum().backward()
        assert y.shape == expected
        assert x.grad is not None
        assert x.grad.shape == (3, 4)
    assert FUNCTIONS[name](torch.zeros(3, 4, device="meta")).shape == expected
