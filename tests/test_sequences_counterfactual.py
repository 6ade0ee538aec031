"""Counterfactual texts: the same noise under other models, prompts and tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel.coupling import counterfactual_probs
from argumbel.sequences import counterfactual_text

from .statistics import check_draws
from .texts import bigram, trigram

GENERATOR = torch.Generator().manual_seed(0)
OLD = torch.randn(5, 5, generator=GENERATOR)
NEW = OLD + torch.randn(5, 5, generator=GENERATOR)
START = torch.tensor([[0], [1], [2]])
TEXT = torch.randint(0, 5, (3, 12), generator=GENERATOR)


def decode(table: Tensor, start: Tensor, length: int, noise: Tensor) -> Tensor:
    text = start
    for t in range(length):
        text = torch.cat([text, (table[text[:, -1]] + noise[:, t]).argmax(-1, keepdim=True)], 1)
    return text[:, start.shape[1] :]


def test_with_nothing_changed_the_text_stays() -> None:
    assert torch.equal(counterfactual_text(bigram(OLD), START, TEXT), TEXT)
    same = counterfactual_text(bigram(OLD), START, TEXT, new_step=bigram(OLD + 3), new_start=START)
    assert torch.equal(same, TEXT)


def test_a_text_and_its_counterfactual_have_the_joint_law_of_one_noise() -> None:
    """Draw a text, then ask: the pair has the law of two models that run under one noise."""
    count = 100_000
    table, other = torch.tensor([[0.0, 1.0], [0.5, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.3]])
    start = torch.zeros(count, 1, dtype=torch.int64)
    noise = ag.KeyedNoise(1).gumbel((count, 2, 2))
    seen = decode(table, start, 2, noise)
    instead = counterfactual_text(bigram(table), start, seen, new_step=bigram(other), noise=ag.KeyedNoise(2))
    p, q = table.double(), other.double()
    law = torch.zeros(16, dtype=torch.float64)
    for a in (0, 1):
        for b in (0, 1):
            first = counterfactual_probs(p[0], torch.tensor(a), q[0]) * p[0].softmax(0)[a]
            for c in (0, 1):
                second = counterfactual_probs(p[a], torch.tensor(b), q[c]) * p[a].softmax(0)[b]
                for d in (0, 1):
                    law[8 * a + 4 * b + 2 * c + d] = first[c] * second[d]
    check_draws(torch.cat([seen, instead], 1) @ torch.tensor([8, 4, 2, 1]), law)


def test_the_counterfactual_alone_has_the_law_of_the_new_model() -> None:
    count = 50_000
    table, other = torch.randn(3, 3, generator=GENERATOR), torch.randn(3, 3, generator=GENERATOR)
    start = torch.zeros(count, 1, dtype=torch.int64)
    seen = decode(table, start, 2, ag.KeyedNoise(1).gumbel((count, 2, 3)))
    instead = counterfactual_text(bigram(table), start, seen, new_step=bigram(other), length=3, noise=ag.KeyedNoise(2))
    law = other.double().softmax(-1)
    probs = law[0][:, None, None] * law[:, :, None] * law[None]
    check_draws(instead @ torch.tensor([9, 3, 1]), probs.flatten())


def test_a_token_changes_only_if_the_models_differ_before_it() -> None:
    """Each token is a stable answer: no token replaces another whose odds grew."""
    only = OLD.clone()
    only[3, 4] += 5  # only after token 3, and only in favour of token 4
    instead = counterfactual_text(bigram(OLD), START, TEXT, new_step=bigram(only), generator=GENERATOR)
    for start, text, new in zip(START.tolist(), TEXT.tolist(), instead.tolist(), strict=True):
        before = (start[0], start[0])
        for old_token, new_token in zip(text, new, strict=True):
            if before[0] == before[1] and before[0] != 3:
                assert old_token == new_token
            if before == (3, 3):
                assert new_token in (old_token, 4)
            before = (old_token, new_token)


def test_another_prompt_of_another_length() -> None:
    table = torch.randn(4, 4, 4, generator=GENERATOR)
    text = torch.randint(0, 4, (3, 6), generator=GENERATOR)
    start = torch.tensor([[1, 2], [2, 3], [3, 0]])
    longer = torch.cat([torch.zeros(3, 4, dtype=torch.int64), start], 1)
    assert torch.equal(counterfactual_text(trigram(table), start, text, new_start=longer), text)
    many = text[0].expand(100, 6)
    other = counterfactual_text(
        trigram(table), start[:1].expand(100, 2), many, new_start=start[1:2].expand(100, 2), noise=ag.KeyedNoise(1)
    )
    assert 0 < int((other != many).any(-1).sum()) < 100


def test_forced_tokens() -> None:
    forced = torch.full((12,), -1)
    forced[4] = 2
    instead = counterfactual_text(bigram(OLD), START, TEXT, forced=forced, noise=ag.KeyedNoise(1))
    assert torch.equal(instead[:, :4], TEXT[:, :4])
    assert bool((instead[:, 4] == 2).all())
    untouched = TEXT[:, 4] == 2
    assert torch.equal(instead[untouched], TEXT[untouched])


def test_noise_after_the_text_is_that_of_its_key() -> None:
    """Texts go on under fresh noise: rows i * 2**32 + t."""
    more = counterfactual_text(bigram(OLD), START, TEXT, length=20, noise=ag.KeyedNoise(3))
    assert torch.equal(more[:, :12], TEXT)
    text = more[:, :12]
    for t in range(12, 20):
        rows = torch.arange(3) * 2**32 + t
        token = ag.gumbel_max(OLD[text[:, -1]], noise=ag.KeyedNoise(3, rows=rows)).indices
        text = torch.cat([text, token[:, None]], 1)
    assert torch.equal(more, text)
    assert torch.equal(counterfactual_text(bigram(OLD), START, TEXT[:, :0], length=0), TEXT[:, :0])


def test_texts_that_end() -> None:
    text = torch.tensor([[1, 4, -1, -1], [2, 0, 1, 4], [3, 3, 3, 3]])
    same = counterfactual_text(bigram(OLD), START, text, end=4)
    assert same.tolist() == [[1, 4, 4, 4], [2, 0, 1, 4], [3, 3, 3, 3]]
    never = OLD.clone()
    never[:, 4] = -torch.inf
    longer = counterfactual_text(bigram(OLD), START, text, new_step=bigram(never), end=4, noise=ag.KeyedNoise(0))
    assert not bool((longer == 4).any())
    for t in (2, 3):  # the first text is over there: fresh noise, that of the key
        fresh = ag.gumbel_max(never[longer[:1, t - 1]], noise=ag.KeyedNoise(0, rows=[t])).indices
        assert longer[0, t] == fresh


def test_a_text_does_not_depend_on_its_batch() -> None:
    whole = counterfactual_text(bigram(OLD), START, TEXT, new_step=bigram(NEW), noise=ag.KeyedNoise(4))
    one = counterfactual_text(
        bigram(OLD), START[1], TEXT[1], new_step=bigram(NEW), noise=ag.KeyedNoise(4, rows=torch.tensor([1]))
    )
    assert torch.equal(one, whole[1])
    grid = counterfactual_text(
        bigram(OLD), START.reshape(3, 1, 1), TEXT.reshape(3, 1, 12), new_step=bigram(NEW), noise=ag.KeyedNoise(4)
    )
    assert torch.equal(grid.squeeze(1), whole)


def test_a_seed_for_every_text() -> None:
    seeds = torch.tensor([8, 9, 8])
    whole = counterfactual_text(bigram(OLD), START, TEXT, new_step=bigram(NEW), noise=ag.KeyedNoise(seeds))
    for i in range(3):
        noise = ag.KeyedNoise(int(seeds[i]))
        one = counterfactual_text(bigram(OLD), START[i], TEXT[i], new_step=bigram(NEW), noise=noise)
        assert torch.equal(one, whole[i])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    table = OLD.to(dtype)
    assert torch.equal(counterfactual_text(bigram(table), START, TEXT), TEXT)
    instead = counterfactual_text(bigram(table), START, TEXT, new_step=bigram(NEW.to(dtype)), noise=ag.KeyedNoise(1))
    assert instead.shape == TEXT.shape


WIDER = torch.zeros(6, 6)
BARRED = OLD.masked_fill(torch.arange(5) == 1, -torch.inf)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"tokens": TEXT[:2]}, ValueError, "tokens must have the shape"),
        ({"tokens": TEXT + 3}, ValueError, "tokens must be possible under step, from 0 to 4"),
        ({"tokens": TEXT.float()}, TypeError, "tokens must be a tensor of integers"),
        ({"step": bigram(BARRED)}, ValueError, "tokens must be possible under step"),
        ({"new_step": bigram(WIDER)}, ValueError, "new_step must have the vocabulary of step, 5 tokens, but it has 6"),
        ({"new_start": START[:2]}, ValueError, "new_start must have the shape"),
        ({"forced": torch.zeros(5, dtype=torch.int64)}, ValueError, "forced must broadcast to the shape"),
        ({"forced": torch.zeros(12)}, TypeError, "forced must be a tensor of integers"),
        ({"length": -1}, ValueError, "length must be at least 0"),
        ({"new_step": bigram(OLD * torch.nan)}, ValueError, "must not be NaN"),
        ({"step": bigram(OLD * torch.nan)}, ValueError, "logits of step must not be NaN"),
    ],
)
def test_errors(change: dict[str, Any], error: type[Exception], match: str) -> None:
    arguments: dict[str, Any] = {"step": bigram(torch.cat([OLD, OLD])), "start": START, "tokens": TEXT, **change}
    with pytest.raises(error, match=match):
        counterfactual_text(**arguments)
