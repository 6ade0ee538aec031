"""Weighted items by their time of arrival: every path is the reference, and the reference is ``E / weight``."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel import kernels

from . import oracles
from .statistics import check_draws
from .versions import newer_compiler

NEVER = torch.full((1,), torch.inf, dtype=torch.float64)


def weights_of(n: int, dtype: torch.dtype) -> Tensor:
    w = torch.empty(n).log_normal_(3, 1.5, generator=torch.Generator().manual_seed(n)).to(dtype)
    w[1::7], w[2::11] = 0, 1e-38
    return w


def keys_of(n: int) -> dict[str, kernels.Key]:
    generator = torch.Generator().manual_seed(1)
    scattered = torch.randint(-(1 << 62), 1 << 62, (n,), generator=generator)
    runs = torch.arange(n) + (torch.arange(n) > n // 2) * 1000  # consecutive but for one jump
    return {
        "positions": (0x0123456789ABCDEF, None, None),
        "scattered": (-1, None, scattered),
        "runs": (3, None, runs),
        "two words": (3, scattered.flip(0), scattered),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lo", [0.0, 1e-3, 1e-40])
@pytest.mark.parametrize("law", ["exponential", "uniform", "odds"])
def test_kernel_is_the_reference(path: str, threads: int, law: str, dtype: torch.dtype, lo: float) -> None:
    """Times to the bit, and the same positions."""
    for n in (0, 5, 1019, 1025, 70_001):
        w = weights_of(n, dtype)
        groups = (torch.arange(n) % 5).int()
        bars = torch.tensor([0.1, torch.inf, 1e-3, 0.0, 1e35], dtype=torch.float64)
        for name, key in keys_of(n).items():
            for first in (0, 3, -2, 1 << 62) if name == "positions" else (0,):
                for ends, of in [(NEVER, None), (bars[:1], None), (bars[2:3], None), (bars, groups)]:
                    ours = kernels.arrivals(w, law, lo, ends, of, first, key)
                    with kernels.use("reference"):
                        exact = kernels.arrivals(w, law, lo, ends, of, first, key)
                    assert torch.equal(ours[0], exact[0]), (n, name, first)
                    assert torch.equal(ours[1], exact[1])
                    assert ours[2] is exact[2] is False


def test_times_are_those_of_keyed_noise(path: str) -> None:
    w = weights_of(3000, torch.float64)
    times, positions, _ = kernels.arrivals(w, "exponential", 0.0, NEVER, None, 0, (7, None, None))
    assert torch.equal(positions, w.nonzero().squeeze())
    assert torch.equal(
        times, (ag.KeyedNoise(7, rows=[0]).exponential((1, 3000), dtype=torch.float64)[0] / w)[positions]
    )


def test_stretches_of_time_and_of_ids_part_the_arrivals(path: str) -> None:
    """(0, a], (a, b], (b, c] are (0, c], and batches with a first id are the whole."""
    w, key = weights_of(5000, torch.float32), (5, None, None)
    ends = torch.tensor([0.0, 1e-3, 0.02, 0.7, torch.inf], dtype=torch.float64)
    whole = kernels.arrivals(w, "exponential", 0.0, NEVER, None, 0, key)
    by_time = [kernels.arrivals(w, "exponential", float(ends[i]), ends[i + 1 : i + 2], None, 0, key) for i in range(4)]
    assert torch.equal(torch.cat([part[1] for part in by_time]).sort().values, whole[1])
    by_id = [kernels.arrivals(w[i : i + 999], "exponential", 0.0, NEVER, None, i, key) for i in range(0, 5000, 999)]
    assert torch.equal(torch.cat([part[0] for part in by_id]), whole[0])


@pytest.mark.parametrize("bad", [-1.0, torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_weight_that_is_none(path: str, threads: int, bad: float, dtype: torch.dtype) -> None:
    for n, place in [(1, 0), (2000, 1999), (200_000, 123_456)]:
        w = torch.ones(n, dtype=dtype)
        w[place] = bad
        assert kernels.arrivals(w, "exponential", 0.0, NEVER / NEVER, None, 0, (1, None, None))[2]
        w[place] = -0.0
        times, positions, is_bad = kernels.arrivals(w, "exponential", 0.0, NEVER, None, 0, (1, None, None))
        assert not is_bad
        assert len(times) == len(positions) == n - 1


def test_weights_with_strides_and_weights_at_the_ends_of_the_range(path: str) -> None:
    wide = weights_of(4000, torch.float32)
    ours = kernels.arrivals(wide[::2], "exponential", 0.0, NEVER, None, 0, (1, None, None))
    assert torch.equal(
        ours[0], kernels.arrivals(wide[::2].clone(), "exponential", 0.0, NEVER, None, 0, (1, None, None))[0]
    )
    for dtype in (torch.float32, torch.float64):
        limits = torch.finfo(dtype)
        for w in (limits.max, limits.tiny, limits.smallest_normal / 4):
            x = torch.full((3000,), w, dtype=dtype)
            times = kernels.arrivals(x, "exponential", 0.0, NEVER, None, 0, (1, None, None))[0]
            assert len(times) == 3000
            middle = times.median()
            if middle.isfinite():
                early = kernels.arrivals(x, "exponential", 0.0, middle.reshape(1), None, 0, (1, None, None))[0]
                late = kernels.arrivals(x, "exponential", float(middle), NEVER, None, 0, (1, None, None))[0]
                assert torch.equal(torch.cat([early, late]).sort().values, times.sort().values)


def test_the_first_to_arrive_are_a_draw_without_replacement(path: str) -> None:
    """Winner and runner-up of 40,000 races of five: an id of two words is (race, runner)."""
    w = torch.tensor([1.0, 3.0, 0.5, 0.0, 2.0])
    ids = torch.arange(200_000)
    key = (7, ids // 5, ids % 5)
    times, positions, _ = kernels.arrivals(w.repeat(40_000), "exponential", 0.0, NEVER, None, 0, key)
    arrived = torch.full((200_000,), torch.inf, dtype=torch.float64).scatter(0, positions, times)
    order = arrived.reshape(40_000, 5).argsort(-1)
    law = oracles.plackett_luce(w.log(), 2)
    check_draws(order[:, 0] * 5 + order[:, 1], [law.get((a, b), 0.0) for a in range(5) for b in range(5)])


@newer_compiler
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled(dynamic: bool) -> None:
    """An operator of a size known when it has run."""

    def late(w: Tensor) -> Tensor:
        times, positions, _ = kernels.arrivals(w, "exponential", 0.0, NEVER, None, 0, (1, None, None))
        return w[positions] * times

    w = weights_of(50, torch.float32)
    compiled = torch.compile(late, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    assert torch.equal(compiled(w), late(w))
