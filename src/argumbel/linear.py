"""Sample from a linear layer, the head of a language model, without writing its logits; and from shards of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import forward_ad

from . import kernels
from ._core.checks import EXACT_BELOW, can_raise
from .choice import Choice
from .noise import KeyedNoise, as_keyed, draw_like, work_dtype

__all__ = ["linear_categorical", "linear_gumbel_max", "merge_winners"]

# The vocabulary is gone through in chunks of so many logits over all rows, and of so many items at least.
CHUNK_LOGITS = 1 << 20
CHUNK_ITEMS = 1 << 10

Winner = Callable[[Tensor, int, int], tuple[Tensor, Tensor]]


class Layer(NamedTuple):
    """What logits are made of: (hidden @ weight.T + bias) / temperature."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    temperature: float | Tensor

    def detach(self) -> Layer:
        bias = None if self.bias is None else self.bias.detach()
        own = self.temperature
        return Layer(self.hidden.detach(), self.weight.detach(), bias, own.detach() if isinstance(own, Tensor) else own)


def linear_gumbel_max(
    hidden: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Choice:
    """``torch.max((hidden @ weight.T + bias) / temperature + noise, -1)`` with standard Gumbel noise, and the logits
    never in memory: they are made a chunk of items at a time, and of each chunk only its winner is kept.

    A *keyed* function: the choice of :func:`argumbel.gumbel_max` on these logits under the same noise, up to the
    rounding of the matrix product. The index is an exact draw from their softmax. Logits are float32, or float64 for
    float64 inputs: in half precision they would tie for the lead.

    Args:
        hidden: ``(..., D)``, any floating dtype.
        weight: ``(V, D)``, in the dtype of hidden; its rows are the items.
        bias: ``(V,)``, any floating dtype; -inf forbids an item.
        temperature: at least 0, a number or a tensor that broadcasts to ``hidden.shape[:-1]``, one for each row. Where
            it is 0 (or below 2^-60) the logits are neither divided nor perturbed: the choice is their argmax, and its
            value the largest logit.
        noise: a ``KeyedNoise``, whose items may be the ids of a part of the vocabulary; or a tensor ``(..., V)``.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        ``(values, indices)`` of shape ``hidden.shape[:-1]``. Values are in the dtype of the logits, so float32 for
        hidden in half precision: winners of several shards can be compared. int64 indices are rows of weight, of equal
        values the lowest. The gradient of a value is that of the winner's logit over temperature (and of its noise).

    Raises:
        ValueError: shapes that do not fit, a negative or infinite temperature, NaN or infinities in hidden or weight,
            NaN or +inf in bias, a bias of -inf throughout, logits that overflow, noise or ids of the wrong shape, both
            noise and generator. On an accelerator, under ``torch.compile`` and under ``vmap`` a bad row gives value NaN
            and index -1 instead.
        TypeError: an argument is not a floating tensor, or hidden and weight differ in dtype.

    Example:
        >>> import torch, argumbel as ag
        >>> hidden, weight = torch.randn(4, 16), torch.randn(50_000, 16)
        >>> noise = ag.KeyedNoise(seed=0)
        >>> token = ag.linear_gumbel_max(hidden, weight, temperature=0.8, noise=noise).indices
        >>> bool((token == ag.gumbel_max(hidden @ weight.T / 0.8, noise=noise).indices).all())
        True

    Source: Ruiz, Qin, Zhang, Shen, Zhong and Wang 2026, "FlashSampling: fast and memory-efficient exact sampling"
    (arXiv:2603.15854); Yellott 1977, as :func:`argumbel.gumbel_max`.
    """
    layer = _layer(hidden, weight, bias, temperature)
    shape = torch.Size((*hidden.shape[:-1], weight.shape[0]))
    race: Tensor | kernels.Key
    if isinstance(noise, Tensor):
        race = draw_like(hidden.new_empty(()).expand(shape), -1, noise, generator, "gumbel")
    else:
        race = as_keyed(noise, generator, hidden.device).key(shape, hidden.device)
    with torch.no_grad():
        found = _search(*layer.detach(), race.detach() if isinstance(race, Tensor) else race)
        values, indices = _checked(*found, layer, noise)
    needs_grad = any(isinstance(x, Tensor) and x.requires_grad for x in (*layer, race)) and torch.is_grad_enabled()
    if needs_grad or forward_ad._current_level >= 0:
        score = _score(layer, race, indices.clamp(min=0))
        values = values + (score - score.detach())
    return Choice(values.to(work_dtype(hidden.dtype)), indices)


def linear_categorical(
    hidden: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw ``i`` with probability ``softmax((hidden @ weight.T + bias) / temperature)[i]``, the logits never in memory.

    A *law* function: the outcome has exactly this law, by the fastest algorithm there is, which may differ between
    backends and versions. By max-stability a chunk of items races against the others as one Gumbel at its logsumexp.
    With ``noise=`` it is keyed instead: the index of :func:`linear_gumbel_max`.

    Args:
        hidden, weight, bias, temperature, noise: as :func:`linear_gumbel_max`.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        int64 indices of shape ``hidden.shape[:-1]``: rows of weight. At temperature 0, the argmax. No gradient.

    Raises:
        ValueError, TypeError: as :func:`linear_gumbel_max`; a bad row that may not raise gives index -1.

    Example:
        >>> import torch, argumbel as ag
        >>> hidden, weight = torch.zeros(1000, 16), torch.randn(50_000, 16)
        >>> token = ag.linear_categorical(hidden, weight)
        >>> token.shape, bool(400 < (token < 25_000).sum() < 600)
        (torch.Size([1000]), True)

    Source: Maddison, Tarlow and Minka 2014, "A* sampling" (max-stability); Ruiz et al. 2026, as
    :func:`linear_gumbel_max`.
    """
    layer = _layer(hidden, weight, bias, temperature).detach()
    if noise is not None:
        hidden, weight, bias, temperature = layer
        return linear_gumbel_max(
            hidden, weight, bias=bias, temperature=temperature, noise=noise, generator=generator
        ).indices
    seed = as_keyed(None, generator, hidden.device).seed
    return _checked(*_search_law(*layer, seed), layer, None)[1]


def merge_winners(values: Tensor, indices: Tensor, *, group: dist.ProcessGroup | None = None) -> Choice:
    """``max((values, indices) of all processes)``, row by row: the winner of a vocabulary that they hold in parts.

    Each process passes the winners of its own part. One ``all_gather`` exchanges 16 bytes a row, and every process
    returns the same. Under keyed noise by global ids that is the winner of the whole vocabulary, to the bit where the
    matrix products agree.

    Args:
        values: of any shape, the same on all processes; float32 or float64, as :func:`linear_gumbel_max` returns them.
        indices: int64, in the shape of values: *global* ids, such as ``ids[choice.indices]`` for a part of these ids.
        group: the processes that share the vocabulary; default all.

    Returns:
        ``(values, indices)`` of the row's highest value; of equal ones the lowest id. A value of -inf loses to any
        other (a part that allows nothing may pass it). A row that is NaN on any process, or -inf on all, is NaN and -1
        on all. No gradient.

    Raises:
        RuntimeError: ``torch.distributed`` is not initialised.
        ValueError: values and indices differ in shape or device.
        TypeError: values are in half precision (winners would tie, and the law be lost) or indices not int64.

    Example:
        >>> import torch, torch.distributed as dist, argumbel as ag
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> ids = torch.arange(1000, 2000)  # this process's part of the vocabulary
        >>> own = ag.linear_gumbel_max(torch.randn(4, 8), torch.randn(1000, 8), noise=ag.KeyedNoise(0, items=ids))
        >>> token = ag.merge_winners(own.values, ids[own.indices]).indices
        >>> dist.destroy_process_group()
        >>> bool((token >= 1000).all())
        True

    Source: Ruiz et al. 2026, as :func:`linear_gumbel_max`.
    """
    _check_winners(values, indices)
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "merge_winners asks the other processes of torch.distributed, but none are known; call "
            "torch.distributed.init_process_group on each first, or take the highest value yourself if all are here"
        )
    # One tensor, so one exchange: float64 holds float32 exactly, and its bits travel as an integer.
    packed = torch.stack([values.detach().double().view(torch.int64), indices], -1)
    gathered = packed.new_empty((dist.get_world_size(group), *packed.shape))
    dist.all_gather(list(gathered.unbind()), packed, group=group)
    best = _merge(gathered[..., 0].contiguous().view(torch.float64), gathered[..., 1])
    return Choice(best.values.to(values.dtype), best.indices)


def _merge(values: Tensor, indices: Tensor) -> Choice:
    """The highest of the values along dimension 0, of equal ones the one with the lowest index."""
    best = values.amax(0)  # NaN comes through
    bad = ~best.isfinite()
    first = indices.masked_fill(values != best, torch.iinfo(torch.int64).max).amin(0)
    return Choice(best.masked_fill(bad, torch.nan), first.masked_fill(bad, -1))


# ----------------------------------------------------------------------------------------------------------- the search


def _search(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    temperature: float | Tensor,
    race: Tensor | kernels.Key,
) -> tuple[Tensor, Tensor]:
    """The winner under the noise of a key, or a tensor of noise; where a row is bad its value is not finite."""
    if not isinstance(race, Tensor) and kernels.is_native_linear(hidden, weight, race):
        return kernels.linear_gumbel_max(hidden, weight, bias, _for_kernels(temperature, hidden), race)

    def winner(x: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
        if isinstance(race, Tensor):
            return (x + race[..., start:stop]).max(-1)
        seed, rows, items = race
        if items is not None:
            items = items[..., start:stop]
        elif start:
            items = torch.arange(start, stop, device=x.device)
        key = seed, rows, items
        if not kernels.is_native(x, key):
            return (x + kernels.noise("gumbel", key, x.shape, x.dtype, x.device)).max(-1)
        values, indices, bad = kernels.gumbel_max(x, key)
        return _lost_if_empty(x, values, bad), indices

    return _over_chunks(hidden, weight, bias, temperature, winner)


def _search_law(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float | Tensor, seed: Tensor | int
) -> tuple[Tensor, Tensor]:
    """A draw from softmax(logits), and a height that is not finite where the row is bad.

    A chunk's logsumexp plus a Gumbel of its own is distributed as the height of its best item, and independent of which
    item that is. These Gumbels are the noise of ``seed`` at the first items of the chunks. The draw inside the chunk
    from item s on has the seed ``seed + 1 + s`` (modulo 2^64). No two of these share a Philox key and counter, so all
    are independent, and so are calls, unless two random seeds of 64 bits fall within one vocabulary of each other.
    """
    if kernels.is_native_linear(hidden, weight, (seed, None, None)):
        return kernels.linear_categorical(hidden, weight, bias, _for_kernels(temperature, hidden), seed)

    def winner(x: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
        indices, log_z, bad = kernels.categorical(x, seed + (1 + start), torch.Size(), with_log_z=True)
        key = seed, None, torch.full((1,), start, device=x.device)
        shape = torch.Size((*x.shape[:-1], 1))
        g = kernels.noise("gumbel", key, shape, torch.float64, x.device).squeeze(-1)
        return _lost_if_empty(x, log_z, bad) + g, indices

    return _over_chunks(hidden, weight, bias, temperature, winner)


def _for_kernels(temperature: float | Tensor, hidden: Tensor) -> Tensor:
    """One number, or one a row."""
    if not isinstance(temperature, Tensor):
        return kernels.temperature(float(temperature), hidden.device)
    if temperature.numel() == 1:
        return temperature.reshape(1)
    return temperature.expand(hidden.shape[:-1]).contiguous()


def _over_chunks(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float | Tensor, winner: Winner
) -> tuple[Tensor, Tensor]:
    """The best of the winners of all chunks; ``winner`` takes the logits of a chunk and where it starts and stops."""
    n, work = weight.shape[0], work_dtype(hidden.dtype)
    scale, cold = _divisor(temperature)
    size = _chunk_size(hidden.shape[:-1].numel(), weight.shape[1] if weight.dtype != work else 1, n)
    hidden = hidden.to(work)
    best: tuple[Tensor, Tensor] | None = None
    for start in range(0, n, size):
        stop = min(start + size, n)
        x = _logits(hidden, weight[start:stop].to(work), None if bias is None else bias[start:stop].to(work))
        if scale is not None:
            x = x / (scale.unsqueeze(-1) if isinstance(scale, Tensor) else scale)
        if cold is True:
            values, indices = x.max(-1)
        else:
            values, indices = winner(x, start, stop)
            if cold is not None:
                greedy = x.max(-1)
                values = torch.where(cold, greedy.values, values)
                indices = torch.where(cold, greedy.indices, indices)
        indices = indices + start
        if best is None:
            best = values, indices
        else:
            ahead = (values > best[0]) | values.isnan()  # a tie is the earlier one's; NaN stays
            best = torch.where(ahead, values, best[0]), torch.where(ahead, indices, best[1])
    assert best is not None
    return best


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    device = hidden.device.type
    if not torch.amp.is_autocast_available(device):
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


def _divisor(temperature: float | Tensor) -> tuple[float | Tensor | None, Tensor | Literal[True] | None]:
    """What to divide logits by (None: nothing), and where the choice is the argmax (None: nowhere)."""
    if not isinstance(temperature, Tensor):
        return None if temperature in (0, 1) else temperature, True if temperature == 0 else None
    cold = temperature < EXACT_BELOW
    if can_raise(cold) and not bool(cold.any()):
        return temperature, None
    return temperature.masked_fill(cold, 1), cold


def _lost_if_empty(x: Tensor, values: Tensor, bad: bool) -> Tensor:
    """To a kernel a row that allows nothing is as bad as NaN; a chunk may well allow nothing, and then loses."""
    if not bad and can_raise(x):
        return values
    return values.masked_fill(x.amax(-1) == -torch.inf, -torch.inf)


def _score(layer: Layer, race: Tensor | kernels.Key, index: Tensor) -> Tensor:
    """The winner's logit (and noise) once more, as a function that can be differentiated."""
    hidden, weight, bias, temperature = layer
    work = work_dtype(hidden.dtype)
    score = (hidden.to(work) * weight[index].to(work)).sum(-1)
    if bias is not None:
        score = score + bias[index].to(work)
    scale, cold = _divisor(temperature)
    if scale is not None:
        score = score / scale
    if not isinstance(race, Tensor) or cold is True:
        return score
    luck = race.gather(-1, index.unsqueeze(-1)).squeeze(-1)
    return score + (luck if cold is None else luck.masked_fill(cold, 0))


# ----------------------------------------------------------------------------------------------------------- the checks


def _layer(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float | Tensor) -> Layer:
    for name, x in (("hidden", hidden), ("weight", weight), ("bias", bias)):
        if x is None and name == "bias":
            continue
        if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
            what = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"{name} must be a floating tensor, but it is {what}; pass torch.as_tensor({name}).float()")
        if x.device != hidden.device:
            raise ValueError(f"{name} must be on the device of hidden, {hidden.device}, but it is on {x.device}")
    if hidden.ndim == 0:
        raise ValueError("hidden must have at least one dimension, the features; pass hidden.reshape(1)")
    if weight.ndim != 2 or weight.shape[1] != hidden.shape[-1] or weight.shape[0] == 0:
        raise ValueError(
            f"weight must have a row for each item, at least one, and a column for each of the {hidden.shape[-1]} "
            f"features of hidden, but its shape is {tuple(weight.shape)}; it is that of torch.nn.Linear"
        )
    if weight.dtype != hidden.dtype:
        raise TypeError(
            f"weight must have the dtype of hidden, {hidden.dtype}, but it is {weight.dtype}; "
            "pass hidden.to(weight.dtype)"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"bias must have a number for each item, the shape ({weight.shape[0]},), but its shape is "
            f"{tuple(bias.shape)}"
        )
    return Layer(hidden, weight, bias, _check_temperature(temperature, hidden))


def _check_temperature(temperature: float | Tensor, hidden: Tensor) -> float | Tensor:
    """As it is; 0 for a number so small that it counts as 0; a tensor in the dtype of the logits."""
    if not isinstance(temperature, Tensor):
        if not isinstance(temperature, (int, float)):
            what = type(temperature).__name__
            raise TypeError(f"temperature must be a number or a tensor, but it is a {what}; pass float(temperature)")
        if not 0 <= temperature < torch.inf:
            raise ValueError(f"temperature must be at least 0 and finite, but it is {temperature}; 0 gives the argmax")
        return temperature if temperature >= EXACT_BELOW else 0
    lead = hidden.shape[:-1]
    try:
        fits = torch.broadcast_shapes(temperature.shape, lead) == lead
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"temperature must be one number, or one for each row of hidden: a shape that broadcasts to {tuple(lead)}, "
            f"but its shape is {tuple(temperature.shape)}"
        )
    if can_raise(temperature) and not bool(((temperature >= 0) & (temperature < torch.inf)).all()):
        raise ValueError(
            "temperature must be at least 0 and finite everywhere, but some of it is negative, infinite or NaN; "
            "use temperature.clamp(min=0)"
        )
    return temperature.to(hidden.device, work_dtype(hidden.dtype))


