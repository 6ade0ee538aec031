"""What functions of texts share: one call of a model, the noise of a text at a position, and hashes of tokens."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from .._core.checks import can_raise, check_logits, integers
from ..noise import KeyedNoise, as_keyed

__all__ = [
    "Step",
    "TextNoise",
    "check_text",
    "finish",
    "flat_rows",
    "horner",
    "mix",
    "next_logits",
    "refuse_bad_logits",
]


class Step(Protocol):
    """``step(tokens, state) -> (logits, state)``: one call of a language model.

    ``tokens`` are integers ``(rows, m)``: the tokens that the model has not seen yet, the whole prompt in the first
    call. ``state`` is what the last call returned, and None in the first call. ``logits`` are ``(rows, m, n)``: the
    scores of the token that follows each of the m tokens.
    """

    def __call__(self, tokens: Tensor, state: Any, /) -> tuple[Tensor, Any]: ...


def check_text(name: str, tokens: Tensor, *, least: int = 1) -> tuple[int, ...]:
    """The shape ``(*batch,)`` of texts ``(*batch, length)`` of at least so many tokens."""
    integers(name, tokens)
    if tokens.ndim == 0 or tokens.shape[-1] < least:
        raise ValueError(
            f"{name} must have the shape (*batch, length) with at least {least} token{'s' * (least != 1)}, but the "
            f"shape is {tuple(tokens.shape)}; begin texts with a token that marks the start"
        )
    return tuple(tokens.shape[:-1])


def flat_rows(tokens: Tensor) -> Tensor:
    """Texts ``(*batch, length)`` as int64 ``(rows, length)``."""
    return tokens.to(torch.int64).reshape(math.prod(tokens.shape[:-1]), tokens.shape[-1])


def next_logits(step: Step, tokens: Tensor, state: Any, last: int = 1) -> tuple[Tensor, Any]:
    """Logits ``(rows, last, n)`` of what follows each of the last tokens, and the new state."""
    result = step(tokens, state)
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        what = f"{len(result)} things" if isinstance(result, (tuple, list)) else f"a {type(result).__name__}"
        raise TypeError(f"step must return a pair (logits, state), but it returned {what}; return the pair")
    logits, state = result
    check_logits(logits, "logits of step")
    rows, m = tokens.shape
    if logits.ndim != 3 or logits.shape[0] != rows or not last <= logits.shape[1] <= m or logits.shape[2] == 0:
        raise ValueError(
            f"logits of step must have the shape ({rows}, {m}, n) for tokens of shape {tuple(tokens.shape)}, but their "
            f"shape is {tuple(logits.shape)}; return the scores of the token that follows each token"
        )
    return logits[:, logits.shape[1] - last :], state


class TextNoise:
    """The noise of the rows of a batch of texts: by the id of the text and the position of the token.

    The id of a text is its row id in ``noise``; without row ids the texts of a batch are 0, 1, 2, ... under one seed,
    and all 0 under seeds of their own. The row id of a token is ``id * 2**32 + position``.
    """

    def __init__(
        self, noise: KeyedNoise | None, generator: torch.Generator | None, batch: tuple[int, ...], device: torch.device
    ) -> None:
        if isinstance(noise, Tensor):
            raise TypeError(
                "noise must be an argumbel.KeyedNoise, but it is a Tensor; pass argumbel.KeyedNoise(seed), which names "
                "the noise of every token"
            )
        keyed = as_keyed(noise, generator, device)
        count = math.prod(batch)
        self.items = None if keyed.items is None else keyed.items.to(device)
        if self.items is not None and self.items.ndim != 1:
            raise ValueError(
                "items must give one id per token of the vocabulary, the shape (n,), but the shape is "
                f"{tuple(self.items.shape)}; pass the ids that all texts share"
            )
        self.seed: Any = keyed.seed
        if isinstance(self.seed, Tensor) and self.seed.ndim:
            self.seed = self._of_texts("seed", "seed", self.seed, batch).to(device)
        if keyed.rows is not None:
            self.ids = self._of_texts("rows", "id", keyed.rows, batch).to(device)
        else:
            own = isinstance(self.seed, Tensor) and self.seed.ndim > 0
            ids = torch.arange(count, device=device)
            self.ids = torch.zeros_like(ids) if own else ids

    @staticmethod
    def _of_texts(name: str, what: str, given: Tensor, batch: tuple[int, ...]) -> Tensor:
        count = math.prod(batch)
        if tuple(given.shape) not in (batch, (count,)):
            raise ValueError(
                f"{name} must give one {what} per text: the shape {batch} or ({count},), but its shape is "
                f"{tuple(given.shape)}; pass as many {what}s as there are texts"
            )
        return given.reshape(count)

    def at(self, position: int, count: int | None = None) -> KeyedNoise:
        """The noise of logits ``(rows, n)`` at a position, or of logits ``(rows, count, n)`` from a position on."""
        first = (self.ids << 32) + position
        if count is None:
            return self.of_rows(first)
        return self.of_rows(first[:, None] + torch.arange(count, device=first.device))

    def of_rows(self, rows: Tensor, items: Tensor | None = None) -> KeyedNoise:
        """The noise of these rows, ``(texts, ...)``; items are places ``(*rows.shape, m)`` in the vocabulary."""
        seed = self.seed
        if isinstance(seed, Tensor) and seed.ndim:
            seed = seed.reshape(-1, *[1] * (rows.ndim - 1)).expand(rows.shape)
        if items is None:
            items = self.items
        elif self.items is not None:
            items = self.items[items]
        return KeyedNoise(seed, rows, items)


def refuse_bad_logits(logits: Tensor) -> None:
    """Raise an error for a row that is NaN, +inf, or -inf throughout, where values may be looked at."""
    if can_raise(logits) and not bool(logits.amax(-1).isfinite().all()):
        raise ValueError(
            "logits of step must not be NaN or +inf, and must allow at least one token in each row, but some row does "
            "not; find where they come from"
        )


# --- hashes: SplitMix64 (Steele, Lea and Flood 2014), on int64 that wraps ------------------------------------------

GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
SECOND = 0x94D049BB133111EB - (1 << 64)


def finish(state: Tensor) -> Tensor:
    """Numbers that look like random ones, another for each other state."""
    z = state + GOLDEN
    z = (z ^ (z >> 30 & (1 << 34) - 1)) * FIRST
    z = (z ^ (z >> 27 & (1 << 37) - 1)) * SECOND
    return z ^ (z >> 31 & (1 << 33) - 1)


def horner(state: Tensor, token: Tensor) -> Tensor:
    """One more token of a polynomial of tokens."""
    return state * FIRST + token


def mix(state: Tensor, token: Tensor) -> Tensor:
    """The hash of what state stands for, followed by one more token. Different tokens give different hashes."""
    return finish(horner(state, token))
