"""Counterfactual texts: what would have been written by another model, with the same noise?"""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.checks import can_raise, count, integer, integers
from ..choice import gumbel_max
from ..coupling import counterfactual
from ..noise import KeyedNoise
from ._texts import Step, TextNoise, check_text, flat_rows, next_logits, refuse_bad_logits

__all__ = ["counterfactual_text"]


def counterfactual_text(
    step: Step,
    start: Tensor,
    tokens: Tensor,
    *,
    new_step: Step | None = None,
    new_start: Tensor | None = None,
    forced: Tensor | None = None,
    length: int | None = None,
    end: int | None = None,
    noise: KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``new[t] = argmax(new logits[t] + posterior_noise(logits[t], tokens[t]))``: what would have been written in place
    of a text, by another model, after another prompt, or with some tokens forced, with the same noise.

    The text was written token by token, each the winner of a race. The noise of each race is drawn given its winner,
    and the text is written again under this noise: new logits are those after the new tokens. An answer is stable: as
    long as nothing has changed that bears on a token, the token stays, and with nothing changed the answer is the text
    itself. After the end of the text the noise is fresh. A *keyed* function: noise is computed where it is used, and
    not stored.

    For a text that was drawn under a known key no posterior is needed: draw again under the same key.

    Args:
        step: the model that wrote the text, :class:`Step`: ``step(tokens, state) -> (logits, state)``. (For a text that
            people wrote: any model under which the text is possible.) It is called once, with prompt and text. A
            temperature or a truncation belongs into the model: scale the logits that it returns.
        start: the prompts, integers ``(*batch, m)``, m at least 1.
        tokens: the texts, integers ``(*batch, length)``. For many answers, expand a text: each row has its
            own noise.
        new_step: the other model, over the same vocabulary. Default: step.
        new_start: the other prompts, integers ``(*batch, any length)``. Default: start.
        forced: integers that broadcast to ``(*batch, new length)``: tokens that are set, whatever the models say; -1
            where a token is free.
        length: how many tokens to write. Default: as many as the text has.
        end: the token after which a text is over.
        noise: a ``KeyedNoise``. Its row ids are the ids of the texts, ``(*batch,)``; default 0, 1, 2, ..., or 0 for all
            if it has a seed for each text. Token t of text i has the row id ``i * 2**32 + t``, with t = 0 for the first
            token of the text.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        int64 tokens ``(*batch, length)``, filled up by ``end`` after the end of a text.

    Raises:
        ValueError: a text with a token that is impossible under step, prompts without a token, tensors whose batch
            shapes differ, bad logits, both noise and generator.
        TypeError: start, tokens, new_start or forced do not hold integers, a model does not return a pair, noise is not
            a ``KeyedNoise``.

    Example:
        >>> import torch, argumbel as ag
        >>> table = torch.randn(5, 5)  # a model that looks at one token
        >>> step, cooler = (lambda t, s: (table[t], s)), (lambda t, s: (2 * table[t], s))
        >>> start, text = torch.tensor([0]), torch.tensor([3, 1, 4, 1, 2])
        >>> bool((ag.sequences.counterfactual_text(step, start, text) == text).all())
        True
        >>> ag.sequences.counterfactual_text(step, start, text, new_step=cooler, length=8).shape
        torch.Size([8])

    Source: Oberst and Sontag 2019, "Counterfactual off-policy evaluation with Gumbel-max structural causal models";
    Ravfogel, Svete, Snæbjarnarson and Cotterell 2025, "Gumbel counterfactual generation from language models".
    """
    batch = check_text("start", start)
    _check_batch("tokens", tokens, batch)
    new_step = step if new_step is None else new_step
    if new_start is None:
        new_start = start
    elif check_text("new_start", new_start) != batch:
        _check_batch("new_start", new_start, batch)
    own = tokens.shape[-1]
    length = own if length is None else count("length", length)
    end = None if end is None else integer("end", end)
    source = TextNoise(noise, generator, batch, start.device)
    text, until = _stop_after(flat_rows(tokens), end)  # the noise of tokens after the end was never used
    old = _logits_of_text(step, flat_rows(start), text, until) if own else None
    chosen = _forced(forced, batch, length)

    written: list[Tensor] = []
    feed, state = flat_rows(new_start), None
    done = torch.zeros(len(text), dtype=torch.bool, device=text.device)
    for t in range(length):
        logits, state = next_logits(new_step, feed, state)
        logits = logits[:, 0].detach().masked_fill(done[:, None], 0)
        at = source.at(t)
        token = gumbel_max(logits, noise=at).indices
        if old is not None and t < own:
            if logits.shape != old[:, t].shape:
                raise ValueError(
                    f"new_step must have the vocabulary of step, {old.shape[-1]} tokens, but it has "
                    f"{logits.shape[-1]}; pass models over the same tokens"
                )
            again = counterfactual(old[:, t], text[:, t].clamp(min=0), logits, noise=at).squeeze(0)
            token = torch.where(t < until, again, token)
        if chosen is not None:
            token = torch.where(chosen[:, t] >= 0, chosen[:, t], token)
        if end is not None:
            token = token.masked_fill(done, end)
            done = done | (token == end)
        written.append(token)
        if end is not None and bool(done.all()):
            break
        feed = token.unsqueeze(-1)
    result = torch.stack(written, -1) if written else text[:, :0]
    if end is not None:
        result = torch.nn.functional.pad(result, (0, length - result.shape[-1]), value=end)
    return result.reshape(*batch, length)


def _stop_after(tokens: Tensor, end: int | None) -> tuple[Tensor, Tensor]:
    """Texts with everything after their first end token replaced by the end token, and how long each text is, the end
    token included."""
    length = tokens.shape[-1]
    if end is None:
        return tokens, torch.full(tokens.shape[:-1], length, device=tokens.device)
    ended = (tokens == end).cumsum(-1)
    over = (ended - (tokens == end).long()) > 0
    return tokens.masked_fill(over, end), (~over).sum(-1)


def _logits_of_text(step: Step, start: Tensor, text: Tensor, until: Tensor) -> Tensor:
    """The logits ``(rows, length, n)`` under which each token of the texts was drawn."""
    logits, _ = next_logits(step, torch.cat([start, text[:, :-1]], -1), None, text.shape[1])
    logits = logits.detach()
    past = torch.arange(text.shape[1], device=text.device) >= until.unsqueeze(-1)
    logits = logits.masked_fill(past.unsqueeze(-1), 0)
    refuse_bad_logits(logits)
    if can_raise(logits):
        n = logits.shape[-1]
        known = (text >= 0) & (text < n)
        possible = known & (logits.gather(-1, text.clamp(0, n - 1).unsqueeze(-1)).squeeze(-1) > -torch.inf)
        if not bool((possible | past).all()):
            raise ValueError(
                f"tokens must be possible under step, from 0 to {n - 1} and with a logit above -inf, but some token is "
                "not; pass the model that wrote the text, with its truncation, or a model without one"
            )
    return logits


def _check_batch(name: str, tokens: Tensor, batch: tuple[int, ...]) -> None:
    if check_text(name, tokens, least=0) != batch:
        raise ValueError(
            f"{name} must have the shape (*{batch}, length), the batch of start, but the shape is "
            f"{tuple(tokens.shape)}; expand it"
        )


def _forced(forced: Tensor | None, batch: tuple[int, ...], length: int) -> Tensor | None:
    if forced is None:
        return None
    integers("forced", forced)
    try:
        return flat_rows(forced.expand(*batch, length))
    except RuntimeError:
        raise ValueError(
            f"forced must broadcast to the shape {(*batch, length)} of the new text, but its shape is "
            f"{tuple(forced.shape)}; give one token, or -1, for each position"
        ) from None
