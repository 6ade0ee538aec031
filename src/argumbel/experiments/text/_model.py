"""A transformer over characters, in plain PyTorch."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Cache", "TextModel"]


class Cache(NamedTuple):
    """What the model keeps of the characters before: keys and values of each layer, ``(layers, 2, batch, heads, kept,
    width)``, at most ``window - 1`` characters of them; and how many characters there were."""

    past: Tensor
    length: int


class TextModel(nn.Module):
    """``model(tokens, cache) -> (logits, cache)``: the logits of the next character, after each of the given ones.

    In each layer a character looks at itself and at the ``window - 1`` characters before it. So texts may have any
    length, and the logits are the same whether a text comes at once or in parts.

    Args:
        characters: how many there are.
        width: of the hidden states; a multiple of twice the heads.
        layers: number of layers.
        heads: number of attention heads.
        window: how many characters a character looks at, itself among them.
    """

    def __init__(self, characters: int, *, width: int, layers: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.embedding = nn.Embedding(characters, width)
        blocks = [_Block(width, heads) for _ in range(layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        for block in blocks:
            for linear in (block.mix, block.shrink):  # the sum over layers starts with the variance of one
                nn.init.normal_(linear.weight, std=0.02 / (2 * layers) ** 0.5)

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """tokens: ``(batch, length)``. Returns logits ``(batch, length, characters)`` and the cache after them."""
        length, before = tokens.shape[1], 0 if cache is None else cache.length
        kept = 0 if cache is None else cache.past.shape[4]
        turn = _turn(torch.arange(before, before + length, device=tokens.device), self._head_width)
        mask = self._mask(length, kept, tokens.device)
        x, past = self.embedding(tokens), []
        for i, block in enumerate(self.blocks):
            x, own = block(x, turn, mask, None if cache is None else cache.past[i])
            past.append(own[..., max(0, own.shape[3] - self.window + 1) :, :])
        logits = F.linear(self.norm(x), self.embedding.weight)
        return logits, Cache(torch.stack(past), before + length)

    @property
    def _head_width(self) -> int:
        return self.embedding.embedding_dim // self.heads

    def _mask(self, length: int, kept: int, device: torch.device) -> Tensor | None:
        """True where a character (row) looks at another (column); None for the usual causal mask."""
        if kept == 0 and length <= self.window:
            return None
        back = torch.arange(kept, kept + length, device=device).unsqueeze(1) - torch.arange(
            kept + length, device=device
        )
        return (back >= 0) & (back < self.window)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.look = nn.Linear(width, 3 * width, bias=False)
        self.mix = nn.Linear(width, width, bias=False)
        self.grow, self.shrink = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, past: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        query, key, value = self.look(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = _turned(query, turn), _turned(key, turn)
        own = torch.stack([key, value])
        if past is not None:
            own = torch.cat([past, own], 3)
        seen = F.scaled_dot_product_attention(query, own[0], own[1], attn_mask=mask, is_causal=mask is None)
        x = x + self.mix(seen.transpose(1, 2).flatten(2))
        return x + self.shrink(F.gelu(self.grow(self.norm2(x)))), own


def _turn(positions: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angles by which pairs of numbers turn (rotary positions: only distances count)."""
    angles = positions.unsqueeze(1) * 1000.0 ** -(torch.arange(0, width, 2, device=positions.device) / width)
    return angles.cos(), angles.sin()


def _turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    (a, b), (cos, sin) = x.chunk(2, -1), turn
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
