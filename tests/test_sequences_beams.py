"""Stochastic beam search: against the enumeration of all texts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel.sequences import expand, stochastic_beam_search

from .oracles import gumbel_cdf, plackett_luce
from .statistics import Z, check_cdf, check_counts, check_frequency, check_mean
from .texts import bigram, law, trigram

# The golden: three tokens, then three more; token 3 starts a text.
GOLDEN = torch.tensor([[0.7, -1.6, 0, -torch.inf], [-0.6, 0.1, -1.6, -torch.inf], [0.2, 0.2, 1.6, -torch.inf],
                       [-0.7, -0.2, 1.7, -torch.inf]])  # fmt: skip
INCLUSION = [0.120762, 0.012307, 0.060531, 0.094412, 0.187222, 0.035043, 0.336991, 0.336991, 0.815742]


def many(count: int, first: int = 3) -> Tensor:
    return torch.full((count, 1), first)


def test_inclusion_is_the_golden() -> None:
    beams = stochastic_beam_search(bigram(GOLDEN), many(200_000), 2, 2, noise=ag.KeyedNoise(1))
    leaf = beams.tokens[..., 0] * 3 + beams.tokens[..., 1]
    shares = leaf.flatten().bincount(minlength=9).double() / 200_000
    for share, p in zip(shares.tolist(), INCLUSION, strict=True):
        assert abs(share - p) < Z * math.sqrt(p * (1 - p) / 200_000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_beams_are_plackett_luce_over_texts(dtype: torch.dtype) -> None:
    table = GOLDEN.to(dtype)
    texts = law(table, 3, 2)
    orders = plackett_luce(torch.tensor(list(texts.values())).log(), 2)
    place = {text: i for i, text in enumerate(texts)}
    beams = stochastic_beam_search(bigram(table), many(100_000), 2, 2, noise=ag.KeyedNoise(2))
    leaf = beams.tokens[..., 0] * 3 + beams.tokens[..., 1]
    assert list(place) == [(i, j) for i in range(3) for j in range(3)]
    pairs = (leaf[:, 0] * 9 + leaf[:, 1]).bincount(minlength=81)
    check_counts(pairs, [orders.get((i, j), 0.0) for i in range(9) for j in range(9)])


def test_texts_that_end_are_leaves() -> None:
    table = torch.tensor([[0.0, 1.0, 0.5], [0.3, -1.0, 0.0], [0.0, 0.0, 0.0]])
    texts = law(table, 1, 3, end=2)
    orders = plackett_luce(torch.tensor(list(texts.values())).log(), 2)
    beams = stochastic_beam_search(bigram(table), many(60_000, 1), 2, 3, end=2, noise=ag.KeyedNoise(3))
    place = {text: i for i, text in enumerate(texts)}
    drawn = np.array([[place[tuple(text)] for text in pair] for pair in beams.tokens.tolist()])
    pairs = np.bincount(drawn[:, 0] * len(texts) + drawn[:, 1], minlength=len(texts) ** 2)
    check_counts(pairs, [orders.get(divmod(i, len(texts)), 0.0) for i in range(len(texts) ** 2)])
    exact = torch.tensor([[math.log(texts[tuple(text)]) for text in pair] for pair in beams.tokens[:500].tolist()])
    torch.testing.assert_close(beams.log_probs[:500].float(), exact, rtol=1e-5, atol=1e-5)


def test_values_are_gumbels_at_the_log_probabilities() -> None:
    """With as many beams as texts: the values minus log probabilities are fresh noise."""
    beams = stochastic_beam_search(bigram(GOLDEN), many(40_000), 9, 2, noise=ag.KeyedNoise(4))
    leaf = beams.tokens[..., 0] * 3 + beams.tokens[..., 1]
    g = (beams.values - beams.log_probs).gather(-1, leaf.argsort(-1))
    for i in range(9):
        check_cdf(g[:, i], gumbel_cdf)
    u = torch.from_numpy(gumbel_cdf(g.numpy())) - 0.5
    correlation = (u.T @ u) / len(u) * 12
    assert bool(((correlation - torch.eye(9)).abs() < 0.04).all())


def test_sums_over_texts_are_unbiased() -> None:
    texts = law(GOLDEN, 3, 2)
    f = {text: (7 * text[0] + 3 * text[1]) % 5 + 1.0 for text in texts}
    exact = sum(p * f[text] for text, p in texts.items())
    beams = stochastic_beam_search(bigram(GOLDEN), many(100_000), 4, 2, noise=ag.KeyedNoise(5))
    weights = ag.threshold_weights(beams.values, beams.log_probs)
    at = torch.zeros(3, 3, dtype=torch.float64)
    for text, y in f.items():
        at[text] = y
    estimates = (weights * at[beams.tokens[:, :3, 0], beams.tokens[:, :3, 1]]).sum(-1)
    check_mean(estimates, exact, float(estimates.var()))


def test_the_first_k_are_those_of_more() -> None:
    table = torch.randn(4, 6, 6, generator=torch.Generator().manual_seed(0))[0]
    start = torch.tensor([[[1], [2]], [[3], [0]]])
    most = stochastic_beam_search(bigram(table), start, 20, 5, end=5, noise=ag.KeyedNoise(6))
    for k in (1, 2, 7):
        few = stochastic_beam_search(bigram(table), start, k, 5, end=5, noise=ag.KeyedNoise(6))
        assert torch.equal(few.tokens, most.tokens[:, :, :k])
        assert torch.equal(few.values, most.values[:, :, :k])
        torch.testing.assert_close(few.log_probs, most.log_probs[:, :, :k])


def test_a_batch_is_its_prompts() -> None:
    table = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    start = torch.tensor([[1, 2], [3, 4], [5, 0]])
    whole = stochastic_beam_search(bigram(table), start, 3, 4, noise=ag.KeyedNoise(7))
    for i in range(3):
        one = stochastic_beam_search(bigram(table), start[i], 3, 4, noise=ag.KeyedNoise(7, rows=[i]))
        for a, b in zip(one, whole, strict=True):
            assert torch.equal(a, b[i])
    assert len({tuple(text) for text in whole.tokens[:, 0].tolist()}) > 1


def test_a_seed_for_every_prompt() -> None:
    table = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    start, seeds = torch.tensor([[1, 2], [1, 2], [5, 0]]), torch.tensor([8, 9, 8])
    whole = stochastic_beam_search(bigram(table), start, 3, 4, noise=ag.KeyedNoise(seeds))
    for i in range(3):
        one = stochastic_beam_search(bigram(table), start[i], 3, 4, noise=ag.KeyedNoise(int(seeds[i])))
        for a, b in zip(one, whole, strict=True):
            assert torch.equal(a, b[i])


def test_states_are_reordered() -> None:
    """A state in nested containers, and a state that only the caller's function can reorder."""
    table = torch.randn(5, 5, 5, generator=torch.Generator().manual_seed(2))
    start = torch.tensor([[1], [2]])
    ours = stochastic_beam_search(trigram(table), start, 4, 5, noise=ag.KeyedNoise(8))

    class Cache:
        def __init__(self, text: Tensor) -> None:
            self.text = text

    def step(tokens: Tensor, state: Cache | None) -> tuple[Tensor, Cache]:
        text = tokens if state is None else torch.cat([state.text, tokens], 1)
        before = torch.cat([torch.zeros_like(text[:, :1]), text[:, :-1]], 1)
        return table[before[:, -1:], text[:, -1:]], Cache(text)

    def reorder(state: Cache, rows: Tensor) -> Cache:
        return Cache(state.text[rows])

    theirs = stochastic_beam_search(step, start, 4, 5, reorder=reorder, noise=ag.KeyedNoise(8))
    assert torch.equal(ours.tokens, theirs.tokens)
    log_p = table.double().log_softmax(-1)
    for i, texts in enumerate(ours.tokens.tolist()):
        for j, text in enumerate(texts):
            before, last, total = 0, int(start[i, 0]), 0.0
            for token in text:
                total += float(log_p[before, last, token])
                before, last = last, token
            assert abs(total - float(ours.log_probs[i, j])) < 1e-5
    with pytest.raises(TypeError, match="pass reorder="):
        stochastic_beam_search(step, start, 4, 5)


