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
from ..choice import gumbel_max, row_limits
from ..noise import KeyedNoise, as_keyed, draw_like, seed_from, work_dtype

__all__ = ["Unmasked", "unmask"]

ORDERS = ("confidence", "margin", "entropy", "random")
#: The item whose noise, in the row of a position, orders the positions. No token has this id.
ORDER_ITEM = -1
#: So many logits are copied at a time: copies that stay in the cache of a core.
CHUNK = 1 << 19
#: What a second draw of a row changes in the seed. Chunks of rows change lower bits.
SECOND = 1 << 62


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

    With ``noise=`` a *keyed* function. The noise of a token is ``noise[row, token]``, with one row for each position;
    the noise of the order is ``noise[row, -1]``. So a position gets the same token in any batch and with any padding.
    Without ``noise=`` a *law* function, which is faster: the outcome has exactly this distribution, and the random
    numbers behind the outcome may differ between backends and versions. Either is exact in float32. The mask itself is
    never drawn. A position that the step does not need is not looked at.

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
            noise in the shape of logits. Without it the draw is one of law.
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
    seed = None
    if isinstance(noise, Tensor):
        if races:
            raise ValueError(
                "noise must be a KeyedNoise where the order is drawn too, but it is a tensor; pass "
                "noise=KeyedNoise(seed, rows=...), or order_temperature=0"
            )
        noise = draw_like(x, x.ndim - 1, noise, generator, "gumbel")
    elif noise is None:
        own = seed_from(generator, x.device)
        noise = KeyedNoise(own)
        seed = None if x.dtype == torch.float64 else own  # no kernel draws by law in float64: the race is faster
    else:
        noise = as_keyed(noise, generator, x.device)
    step = _Step(x.detach(), mask_id, mask, temperature, _Noise(noise, x.shape, x.device), seed)

    confidences = torch.zeros(lead, dtype=dtype, device=x.device)
    drawn = None
    if order == "confidence":
        drawn, log_z = step.draw(open_, with_log_z=True)
        assert log_z is not None
        confidences = step.log_prob(drawn, log_z)
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
    """The logits of a step, looked at by positions, and their noise. With a seed, tokens are drawn by law under it."""

    def __init__(
        self,
        x: Tensor,
        mask_id: int,
        mask: Tensor | None,
        temperature: float | Tensor,
        noise: _Noise,
        seed: int | Tensor | None,
    ) -> None:
        self.x, self.mask_id, self.noise, self.seed = x, mask_id, noise, seed
        self.lead, self.n, self.dtype = x.shape[:-1], x.shape[-1], work_dtype(x.dtype)
        self.has_mask = 0 <= mask_id < self.n
        self.mask = None if mask is None else mask.expand(x.shape)
        own = temperature
        self.temperature = own.expand(self.lead).reshape(-1) if isinstance(own, Tensor) and own.ndim else own

    def draw(self, where: Tensor, with_log_z: bool = False) -> tuple[Tensor, Tensor | None]:
        """Tokens, and if wanted the logsumexps at temperature 1, at the positions ``where``; 0 elsewhere."""
        rows = self._rows(where)
        x = self._stretch(rows)
        if x is None or rows is None or self.seed is None:
            tokens, log_z = self._draw_from_copies(rows, with_log_z, self.seed)
        else:
            tokens, log_z = self._draw_in_place(rows, x, with_log_z, self.seed)
        return self._whole(rows, tokens), None if log_z is None else self._whole(rows, log_z)

    def _draw_in_place(
        self, rows: Tensor, x: Tensor, with_log_z: bool, seed: int | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """By rejection: a draw of a whole row that is not the mask has the law of the other tokens. Where the mask is
        drawn, the row is drawn again without it. So is a bad row: it may be bad in the mask's logit alone."""
        tokens, log_z, _ = _by_law(x, self._temperature(rows), with_log_z, seed)
        again = (tokens < 0) | (tokens == self.mask_id)
        heavy = torch.zeros_like(again)
        if log_z is not None and self.has_mask:
            share = (x[:, self.mask_id].double() - log_z).exp()
            # The error of log_z grows by 1 / (1 - share), so a row that is mostly mask is summed without the mask.
            heavy = ~(share <= 0.5)
            log_z = log_z + torch.log1p(-share)
        places = (again | heavy).nonzero().squeeze(-1)
        if len(places):
            tokens[places], exact = self._draw_from_copies(rows[places], with_log_z, seed ^ SECOND)
            if log_z is not None and exact is not None:
                log_z = torch.where(heavy, log_z.index_copy(0, places, exact), log_z)
        return tokens, log_z

    def _draw_from_copies(
        self, rows: Tensor | None, with_log_z: bool, seed: int | Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        tokens, log_zs = [], []
        for chunk, (part, x) in enumerate(self._chunks(rows)):
            temperature = self._temperature(part)
            if seed is None:
                token = gumbel_max(x, temperature=temperature, noise=self.noise.of(part)).indices
                log_z = _log_z(x) if with_log_z else None
            else:
                token, log_z, bad = _by_law(x, temperature, with_log_z, seed ^ chunk)
                if bad:
                    Rows(x, 1).complain()
            tokens.append(token)
            if log_z is not None:
                log_zs.append(log_z)
        joined = self._joined(log_zs, torch.float64) if with_log_z else None
        return self._joined(tokens, torch.int64), joined

    def log_prob(self, tokens: Tensor, log_z: Tensor) -> Tensor:
        """Log probabilities of tokens at temperature 1."""
        own = self.x.gather(-1, tokens.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        return (own.double() - log_z).clamp(max=0).to(self.dtype)

    def certainty(self, where: Tensor, order: str) -> Tensor:
        """How certain the law of each position is, by the measure ``order``."""
        rows, found = self._rows(where), []
        for _, x in self._chunks(rows):
            log_z = _log_z(x)
            if can_raise(x) and not bool(log_z.isfinite().all()):
                Rows(x, 1).complain()
            if order == "margin":
                best = (x.topk(min(2, self.n), -1).values.double() - log_z.unsqueeze(-1)).exp()
                measure = best[:, 0] - (best[:, 1] if self.n > 1 else 0)
            else:
                log_p = x.to(self.dtype) - log_z.unsqueeze(-1).to(self.dtype)
                measure = (log_p.exp() * log_p.clamp(min=torch.finfo(self.dtype).min)).sum(-1)
            found.append(measure.to(self.dtype))
        return self._whole(rows, self._joined(found, self.dtype))

    def _rows(self, where: Tensor) -> Tensor | None:
        """The numbers of the positions ``where``; None, which means all, where values may not be looked at."""
        looks = can_raise(where) and can_raise(self.x)
        return where.reshape(-1).nonzero().squeeze(-1) if looks else None

    def _stretch(self, rows: Tensor | None) -> Tensor | None:
        """The logits of these rows as they lie in memory, where tokens may be drawn from them: by law, if the rows
        follow each other and nothing but the mask is forbidden. Else None."""
        if self.seed is None or self.mask is not None or rows is None or not len(rows):
            return None
        first, last = int(rows[0]), int(rows[-1])
        flat = _flat(self.x)
        return None if flat is None or last - first >= len(rows) else flat[first : last + 1]

    def _chunks(self, rows: Tensor | None) -> Iterator[tuple[Tensor | slice, Tensor]]:
        """These rows (None: all), some at a time, and a copy of their logits in which the mask is forbidden."""
        total = self.lead.numel() if rows is None else len(rows)
        size = max(1, total if torch.compiler.is_compiling() else CHUNK // self.n)
        for start in range(0, total, size):
            part = slice(start, min(start + size, total)) if rows is None else rows[start : start + size]
            x = _take(self.x, part)
            x = x.clone() if rows is None else x
            if self.has_mask:
                x[:, self.mask_id] = -torch.inf
            if self.mask is not None:
                x = x.masked_fill(~_take(self.mask, part), -torch.inf)
            yield part, x

    def _temperature(self, rows: Tensor | slice) -> float | Tensor:
        own = self.temperature
        return own[rows] if isinstance(own, Tensor) and own.ndim else own

    def _joined(self, parts: list[Tensor], dtype: torch.dtype) -> Tensor:
        return torch.cat(parts) if parts else torch.zeros(0, dtype=dtype, device=self.x.device)

    def _whole(self, rows: Tensor | None, values: Tensor) -> Tensor:
        """A number for each position, from those of these rows (None: all); 0 elsewhere."""
        if rows is not None and len(rows) < self.lead.numel():
            values = values.new_zeros(self.lead.numel()).index_copy(0, rows, values)
        return values.reshape(self.lead)


def _flat(x: Tensor) -> Tensor | None:
    """x as a matrix of rows; None where only a copy would be one."""
    try:
        return x.view(-1, x.shape[-1])
    except RuntimeError:
        return None


def _take(x: Tensor, rows: Tensor | slice) -> Tensor:
    """The rows of x, numbered over all its dimensions but the last."""
    if isinstance(rows, slice):
        return x.reshape(-1, x.shape[-1])[rows]
    flat = _flat(x)
    if flat is None:  # expanded or moved: reshape would copy every row
        return x[torch.unravel_index(rows, x.shape[:-1])]
    return flat.index_select(0, rows)


def _by_law(
    x: Tensor, temperature: float | Tensor, with_log_z: bool, seed: int | Tensor
) -> tuple[Tensor, Tensor | None, bool]:
    """A token of every row, -1 of a bad one; the logsumexps at temperature 1, if wanted; and whether a row was bad."""
    limits = row_limits(Rows(x, 1), temperature, None, None, None)
    if limits is None:
        tokens, log_z, bad = kernels.categorical(x, torch.Size(()), with_log_z, (seed,))
    else:
        tokens, bad = kernels.limited_categorical(x, *limits, torch.Size(()), (seed,))
        log_z = _log_z(x) if with_log_z else None
    return tokens, log_z if with_log_z else None, bad


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
