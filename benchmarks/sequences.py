"""Texts of language models: our calls, their checks, and the peers. The items of a size are those of a vocabulary; k is
how many tokens are scored, or how many texts are drawn."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import argumbel as ag
from argumbel.sequences import Beams, context_rows, stochastic_beam_search, watermark_p_value, watermark_scores

from .ops import op
from .peers import Call, peer
from .problem import Problem

SCORES, BEAMS = "watermark_scores", "stochastic_beam_search"

# Names that targets refer to.
WHOLE_VOCABULARY = "a generator for each context, rand(n)[token]"
FORMULA = "log_softmax, noise, gumbel_with_maximum, topk"

SEED = 7
LENGTH = 8  # tokens of a beam


def tokens(p: Problem) -> Tensor:
    return torch.randint(p.size.shape[-1], (p.k,), generator=p.generator(1))


def _check_scores(p: Problem) -> None:
    text = tokens(p)
    scores, counted = watermark_scores(text, SEED)
    for t in counted.nonzero()[:5, 0].tolist():
        row = ag.KeyedNoise(SEED, rows=context_rows(text, SEED)[t : t + 1])
        u = row.uniform((1, p.size.shape[-1]), dtype=torch.float64)[0, text[t]]
        assert abs(float(scores[t] + u.log())) < 1e-12
    marked = ag.KeyedNoise(1).uniform((1000, 30), dtype=torch.float64)
    p_values = watermark_p_value(-marked.log())
    assert abs(float(p_values.mean()) - 0.5) < 5 / math.sqrt(12 * 1000)


@op(SCORES, _check_scores)
def _(p: Problem) -> Call:
    text = tokens(p)
    return lambda: watermark_p_value(*watermark_scores(text, SEED))


@peer(WHOLE_VOCABULARY, SCORES)
def _(p: Problem) -> Call:
    """As detectors do that seed a generator by a hash of the context."""
    text, n, generator = tokens(p), p.size.shape[-1], torch.Generator()
    rows = context_rows(text, SEED)[:-1].tolist()

    def call() -> Tensor:
        u = [torch.rand(n, generator=generator.manual_seed(row))[i] for row, i in zip(rows, text.tolist(), strict=True)]
        return torch.special.gammaincc(torch.tensor(float(len(u))), -torch.stack(u).log().sum())

    return call


def table(p: Problem) -> Tensor:
    """A model of 64 states; the state is the last token."""
    if not hasattr(p, "table"):
        p.table = torch.randn(64, p.size.shape[-1], generator=p.generator(2))
    return p.table  # type: ignore[no-any-return]


def step(logits: Tensor) -> Any:
    return lambda text, state: (logits[text % 64], state)


def beams(p: Problem) -> Beams:
    noise = ag.KeyedNoise.from_generator()
    return stochastic_beam_search(step(table(p)), torch.tensor([0]), p.k, LENGTH, noise=noise)


def _check_beams(p: Problem) -> None:
    drawn, log_p = beams(p), table(p).double().log_softmax(-1)
    before = torch.cat([torch.zeros(p.k, 1, dtype=torch.int64), drawn.tokens[:, :-1] % 64], 1)
    assert bool(((drawn.log_probs - log_p[before, drawn.tokens].sum(-1)).abs() < 1e-5).all())
    assert bool((drawn.values.diff() < 0).all())
    assert len(set(map(tuple, drawn.tokens.tolist()))) == p.k
    # Two of four texts of two tokens, against their law.
    small = torch.tensor([[0.3, -0.4], [1.0, 0.0]])
    count = 20_000
    two = stochastic_beam_search(
        lambda text, state: (small[text], state), torch.zeros(count, 1, dtype=torch.int64), 2, 2, noise=ag.KeyedNoise(1)
    )
    probs = (small.log_softmax(-1)[0, :, None] + small.log_softmax(-1)).exp().flatten()
    seen = (2 * two.tokens[..., 0] + two.tokens[..., 1]).flatten().bincount(minlength=4) / count
    wanted = ag.inclusion_probs(probs.log(), 2)
    assert bool(((seen - wanted).abs() < 5 * (wanted * (1 - wanted) / count).sqrt()).all())


@op(BEAMS, _check_beams)
def _(p: Problem) -> Call:
    return lambda: beams(p)


@peer(FORMULA, BEAMS)
def _(p: Problem) -> Call:
    """The formulas of the paper's code, in float32, without the hash and the key."""
    logits = table(p)

    def call() -> Tensor:
        last, total = torch.zeros(1, dtype=torch.int64), torch.zeros(1)
        value = -torch.empty(1).exponential_().log()
        for _ in range(LENGTH):
            phi = total[:, None] + logits[last % 64].log_softmax(-1)
            g = phi - torch.empty_like(phi).exponential_().log()
            top = g.amax(-1, keepdim=True)
            v = value[:, None] - g + torch.log1p(-torch.exp(g - top))
            moved = value[:, None] - v.relu() - torch.log1p(torch.exp(-v.abs()))
            value, best = moved.flatten().topk(p.k)
            total, last = phi.flatten()[best], best % phi.shape[1]
        return value

    return call
