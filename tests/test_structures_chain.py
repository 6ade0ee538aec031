"""Chains: golden numbers, sequences and scores, and every path of the kernels against the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from argumbel import kernels
from argumbel.structures import Chain, chain_scores, perturbed_argmax, stochastic_softmax

from . import structure_oracles as oracles
from .statistics import check_counts
from .structure_problems import CHAIN, TRANSITION, UNARY, check_golden

SHAPES = [(2, 1), (2, 2), (4, 3), (7, 5), (5, 8), (3, 17), (3, 40), (30, 9)]  # (length, classes)
SMALL = [(2, 1), (4, 1), (2, 2), (5, 2), (3, 3), (2, 7)]


def scores_of(length: int, classes: int, batch: int = 7) -> dict[str, Tensor]:
    """Ordinary, tied and far apart, and the same with a third of the parts forbidden."""
    x = torch.randn(batch, length - 1, classes, classes, dtype=torch.float64)
    kinds = {"plain": x, "tied": x.round(), "far apart": 300 * x, "moved": x + 1e5}
    gone = torch.rand_like(x) < 0.3
    return kinds | {f"{kind}, forbidden": y.masked_fill(gone, -torch.inf) for kind, y in kinds.items()}


# --- golden numbers --------------------------------------------------------------------------------------------------


def test_golden_numbers(backend: str) -> None:
    chain = Chain()
    torch.testing.assert_close(chain_scores(UNARY, TRANSITION), CHAIN, rtol=0, atol=0)
    log_z = chain.log_partition(CHAIN)
    check_golden(log_z, 6.091494)
    mu = chain.marginals(CHAIN)
    check_golden(mu[1].sum(-1), 0.503164, 0.250036, 0.246800)
    check_golden(log_z - (mu * CHAIN).sum(), 3.798725)  # the entropy
    best = chain.argmax(CHAIN)
    assert chain.decode(best).tolist() == [0, 0, 0, 0]
    check_golden((best * CHAIN).sum(), 3.5)


# --- against the list of all sequences -------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "classes"), SMALL)
def test_sums_over_all_sequences(path: str, length: int, classes: int) -> None:
    solutions = oracles.sequences(length, classes)
    chain = Chain()
    for kind, x in scores_of(length, classes).items():
        exact = oracles.log_partition(x, solutions)
        possible = exact > -torch.inf
        if not bool(possible.any()):
            continue
        at, exact = x[possible].requires_grad_(), exact[possible]
        log_z = chain.log_partition(at)
        torch.testing.assert_close(log_z, exact, rtol=1e-12, atol=1e-9)
        (mu,) = torch.autograd.grad(log_z.sum(), at, create_graph=True)
        law = oracles.marginals(at.detach(), solutions)
        atol = 1e-8 if kind.startswith("moved") else 1e-9
        torch.testing.assert_close(mu, law, rtol=0, atol=atol)
        torch.testing.assert_close(chain.marginals(at), law, rtol=0, atol=atol)
        direction = torch.randn_like(mu)
        (along,) = torch.autograd.grad(mu, at, direction)
        covariance = oracles.covariance(at.detach(), solutions).reshape(len(mu), mu[0].numel(), mu[0].numel())
        expected = torch.einsum("bij,bj->bi", covariance, direction.flatten(1)).reshape(mu.shape)
        torch.testing.assert_close(along, expected, rtol=0, atol=atol)


@pytest.mark.parametrize(("length", "classes"), SMALL)
def test_the_best_of_all_sequences(path: str, length: int, classes: int) -> None:
    """Of equal ones the lowest last class, then the lowest class before it: the first, if sequences are read from the
    end."""
    sequences = Chain().decode(oracles.sequences(length, classes))
    order = sorted(range(len(sequences)), key=lambda i: sequences[i].flip(0).tolist())
    solutions = oracles.sequences(length, classes)[order]
    for kind, x in scores_of(length, classes).items():
        possible = oracles.log_partition(x, solutions) > -torch.inf
        if kind.startswith("moved") or not bool(possible.any()):
            continue  # sums of such scores are rounded in an order of their own
        best = torch.stack([oracles.best(row, solutions)[1] for row in x[possible]])
        torch.testing.assert_close(Chain().argmax(x[possible]), best.to(x.dtype), rtol=0, atol=0)


def test_third_derivatives_and_forbidden_parts() -> None:
    x = scores_of(4, 3, batch=1)["plain"][0].requires_grad_()
    assert torch.autograd.gradcheck(Chain().log_partition, x)
    assert torch.autograd.gradgradcheck(Chain().log_partition, x)
    assert torch.autograd.gradgradcheck(Chain().marginals, x)
    at = x.detach().masked_fill(oracles.sequences(4, 3)[[0, 40, 80]].any(0).logical_not(), -torch.inf).requires_grad_()
    (mu,) = torch.autograd.grad(Chain().log_partition(at), at, create_graph=True)
    (along,) = torch.autograd.grad(mu, at, torch.randn_like(at), create_graph=True)
    (third,) = torch.autograd.grad(along, at, torch.randn_like(at))
    assert bool(along.isfinite().all())
    assert bool(third.isfinite().all())


@given(st.integers(0, 2**32), st.integers(2, 5), st.integers(1, 4), st.sampled_from([1.0, 200.0]))
def test_any_scores(seed: int, length: int, classes: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (3, length - 1, classes, classes)
    x = scale * torch.randint(-3, 4, shape, generator=generator).double()
    x = x.masked_fill(torch.rand(shape, generator=generator) < 0.2, -torch.inf)
    solutions = oracles.sequences(length, classes)
    exact = oracles.log_partition(x, solutions)
    if bool((exact == -torch.inf).any()):
        with pytest.raises(ValueError, match="scores must leave at least one chain"):
            Chain().log_partition(x)
        with pytest.raises(ValueError, match="scores must leave at least one chain"):
            Chain().argmax(x)
        return
    torch.testing.assert_close(Chain().log_partition(x), exact, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(Chain().marginals(x), oracles.marginals(x, solutions), rtol=0, atol=1e-9)
    y = Chain().argmax(x)
    best = torch.stack([oracles.best(row, solutions)[0] for row in x])
    torch.testing.assert_close(torch.where(y > 0, x, 0).flatten(1).sum(-1), best, rtol=0, atol=0)


# --- long chains, low temperatures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [1, 0.1, 0.01])
def test_long_chains_at_low_temperatures(path: str, tau: float) -> None:
    x = torch.randn(3, 199, 6, 6) / tau
    log_z, mu = Chain().log_partition(x), Chain().marginals(x)
    forward = torch.zeros(3, 6, dtype=torch.float64)
    for step in x.double().unbind(1):
        forward = (forward.unsqueeze(-1) + step).logsumexp(-2)
    torch.testing.assert_close(log_z, forward.logsumexp(-1).float())
    torch.testing.assert_close(mu.sum((-1, -2)), torch.ones(3, 199))
    torch.testing.assert_close(mu[:, 1:].sum(-1), mu[:, :-1].sum(-2), rtol=0, atol=1e-6)


def test_a_way_through_scores_that_are_far_apart(path: str) -> None:
    """Only one sequence is left, and its scores are 1e5 below those of parts that lead nowhere."""
    x = torch.full((3, 2, 2), -torch.inf, dtype=torch.float64)
    x[0, 0, 0], x[1, 0, 1], x[2, 1, 1] = -1e5, -1e5, -1e5
    x[0, 1, 1] = x[2, 0, 0] = 1e5
    assert Chain().decode(Chain().argmax(x)).tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(Chain().log_partition(x).item(), -3e5)
    torch.testing.assert_close(Chain().marginals(x), Chain().argmax(x))


# --- the kernels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "classes"), SHAPES)
def test_kernels_are_the_reference(path: str, threads: int, length: int, classes: int) -> None:
    for kind, x in scores_of(length, classes).items():
        for given_x in (x, x.float()):
            found = kernels.viterbi(given_x, ())
            with kernels.use("reference"):
                exact = kernels.viterbi(given_x, ())
            assert torch.equal(found[0], exact[0])
            assert torch.equal(found[1], exact[1])
        y = x.clamp(min=kernels.LOWEST).requires_grad_()
        results = []
        direction = torch.randn_like(y)
        for backend in (path, "reference"):
            with kernels.use(backend):
                mu = kernels.chain_marginals(y)
                log_z = kernels.chain_log_partition(y.detach())
                results.append((log_z, mu.detach(), torch.autograd.grad(mu, y, direction)[0]))
        possible = results[1][0] > kernels.LOWEST / 2
        assert torch.equal(possible, results[0][0] > kernels.LOWEST / 2)
        atol = 1e-7 if kind.startswith("moved") else 1e-10
        for found_y, exact_y in zip(*results, strict=True):
            torch.testing.assert_close(found_y[possible], exact_y[possible], rtol=1e-12, atol=atol)


def test_rows_with_strides(path: str) -> None:
    x = torch.randn(6, 3, 4, 4)
    assert torch.equal(kernels.viterbi(x[::2], ())[0], kernels.viterbi(x[::2].contiguous(), ())[0])
    one = torch.randn(1, 3, 4, 4).expand(5, 3, 4, 4)
    assert torch.equal(kernels.viterbi(one, ())[0], kernels.viterbi(one.contiguous(), ())[0])


def test_operators_are_registered_well() -> None:
    for operator in (torch.ops.argumbel.viterbi, torch.ops.argumbel.chain_log_partition):
        x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
        torch.library.opcheck(operator, (x,), test_utils=("test_schema", "test_faketensor"))


# --- samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forbidden", [False, True])
def test_samples_are_exact(backend: str, forbidden: bool) -> None:
    x = CHAIN.clone()
    if forbidden:
        x[1, 0, :2] = -torch.inf
    draws = Chain().sample(x, (30_000,), generator=torch.Generator().manual_seed(3))
    place = (Chain().decode(draws) * torch.tensor([27, 9, 3, 1])).sum(-1)
    law = oracles.law(x, oracles.sequences(4, 3))
    check_counts(np.bincount(place.numpy(), minlength=81), law.numpy())


def test_samples_of_many_rows_are_those_of_each(backend: str) -> None:
    """Scores that sample_shape repeats are summed once; the draws are the same."""
    x = torch.randn(2, 3, 4, 4)
    draws = [
        Chain().sample(y, shape, generator=torch.Generator().manual_seed(1))
        for y, shape in ((x, (1, 5)), (x.expand(5, *x.shape), (1,)), (x.expand(1, 5, *x.shape).contiguous(), ()))
    ]
    for other in draws[1:]:
        torch.testing.assert_close(other.reshape(draws[0].shape), draws[0], rtol=0, atol=0)
    assert Chain().sample(x, (0, 3)).shape == (0, 3, *x.shape)
    assert len(Chain().decode(Chain().sample(x[0].expand(64, 3, 4, 4))).unique(dim=0)) >= 10


# --- sequences and scores --------------------------------------------------------------------------------------------


def test_sequences_and_indicators() -> None:
    chain, every = Chain(), Chain().enumerate(2, 3, 3)
    assert every.dtype == torch.bool
    assert torch.equal(every, oracles.sequences(3, 3))
    sequences = chain.decode(every)
    assert sequences.tolist() == [[a, b, c] for a in range(3) for b in range(3) for c in range(3)]
    assert torch.equal(chain.encode(sequences, 3), every.float())
    assert chain.encode(sequences, 4, dtype=torch.float64).dtype == torch.float64
    marked = every.float()
    marked[1] = torch.nan
    assert chain.decode(marked)[:2].tolist() == [[0, 0, 0], [-1, -1, -1]]
    assert chain.decode(every[:0]).shape == (0, 3)
    assert torch.equal(torch.vmap(chain.decode)(every.float()), sequences)
    assert torch.equal(torch.vmap(lambda z: chain.encode(z, 3))(sequences), every.float())


def test_scores_of_classes_and_transitions() -> None:
    unary, transition = torch.randn(2, 4, 3), torch.randn(3, 3)
    sequences = torch.randint(3, (2, 4))
    x = chain_scores(unary, transition)
    total = (Chain().encode(sequences, 3) * x).flatten(1).sum(-1)
    by_hand = unary.gather(-1, sequences.unsqueeze(-1)).sum((-1, -2)) + transition[
        sequences[:, :-1], sequences[:, 1:]
    ].sum(-1)
    torch.testing.assert_close(total, by_hand)
    for shape in ((3, 3, 3), (1, 1, 3, 3), (2, 3, 3, 3)):
        torch.testing.assert_close(chain_scores(unary, transition.expand(shape)), x, rtol=0, atol=0)
    torch.testing.assert_close(torch.vmap(chain_scores, (0, None))(unary, transition), x, rtol=0, atol=0)
    assert torch.autograd.gradcheck(chain_scores, (UNARY.clone().requires_grad_(), TRANSITION.clone().requires_grad_()))
    never = transition.clone()
    never[0, 1] = -torch.inf
    drawn = Chain().decode(Chain().sample(chain_scores(unary, never), (200,)))
    assert not bool(((drawn[..., :-1] == 0) & (drawn[..., 1:] == 1)).any())


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_viterbi_is_the_argmax_without_its_indicator(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 5, 4, 4).to(dtype)
    x[0, 0, 2, :, 1] = -torch.inf
    values, sequences = Chain().viterbi(x)
    y = Chain().argmax(x)
    assert torch.equal(sequences, Chain().decode(y))
    torch.testing.assert_close(
        values.double(), torch.where(y > 0, x.double(), 0).sum((-3, -2, -1)), rtol=1e-6, atol=1e-6
    )
    assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    with pytest.raises(ValueError, match="scores must leave at least one chain"):
        Chain().viterbi(x, mask=torch.arange(4) < 0)
    mapped = torch.vmap(Chain().viterbi)(torch.stack([x[0, 0].double(), torch.full((5, 4, 4), torch.nan).double()]))
    assert torch.equal(mapped.sequences, torch.stack([sequences[0, 0], torch.full((6,), -1)]))
    assert mapped.values.isnan().tolist() == [False, True]


def test_a_chain_has_no_trace() -> None:
    assert not Chain.has_trace
    assert not Chain.trace_is_argmax
    with pytest.raises(NotImplementedError, match=r"has no trace: .* use sample .* or perturbed_argmax"):
        Chain().trace(CHAIN)


@pytest.mark.parametrize("event", [(0, 3, 3), (2, 3, 4), (2, 0, 0)])
def test_wrong_shapes(event: tuple[int, int, int]) -> None:
    for call in (Chain().argmax, Chain().log_partition, lambda x: perturbed_argmax(Chain(), x)):
        with pytest.raises(ValueError, match=r"scores must have the shape \(\*batch, length - 1, classes, classes\)"):
            call(torch.zeros(event))
    with pytest.raises(ValueError, match=r"indicators must have the shape \(\*batch, length - 1, classes, classes\)"):
        Chain().decode(torch.zeros(event))
    with pytest.raises(ValueError, match="scores must have 3 dimensions"):
        stochastic_softmax(Chain(), torch.zeros(3, 3))


def test_wrong_sequences_and_scores() -> None:
    chain = Chain()
    with pytest.raises(ValueError, match="indicators must have the shape"):
        chain.decode(torch.zeros(3, 3))
    with pytest.raises(TypeError, match="indicators must"):
        chain.decode(torch.zeros(2, 3, 3, dtype=torch.int64))
    with pytest.raises(TypeError, match="sequences must be a tensor of integers"):
        chain.encode(torch.zeros(3), 2)
    with pytest.raises(ValueError, match="classes must be at least 1"):
        chain.encode(torch.tensor([0, 0]), 0)
    with pytest.raises(ValueError, match="sequences must have the shape"):
        chain.encode(torch.tensor([0]), 2)
    for wrong in (-1, 2):
        with pytest.raises(ValueError, match="sequences must have classes from 0 to 1"):
            chain.encode(torch.tensor([0, wrong]), 2)
    with pytest.raises(TypeError, match="unary must be a floating tensor"):
        chain_scores(torch.zeros(2, 3, dtype=torch.int64), TRANSITION)
    with pytest.raises(TypeError, match="transition must be a floating tensor"):
        chain_scores(UNARY, [[0.0]])  # type: ignore[arg-type]
    for shape in ((3,), (1, 3), (2, 0)):
        with pytest.raises(ValueError, match="unary must have the shape"):
            chain_scores(torch.zeros(shape), torch.zeros(3, 3))
    for shape in ((3,), (3, 4), (1, 3), (2, 3, 3), (5, 3, 3, 3)):
        with pytest.raises(ValueError, match="transition must have the shape"):
            chain_scores(UNARY, torch.zeros(shape))
    with pytest.raises(ValueError, match="event must be the shape"):
        chain.enumerate()
    with pytest.raises(ValueError, match="event must be the shape"):
        chain.enumerate(3)
