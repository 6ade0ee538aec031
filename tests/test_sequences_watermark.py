"""Watermarks: false alarms on texts without one, scores of texts with one, and what repeats."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel.sequences import context_rows, watermark, watermark_p_value, watermark_scores

from .oracles import EULER
from .statistics import check_cdf, check_draws, check_mean
from .texts import bigram

MASK = (1 << 64) - 1


def finish(state: int) -> int:
    """SplitMix64, on Python's integers."""
    z = state + 0x9E3779B97F4A7C15 & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def row_by_hand(seed: int, context: list[int]) -> int:
    state = finish(seed)
    for token in context:
        state = state * 0xBF58476D1CE4E5B9 + token & MASK
    state = finish(state)
    return state - (state >> 63 << 64)


def test_finish_is_splitmix64() -> None:
    """The first number of SplitMix64 with the seed 0, as published with its code."""
    assert finish(0) == 0xE220A8397B1DCDAF


@pytest.mark.parametrize("seed", [0, 1, -1, 1 << 62, (1 << 64) - 3])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_rows_are_those_by_hand(seed: int, width: int) -> None:
    text = [5, 0, 126_463, 7, 7, 3]
    padded = [-1] * width + text
    rows = context_rows(torch.tensor(text), seed, width=width)
    assert rows.tolist() == [row_by_hand(seed, padded[t : t + width]) for t in range(len(text) + 1)]


def test_rows_of_a_batch_and_of_an_empty_text() -> None:
    tokens = torch.randint(0, 9, (2, 3, 8), generator=torch.Generator().manual_seed(0))
    rows = context_rows(tokens, 5)
    assert torch.equal(rows[1, 2], context_rows(tokens[1, 2], 5))
    assert torch.equal(rows[..., 3:8], context_rows(tokens[..., :7].to(torch.int32), 5)[..., 3:])
    seeds = torch.tensor([[4], [5]])
    assert torch.equal(context_rows(tokens, seeds)[1], rows[1])
    assert context_rows(tokens[..., :0], 5).shape == (2, 3, 1)


def write(table: Tensor, start: Tensor, length: int, seed: int, width: int) -> Tensor:
    """Watermarked texts of a bigram model, after prompts of one token."""
    text = start
    generator = torch.Generator().manual_seed(seed)
    for _ in range(length):
        drawn = torch.arange(text.shape[-1]) >= start.shape[-1]
        token = watermark(table[text[..., -1]], text, seed, width=width, drawn=drawn, generator=generator).indices
        text = torch.cat([text, token.unsqueeze(-1)], -1)
    return text


def test_p_values_of_other_texts_are_uniform() -> None:
    """100,000 texts: random tokens of a large vocabulary, no context twice in all of them."""
    tokens = torch.randint(0, 50_000, (100_000, 20), generator=torch.Generator().manual_seed(1))
    scores, counted = watermark_scores(tokens, 7, width=4)
    check_cdf(watermark_p_value(scores, counted), lambda p: p)
    check_cdf(scores[:4000][counted[:4000]], lambda s: -torch.expm1(-torch.from_numpy(s)).numpy())


def test_p_values_of_texts_that_repeat_themselves_are_uniform() -> None:
    """Texts of three tokens, where each context occurs again and again; a seed for each."""
    table = torch.tensor([[2.0, 0, 0], [0, 3.0, 1], [1.0, 1, 0]])
    text = torch.zeros(3000, 1, dtype=torch.int64)
    for t in range(60):
        token = ag.gumbel_max(table[text[:, -1]], noise=ag.KeyedNoise(-1, rows=torch.arange(3000) + 3000 * t)).indices
        text = torch.cat([text, token[:, None]], 1)
    p = watermark_p_value(*watermark_scores(text, torch.arange(3000), width=2))
    check_cdf(p, lambda p: p)


