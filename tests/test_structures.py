"""What every structure promises, against the list of all its solutions."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel.perturbation import fenchel_young_loss, perturbed
from argumbel.structures import (
    Matching,
    OneHot,
    SpanningTree,
    Trace,
    perturbed_argmax,
    posterior_gumbel_trace,
    stochastic_softmax,
    trace_log_prob,
)

from . import structure_oracles as oracles
from . import trace_oracles
from .oracles import gumbel_cdf
from .statistics import check_cdf, check_counts, check_mean
from .structure_cases import CASES, RACES, SUMS, Case

ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
SUMMED = pytest.mark.parametrize("case", SUMS.values(), ids=SUMS.keys())
RACING = pytest.mark.parametrize("case", RACES.values(), ids=RACES.keys())
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def difficult(case: Case) -> dict[str, Tensor]:
    """Scores of one batch of three: ordinary, far apart, tied, and with parts that are forbidden."""
    plain = case.scores(3)
    some = plain.masked_fill(~case.solutions[:3].any(0), -torch.inf)  # the first solutions stay possible
    return {
        "plain": plain,
        "far apart": 200 * plain,
        "tied": plain.round(),
        "moved": plain + 1e5,
        "forbidden": some,
        "forbidden, far apart": 200 * some,
    }


def methods(case: Case) -> list[str]:
    """The methods of the structure that take scores alone, and return what scores determine."""
    return ["argmax", *(["log_partition", "marginals"] if case.structure.has_partition else [])]


def refusing(case: Case) -> list[Callable[[Tensor], object]]:
    """All that must refuse bad scores."""
    structure = case.structure
    calls = [getattr(structure, name) for name in methods(case)] + [structure.sample] * structure.has_partition
    return [*calls, lambda x: perturbed_argmax(structure, x), lambda x: stochastic_softmax(structure, x)]


def numbers(y: Tensor, case: Case) -> np.ndarray:
    """The place of each structure in the list of the solutions."""
    flat, solutions = y.reshape(-1, *case.event), case.solutions
    same = (flat.flatten(1).unsqueeze(1) == solutions.flatten(1).to(flat.dtype)).all(-1)
    assert bool(same.any(-1).all()), "not a solution"
    return same.int().argmax(-1).numpy()


def gumbels(seed: int, count: int, x: Tensor) -> Tensor:
    """So many rows of noise in the shape of x."""
    return ag.KeyedNoise(seed).gumbel((count, x.numel()), dtype=torch.float64).reshape(count, *x.shape)


# --- the law exp(score) / Z ------------------------------------------------------------------------------------------


@SUMMED
@pytest.mark.parametrize("kind", ["plain", "far apart", "tied", "moved", "forbidden", "forbidden, far apart"])
def test_partition_marginals_and_covariance_are_sums_over_all(case: Case, kind: str) -> None:
    x = difficult(case)[kind].requires_grad_()
    structure = case.structure
    exact = oracles.log_partition(x.detach(), case.solutions)
    log_z = structure.log_partition(x)
    rtol = 1e-12 if kind == "moved" else 1e-9
    torch.testing.assert_close(log_z, exact, rtol=rtol, atol=1e-9)
    mu = oracles.marginals(x.detach(), case.solutions)
    (slope,) = torch.autograd.grad(log_z.sum(), x, create_graph=True)
    torch.testing.assert_close(slope, mu, rtol=0, atol=1e-9)
    torch.testing.assert_close(structure.marginals(x), mu, rtol=0, atol=1e-9)
    covariance = oracles.covariance(x.detach(), case.solutions).reshape(3, mu[0].numel(), mu[0].numel())
    direction = torch.randn_like(mu)
    (along,) = torch.autograd.grad(slope, x, direction)
    expected = torch.einsum("bij,bj->bi", covariance, direction.flatten(1)).reshape(mu.shape)
    torch.testing.assert_close(along, expected, rtol=0, atol=1e-8)


@SUMMED
def test_derivatives(case: Case) -> None:
    x = case.scores(2).requires_grad_()
    assert torch.autograd.gradcheck(case.structure.log_partition, x)
    assert torch.autograd.gradgradcheck(case.structure.log_partition, x)
    assert torch.autograd.gradcheck(case.structure.marginals, x)


@SUMMED
@pytest.mark.parametrize("tau", [1, 0.3, 0.1, 0.05, 0.01])
def test_float32_at_low_temperatures(case: Case, tau: float) -> None:
    x = case.scores(8, dtype=torch.float32)
    mu = case.structure.marginals(x / tau)
    exact = oracles.marginals((x / tau).double(), case.solutions)
    torch.testing.assert_close(mu.double(), exact, rtol=0, atol=1e-6)


@SUMMED
def test_samples_are_exact(case: Case) -> None:
    x = case.scores()
    draws = case.structure.sample(x, (20_000,), generator=torch.Generator().manual_seed(1))
    assert draws.shape == (20_000, *case.event)
    law = oracles.law(x, case.solutions)
    check_counts(np.bincount(numbers(draws, case), minlength=len(law)), law.numpy())


@SUMMED
def test_samples_of_a_batch_are_independent(case: Case) -> None:
    x = 0.5 * case.scores().expand(400, *case.event)
    draws = case.structure.sample(x)
    assert len(draws.flatten(1).unique(dim=0)) >= min(10, len(case.solutions) - 1)


@SUMMED
def test_a_sample_never_has_a_forbidden_part(case: Case) -> None:
    x = difficult(case)["forbidden"]
    assert not bool((case.structure.sample(x, (500,)).bool() & (x == -torch.inf)).any())


# --- the best --------------------------------------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("kind", ["plain", "far apart", "moved", "forbidden", "forbidden, far apart"])
def test_argmax_is_the_best_of_all(case: Case, kind: str) -> None:
    x = difficult(case)[kind]
    best = torch.stack([oracles.best(row, case.solutions)[1] for row in x])
    torch.testing.assert_close(case.structure.argmax(x), best.to(x.dtype), rtol=0, atol=0)


@ALL
def test_argmax_of_ties_has_the_largest_score(case: Case) -> None:
    x = case.scores(50).round()
    best = torch.stack([oracles.best(row, case.solutions)[0] for row in x])
    y = case.structure.argmax(x)
    torch.testing.assert_close((x * y).flatten(1).sum(-1), best)
    numbers(y, case)  # each is a solution
    assert torch.equal(y, case.structure.argmax(x.clone()))


@ALL
def test_perturbed_argmax_is_keyed(case: Case) -> None:
    x = case.scores(6, dtype=torch.float32)
    whole = perturbed_argmax(case.structure, x, noise=ag.KeyedNoise(7))
    part = perturbed_argmax(case.structure, x[[4, 1]], noise=ag.KeyedNoise(7, rows=[4, 1]))
    torch.testing.assert_close(part.indicators, whole.indicators[[4, 1]], rtol=0, atol=0)
    torch.testing.assert_close(part.values, whole.values[[4, 1]], rtol=0, atol=0)
    noise = ag.KeyedNoise(7).gumbel((6, x[0].numel())).reshape(x.shape)
    given = perturbed_argmax(case.structure, x, noise=noise)
    torch.testing.assert_close(given.indicators, whole.indicators, rtol=0, atol=0)
    best = torch.stack([oracles.best(row, case.solutions)[0] for row in (x.double() + noise)])
    torch.testing.assert_close(whole.values, best.float())


@ALL
def test_the_gradient_of_a_perturbed_maximum_is_its_structure(case: Case) -> None:
    x = case.scores(4).requires_grad_()
    values, y = perturbed_argmax(case.structure, x, noise=ag.KeyedNoise(1))
    (slope,) = torch.autograd.grad(values.sum(), x)
    torch.testing.assert_close(slope, y, rtol=0, atol=0)


# --- relaxed ---------------------------------------------------------------------------------------------------------


@SUMMED
def test_a_relaxed_structure_is_the_mean_at_the_perturbed_scores(case: Case) -> None:
    x = case.scores(3)
    noise = ag.KeyedNoise(2).gumbel((3, x[0].numel()), dtype=torch.float64).reshape(x.shape)
    tau = torch.tensor([0.5, 1, 3], dtype=torch.float64)
    for at in (0.7, tau):
        y = stochastic_softmax(case.structure, x, at, noise=noise)
        wide = tau.reshape(3, *[1] * len(case.event)) if at is tau else 0.7
        torch.testing.assert_close(y, oracles.marginals((x + noise) / wide, case.solutions), rtol=0, atol=1e-9)


@ALL
def test_a_relaxed_structure_becomes_hard(case: Case) -> None:
    x = case.scores(3, dtype=torch.float32)
    y = perturbed_argmax(case.structure, x, noise=ag.KeyedNoise(3)).indicators
    for tau in (0, 0.0, torch.tensor(0.0), 1e-4):
        soft = stochastic_softmax(case.structure, x, tau, noise=ag.KeyedNoise(3))
        torch.testing.assert_close(soft, y, rtol=0, atol=1e-3 if tau == 1e-4 else 0)
    x.requires_grad_()
    hard = stochastic_softmax(case.structure, x, 0.5, True, noise=ag.KeyedNoise(3))
    torch.testing.assert_close(hard, y, rtol=0, atol=0)
    weight = torch.randn_like(hard)
    (slope,) = torch.autograd.grad((hard * weight).sum(), x)
    soft = stochastic_softmax(case.structure, x, 0.5, noise=ag.KeyedNoise(3))
    torch.testing.assert_close(slope, torch.autograd.grad((soft * weight).sum(), x)[0])


@ALL
def test_gradients_of_tau(case: Case) -> None:
    x, tau = case.scores(2), torch.tensor([0.5, 2], dtype=torch.float64, requires_grad=True)
    noise = torch.randn_like(x)
    assert torch.autograd.gradcheck(lambda t: stochastic_softmax(case.structure, x, t, noise=noise), tau)
    forbidden = difficult(case)["forbidden"]
    t = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    y = stochastic_softmax(case.structure, forbidden, t, noise=torch.randn_like(forbidden))
    assert bool(torch.autograd.grad((y * torch.randn_like(y)).sum(), t)[0].isfinite())


# --- traces ----------------------------------------------------------------------------------------------------------


@RACING
def test_traces_are_those_of_the_race(case: Case) -> None:
    assert case.race is not None
    x = case.scores(40)
    trace = case.structure.trace(x)
    for row, chosen, y in zip(x, trace.chosen, trace.indicators, strict=True):
        winners = trace_oracles.replay(case.race, row)
        assert tuple(chosen[chosen >= 0].tolist()) == winners
        assert bool(y.bool().any()) or not case.parts.any()
    if case.structure.trace_is_argmax:
        torch.testing.assert_close(trace.indicators, case.structure.argmax(x), rtol=0, atol=0)


@RACING
def test_log_probabilities_of_traces(case: Case) -> None:
    assert case.race is not None
    x = case.scores()
    law = trace_oracles.orders(x, trace_oracles.traces(case.race))
    trace = case.structure.trace(x + gumbels(1, 300, x))
    found = trace_log_prob(x, trace).exp()
    for chosen, p in zip(trace.chosen, found, strict=True):
        torch.testing.assert_close(float(p), law[tuple(chosen[chosen >= 0].tolist())])


@RACING
def test_the_race_has_the_law_of_its_traces(case: Case) -> None:
    assert case.race is not None
    x = case.scores()
    every = trace_oracles.traces(case.race)
    law = trace_oracles.law_of_structures(x, every, case.solutions)
    noise = gumbels(5, 20_000, x)
    found = case.structure.trace(x + noise).indicators
    check_counts(np.bincount(numbers(found, case), minlength=len(law)), law.numpy())


@RACING
def test_the_score_of_a_trace_has_mean_zero(case: Case) -> None:
    x = case.scores().requires_grad_()
    noise = gumbels(6, 4000, x)
    many = x.expand(4000, *x.shape)
    trace = case.structure.trace(many.detach() + noise)
    (score,) = torch.autograd.grad(trace_log_prob(many, trace).sum(), many)
    raced = trace_oracles.traces(case.race).alive.any(1).any(0)
    assert not bool(score[:, ~raced].any())
    for part in score[:, raced].T:
        check_mean(part.numpy(), 0, float(part.var()))


@RACING
def test_the_noise_behind_a_trace(case: Case) -> None:
    """Traces of the race, then values given the trace: the values are independent Gumbels again."""
    x = case.scores()
    noise = gumbels(8, 4000, x)
    trace = case.structure.trace(x + noise)
    values = posterior_gumbel_trace(x, trace, noise=ag.KeyedNoise(9))
    assert torch.equal(case.structure.trace(values).chosen, trace.chosen)
    parts = (values - x).flatten(1)[:, case.parts.flatten()]
    for g in parts.T:
        check_cdf(g.numpy(), gumbel_cdf)
    u = torch.exp(-torch.exp(-parts)).numpy()
    correlation = np.corrcoef(u.T)[np.triu_indices(u.shape[1], 1)]
    assert np.abs(correlation).max(initial=0) < 6 / np.sqrt(4000)


@RACING
def test_counterfactual_structures_by_replay(case: Case) -> None:
    """The noise behind a race, with other scores: the structures have the law of the race under these scores, and with
    the same scores every race ends as it did."""
    assert case.race is not None
    x, other = case.scores(), case.scores()
    trace = case.structure.trace(x + gumbels(11, 10_000, x))
    values = posterior_gumbel_trace(x, trace, noise=ag.KeyedNoise(12))
    same, new = case.structure.trace(values), case.structure.trace(values - x + other)
    assert torch.equal(same.indicators, trace.indicators)
    law = trace_oracles.law_of_structures(other, trace_oracles.traces(case.race), case.solutions)
    check_counts(np.bincount(numbers(new.indicators, case), minlength=len(law)), law.numpy())


@RACING
def test_values_given_a_trace_are_keyed_and_differentiable(case: Case) -> None:
    x = case.scores(3).requires_grad_()
    trace = case.structure.trace(x.detach() + torch.randn_like(x))
    whole = posterior_gumbel_trace(x, trace, noise=ag.KeyedNoise(1))
    part = posterior_gumbel_trace(x[1:2], Trace(*(t[1:2] for t in trace)), noise=ag.KeyedNoise(1, rows=[1]))
    torch.testing.assert_close(part, whole[1:2], rtol=0, atol=0)
    noise = torch.randn_like(x)
    assert torch.autograd.gradcheck(lambda x: posterior_gumbel_trace(x, trace, noise=noise), x)


# --- dtypes, modes, shapes -------------------------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(case: Case, dtype: torch.dtype) -> None:
    x = case.scores(2, 3, dtype=dtype)
    structure = case.structure
    for name in methods(case):
        found = getattr(structure, name)(x)
        assert found.dtype == dtype
        torch.testing.assert_close(found, getattr(structure, name)(x.double()).to(dtype))
    if structure.has_partition:
        assert structure.sample(x).dtype == dtype
    values, y = perturbed_argmax(structure, x, noise=ag.KeyedNoise(1))
    assert values.dtype == y.dtype == stochastic_softmax(structure, x, 0.5).dtype == dtype
    assert values.shape == (2, 3)
    assert y.shape == x.shape


@ALL
def test_shapes_and_strides(case: Case) -> None:
    structure, x = case.structure, case.scores(4, 3)
    moved = x.transpose(0, 1).contiguous().transpose(0, 1)
    for name in methods(case):
        call = getattr(structure, name)
        torch.testing.assert_close(call(moved), call(x), rtol=0, atol=0)
        torch.testing.assert_close(call(x)[1, 2], call(x[1, 2]), rtol=0, atol=0)
        assert call(x[:0]).shape == call(x)[:0].shape
    if structure.has_partition:
        assert structure.sample(x, (2, 5)).shape == (2, 5, *x.shape)
        assert structure.sample(x[:0]).shape == x[:0].shape
    assert stochastic_softmax(structure, x[:0], 0.5).shape == x[:0].shape
    assert perturbed_argmax(structure, x[:0]).indicators.shape == x[:0].shape


@ALL
def test_masks_forbid(case: Case) -> None:
    x = difficult(case)["plain"]
    mask = case.solutions[:3].any(0)
    forbidden = x.masked_fill(~mask, -torch.inf)
    for name in methods(case):
        call = getattr(case.structure, name)
        torch.testing.assert_close(call(x, mask=mask), call(forbidden), rtol=0, atol=0)
    for verb in (lambda *a, **k: perturbed_argmax(*a, **k).indicators, stochastic_softmax):
        found = verb(case.structure, x, mask=mask, noise=ag.KeyedNoise(1))
        torch.testing.assert_close(found, verb(case.structure, forbidden, noise=ag.KeyedNoise(1)), rtol=0, atol=0)


@ALL
def test_vmap(case: Case) -> None:
    structure, x = case.structure, case.scores(3)
    for name in methods(case):
        call = getattr(structure, name)
        torch.testing.assert_close(torch.vmap(call)(x), call(x))

    def soft(x: Tensor) -> Tensor:
        return stochastic_softmax(structure, x, 0.5, noise=torch.zeros_like(x))

    torch.testing.assert_close(torch.vmap(soft)(x), soft(x))
    jacobian = torch.func.jacfwd(soft)(x[0])
    torch.testing.assert_close(torch.func.jacrev(soft)(x[0]), jacobian)
    torch.testing.assert_close(torch.autograd.functional.jacobian(soft, x[0], vectorize=True), jacobian)


@SUMMED
def test_transforms(case: Case) -> None:
    structure, x = case.structure, case.scores(3)
    slopes = torch.vmap(torch.func.grad(structure.log_partition))(x)
    torch.testing.assert_close(slopes, structure.marginals(x))
    hessian = torch.func.hessian(structure.log_partition)(x[0]).reshape(x[0].numel(), -1)
    exact = oracles.covariance(x[0], case.solutions).reshape(hessian.shape)
    torch.testing.assert_close(hessian, exact, rtol=0, atol=1e-9)
    _, along = torch.func.jvp(structure.marginals, (x[0],), (x[1],))
    torch.testing.assert_close(along.flatten(), exact @ x[1].flatten(), rtol=0, atol=1e-9)
    jacobian = torch.autograd.functional.jacobian(structure.marginals, x[0], vectorize=True)
    torch.testing.assert_close(jacobian.reshape(exact.shape), exact, rtol=0, atol=1e-9)


@ALL
def test_compiled(case: Case) -> None:
    torch.compiler.reset()  # there is a limit to how often one function is compiled
    structure, x = case.structure, case.scores(3)

    def all_of_it(x: Tensor) -> tuple[Tensor, ...]:
        noise = ag.KeyedNoise(4)
        hard = perturbed_argmax(structure, x, noise=noise)
        soft = stochastic_softmax(structure, x, 0.5, noise=noise)
        return soft, *hard, *(getattr(structure, name)(x) for name in methods(case))

    torch.compiler.reset()  # else the cases before count as attempts to compile the same function
    compiled = torch.compile(all_of_it, fullgraph=True, backend="aot_eager")
    for found, expected in zip(compiled(x), all_of_it(x), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    at = x.clone().requires_grad_()
    compiled(at)[0].square().sum().backward()
    again = x.clone().requires_grad_()
    stochastic_softmax(structure, again, 0.5, noise=ag.KeyedNoise(4)).square().sum().backward()
    torch.testing.assert_close(at.grad, again.grad)


def test_compiled_traces() -> None:
    structure, x = SpanningTree(4), torch.randn(3, 6)

    def race(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        trace = structure.trace(x)
        noise = ag.KeyedNoise(1)
        return trace.chosen, trace_log_prob(x, trace), posterior_gumbel_trace(x, trace, noise=noise)

    for found, expected in zip(torch.compile(race, fullgraph=True, backend="aot_eager")(x), race(x), strict=True):
        torch.testing.assert_close(found, expected)


# --- bad input -------------------------------------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_bad_scores(case: Case, wrong: float) -> None:
    x = case.scores(2)
    x[1].view(-1)[case.parts.flatten().int().argmax()] = wrong
    for call in refusing(case):
        with pytest.raises(ValueError, match="scores must not be NaN or"):
            call(x)
    for name in methods(case):
        marked = torch.vmap(getattr(case.structure, name))(x)
        assert marked.reshape(2, -1).isnan().all(-1).tolist() == [False, True]


@ALL
def test_nothing_left(case: Case) -> None:
    x = torch.stack([case.scores(), torch.full(case.event, -torch.inf, dtype=torch.float64)])
    for call in refusing(case):
        with pytest.raises(ValueError, match="scores must leave at least one"):
            call(x)
    for name in methods(case):
        marked = torch.vmap(getattr(case.structure, name))(x)
        assert marked.reshape(2, -1).isnan().all(-1).tolist() == [False, True]


@ALL
def test_without_a_sum_over_all_solutions(case: Case) -> None:
    structure, x = case.structure, case.scores()
    for call in (structure.log_partition, structure.marginals, structure.sample):
        if structure.has_partition:
            call(x)
        else:
            with pytest.raises(NotImplementedError, match=r"structure must have a sum .* use perturbed_argmax"):
                call(x)


@ALL
def test_wrong_arguments(case: Case) -> None:
    structure, x = case.structure, case.scores(2)
    with pytest.raises(TypeError, match="scores must"):
        structure.argmax(x.long())
    with pytest.raises(TypeError, match="scores must be a tensor"):
        structure.argmax(x.tolist())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="mask must be a bool tensor"):
        structure.argmax(x, mask=x)
    with pytest.raises(ValueError, match="mask must broadcast to the shape of scores"):
        structure.argmax(x, mask=torch.ones(3, *x.shape, dtype=torch.bool))
    with pytest.raises(ValueError, match="scores must"):
        structure.argmax(torch.zeros(()))
    with pytest.raises(ValueError, match="tau must be at least 0"):
        stochastic_softmax(structure, x, -1)
    with pytest.raises(ValueError, match="tau must broadcast to the shape of the structures"):
        stochastic_softmax(structure, x, torch.ones(7, 2))
    with pytest.raises(ValueError, match="method must be one of"):
        stochastic_softmax(structure, x, method="average")
    with pytest.raises(ValueError, match="noise must"):
        perturbed_argmax(structure, x, noise=torch.zeros(7))
    for noise in (x.flatten(), x[0]):
        with pytest.raises(ValueError, match=re.escape(f"noise must have the shape {tuple(x.shape)}")):
            perturbed_argmax(structure, x, noise=noise)
    for wrong in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="noise must not be NaN"):
            stochastic_softmax(structure, x, noise=torch.full_like(x, wrong))
    with pytest.raises(ValueError, match="generator must be left out"):
        perturbed_argmax(structure, x, noise=ag.KeyedNoise(1), generator=torch.Generator())


def test_wrong_traces() -> None:
    x = torch.zeros(2, 6)
    trace = SpanningTree(4).trace(x)
    with pytest.raises(TypeError, match="trace must be a Trace"):
        trace_log_prob(x, tuple(trace))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scores must have the shape of the structures of trace"):
        trace_log_prob(torch.zeros(2, 10), trace)
    x[:, 0] = -torch.inf  # the first edge won
    assert trace_log_prob(x, trace).tolist() == [-torch.inf, -torch.inf]
    with pytest.raises(ValueError, match="trace must have winners that scores allow"):
        posterior_gumbel_trace(x, trace)


def test_a_structure_is_wanted() -> None:
    with pytest.raises(TypeError, match=r"structure must be an argumbel\.structures\.Structure"):
        perturbed_argmax("tree", torch.zeros(3))  # type: ignore[arg-type]
    assert SpanningTree(4) == SpanningTree(4) != SpanningTree(5)
    assert {SpanningTree(4), SpanningTree(4)} == {SpanningTree(4)}
    assert repr(SpanningTree(4)) == "SpanningTree(n=4)"
    assert repr(OneHot()) == "OneHot()"


@ALL
def test_enumerate(case: Case) -> None:
    found = case.structure.enumerate(*case.event)
    assert found.dtype == case.solutions.dtype
    assert sorted(map(tuple, found.flatten(1).tolist())) == sorted(map(tuple, case.solutions.flatten(1).tolist()))


@ALL
def test_wrong_shapes_to_enumerate(case: Case) -> None:
    structure = case.structure
    if not structure.knows_event:
        with pytest.raises(ValueError, match=r"event must be the shape .*; pass enumerate\("):
            structure.enumerate()
    with pytest.raises(ValueError, match="event must be the shape"):
        structure.enumerate(*case.event, 2)
    with pytest.raises(TypeError, match="event must be an integer"):
        structure.enumerate(*case.event[:-1], 2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="event must be at least 0"):
        structure.enumerate(*case.event[:-1], -1)


@RACING
def test_errors_of_a_trace_are_about_its_values(case: Case) -> None:
    values = case.scores(2)
    for wrong in (torch.full_like(values, torch.nan), torch.full_like(values, -torch.inf), values[..., :0]):
        with pytest.raises(ValueError, match=r"^values must"):
            case.structure.trace(wrong)


@ALL
def test_the_default_device_changes_nothing(case: Case) -> None:
    structure, x = case.structure, case.scores(2)
    if isinstance(structure, Matching):  # its race looks ahead where pairs are forbidden
        x[1, 0, 0] = -torch.inf
    with torch.device("meta"):
        found = [
            structure.enumerate(*case.event),
            structure.argmax(x),
            *perturbed_argmax(structure, x),
            stochastic_softmax(structure, x, hard=True),
            perturbed(structure, x, 2),
            fenchel_young_loss(x, case.solutions[0], structure),
        ]
        if structure.has_partition:
            found += [structure.marginals(x), structure.sample(x, (3,))]
        if structure.has_trace:
            trace = structure.trace(x)
            found += [*trace, posterior_gumbel_trace(x, trace), trace_log_prob(x, trace)]
    assert all(y.device.type == "cpu" for y in found)


def test_exact_samples_have_random_numbers_of_their_own() -> None:
    """Under the same state of a generator, samples are not those of the keyed race: half of them agree by chance."""
    x = torch.zeros(10_000, 2)
    torch.manual_seed(0)
    samples = OneHot().sample(x)
    torch.manual_seed(0)
    raced = perturbed_argmax(OneHot(), x).indicators
    assert abs(float((samples == raced).double().mean()) - 0.5) < 0.025  # five standard errors


def test_a_tree_of_one_node_is_a_part_of_a_graph() -> None:
    x, tree = torch.zeros(2, 0, requires_grad=True), SpanningTree(1)
    for y in (tree.log_partition(x), tree.marginals(x), stochastic_softmax(tree, x)):
        (grad,) = torch.autograd.grad(y.sum(), x)
        assert grad.shape == x.shape


@ALL
def test_the_lowest_number_forbids(case: Case) -> None:
    """As masks made of finfo(float32).min do, which are common."""
    mask = case.solutions[:3].any(0)
    x = case.scores(2, dtype=torch.float32)
    lowest = x.masked_fill(~mask, torch.finfo(torch.float32).min)
    found, expected = case.structure.argmax(lowest), case.structure.argmax(x, mask=mask)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    for verb in (lambda *a, **k: perturbed_argmax(*a, **k).indicators, stochastic_softmax):
        found = verb(case.structure, lowest, noise=ag.KeyedNoise(1))
        torch.testing.assert_close(found, verb(case.structure, x, mask=mask, noise=ag.KeyedNoise(1)), rtol=0, atol=0)
    at = lowest.clone().requires_grad_()
    (slope,) = torch.autograd.grad(ag.perturbed(case.structure, at, 2).square().sum(), at)
    assert bool(slope.isfinite().all())