def test_fewer_texts_than_beams() -> None:
    table = torch.tensor([[0.0, -torch.inf, 1.0], [0.0, 0.0, 0.0], [0.0, -torch.inf, 0.0]])
    beams = stochastic_beam_search(bigram(table), torch.tensor([1]), 6, 1, noise=ag.KeyedNoise(9))
    assert sorted(beams.tokens[:3, 0].tolist()) == [0, 1, 2]
    assert bool((beams.values[3:] == -torch.inf).all())
    assert bool((beams.log_probs[3:] == -torch.inf).all())
    weights = ag.threshold_weights(beams.values[:4], beams.log_probs[:4])
    torch.testing.assert_close(weights, torch.full((3,), 1 / 3, dtype=torch.float64))
    beams = stochastic_beam_search(bigram(table), torch.tensor([0]), 9, 2, noise=ag.KeyedNoise(9))
    assert int(beams.values.isfinite().sum()) == 4


def test_a_search_stops_when_all_texts_are_over() -> None:
    table = torch.tensor([[0.0, 0.0, 9.0], [0.0, 0.0, 9.0], [torch.nan] * 3])
    seen: list[tuple[int, ...]] = []
    beams = stochastic_beam_search(bigram(table, seen), torch.tensor([0]), 1, 50, end=2, noise=ag.KeyedNoise(1))
    assert beams.tokens.shape == (1, 50)
    assert len(seen) < 10
    assert bool((beams.tokens[0].diff() >= 0).all()) or 2 in beams.tokens[0]


