"""The temperature of a race, and the limits on the items that take part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import kernels
from .._core.checks import EXACT_BELOW, Rows, broadcasts_to, can_raise, check_temperature, integer, number, one_or_rows
from ..kernels.noise import work_dtype

__all__ = ["Limit", "RowTerms", "divided", "row_limits", "row_terms", "tempered_rows"]

Limit = float | Tensor | None


class RowTerms(NamedTuple):
    """What :class:`argumbel.kernels.Terms` say of rows, and where the choice is the argmax (None: nowhere)."""

    kernel: kernels.Terms
    frozen: Tensor | None

    def finished(self, x: Tensor, values: Tensor, indices: Tensor) -> Tensor:
        """Values of the winners of x, with their gradient; where the temperature is 0, their logits."""
        if self.frozen is None and not (x.requires_grad and torch.is_grad_enabled()):
            return values
        temperature = self.kernel.temperature.to(x.device)
        own = x.to(temperature.dtype).gather(-1, indices.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        own = own / (temperature.reshape(()) if temperature.numel() == 1 else temperature)
        if self.frozen is not None:
            values = torch.where(self.frozen & (indices >= 0), own.detach().to(values.dtype), values)
        return values + (own - own.detach()).to(values.dtype)


def row_limits(
    rows: Rows, temperature: float | Tensor, top_k: Limit, top_p: Limit, min_p: Limit, *, is_shard: bool = False
) -> kernels.Limits | None:
    """The limits of these rows; None where they change nothing. Where a choice is the argmax the temperature is 0."""
    found = _looked_at(rows, temperature, top_k, top_p, min_p, is_shard)
    return None if found is None else found[0]


def row_terms(
    rows: Rows, temperature: float | Tensor, top_k: Limit, top_p: Limit, min_p: Limit, *, is_shard: bool = False
) -> RowTerms | None:
    """The terms of these rows; None where they change nothing."""
    found = _looked_at(rows, temperature, top_k, top_p, min_p, is_shard)
    if found is None:
        return None
    limits, divide_by, frozen = found
    cut = last = None
    if limits[1:] != (None, None, None) or frozen is not None:  # at temperature 0 a row is cut at its largest logit
        cut, last, bad = kernels.truncation(rows.x.detach(), *limits, ())
        if bad:
            rows.complain()
    return RowTerms(kernels.Terms(divide_by, cut, last), frozen)


def _looked_at(
    rows: Rows, temperature: float | Tensor, top_k: Limit, top_p: Limit, min_p: Limit, is_shard: bool
) -> tuple[kernels.Limits, Tensor, Tensor | None] | None:
    """The limits, and of the temperature what to divide by, and where the choice is the argmax (None: nowhere)."""
    if type(temperature) in (int, float) and temperature == 1 and top_k is None and top_p is None and min_p is None:
        return None
    if is_shard and any(isinstance(limit, Tensor) and limit.ndim for limit in (temperature, top_k, top_p, min_p)):
        raise ValueError(
            "temperature and limits must be numbers where logits are a DTensor, but one is a tensor with an entry for "
            "each row; divide the logits by it, or pass logits.to_local() with a KeyedNoise that names its rows"
        )
    x = rows.x.detach()
    exact, divide_by, frozen = _temperatures(x, temperature)
    limits = kernels.Limits(
        exact,
        _limit(x, "top_k", top_k, torch.int64),
        _limit(x, "top_p", top_p, torch.float64),
        _limit(x, "min_p", min_p, torch.float64),
    )
    return limits, divide_by, frozen


def tempered_rows(rows: Rows, terms: RowTerms | None) -> Tensor:
    """The logits of rows under their terms, in the dtype of logits, with their gradient."""
    return rows.x if terms is None else kernels.tempered(rows.x, *terms.kernel).to(rows.x.dtype)


def divided(rows: Rows, temperature: float | Tensor) -> tuple[Rows, Tensor | None]:
    """Logits over their temperature, at least in float32; and where the choice is exact, in rows (None: nowhere)."""
    if type(temperature) in (int, float) and temperature == 1:
        return rows, None
    _, divide_by, frozen = _temperatures(rows.x, temperature)
    return rows.of(kernels.tempered(rows.x, divide_by.to(rows.x.device), None, None)), frozen


def _temperatures(x: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Temperatures with an exact 0; what to divide by; and where the choice is the argmax, in rows (None: nowhere)."""
    checked = check_temperature(temperature, x, "logits")
    t = one_or_rows(checked, x, work_dtype(x.dtype))
    cold = t < EXACT_BELOW
    # Of a number it is known here; a tensor may be looked at, or is taken to be 0 somewhere.
    if checked if not isinstance(checked, Tensor) else can_raise(cold) and not bool(cold.any()):
        return t, t, None
    frozen = (cold.reshape(()) if cold.numel() == 1 else cold).to(x.device).expand(x.shape[:-1])
    return t.masked_fill(cold, 0), t.masked_fill(cold, 1), frozen


def _limit(x: Tensor, name: str, limit: Limit, dtype: torch.dtype) -> Tensor | None:
    """A limit as the operation takes it: of one element, or one a row."""
    if limit is None:
        return None
    allowed: Callable[[Any], Any] = _ALLOWED[name]
    if not isinstance(limit, Tensor):
        limit = integer(name, limit) if name == "top_k" else number(name, limit, expected="a number or a tensor")
        if not allowed(limit):
            raise ValueError(f"{name} must be {_RANGES[name]}, but it is {limit}; pass {name}=None to leave all items")
        return one_or_rows(min(limit, 2**62), x, dtype)
    if name == "top_k" and (limit.dtype.is_floating_point or limit.dtype == torch.bool):
        raise TypeError(f"top_k must be an integer or a tensor of integers, but it is {limit.dtype}; pass top_k.long()")
    if not broadcasts_to(limit.shape, x.shape[:-1]):
        raise ValueError(
            f"{name} must be one number, or a tensor with a number for each row of logits, of a shape that broadcasts "
            f"to {tuple(x.shape[:-1])}, but its shape is {tuple(limit.shape)}; pass one number for each row"
        )
    if can_raise(limit) and not bool(allowed(limit).all()):
        raise ValueError(
            f"{name} must be {_RANGES[name]} everywhere, but some of it is not; pass {_NEUTRAL[name]} for rows without "
            "this limit"
        )
    return one_or_rows(limit, x, dtype)


_RANGES = {"top_k": "at least 1", "top_p": "above 0 and at most 1", "min_p": "in [0, 1]"}
_NEUTRAL = {"top_k": "the number of items", "top_p": "1", "min_p": "0"}
_ALLOWED: dict[str, Callable[[Any], Any]] = {
    "top_k": lambda k: k >= 1,
    "top_p": lambda p: (p > 0) & (p <= 1),
    "min_p": lambda m: (m >= 0) & (m <= 1),
}
