"""What servers do to logits before they draw a token, and the draw: a function of the request alone."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .._core.checks import Rows, broadcasts_to, check_logits, integer, integers
from ..choice import gumbel_max, row_terms, tempered_rows
from ..noise import KeyedNoise

__all__ = ["next_tokens", "request_noise", "seed_tensor", "truncate"]


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


def next_tokens(
    logits: Tensor,
    seeds: int | Tensor,
    positions: int | Tensor,
    *,
    temperature: float | Tensor = 1,
    top_k: int | Tensor | None = None,
    top_p: float | Tensor | None = None,
    min_p: float | Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """``argmax(truncated(logits / temperature) + noise)``, with ``noise = KeyedNoise(seed, rows=position)``: the next
    token of each request of a batch.

    A *keyed* function: the noise of a token is ``noise[seed of the request, position, token]``. So the token of a
    request is the same alone and in any batch, in any place, with any padding, in any chunk, and on any device, if the
    logits are the same.

    The logits are divided by the temperature, and then cut by ``top_k``, ``top_p`` and ``min_p``, as :func:`truncate`
    cuts them.

    Args:
        logits: ``(*batch, n)``, any floating dtype; -inf forbids a token. Half precision is divided, perturbed and
            compared in float32.
        seeds: one seed for each request, int64, of a shape that broadcasts to ``(*batch,)``. A number is the seed of
            all rows: right where the rows are positions of one text, since requests would share their noise.
        positions: how many tokens stand before the token to be drawn, in the request itself, padding not counted;
            integers of a shape that broadcasts to ``(*batch,)``.
        temperature: at least 0; a number, or a tensor that broadcasts to ``(*batch,)``. 0 is the argmax.
        top_k: leaves the k largest logits of a row, and all that tie with the k-th. Each limit is a number, or a tensor
            that broadcasts to ``(*batch,)``.
        top_p: then leaves the likeliest tokens, as few as have together at least this probability.
        min_p: then leaves tokens with at least this part of the largest probability.
        mask: bool, broadcasts to logits; True where a token is allowed.

    Returns:
        int64 tokens, ``(*batch,)``.

    Raises:
        ValueError: NaN or +inf in logits, a row with nothing allowed, seeds, positions, temperature or mask that do not
            broadcast, a temperature, top_k, top_p or min_p out of range. On an accelerator, under ``torch.compile`` and
            under ``vmap`` a bad row gives -1 instead.
        TypeError: logits are not a floating tensor, seeds or positions not integers, or mask not bool.

    Example:
        >>> import torch
        >>> from argumbel.sequences import next_tokens
        >>> logits = torch.randn(3, 1000)
        >>> seeds, positions = torch.tensor([11, 12, 13]), torch.tensor([5, 9, 2])
        >>> batch = next_tokens(logits, seeds, positions, temperature=0.8, top_p=0.95)
        >>> alone = next_tokens(logits[1], 12, 9, temperature=0.8, top_p=0.95)
        >>> bool(batch[1] == alone)
        True

    Source: Maddison, Tarlow and Minka 2014, "A* sampling"; Salmon et al. 2011, "Parallel random numbers: as easy as 1,
    2, 3" (noise by key).
    """
    check_logits(logits)
    noise = request_noise(logits, seeds, positions)
    return gumbel_max(
        logits.detach(), temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, mask=mask, noise=noise
    ).indices


def seed_tensor(seeds: Iterable[int]) -> Tensor:
    """64-bit seeds as int64."""
    return torch.tensor([KeyedNoise(seed).seed for seed in seeds], dtype=torch.int64)


def request_noise(logits: Tensor, seeds: int | Tensor, positions: int | Tensor) -> KeyedNoise:
    """The noise of requests of these seeds at these positions, a row of logits each."""
    lead, device = logits.shape[:-1], logits.device
    own = _of_rows("seeds", seeds, lead, device) if isinstance(seeds, Tensor) else integer("seeds", seeds)
    return KeyedNoise(own, _of_rows("positions", positions, lead, device))


def _of_rows(name: str, ids: int | Tensor, lead: tuple[int, ...], device: torch.device) -> Tensor:
    """A number for each row, int64, of the shape ``lead``."""
    if not isinstance(ids, Tensor):
        return torch.full(lead, integer(name, ids), dtype=torch.int64, device=device)
    integers(name, ids)
    if not broadcasts_to(ids.shape, lead):
        raise ValueError(
            f"{name} must broadcast to the rows of logits, {tuple(lead)}, but the shape is {tuple(ids.shape)}; "
            "pass one for each row"
        )
    return ids.to(device, torch.int64).expand(lead)