def test_log_probs_carry_the_gradient() -> None:
    table = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    beams = stochastic_beam_search(bigram(table), torch.tensor([0]), 3, 3, noise=ag.KeyedNoise(2))
    grad = torch.autograd.grad(beams.log_probs.sum(), table)[0]
    log_p = table.log_softmax(-1)
    total = torch.zeros((), dtype=torch.float64)
    for text in beams.tokens.tolist():
        before = 0
        for token in text:
            total = total + log_p[before, token]
            before = token
    torch.testing.assert_close(grad, torch.autograd.grad(total, table)[0])
    assert not beams.values.requires_grad


def test_long_texts_far_below_zero() -> None:
    """Texts of probability e^-700: values stay near 0, beams stay different, and no number is lost."""
    table = torch.zeros(1000, 1000)
    beams = stochastic_beam_search(bigram(table), torch.tensor([[0], [1]]), 3, 100, noise=ag.KeyedNoise(3))
    torch.testing.assert_close(beams.log_probs, torch.full((2, 3), -100 * math.log(1000), dtype=torch.float64))
    assert bool((beams.values[:, :-1] > beams.values[:, 1:]).all())
    assert bool((beams.values.abs() < 30).all())


def test_a_common_offset_changes_nothing() -> None:
    table = torch.randn(5, 5, generator=torch.Generator().manual_seed(4))
    table = (table * 8).round() / 8  # so that the offset is not rounded
    start = torch.tensor([0])
    near = stochastic_beam_search(bigram(table), start, 4, 4, noise=ag.KeyedNoise(4))
    far = stochastic_beam_search(bigram(table + 2**19), start, 4, 4, noise=ag.KeyedNoise(4))
    assert torch.equal(near.tokens, far.tokens)
    torch.testing.assert_close(near.values, far.values)


# --- expand ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_largest_child_has_the_value_of_its_node(dtype: torch.dtype) -> None:
    x = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(5)).to(dtype) - 40
    values = torch.randn(3, 4).to(dtype)
    children = expand(values, x, generator=torch.Generator().manual_seed(0))
    assert children.dtype == dtype
    top = children.topk(2, -1).values
    assert torch.equal(top[..., 0], values)
    assert bool((top[..., 1] < values).all())


