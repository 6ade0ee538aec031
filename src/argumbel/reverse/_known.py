"""What is known about a race: the checks of these arguments, and the noise that is drawn with them."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.checks import can_raise, check_dim, check_logits, floating, forbid, integers, raise_bad_logits
from ..noise import KeyedNoise, draw_like, work_dtype

__all__ = ["checked_indices", "known_race", "known_winners", "one_per_row"]


def known_race(
    logits: Tensor,
    index: Tensor,
    dim: int,
    mask: Tensor | None,
    noise: Tensor | KeyedNoise | None,
    generator: torch.Generator | None,
    *,
    name: str = "index",
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """What all posteriors do with their arguments: :func:`known_winners`, and noise in the same dtype, items last."""
    x, won, bad, dim = known_winners(logits, index, dim, mask, name=name)
    g = draw_like(logits, dim, noise, generator, "gumbel").movedim(dim, -1)
    if isinstance(noise, Tensor):
        bad_noise = ~g.isfinite().all(-1, keepdim=True)
        if can_raise(g) and bool(bad_noise.any()):
            raise_bad_logits(x, -1, noise)
        bad = bad | bad_noise
    return x.to(g.dtype), g, won, bad, dim


def known_winners(
    logits: Tensor, index: Tensor, dim: int, mask: Tensor | None, *, name: str = "index"
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Logits, at least float32, and indices of items that can have won, both with items last; which rows are bad,
    ``(*batch, 1)``; and dim counted from the front.

    An argument with the name "index" holds one item per row, and has no dimension of items. An argument with the name
    "indices" has this dimension.
    """
    check_logits(logits)
    dim = check_dim(logits, dim)
    at = checked_indices(index, logits, dim, name)
    x = forbid(logits, mask).to(work_dtype(logits.dtype)).movedim(dim, -1).contiguous()
    best = x.amax(-1, keepdim=True)  # NaN where there is any
    won = at.clamp(0, x.shape[-1] - 1)
    again = (won.sort(-1).values.diff(dim=-1) == 0).any(-1, keepdim=True)
    wrong = again | ((won != at) | (x.gather(-1, won) == -torch.inf)).any(-1, keepdim=True)
    if can_raise(x) and can_raise(won):
        if not bool(best.isfinite().all()):
            raise_bad_logits(x, -1)
        if bool(wrong.any()):
            raise ValueError(
                f"{name} must name items that can have won: from 0 to {x.shape[-1] - 1}, allowed by logits and mask, "
                "none twice, but some row has another; pass items that were drawn from these logits"
            )
    return x, won, wrong | ~best.isfinite(), dim


def checked_indices(index: Tensor, logits: Tensor, dim: int, name: str) -> Tensor:
    """index, or indices, as int64 with items last."""
    integers(name, index)
    n, others = logits.shape[dim], (*logits.shape[:dim], *logits.shape[dim + 1 :])
    if name == "index":
        if index.shape != others:
            raise ValueError(
                f"index must have the shape {others} of logits without dim, but its shape is {tuple(index.shape)}; "
                "expand an index that rows are meant to share"
            )
        return index.to(torch.int64).unsqueeze(-1)
    at = index.movedim(dim, -1) if index.ndim == logits.ndim else index
    if index.ndim != logits.ndim or at.shape[:-1] != others or not 1 <= at.shape[-1] <= n:
        raise ValueError(
            f"indices must have the shape {tuple(logits.shape)} of logits, with 1 to {n} items along dim {dim}, but "
            f"their shape is {tuple(index.shape)}; pass indices as gumbel_topk returns them"
        )
    return at.to(torch.int64)


def one_per_row(value: Tensor, row: Tensor, dtype: torch.dtype, name: str, of: str) -> tuple[Tensor, Tensor]:
    """A number per row, ``(*batch, 1)``, and where it is not finite; ``of`` says which shape it must have."""
    floating(name, value)
    if value.shape != row.shape[:-1]:
        raise ValueError(
            f"{name} must have the shape {tuple(row.shape[:-1])} of {of}, but its shape is {tuple(value.shape)}; "
            "pass one number for each row"
        )
    number = value.to(dtype).unsqueeze(-1)
    unsound = ~number.isfinite()
    if can_raise(number) and bool(unsound.any()):
        raise ValueError(f"{name} must be finite, but some of it is not; find where it comes from")
    return number, unsound
