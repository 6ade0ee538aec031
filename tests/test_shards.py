"""Logits that several processes hold in parts (``DTensor``): the draws of the whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

import argumbel as ag
from argumbel.coupling import gumbel_coupling
from argumbel.relax import log_gumbel_softmax

from .processes import two_processes
from .statistics import check_draws, check_independent

if not dist.is_available():
    pytest.skip("PyTorch without torch.distributed", allow_module_level=True)
tensors = pytest.importorskip("torch.distributed.tensor")
if not hasattr(tensors, "DTensor"):
    pytest.skip("PyTorch before 2.5 has no public DTensor", allow_module_level=True)

PROCESS = """
import sys
from datetime import timedelta
import torch, torch.distributed as dist, argumbel as ag
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

rank, path = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2, timeout=timedelta(seconds=60))
mesh, square = init_device_mesh("cpu", (2,)), init_device_mesh("cpu", (1, 2))
generator = torch.Generator()

def seeded(seed=7):
    return generator.manual_seed(seed)

def own():  # that of the first process counts
    return generator.manual_seed(7 + rank)

key = ag.KeyedNoise(3)
for shape, dim in (((5, 4, 30), -1), ((5, 4, 30), 1), ((1, 30), 1), ((30, 6), 0), ((5, 3, 700), 2)):
    x = torch.randn(shape, generator=seeded(1))
    mask = torch.rand(shape, generator=seeded(2)) < 0.8
    mask.select(dim, 0).fill_(True)
    noise = torch.randn(shape, generator=seeded(3))
    lead = [size for d, size in enumerate(shape) if d != dim % len(shape)]
    rows = torch.arange(torch.Size(lead).numel()).flip(0) + 2**40
    items = torch.arange(shape[dim]) + 5
    places = [(mesh, [Replicate()]), (square, [Replicate(), Replicate()])]
    places += [(mesh, [Shard(d)]) for d in range(len(shape)) if d != dim % len(shape)]
    places += [(square, [Shard(d), Shard(e)]) for d in range(len(shape)) for e in range(len(shape))
               if dim % len(shape) not in (d, e)]
    for where, placements in places:
        parts = distribute_tensor(x, where, placements)
        keys = key, ag.KeyedNoise(3, rows, items), ag.KeyedNoise(rows * 3, rows)
        limits = dict(temperature=0.7, top_k=20, min_p=0.01, noise=key)
        for given in (*(dict(noise=k) for k in keys), dict(noise=noise), dict(mask=mask), limits):
            best = ag.gumbel_max(x, dim=dim, **{"generator": seeded(), **given} if "mask" in given else given)
            part = ag.gumbel_max(parts, dim=dim, **{"generator": own(), **given} if "mask" in given else given)
            for mine, whole in zip(part, best):
                assert isinstance(mine, DTensor) and mine.shape == whole.shape, (mine.shape, whole.shape)
                assert torch.equal(mine.full_tensor(), whole), (shape, dim, placements, given)
        assert all(a.is_replicate() == b.is_replicate() for a, b in zip(part.indices.placements, placements))

        a, b = x.clone().requires_grad_(), parts.clone().detach().requires_grad_()
        weights = torch.randn(shape, generator=seeded(4))
        tau = torch.rand(lead, generator=seeded(5)).unsqueeze(dim) + 0.1
        for tau in (0.7, torch.tensor(0.7), tau):
            for hard in (False, True):
                y, z = ag.gumbel_softmax(a, tau, hard, dim=dim, generator=seeded()), None
                z = ag.gumbel_softmax(b, tau, hard, dim=dim, generator=own())
                assert z.placements == tuple(placements)
                torch.testing.assert_close(z.full_tensor(), y)  # few logits with a gradient are rounded otherwise
                (slope,) = torch.autograd.grad((y * weights).sum(), a)
                w = distribute_tensor(weights, where, placements)
                (part_slope,) = torch.autograd.grad((z * w).sum().full_tensor(), b)
                torch.testing.assert_close(part_slope.full_tensor(), slope)

        drawn = ag.categorical(parts, (2, 3), dim=dim, generator=own())
        whole = ag.categorical(x, (2, 3), dim=dim, generator=seeded())
        assert drawn.shape == whole.shape and drawn.full_tensor().min() >= 0
        if all(p.is_replicate() for p in placements):
            assert torch.equal(drawn.full_tensor(), whole)

