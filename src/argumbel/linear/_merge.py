"""The winner of a vocabulary that several processes hold in parts."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ..choice import Choice

__all__ = ["merge_winners"]


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
