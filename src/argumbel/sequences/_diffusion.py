"""Masked diffusion: which masked positions become tokens in a step, and which tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .. import kernels
from .._core.checks import (
    Rows,
    broadcasts_to,
    can_raise,
    check_logits,
    check_temperature,
    count,
    integer,
    integers,
    number,
    one_of,
)
from ..choice import gumbel_max
from ..noise import KeyedNoise, as_keyed, draw_like, work_dtype

__all__ = ["Unmasked", "unmask"]

ORDERS = ("confidence", "margin", "entropy", "random")
#: The item whose noise, in the row of a position, orders the positions. No token has this id.
ORDER_ITEM = -1
#: So many logits are copied at a time: copies that stay in the cache of a core.
CHUNK = 1 << 19


class Unmasked(NamedTuple):
    """The tokens after a step, which of them are new, and how confident the model was of each masked position."""

    tokens: Tensor
    chosen: Tensor
    confidences: Tensor


def unmask(
    logits: Tensor,
    tokens: Tensor,
    k: int | Tensor | None = None,
    *,
    mask_id: int,
    rate: float | Tensor | None = None,
    temperature: float | Tensor = 1,
    order: str = "confidence",
    order_temperature: float = 0,
    within: Tensor | None = None,
    mask: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Unmasked:
    """``tokens[j] = argmax(logits[j] / temperature + noise[j])`` at k of the masked positions j, the k with the largest
    ``confidences[j] / order_temperature + noise``: one sampling step of a masked diffusion language model.

    A *keyed* function, exact in float32. The noise of a token is ``noise[row, token]``, with one row for each position;
    the noise of the order is ``noise[row, -1]``. So a position gets the same token in any batch and with any padding.
    The mask itself is never drawn. A position that the step does not need is not looked at.

    ========== =============================================================== ==========================
    order      confidence of a masked position                                 needs tokens drawn at
    ========== =============================================================== ==========================
    confidence log probability of the token drawn, at temperature 1            every masked position
    margin     probability of the likeliest token minus the second's           the positions chosen
    entropy    minus the entropy of the position's law                         the positions chosen
    random     0                                                               the positions chosen
    ========== =============================================================== ==========================

    With every order but the first, noise is used only where a token becomes fixed. There all steps may share one
    key (one row for each position), and a text drawn in few steps has the luck of the same text drawn in many. With
    ``order="confidence"`` every step needs rows of its own, such as ``step * length + position``.

    Args:
        logits: ``(*batch, positions, n)``, any floating dtype; -inf forbids a token. Half precision is perturbed and
            compared in float32.
        tokens: integers ``(*batch, positions)``, ``mask_id`` where a position is masked.
        k: how many masked positions become tokens: a number, or integers that broadcast to ``(*batch,)``. A sequence
            with fewer masked positions loses them all.
        mask_id: the id of the mask; it need not be below n.
        rate: in place of k: each masked position becomes a token with this probability, independently of all others
            (the step of MDLM, where ``rate`` is ``(t - s) / t``). A number, or a tensor that broadcasts to ``(*batch,
            positions)``. Only with ``order="random"``.
        temperature: at least 0; a number, or a tensor that broadcasts to ``(*batch, positions)``. 0 is the argmax.
        order: ``"confidence"``, ``"margin"``, ``"entropy"`` or ``"random"``.
        order_temperature: at least 0. 0 takes the k largest confidences, and of equal confidences the first positions.
            Above 0 the k positions are drawn without replacement, with weights ``exp(confidence / order_temperature)``.
        within: bool, broadcasts to ``(*batch, positions)``; True where a position may become a token in this step (the
            current block). Default: everywhere.
        mask: bool, broadcasts to logits; True where a token is allowed.
        noise: a ``KeyedNoise`` with one row for each position, or, where the order is not drawn, a tensor of Gumbel
            noise in the shape of logits.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        ``(tokens, chosen, confidences)``, each ``(*batch, positions)``: tokens as they were but for the new ones; bool,
        True where a token is new; float32 (float64 for float64 logits), -inf where a position could not be chosen.

    Raises:
        ValueError: shapes that do not fit, neither or both of k and rate, k negative, an unknown order, a negative or
            infinite temperature, a rate outside [0, 1], a tensor of noise where the order is drawn, both noise and
            generator; at a position that is needed, NaN or +inf in logits or nothing allowed. On an accelerator, under
            ``torch.compile`` and under ``vmap`` such a position gets token -1 instead.
        TypeError: logits are not a floating tensor, tokens not integers, or within or mask not bool.

    Example:
        >>> import torch
        >>> from argumbel.sequences import unmask
        >>> logits = torch.tensor([[0.0, 9.0, 0.0], [0.0, 1.0, 0.0], [5.0, 0.0, 0.0]])
        >>> tokens = torch.tensor([3, 3, 2])  # of the ids 0, 1, 2; the mask is 3
        >>> step = unmask(logits, tokens, 1, mask_id=3, temperature=0)
        >>> step.tokens, step.chosen
        (tensor([1, 3, 2]), tensor([ True, False, False]))

    Source: Nie et al. 2025, "Large language diffusion models" (LLaDA); Sahoo et al. 2024, "Simple and effective masked
    diffusion language models" (MDLM); Chang et al. 2022, "MaskGIT: masked generative image transformer" (the order
    drawn by a race); Zheng et al. 2024, "Masked diffusion models are secretly time-agnostic masked models and exploit
    inaccurate categorical sampling" (what float32 loses elsewhere).
    """
    x, open_ = _check(logits, tokens, mask_id, within, mask)
    lead, dtype = tokens.shape, work_dtype(x.dtype)
    temperature = check_temperature(temperature, x, "logits")
    one_of("order", order, ORDERS)
    order_temperature = number("order_temperature", order_temperature, least=0, below=torch.inf)
    if (k is None) == (rate is None):
        raise ValueError("k must be given, or rate in place of it, but neither or both are given; pass one of them")
    if rate is not None and order != "random":
        raise ValueError(f'rate must come with order="random", but order is {order!r}; pass k to go by {order}')
    races = order == "random" or order_temperature > 0
    if isinstance(noise, Tensor):
        if races:
            raise ValueError(
                "noise must be a KeyedNoise where the order is drawn too, but it is a tensor; pass "
                "noise=KeyedNoise(seed, rows=...), or order_temperature=0"
            )
        noise = draw_like(x, x.ndim - 1, noise, generator, "gumbel")
    else:
        noise = as_keyed(noise, generator, x.device)
    step = _Step(x.detach(), mask_id, mask, temperature, _Noise(noise, x.shape, x.device))

    confidences = torch.zeros(lead, dtype=dtype, device=x.device)
    drawn = None
    if order == "confidence":
        drawn, confidences = step.draw(open_, with_confidence=True)
    elif order != "random":
        confidences = step.certainty(open_, order)
    confidences = confidences.masked_fill(~open_, -torch.inf)

    if rate is not None:
        chosen = open_ & (step.noise.order("exponential") < -torch.log1p(-_check_rate(rate, confidences)))
    else:
        race = confidences
        if races:
            scaled = confidences if order == "random" else confidences / order_temperature
            race = scaled + step.noise.order("gumbel").to(dtype)
        chosen = open_ & _are_first(race, _check_k(k, tokens))
    if drawn is None:
        drawn, _ = step.draw(chosen)
    return Unmasked(torch.where(chosen, drawn.to(tokens.dtype), tokens), chosen, confidences)


class _Noise:
    """Noise with one row for each position of a batch, all positions in one dimension."""

    def __init__(self, noise: Tensor | KeyedNoise, shape: torch.Size, device: torch.device) -> None:
        self.lead, self.device, self.tensor = shape[:-1], device, None
        if isinstance(noise, Tensor):
            self.tensor = noise.reshape(-1, shape[-1])
            return
        seed, rows, items = noise.key(shape, device)
        count = self.lead.numel()
        self.seed = seed.reshape(-1) if isinstance(seed, Tensor) and seed.ndim else seed
        self.rows = torch.arange(count, device=device) if rows is None else rows.reshape(-1)
        self.items = items
        if items is not None and items.ndim > 1:
            self.items = items.expand(shape).reshape(-1, shape[-1])

    def of(self, rows: Tensor | slice) -> Tensor | KeyedNoise:
        if self.tensor is not None:
            return self.tensor[rows]
        items = self.items[rows] if self.items is not None and self.items.ndim > 1 else self.items
        return KeyedNoise(self._seed(rows), self.rows[rows], items)

    def order(self, law: str) -> Tensor:
        keyed = KeyedNoise(self._seed(slice(None)), self.rows, torch.tensor([ORDER_ITEM]))
        shape = (self.lead.numel(), 1)
        return getattr(keyed, law)(shape, dtype=torch.float32, device=self.device).reshape(self.lead)

    def _seed(self, rows: Tensor | slice) -> int | Tensor:
        return self.seed[rows] if isinstance(self.seed, Tensor) and self.seed.ndim else self.seed


class _Step:
    """The logits of a step and their noise, looked at by positions."""

    def __init__(
        self, x: Tensor, mask_id: int, mask: Tensor | None, temperature: float | Tensor, noise: _Noise
    ) -> None:
        self.x, self.mask_id, self.noise = x, mask_id, noise
        self.lead, self.n, self.dtype = x.shape[:-1], x.shape[-1], work_dtype(x.dtype)
        self.mask = None if mask is None else mask.expand(x.shape)
        own = temperature
        self.temperature = own.expand(self.lead).reshape(-1) if isinstance(own, Tensor) and own.ndim else own

    def draw(self, where: Tensor, with_confidence: bool = False) -> tuple[Tensor, Tensor]:
        """Tokens, and their log probabilities at temperature 1, at the positions ``where``; other numbers elsewhere."""
        rows, tokens, confidences = [], [], []
        for part, x in self._chunks(where):
            own = self.temperature[part] if isinstance(self.temperature, Tensor) and self.temperature.ndim else None
            index = gumbel_max(
                x, temperature=self.temperature if own is None else own, noise=self.noise.of(part)
            ).indices
            rows.append(part)
            tokens.append(index)
            if with_confidence:
                won = x.gather(-1, index.clamp(min=0).unsqueeze(-1)).squeeze(-1).double()
                confidences.append((won - _log_z(x)).clamp(max=0).to(self.dtype))
        return self._whole(rows, tokens, torch.int64), self._whole(rows, confidences, self.dtype)

    def certainty(self, where: Tensor, order: str) -> Tensor:
        """How certain the law of each position is, by the measure ``order``."""
        rows, found = [], []
        for part, x in self._chunks(where):
            log_z = _log_z(x)
            if can_raise(x) and not bool(log_z.isfinite().all()):
                Rows(x, 1).complain()
            if order == "margin":
                best = (x.topk(min(2, self.n), -1).values.double() - log_z.unsqueeze(-1)).exp()
                measure = best[:, 0] - (best[:, 1] if self.n > 1 else 0)
            else:
                log_p = x.to(self.dtype) - log_z.unsqueeze(-1).to(self.dtype)
                measure = (log_p.exp() * log_p.clamp(min=torch.finfo(self.dtype).min)).sum(-1)
            rows.append(part)
            found.append(measure.to(self.dtype))
        return self._whole(rows, found, self.dtype)

    def _whole(self, rows: list[Tensor | slice], parts: list[Tensor], dtype: torch.dtype) -> Tensor:
        """A number for each position, from those of the chunks; 0 at positions that were not looked at."""
        if rows and parts and isinstance(rows[0], slice):
            return torch.cat(parts).reshape(self.lead)
        whole = torch.zeros(self.lead.numel(), dtype=dtype, device=self.x.device)
        for part, values in zip(rows, parts, strict=False):
            whole[part] = values
        return whole.reshape(self.lead)

    def _chunks(self, where: Tensor) -> Iterator[tuple[Tensor | slice, Tensor]]:
        """Rows of positions, with a copy of their logits in which the mask is forbidden. Where values may not be looked
        at, all rows."""
        rows = where.reshape(-1).nonzero().squeeze(-1) if can_raise(where) else None
        total = self.lead.numel() if rows is None else len(rows)
        size = max(1, total if torch.compiler.is_compiling() else CHUNK // self.n)
        for start in range(0, total, size):
            part = slice(start, min(start + size, total)) if rows is None else rows[start : start + size]
            x = _take(self.x, part)
            x = x.clone() if rows is None else x
            if 0 <= self.mask_id < self.n:
                x[:, self.mask_id] = -torch.inf
            if self.mask is not None:
                x = x.masked_fill(~_take(self.mask, part), -torch.inf)
            yield part, x


def _take(x: Tensor, rows: Tensor | slice) -> Tensor:
    """The rows of x, numbered over all its dimensions but the last."""
    if isinstance(rows, slice):
        return x.reshape(-1, x.shape[-1])[rows]
    try:
        flat = x.view(-1, x.shape[-1])
    except RuntimeError:  # expanded or moved: reshape would copy every row
        return x[torch.unravel_index(rows, x.shape[:-1])]
    return flat.index_select(0, rows)


def _log_z(x: Tensor) -> Tensor:
    """The logsumexp of every row, in float64."""
    return kernels.categorical(x, torch.Size(()), True, (0,))[1]


def _are_first(race: Tensor, k: int | Tensor) -> Tensor:
    """Where the k largest of every row are; of equal ones the first."""
    rank = race.sort(dim=-1, descending=True, stable=True).indices.argsort(-1)
    return rank < (k.unsqueeze(-1) if isinstance(k, Tensor) else k)


def _check(
    logits: Tensor, tokens: Tensor, mask_id: int, within: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The logits, and where a masked position may become a token."""
    check_logits(logits)
    integers("tokens", tokens)
    if tokens.shape != logits.shape[:-1] or tokens.ndim == 0:
        raise ValueError(
            f"tokens must have the shape of logits without the vocabulary, {tuple(logits.shape[:-1])}, with at least "
            f"one dimension, but the shape is {tuple(tokens.shape)}; pass one token for each position"
        )
    if logits.shape[-1] == 0:
        raise ValueError(
            "logits must have at least one token to choose from, but the vocabulary is empty; pass logits "
            "of a vocabulary"
        )
    _check_flags("mask", mask, logits.shape, "a token is allowed", "logits")
    _check_flags("within", within, tokens.shape, "a position may become a token", "tokens")
    open_ = tokens == integer("mask_id", mask_id)
    open_ = open_ if within is None else open_ & within
    return logits, open_


