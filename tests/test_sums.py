"""Exact sums: every path is the reference to the bit, the reference the sum of fractions."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from argumbel import kernels
from argumbel.kernels.sums import LIMB, UNIT

from .versions import newer_compiler


def numbers(n: int, kind: str, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    spread = {"near": 1.5, "far": 20.0, "ends": 1.5}[kind]
    x = torch.empty(n, dtype=torch.float64).log_normal_(3, spread, generator=generator).clamp(max=1e37).to(dtype)
    x[1::7] = 0
    if kind == "ends":
        limits = torch.finfo(dtype)
        x[::1000] = limits.max / 4096
        x[2::900], x[3::800] = limits.smallest_normal, limits.smallest_normal / 4
        x[: n // 2] *= 1e-30  # tiles of small numbers alone
    return x


def exact(x: Tensor) -> Fraction:
    return sum(map(Fraction, x.tolist()), Fraction(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["near", "far", "ends"])
def test_kernel_is_the_reference_and_exact(path: str, threads: int, kind: str, dtype: torch.dtype) -> None:
    for n in (0, 1, 33, 1024, 40_001):
        x = numbers(n, kind, dtype)
        of = torch.randint(0, 5, (n,), generator=torch.Generator().manual_seed(1)).int()
        for groups, count in ((None, 1), (of, 6)):
            found = kernels.exact_sums(x, groups, count, ())
            with kernels.use("reference"):
                expected = kernels.exact_sums(x, groups, count, ())
            for ours, theirs in zip(found, expected, strict=True):
                assert torch.equal(ours, theirs) if isinstance(ours, Tensor) else ours is theirs
            if n <= 1024:
                counts, limbs, (lowest, _), bad = found
                assert not bad
                for g in range(count):
                    own = x if groups is None else x[groups == g]
                    assert counts[g] == len(own)
                    places = [LIMB * (int(lowest) + i) - UNIT for i in range(limbs.shape[1])]
                    parts = zip(limbs[g].tolist(), places, strict=True)
                    assert sum(limb * Fraction(2) ** place for limb, place in parts) == exact(own)


@pytest.mark.parametrize("bad", [-1.0, -5e-324, torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_number_that_is_none(path: str, threads: int, bad: float, grouped: bool) -> None:
    for n, place in [(1, 0), (2000, 1999), (200_000, 123_456)]:
        x, groups = torch.ones(n, dtype=torch.float64), torch.zeros(n, dtype=torch.int32) if grouped else None
        x[place] = bad
        assert kernels.exact_sums(x, groups, 1, ())[3]
        x[place] = -0.0
        counts, limbs, (lowest, _), is_bad = kernels.exact_sums(x, groups, 1, ())
        assert not is_bad
        assert counts.tolist() == [n]
        assert n == 1 or sum(v << (LIMB * (int(lowest) + i)) for i, v in enumerate(limbs[0].tolist())) == n - 1 << UNIT


def test_numbers_with_strides(path: str) -> None:
    x = numbers(4000, "near", torch.float32)
    ours, theirs = (kernels.exact_sums(part, None, 1, ())[1] for part in (x[::2], x[::2].clone()))
    assert torch.equal(ours, theirs)


@newer_compiler
def test_compiled() -> None:
    """An operator of a size known when it has run."""

    def total(x: Tensor) -> Tensor:
        counts, limbs, _, _ = kernels.exact_sums(x, None, 1, ())
        return counts + limbs.sum()

    x = numbers(50, "near", torch.float32)
    assert torch.equal(torch.compile(total, fullgraph=True, backend="aot_eager")(x), total(x))
