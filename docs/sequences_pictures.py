"""The picture of `sequences.md`; `pictures.py` draws it."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from picture_style import BLUE, FAINT, GREEN, INK, ORANGE, PINK, plain
from torch import Tensor

import argumbel as ag
from argumbel.sequences import watermark, watermark_p_value, watermark_scores

ALARM = 1e-6
COLORS = (FAINT, PINK, BLUE, GREEN, ORANGE)


def with_entropy(logits: Tensor, nats: float) -> Tensor:
    """Logits times the number that gives them this mean entropy."""
    low, high = 0.0, 100.0
    for _ in range(50):
        scale = (low + high) / 2
        log_p = (scale * logits).log_softmax(-1)
        low, high = (scale, high) if -(log_p.exp() * log_p).sum(-1).mean() > nats else (low, scale)
    return scale * logits


def write(table: Tensor, texts: int, length: int, width: int) -> Tensor:
    """Marked texts of a model that looks at one token."""
    text = torch.arange(texts)[:, None].expand(-1, width)
    for t in range(length):
        drawn = torch.arange(text.shape[-1]) >= width
        noise = ag.KeyedNoise(3, rows=torch.arange(texts) + texts * t)
        token = watermark(table[text[:, -1]], text, 1, width=width, drawn=drawn, noise=noise).indices
        text = torch.cat([text, token[:, None]], 1)
    return text[:, width:]


def power(texts: int = 300, n: int = 500) -> Figure:
    """How many marked texts are found, by length and entropy, and after some of their tokens were replaced."""
    figure = Figure(figsize=(8.6, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    logits = torch.randn(n, n, generator=torch.Generator().manual_seed(0))
    for nats, color in zip((0.25, 0.5, 1, 2, 4), COLORS, strict=True):
        scores, counted = watermark_scores(write(with_entropy(logits, nats), texts, 200, 4), 1)
        lengths = range(5, 201, 5)
        found = [(watermark_p_value(scores[:, :m], counted[:, :m]) < ALARM).float().mean() for m in lengths]
        left.plot(lengths, found, color=color, linewidth=1.6, label=f"{nats:g}")
    left.legend(frameon=False, fontsize=8, title="nats a token", title_fontsize=8, loc="center right")
    plain(left, "Whole texts", "tokens", f"share found, p-value below {ALARM:g}")

    table = with_entropy(logits, 2)
    shares = torch.linspace(0, 0.7, 15)
    generator = torch.Generator().manual_seed(1)
    for width, color in ((1, ORANGE), (2, GREEN), (4, BLUE), (8, INK)):
        text = write(table, texts, 200, width)
        found = []
        for share in shares:
            other = torch.randint(n, text.shape, generator=generator)
            changed = torch.where(torch.rand(text.shape, generator=generator) < share, other, text)
            p = watermark_p_value(*watermark_scores(changed, 1, width=width))
            found.append((p < ALARM).float().mean())
        right.plot(shares, found, color=color, linewidth=1.6, label=f"{width}")
    right.legend(frameon=False, fontsize=8, title="width of the context", title_fontsize=8, loc="upper right")
    plain(right, "Some tokens replaced, 200 tokens of 2 nats", "share of tokens replaced", "")
    return figure


PICTURES = {"sequences-watermark": power}
