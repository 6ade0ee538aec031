"""Texts of a small language model, each a function of its seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...sequences import next_tokens
from ._corpus import Alphabet
from ._model import TextModel

__all__ = ["sample_texts"]


@torch.no_grad()
def sample_texts(
    model: TextModel, alphabet: Alphabet, prompt: str, seeds: Sequence[int], length: int, **rules: Any
) -> list[str]:
    """A text for each seed: ``length`` characters that go on from the prompt, which is not part of the text.

    Args:
        model: the model.
        alphabet: its characters.
        prompt: at least one character.
        seeds: one 64-bit seed for each text.
        length: number of characters.
        rules: ``temperature``, ``top_k``, ``top_p`` and ``min_p`` of :func:`argumbel.sequences.next_tokens`.
    """
    if not prompt:
        raise ValueError("prompt must have at least one character, but it is empty; give a line break, say")
    tokens = alphabet.encode(prompt).expand(len(seeds), -1)
    keys, cache, drawn = torch.tensor([s - (1 << 64) if s >= 1 << 63 else s for s in seeds]), None, []
    for position in range(len(prompt), len(prompt) + length):
        logits, cache = model(tokens, cache)
        token = next_tokens(logits[:, -1], keys, position, **rules)
        drawn.append(token)
        tokens = token.unsqueeze(1)
    return [alphabet.decode(text) for text in torch.stack(drawn, 1)] if drawn else [""] * len(seeds)
