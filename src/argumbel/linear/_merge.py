"""The winner of a vocabulary whose shards lie in several processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ..choice import Choice

__all__ = ["merge_winners"]


def merge_winners(values: Tensor, indices: Tensor, *, group: dist.ProcessGroup | None = None) -> Choice:
    """``max((values, indices) of all processes)``, row by row: the winner of a vocabulary whose shards lie in several
    processes.

    Each process passes the winners of its own shard. One ``all_gather`` exchanges 16 bytes a row, and every process
    returns the same result. If the shards use keyed noise with global item ids, the result is the winner of the whole
    vocabulary (to the bit where the matrix products agree). Values are compared as they are, rounded: logits that all
    lie far from 0 (beyond about 2^12) tie here, so take a common constant off them first.

    Args:
        values: the winners' values, ``(*batch,)``, in the same shape on all processes; float32 or float64, as
            :func:`argumbel.linear_gumbel_max` returns them.
        indices: the *global* ids of the winners, int64 ``(*batch,)``, such as ``ids[choice.indices]`` for a shard that
            holds the items ``ids``.
        group: the processes that share the vocabulary; default all processes.

    Returns:
        ``(values, indices)``, each ``(*batch,)``, without a gradient: the largest value of each row and its id. If
        values are equal, the lowest id wins. A shard that allows no item may pass the value -inf, which loses to every
        other value. A row that is NaN on any process, or -inf on all processes, gives NaN and -1 on all processes.

    Raises:
        RuntimeError: ``torch.distributed`` is not initialised.
        ValueError: values and indices differ in shape or device.
        TypeError: values are not float32 or float64 (in half precision winners would tie, and the law would be wrong);
            indices are not int64.

    Example:
        >>> import torch, torch.distributed as dist, argumbel as ag
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> ids = torch.arange(1000, 2000)  # the shard of this process
        >>> noise = ag.KeyedNoise(0, items=ids)
        >>> own = ag.linear_gumbel_max(torch.randn(4, 8), torch.randn(1000, 8), noise=noise)
        >>> token = ag.merge_winners(own.values, ids[own.indices]).indices
        >>> dist.destroy_process_group()
        >>> bool((token >= 1000).all())
        True

    Source: Ruiz, Qin, Zhang, Shen, Zhong and Wang 2026, "FlashSampling: fast and memory-efficient exact sampling"
    (arXiv:2603.15854).
    """
    _check_winners(values, indices)
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "torch.distributed must be initialised before merge_winners, but it is not; call "
            "torch.distributed.init_process_group in each process first, or, if this process holds all values, take "
            "their maximum"
        )
    # One tensor makes one exchange: float64 holds a float32 value exactly, and its bits are sent as an integer.
    packed = torch.stack([values.detach().double().view(torch.int64), indices], -1)
    gathered = packed.new_empty((dist.get_world_size(group), *packed.shape))
    dist.all_gather(list(gathered.unbind()), packed, group=group)
    best = _merge(gathered[..., 0].contiguous().view(torch.float64), gathered[..., 1])
    return Choice(best.values.to(values.dtype), best.indices)


def _merge(values: Tensor, indices: Tensor) -> Choice:
    """The largest value along dimension 0; if values are equal, the one with the lowest index."""
    best = values.amax(0)  # NaN if any value is NaN
    bad = ~best.isfinite()
    first = indices.masked_fill(values != best, torch.iinfo(torch.int64).max).amin(0)
    return Choice(best.masked_fill(bad, torch.nan), first.masked_fill(bad, -1))


def _check_winners(values: Tensor, indices: Tensor) -> None:
    if not isinstance(values, Tensor) or values.dtype not in (torch.float32, torch.float64):
        what = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(
            f"values must be a float32 or float64 tensor, in which winners do not tie, but it is {what}; pass the "
            "values of linear_gumbel_max as they are"
        )
    if not isinstance(indices, Tensor) or indices.dtype != torch.int64:
        what = indices.dtype if isinstance(indices, Tensor) else type(indices).__name__
        raise TypeError(f"indices must be an int64 tensor, the ids of winners, but it is {what}; pass indices.long()")
    if indices.shape != values.shape or indices.device != values.device:
        raise ValueError(
            f"indices must have the shape and device of values, {tuple(values.shape)} on {values.device}, but their "
            f"shape is {tuple(indices.shape)} on {indices.device}; pass one id for each value"
        )
