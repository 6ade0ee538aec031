"""A row's result depends on the row and its key alone, to the bit: not on its place in the batch, the rows beside it,
the layout, or how PyTorch cuts its loops into vectors (which differs between processors)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel import coupling, relax, reverse, sequences, subsets

Draw = Callable[[Tensor, int, ag.KeyedNoise], object]


def first(x: Tensor, dim: int) -> Tensor:
    return x.argmax(dim)


def two(x: Tensor, dim: int) -> Tensor:
    return x.topk(2, dim).indices


DRAWS: dict[str, Draw] = {
    "gumbel_max": lambda x, d, k: ag.gumbel_max(x, dim=d, noise=k),
    "gumbel_topk": lambda x, d, k: ag.gumbel_topk(x, 2, dim=d, noise=k),
    "gumbel_softmax": lambda x, d, k: ag.gumbel_softmax(x, 0.7, dim=d, noise=k),
    "gumbel_softmax hard": lambda x, d, k: ag.gumbel_softmax(x, 0.7, True, dim=d, noise=k),
    "gumbel_softmax of a tensor": lambda x, d, k: ag.gumbel_softmax(x, torch.full((2, 1, 1), 0.7), dim=d, noise=k),
    "log_gumbel_softmax": lambda x, d, k: relax.log_gumbel_softmax(x, 0.7, dim=d, noise=k),
    "relaxed_topk": lambda x, d, k: ag.relaxed_topk(x, 2, 0.7, dim=d, noise=k),
    "relaxed_topk successive": lambda x, d, k: ag.relaxed_topk(x, 2, 0.7, dim=d, method="successive", noise=k),
    "posterior_gumbel": lambda x, d, k: ag.posterior_gumbel(x, first(x, d), dim=d, noise=k),
    "posterior_noise": lambda x, d, k: reverse.posterior_noise(x, first(x, d), dim=d, noise=k),
    "posterior_gumbel_topk": lambda x, d, k: ag.posterior_gumbel_topk(x, two(x, d), dim=d, noise=k),
    "posterior_gumbel_subset": lambda x, d, k: reverse.posterior_gumbel_subset(x, two(x, d), dim=d, noise=k),
    "top_down": lambda x, d, k: reverse.top_down(x, dim=d, noise=k),
    "counterfactual": lambda x, d, k: coupling.gumbel_coupling(x, -x, dim=d, noise=k),
    "maximal_coupling": lambda x, d, k: coupling.maximal_coupling(x, -x, dim=d, noise=k),
    "priority_sample": lambda x, d, k: subsets.priority_sample(x, 2, dim=d, noise=k),
    **{
        f"straight_through {m}": lambda x, d, k, m=m: ag.straight_through(x, method=m, dim=d, noise=k)
        for m in relax.STRAIGHT_THROUGH
    },
}
ALONG_THE_LAST: dict[str, Draw] = {
    "gumbel_sigmoid": lambda x, d, k: ag.gumbel_sigmoid(x, 0.7, noise=k),
    "gumbel_sigmoid of a tensor": lambda x, d, k: ag.gumbel_sigmoid(x, torch.full((2, 1, 1), 0.7), noise=k),
    "truncated_gumbel": lambda x, d, k: ag.truncated_gumbel(x, 0.5, noise=k),
    "expand": lambda x, d, k: sequences.expand(x[..., 0] + 2, x, noise=k),
    **{law: lambda x, d, k, law=law: getattr(k, law)(x.shape, dtype=x.dtype) for law in ("logistic", "gumbel")},
}


def of(draw: Draw, x: Tensor, dim: int, noise: ag.KeyedNoise) -> list[Tensor]:
    """Results of rows along dimension 0 of x, items last."""
    laid = x if dim == 1 else x.T.contiguous()
    result = draw(laid, dim, noise)
    parts = [result] if isinstance(result, Tensor) else [part for part in result if isinstance(part, Tensor)]
    return [part.mT if dim == 0 and part.ndim > 1 else part for part in parts]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("dim", [1, 0])
@pytest.mark.parametrize("name", [*DRAWS, *ALONG_THE_LAST])
def test_parts_are_parts_of_the_whole(backend: str, name: str, dim: int, dtype: torch.dtype) -> None:
    if name in ALONG_THE_LAST and dim == 0:
        pytest.skip("it has no dimension of items")
    draw = {**DRAWS, **ALONG_THE_LAST}[name]
    rows = torch.tensor([5, 0, 6])
    for n in (3, 6, 10, 17):
        x = (3 * torch.randn(7, n, generator=torch.Generator().manual_seed(n))).to(dtype)
        whole = of(draw, x, dim, ag.KeyedNoise(1))
        part = of(draw, x[rows], dim, ag.KeyedNoise(1, rows=rows))
        for a, b in zip(whole, part, strict=True):
            assert torch.equal(a.index_select(max(a.ndim - 2, 0), rows), b), n


# Whatever this process itself runs on has been tested above.
CAPABILITIES = {"default", "avx2", "avx512"} - {torch.backends.cpu.get_cpu_capability().lower()}


@pytest.mark.skipif("ARGUMBEL_CAPABILITY" in os.environ, reason="runs in the processes that this test starts")
@pytest.mark.parametrize("capability", sorted(CAPABILITIES))
def test_whatever_vectors_pytorch_uses(capability: str) -> None:
    """PyTorch's loops as other processors run them; where this processor cannot, PyTorch takes the best it has."""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "ARGUMBEL_CAPABILITY": capability}
    environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert run.returncode == 0, run.stdout[-3000:]
