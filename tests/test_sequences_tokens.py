"""The next token: a function of the request's seed, its position and its logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel.sequences import next_tokens
from argumbel.sequences.transformers import GumbelProcessor
from tests.statistics import check_draws

N = 50


def requests(batch: int = 64, n: int = N) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(batch, n, generator=generator)
    seeds = torch.randint(-(2**63), 2**63 - 1, (batch,), generator=generator)
    return logits, seeds, torch.randint(0, 4000, (batch,), generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_in_plain_lines(dtype: torch.dtype) -> None:
    logits, seeds, positions = requests()
    logits = logits.to(dtype)
    work = logits if dtype == torch.float64 else logits.float()
    want = [
        int((x / 0.8 + ag.KeyedNoise(int(s), rows=[int(p)]).gumbel((1, N), dtype=work.dtype)).argmax())
        for x, s, p in zip(work, seeds, positions, strict=True)
    ]
    assert next_tokens(logits, seeds, positions, temperature=0.8).tolist() == want


@pytest.mark.parametrize("rules", [{}, {"top_p": 0.9}, {"top_k": 5, "min_p": 0.1}])
def test_the_same_alone_and_in_any_batch(rules: dict[str, float]) -> None:
    logits, seeds, positions = requests()
    temperature = torch.linspace(0, 2, 64)
    batch = next_tokens(logits, seeds, positions, temperature=temperature, **rules)
    for i in (0, 1, 31, 63):
        own = {"temperature": float(temperature[i]), **rules}
        assert next_tokens(logits[i], int(seeds[i]), int(positions[i]), **own) == batch[i]
        assert next_tokens(logits[i : i + 1], seeds[i : i + 1], positions[i : i + 1], **own)[0] == batch[i]
    order = torch.randperm(64, generator=torch.Generator().manual_seed(2))
    moved = next_tokens(logits[order], seeds[order], positions[order], temperature=temperature[order], **rules)
    assert torch.equal(moved, batch[order])
    square = [x.reshape(8, 8, *x.shape[1:]) for x in (logits, seeds, positions, temperature)]
    assert torch.equal(next_tokens(*square[:3], temperature=square[3], **rules).flatten(), batch)
    assert torch.equal(batch[0], logits[0].argmax())


def test_a_text_whose_positions_are_rows() -> None:
    logits, _, positions = requests()
    want = torch.stack([next_tokens(x, 7, int(p)) for x, p in zip(logits, positions, strict=True)])
    assert torch.equal(next_tokens(logits, 7, positions), want)


@pytest.mark.parametrize(
    "rules", [{"top_k": 4}, {"top_p": 0.7}, {"min_p": 0.2}, {"top_k": 9, "top_p": 0.8, "min_p": 0.1}, {}]
)
def test_the_law(rules: dict[str, float]) -> None:
    x = torch.tensor([2.0, 1.0, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0, -3.0, -torch.inf])
    tokens = next_tokens(x.expand(100_000, 10), 3, torch.arange(100_000), temperature=0.9, **rules)
    p = (x.double() / 0.9).softmax(-1)
    if "top_k" in rules:
        p = p.where(p >= p.sort(descending=True).values[int(rules["top_k"]) - 1], 0)
        p /= p.sum()
    if "top_p" in rules:
        before = p.cumsum(0) - p  # p falls
        p = p.where(before < rules["top_p"], 0)
        p /= p.sum()
    if "min_p" in rules:
        p = p.where(p >= rules["min_p"] * p.max(), 0)
        p /= p.sum()
    check_draws(tokens, p)


def test_a_mask_and_nothing() -> None:
    logits, seeds, positions = requests()
    only = torch.zeros(N, dtype=torch.bool)
    only[3] = True
    assert next_tokens(logits, seeds, positions, mask=only).unique().tolist() == [3]
    assert next_tokens(logits[:0], seeds[:0], positions[:0]).shape == (0,)


def test_shards_threads_and_compiled_code() -> None:
    logits, seeds, positions = requests(4, 5000)
    want = next_tokens(logits, seeds, positions)
    winners = [
        [ag.gumbel_max(x[part], noise=ag.KeyedNoise(int(s), [int(p)], torch.arange(5000)[part])) for part in parts]
        for x, s, p in zip(logits, seeds, positions, strict=True)
        for parts in ((slice(0, 1700), slice(1700, 5000)),)
    ]
    for (first, second), token in zip(winners, want, strict=True):
        best = first.indices if first.values >= second.values else second.indices + 1700
        assert best == token
    compiled = torch.compile(next_tokens, backend="eager", fullgraph=True)
    assert torch.equal(compiled(logits, seeds, positions), want)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        assert torch.equal(next_tokens(logits, seeds, positions), want)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, "seeds must be an integer", {"seeds": 1.0}),
        (TypeError, "seeds must be a tensor of integers", {"seeds": torch.ones(2)}),
        (ValueError, "seeds must broadcast to the rows of logits", {"seeds": torch.zeros(3).long()}),
        (ValueError, "positions must broadcast to the rows of logits", {"positions": torch.zeros(3).long()}),
        (ValueError, "temperature must be", {"temperature": -1}),
        (ValueError, "top_k must be at least 1", {"top_k": 0}),
        (ValueError, "top_p must be above 0 and at most 1", {"top_p": 1.1}),
        (ValueError, r"min_p must be in \[0, 1\]", {"min_p": -0.1}),
        (TypeError, "mask must be a bool tensor", {"mask": torch.zeros(5)}),
        (ValueError, "logits must not be NaN", {"logits": torch.full((2, 5), torch.nan)}),
    ],
)
def test_bad_input(error: type[Exception], message: str, change: dict[str, object]) -> None:
    arguments = {"logits": torch.zeros(2, 5), "seeds": torch.tensor([1, 2]), "positions": 0, **change}
    with pytest.raises(error, match=message):
        next_tokens(**arguments)  # type: ignore[arg-type]


# --- the logits processor, without transformers ----------------------------------------------------------------------


def test_scores_are_the_log_probability_of_the_token() -> None:
    logits, seeds, _ = requests(4)
    ids = torch.zeros(4, 6, dtype=torch.int64)
    temperature = torch.tensor([0.0, 0.5, 1.0, 2.0])
    scores = GumbelProcessor(seeds, temperature=temperature)(ids, logits)
    tokens = next_tokens(logits, seeds, 6, temperature=temperature)
    assert torch.equal(scores.argmax(-1), tokens)
    assert (scores > -torch.inf).sum(-1).tolist() == [1] * 4
    assert scores[0].max() == 0
    for i in (1, 2, 3):
        want = (logits[i] / temperature[i]).log_softmax(-1)[tokens[i]]
        torch.testing.assert_close(scores[i].max(), want)
    cut = GumbelProcessor(seeds, top_k=1)(ids, logits)
    assert torch.equal(cut.argmax(-1), logits.argmax(-1))
    assert cut.amax(-1).tolist() == [0.0] * 4


def test_padding_is_not_counted() -> None:
    logits, seeds, _ = requests(3)
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 0, 1]])
    with pytest.raises(ValueError, match="attention_mask must have its padding on the left"):
        GumbelProcessor(seeds, attention_mask=mask)
    mask[1, 3] = 1
    processor = GumbelProcessor(seeds, attention_mask=mask)
    for length in (4, 9):  # of the prompt, and five tokens later
        got = processor(torch.zeros(3, length, dtype=torch.int64), logits).argmax(-1)
        assert torch.equal(got, next_tokens(logits, seeds, length - torch.tensor([0, 1, 3])))
    twice = GumbelProcessor(seeds.repeat_interleave(2), attention_mask=mask)
    got = twice(torch.zeros(6, 4, dtype=torch.int64), logits.repeat_interleave(2, 0)).argmax(-1)
    assert torch.equal(got[::2], next_tokens(logits, seeds, torch.tensor([4, 3, 1])))


def test_seeds_of_the_processor() -> None:
    logits, _, _ = requests(1)
    ids = torch.zeros(1, 3, dtype=torch.int64)
    large = GumbelProcessor(2**64 - 5)(ids, logits)
    assert torch.equal(large, GumbelProcessor([-5])(ids, logits))
    with pytest.raises(ValueError, match="seeds must give one seed for each of the 2 rows"):
        GumbelProcessor(1)(torch.zeros(2, 3, dtype=torch.int64), logits.expand(2, N))
    with pytest.raises(TypeError, match="seeds must be a tensor of integers"):
        GumbelProcessor(torch.tensor([0.5]))
    with pytest.raises(ValueError, match="temperature must be"):
        GumbelProcessor(1, temperature=-1)
    with pytest.raises(ValueError, match=r"attention_mask must have the shape \(batch, length\)"):
        GumbelProcessor(1, attention_mask=torch.ones(3, dtype=torch.int64))
