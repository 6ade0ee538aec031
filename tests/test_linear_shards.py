"""Shards of a linear layer: the winners of all of them, merged, are the choice of the whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import argumbel as ag
from argumbel.choice import Choice
from argumbel.linear._merge import _merge

from .heads import as_bias
from .processes import two_processes
from .strategies import logits, seeds


@given(x=logits(batch=st.just(()), dtypes=(torch.float32, torch.float64)), seed=seeds, data=st.data())
def test_shards_choose_as_the_whole(x: Tensor, seed: int, data: st.DataObject) -> None:
    """Items dealt out to shards in any way; one may allow nothing, and then passes -inf."""
    n, rows = len(x), 3
    shard = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    winners = []
    for k in range(3):
        ids = (shard == k).nonzero().flatten()
        if not bool((x[ids] > -torch.inf).any()):
            winners.append(Choice(torch.full((rows,), -torch.inf, dtype=x.dtype), torch.full((rows,), -1)))
            continue
        noise = ag.KeyedNoise(seed, items=ids)
        own = ag.linear_gumbel_max(*as_bias(x[ids], rows), bias=x[ids], noise=noise)
        winners.append(Choice(own.values, ids[own.indices]))
    merged = _merge(*(torch.stack(part) for part in zip(*winners, strict=True)))
    whole = ag.gumbel_max(x.expand(rows, n), noise=ag.KeyedNoise(seed))
    assert torch.equal(merged.values, whole.values)
    assert torch.equal(merged.indices, whole.indices)


def test_ties_go_to_the_lowest_id_and_bad_rows_stay_bad() -> None:
    values = torch.tensor([[1.0, 2.0, torch.nan, 1.0, -torch.inf], [1.0, 3.0, 1.0, torch.inf, -torch.inf]])
    indices = torch.tensor([[7, 7, -1, 0, -1], [4, 1, 8, 1, -1]])
    best = _merge(values, indices)
    torch.testing.assert_close(best.values, torch.tensor([1.0, 3.0, *[torch.nan] * 3]), equal_nan=True)
    assert best.indices.tolist() == [4, 1, -1, -1, -1]


@pytest.fixture
def alone() -> Iterator[None]:
    """A group of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("shape", [(), (7,), (2, 3), (0,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sixteen_bytes_a_row_in_one_exchange(
    alone: None, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    sent: list[Tensor] = []
    plain = dist.all_gather
    monkeypatch.setattr(dist, "all_gather", lambda out, x, **own: (sent.append(x), plain(out, x, **own)))
    values, ids = torch.randn(shape, dtype=dtype), torch.randint(-(1 << 62), 1 << 62, shape)
    best = ag.merge_winners(values.requires_grad_(), ids)
    assert torch.equal(best.values, values)
    assert torch.equal(best.indices, ids)
    assert best.values.dtype == dtype
    assert not best.values.requires_grad
    (packed,) = sent
    assert packed.numel() * packed.element_size() == 16 * values.numel()


PROCESS = """
import json, sys
from datetime import timedelta
import torch, torch.distributed as dist, argumbel as ag

rank, path = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2, timeout=timedelta(seconds=60))
g = torch.Generator().manual_seed(0)
hidden, weight = (torch.randn(shape, generator=g, dtype=torch.float64) for shape in ((40, 6), (500, 6)))
noise = ag.KeyedNoise(seed=3, items=range(500))
whole = ag.linear_gumbel_max(hidden, weight, noise=noise)
ids = torch.arange(rank, 500, 2)
own = ag.linear_gumbel_max(hidden, weight[ids], noise=ag.KeyedNoise(seed=3, items=ids))
merged = ag.merge_winners(own.values, ids[own.indices])
assert torch.equal(merged.indices, whole.indices)
torch.testing.assert_close(merged.values, whole.values)
values = own.values.clone()
values[rank] = torch.nan
marked = ag.merge_winners(values, ids[own.indices])
out = {"indices": merged.indices.tolist(), "marked": marked.indices.tolist(), "values": merged.values.tolist()}
dist.barrier()
dist.destroy_process_group()
print(json.dumps(out))
"""


def test_two_processes_agree(tmp_path: Path) -> None:
    outputs = two_processes(PROCESS, tmp_path / "store", timeout=120)
    first, second = map(json.loads, outputs)
    assert first == second
    assert {i % 2 for i in first["indices"]} == {0, 1}  # both had winners
    assert first["marked"] == [-1, -1, *first["indices"][2:]]


def test_errors_of_merging() -> None:
    values, indices = torch.zeros(3), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(RuntimeError, match=r"call torch\.distributed\.init_process_group in each process first"):
        ag.merge_winners(values, indices)
    with pytest.raises(TypeError, match=r"values must be a float32 or float64 tensor.*bfloat16"):
        ag.merge_winners(values.bfloat16(), indices)
    with pytest.raises(TypeError, match=r"values must be a float32 or float64 tensor.*list"):
        ag.merge_winners([0.0], indices)
    with pytest.raises(TypeError, match=r"indices must be an int64 tensor.*int32"):
        ag.merge_winners(values, indices.int())
    with pytest.raises(ValueError, match="indices must have the shape and device of values"):
        ag.merge_winners(values, indices[:2])
    with pytest.raises(ValueError, match="indices must have the shape and device of values"):
        ag.merge_winners(values, indices.to("meta"))
