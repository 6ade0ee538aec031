"""Small models of texts, and all their texts by enumeration."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Step = Callable[[Tensor, Any], tuple[Tensor, Any]]


def bigram(table: Tensor, seen: list[tuple[int, ...]] | None = None) -> Step:
    """A model that looks at one token. Its state is all tokens so far, to see whether they are reordered and cropped
    as they should be."""

    def step(tokens: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        if seen is not None:
            seen.append(tuple(tokens.shape))
        state = tokens if state is None else torch.cat([state, tokens], 1)
        m = tokens.shape[1]
        return table[state[:, -m:]], state

    return step


def trigram(table: Tensor) -> Step:
    """A model that looks at two tokens, of which one may be in the state."""

    def step(tokens: Tensor, state: dict[str, Any] | None) -> tuple[Tensor, dict[str, Any]]:
        text = tokens if state is None else torch.cat([state["parts"][0], tokens], 1)
        before = torch.cat([torch.zeros_like(text[:, :1]), text[:, :-1]], 1)
        m = tokens.shape[1]
        return table[before[:, -m:], text[:, -m:]], {"parts": (text, [text.double()])}

    return step


def crop(state: Any, size: int) -> Any:
    return state[:, :size] if isinstance(state, Tensor) else {"parts": (state["parts"][0][:, :size], [])}


def law(table: Tensor, first: int, length: int, end: int | None = None) -> dict[tuple[int, ...], float]:
    """The probability of every text of a bigram model after a first token; texts are filled up by end."""
    probs = table.double().softmax(-1)
    result: dict[tuple[int, ...], float] = {}
    for text in itertools.product(range(table.shape[-1]), repeat=length):
        p, before = 1.0, first
        for token in text:
            if before == end:
                p *= token == end
            else:
                p *= float(probs[before, token])
            before = token
        if p:
            result[text] = p
    return result