@pytest.mark.parametrize(
    ("p", "mean", "variance"),
    [(1, 1, 1), (0.5, 1.5, 1.25), (0.25, 2.083333, 1.423611), (0.1, 2.928968, 1.549768), (0.01, 5.187378, 1.634984)],
)
def test_scores_of_drawn_tokens(p: float, mean: float, variance: float) -> None:
    n = round(1 / p)
    count = 40_000
    logits = torch.zeros(count, n) if n > 1 else torch.tensor([0.0, -torch.inf]).expand(count, 2)
    text = torch.randint(0, 1 << 30, (count, 4), generator=torch.Generator().manual_seed(2))
    token = watermark(logits, text, 11).indices
    scores, counted = watermark_scores(torch.cat([text, token[:, None]], 1), 11)
    assert bool(counted[:, 4].all())
    assert not bool(counted[:, :4].any())
    s = scores[:, 4]
    check_mean(s, mean, variance)
    assert abs(float(s.var()) / variance - 1) < 0.06
    exact = torch.digamma(torch.tensor(1 + 1 / p, dtype=torch.float64)) + EULER
    assert abs(float(exact) - mean) < 1e-6


def test_scores_are_those_of_the_noise() -> None:
    """-log(u) = exponential + logistic of the key of (context, token)."""
    text = torch.randint(0, 100, (30,), generator=torch.Generator().manual_seed(3))
    rows = context_rows(text, 3)
    noise = ag.KeyedNoise(3, rows=rows[:-1], items=text[:, None])
    scores, counted = watermark_scores(text, 3)
    by_hand = noise.exponential((30, 1)) + noise.logistic((30, 1))
    torch.testing.assert_close(scores[counted].float(), by_hand.squeeze(-1)[counted], rtol=1e-5, atol=1e-5)


def test_a_marked_text_is_found_and_another_seed_finds_nothing() -> None:
    table = 1.5 * torch.randn(200, 200, generator=torch.Generator().manual_seed(4))
    text = write(table, torch.arange(20)[:, None], 80, 5, 2)
    p = watermark_p_value(*watermark_scores(text, 5, width=2))
    assert bool((p < 1e-9).all())
    assert bool((watermark_p_value(*watermark_scores(text, 6, width=2)) > 1e-6).all())
    cut = text[:, 20:60]  # a part is found as well
    assert bool((watermark_p_value(*watermark_scores(cut, 5, width=2)) < 1e-6).all())


def test_a_marked_text_has_the_law_of_the_model() -> None:
    """Also where contexts repeat: pairs of tokens of texts of two tokens' vocabulary, one seed for each text."""
    table = torch.tensor([[0.0, 0.7], [0.4, 0.0]])
    generator = torch.Generator().manual_seed(6)
    texts = []
    for seed in range(2000):
        text = torch.zeros(1, 1, dtype=torch.int64)
        for _ in range(4):
            token = watermark(table[text[:, -1]], text, seed, width=1, generator=generator).indices
            text = torch.cat([text, token[:, None]], 1)
        texts.append(text[0, 1:])
    law = table.softmax(-1).double()
    probs = torch.stack(
        [
            law[0, a] * law[a, b] * law[b, c] * law[c, d]
            for a in (0, 1) for b in (0, 1) for c in (0, 1) for d in (0, 1)
        ]
    )  # fmt: skip
    drawn = torch.stack(texts) @ torch.tensor([8, 4, 2, 1])
    check_draws(drawn, probs)


