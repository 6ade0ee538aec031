"""Kernels of float64 logits: races to the bit; relaxed, or given their winner, up to rounding; draws by their law."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel import kernels
from argumbel.kernels import cpu
from argumbel.kernels.race import rest_of
from argumbel.reverse import posterior_gumbel

from . import oracles
from .statistics import check_draws, check_frequency
from .test_kernels import KEYS, SHAPES, drawn_in_three_ways, keys_of, plain, views_of
from .test_kernels import logits as ordinary

DOUBLE = torch.float64
compiled = pytest.mark.skipif(cpu.library is None, reason="no compiled kernels")


def logits(shape: tuple[int, ...]) -> Tensor:
    return ordinary(shape, DOUBLE)


def cases() -> list[tuple[tuple[int, ...], int]]:
    return [(shape, which) for shape in SHAPES for which in range(KEYS if math.prod(shape) < 2000 else 1)]


def check_race(x: Tensor, noise: ag.KeyedNoise) -> None:
    values, indices = ag.gumbel_max(x, noise=noise)
    with plain():
        exact = ag.gumbel_max(x, noise=noise)
    assert torch.equal(indices, exact.indices)
    assert torch.equal(values, exact.values)


@compiled
def test_kernels_take_float64() -> None:
    x, key = torch.zeros(2, 3, dtype=DOUBLE), (7, None, None)
    for why in (
        kernels.explain(kernels.gumbel_max, x, key),
        kernels.explain(kernels.gumbel_topk, x, 2, key),
        kernels.explain(kernels.posterior_gumbel, x, torch.zeros(2, dtype=torch.int64), None, key),
        kernels.explain(kernels.categorical, x, torch.Size(()), False, (7,)),
        kernels.explain(kernels.gumbel_softmax, x, torch.ones(1, dtype=DOUBLE), False, key),
    ):
        assert why["cpu"] == "runs"


# --- the race ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 2.0**40, 1e300])
def test_gumbel_max_is_the_reference_to_the_bit(path: str, threads: int, scale: float) -> None:
    for shape, which in cases():
        check_race((scale * logits(shape)).nan_to_num(0, neginf=-math.inf), keys_of(shape)[which])


@pytest.mark.parametrize("offset", [2.0**20, 2.0**37, 2.0**45, -(2.0**52), 1e300])
def test_an_offset_common_to_a_row(path: str, offset: float) -> None:
    for shape, which in cases():
        check_race(offset + logits(shape), keys_of(shape)[which])


@pytest.mark.parametrize("spread", [0.0, 1e-15, 1e-7, 1e-4, 1e-3, 1e-2])
def test_rivals_that_float32_cannot_tell_apart(path: str, spread: float) -> None:
    """All sums of a row lie within the spread."""
    for shape in [(300, 10), (70, 48), (70, 65), (9, 512), (3, 5000), (1, 70_000)]:
        noise = ag.KeyedNoise(3)
        x = spread * torch.randn(shape, dtype=DOUBLE) - noise.gumbel(shape, dtype=DOUBLE)
        check_race(x, noise)


def test_noise_of_both_precisions_agrees_by_far_more_than_the_margin(path: str) -> None:
    """float32 noise tells who may win; the margin is 2^-10."""
    keys = [ag.KeyedNoise(0, rows=[649, 840, 950], items=[201668, 257644, 72913])]  # within 2^-26 of an end
    for noise, shape in [(keys[0], (3, 3)), (ag.KeyedNoise(1), (1000, 2000)), (ag.KeyedNoise(2), (100_000, 10))]:
        exact = noise.gumbel(shape, dtype=DOUBLE)
        assert (noise.gumbel(shape).double() - exact).abs().max() < 2.0**-16


def test_values_have_the_gradient_of_the_reference(path: str) -> None:
    x = logits((70, 11)).requires_grad_()
    upstream = torch.randn(70, dtype=DOUBLE)
    ours = torch.autograd.grad(ag.gumbel_max(x, noise=ag.KeyedNoise(1)).values, x, upstream)
    with plain():
        exact = torch.autograd.grad(ag.gumbel_max(x, noise=ag.KeyedNoise(1)).values, x, upstream)
    assert torch.equal(ours[0], exact[0])


# --- the first k -------------------------------------------------------------------------------------------------


def check_first_k(x: Tensor, k: int, noise: ag.KeyedNoise) -> None:
    """The first k by their sums, then by what rounding took off these, then by their place."""
    with plain():
        g = noise.gumbel(x.shape, dtype=DOUBLE)
    sums = x + g
    order = rest_of(x, g, sums).sort(dim=-1, descending=True, stable=True).indices
    order = order.gather(-1, sums.gather(-1, order).sort(dim=-1, descending=True, stable=True).indices)[..., :k]
    values, indices = ag.gumbel_topk(x, k, noise=noise)
    assert torch.equal(indices, order)
    assert torch.equal(values, sums.gather(-1, order))


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e5, 2.0**40, 1e300])
@pytest.mark.parametrize("k", [1, 3, 15, 16, 17, 100])
def test_gumbel_topk_is_the_reference_to_the_bit(path: str, threads: int, k: int, scale: float) -> None:
    for shape, which in cases():
        x = (scale * logits(shape)).nan_to_num(0, neginf=-math.inf)
        if math.prod(shape) and k <= (x > -math.inf).sum(-1).min():
            check_first_k(x, k, keys_of(shape)[which])


@pytest.mark.parametrize("offset", [1.3e11, 1e15, -(2.0**52), 1e300])
def test_the_first_k_far_from_0(path: str, threads: int, offset: float) -> None:
    """The first offset is near enough to 0 that rounded sums decide, and far enough that some of them tie."""
    for shape in [(3, 1), (3000, 10), (70, 48), (70, 65), (9, 512), (3, 1025), (3, 5000), (1, 70_000)]:
        for k in {1, min(3, shape[-1]), min(20, shape[-1])}:
            check_first_k(offset + logits(shape).nan_to_num(neginf=-1.0), k, ag.KeyedNoise(5))
            check_first_k(torch.full(shape, offset, dtype=DOUBLE), k, ag.KeyedNoise(6))


@pytest.mark.parametrize("spread", [0.0, 1e-15, 1e-7, 1e-4, 1e-3, 1e-2])
def test_places_that_float32_cannot_tell_apart(path: str, spread: float) -> None:
    """All sums of a row lie within the spread."""
    for shape in [(300, 10), (70, 48), (70, 65), (9, 512), (3, 5000), (1, 70_000)]:
        noise = ag.KeyedNoise(3)
        for k in (1, 4, 9):
            check_first_k(spread * torch.randn(shape, dtype=DOUBLE) - noise.gumbel(shape, dtype=DOUBLE), k, noise)


def test_equal_items(path: str) -> None:
    """Of one id: equal sums come in the order of their places."""
    for n in (5, 100, 3000):
        x = (torch.arange(20 * n).reshape(20, n) % 3).to(DOUBLE)
        check_first_k(x, n // 2, ag.KeyedNoise(1, items=torch.zeros(n, dtype=torch.int64)))


def test_the_first_of_everything_and_of_many(path: str, threads: int) -> None:
    for rows, n, k in [(5, 1, 1), (9, 10, 10), (9, 64, 64), (5, 65, 65), (3, 1000, 1000), (2, 40_000, 1500)]:
        check_first_k(torch.randn(rows, n, dtype=DOUBLE), k, ag.KeyedNoise(1))
    check_first_k(torch.randn(1, 70_000, dtype=DOUBLE), 3000, ag.KeyedNoise(2))  # by a guess of the threshold
    check_first_k(torch.randn(1, 70_000, dtype=DOUBLE) - 1e15, 3000, ag.KeyedNoise(2))


@pytest.mark.parametrize("n", [5, 48, 100, 1500, 40_000])
def test_places_without_an_item_and_bad_rows(path: str, threads: int, n: int) -> None:
    x = logits((9, n))
    x[0], x[2, 1:], x[4, n // 2], x[6, -1] = -math.inf, -math.inf, math.nan, math.inf
    key = (7, None, None)
    for k in (1, 3, n):
        values, indices, bad = kernels.gumbel_topk(x, k, key)
        exact = kernels.gumbel_topk.reference(x, k, key)
        assert torch.equal(indices, exact[1])
        torch.testing.assert_close(values, exact[0], rtol=0, atol=0, equal_nan=True)
        assert bad
    assert kernels.gumbel_topk(x[:, :0], 0, key)[0].shape == (9, 0)


def test_values_of_places_have_the_gradient_of_the_reference(path: str) -> None:
    x = torch.randn(70, 11, dtype=DOUBLE, requires_grad=True)
    upstream = torch.randn(70, 4, dtype=DOUBLE)
    (ours,) = torch.autograd.grad(ag.gumbel_topk(x, 4, noise=ag.KeyedNoise(1)).values, x, upstream)
    with plain():
        (exact,) = torch.autograd.grad(ag.gumbel_topk(x, 4, noise=ag.KeyedNoise(1)).values, x, upstream)
    assert torch.equal(ours, exact)


# --- the race given its winner -----------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("offset", [0.0, 2.0**30, -1e15])
def test_posterior_gumbel_errs_no_more_than_rounding(path: str, threads: int, known: bool, offset: float) -> None:
    for shape in [*(shape for shape in SHAPES if math.prod(shape)), (3, 1024), (2, 40_000)]:
        for which in range(KEYS if math.prod(shape) < 500 else 1):
            x = offset + logits(shape)
            index = x.nan_to_num(neginf=-1e300).argsort(-1)[..., -min(shape[-1], 2)]  # the second best won
            value = x.amax(-1) - 3 if known else None
            upstream = torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
            results = []
            for backend in (path, "reference"):
                with kernels.use(backend):
                    a = x.clone().requires_grad_()
                    b = None if value is None else value.clone().requires_grad_()
                    values = posterior_gumbel(a, index, value=b, noise=keys_of(shape)[which])
                    wanted = (a,) if b is None else (a, b)
                    results.append((values.detach(), *torch.autograd.grad(values, wanted, upstream)))
            (ours, *ours_grad), (exact, *exact_grad) = results
            assert ours.dtype == DOUBLE
            assert torch.equal(ours.argmax(-1), index)
            top = ours.gather(-1, index.unsqueeze(-1))
            assert ((ours < top).sum(-1) == shape[-1] - 1).all()
            if value is not None:
                assert torch.equal(top.squeeze(-1), value)
            assert torch.equal(ours == -math.inf, x == -math.inf)
            torch.testing.assert_close(ours, exact, rtol=2e-15, atol=2e-15)
            if offset:  # a gradient is made of distances from the winner, which are rounded far from 0
                continue
            for a, b in zip(ours_grad, exact_grad, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [5, 48, 100, 1500, 40_000])
def test_bad_rows_of_posterior_gumbel(path: str, threads: int, n: int) -> None:
    x = logits((9, n)).clamp(min=-300)
    index, value = torch.full((9,), 2), torch.full((9,), 4.0, dtype=DOUBLE)
    x[0], x[1, -1], x[2, 0], x[3, 2] = -math.inf, math.nan, math.inf, -math.inf
    index[4], index[5], value[6] = n, -1, math.nan
    for height in (value, None):
        values, bad = kernels.posterior_gumbel(x, index, height, (7, None, None))
        with plain():
            exact, _ = kernels.posterior_gumbel(x, index, height, (7, None, None))
        assert bad
        assert torch.equal(values.isnan(), exact.isnan())
        assert torch.equal(values.isnan().all(-1), torch.arange(9) < (6 if height is None else 7))
        torch.testing.assert_close(values, exact, rtol=2e-15, atol=2e-15, equal_nan=True)


def test_second_derivatives_of_posterior_gumbel(path: str) -> None:
    x, index = torch.randn(9, 5, dtype=DOUBLE, requires_grad=True), torch.arange(9) % 5

    def values(x: Tensor) -> Tensor:
        return posterior_gumbel(x, index, noise=ag.KeyedNoise(1))

    assert torch.autograd.gradcheck(values, x)
    assert torch.autograd.gradgradcheck(values, x)


# --- the relaxed race --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.1, 1.0, 7.0, "rows"])
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("offset", [0.0, 2.0**45])
def test_gumbel_softmax_and_its_gradient(
    path: str,
    threads: int,
    tau: float | str,
    hard: bool,
    offset: float,
) -> None:
    for shape in [shape for shape in SHAPES if 0 < math.prod(shape) <= 20_000]:
        own = torch.rand((*shape[:-1], 1), dtype=DOUBLE, generator=torch.Generator().manual_seed(1)) + 0.1
        upstream = torch.randn(shape, dtype=DOUBLE)
        results = []
        for which in range(KEYS if math.prod(shape) < 500 and tau == 1.0 else 1):
            for backend in (None, "reference"):
                with kernels.use(path if backend is None else backend):
                    x = (offset + logits(shape)).requires_grad_()
                    y = ag.gumbel_softmax(x, own if tau == "rows" else tau, hard, noise=keys_of(shape)[which])
                    results.append((y.detach(), *torch.autograd.grad(y, x, upstream)))
            for ours, exact in zip(*results[-2:], strict=True):
                assert ours.dtype == DOUBLE
                torch.testing.assert_close(ours, exact, rtol=1e-11, atol=1e-13)


def test_second_derivatives(path: str) -> None:
    x = torch.randn(9, 5, dtype=DOUBLE, requires_grad=True)

    def soft(x: Tensor) -> Tensor:
        return ag.gumbel_softmax(x, 0.7, noise=ag.KeyedNoise(1))

    assert torch.autograd.gradcheck(soft, x)
    assert torch.autograd.gradgradcheck(soft, x)


# --- draws by law ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 2.0**40])
@pytest.mark.parametrize("n", [1, 2, 3, 10, 63, 64, 65, 128, 500])
def test_law_of_categorical(path: str, n: int, offset: float) -> None:
    x = offset + logits((n,))
    generator = torch.Generator().manual_seed(n)
    check_draws(ag.categorical(x, (20_000,), generator=generator), oracles.softmax(x - offset))
    check_draws(ag.categorical(x.expand(20_000, n), generator=generator), oracles.softmax(x - offset))


@pytest.mark.parametrize("n", [1023, 1025, 5000, 70_000])
def test_law_of_categorical_over_many_items(path: str, n: int) -> None:
    """Some weighty items among a crowd: many draws of a row, a few of each of some rows, one of each of many."""
    x = torch.zeros(n, dtype=DOUBLE)
    x[n // 2], x[-1], x[0] = math.log(n / 2), math.log(n / 2), math.log(n / 4)
    x[5::7], x[3::7] = -3, -math.inf
    x += 1e9
    group, weights = torch.arange(n) % 23, oracles.softmax(x - 1e9)
    law = np.bincount(group, weights)
    for draws in drawn_in_three_ways(x, n):
        assert (x[draws] > -math.inf).all()
        if draws.numel() > 2000:
            check_draws(group[draws], law)
        check_frequency(int((draws >= n // 3).sum()), draws.numel(), weights[n // 3 :].sum())


def test_log_partition_has_the_precision_of_float64(path: str, threads: int) -> None:
    for n in (1, 3, 64, 65, 1000, 5000, 70_000):
        for rows in (3, 70):
            for offset in (0.0, 1e6):
                x = offset + logits((rows, n))
                _, log_z, bad = kernels.categorical(x, torch.Size([]), True, (3,))
                torch.testing.assert_close(log_z, x.logsumexp(-1), rtol=4e-15, atol=4e-15)
                assert not bad


def test_items_of_extreme_ranges(path: str) -> None:
    most = torch.finfo(DOUBLE).max
    for n in (3, 60, 300, 3000):
        for low in (-most, -1e5, -math.inf):
            x = torch.full((40, n), low, dtype=DOUBLE)
            x[:, n // 2] = most
            check_race(x, ag.KeyedNoise(1))
            assert (ag.categorical(x) == n // 2).all()
            assert torch.equal(ag.gumbel_softmax(x), torch.nn.functional.one_hot(torch.tensor(n // 2), n).expand_as(x))
        lowest = torch.full((2000, n), -most, dtype=DOUBLE)
        check_race(lowest, ag.KeyedNoise(2))
        check_frequency(int((ag.categorical(lowest) < n // 3).sum()), 2000, n // 3 / n)


# --- layouts and bad rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 1), (70, 5), (5, 17), (3, 65), (2, 3, 130), (1, 70_000)])
def test_layouts(path: str, shape: tuple[int, ...]) -> None:
    x, noise = logits(shape), ag.KeyedNoise(2)

    def results(view: Tensor) -> list[Tensor]:
        draws = ag.categorical(view, generator=torch.Generator().manual_seed(1))
        first = ag.gumbel_topk(view, min(2, shape[-1] - shape[-1] // 3), noise=noise)
        given = posterior_gumbel(view, view.argmax(-1), noise=noise)
        return [*ag.gumbel_max(view, noise=noise), *first, ag.gumbel_softmax(view, 0.5, noise=noise), given, draws]

    exact = results(x)
    for view in views_of(x):
        assert all(torch.equal(a, b) for a, b in zip(results(view), exact, strict=True))


@pytest.mark.parametrize("rows", [3, 70])
@pytest.mark.parametrize("n", [1, 2, 33, 130, 1500])
def test_bad_numbers_are_found(path: str, rows: int, n: int) -> None:
    calls = (
        ag.categorical,
        ag.gumbel_max,
        ag.gumbel_softmax,
        lambda x: ag.gumbel_softmax(x, hard=True),
        lambda x: ag.gumbel_topk(x, 1),
        lambda x: posterior_gumbel(x, torch.zeros(rows, dtype=torch.int64)),
    )
    for call in calls:
        for place in {0, n // 2, n - 1}:
            for bad, message in ((torch.nan, "must not be NaN"), (torch.inf, r"must not be \+inf")):
                x = logits((rows, n)).clamp(min=-300)
                x[1, place] = bad
                with pytest.raises(ValueError, match=message):
                    call(x)
        x = logits((rows, n)).clamp(min=-300)
        x[1] = -torch.inf
        with pytest.raises(ValueError, match="at least one item"):
            call(x)
