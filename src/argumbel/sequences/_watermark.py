"""Watermarks: the noise of a token is a function of the tokens before it, so who knows the seed can see it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core.checks import broadcasts_to, can_raise, check_logits, count, floating, integer
from ..choice import Choice, gumbel_max
from ..noise import KeyedNoise, as_keyed
from ._texts import check_text, finish, horner

__all__ = ["WatermarkScores", "context_rows", "watermark", "watermark_p_value", "watermark_scores"]


class WatermarkScores(NamedTuple):
    """The score of each token, 0 where it is not counted, and which tokens are counted."""

    scores: Tensor
    counted: Tensor


def context_rows(tokens: Tensor, seed: int | Tensor, *, width: int = 4) -> Tensor:
    """``rows[t] = hash(seed, tokens[t - width], ..., tokens[t - 1])``: a row id for each token and for the next one,
    made of the ``width`` tokens before it.

    The hash is a polynomial of the tokens, between two finalizers of SplitMix64, in 64-bit integers: the same on every
    machine. Before its start a text has tokens -1.

    Args:
        tokens: texts, integers ``(*batch, length)``; length may be 0.
        seed: any 64-bit integer, or an int64 tensor that broadcasts to ``(*batch,)``.
        width: how many tokens make a context, at least 1.

    Returns:
        int64 row ids ``(*batch, length + 1)``. The last one is that of the token to come.

    Raises:
        ValueError: width less than 1, a seed that does not fit 64 bits, or whose shape does not broadcast.
        TypeError: tokens do not hold integers, seed or width is not an integer.

    Example:
        >>> import torch
        >>> from argumbel.sequences import context_rows
        >>> rows = context_rows(torch.tensor([7, 3, 5, 3, 5]), seed=1, width=2)
        >>> rows.shape, bool(rows[3] == rows[5])  # after 3, 5, both times
        (torch.Size([6]), True)

    Source: Aaronson 2022, "Watermarking of large language models" (talk); Steele, Lea and Flood 2014, "Fast splittable
    pseudorandom number generators" (SplitMix64).
    """
    batch = check_text("tokens", tokens, least=0)
    width = count("width", width, least=1)
    padded = torch.nn.functional.pad(tokens.to(torch.int64), (width, 0), value=-1)
    rows = finish(_seeds(seed, batch, tokens.device))
    for offset in range(width):
        rows = horner(rows, padded[..., offset : offset + tokens.shape[-1] + 1])
    return finish(rows)


def watermark(
    logits: Tensor,
    tokens: Tensor,
    seed: int | Tensor,
    *,
    width: int = 4,
    drawn: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Choice:
    """``argmax(logits + KeyedNoise(seed, rows=context_rows(tokens, seed)[-1]))``: draw the next token, under noise that
    whoever knows the seed can compute from the text.

    A context that has occurred before would draw under the same noise again, and an incomplete context would draw the
    same beginning for every text. Both are drawn with noise of their own, from ``noise`` or ``generator``. So each
    token has the law ``softmax(logits)`` given all tokens before it, and the whole text has the law of the model. A
    *keyed* function.

    Args:
        logits: the scores of the next token, ``(*batch, n)``, any floating dtype, after temperature and truncation;
            -inf forbids a token.
        tokens: the text so far, integers ``(*batch, length)``; a negative id is padding.
        seed: the secret: any 64-bit integer, or an int64 tensor that broadcasts to ``(*batch,)``.
        width: how many tokens make a context. A small number survives more changes of the text, a large number makes
            fewer contexts that repeat.
        drawn: bool, broadcasts to tokens: True where a token was drawn by this function, False for the prompt. Default
            True: contexts of the prompt count as used.
        noise: Gumbel noise of tokens without a watermark, a tensor in the shape of logits or a ``KeyedNoise``.
        generator: one 64-bit seed is drawn from it for tokens without a watermark; default PyTorch's global generator.

    Returns:
        ``(values, indices)``, each ``(*batch,)``, as :func:`argumbel.gumbel_max` returns them.

    Raises:
        ValueError: NaN or +inf in logits, a row with nothing allowed, tokens, drawn or noise of the wrong shape, width
            less than 1, both noise and generator. On an accelerator, under ``torch.compile`` and under ``vmap`` a bad
            row gives value NaN and index -1 instead.
        TypeError: logits are not a floating tensor, tokens do not hold integers, or drawn is not bool.

    Example:
        >>> import torch, argumbel as ag
        >>> logits, text = torch.zeros(50), torch.arange(6)
        >>> first = ag.sequences.watermark(logits, text, seed=1).indices
        >>> bool(first == ag.sequences.watermark(logits, text, seed=1).indices)
        True

    Source: Aaronson 2022, "Watermarking of large language models" (talk); Kuditipudi, Thickstun, Hashimoto and Liang
    2024, "Robust distortion-free watermarks for language models".
    """
    check_logits(logits)
    batch = check_text("tokens", tokens, least=0)
    if tuple(logits.shape[:-1]) != batch:
        raise ValueError(
            f"tokens must have the shape (*{tuple(logits.shape[:-1])}, length), one text for each row of logits, but "
            f"the shape is {tuple(tokens.shape)}; expand a text that rows are meant to share"
        )
    rows = context_rows(tokens, seed, width=width)
    usable = _usable(tokens, width)
    used = usable[..., :-1] & _which("drawn", drawn, tokens)
    marked = usable[..., -1] & ~((rows[..., :-1] == rows[..., -1:]) & used).any(-1)
    result = gumbel_max(logits.unsqueeze(-2), noise=_noise(seed, rows[..., -1:]))
    result = Choice(*(x.squeeze(-1) for x in result))
    fresh = noise if isinstance(noise, Tensor) else as_keyed(noise, generator, logits.device)
    if can_raise(marked) and bool(marked.all()):
        return result
    other = gumbel_max(logits, noise=fresh, generator=generator if isinstance(noise, Tensor) else None)
    return Choice(*(torch.where(marked, a, b) for a, b in zip(result, other, strict=True)))


def watermark_scores(
    tokens: Tensor, seed: int | Tensor, *, width: int = 4, drawn: Tensor | None = None
) -> WatermarkScores:
    """``score[t] = -log(u[t])`` with u the uniform number of the key (seed, row of the context of t, token t).

    In a text that was written without the seed the scores are independent exponential random numbers of mean 1,
    whatever the text. A token that :func:`watermark` drew, and that had the probability p, has a score of mean
    ``H(1 / p)``, the harmonic number ``digamma(1 + 1 / p) + 0.5772``: 1 for a token that was sure, 2.93 for p = 0.1.

    Args:
        tokens: texts, integers ``(*batch, length)``; a negative id is padding.
        seed: the secret: any 64-bit integer, or an int64 tensor that broadcasts to ``(*batch,)``.
        width: how many tokens make a context, as in :func:`watermark`.
        drawn: bool, broadcasts to tokens: True where a token is asked about, False for the prompt. Default True.

    Returns:
        ``(scores, counted)``, each ``(*batch, length)``: float64 scores, and bool. A token is counted if it was asked
        about, if the ``width`` tokens before it are there, and if no token counted before it has the same context.

    Raises:
        ValueError: drawn of the wrong shape, width less than 1, a seed that does not fit 64 bits.
        TypeError: tokens do not hold integers, seed or width is not an integer, or drawn is not bool.

    Example:
        >>> import torch, argumbel as ag
        >>> scores, counted = ag.sequences.watermark_scores(torch.arange(20), seed=1)
        >>> counted.sum(), bool((scores[counted] > 0).all())
        (tensor(16), True)

    Source: Aaronson 2022, "Watermarking of large language models" (talk); Fernandez, Chaffin, Tit, Chappelier and Furon
    2023, "Three bricks to consolidate watermarks for large language models" (a context counts once).
    """
    rows = context_rows(tokens, seed, width=width)[..., :-1]
    asked = _usable(tokens, width)[..., :-1] & (tokens >= 0) & _which("drawn", drawn, tokens)
    counted = asked & _is_first(rows, asked)
    noise = _noise(seed, rows, tokens.unsqueeze(-1))
    u = noise.uniform((*tokens.shape, 1), dtype=torch.float64, device=tokens.device).squeeze(-1)
    return WatermarkScores(torch.where(counted, -u.log(), 0), counted)


def watermark_p_value(scores: Tensor, counted: Tensor | None = None) -> Tensor:
    """``P(Gamma(T) >= sum of the T scores)``: how likely so large a sum is in a text without a watermark.

    The sum of T independent exponentials of mean 1 has the law Gamma(T, 1), so the probability is the regularised
    incomplete gamma function Q(T, sum). It is uniform in (0, 1) for a text without a watermark: "below 1e-6" is said of
    one such text in a million.

    Args:
        scores: shape ``(*batch, length)``, any floating dtype, as :func:`watermark_scores` returns them.
        counted: bool, broadcasts to scores: which scores count. Default all.

    Returns:
        float64 probabilities ``(*batch,)``; 1 where no score counts.

    Raises:
        ValueError: counted of the wrong shape, a score that is negative or NaN.
        TypeError: scores are not a floating tensor, or counted is not bool.

    Example:
        >>> import torch, argumbel as ag
        >>> ag.sequences.watermark_p_value(torch.full((30,), 2.0))
        tensor(6.8763e-06, dtype=torch.float64)

    Source: Fernandez, Chaffin, Tit, Chappelier and Furon 2023, "Three bricks to consolidate watermarks for large
    language models".
    """
    floating("scores", scores)
    which = _which("counted", counted, scores, "scores")
    x = torch.where(which, scores.detach().double(), 0)
    if can_raise(x) and bool((~(x >= 0)).any()):
        raise ValueError("scores must be at least 0, but some are negative or NaN; pass those of watermark_scores")
    number = which.sum(-1)
    p = torch.special.gammaincc(number.clamp(min=1).double(), x.sum(-1))
    return torch.where(number == 0, 1.0, p)


def _usable(tokens: Tensor, width: int) -> Tensor:
    """Which contexts are complete, ``(*batch, length + 1)``: width tokens, none of them padding."""
    lacking = torch.nn.functional.pad((tokens < 0).long(), (width + 1, 0), value=1).cumsum(-1)
    return lacking[..., width:] == lacking[..., : lacking.shape[-1] - width]


def _is_first(rows: Tensor, asked: Tensor) -> Tensor:
    """Whether no token before, among those asked about, has the same row id."""
    others = torch.arange(rows.shape[-1], device=rows.device)  # ids of their own for those not asked about
    ids, order = torch.where(asked, rows, others).sort(dim=-1, stable=True)
    fresh = torch.ones_like(asked)
    fresh[..., 1:] = ids[..., 1:] != ids[..., :-1]
    return torch.zeros_like(asked).scatter(-1, order, fresh)


def _which(name: str, which: Tensor | None, like: Tensor, of: str = "tokens") -> Tensor:
    if which is None:
        return torch.ones(like.shape, dtype=torch.bool, device=like.device)
    if not isinstance(which, Tensor) or which.dtype != torch.bool:
        what = which.dtype if isinstance(which, Tensor) else f"a {type(which).__name__}"
        raise TypeError(f"{name} must be a bool tensor, but it is {what}; pass {name}.bool()")
    if not broadcasts_to(which.shape, like.shape):
        raise ValueError(
            f"{name} must broadcast to the shape of {of}, {tuple(like.shape)}, but its shape is {tuple(which.shape)}; "
            f"pass one for each of the {of}"
        )
    return which.expand(like.shape)


def _seeds(seed: int | Tensor, batch: tuple[int, ...], device: torch.device) -> Tensor:
    """The seeds of texts, ``(*batch, 1)``, or one for all, ``(1,)``."""
    if not isinstance(seed, Tensor):
        signed: Any = KeyedNoise(integer("seed", seed)).seed
        return torch.full((1,), signed, dtype=torch.int64, device=device)
    if seed.dtype != torch.int64 or not broadcasts_to(seed.shape, batch):
        raise ValueError(
            f"seed must be an integer, or an int64 tensor that broadcasts to {batch}, but it is a {seed.dtype} tensor "
            f"of shape {tuple(seed.shape)}; pass one seed for each text"
        )
    return seed.to(device).unsqueeze(-1)


def _noise(seed: int | Tensor, rows: Tensor, items: Tensor | None = None) -> KeyedNoise:
    """The noise of rows ``(*batch, m)`` under one seed, or under seeds that broadcast to ``(*batch,)``."""
    if isinstance(seed, Tensor) and seed.ndim:
        seed = seed.unsqueeze(-1).expand(rows.shape)
    return KeyedNoise(seed, rows, items)