def _checked(values: Tensor, indices: Tensor, layer: Layer, noise: object) -> tuple[Tensor, Tensor]:
    """Bad rows raise where they may be looked at, else become NaN and -1."""
    bad = ~values.isfinite()
    if not can_raise(bad):
        return values.masked_fill(bad, torch.nan), indices.masked_fill(bad, -1)
    if bool(bad.any()):
        hidden, weight, bias, _ = layer
        for name, x in (("hidden", hidden), ("weight", weight), ("noise", noise)):
            if isinstance(x, Tensor) and not bool(x.isfinite().all()):
                raise ValueError(f"{name} must be finite, but some is not; find where it comes from")
        if bias is not None and not bool((bias < torch.inf).all()):
            raise ValueError("bias must not be NaN or +inf, but some is; to forbid an item, make its bias -inf")
        if bias is not None and bool((bias == -torch.inf).all()):
            raise ValueError("bias must allow at least one item, but it is -inf throughout")
        raise ValueError(
            f"logits, (hidden @ weight.T + bias) / temperature, must be finite in {work_dtype(hidden.dtype)}, but some "
            "overflow; scale hidden or weight down, or raise the temperature"
        )
    return values, indices


def _check_winners(values: Tensor, indices: Tensor) -> None:
    if not isinstance(values, Tensor) or values.dtype not in (torch.float32, torch.float64):
        what = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(
            f"values must be a float32 or float64 tensor, in which winners do not tie, but it is {what}; pass those of "
            "linear_gumbel_max as they are"
        )
    if not isinstance(indices, Tensor) or indices.dtype != torch.int64:
        what = indices.dtype if isinstance(indices, Tensor) else type(indices).__name__
        raise TypeError(f"indices must be an int64 tensor, the ids of winners, but it is {what}; pass indices.long()")
    if indices.shape != values.shape or indices.device != values.device:
        raise ValueError(
            f"indices must have the shape and device of values, {tuple(values.shape)} on {values.device}, but are of "
            f"shape {tuple(indices.shape)} on {indices.device}"
        )