rows = distribute_tensor(torch.zeros(2000, 4), mesh, [Shard(0)])
drawn = ag.categorical(rows, generator=own()).full_tensor()
if rank == 0:
    print(*drawn.tolist())
dist.barrier()
dist.destroy_process_group()
"""


def test_two_processes_draw_what_one_draws(tmp_path: Path) -> None:
    """Each process has a generator of its own, seeded apart; rows in uneven parts, also none."""
    outputs = two_processes(PROCESS, tmp_path / "store", timeout=200)
    drawn = np.array(outputs[0].split(), dtype=np.int64)
    assert len(drawn) == 2000
    quarters = np.full(4, 1 / 4)
    check_draws(drawn, quarters)
    check_independent(drawn[:1000], drawn[1000:], quarters, quarters)  # the parts of the two processes


@pytest.fixture
def alone() -> Iterator[Any]:
    """A mesh of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_errors_of_shards(alone: Any) -> None:
    x = torch.zeros(4, 3)
    rows = tensors.distribute_tensor(x, alone, [tensors.Shard(0)])
    items = tensors.distribute_tensor(x, alone, [tensors.Shard(1)])
    sums = tensors.DTensor.from_local(x, alone, [tensors.Partial()])
    tau = torch.ones(4, 1, requires_grad=True)
    for error, message, call in [
        (ValueError, "all items of a row on one process.*merge_winners", lambda: ag.gumbel_max(items)),
        (ValueError, "all items of a row on one process", lambda: ag.gumbel_max(rows, dim=0)),
        (ValueError, "all items of a row on one process", lambda: ag.categorical(items)),
        (ValueError, "all items of a row on one process", lambda: ag.gumbel_softmax(items)),
        (ValueError, "logits must be replicated or sharded", lambda: ag.gumbel_max(sums)),
        (ValueError, "noise must have the shape", lambda: ag.gumbel_max(rows, noise=torch.zeros(1, 3))),
        (ValueError, "generator must be left out", lambda: ag.gumbel_max(rows, noise=x, generator=torch.Generator())),
        (ValueError, "mask must broadcast", lambda: ag.gumbel_max(rows, mask=torch.ones(2, 3, dtype=torch.bool))),
        (ValueError, "tau must have no gradient", lambda: ag.gumbel_softmax(rows, tau)),
        (TypeError, "a DTensor; pass logits.full_tensor", lambda: ag.gumbel_topk(rows, 2)),
        (TypeError, "a DTensor; pass logits.full_tensor", lambda: ag.sample_without_replacement(rows, 2)),
        (TypeError, "a DTensor; pass logits.full_tensor", lambda: log_gumbel_softmax(rows)),
        (TypeError, "a DTensor; pass logits.full_tensor", lambda: gumbel_coupling(rows, rows)),
        (TypeError, "hidden must be a plain tensor", lambda: ag.linear_gumbel_max(rows, torch.zeros(7, 3))),
        (TypeError, "weight must be a plain tensor", lambda: ag.linear_gumbel_max(x, rows)),
        (ValueError, "logits must not be NaN", lambda: ag.gumbel_max(rows * torch.nan)),
        (ValueError, "logits must not be NaN", lambda: ag.categorical(rows * torch.nan)),
    ]:
        with pytest.raises(error, match=message):
            call()


def test_a_replicated_tau_has_its_gradient(alone: Any) -> None:
    x, tau = torch.randn(4, 3), torch.full((4, 1), 0.7, requires_grad=True)
    whole = tensors.distribute_tensor(x, alone, [tensors.Replicate()])
    weights = torch.randn(4, 3)
    slopes = [
        torch.autograd.grad((y * weights).sum(), tau)[0]
        for y in (
            ag.gumbel_softmax(x, tau, noise=ag.KeyedNoise(1)),
            ag.gumbel_softmax(whole, tau, noise=ag.KeyedNoise(1)).to_local(),
        )
    ]
    torch.testing.assert_close(*slopes)