def test_incomplete_and_repeated_contexts_have_noise_of_their_own() -> None:
    logits = torch.zeros(2, 1000)
    fresh = ag.KeyedNoise(99)
    own = ag.gumbel_max(logits, noise=fresh).indices
    short = torch.tensor([[1, 2], [3, 4]])
    assert torch.equal(watermark(logits, short, 1, width=3, noise=fresh).indices, own)
    again = torch.tensor([[1, 2, 9, 1, 2], [1, 3, 9, 1, 2]])
    token = watermark(logits, again, 1, width=2, noise=fresh).indices
    marked = ag.gumbel_max(logits, noise=ag.KeyedNoise(1, rows=context_rows(again, 1, width=2)[:, -1])).indices
    assert token[0] == own[0]
    assert token[1] == marked[1]
    prompt = torch.tensor([False, False, False, True, True])  # the first 1, 2 came from the prompt
    assert torch.equal(watermark(logits, again, 1, width=2, drawn=prompt, noise=fresh).indices, marked)
    padded = torch.tensor([[-1, 1, 2], [-1, -1, 2]])
    token = watermark(logits, padded, 1, width=2, noise=fresh).indices
    rows = context_rows(padded, 1, width=2)[:, -1]
    assert token[0] == ag.gumbel_max(logits[0], noise=ag.KeyedNoise(1, rows=rows[:1])).indices
    assert token[1] == own[1]


def test_what_is_counted() -> None:
    text = torch.tensor([1, 2, 1, 2, 1, 3])
    assert watermark_scores(text, 0, width=1).counted.tolist() == [False, True, True, False, False, False]
    assert watermark_scores(text, 0, width=2).counted.tolist() == [False, False, True, True, False, False]
    asked = torch.tensor([False, False, True, True, True, True])
    counted = watermark_scores(text, 0, width=1, drawn=asked).counted
    assert counted.tolist() == [False, False, True, True, False, False]
    padded = torch.tensor([-1, -1, 4, 5, 6, 7, -1])
    assert watermark_scores(padded, 0, width=2).counted.tolist() == [False] * 4 + [True] * 2 + [False]
    scores, counted = watermark_scores(text, 0, width=6)
    assert not bool(counted.any())
    assert watermark_p_value(scores, counted) == 1
    assert watermark_scores(text[:0], 0).scores.shape == (0,)


def test_first_contexts_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(-1, 3, (20, 30), generator=generator)
    drawn = torch.rand(20, 30, generator=generator) < 0.7
    counted = watermark_scores(tokens, 0, width=2, drawn=drawn).counted
    for text, asked, ours in zip(tokens.tolist(), drawn.tolist(), counted.tolist(), strict=True):
        seen: set[tuple[int, ...]] = set()
        for t in range(30):
            context = tuple(text[max(t - 2, 0) : t])
            sound = asked[t] and t >= 2 and min(context) >= 0 and text[t] >= 0
            assert ours[t] == (sound and context not in seen)
            if sound:
                seen.add(context)


def test_p_value() -> None:
    for total, number, p in ((60.0, 30, 6.87626e-06), (40.0, 30, 0.043229), (3.0, 1, math.exp(-3))):
        scores = torch.full((number,), total / number, dtype=torch.float64)
        assert abs(float(watermark_p_value(scores)) / p - 1) < 2e-5
    half = torch.tensor([1.0, 5.0], dtype=torch.bfloat16)
    assert abs(float(watermark_p_value(half, torch.tensor([False, True]))) / math.exp(-5) - 1) < 1e-9


def test_every_dtype_draws_the_same() -> None:
    logits = torch.randint(-9, 9, (3, 50), generator=torch.Generator().manual_seed(8)).double() / 4
    text = torch.arange(15).reshape(3, 5)
    draws = [watermark(logits.to(dtype), text, 1).indices for dtype in (torch.float16, torch.bfloat16, torch.float32)]
    assert all(torch.equal(draw, draws[0]) for draw in draws)
    assert watermark(logits, text, 1).values.dtype == torch.float64


def test_a_seed_may_be_a_tensor() -> None:
    logits, text = torch.zeros(2, 30), torch.arange(10).reshape(2, 5)
    assert torch.equal(watermark(logits, text, torch.tensor(4)).indices, watermark(logits, text, 4).indices)
    assert torch.equal(watermark_scores(text, torch.tensor(4)).scores, watermark_scores(text, 4).scores)
    seeds = torch.tensor([4, -5])
    drawn, scored = watermark(logits, text, seeds).indices, watermark_scores(text, seeds).scores
    for i in range(2):
        assert drawn[i] == watermark(logits[i], text[i], int(seeds[i])).indices
        assert torch.equal(scored[i], watermark_scores(text[i], int(seeds[i])).scores)
    grid = watermark_scores(text.expand(3, 2, 5), torch.arange(3)[:, None]).scores
    assert torch.equal(grid[2], watermark_scores(text, 2).scores)


