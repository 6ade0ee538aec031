"""The race, and draws, from a linear layer ``(hidden @ weight.T + bias) / temperature`` whose logits are never written.

The reference makes the logits a chunk of items at a time and keeps of each chunk its winner alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from .._core.checks import EXACT_BELOW, can_raise
from .._core.modes import has_autocast
from .dispatch import Key, SeedOnly, seed_tensor
from .law import LAW_RACES, categorical
from .noise import keyed_noise, work_dtype
from .operator import Operator
from .race import any_far, gumbel_max, is_far, rest_of

__all__ = ["divisor", "linear_categorical", "linear_gumbel_max", "over_chunks"]

# The vocabulary is gone through in chunks of so many logits over all rows, and of so many items at least.
CHUNK_LOGITS = 1 << 20
CHUNK_ITEMS = 1 << 10

#: Of the logits of a chunk, where it starts and stops: values, what rounding took off them, and items within the chunk.
Winner = Callable[[Tensor, int, int], tuple[Tensor, Tensor, Tensor]]

# --- chunk by chunk ----------------------------------------------------------------------------------------------


def over_chunks(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: Tensor, winner: Winner
) -> tuple[Tensor, Tensor]:
    """The best of the winners of all chunks: of equal values, the one with the largest rest, and then the first."""
    n, work = weight.shape[0], work_dtype(hidden.dtype)
    scale, greedily = divisor(temperature.to(hidden.device))
    size = _chunk_size(hidden.shape[:-1].numel(), weight.shape[1] if weight.dtype != work else 1, n)
    hidden = hidden.to(work)
    best: tuple[Tensor, Tensor, Tensor] | None = None
    for start in range(0, n, size):
        stop = min(start + size, n)
        x = _logits(hidden, weight[start:stop].to(work), None if bias is None else bias[start:stop].to(work))
        if scale is not None:
            x = x / (scale.unsqueeze(-1) if isinstance(scale, Tensor) and scale.ndim else scale)
        if greedily is True:
            values, indices = x.max(-1)
            rest = torch.zeros_like(values)
        else:
            values, rest, indices = winner(x, start, stop)
            if greedily is not None:
                greedy = x.max(-1)
                values = torch.where(greedily, greedy.values, values)
                rest = torch.where(greedily, 0, rest)
                indices = torch.where(greedily, greedy.indices, indices)
        indices = indices + start
        if best is None:
            best = values, rest, indices
        else:
            ahead = (values > best[0]) | ((values == best[0]) & (rest > best[1]))
            ahead = ahead | values.isnan()  # a tie is the earlier one's; NaN stays
            best = (
                torch.where(ahead, values, best[0]),
                torch.where(ahead, rest, best[1]),
                torch.where(ahead, indices, best[2]),
            )
    assert best is not None
    return best[0], best[2]


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    device = hidden.device.type
    if not has_autocast(device):
        return torch.nn.functional.linear(hidden, weight, bias)
    with torch.autocast(device, enabled=False):  # it would round them to half precision
        return torch.nn.functional.linear(hidden, weight, bias)


def _chunk_size(rows: int, width: int, n: int) -> int:
    """How many items at a time, for logits in so many rows and, where the weight is copied to float32, of that width.

    A power of two by comparisons alone: code compiled for any number of rows is compiled again only where it changes.
    """
    size = CHUNK_ITEMS
    while size < n and 2 * size * rows <= CHUNK_LOGITS and 2 * size * width <= CHUNK_LOGITS:
        size *= 2
    return size


def divisor(temperature: Tensor) -> tuple[float | Tensor | None, Tensor | Literal[True] | None]:
    """What to divide logits by (None: nothing), and where the choice is the argmax (None: nowhere)."""
    if temperature.numel() == 1:
        if can_raise(temperature):
            number = temperature.item()
            return None if number < EXACT_BELOW or number == 1 else number, True if number < EXACT_BELOW else None
        temperature = temperature.reshape(())
    greedily = temperature < EXACT_BELOW
    if can_raise(greedily) and not bool(greedily.any()):
        return temperature, None
    return temperature.masked_fill(greedily, 1), greedily


def _lost_if_empty(x: Tensor, values: Tensor, bad: bool) -> Tensor:
    """To a kernel a row that allows nothing is as bad as NaN; a chunk may well allow nothing, and then loses."""
    if not bad and can_raise(x):
        return values
    return values.masked_fill(x.amax(-1) == -torch.inf, -torch.inf)


def _outputs(hidden: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    shape = hidden.shape[:-1]
    return hidden.new_empty(shape, dtype=work_dtype(hidden.dtype)), hidden.new_empty(shape, dtype=torch.int64)


def _describe(hidden: Tensor, weight: Tensor, *_: Any) -> tuple[torch.device, torch.dtype, int]:
    return hidden.device, hidden.dtype, weight.shape[0]


# --- the winner --------------------------------------------------------------------------------------------------


def _max_reference(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: Tensor, key: Key
) -> tuple[Tensor, Tensor, bool]:
    seed, rows, items = key

    def winner(x: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        ids = items
        if ids is not None:
            ids = ids[..., start:stop]
        elif start:
            ids = torch.arange(start, stop, device=x.device)
        values, indices, bad = gumbel_max(x, (seed, rows, ids))
        return _lost_if_empty(x, values, bad), _rest_of_winner(x, values, indices, (seed, rows, ids)), indices

    return *over_chunks(hidden, weight, bias, temperature, winner), False


def _rest_of_winner(x: Tensor, values: Tensor, indices: Tensor, key: Key) -> Tensor:
    """What rounding took off the values of winners: their noise is made again."""
    if not any_far(values):
        return torch.zeros_like(values)
    seed, rows, items = key
    place = indices.clamp(min=0).unsqueeze(-1)
    own = place if items is None else items.expand(x.shape).gather(-1, place)
    g, _ = keyed_noise("gumbel", place.shape, x.dtype, x.device, (seed, rows, own))
    return rest_of(x.gather(-1, place), g, values.unsqueeze(-1)).squeeze(-1)


#: ``linear_gumbel_max(hidden, weight, bias, temperature, key) -> (values, indices, False)``: values in float32, or in
#: float64 for float64 inputs, not finite in bad rows. No gradient.
linear_gumbel_max = Operator(
    "linear_gumbel_max(Tensor hidden, Tensor weight, Tensor? bias, Tensor temperature, "
    "Tensor seed, Tensor? rows, Tensor? items) -> (Tensor, Tensor)",
    outputs=_outputs,
    reference=_max_reference,
    describe=_describe,
)

# --- a draw ------------------------------------------------------------------------------------------------------


def _categorical_reference(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: Tensor, key: SeedOnly
) -> tuple[Tensor, Tensor, bool]:
    """A chunk's logsumexp plus a Gumbel of its own is distributed as the value of its winner, and independent of which
    item won. These Gumbels are the noise of the function's own seed at the first items of the chunks. The draw inside
    the chunk from item s on has the seed ``own seed + 1 + s`` (modulo 2^64). No two of these share a Philox key and
    counter, so all are independent, and so are calls, unless two random seeds of 64 bits fall within one vocabulary of
    each other."""
    seed = seed_tensor(key[0], hidden.device) ^ LAW_RACES["linear_categorical"]

    def winner(x: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        base = x.amax(-1).double()
        if any_far(base):  # log Z beside it would be lost in float64, too
            base = torch.where(is_far(base), base, 0)
            x = x - base.unsqueeze(-1).to(x.dtype)
        else:
            base = torch.zeros_like(base)
        indices, log_z, bad = categorical(x, torch.Size(), True, (seed + (1 + start),))
        place = torch.full((1,), start, dtype=torch.int64, device=x.device)
        shape = torch.Size((*x.shape[:-1], 1))
        g, _ = keyed_noise("gumbel", shape, torch.float64, x.device, (seed, None, place))
        height = _lost_if_empty(x, log_z, bad) + g.squeeze(-1)
        return base + height, rest_of(base, height, base + height), indices

    values, indices = over_chunks(hidden, weight, bias, temperature, winner)
    return values.to(work_dtype(hidden.dtype)), indices, False


#: ``linear_categorical(hidden, weight, bias, temperature, (seed,)) -> (heights, draws, False)``: heights are not finite
#: in bad rows.
linear_categorical = Operator(
    "linear_categorical(Tensor hidden, Tensor weight, Tensor? bias, Tensor temperature, "
    "Tensor seed) -> (Tensor, Tensor)",
    outputs=_outputs,
    reference=_categorical_reference,
    describe=_describe,
)
