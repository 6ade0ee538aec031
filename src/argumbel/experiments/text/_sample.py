"""Texts of a small language model, each a function of its seed: samples, beams, and texts written again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...noise import KeyedNoise
from ...sequences import Step, counterfactual_text, next_tokens, seed_tensor, stochastic_beam_search, truncate
from ...subsets import threshold_weights
from ._corpus import Alphabet
from ._model import Cache, TextModel

__all__ = ["BeamText", "beam_texts", "rewrite_text", "sample_texts", "write_texts"]


class BeamText(NamedTuple):
    """A text of a beam, the logarithm of its probability, its value in the race of all texts, and its weight in sums
    over all texts."""

    text: str
    log_prob: float
    value: float
    weight: float


def sample_texts(
    model: TextModel,
    alphabet: Alphabet,
    prompt: str,
    seeds: Sequence[int],
    length: int,
    *,
    first: int | None = None,
    **rules: Any,
) -> list[str]:
    """A text for each seed: ``length`` characters that go on from the prompt, which is not part of the text.

    Args:
        model: the model.
        alphabet: its characters.
        prompt: at least one character.
        seeds: one 64-bit seed for each text.
        length: number of characters.
        first: the position of the first character drawn, which decides its noise. Default: the length of the prompt. A
            text with the same seeds and the same ``first`` has the same noise at every character.
        rules: ``temperature``, ``top_k``, ``top_p`` and ``min_p`` of :func:`argumbel.sequences.next_tokens`.
    """
    keys, begin = seed_tensor(seeds), len(prompt) if first is None else first

    def choose(logits: Tensor, drawn: Tensor) -> Tensor:
        return next_tokens(logits, keys, begin + drawn.shape[1], **rules)

    return write_texts(model, alphabet, prompt, len(seeds), length, choose)


@torch.no_grad()
def beam_texts(
    model: TextModel,
    alphabet: Alphabet,
    prompt: str,
    k: int,
    length: int,
    *,
    seed: int = 0,
    end: str | None = None,
    **rules: Any,
) -> list[BeamText]:
    """k different texts that go on from the prompt, drawn without replacement; fewer texts if there are fewer.

    Args:
        model: the model.
        alphabet: its characters.
        prompt: at least one character.
        k: how many texts.
        length: number of characters of a text.
        seed: any 64-bit integer.
        end: the character after which a text is over. Default: every text has the full length.
        rules: ``temperature``, ``top_k``, ``top_p`` and ``min_p`` of :func:`argumbel.sequences.truncate`.
    """
    if end is not None and len(end) != 1:
        raise ValueError(f"end must be one character, but it is {end!r}; give one, such as a space")
    beams = stochastic_beam_search(
        _step(model, rules), _encoded(alphabet, prompt), k + 1, length,
        end=None if end is None else int(alphabet.encode(end, "end")), noise=KeyedNoise(seed),
        reorder=lambda cache, rows: Cache(cache.past[:, :, rows], cache.length),
    )  # fmt: skip
    count = min(k, int((beams.values > -torch.inf).sum()))
    weights = threshold_weights(beams.values[: count + 1], beams.log_probs[: count + 1])
    texts = [alphabet.decode(tokens) for tokens in beams.tokens[:count]]
    if end is not None:
        texts = ["".join(text.partition(end)[:2]) for text in texts]
    figures = (beams.log_probs[:count].tolist(), beams.values[:count].tolist(), weights.tolist())
    return [BeamText(*one) for one in zip(texts, *figures, strict=True)]


@torch.no_grad()
def rewrite_text(
    model: TextModel,
    alphabet: Alphabet,
    prompt: str,
    text: str,
    *,
    new_model: TextModel | None = None,
    new_prompt: str | None = None,
    seed: int = 0,
    rules: dict[str, Any] | None = None,
    new_rules: dict[str, Any] | None = None,
) -> str:
    """What would have been written in place of a text, with the same luck: noise is drawn given that it gave the text.

    Args:
        model: the model that wrote the text, or any model that could have written it.
        alphabet: its characters.
        prompt: what stood before the text, at least one character.
        text: the text.
        new_model: the other model, over the same characters. Default: model.
        new_prompt: the other prompt. Default: prompt.
        seed: any 64-bit integer. Each seed is another noise under which the text could have been written.
        rules: ``temperature``, ``top_k``, ``top_p`` and ``min_p`` under which the text was written.
        new_rules: the rules of the other text. Default: rules.
    """
    rules = rules or {}
    new = counterfactual_text(
        _step(model, rules), _encoded(alphabet, prompt), alphabet.encode(text, "text"),
        new_step=_step(new_model or model, rules if new_rules is None else new_rules),
        new_start=None if new_prompt is None else _encoded(alphabet, new_prompt), noise=KeyedNoise(seed),
    )  # fmt: skip
    return alphabet.decode(new)


@torch.no_grad()
def write_texts(
    model: TextModel,
    alphabet: Alphabet,
    prompt: str,
    count: int,
    length: int,
    choose: Callable[[Tensor, Tensor], Tensor],
) -> list[str]:
    """Texts whose next characters, ``(count,)``, are ``choose(logits, drawn)``: logits ``(count, characters)``, and the
    characters drawn so far, ``(count, so many)``."""
    tokens, cache = _encoded(alphabet, prompt).expand(count, -1), None
    drawn = tokens[:, :0]
    for _ in range(length):
        logits, cache = model(tokens, cache)
        tokens = choose(logits[:, -1], drawn).unsqueeze(1)
        drawn = torch.cat([drawn, tokens], 1)
    return [alphabet.decode(text) for text in drawn]


def _encoded(alphabet: Alphabet, prompt: str) -> Tensor:
    if not prompt:
        raise ValueError("prompt must have at least one character, but it is empty; give a line break, say")
    return alphabet.encode(prompt)


def _step(model: TextModel, rules: dict[str, Any]) -> Step:
    """The model under temperature and limits, as the functions of ``argumbel.sequences`` call it."""

    def step(tokens: Tensor, cache: Any) -> tuple[Tensor, Any]:
        logits, cache = model(tokens, cache)
        return truncate(logits, **rules), cache

    return step
