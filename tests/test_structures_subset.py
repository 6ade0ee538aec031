"""Sets of k of n items, with scores of neighbours or without, against the list of all sets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import argumbel as ag
from argumbel import kernels
from argumbel.kernels import LOWEST, cpu, subset
from argumbel.structures import (
    CorrelatedSubset,
    Structure,
    Subset,
    perturbed_argmax,
    posterior_gumbel_trace,
    stochastic_softmax,
    trace_log_prob,
)

from . import structure_oracles as oracle
from . import trace_oracles
from .statistics import check_cdf, check_counts, check_draws
from .structure_problems import FIVE, PAIRS, check_golden
from .versions import newer_compiler

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # forward mode
PATHS = ["reference", *(cpu.library.paths() if cpu.library is not None else [])]
CORRELATED = torch.cat([FIVE, PAIRS])
INF = torch.inf


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    with kernels.use(request.param):
        yield request.param


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sets_of(structure: Structure, x: Tensor) -> Tensor:
    if isinstance(structure, Subset):
        return oracle.subsets(x.shape[-1], structure.k)
    assert isinstance(structure, CorrelatedSubset)
    return oracle.correlated_subsets((x.shape[-1] + 1) // 2, structure.k)


def problems(n: int) -> Iterator[tuple[Structure, Tensor]]:
    """All k, with scores near each other, far from each other, with ties, and forbidden ones."""
    for k in range(1, n + 1):
        for structure, parts in ((Subset(k), n), (CorrelatedSubset(k), 2 * n - 1)):
            x = randn(5, parts, seed=n)
            x[1] *= 200
            x[2] = (2 * x[2]).round()
            x[3] = 200 * x[3].round()
            if k < n:
                x[4, 0] = -INF
                if parts > n:
                    x[4, n] = x[3, -1] = -INF
            elif parts > n > 2:
                x[4, 0] = 1e5
            yield structure, x


# --- sums --------------------------------------------------------------------------------------------------------


def test_golden_numbers(path: str) -> None:
    pair = Subset(2)
    check_golden(pair.log_partition(FIVE), 3.053637)
    check_golden(pair.marginals(FIVE), 0.469734, 0.127046, 0.403622, 0.315520, 0.684077)
    jacobian = torch.autograd.functional.jacobian(pair.marginals, FIVE)
    check_golden(jacobian[0], 0.249084, -0.031058, -0.084579, -0.070412, -0.063036)
    both = CorrelatedSubset(2)
    check_golden(both.log_partition(CORRELATED), 3.331509)
    check_golden(both.marginals(CORRELATED)[:5], 0.377749, 0.111216, 0.322445, 0.466587, 0.722004)


def test_the_law_of_perturbed_scores_is_another_one() -> None:
    """Plackett-Luce inclusion, and how far its law is from that of ``sample``."""
    every = trace_oracles.traces(trace_oracles.topk(5, 2))
    check_golden(trace_oracles.inclusion(FIVE, every), 0.466139, 0.114673, 0.392187, 0.298796, 0.728205)
    race = trace_oracles.law_of_structures(FIVE, every, oracle.subsets(5, 2))
    check_golden(oracle.total_variation(race, oracle.law(FIVE, oracle.subsets(5, 2))), 0.044127)
    _, drawn = perturbed_argmax(Subset(2), FIVE.expand(40_000, 5), noise=ag.KeyedNoise(1))
    check_counts([(drawn == row).all(-1).sum() for row in oracle.subsets(5, 2)], race)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_sums_are_those_over_the_list(path: str, n: int) -> None:
    for structure, x in problems(n):
        if path not in ("reference", PATHS[-1]) and isinstance(structure, CorrelatedSubset):
            continue  # it has no compiled kernel
        sets = sets_of(structure, x)
        x.requires_grad_()
        log_z = structure.log_partition(x)
        torch.testing.assert_close(log_z, oracle.log_partition(x.detach(), sets), rtol=1e-12, atol=1e-9)
        mu = structure.marginals(x)
        expected = oracle.marginals(x.detach(), sets)
        torch.testing.assert_close(mu, expected, rtol=0, atol=1e-9)
        assert (mu[x == -INF] == 0).all()
        (slope,) = torch.autograd.grad(log_z.sum(), x)
        torch.testing.assert_close(slope, expected, rtol=0, atol=1e-9)
        covariance = oracle.covariance(x.detach(), sets)
        direction = randn(*x.shape, seed=1)
        (product,) = torch.autograd.grad(mu, x, direction)
        expected = (covariance @ direction.unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(product, expected, rtol=0, atol=1e-9)


def test_rare_items_to_a_relative_precision(path: str) -> None:
    x = 40 * randn(4, 12)
    for k in (1, 4, 9):
        exact = oracle.marginals(x, oracle.subsets(12, k))
        mu = Subset(k).marginals(x)
        small = exact > 1e-290
        torch.testing.assert_close(mu[small], exact[small], rtol=1e-10, atol=0)


SIZES = [(5, 2), (33, 32), (60, 60), (100, 67), (700, 5), (1500, 700), (1500, 1499), (3000, 80)]


@pytest.mark.parametrize(("n", "k"), SIZES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 500.0])
def test_kernel_is_the_reference(threads: int, n: int, k: int, scale: float) -> None:
    """Values, and products of the covariance; blocks of items and centres that are searched for among them."""
    rows = 3 if n > 1000 else 40
    x, direction = scale * randn(rows, n), randn(rows, n, seed=1)
    if k < n // 2:
        x[0, 1::3] = LOWEST
    if k > 1:
        x[1, : n - k + 1] = LOWEST  # too few are left

    def numbers() -> tuple[Tensor, ...]:
        y = x.clone().requires_grad_()
        mu = kernels.subset_marginals(y, k)
        return kernels.subset_log_partition(x, k), mu.detach(), torch.autograd.grad(mu, y, direction)[0]

    with kernels.use("reference"):
        expected = numbers()
    left = expected[0] > LOWEST / 2
    assert left.tolist() == [k == 1 or row != 1 for row in range(rows)]
    found = []
    for name in PATHS[1:]:
        with kernels.use(name):
            found.append(numbers())
        torch.testing.assert_close(found[-1][0][left], expected[0][left], rtol=1e-12, atol=1e-11)
        assert (found[-1][0] > LOWEST / 2).equal(left)
        for ours, exact in zip(found[-1][1:], expected[1:], strict=True):
            torch.testing.assert_close(ours[left], exact[left], rtol=1e-11, atol=1e-12)
            assert ours.isfinite().all()
    for other in found[1:]:
        assert all(map(torch.equal, other, found[0]))  # every path to the bit


def test_rows_do_not_depend_on_rows_beside_them_nor_on_strides() -> None:
    x = randn(50, 40)
    mu = Subset(7).marginals(x)
    assert torch.equal(Subset(7).marginals(x[13]), mu[13])
    assert torch.equal(Subset(7).marginals(x.T.contiguous().T), mu)
    assert torch.equal(Subset(7).marginals(x[3].expand(2, 40)), mu[3].expand(2, 40))
    assert torch.equal(kernels.subset_marginals(x[:, None].expand(50, 2, 40)[:, 1], 7), mu)


def test_a_common_direction_and_directions_of_any_size(path: str) -> None:
    x = (3 * randn(4, 50)).requires_grad_()
    mu = kernels.subset_marginals(x, 9)
    (flat,) = torch.autograd.grad(mu, x, torch.full_like(x, 1e6), retain_graph=True)
    assert flat.abs().max() < 1e-8
    v = randn(4, 50, seed=2)
    (product,) = torch.autograd.grad(mu, x, v, retain_graph=True)
    for size in (1e-290, 1e290):
        (scaled,) = torch.autograd.grad(mu, x, size * v, retain_graph=True)
        torch.testing.assert_close(scaled / size, product, rtol=1e-9, atol=1e-13)
    (none,) = torch.autograd.grad(mu, x, torch.zeros_like(x))
    assert (none == 0).all()


@pytest.mark.parametrize("structure", [Subset(2), CorrelatedSubset(2)])
def test_derivatives(backend: str, structure: Structure) -> None:
    x = (FIVE if isinstance(structure, Subset) else CORRELATED).clone().requires_grad_()
    for function in (structure.log_partition, structure.marginals):
        assert torch.autograd.gradcheck(function, x)
        assert torch.autograd.gradgradcheck(function, x)
    hessian = torch.func.hessian(structure.log_partition)(x.detach())
    torch.testing.assert_close(hessian, oracle.covariance(x.detach(), sets_of(structure, x)))
    for y in (x.detach(), x.detach().clone().index_fill(0, torch.tensor([0, len(x) - 1]), -INF), torch.zeros_like(x)):
        y.requires_grad_()
        (first,) = torch.autograd.grad(structure.marginals(y), y, randn(len(x)), create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), y)
        assert first.isfinite().all()
        assert second.isfinite().all()


@pytest.mark.parametrize("structure", [Subset(2), CorrelatedSubset(2)])
def test_transforms(backend: str, structure: Structure) -> None:
    x, v = randn(2, 3, 7)
    mu = structure.marginals(x)
    torch.testing.assert_close(torch.vmap(structure.log_partition)(x), structure.log_partition(x))
    torch.testing.assert_close(torch.vmap(torch.func.grad(structure.log_partition))(x), mu)
    expected = torch.stack(
        [torch.autograd.functional.jacobian(structure.marginals, a) @ b for a, b in zip(x, v, strict=True)]
    )
    torch.testing.assert_close(torch.func.jvp(structure.marginals, (x,), (v,))[1], expected)
    torch.testing.assert_close(torch.vmap(structure.argmax)(x), structure.argmax(x))


@newer_compiler
@pytest.mark.parametrize("structure", [Subset(2), CorrelatedSubset(2)])
def test_compiled(structure: Structure) -> None:
    """A node each, also in the first run."""
    x = randn(2, 7)

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        return stochastic_softmax(structure, x, 0.5, noise=ag.KeyedNoise(0)), structure.sample(x, (3,)).sum((0, 2))

    torch._dynamo.reset()
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(x)[0], both(x)[0])
        assert compiled(x)[1].shape == (2,)


@given(
    x=st.lists(st.sampled_from([-INF, -300.0, -1.0, 0.0, 0.5, 1.0, 1.0, 400.0]), min_size=1, max_size=8),
    correlated=st.booleans(),
    data=st.data(),
)
def test_any_scores(x: list[float], correlated: bool, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(x)))
    structure = CorrelatedSubset(k) if correlated else Subset(k)
    if correlated:
        x = [
            *x,
            *data.draw(st.lists(st.sampled_from([-INF, -2.0, 0.0, 500.0]), min_size=len(x) - 1, max_size=len(x) - 1)),
        ]
    scores = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    sets = sets_of(structure, scores)
    exact = oracle.log_partition(scores.detach(), sets)
    if exact == -INF:
        for function in (structure.log_partition, structure.marginals, structure.argmax, structure.sample):
            with pytest.raises(ValueError, match="scores must leave at least one subset of k items"):
                function(scores)
        return
    torch.testing.assert_close(structure.log_partition(scores), exact, rtol=1e-12, atol=1e-9)
    mu = structure.marginals(scores)
    torch.testing.assert_close(mu, oracle.marginals(scores.detach(), sets), rtol=0, atol=1e-9)
    (slope,) = torch.autograd.grad(mu.square().sum(), scores)
    assert slope.isfinite().all()
    assert torch.equal(structure.argmax(scores), oracle.best(scores.detach(), sets)[1].double())
    drawn = structure.sample(scores, (5,))
    assert (drawn.unsqueeze(-2) == sets).all(-1).any(-1).all()
    assert oracle.totals(scores.detach(), drawn.bool()).isfinite().all()


@pytest.mark.parametrize("tau", [1, 0.3, 0.1, 0.05, 0.01])
def test_float32_at_low_temperatures(tau: float) -> None:
    for n, k in ((10, 3), (30, 20)):
        x = randn(64, n).float()
        y = stochastic_softmax(Subset(k), x, tau, noise=ag.KeyedNoise(2))
        torch.testing.assert_close(y, ag.relaxed_topk(x, k, tau, noise=ag.KeyedNoise(2)))
        torch.testing.assert_close(y.sum(-1), torch.full((64,), float(k)), rtol=0, atol=1e-4)
        z = randn(8, 2 * n - 1).float()
        y = stochastic_softmax(CorrelatedSubset(k), z, tau, noise=ag.KeyedNoise(2))
        torch.testing.assert_close(y[:, :n].sum(-1), torch.full((8,), float(k)), rtol=0, atol=1e-4)
        assert ((y >= 0) & (y <= 1)).all()


# --- the best set, samples, traces -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_argmax_is_the_first_of_the_best(backend: str, n: int) -> None:
    for structure, x in problems(n):
        best, indicators = oracle.best(x, sets_of(structure, x))
        assert torch.equal(structure.argmax(x), indicators.double())
        values, chosen = perturbed_argmax(structure, x, noise=torch.zeros_like(x))
        torch.testing.assert_close(values, best)
        assert torch.equal(chosen, indicators.double())


@pytest.mark.parametrize(
    ("structure", "x"),
    [
        (Subset(2), FIVE),
        (Subset(4), 3 * FIVE),
        (CorrelatedSubset(2), CORRELATED),
        (CorrelatedSubset(3), 2 * CORRELATED),
    ],
)
def test_samples_have_the_law(structure: Structure, x: Tensor) -> None:
    rows = torch.stack([x, x.flip(0)])
    rows[1, 0] = -INF
    sets = sets_of(structure, x)
    drawn = structure.sample(rows, (20_000,), generator=torch.Generator().manual_seed(3))
    assert drawn.shape == (20_000, *rows.shape)
    for row in range(2):
        counts = (drawn[:, row].unsqueeze(-2) == sets).all(-1).sum(0)
        assert counts.sum() == 20_000
        check_counts(counts, oracle.law(rows[row], sets))
    both = (drawn.unsqueeze(-2) == sets).all(-1).double().argmax(-1)
    law = [oracle.law(row, sets) for row in rows]
    check_draws(both[:, 0] * len(sets) + both[:, 1], (law[0].unsqueeze(-1) * law[1]).flatten())
    assert len(structure.sample(0 * x.expand(64, len(x))).unique(dim=0)) > 4


def test_the_trace_is_plackett_luce() -> None:
    every = trace_oracles.traces(trace_oracles.topk(5, 3))
    structure = Subset(3)
    values = FIVE + ag.KeyedNoise(3).gumbel((20_000, 5), dtype=torch.float64)
    trace = structure.trace(values)
    assert torch.equal(trace.indicators, structure.argmax(values))
    same = (trace.chosen.unsqueeze(-2) == every.chosen).all(-1)
    run = same.double().argmax(-1)
    assert same.any(-1).all()
    check_draws(run, trace_oracles.law(FIVE, every))
    assert torch.equal(trace.alive, every.alive[run])
    assert torch.equal(trace.chosen, ag.gumbel_topk(values, 3, noise=torch.zeros_like(values)).indices)
    log_probs = trace_log_prob(FIVE, trace)
    torch.testing.assert_close(log_probs, trace_oracles.log_prob(FIVE, every)[run])
    torch.testing.assert_close(log_probs, ag.topk_log_prob(FIVE.expand(20_000, 5), trace.chosen))
    assert torch.equal(structure.trace(posterior_gumbel_trace(FIVE, trace)).chosen, trace.chosen)


def test_the_noise_behind_a_trace() -> None:
    """Over traces from the law, it is the noise of a race again: Gumbel, in every part."""
    values = FIVE + ag.KeyedNoise(5).gumbel((20_000, 5), dtype=torch.float64)
    again = posterior_gumbel_trace(FIVE, Subset(2).trace(values), noise=ag.KeyedNoise(6))
    for item in range(5):
        check_cdf(again[:, item] - FIVE[item], lambda g: torch.exp(-torch.exp(-torch.as_tensor(g))).numpy())


def test_ties_in_a_trace() -> None:
    trace = Subset(2).trace(torch.tensor([0.0, 1.0, 1.0, 1.0]))
    assert trace.chosen.tolist() == [1, 2]
    assert trace.alive.tolist() == [[True] * 4, [True, False, True, True]]


def test_lists_of_all_sets() -> None:
    for n in range(1, 7):
        for k in range(1, n + 1):
            assert torch.equal(Subset(k).enumerate(n), oracle.subsets(n, k))
            assert torch.equal(CorrelatedSubset(k).enumerate(2 * n - 1), oracle.correlated_subsets(n, k))
            assert len(Subset(k).enumerate(n)) == math.comb(n, k)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7,), (0, 7), (2, 1, 7)])
def test_shapes_and_dtypes(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    for structure in (Subset(3), CorrelatedSubset(3)):
        x = torch.zeros(shape, dtype=dtype)
        assert structure.log_partition(x).shape == shape[:-1]
        assert structure.sample(x, (2,)).shape == (2, *shape)
        for y in (structure.argmax(x), structure.marginals(x), stochastic_softmax(structure, x, 0.3)):
            assert y.shape == shape
            assert y.dtype == dtype


def test_masks(backend: str) -> None:
    x, mask = randn(4, 7), torch.tensor([True, False, True, True, True, False, True])
    for structure in (Subset(3), CorrelatedSubset(3)):
        forbidden = x.masked_fill(~mask, -INF)
        for method in ("argmax", "log_partition", "marginals"):
            assert torch.equal(getattr(structure, method)(x, mask=mask), getattr(structure, method)(forbidden))
        assert (structure.sample(x, (50,), mask=mask)[..., ~mask] == 0).all()


# --- refusals ----------------------------------------------------------------------------------------------------


def test_errors(backend: str) -> None:
    for make, k in itertools.product((Subset, CorrelatedSubset), (0, -1)):
        with pytest.raises(ValueError, match=f"k must be at least 1, but it is {k}; pass a larger number"):
            make(k)
    with pytest.raises(TypeError, match="k must be an integer"):
        Subset(1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scores must have at least k = 4 items, but the last dimension has 3"):
        Subset(4).marginals(torch.zeros(3))
    for n in (4, 5):
        with pytest.raises(ValueError, match=f"scores must have 2 n - 1 numbers .*, but the last dimension has {n}"):
            CorrelatedSubset(4).marginals(torch.zeros(n))
    with pytest.raises(ValueError, match="scores must leave at least one subset of k items"):
        Subset(2).marginals(torch.tensor([0.0, -INF, -INF]))
    with pytest.raises(ValueError, match="scores must not be NaN"):
        CorrelatedSubset(1).argmax(torch.tensor([0.0, torch.nan, 0.0]))


def test_a_structure_without_a_race() -> None:
    assert not CorrelatedSubset.has_trace
    assert Subset.has_trace
    with pytest.raises(NotImplementedError, match=r"has no trace: .* use sample .* or perturbed_argmax"):
        CorrelatedSubset(2).trace(CORRELATED)


def test_names_of_the_reference() -> None:
    assert subset.FEW == 32  # the sizes above take both ways of the reference
    assert repr(Subset(3)) == "Subset(k=3)"
    assert Subset(3) == Subset(3) != Subset(2)
