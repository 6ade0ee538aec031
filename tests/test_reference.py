"""The path from a key to a number, stage by stage: Philox, packing, exact arithmetic, both tails."""

from __future__ import annotations

import math
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from argumbel import kernels
from argumbel.kernels import noise as reference

from . import oracles
from .statistics import check_draws, check_frequency
from .strategies import ids

ENDS = 1 << 63  # a distance from an end of (0, 1) is W + 1/2 over 2^64, for W in [0, ENDS)


# --- float64 -----------------------------------------------------------------------------------------------------


def test_log64_is_the_logarithm() -> None:
    """To 1.2 units in the last place, wherever noise needs it; exact at 1; the same in a vector and in its tail."""
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(3, 20_000, generator=generator, dtype=torch.float64)
    x = torch.cat([u[0], torch.exp2(-65 * u[1]), 1 + (u[2] - 0.5) * 1e-6, 50 * u[0]])
    ours = reference.log64(x)
    with mpmath.workdps(40):
        for a, b in zip(x[::11].tolist(), ours[::11].tolist(), strict=True):
            exact = mpmath.log(a)
            assert abs(b - exact) <= 1.2 * np.spacing(abs(float(exact)))
    assert reference.log64(torch.ones(1, dtype=torch.float64)).item() == 0
    assert all(torch.equal(reference.log64(x[i : i + 3]), ours[i : i + 3]) for i in range(0, 500, 3))


# --- bits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_known_answers_of_random123(counter: str, key: str, expected: str) -> None:
    def words(text: str) -> tuple[int, ...]:
        return tuple(int(w, 16) for w in text.split())

    ours = reference.philox4x32(tuple(map(torch.tensor, words(counter))), tuple(map(torch.tensor, words(key))))
    assert tuple(int(w) for w in ours) == words(expected)
    assert oracles.philox4x32(words(counter), words(key)) == words(expected)


@given(seed=st.integers(-(1 << 63), (1 << 63) - 1), row=ids, item=ids, stream=st.integers(0, 3))
def test_words_are_packed_as_the_contract_says(seed: int, row: int, item: int, stream: int) -> None:
    ours = reference.words(torch.tensor(seed), torch.tensor([row]), torch.tensor([item]), stream)
    assert ours.tolist() == [[oracles.word(seed, row, item, stream)]]


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 8, 63])
def test_items_that_share_a_block_have_the_words_of_their_ids(n: int) -> None:
    seed, rows = torch.tensor(-7), torch.tensor([[0, 5], [1 << 40, -1]])
    together = reference.words(seed, rows, n, 1)
    assert together.shape == (2, 2, n)
    assert torch.equal(together, reference.words(seed, rows, torch.arange(n), 1))
    expected = [[[oracles.word(-7, row, item, 1) for item in range(n)] for row in line] for line in rows.tolist()]
    assert together.tolist() == expected


def test_words_look_uniform_and_streams_differ() -> None:
    words = torch.stack(
        [reference.words(torch.tensor(3), torch.arange(100), 1000, stream).flatten() for stream in range(4)]
    )
    for stream in words:
        check_draws(stream >> 22, np.full(1024, 1 / 1024))
        check_draws(stream & 1023, np.full(1024, 1 / 1024))
    for a, b in pairwise(words):
        check_draws((a >> 27) * 32 + (b >> 27), np.full(1024, 1 / 1024))


# --- exact arithmetic --------------------------------------------------------------------------------------------


class ExactSums:
    """Stands in for ``reference._fma`` and proves, for every element, that float64 holds ``a * b + c`` exactly."""

    def __init__(self) -> None:
        self.elements = 0

    def __call__(self, a: Tensor, b: Tensor | float, c: Tensor | float) -> Tensor:
        for part in (a, b, c):  # float32 factors: the product has at most 48 bits
            assert torch.equal(torch.as_tensor(part).float().double(), torch.as_tensor(part).double())
        product = a.double() * b
        total = product + c
        back = total - product  # Knuth's two-sum: what the rounded sum has lost
        lost = (product - (total - back)) + (c - back)
        assert not lost.any()
        self.elements += a.numel()
        return total.float()


