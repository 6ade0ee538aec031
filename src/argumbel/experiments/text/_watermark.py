"""Texts with a watermark: whoever knows the secret can tell them from other texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...noise import KeyedNoise
from ...sequences import seed_tensor, truncate, watermark, watermark_p_value, watermark_scores
from ._corpus import Alphabet
from ._model import TextModel
from ._sample import write_texts

__all__ = ["CONTEXT", "Detection", "detect_watermark", "watermark_texts"]

CONTEXT = 6  # characters


class Detection(NamedTuple):
    """The score of each character, 0 where it is not counted, and which characters are counted."""

    scores: Tensor
    counted: Tensor

    def p_value(self, length: int | None = None) -> float:
        """How likely scores as large are in a text without a watermark; of the first ``length`` characters alone."""
        return float(watermark_p_value(self.scores[:length], self.counted[:length]))


def watermark_texts(
    model: TextModel,
    alphabet: Alphabet,
    prompt: str,
    seeds: Sequence[int],
    length: int,
    *,
    secret: int = 0,
    width: int = CONTEXT,
    **rules: Any,
) -> list[str]:
    """A text for each seed, with a watermark. The prompt is not part of the text.

    The noise of a character is a function of the secret and of the ``width`` characters of the text before it. The
    noise of the first ``width`` characters, and of a character whose context has occurred before, is a function of the
    seed and the position.

    Args:
        model: the model.
        alphabet: its characters.
        prompt: at least one character.
        seeds: one 64-bit seed for each text.
        length: number of characters.
        secret: any 64-bit integer.
        width: how many characters make a context.
        rules: ``temperature``, ``top_k``, ``top_p`` and ``min_p`` of :func:`argumbel.sequences.truncate`.
    """
    keys = seed_tensor(seeds)

    def choose(logits: Tensor, drawn: Tensor) -> Tensor:
        fresh = KeyedNoise(keys, rows=torch.full_like(keys, len(prompt) + drawn.shape[1]))
        return watermark(truncate(logits, **rules), drawn, secret, width=width, noise=fresh).indices

    return write_texts(model, alphabet, prompt, len(seeds), length, choose)


def detect_watermark(alphabet: Alphabet, text: str, *, secret: int = 0, width: int = CONTEXT) -> Detection:
    """The scores of a text. They are large where the text has the watermark of this secret.

    Args:
        alphabet: the characters of the model. Other characters, and the ``width`` characters after them, do not count.
        text: any text.
        secret: the secret of :func:`watermark_texts`.
        width: how many characters make a context, as in :func:`watermark_texts`.
    """
    places = {character: place for place, character in enumerate(alphabet.characters)}
    tokens = torch.tensor([places.get(character, -1) for character in text], dtype=torch.int64)
    return Detection(*watermark_scores(tokens, secret, width=width))
