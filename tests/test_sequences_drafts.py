"""Coupled drafts: the text of the target, whatever the draft; how often a draft is right, and models are called."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel.coupling import agreement_prob
from argumbel.sequences import accepted, speculative_decode

from .statistics import check_frequency
from .texts import Step, bigram, crop, trigram

SEEDED = torch.Generator().manual_seed(0)
TABLE = torch.randn(7, 7, generator=SEEDED)
DRAFTS = {
    "the target": TABLE,
    "near": TABLE + 0.4 * torch.randn(7, 7, generator=SEEDED),
    "far": torch.randn(7, 7, generator=SEEDED),
    "wrong": torch.zeros(7, 7).masked_fill(torch.arange(7) != 6, -torch.inf),
}


def decode(table: Tensor, start: Tensor, length: int, seed: int, ids: Tensor) -> Tensor:
    """Without a draft: token t of text i under the row i * 2**32 + t."""
    text = start
    for t in range(length):
        rows = ids * 2**32 + t
        token = ag.gumbel_max(table[text[:, -1]], noise=ag.KeyedNoise(seed, rows=rows)).indices
        text = torch.cat([text, token[:, None]], 1)
    return text[:, start.shape[1] :]


@pytest.mark.parametrize("cropped", [False, True])
@pytest.mark.parametrize("lookahead", [0, 1, 3, 50])
@pytest.mark.parametrize("name", DRAFTS)
def test_the_text_is_that_of_the_target(name: str, lookahead: int, cropped: bool) -> None:
    start = torch.tensor([[1, 2], [3, 4], [5, 6]])
    result = speculative_decode(
        bigram(TABLE), bigram(DRAFTS[name]), start, 23, lookahead=lookahead, crop=crop if cropped else None,
        noise=ag.KeyedNoise(5),
    )  # fmt: skip
    assert torch.equal(result.tokens, decode(TABLE, start, 23, 5, torch.arange(3)))
    assert result.target_calls + result.draft_calls >= 23 or lookahead == 50
    if name == "the target":
        assert result.target_calls == -(-23 // (lookahead + 1))
    if lookahead == 0:
        assert (result.target_calls, result.draft_calls) == (23, 0)


def test_models_that_look_further_back() -> None:
    table = torch.randn(6, 6, 6, generator=torch.Generator().manual_seed(1))
    draft = table + torch.randn(6, 6, 6, generator=torch.Generator().manual_seed(2)) / 2
    start = torch.tensor([[1, 2]])
    texts = [
        speculative_decode(
            trigram(table), trigram(draft), start, 40, lookahead=n, crop=c, noise=ag.KeyedNoise(3)
        ).tokens
        for n in (0, 2, 5) for c in (None, crop)
    ]  # fmt: skip
    assert all(torch.equal(text, texts[0]) for text in texts)


def test_with_a_cache_each_token_is_seen_once_or_was_wrong() -> None:
    seen: list[tuple[int, ...]] = []
    result = speculative_decode(
        bigram(TABLE, seen), bigram(TABLE), torch.tensor([1]), 20, lookahead=3, crop=crop, noise=ag.KeyedNoise(0)
    )
    assert seen == [(1, 4)] * 5
    assert (result.target_calls, result.draft_calls) == (5, 15)


def test_drafts_are_right_as_often_as_the_closed_form_says() -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2]).log(), torch.tensor([0.2, 0.3, 0.5]).log()
    probability = float(agreement_prob(p, q))
    assert abs(probability - 0.630769) < 1e-6
    count = 100_000
    noise = ag.KeyedNoise(1)
    draft, target = (ag.gumbel_max(x.expand(count, 3), noise=noise).indices for x in (p, q))
    check_frequency(int(accepted(draft[:, None], target[:, None]).sum()), count, probability)


def test_target_calls_are_as_many_as_the_closed_form_says() -> None:
    """With one guess at a time, a call gives two tokens or one."""
    p, q = torch.tensor([0.5, 0.3, 0.2]).log(), torch.tensor([0.2, 0.3, 0.5]).log()
    length = 4000
    result = speculative_decode(
        bigram(p.expand(3, 3)), bigram(q.expand(3, 3)), torch.tensor([0]), length, lookahead=1, crop=crop,
        noise=ag.KeyedNoise(2),
    )  # fmt: skip
    right = length - result.target_calls
    check_frequency(right, result.draft_calls, float(agreement_prob(p, q)))


def test_texts_end() -> None:
    table = TABLE.clone()
    table[6] = torch.nan  # what a model says after the end is not looked at
    start = torch.tensor([[1], [2], [3]])
    whole = decode(torch.where(table.isnan(), 0, table), start, 30, 4, torch.arange(3))
    draft = bigram(DRAFTS["far"])
    result = speculative_decode(bigram(table), draft, start, 30, end=6, crop=crop, noise=ag.KeyedNoise(4))
    for ours, text in zip(result.tokens.tolist(), whole.tolist(), strict=True):
        until = text.index(6) + 1 if 6 in text else 30
        assert ours == text[:until] + [6] * (30 - until)


def test_a_text_does_not_depend_on_its_batch() -> None:
    start = torch.arange(6).reshape(2, 3, 1)
    far = bigram(DRAFTS["far"])
    whole = speculative_decode(bigram(TABLE), far, start, 12, noise=ag.KeyedNoise(7)).tokens
    one = speculative_decode(bigram(TABLE), far, start[1, 2], 12, noise=ag.KeyedNoise(7, rows=[5])).tokens
    assert torch.equal(whole[1, 2], one)


def test_a_seed_for_every_text() -> None:
    """The recipe of a server: the seed of the request, the position of the token, the id of the item."""
    start, seeds = torch.tensor([[1], [1], [2]]), torch.tensor([8, 9, 8])
    whole = speculative_decode(bigram(TABLE), bigram(DRAFTS["far"]), start, 12, noise=ag.KeyedNoise(seeds)).tokens
    for i in range(3):
        one = speculative_decode(bigram(TABLE), bigram(TABLE), start[i], 12, noise=ag.KeyedNoise(int(seeds[i]))).tokens
        assert torch.equal(one, whole[i])
    text = start
    for t in range(12):
        noise = ag.KeyedNoise(seeds, rows=torch.full((3,), t))
        text = torch.cat([text, ag.gumbel_max(TABLE[text[:, -1]], noise=noise).indices[:, None]], 1)
    assert torch.equal(text[:, 1:], whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_and_generators(dtype: torch.dtype) -> None:
    step = bigram(TABLE.to(dtype))
    texts = [
        speculative_decode(step, step, torch.tensor([0]), 9, generator=torch.Generator().manual_seed(s)).tokens
        for s in (1, 1, 2)
    ]
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])


def test_accepted() -> None:
    draft, target = torch.tensor([[1, 2, 3], [1, 9, 3], [0, 2, 3]]), torch.tensor([1, 2, 3])
    assert accepted(draft, target).tolist() == [3, 1, 0]
    assert accepted(draft[:, :0], target[:0]).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="target must have the tokens of the positions of draft"):
        accepted(draft, target[:2])
    with pytest.raises(ValueError, match="target must have the tokens"):
        accepted(draft, draft[:2])
    with pytest.raises(TypeError, match="draft must be a tensor of integers"):
        accepted(draft.float(), target)


def step(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
    return torch.zeros(*tokens.shape, 3), state


def only_last(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
    return torch.zeros(len(tokens), 1, 3), state


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"length": 0}, ValueError, "length must be at least 1"),
        ({"lookahead": -1}, ValueError, "lookahead must be at least 0"),
        ({"start": torch.zeros(1, 0, dtype=torch.int64)}, ValueError, "start must have the shape"),
        ({"target": only_last}, ValueError, "logits of step must have the shape"),
        ({"noise": torch.zeros(2)}, TypeError, "noise must be an argumbel.KeyedNoise"),
    ],
)
def test_errors(change: dict[str, Any], error: type[Exception], match: str) -> None:
    arguments: dict[str, Any] = {"target": step, "draft": step, "start": torch.tensor([0]), "length": 9, **change}
    with pytest.raises(error, match=match):
        speculative_decode(**arguments)


def test_steps_are_steps() -> None:
    models: list[Step] = [step, only_last, bigram(TABLE)]
    assert len(models) == 3