def test_every_multiply_add_is_exact_before_its_one_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """All 2^23 + 1 points of the grid, through every step of the polynomial; then n log 2 + L for every n and point."""
    fma = ExactSums()
    monkeypatch.setattr(reference, "_fma", fma)
    largest = 0.0
    for start in range(0, (1 << 23) + 1, 1 << 19):
        grid = torch.arange(start, min(start + (1 << 19), (1 << 23) + 1)).float() * 2.0**-24
        log = reference._minus_log1p(grid, grid)
        # n LN2 + L is a sum of multiples of 2^-47 below 2^6, so it has at most 53 bits, whatever n is.
        multiple = log.double() * 2.0**47
        assert torch.equal(multiple, multiple.round())
        largest = max(largest, log.max().item())
    assert (reference.LN2 * 2.0**47).is_integer()
    assert 66 * reference.LN2 + largest < 2.0**6
    assert fma.elements == ((1 << 23) + 1) * len(reference.COEFFICIENTS)


def test_multiply_adds_of_all_words_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole map, with its own n and its own grid, on a hundred thousand words of every magnitude."""
    monkeypatch.setattr(reference, "_fma", ExactSums())
    for lower in (False, True):
        reference.gumbel(*split(ladder(50_000), lower), torch.float32)


# --- both tails --------------------------------------------------------------------------------------------------


def ladder(n: int) -> Tensor:
    """Distances W from an end, in order: of every magnitude, and around every place where something changes."""
    rng = np.random.default_rng(0)
    spread = np.exp2(rng.uniform(0, 63, n)).astype(np.uint64)
    powers = np.array([1 << e for e in range(63)], dtype=np.uint64)
    seam = np.uint64(reference.REFINE_BELOW << 32)
    seams = seam + np.arange(-600, 600).astype(np.uint64) * np.uint64(1 << 26)
    words = seam + np.arange(-40, 4000).astype(np.uint64) * np.uint64(1 << 32)
    middle = np.uint64(ENDS) - np.uint64(1) - np.arange(300).astype(np.uint64) * np.uint64(1 << 31)
    every = np.concatenate(
        [
            spread,
            powers,
            powers - np.uint64(1),
            powers + np.uint64(1),
            seams,
            words,
            middle,
            np.arange(64, dtype=np.uint64),
        ]
    )
    return torch.from_numpy(np.unique(every[every < ENDS]).astype(np.int64))


def split(w: Tensor, lower: bool) -> tuple[Tensor, Tensor]:
    """The words at distance W from an end: from 0 (the upper tail of G), or from 1 (the lower tail)."""
    first, second = w >> 32, w & reference.MASK
    return (reference.MASK - first, reference.MASK - second) if lower else (first, second)


def rising(w: Tensor, lower: bool) -> Tensor:
    """G or, in the upper tail, -G: rising with W on either side."""
    g = reference.gumbel(*split(w, lower), torch.float32)
    return g if lower else -g


def law(v: Tensor, lower: bool) -> np.ndarray:
    """The closed form of P(G <= v), or of P(G >= -v) in the upper tail."""
    return oracles.gumbel_cdf(v.double().numpy()) if lower else oracles.gumbel_sf(-v.double().numpy())


def distance(w: Tensor) -> Tensor:
    """The distance from the end in float64, as the contract defines it for float32 noise."""
    near = w >> 32
    return torch.where(near < reference.REFINE_BELOW, (w.double() + 0.5) * 2.0**-64, (near.double() + 0.5) * 2.0**-32)


def measured(v: Tensor, lower: bool) -> tuple[Tensor, Tensor]:
    """The exact share of the 2^64 pairs of words with ``rising <= v``, and the next higher value that occurs.

    Bisection finds the crossing; around it a window of 512 steps (of one float32 spacing of W) is evaluated in full,
    because rounding may make the map fall by an ulp here and there.
    """
    low, high = torch.zeros_like(v, dtype=torch.int64), torch.full_like(v, ENDS - 1, dtype=torch.int64)
    while bool((high - low > 1).any()):  # rising(low) <= v < rising(high), were the map monotone
        middle = low + (high - low) // 2
        below = rising(middle, lower) <= v
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    bits = torch.frexp(low.clamp(min=1).double()).exponent.long()
    step = torch.where(
        low >= reference.REFINE_BELOW << 32,
        (1 << (bits - 24).clamp(min=32)),
        1 << (bits - 24).clamp(min=0),
    )
    window = low[:, None] + step[:, None] * torch.arange(-255, 257)
    inside = window >= 0  # past the last one int64 wraps around
    values = rising(window.clamp(min=0), lower)
    below = values <= v[:, None]
    assert bool((below | ~inside)[:, 0].all())
    assert not bool((below & inside)[:, -1].any())
    past = torch.arange(512) > 255
    flips = (below & inside & past).sum(1) - (~below & inside & ~past).sum(1)
    share = (low + 1 + flips * step).double() * 2.0**-64
    following = values.masked_fill(below | ~inside, math.inf).amin(1)
    return share, following


@pytest.mark.parametrize("lower", [False, True], ids=["upper", "lower"])
def test_tails_are_those_of_the_closed_form(lower: bool) -> None:
    """The relative error of a tail's probability, at every threshold: < 1e-5 down to 1e-12, < 1e-4 down to 1e-15.

    A threshold between two neighbouring values of the noise has the probability of the lower one, so both of its
    neighbours' closed forms must be that near: the spacing of float32 is in the bound.
    """
    v = rising(ladder(3000), lower).unique()
    v = v[v < rising(torch.tensor([ENDS - 1]), lower) - 1e-4]  # beyond is the other side of the median
    share, following = measured(v, lower)
    share, here, there = share.numpy(), law(v, lower), law(following, lower)
    error = np.maximum(abs(share / here - 1), abs(share / there - 1))
    assert (here > 0.49).any()
    assert (here < 1e-15).any()
    assert error[here >= 1e-12].max() < 1e-5
    assert error[here >= 1e-15].max() < 1e-4
    complement = np.maximum(abs((1 - share) / (1 - here) - 1), abs((1 - share) / (1 - there) - 1))
    assert complement.max() < 2e-6


@pytest.mark.parametrize("lower", [False, True], ids=["upper", "lower"])
def test_noise_rises_with_u_but_for_an_ulp(lower: bool) -> None:
    for w in (ladder(200_000), (ladder(500)[:, None] + torch.arange(40)).flatten().clamp(max=ENDS - 1).unique()):
        g = rising(w, lower).double()
        e = reference.exponential(*split(w, lower), torch.float32).double() * (-1 if lower else 1)
        for x in (g, e):
            fall = (x[:-1] - x[1:]) / (x[1:].abs() * 2.0**-23)
            assert fall.max() <= 2
    below, above = (reference.gumbel(*split(torch.tensor([ENDS - 1]), side), torch.float32) for side in (False, True))
    assert above.item() == pytest.approx(below.item(), abs=2.0**-24)


@pytest.mark.parametrize("lower", [False, True], ids=["upper", "lower"])
def test_float32_noise_is_the_closed_form_of_its_own_u(lower: bool) -> None:
    w = ladder(200_000)
    h = distance(w)
    e = -torch.log(h) if lower else -torch.log1p(-h)
    first, second = split(w, lower)
    error = (reference.exponential(first, second, torch.float32).double() / e - 1).abs()
    assert error.max() < 3.5e-7
    g = reference.gumbel(first, second, torch.float32).double()
    assert ((g + torch.log(e)).abs() / (g.abs() + 1)).max() < 3e-7
    odds = torch.log1p(-h) - torch.log(h)
    x = reference.logistic(first, second, torch.float32).double()
    assert ((x + odds if lower else x - odds).abs() / (odds.abs() + 1)).max() < 3e-7
    u = reference.uniform(first, second, torch.float32).double()
    exact = (1 - h if lower else h).clamp(max=1 - 2.0**-24)
    assert (u / exact - 1).abs().max() <= 2.0**-23


@pytest.mark.parametrize("lower", [False, True], ids=["upper", "lower"])
def test_float64_noise_is_the_closed_form_of_all_bits(lower: bool) -> None:
    w = torch.cat([ladder(200), torch.tensor([0, 1, ENDS - 1])])
    first, second = split(w, lower)
    h = [(2 * int(v) + 1) / (1 << 65) for v in w]
    u = torch.tensor([1 - v if lower else v for v in h], dtype=torch.float64).clamp(max=1 - 2.0**-53)
    g = torch.tensor([oracles.gumbel(1 - v, v) if lower else oracles.gumbel(v, 1 - v) for v in h], dtype=torch.float64)
    torch.testing.assert_close(reference.uniform(first, second, torch.float64), u, rtol=4e-16, atol=0)
    torch.testing.assert_close(reference.exponential(first, second, torch.float64), (-g).exp(), rtol=1e-14, atol=0)
    torch.testing.assert_close(reference.gumbel(first, second, torch.float64), g, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends(dtype: torch.dtype) -> None:
    """The two extreme pairs of words: nothing is infinite, zero or one."""
    ends = torch.tensor([0, reference.MASK])
    u = reference.uniform(ends, ends, dtype)
    assert u[0] == 2.0**-65
    assert u[1] == 1 - torch.finfo(dtype).eps / 2
    e = reference.exponential(ends, ends, dtype).double()
    assert e[0] == 2.0**-65
    assert e[1].item() == pytest.approx(65 * math.log(2), rel=1e-7)
    g = reference.gumbel(ends, ends, dtype).double()
    assert g[0].item() == pytest.approx(65 * math.log(2), rel=1e-7)
    assert g[1].item() == pytest.approx(-math.log(65 * math.log(2)), rel=1e-7)


@pytest.mark.parametrize("gap", [5.0, 17.0, 25.0])
def test_a_rare_class_wins_as_often_as_it_should(gap: float) -> None:
    """P(G1 - gap > G0) over the 2^128 words of a race of two, by quadrature over G0 and exact counts of G1."""
    g0 = []
    for lower in (False, True):  # the two halves of u, each at mid-points of equal strata of log odds and of u alike
        edges = np.exp2(np.linspace(0, 63, 40_001))
        middle = torch.from_numpy(np.sqrt(edges[:-1] * edges[1:]).astype(np.int64))
        g0.append((reference.gumbel(*split(middle, lower), torch.float32), torch.from_numpy(np.diff(edges) * 2.0**-64)))
    values, weights = torch.cat([g for g, _ in g0]), torch.cat([w for _, w in g0])
    keep = values + gap > 1  # below that even a winner from the upper half is too rare to matter
    threshold = (values[keep] + gap).float()
    order = threshold.argsort()
    sampled = torch.arange(0, len(order), 20)
    share, _ = measured(-threshold[order[sampled]], lower=False)
    log_share = np.interp(threshold.double(), threshold[order[sampled]].double(), share.log())
    total = (weights[keep].numpy() * np.exp(log_share)).sum()
    assert total == pytest.approx(1 / (1 + math.exp(gap)), rel=1e-3)


# --- categorical -------------------------------------------------------------------------------------------------


def draw(x: Tensor, seed: int, sample_shape: torch.Size) -> tuple[Tensor, Tensor]:
    with kernels.use("reference"):
        return kernels.categorical(x, sample_shape, True, (seed,))[:2]


def test_more_than_2_to_the_24_categories() -> None:
    """Beyond float32's integers: both parities, both halves, and the last item of all."""
    n, draws = (1 << 24) + 1, 240
    x = torch.zeros(n)
    indices, log_z = draw(x, 1, torch.Size([draws]))
    assert log_z.item() == pytest.approx(math.log(n), rel=1e-6)
    check_frequency(int((indices >= 1 << 23).sum()), draws, (n - (1 << 23)) / n)
    check_frequency(int((indices % 2 == 1).sum()), draws, (1 << 23) / n)
    assert scipy.stats.kstest((indices.numpy() + 0.5) / n, "uniform").pvalue > 1e-6
    x[-1] = math.log(n - 1)
    indices, _ = draw(x, 2, torch.Size([draws]))
    check_frequency(int((indices == n - 1).sum()), draws, 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_log_partition_of_the_race(dtype: torch.dtype) -> None:
    x = torch.randn(7, 130).to(dtype)
    _, log_z = draw(x, 1, torch.Size([]))
    torch.testing.assert_close(log_z.double(), x.double().logsumexp(-1), rtol=1e-6, atol=1e-6)


def test_unwritten_memory_is_nan_in_tests() -> None:
    assert torch.empty(1000).isnan().all()
    assert torch.empty(1000, dtype=torch.bfloat16).isnan().all()
    assert (torch.empty(1000, dtype=torch.int64) == torch.iinfo(torch.int64).max).all()