@pytest.mark.parametrize(
    ("function", "arguments", "error", "match"),
    [
        (context_rows, {"tokens": torch.zeros(3), "seed": 0}, TypeError, "tokens must be a tensor of integers"),
        (context_rows, {"tokens": torch.arange(3), "seed": 0.5}, TypeError, "seed must be an integer"),
        (context_rows, {"tokens": torch.arange(3), "seed": 1 << 64}, ValueError, "seed must fit 64 bits"),
        (context_rows, {"tokens": torch.arange(3), "seed": torch.arange(2)}, ValueError, "seed must be an integer, or"),
        (context_rows, {"tokens": torch.arange(3), "seed": 0, "width": 0}, ValueError, "width must be at least 1"),
        (context_rows, {"tokens": torch.tensor(3), "seed": 0}, ValueError, "tokens must have the shape"),
        (
            watermark,
            {"logits": torch.zeros(2, 9), "tokens": torch.arange(3), "seed": 0},
            ValueError,
            "one text for each row",
        ),
        (
            watermark,
            {"logits": torch.zeros(9), "tokens": torch.arange(3), "seed": 0, "drawn": torch.ones(3)},
            TypeError,
            "drawn must be a bool tensor",
        ),
        (
            watermark,
            {"logits": torch.zeros(9), "tokens": torch.arange(3), "seed": 0, "noise": 1},
            TypeError,
            "noise must be",
        ),
        (
            watermark,
            {"logits": torch.full((9,), torch.nan), "tokens": torch.arange(5), "seed": 0},
            ValueError,
            "logits must not be NaN",
        ),
        (
            watermark_scores,
            {"tokens": torch.arange(3), "seed": 0, "drawn": torch.ones(2, dtype=torch.bool)},
            ValueError,
            "drawn must broadcast to the shape of tokens",
        ),
        (watermark_p_value, {"scores": torch.arange(3)}, TypeError, "scores must be a floating tensor"),
        (watermark_p_value, {"scores": -torch.ones(3)}, ValueError, "scores must be at least 0"),
        (
            watermark_p_value,
            {"scores": torch.ones(3), "counted": torch.ones(3)},
            TypeError,
            "counted must be a bool tensor",
        ),
    ],
)
def test_errors(function: Any, arguments: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        function(**arguments)


def test_bigram_texts_do_not_depend_on_the_batch() -> None:
    table = torch.randn(30, 30, generator=torch.Generator().manual_seed(9))
    noise = ag.KeyedNoise(1, rows=[0, 1, 2])
    text = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]])
    logits, _ = bigram(table)(text[:, -1:], None)
    whole = watermark(logits[:, 0], text, 3, noise=noise)
    one = watermark(logits[1, 0], text[1], 3, noise=ag.KeyedNoise(1, rows=[1]))
    assert torch.equal(one.indices, whole.indices[1])


def test_compiled_code_draws_and_scores_the_same() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(9))
    text = torch.randint(0, 5, (3, 12), generator=torch.Generator().manual_seed(9))

    def draw(x: Tensor, tokens: Tensor) -> Tensor:
        return watermark(x, tokens, 5, width=1, noise=ag.KeyedNoise(1)).indices

    def score(tokens: Tensor) -> Tensor:
        return watermark_p_value(*watermark_scores(tokens, 5, width=2))

    compiled = torch.compile(draw, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(logits, text), draw(logits, text))
    assert torch.equal(torch.compile(score, backend="aot_eager", fullgraph=True)(text), score(text))