def test_children_have_the_law_of_a_race() -> None:
    p = torch.tensor([0.3, 0.1, 0.6], dtype=torch.float64)
    node = 0.4 + ag.KeyedNoise(1).gumbel((50_000, 1), dtype=torch.float64)
    x = (p.log() + 0.4).expand(50_000, 3)
    g = expand(node.squeeze(-1), x, noise=ag.KeyedNoise(2)) - x
    for i in range(3):
        check_cdf(g[:, i], gumbel_cdf)


def test_forbidden_children_and_dead_nodes() -> None:
    x = torch.tensor([[0.0, -torch.inf, -1.0], [-torch.inf] * 3])
    children = expand(torch.tensor([1.0, -torch.inf]), x, noise=ag.KeyedNoise(0))
    assert bool((children == -torch.inf).equal(torch.tensor([[False, True, False], [True] * 3])))
    assert children.max() == 1


# --- errors ------------------------------------------------------------------------------------------------------

START = torch.tensor([0])
TABLE = torch.zeros(3, 3)


def good(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
    return TABLE[tokens], state


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"k": 0}, ValueError, "k must be at least 1, but it is 0"),
        ({"length": 0}, ValueError, "length must be at least 1"),
        ({"length": 1.5}, TypeError, "length must be an integer"),
        ({"end": "x"}, TypeError, "end must be an integer"),
        ({"start": torch.zeros(2)}, TypeError, "start must be a tensor of integers"),
        ({"start": torch.zeros(2, 0, dtype=torch.int64)}, ValueError, "with at least 1 token, but"),
        ({"step": lambda t, s: TABLE[t]}, TypeError, "pair .logits, state., but it returned a Tensor"),
        ({"step": lambda t, s: (TABLE[t], s, s)}, TypeError, "but it returned 3 things"),
        ({"step": lambda t, s: (TABLE[t[:, -1]], s)}, ValueError, "logits of step must have the shape .1, 1, n."),
        ({"step": lambda t, s: (t, s)}, TypeError, "logits of step must have a floating dtype"),
        ({"step": lambda t, s: (TABLE[t] * torch.nan, s)}, ValueError, "logits of step must not be NaN"),
        ({"step": lambda t, s: (TABLE[t] - torch.inf, s)}, ValueError, "must allow at least one token"),
        ({"noise": torch.zeros(3)}, TypeError, "noise must be an argumbel.KeyedNoise, but it is a Tensor"),
        ({"noise": 3}, TypeError, "noise must be"),
        ({"noise": ag.KeyedNoise(0, rows=[1, 2])}, ValueError, "rows must give one id per text"),
        ({"noise": ag.KeyedNoise([1, 2])}, ValueError, "seed must give one seed per text"),
        ({"noise": ag.KeyedNoise(0, items=[[1, 2, 3]])}, ValueError, "items must give one id per token"),
        ({"noise": ag.KeyedNoise(0), "generator": torch.Generator()}, ValueError, "generator must be left out"),
    ],
)
def test_errors(change: dict[str, Any], error: type[Exception], match: str) -> None:
    arguments = {"step": good, "start": START, "k": 2, "length": 2, **change}
    with pytest.raises(error, match=match):
        stochastic_beam_search(**arguments)


