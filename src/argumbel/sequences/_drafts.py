"""Coupled drafts: a small model guesses the tokens of a large one, under the noise of the large one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core.checks import broadcasts_with, count, integer, integers
from ..choice import gumbel_max
from ..noise import KeyedNoise
from ._texts import Step, TextNoise, check_text, flat_rows, next_logits

__all__ = ["Speculation", "accepted", "speculative_decode"]


class Speculation(NamedTuple):
    """The text of the target model, and how often each of the two models was called."""

    tokens: Tensor
    target_calls: int
    draft_calls: int


def accepted(draft: Tensor, target: Tensor) -> Tensor:
    """``cumprod(draft == target).sum()``: how many of the first tokens of two texts agree.

    Args:
        draft: integers ``(*batch, m)``.
        target: integers that broadcast with draft.

    Returns:
        int64 lengths ``(*batch,)``, from 0 to m.

    Raises:
        ValueError: shapes that do not broadcast, or without a dimension of tokens.
        TypeError: draft or target do not hold integers.

    Example:
        >>> import torch
        >>> from argumbel.sequences import accepted
        >>> accepted(torch.tensor([[4, 1, 3], [0, 1, 3]]), torch.tensor([4, 1, 2]))
        tensor([2, 0])

    Source: Leviathan, Kalman and Matias 2023, "Fast inference from transformers via speculative decoding".
    """
    integers("draft", draft)
    integers("target", target)
    alike = broadcasts_with(draft.shape, target.shape) and draft.shape[-1:] == target.shape[-1:]
    if not alike or draft.ndim == 0 or target.ndim == 0:
        raise ValueError(
            f"target must have the tokens of the positions of draft, whose shape is {tuple(draft.shape)}, but its "
            f"shape is {tuple(target.shape)}; compare texts of the same length"
        )
    return (draft == target).long().cumprod(-1).sum(-1)


def speculative_decode(
    target: Step,
    draft: Step,
    start: Tensor,
    length: int,
    *,
    lookahead: int = 4,
    end: int | None = None,
    crop: Callable[[Any, int], Any] | None = None,
    noise: KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Speculation:
    """``token[t] = argmax(target logits[t] + G[t])``, with the next tokens guessed by ``argmax(draft logits + G)``.

    The draft draws some tokens under the noise G that the target will use. One call of the target then gives the
    logits after each of these tokens, and so the tokens that the target draws there. They are taken up to the first one
    that the draft did not guess, this one included. So every token is the draw of the target itself: the text does not
    depend on the draft, and is the text without a draft to the bit, if the logits of the target do not depend on how
    many tokens it is given at once. A draft with the probabilities q in place of p guesses a token with probability
    ``sum over i of 1 / sum over k of max(p[k] / p[i], q[k] / q[i])``, see :func:`argumbel.coupling.agreement_prob`. A
    *keyed* function.

    Args:
        target: the model whose text is wanted, :class:`Step`: ``target(tokens, state) -> (logits, state)``.
        draft: the model that guesses, over the same vocabulary.
        start: the prompts, integers ``(*batch, m)``, m at least 1. The texts of a batch go on together, as far as the
            worst guess allows.
        length: how many tokens to draw, at least 1.
        lookahead: how many tokens the draft guesses at a time; 0 decodes without a draft.
        end: the token after which a text is over. Default: every text has the full length.
        crop: ``crop(state, size)`` returns the state of the first ``size`` tokens, for both models. Default: no state
            is kept, and each call gets the whole text.
        noise: a ``KeyedNoise``. Its row ids are the ids of the texts, ``(*batch,)``; default 0, 1, 2, ..., or 0 for all
            if it has a seed for each text. Token t of text i is drawn under the row id ``i * 2**32 + t``, with t = 0
            for the first token drawn.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        ``(tokens, target_calls, draft_calls)``: int64 tokens ``(*batch, length)``, filled up by ``end`` after the end
        of a text, and two numbers.

    Raises:
        ValueError: length less than 1, lookahead less than 0, prompts without a token, bad logits, both noise and
            generator.
        TypeError: start does not hold integers, a number is not an integer, a model does not return a pair, noise is
            not a ``KeyedNoise``.

    Example:
        >>> import torch, argumbel as ag
        >>> table = torch.randn(5, 5)  # models that look at one token
        >>> target, draft = (lambda t, s: (table[t], s)), (lambda t, s: (table[t].round(), s))
        >>> text = ag.sequences.speculative_decode(target, draft, torch.tensor([0]), 100)
        >>> text.tokens.shape, text.target_calls < 60
        (torch.Size([100]), True)

    Source: Daliri, Musco and Suresh 2024, "Coupling without communication and drafter-invariant speculative decoding".
    """
    batch = check_text("start", start)
    length, lookahead = count("length", length, least=1), count("lookahead", lookahead)
    end = None if end is None else integer("end", end)
    source = TextNoise(noise, generator, batch, start.device)
    text = flat_rows(start)
    prompt = text.shape[1]
    models = _Model(target, crop), _Model(draft, crop)
    written = 0
    while written < length:
        guesses = min(lookahead, length - written - 1)
        guessed = text
        for j in range(guesses):
            token = _draw(models[1].logits(guessed, 1), source.at(written + j, 1), guessed[:, prompt:], end)
            guessed = torch.cat([guessed, token], -1)
        logits = models[0].logits(guessed, guesses + 1)
        tokens = _draw(logits, source.at(written, guesses + 1), guessed[:, prompt:], end)
        agreed = accepted(guessed[:, prompt + written :], tokens[:, :guesses])
        taken = 1 + (int(agreed.min()) if len(text) else guesses)
        text = torch.cat([text, tokens[:, :taken]], -1)
        written += taken
        for model in models:
            model.forget(text.shape[1] - 1)
        if end is not None and bool((text[:, prompt:] == end).any(-1).all()):
            break
    tokens = torch.nn.functional.pad(text[:, prompt:], (0, length - written), value=0 if end is None else end)
    return Speculation(tokens.reshape(*batch, length), models[0].calls, models[1].calls)


class _Model:
    """A model with the state of the tokens it has seen."""

    def __init__(self, step: Step, crop: Callable[[Any, int], Any] | None) -> None:
        self.step, self.crop = step, crop
        self.state: Any = None
        self.seen = self.calls = 0

    def logits(self, text: Tensor, last: int) -> Tensor:
        logits, state = next_logits(self.step, text[:, self.seen :], self.state, last)
        self.calls += 1
        if self.crop is not None:
            self.state, self.seen = state, text.shape[1]
        return logits

    def forget(self, size: int) -> None:
        """Keep the first tokens alone."""
        if self.crop is not None and self.seen > size:
            self.state, self.seen = self.crop(self.state, size), size


def _draw(logits: Tensor, noise: KeyedNoise, text: Tensor, end: int | None) -> Tensor:
    """The tokens that follow the last tokens of a text; after its end only ends, whatever the model says."""
    x = logits.detach()
    if end is None:
        return gumbel_max(x, noise=noise).indices
    over = torch.nn.functional.pad((text == end).long(), (1, 0)).cumsum(-1) > 0
    over = over[:, over.shape[1] - x.shape[1] :]
    return gumbel_max(x.masked_fill(over.unsqueeze(-1), 0), noise=noise).indices.masked_fill(over, end)
