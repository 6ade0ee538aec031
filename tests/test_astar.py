"""A* sampling and its relatives: samples, values, their independence, the counts; targets, provided and self-made."""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch

import argumbel as ag
from argumbel.astar import AStarDraws, NormalTarget, UniformTarget, astar_sample, astar_stream, linear_range
from argumbel.astar._normal import log_mass_between, quantile_between
from argumbel.partition import log_partition

from .oracles import EULER, gumbel_cdf
from .statistics import Z, check_cdf, check_counts, check_draws, check_independent, check_mean, quantile_bins

METHODS = [("a*", False), ("a*", True), ("os*", False), ("os*", True), ("rejection", False)]
Cdf = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def targets() -> ModuleType:
    path = Path(__file__).parent.parent / "docs" / "astar_targets.py"
    spec = importlib.util.spec_from_file_location("astar_targets", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def quadrature(log_density: Callable[[np.ndarray], np.ndarray], low: float, high: float) -> tuple[float, Cdf]:
    """log Z and the distribution function of an unnormalised density on a line, from a fine grid."""
    x = np.linspace(low, high, 40_001)
    log_p = log_density(x)
    cumulative = scipy.integrate.cumulative_trapezoid(np.exp(log_p - log_p.max()), x, initial=0)
    return log_p.max() + math.log(cumulative[-1]), lambda v: np.interp(v, x, cumulative / cumulative[-1])


def on_grid(target: Any, *columns: np.ndarray) -> np.ndarray:
    """The log density of a provided target with respect to volume, at points with these coordinates."""
    points = torch.tensor(np.stack(columns, -1), dtype=torch.float64)
    log_density = torch.vmap(target._log_ratio, chunk_size=20_000)(points).reshape(len(points)).numpy()
    if isinstance(target, NormalTarget):
        log_density = log_density + scipy.stats.norm.logpdf(points.numpy(), target._mean, target._std).sum(-1)
    return log_density


def check_values(values: np.ndarray, log_z: float) -> None:
    """Gumbel at log Z; and what they say of log Z is what log_partition makes of them."""
    check_cdf(values - log_z, gumbel_cdf)
    check_mean(values, log_z + EULER, math.pi**2 / 6)
    estimate = log_partition(torch.as_tensor(values), method="unbiased-log-z")
    assert abs(float(estimate.value) - log_z) < Z * float(estimate.stderr)


def check_line(draws: AStarDraws, log_z: float, cdf: Cdf) -> None:
    """Samples on a line, their values, that one does not tell of the other, nor a draw of the next."""
    x, values = draws.samples[:, 0].numpy(), draws.values.numpy()
    check_cdf(x, cdf)
    check_values(values, log_z)
    bins = 5 if len(x) >= 600 else 3
    places = quantile_bins(x, cdf, bins)
    heights = quantile_bins(values - log_z, gumbel_cdf, bins)
    even = np.full(bins, 1 / bins)
    check_independent(places, heights, even, even)
    check_independent(places[:-1:2], places[1::2], even, even)
    check_independent(heights[:-1:2], heights[1::2], even, even)


# --- laws --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "keep"), METHODS)
@pytest.mark.parametrize("split", ["middle", "sample"])
def test_sine(targets: ModuleType, method: str, keep: bool, split: str) -> None:
    log_z, cdf = quadrature(np.sin, 0, 2 * math.pi)
    assert math.isclose(log_z, math.log(2 * math.pi * scipy.special.i0(1)), rel_tol=1e-8)
    draws = astar_sample(targets.sine(split), 2000, method=method, keep=keep, noise=ag.KeyedNoise(4))
    check_line(draws, log_z, cdf)


@pytest.mark.parametrize(("method", "keep", "split", "num_samples"), [
    ("a*", False, "middle", 300), ("a*", True, "sample", 1200),
    ("os*", False, "sample", 200), ("os*", True, "middle", 1200),
])  # fmt: skip
def test_clutter(targets: ModuleType, method: str, keep: bool, split: str, num_samples: int) -> None:
    target = targets.clutter(split=split)
    log_z, cdf = quadrature(lambda x: on_grid(target, x), -60, 60)
    draws = astar_sample(target, num_samples, method=method, keep=keep, noise=ag.KeyedNoise(5))
    check_line(draws, log_z, cdf)


@pytest.mark.parametrize(("method", "keep", "num_samples", "cuts"), [
    ("a*", False, 150, [0.6]), ("a*", True, 800, [0.2, 0.4, 0.6, 0.8, 1.2]), ("os*", True, 500, [0.4, 0.6, 1.0]),
])  # fmt: skip
def test_regression_in_two_dimensions(
    targets: ModuleType, method: str, keep: bool, num_samples: int, cuts: list[float]
) -> None:
    target = targets.regression(points=6)
    grid = (np.arange(600) + 0.5) / 600 * 24 - 12  # six prior standard deviations each way
    a, b = np.meshgrid(grid, grid, indexing="ij")
    log_p = on_grid(target, a.ravel(), b.ravel())
    log_z = scipy.special.logsumexp(log_p) + 2 * math.log(grid[1] - grid[0])
    mass = scipy.special.softmax(log_p).reshape(600, 600)
    draws = astar_sample(target, num_samples, method=method, keep=keep, noise=ag.KeyedNoise(6))
    check_values(draws.values.numpy(), log_z)
    edges = [-12, *cuts, 12]  # borders of grid cells
    into = np.searchsorted(edges, grid) - 1
    cells = len(edges) - 1
    probs = np.zeros((cells, cells))
    np.add.at(probs, (into[:, None], into[None, :]), mass)
    counts, *_ = np.histogram2d(*draws.samples.numpy().T, bins=[edges, edges])
    check_counts(counts, probs)


@pytest.mark.parametrize(("method", "keep"), METHODS)
def test_loose_bounds_change_the_cost_only(targets: ModuleType, method: str, keep: bool) -> None:
    tight = targets.sine()
    loose = UniformTarget(torch.sin, lambda low, high: tight._bound(low, high) + 0.7, low=0, high=2 * math.pi)
    log_z, cdf = quadrature(np.sin, 0, 2 * math.pi)
    draws = astar_sample(loose, 600, method=method, keep=keep, noise=ag.KeyedNoise(7))
    check_line(draws, log_z, cdf)


@pytest.mark.parametrize(("method", "keep"), METHODS)
def test_holes_and_steps(method: str, keep: bool) -> None:
    """Density 0 on half of the space, known of some regions and not of others; constant on the rest, at two heights."""

    def log_ratio(x: torch.Tensor) -> float:
        return -math.inf if x < 1 else 0.0 if x < 1.5 else math.log(3)

    def bound(low: torch.Tensor, high: torch.Tensor) -> float:
        return -math.inf if high < 0.9 else math.log(3) if high > 1.5 else 0.0

    draws = astar_sample(
        UniformTarget(log_ratio, bound, low=0, high=2), 1500, method=method, keep=keep, noise=ag.KeyedNoise(8)
    )
    x = draws.samples[:, 0].numpy()
    check_draws(np.searchsorted([1, 1.25, 1.5, 1.75], x), [0, 1 / 8, 1 / 8, 3 / 8, 3 / 8])
    check_values(draws.values.numpy(), math.log(2))


# --- hard cases --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["middle", "sample"])
def test_log_ratios_that_are_ten_thousands_apart(split: str) -> None:
    rate, at = 3e4, 0.3

    def log_ratio(x: torch.Tensor) -> torch.Tensor:
        return -rate * (x - at).abs() + 5e4

    target = UniformTarget(
        log_ratio, lambda low, high: log_ratio(low.new_tensor([at]).clamp(low, high)), low=0, high=1, split=split
    )
    draws = astar_sample(target, 500, noise=ag.KeyedNoise(9))
    check_line(draws, 5e4 + math.log(2 / rate), scipy.stats.laplace(at, 1 / rate).cdf)


@pytest.mark.parametrize("split", ["middle", "sample"])
def test_a_posterior_thirty_standard_deviations_from_the_prior(split: str) -> None:
    def log_ratio(x: torch.Tensor) -> torch.Tensor:
        return -(x - 60).square() / 2

    target = NormalTarget(
        log_ratio, lambda low, high: log_ratio(low.new_tensor([60]).clamp(low, high)), mean=0, std=1, split=split
    )
    draws = astar_sample(target, 300, keep=True, noise=ag.KeyedNoise(10))
    check_line(draws, -900 - math.log(2) / 2, scipy.stats.norm(30, math.sqrt(0.5)).cdf)


def test_the_proposal_itself_and_its_cut() -> None:
    """Nothing known and nothing to know: a constant log_ratio takes one look, and gives the truncated normal law."""
    target = NormalTarget(
        lambda x: 2.0, lambda low, high: 2.0, mean=[1, 0], std=[2, 1], low=[-math.inf, 5], high=[0, 9]
    )
    draws = astar_sample(target, 2000, noise=ag.KeyedNoise(11))
    assert draws.likelihoods.tolist() == [1] * 2000
    assert draws.bounds.sum() == 1  # that of the whole space, once
    left, right = scipy.stats.truncnorm(-np.inf, -0.5, 1, 2), scipy.stats.truncnorm(5, 9)
    check_cdf(draws.samples[:, 0].numpy(), left.cdf)
    check_cdf(draws.samples[:, 1].numpy(), right.cdf)
    log_z = 2 + scipy.special.log_ndtr(-0.5) + math.log(scipy.special.ndtr(-5) - scipy.special.ndtr(-9))
    check_values(draws.values.numpy(), log_z)


def test_a_bound_may_be_infinite_where_nothing_is_known(targets: ModuleType) -> None:
    tight = targets.sine()

    def bound(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        return torch.where(high - low > 2, math.inf, tight._bound(low, high))

    draws = astar_sample(UniformTarget(torch.sin, bound, 0, 2 * math.pi), 1000, noise=ag.KeyedNoise(12))
    check_line(draws, *quadrature(np.sin, 0, 2 * math.pi))


def normal_mass(a: float, b: float) -> mpmath.mpf:
    """The standard normal mass of (a, b) to sixty digits."""
    if a > 0:
        a, b = -b, -a
    return (mpmath.erfc(-b / mpmath.sqrt(2)) - mpmath.erfc(-a / mpmath.sqrt(2))) / 2


def test_far_and_narrow_intervals_of_the_normal_law() -> None:
    inner = [-1e4, -300.0, -40.0, -37.5, -36.5, -8.0, -1.0, -1e-9, 0.0, 0.5, 0.5 + 1e-6, 6.0, 38.0, 1e3]
    with mpmath.workdps(60):
        for a, b in itertools.combinations([-math.inf, *inner, math.inf], 2):
            a, b = mpmath.mpf(a), mpmath.mpf(b)
            mass, tolerance = normal_mass(a, b), 1e-10 + 1e-14 * min(a * a, b * b)
            assert abs(log_mass_between(float(a), float(b)) - mpmath.log(mass)) < tolerance, (a, b)
            for u in (2.0**-65, 1e-4, 0.3, 0.5, 0.9, 1 - 2.0**-53):
                at = min(max(mpmath.mpf(quantile_between(float(a), float(b), u)), a), b)
                # The place is right to the spacing of float64, and the mass on either side of it as right as that is.
                spacing = 1e-15 * (1 + abs(at)) * mpmath.exp(-at * at / 2) / mass
                for share, measured in ((u, normal_mass(a, at)), (1 - u, normal_mass(at, b))):
                    assert abs(measured / mass - share) <= spacing + (1e-9 + tolerance) * share, (a, b, u)
    assert log_mass_between(1.0, 1.0) == -math.inf


# --- targets of one's own ----------------------------------------------------------------------------------------


class Waiting:
    """Gamma(3) by a proposal exp(-x / 4) dx on the half line; regions are pairs."""

    def root(self) -> tuple[float, float]:
        return 0.0, math.inf

    def log_volume(self, region: tuple[float, float]) -> float:
        low, high = region
        return math.log(4 * (math.exp(-low / 4) - math.exp(-high / 4)))

    def sample(self, region: tuple[float, float], uniform: Callable[[], float]) -> torch.Tensor:
        low, high = (math.exp(-x / 4) for x in region)
        return torch.tensor([-4 * math.log(low + (high - low) * uniform())])

    def split(self, region: tuple[float, float], point: torch.Tensor) -> Iterator[tuple[float, float]]:
        at = float(point)
        yield from [(region[0], at), (at, region[1])]

    def log_ratio(self, point: torch.Tensor) -> torch.Tensor:
        return 2 * point.log() - 0.75 * point

    def bound(self, region: tuple[float, float]) -> float:
        at = min(max(8 / 3, region[0]), region[1])
        return 2 * math.log(at) - 0.75 * at


class Items:
    """A choice among items, by counting measure; regions are tuples of items."""

    def __init__(self, logits: list[float]) -> None:
        self.logits = logits

    def root(self) -> tuple[int, ...]:
        return tuple(range(len(self.logits)))

    def log_volume(self, region: tuple[int, ...]) -> float:
        return math.log(len(region)) if region else -math.inf

    def sample(self, region: tuple[int, ...], uniform: Callable[[], float]) -> list[int]:
        return [region[int(uniform() * len(region))]]

    def split(self, region: tuple[int, ...], point: list[int]) -> list[tuple[int, ...]]:
        return [region[: len(region) // 2], region[len(region) // 2 :]]

    def log_ratio(self, point: list[int]) -> float:
        return self.logits[point[0]]

    def bound(self, region: tuple[int, ...]) -> float:
        return max(self.logits[i] for i in region)


@pytest.mark.parametrize(("method", "keep"), METHODS)
def test_a_half_line_of_ones_own(method: str, keep: bool) -> None:
    draws = astar_sample(Waiting(), 1000, method=method, keep=keep, noise=ag.KeyedNoise(13))
    check_line(draws, math.log(2), scipy.stats.gamma(3).cdf)


@pytest.mark.parametrize(("method", "keep"), METHODS)
def test_items_of_ones_own(method: str, keep: bool) -> None:
    logits = [0.0, 2.0, -math.inf, 1.0, 1.0, -1.0, 0.5]
    draws = astar_sample(Items(logits), 2000, method=method, keep=keep, noise=ag.KeyedNoise(14))
    probs = scipy.special.softmax(logits)
    check_draws(draws.samples[:, 0].long().numpy(), probs)
    check_values(draws.values.numpy(), scipy.special.logsumexp(logits))


def test_one_item() -> None:
    draws = astar_sample(Items([-3.0]), 500, noise=ag.KeyedNoise(15))
    assert (draws.samples == 0).all()
    check_values(draws.values.numpy(), -3)


# --- counts and keys ---------------------------------------------------------------------------------------------


class Counted(Items):
    likelihoods = bounds = splits = 0

    def log_ratio(self, point: list[int]) -> float:
        self.likelihoods += 1
        return super().log_ratio(point)

    def bound(self, region: tuple[int, ...]) -> float:
        self.bounds += 1
        return super().bound(region)

    def split(self, region: tuple[int, ...], point: list[int]) -> list[tuple[int, ...]]:
        self.splits += 1
        return super().split(region, point)


@pytest.mark.parametrize(("method", "keep"), METHODS)
def test_counts_are_those_of_the_calls(method: str, keep: bool) -> None:
    target = Counted([0.0, 5.0, 1.0, -2.0, 3.0])
    draws = astar_sample(target, 50, method=method, keep=keep, noise=ag.KeyedNoise(16))
    assert draws.likelihoods.min() >= 1
    assert draws.splits.sum() == 0 if method == "rejection" else draws.splits.sum() > 0
    for name in ("likelihoods", "bounds", "splits"):
        assert getattr(draws, name).sum() == getattr(target, name)


@pytest.mark.parametrize("example", ["regression", "clutter"])
def test_the_search_needs_fewer_evaluations_than_rejection(targets: ModuleType, example: str) -> None:
    target, noise = getattr(targets, example)(), ag.KeyedNoise(17)
    search, rejection = (astar_sample(target, 30, method=method, noise=noise).likelihoods for method in ("a*", "os*"))
    assert search.sum() < rejection.sum()


def test_plain_rejection_takes_what_theory_says(targets: ModuleType) -> None:
    draws = astar_sample(targets.sine(), 3000, method="rejection", noise=ag.KeyedNoise(18))
    accept = scipy.special.i0(1) / math.e
    check_mean(draws.likelihoods.numpy(), 1 / accept, (1 - accept) / accept**2)


@pytest.mark.parametrize("method", ["a*", "os*"])
def test_regions_kept_save_evaluations(targets: ModuleType, method: str) -> None:
    noise = ag.KeyedNoise(19)
    kept = astar_sample(targets.clutter(), 300, method=method, keep=True, noise=noise)
    fresh = astar_sample(targets.clutter(), 100, method=method, noise=noise)
    assert torch.equal(kept.samples[0], fresh.samples[0])
    assert kept.likelihoods[200:].double().mean() < 1.3
    assert fresh.likelihoods.double().mean() > 8


@pytest.mark.parametrize("method", ["a*", "os*", "rejection"])
def test_a_sample_is_a_function_of_seed_and_row(targets: ModuleType, method: str) -> None:
    def values(num_samples: int, **own: Any) -> list[float]:
        return astar_sample(targets.sine(), num_samples, method=method, **own).values.tolist()

    many = values(8, noise=ag.KeyedNoise(20))
    assert len(set(many)) == 8
    assert values(3, noise=ag.KeyedNoise(20)) == many[:3]
    assert values(2, noise=ag.KeyedNoise(20, rows=[6, 2])) == [many[6], many[2]]
    assert values(8, noise=ag.KeyedNoise(21)) != many
    stream = astar_stream(targets.sine(), method=method, noise=ag.KeyedNoise(20, rows=[0, 5]))
    assert [draw.value for draw in stream] == [many[0], many[5]]


def test_generators(targets: ModuleType) -> None:
    generator = torch.Generator().manual_seed(3)
    first = astar_sample(targets.sine(), 3, generator=generator)
    second = astar_sample(targets.sine(), 3, generator=generator)
    again = astar_sample(targets.sine(), 3, generator=torch.Generator().manual_seed(3))
    assert torch.equal(first.samples, again.samples)
    assert torch.equal(first.values, again.values)
    assert not torch.equal(first.values, second.values)
    torch.manual_seed(1)
    one = astar_sample(targets.sine(), 1)
    torch.manual_seed(1)
    assert torch.equal(one.values, astar_sample(targets.sine(), 1).values)


@pytest.mark.parametrize("num_samples", [0, 1, 3])
def test_shapes_and_dtypes(targets: ModuleType, num_samples: int) -> None:
    for target, d in [(targets.clutter(3, points=4), 3), (targets.sine(), 1), (Items([0.0, 1.0]), 1)]:
        draws = astar_sample(target, num_samples, noise=ag.KeyedNoise(22))
        assert draws.samples.shape == (num_samples, d)
        assert [x.shape for x in draws[1:]] == [(num_samples,)] * 4
        assert [x.dtype for x in draws] == [torch.float64, torch.float64, torch.int64, torch.int64, torch.int64]


def test_functions_may_hold_parameters_and_any_floating_dtype() -> None:
    peak = torch.tensor([0.5], requires_grad=True)
    target = UniformTarget(
        lambda x: -(x.float() - peak).abs(), lambda low, high: -(peak.clamp(low, high) - peak).abs(), low=0, high=1
    )
    draws = astar_sample(target, 5, noise=ag.KeyedNoise(23))
    assert not draws.samples.requires_grad
    assert peak.grad is None


# --- small parts -------------------------------------------------------------------------------------------------


def test_linear_range_is_that_of_the_corners() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(4, 7, 3, generator=generator) * (torch.rand(4, 7, 3, generator=generator) > 0.3)
    low = torch.randn(3, generator=generator)
    high = low + torch.rand(3, generator=generator)
    corners = torch.tensor(list(itertools.product(*zip(low.tolist(), high.tolist(), strict=True))))
    values = weights @ corners.T
    least, most = linear_range(weights, low, high)
    torch.testing.assert_close(least, values.amin(-1))
    torch.testing.assert_close(most, values.amax(-1))
    inf = torch.full((3,), math.inf)
    least, most = linear_range(torch.tensor([[0.0, 0.0, 0.0], [0.0, -2.0, 0.0]]), -inf, inf)
    assert least.tolist() == [0, -math.inf]
    assert most.tolist() == [0, math.inf]


# --- errors ------------------------------------------------------------------------------------------------------


def flat(x: torch.Tensor) -> float:
    return 0.0


uniform = UniformTarget  # short, for the table


def zero(low: torch.Tensor, high: torch.Tensor) -> float:
    return 0.0


@pytest.mark.parametrize(("make", "own", "error", "says"), [
    (lambda: uniform(torch.sin, lambda *_: 0.5, 0, 6), {"num_samples": 20}, ValueError, r"be at least.*Box\(.*is 0\.5"),
    (lambda: uniform(lambda x: math.nan, zero, 0, 1), {}, ValueError, "log_ratio must not be NaN"),
    (lambda: uniform(lambda x: math.inf, lambda *_: math.inf, 0, 1), {}, ValueError, r"log_ratio is inf at"),
    (lambda: uniform(flat, lambda *_: math.nan, 0, 1), {}, ValueError, "bound must not be NaN"),
    (lambda: uniform(lambda x: x, zero, [0, 0], 1), {}, TypeError, r"log_ratio must return one number.*\(2,\)"),
    (lambda: uniform(flat, lambda *_: None, 0, 1), {}, TypeError, r"bound must return one number.*NoneType"),
    (lambda: uniform(flat, lambda *_: math.inf, 0, 1), {"method": "rejection"}, ValueError, "be finite"),
    (lambda: uniform(flat, lambda *_: math.inf, 0, 1), {"method": "os*"}, ValueError, "be finite"),
    (lambda: uniform(flat, lambda *_: -math.inf, 0, 1), {}, ValueError, "have mass somewhere"),
    (lambda: uniform(flat, lambda *_: -math.inf, 0, 1), {"method": "os*"}, ValueError, "have mass somewhere"),
    (lambda: uniform(lambda x: -math.inf, zero, 0, 1), {"max_steps": 60}, RuntimeError, "more than 60 eval"),
    (lambda: uniform(lambda x: -60.0, zero, 0, 1), {"max_steps": 9, "method": "os*"}, RuntimeError, "more than 9 eval"),
    (lambda: uniform(flat, zero, 1, 1), {}, ValueError, "low must be below high.*longer than 0"),
    (lambda: uniform(flat, zero, [0, 3], [1, 2]), {}, ValueError, "low must be below high"),
    (lambda: uniform(flat, zero, [0, 3], [1, 4, 5]), {}, ValueError, r"must be numbers.*\(2,\).*\(3,\)"),
    (lambda: uniform(flat, zero, [[0]], 1), {}, ValueError, "low, high must be numbers"),
    (lambda: uniform(flat, zero, math.nan, 1), {}, ValueError, "low must not be NaN"),
    (lambda: uniform(flat, zero, 0, math.inf), {}, ValueError, "low and high must be finite"),
    (lambda: uniform(flat, zero, 0, 1, split="half"), {}, ValueError, "split must be .* but it is 'half'"),
    (lambda: NormalTarget(flat, zero, 0, 0), {}, ValueError, "std finite and above 0"),
    (lambda: NormalTarget(flat, zero, math.inf, 1), {}, ValueError, "mean must be finite"),
    (lambda: NormalTarget(flat, zero, 0, 1, low=1e200, high=1e201), {}, ValueError, "space of finite volume above 0"),
    (lambda: object(), {}, TypeError, "object without root, log_volume, sample, split, log_ratio, bound"),
    (Waiting, {"method": "gibbs"}, ValueError, "method must be one of 'a\\*', 'os\\*', 'rejection', but it is 'gibbs'"),
    (Waiting, {"num_samples": -1}, ValueError, "num_samples must be at least 0, but it is -1"),
    (Waiting, {"num_samples": 1.5}, TypeError, "num_samples must be an integer, but it is a float"),
    (Waiting, {"max_steps": 0}, ValueError, "max_steps must be at least 1, but it is 0"),
    (Waiting, {"noise": torch.zeros(3)}, TypeError, "noise must be an argumbel.KeyedNoise, but it is a Tensor"),
    (Waiting, {"noise": ag.KeyedNoise(0, items=[1])}, ValueError, "noise must not have items"),
    (Waiting, {"noise": ag.KeyedNoise(0, rows=[1, 2])}, ValueError, "one row per sample, 1, but it has 2"),
    (Waiting, {"noise": ag.KeyedNoise(0), "generator": torch.Generator()}, ValueError, "both are given"),
])  # fmt: skip
def test_bad_input(make: Callable[[], Any], own: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        astar_sample(make(), **({"noise": ag.KeyedNoise(0)} | own))


def test_parts_larger_than_the_whole() -> None:
    class Growing(Items):
        def split(self, region: tuple[int, ...], point: list[int]) -> list[tuple[int, ...]]:
            return [region + region]

    with pytest.raises(ValueError, match="split must return parts of a region"):
        astar_sample(Growing([0.0, 1.0]), 20, noise=ag.KeyedNoise(0))


def test_arguments_are_checked_before_the_first_draw() -> None:
    with pytest.raises(ValueError, match="method must be one of"):
        astar_stream(Waiting(), method="gibbs")