@pytest.mark.parametrize(
    ("values", "log_probs", "error", "match"),
    [
        (torch.zeros(2), torch.zeros(3, 4), ValueError, "values must have the shape .3,. of log_probs"),
        (torch.zeros(2, dtype=torch.int64), torch.zeros(2, 4), TypeError, "values must be a floating tensor"),
        (torch.zeros(2), torch.zeros(2, 4, dtype=torch.int64), TypeError, "log_probs must have a floating dtype"),
        (torch.full((2,), torch.nan), torch.zeros(2, 4), ValueError, "values must not be NaN"),
        (torch.zeros(2), torch.full((2, 4), -torch.inf), ValueError, "log_probs must not be NaN"),
    ],
)
def test_errors_of_expand(values: Tensor, log_probs: Tensor, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        expand(values, log_probs)


def test_a_generator_gives_another_draw_each_time() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (stochastic_beam_search(good, START, 3, 6, generator=generator).tokens for _ in range(2))
    assert not torch.equal(first, second)
    again = stochastic_beam_search(good, START, 3, 6, generator=generator.manual_seed(0)).tokens
    assert torch.equal(first, again)


def test_no_prompts() -> None:
    beams = stochastic_beam_search(good, torch.zeros(0, 1, dtype=torch.int64), 3, 2)
    assert beams.tokens.shape == (0, 3, 2)


# --- by hand -----------------------------------------------------------------------------------------------------


def row_of(prompt: int, prefix: tuple[int, ...]) -> int:
    """The row id of the noise of a prefix, on Python's integers."""
    mask = (1 << 64) - 1

    def finish(state: int) -> int:
        z = state + 0x9E3779B97F4A7C15 & mask
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        return z ^ z >> 31

    state = finish(prompt)
    for token in prefix:
        state = finish(state * 0xBF58476D1CE4E5B9 + token & mask)
    return state - (state >> 63 << 64)


def noise_of(seed: int, prompt: int, prefix: tuple[int, ...], n: int) -> list[float]:
    noise = ag.KeyedNoise(seed, rows=[row_of(prompt, prefix)])
    return noise.gumbel((1, n), dtype=torch.float64)[0].tolist()  # type: ignore[no-any-return]


def test_all_texts_by_hand() -> None:
    """The whole tree, with the formula of the maximum in plain arithmetic."""
    seed, prompt, n, length = 11, 5, 4, 3
    table = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    log_p = table.log_softmax(-1).tolist()
    nodes = {(): (0.0, noise_of(seed, prompt, (-1,), 1)[0])}
    for _ in range(length):
        below = {}
        for prefix, (total, value) in nodes.items():
            own = log_p[prefix[-1] if prefix else 2]
            race = [total + x + g for x, g in zip(own, noise_of(seed, prompt, prefix, n), strict=True)]
            for token, v in enumerate(race):
                left = math.exp(-value) + math.exp(-v) - math.exp(-max(race))
                below[(*prefix, token)] = (total + own[token], -math.log(left))
        nodes = below
    order = sorted(nodes, key=lambda text: -nodes[text][1])
    noise = ag.KeyedNoise(seed, rows=[prompt])
    beams = stochastic_beam_search(bigram(table), torch.tensor([2]), n**length, length, noise=noise)
    assert [tuple(text) for text in beams.tokens.tolist()] == order
    torch.testing.assert_close(beams.values.tolist(), [nodes[text][1] for text in order], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(beams.log_probs.tolist(), [nodes[text][0] for text in order])


def test_values_have_the_tails_of_float64() -> None:
    """Two children of equal probability. The value of the loser, far above its location, is as rare as it should be:
    given that the winner is at T, P(loser > t) = (exp(-exp(-T)) - exp(-exp(-t))) / exp(-exp(-T))."""
    nodes = 400_000
    x = torch.full((nodes, 2), -math.log(2), dtype=torch.float64)
    children = expand(torch.full((nodes,), 30.0, dtype=torch.float64), x, noise=ag.KeyedNoise(5))
    loser = children.amin(-1)
    for t in (2.0, 6.0, 10.0):
        p = 1 - math.exp(-math.exp(-t - math.log(2)))
        check_frequency(int((loser > t).sum()), nodes, p)


def test_expand_compiled() -> None:
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(7))

    def children(values: Tensor, log_probs: Tensor) -> Tensor:
        return expand(values, log_probs, noise=ag.KeyedNoise(1))

    values = torch.tensor([0.5, -torch.inf, 2.0])
    compiled = torch.compile(children, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(values, x), children(values, x))
    x[0], values[2] = -torch.inf, torch.nan
    assert compiled(values, x).isnan().all(-1).tolist() == [True, False, True]
