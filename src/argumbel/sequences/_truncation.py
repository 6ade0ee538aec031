"""What servers do to logits before they draw a token."""

from __future__ import annotations

from torch import Tensor

from .._core.checks import Rows
from ..choice import row_terms, tempered_rows

__all__ = ["truncate"]


def truncate(
    logits: Tensor,
    *,
    temperature: float | Tensor = 1,
    top_k: int | Tensor | None = None,
    top_p: float | Tensor | None = None,
    min_p: float | Tensor | None = None,
    dim: int = -1,
    mask: Tensor | None = None,
) -> Tensor:
    """``logits / temperature`` where an item is left by the limits, and -inf elsewhere.

    The limits have the meaning and the order of transformers' logits processors: temperature, top_k, top_p, min_p. They
    are found in float32 (float64 for float64 logits), without a sort of the vocabulary. :func:`argumbel.categorical`
    and :func:`argumbel.gumbel_max` take the same arguments, write no such tensor, and do not round it to the dtype of
    logits.

    Args:
        logits: shape ``(*batch, n)`` for ``dim=-1``, any floating dtype; -inf forbids an item.
        temperature: divides logits; at least 0, where 0 (or below 2^-60) leaves the first of the largest logits alone;
            a number, or a tensor that broadcasts to ``(*batch,)``, as each limit is.
        top_k: leaves the k largest logits of a row, and all that tie with the k-th; default all.
        top_p: then leaves the fewest items, largest first, whose probabilities add up to at least top_p, in (0, 1]; of
            items that tie, the first.
        min_p: then leaves items whose probability is at least min_p, in [0, 1], times that of the likeliest.
        dim: where the items lie.
        mask: bool, broadcasts to logits; True where an item is allowed.

    Returns:
        A tensor in the shape and dtype of logits. Its gradient is that of the division.

    Raises:
        ValueError: NaN or +inf in logits, a row with nothing allowed, a temperature or limit out of its range, or of a
            shape that does not broadcast. On an accelerator, under ``torch.compile`` and under ``vmap`` a bad row gives
            what the division gives instead.
        TypeError: logits are not a floating tensor, mask is not bool, or top_k is not an integer.

    Example:
        >>> import torch
        >>> from argumbel.sequences import truncate
        >>> truncate(torch.tensor([0.5, 0.2, 0.3]).log(), top_p=0.6).exp()
        tensor([0.5000, 0.0000, 0.3000])

    Source: Fan, Lewis and Dauphin 2018, "Hierarchical neural story generation" (top_k); Holtzman et al. 2020, "The
    curious case of neural text degeneration" (top_p); Nguyen et al. 2025, "Turning up the heat: min-p sampling".
    """
    rows = Rows(logits, dim, mask)
    return rows.back(tempered_rows(rows, row_terms(rows, temperature, top_k, top_p, min_p)))