def _check_flags(name: str, flags: Tensor | None, shape: torch.Size, meaning: str, of: str) -> None:
    if flags is None:
        return
    if not isinstance(flags, Tensor) or flags.dtype != torch.bool:
        what = flags.dtype if isinstance(flags, Tensor) else type(flags).__name__
        raise TypeError(f"{name} must be a bool tensor, True where {meaning}, but it is {what}; pass {name}.bool()")
    if not broadcasts_to(flags.shape, shape):
        raise ValueError(
            f"{name} must broadcast to the shape of {of}, {tuple(shape)}, but its shape is {tuple(flags.shape)}; pass "
            "one flag for each, or one for all"
        )


def _check_k(k: int | Tensor | None, tokens: Tensor) -> int | Tensor:
    if not isinstance(k, Tensor):
        return count("k", k)
    integers("k", k)
    if not broadcasts_to(k.shape, tokens.shape[:-1]):
        raise ValueError(
            f"k must be a number, or integers that broadcast to {tuple(tokens.shape[:-1])}, but its shape is "
            f"{tuple(k.shape)}; pass one number for each sequence"
        )
    if can_raise(k) and bool((k < 0).any()):
        raise ValueError("k must be at least 0 everywhere, but some of it is negative; use k.clamp(min=0)")
    return k.to(tokens.device)


def _check_rate(rate: float | Tensor, like: Tensor) -> Tensor:
    if not isinstance(rate, Tensor):
        rate = number("rate", rate, least=0, expected="a number or a tensor")
        if rate > 1:
            raise ValueError(f"rate must be at most 1, but it is {rate}; pass a probability")
        return torch.full((), rate, dtype=torch.float64, device=like.device)
    if not broadcasts_to(rate.shape, like.shape):
        raise ValueError(
            f"rate must broadcast to the shape of tokens, {tuple(like.shape)}, but its shape is {tuple(rate.shape)}; "
            "pass one for each position"
        )
    if can_raise(rate) and not bool(((rate >= 0) & (rate <= 1)).all()):
        raise ValueError(
            "rate must lie between 0 and 1 everywhere, but some of it does not; use rate.clamp(min=0, max=1)"
        )
    return rate.to(like.device, torch.float64)
