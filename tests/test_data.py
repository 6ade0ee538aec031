"""Weighted orders of a training set: one sequence for all ranks, all buckets and all stops, and its law."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

import argumbel as ag
from argumbel.data import WeightedSampler

from . import oracles
from .statistics import check_draws, check_independent

BEYOND = (1 << 24) + 12_345  # torch.multinomial stops at 2^24


def weights_of(n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    w = torch.empty(n).log_normal_(3, 1.5, generator=torch.Generator().manual_seed(n)).to(dtype)
    w[1::7] = 0
    return w


def whole(sampler: WeightedSampler) -> Tensor:
    return torch.cat([torch.empty(0, dtype=torch.int64), *sampler.indices()])


def together(samplers: list[WeightedSampler], each: int | None = None) -> list[int]:
    """The indices of all ranks in the order of positions: of a whole iteration, or so many of each rank."""
    if each is None:
        parts = [list(sampler) for sampler in samplers]
    else:
        iterators = [iter(sampler) for sampler in samplers]
        parts = [[next(iterator) for _ in range(each)] for iterator in iterators]
    assert len({len(part) for part in parts}) == 1
    return [index for step in zip(*parts, strict=True) for index in step]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bucket", [None, 50_000])
def test_the_order_of_a_million_is_argsort_of_the_times(dtype: torch.dtype, bucket: int | None) -> None:
    w = weights_of(1_000_000, dtype)
    sampler = WeightedSampler(w, seed=3, bucket=bucket)
    sampler.set_epoch(5)
    order = whole(sampler)
    times = sampler.noise.exponential((1, len(w)), dtype=torch.float64)[0] / w
    assert len(order) == len(sampler) == int((w > 0).sum())
    assert torch.equal(order, times.argsort(stable=True)[: len(order)])


def test_backends_give_one_order(backend: str) -> None:
    for dtype in (torch.float32, torch.float64):
        w = weights_of(3000, dtype)
        sampler = WeightedSampler(w, bucket=400)
        times = sampler.noise.exponential((1, 3000), dtype=torch.float64)[0] / w
        assert torch.equal(whole(sampler), times.argsort(stable=True)[: len(sampler)])


@given(data=st.data())
def test_one_sequence_whatever_the_ranks_the_buckets_and_the_stops(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 300), "n")
    replacement = data.draw(st.booleans(), "replacement")
    w = weights_of(n) + (torch.arange(n) == 0)
    items = int((w > 0).sum())
    num_samples = data.draw(st.integers(1, items), "num_samples")
    full = list(WeightedSampler(w, None if not replacement else 3 * n + 7, replacement))
    endless = full if replacement else full * 30  # where no items are left the order begins again
    position, length = 0, num_samples
    state: dict[str, Any] | None = None
    while True:
        ranks = data.draw(st.integers(1, 7), "ranks")
        drop_last = data.draw(st.booleans(), "drop_last")
        bucket = data.draw(st.integers(1, 2 * n), "bucket")
        samplers = [
            WeightedSampler(w, num_samples, replacement, ranks=ranks, rank=rank, drop_last=drop_last, bucket=bucket)
            for rank in range(ranks)
        ]
        for sampler in samplers:
            if state is not None:
                sampler.load_state_dict(state)
        left = length - position
        each = left // ranks if drop_last else -(-left // ranks)
        assert len(samplers[0]) == (num_samples // ranks if drop_last else -(-num_samples // ranks))
        steps = data.draw(st.integers(0, each), "steps")
        if not each or not steps:
            break
        assert together(samplers, steps) == endless[position : position + steps * ranks]
        position += steps * ranks
        states = [sampler.state_dict() for sampler in samplers]
        assert all(other["position"] == position for other in states)
        state = data.draw(st.sampled_from(states), "state")
        if position >= length:
            break


@pytest.mark.parametrize("replacement", [False, True])
def test_four_ranks_go_on_as_five(replacement: bool) -> None:
    w = weights_of(40_000)
    arguments: dict[str, Any] = {"replacement": replacement, "num_samples": 30_000, "seed": 11}
    order = list(WeightedSampler(w, **arguments))
    four = [WeightedSampler(w, **arguments, ranks=4, rank=rank, bucket=1000) for rank in range(4)]
    begun = together(four, 1234)
    state = json.loads(json.dumps(four[2].state_dict()))
    five = [WeightedSampler(w, **arguments, ranks=5, rank=rank) for rank in range(5)]
    for sampler in five:
        sampler.load_state_dict(state)
    rest = together(five)
    assert (begun + rest)[:30_000] == order
    assert len(begun + rest) == 4 * 1234 + 5 * math.ceil((30_000 - 4 * 1234) / 5)


def test_what_is_left_over() -> None:
    """With 10 positions and 4 ranks: 8, or 12, of which the last two are new items, or the first again."""
    w = torch.rand(20) + 0.1
    order = list(WeightedSampler(w))

    def of_four(num_samples: int, drop_last: bool) -> list[int]:
        return together([WeightedSampler(w, num_samples, ranks=4, rank=rank, drop_last=drop_last) for rank in range(4)])

    assert of_four(10, True) == order[:8]
    assert of_four(10, False) == order[:12]
    assert of_four(19, False) == order
    w[:2] = 0
    order = list(WeightedSampler(w))
    assert of_four(18, False) == order + order[:2]
    assert of_four(3, True) == []


def test_the_first_two_follow_plackett_luce() -> None:
    w = torch.tensor([1.0, 3.0, 0.5, 0.0, 2.0])
    sampler = WeightedSampler(w, 2)
    pairs = []
    for epoch in range(2000):
        sampler.set_epoch(epoch)
        pairs.append(list(sampler))
    first, second = torch.tensor(pairs).T
    law = oracles.plackett_luce(w.log(), 2)
    check_draws(first * 5 + second, [law.get((a, b), 0.0) for a in range(5) for b in range(5)])
    p = w / w.sum()
    check_independent(first[:-1:2], first[1::2], p, p)


def test_seeds_are_independent() -> None:
    w = torch.tensor([1.0, 3.0, 0.0, 2.0])
    first = torch.tensor([next(iter(WeightedSampler(w, seed=seed))) for seed in range(1000)])
    p = w / w.sum()
    check_draws(first, p)
    check_independent(first[:-1:2], first[1::2], p, p)


@pytest.mark.parametrize("n", [3, 32, 64, 1001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_replacement_each_draw_is_categorical(n: int, dtype: torch.dtype) -> None:
    w = weights_of(n, dtype)
    w[40:70] = 0
    draws = whole(WeightedSampler(w, 300_000, replacement=True))
    p = w.double() / w.double().sum()
    check_draws(draws, p)
    common = p.argsort(descending=True)[:3]
    is_common, share = torch.isin(draws, common).long(), float(p[common].sum())
    check_independent(is_common[::2], is_common[1::2], *[(1 - share, share)] * 2)


def test_sums_beyond_float32() -> None:
    """Half of the mass lies in 10,000 items that a float32 sum could not tell from nothing."""
    w = torch.full((20_000,), 1e-5, dtype=torch.float64)
    w[0] = 0.1
    draws = whole(WeightedSampler(w * 1e9, 100_000, replacement=True))
    check_draws((draws > 0).long(), [1 / 2.9999, 1.9999 / 2.9999])
    assert draws.unique().numel() > 15_000


@pytest.mark.parametrize("replacement", [False, True])
def test_more_than_two_to_the_24_items(replacement: bool, tmp_path: Path) -> None:
    """In a file that is mapped, and nearly all of weight zero."""
    w = torch.from_file(str(tmp_path / "weights"), shared=True, size=BEYOND)
    some = torch.tensor([5, 1 << 24, (1 << 24) + 1, BEYOND - 1])
    w[some] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    with pytest.raises(RuntimeError):
        list(WeightedRandomSampler(w, 4, replacement))
    sampler = WeightedSampler(w, 4000 if replacement else None, replacement)
    assert sampler.weights.data_ptr() == w.data_ptr()
    indices = whole(sampler)
    if replacement:
        check_draws(torch.searchsorted(some, indices), [0.1, 0.2, 0.3, 0.4])
        assert bool(torch.isin(indices, some).all())
    else:
        assert indices.sort().values.tolist() == some.tolist()


def test_weights_of_any_kind(tmp_path: Path) -> None:
    values = np.random.default_rng(1).lognormal(3, 1.5, 500)
    order = list(WeightedSampler(torch.tensor(values)))
    mapped = np.memmap(tmp_path / "weights", dtype=np.float64, mode="w+", shape=(500,))
    mapped[:] = values
    mapped.flush()
    read = np.memmap(tmp_path / "weights", dtype=np.float64, mode="r")
    sampler = WeightedSampler(read)
    assert sampler.weights.data_ptr() == read.ctypes.data
    for weights in (
        *(values, values.tolist(), tuple(values), mapped, torch.nn.Parameter(torch.tensor(values))),
        torch.tensor(values).repeat_interleave(2)[::2],
    ):
        assert list(WeightedSampler(weights)) == order
    assert list(sampler) == order
    counts = torch.randint(0, 9, (500,))
    for same in (counts, counts.int(), counts.half(), counts.bfloat16(), counts.tolist(), counts.numpy()):
        assert list(WeightedSampler(same)) == list(WeightedSampler(counts.double()))
    assert sorted(WeightedSampler(counts > 4)) == (counts > 4).nonzero().squeeze().tolist()
    assert list(WeightedSampler(counts[::3])) == list(WeightedSampler(counts[::3].clone()))
    strided = torch.tensor(values).repeat_interleave(3)[::3]
    assert list(WeightedSampler(strided, 999, True)) == list(WeightedSampler(values, 999, True))


@pytest.mark.parametrize("bucket", [1, 7, 1000])
def test_weights_at_the_ends_of_the_range(bucket: int) -> None:
    for dtype in (torch.float32, torch.float64):
        limits = torch.finfo(dtype)
        small, least = limits.tiny, limits.smallest_normal * limits.eps
        w = torch.tensor([limits.max, 1.0, 0.0, -0.0, small, least, small / 2, limits.max / 2, 1.0], dtype=dtype)
        order = list(WeightedSampler(w, bucket=bucket))
        assert sorted(order) == [0, 1, 4, 5, 6, 7, 8]
        assert set(order[:2]) == {0, 7}
        assert set(order[2:4]) == {1, 8}


def test_buckets_have_the_size_that_was_asked_for() -> None:
    w = weights_of(200_000)
    sizes = [len(piece) for piece in WeightedSampler(w, bucket=10_000).indices()]
    assert all(abs(size - 10_000) < 1000 for size in sizes[:-1])
    assert len(next(WeightedSampler(w, 10).indices())) == 10


def test_raised_weights_move_few_items() -> None:
    """The noise of an item stays, so the orders of two samplers with much the same weights are much the same."""
    w = weights_of(100_000)
    raised = w.clone()
    raised[::100] *= 5
    first, second = (set(WeightedSampler(x, 5000)) for x in (w, raised))
    assert len(first & second) > 4700


class Numbers(Dataset[int]):
    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> int:
        assert type(index) is int
        return index


@pytest.mark.parametrize("replacement", [False, True])
def test_in_a_data_loader_with_workers(replacement: bool) -> None:
    w = weights_of(1000)

    def epoch(number: int) -> list[int]:
        sampler = WeightedSampler(w, 300, replacement)
        sampler.set_epoch(number)
        return list(sampler)

    sampler = WeightedSampler(w, 300, replacement)
    loader = DataLoader(Numbers(), 32, sampler=sampler, num_workers=2, persistent_workers=True)
    assert len(loader) == 10
    for number in range(2):  # the next epoch by itself
        assert torch.cat(list(loader)).tolist() == epoch(number)
    sampler.set_epoch(7)
    batches = []
    for batch in loader:
        batches += batch.tolist()
        if len(batches) == 96:
            state = sampler.state_dict(taken=len(batches))
            break
    resumed = WeightedSampler(w, 300, replacement)
    resumed.load_state_dict(state)
    for batch in DataLoader(Numbers(), 32, sampler=resumed):
        batches += batch.tolist()
    assert batches == epoch(7)


def test_epochs() -> None:
    w = weights_of(100)
    sampler = WeightedSampler(w, 20)
    orders = []
    for epoch in range(3):
        assert sampler.epoch == max(0, epoch - 1)
        orders.append(list(sampler))  # after a finished iteration the next epoch
    assert sampler.epoch == 2
    assert len({tuple(order) for order in orders}) == 3
    for epoch in (2, 0, 1, 1):
        sampler.set_epoch(epoch)
        assert list(sampler) == orders[epoch]
    sampler.set_epoch(0)
    iterator = iter(sampler)
    assert [next(iterator) for _ in range(5)] == orders[0][:5]
    assert list(sampler) == orders[0]  # broken off: the same again
    assert list(sampler) == orders[1]


def test_states() -> None:
    w = weights_of(1000)
    sampler = WeightedSampler(w, 200, bucket=30)
    first, second = list(sampler), list(sampler)
    assert len(first) == len(second) == 200

    def resumed(state: dict[str, Any], epoch: int | None = None) -> list[int]:
        other = WeightedSampler(w, 200)
        other.load_state_dict(state)
        assert other.state_dict() == state
        assert len(other) == 200
        if epoch is not None:
            other.set_epoch(epoch)
        return list(other)

    sampler.set_epoch(0)
    state = sampler.state_dict()
    assert resumed(state) == first
    iterator = iter(sampler)
    for taken in range(1, 201):
        next(iterator)
        if taken % 23 == 0:
            state = sampler.state_dict()
            assert state["position"] == taken
            assert state["before"] <= taken
            assert resumed(state) == first[taken:]
            assert resumed(state, 0) == first[taken:]
            assert resumed(state, 1) == second
            assert resumed(sampler.state_dict(taken=10)) == first[10:]
    assert resumed(sampler.state_dict()) == second  # nothing is left: the next epoch
    assert resumed(sampler.state_dict(), 0) == first
    batches = sampler.indices(64)
    assert next(batches).tolist() == second[:64]
    assert resumed(sampler.state_dict()) == second[64:]
    state = {**sampler.state_dict(), "before": 0, "time": 0.0}  # a position alone is enough, and slower
    other = WeightedSampler(w, 200, bucket=11)
    other.load_state_dict(state)
    assert list(other) == second[64:]


def test_a_state_of_another_sequence() -> None:
    w = weights_of(1000)
    state = WeightedSampler(w, seed=1).state_dict()
    for other, message in [
        (WeightedSampler(w), r"state must be of the same seed as the sampler, 0, but it is of 1; make"),
        (WeightedSampler(w * 1.1, seed=1), r"state must be of the same weights as the sampler"),
        (WeightedSampler(w[:-1], seed=1), r"state must be of the same weights as the sampler"),
        (WeightedSampler(w, replacement=True, seed=1), r"state must be of the same replacement as the sampler, True"),
    ]:
        with pytest.raises(ValueError, match=message):
            other.load_state_dict(state)
    with pytest.raises(ValueError, match=r"state must be what state_dict\(\) returned, but it has no 'epoch'"):
        WeightedSampler(w, seed=1).load_state_dict({k: v for k, v in state.items() if k != "epoch"})


@pytest.mark.parametrize("size", [1, 7, 64, 5000])
@pytest.mark.parametrize("replacement", [False, True])
def test_batches_of_indices(size: int, replacement: bool) -> None:
    sampler = WeightedSampler(weights_of(1000), 300, replacement, bucket=50)
    order = list(sampler)
    sampler.set_epoch(0)
    batches = list(sampler.indices(size))
    assert all(len(batch) == size for batch in batches[:-1])
    assert torch.cat(batches).tolist() == order
    assert {batch.dtype for batch in batches} == {torch.int64}
    assert sampler.state_dict()["position"] == 300


@pytest.fixture
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_ranks_of_torch_distributed(group: None, monkeypatch: pytest.MonkeyPatch) -> None:
    w = weights_of(100)
    assert (WeightedSampler(w).ranks, WeightedSampler(w).rank) == (1, 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    monkeypatch.setattr(dist, "get_rank", lambda: 2)
    assert list(WeightedSampler(w, 30)) == list(WeightedSampler(w, ranks=1, rank=0))[2:30:3]


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_bad_weight_is_named(bad: float, dtype: torch.dtype) -> None:
    for n, place in (1, 0), (300_000, 299_999):
        w = torch.ones(n, dtype=dtype)
        w[place] = bad
        with pytest.raises(
            ValueError, match=rf"must be finite and at least 0, but weights\[{place}\] is {bad}; correct"
        ):
            WeightedSampler(w)
    w = torch.ones(10, dtype=dtype)
    sampler = WeightedSampler(w)
    w[3] = bad
    with pytest.raises(ValueError, match=r"but weights\[3\] is"):
        list(sampler)


def test_weights_that_change() -> None:
    w = torch.ones(10)
    sampler = WeightedSampler(w)
    w[3] = 0
    with pytest.raises(ValueError, match="weights must stay the same while an order is drawn, but 9 of 10 items came"):
        list(sampler)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"weights": []}, ValueError, r"weights must be a row of at least one number, but its shape is \(0,\)"),
        ({"weights": torch.ones(2, 2)}, ValueError, r"weights must be a row .* shape is \(2, 2\)"),
        ({"weights": 1.0}, ValueError, r"weights must be a row .* shape is \(\)"),
        ({"weights": ["a"]}, TypeError, r"weights must be a tensor, an array or a list of numbers, but it is a list"),
        ({"weights": np.array(["a"])}, TypeError, r"weights must be .*, but it is <U1"),
        ({"weights": torch.ones(2) * 1j}, TypeError, r"weights must be a dense tensor of real numbers"),
        ({"weights": torch.ones(2).to_sparse()}, TypeError, r"weights must be a dense tensor of real numbers"),
        ({"weights": torch.zeros(3)}, ValueError, r"weights must hold a positive weight, but all 3 are 0"),
        ({"num_samples": 0}, ValueError, r"num_samples must be between 1 and"),
        ({"num_samples": 5}, ValueError, r"between 1 and the number of items of positive weight, 4, but it is 5"),
        ({"num_samples": 2.0}, TypeError, r"num_samples must be an integer"),
        ({"num_samples": 0, "replacement": True}, ValueError, r"num_samples must be at least 1"),
        ({"replacement": 1}, TypeError, r"replacement must be True or False, but it is a int"),
        ({"drop_last": None}, TypeError, r"drop_last must be True or False"),
        ({"ranks": 2}, ValueError, r"rank must be given where ranks is, but it is None; pass both or neither"),
        ({"rank": 0}, ValueError, r"ranks must be given where rank is"),
        ({"ranks": 2, "rank": 2}, ValueError, r"rank must be between 0 and ranks - 1, 1, but it is 2"),
        ({"ranks": 0, "rank": 0}, ValueError, r"ranks must be at least 1"),
        ({"bucket": 0}, ValueError, r"bucket must be at least 1"),
        ({"seed": 1 << 64}, ValueError, r"seed must fit 64 bits"),
        (
            {"weights": [1e308, 1e308], "replacement": True},
            ValueError,
            r"weights must have a finite sum where items are drawn with replacement",
        ),
    ],
)
def test_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        WeightedSampler(**{"weights": [1.0, 2.0, 0.0, 1.0, 5.0], **arguments})


def test_other_arguments() -> None:
    sampler = WeightedSampler([1.0, 2.0])
    for call in (lambda: sampler.set_epoch(-1), lambda: sampler.indices(0), lambda: sampler.state_dict(-1)):
        with pytest.raises(ValueError, match="must be at least"):
            call()


def test_defaults() -> None:
    w = [1.0, 0.0, 2.0]
    assert len(WeightedSampler(w)) == 2
    assert len(WeightedSampler(w, replacement=True)) == 3
    assert list(WeightedSampler(w, 2, True)) == list(WeightedSampler(w, 2, replacement=True))  # PyTorch's order
    assert ag.data.WeightedSampler is WeightedSampler


def test_draws_that_must_not_change() -> None:
    w = torch.arange(12.0)
    sampler = WeightedSampler(w, seed=1)
    assert list(sampler) == [6, 9, 10, 11, 1, 5, 7, 4, 8, 2, 3]
    assert list(sampler) == [9, 11, 8, 5, 4, 10, 7, 1, 6, 2, 3]
    assert list(WeightedSampler(w, replacement=True, seed=-1)) == [9, 7, 10, 3, 1, 11, 7, 4, 5, 10, 10, 2]


def test_another_default_device() -> None:
    w = [1.0, 2.0, 3.0] * 50
    expected = list(WeightedSampler(w)), list(WeightedSampler(w, replacement=True))
    with torch.device("meta"):
        assert (list(WeightedSampler(w)), list(WeightedSampler(w, replacement=True))) == expected
