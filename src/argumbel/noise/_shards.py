"""Logits that several processes hold in parts (``DTensor``): each process draws its rows, under their global ids."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .._core.checks import broadcasts_to, check_dim, is_shards
from ._arguments import as_keyed
from ._keyed import KeyedNoise

__all__ = ["Shards", "is_shards"]


class Shards:
    """The part of a ``DTensor`` of logits that this process holds, and what belongs to it of all else.

    Rows may lie on different processes, the items of a row may not. Whatever else a function is given is the same on
    all processes, or a ``DTensor`` itself.
    """

    def __init__(self, logits: Any, dim: int) -> None:
        self.logits, self.dim = logits, check_dim(logits, dim)
        self.mesh, self.placements = logits.device_mesh, logits.placements
        for placement in self.placements:
            if placement.is_shard(self.dim) or placement.is_shard(self.dim - logits.ndim):
                raise ValueError(
                    f"logits must have all items of a row on one process, but their placements are {self.placements} "
                    f"and the items lie along dim {self.dim}; redistribute them, or let each process call gumbel_max "
                    "or linear_gumbel_max on logits.to_local() with noise=KeyedNoise(seed, items=ids), and pass the "
                    "winners to merge_winners"
                )
            if not (placement.is_shard() or placement.is_replicate()):
                raise ValueError(
                    f"logits must be replicated or sharded, but their placements are {self.placements}; redistribute "
                    "them first"
                )
        self.local = logits.to_local()

    def part(self, whole: Any, name: str) -> Any:
        """The part of a tensor that broadcasts to logits."""
        if not isinstance(whole, Tensor) or whole.numel() == 1:
            return whole
        shape = list(self.logits.shape)
        if not broadcasts_to(whole.shape, self.logits.shape):
            raise ValueError(
                f"{name} must broadcast to the shape of logits, {tuple(shape)}, but its shape is {tuple(whole.shape)}; "
                "pass the whole of it, on all processes"
            )
        away = len(shape) - self.dim
        if whole.ndim < away or whole.shape[-away] == 1:
            shape[self.dim] = 1
        whole = whole.expand(shape)
        return self._local(whole, self.placements)

    def scale(self, tau: Any) -> Any:
        """The part of tau. Where rows lie apart, a gradient of tau would be that of these rows alone."""
        if isinstance(tau, Tensor) and tau.requires_grad and any(p.is_shard() for p in self.placements):
            raise ValueError(
                "tau must have no gradient where the rows of logits lie on several processes, but it requires one; "
                "divide the logits by it"
            )
        return self.part(tau, "tau")

    def seed(self, generator: torch.Generator | None) -> Tensor:
        """One seed for all processes, drawn on the first."""
        seed = as_keyed(None, generator, self.logits.device).seed
        assert isinstance(seed, Tensor)
        for axis in range(self.mesh.ndim):
            group = self.mesh.get_group(axis)
            dist.broadcast(seed, dist.get_global_rank(group, 0), group=group)
        return seed

    def own_seed(self, generator: torch.Generator | None) -> Tensor:
        """A seed for each part of the rows: for the first part, and so for replicated logits, the seed itself."""
        number = 0
        for axis, placement in enumerate(self.placements):
            if placement.is_shard():
                number = number * self.mesh.size(axis) + self.mesh.get_local_rank(axis)
        return self.seed(generator) + number

    def arguments(
        self, mask: Tensor | None, noise: Tensor | KeyedNoise | None, generator: torch.Generator | None
    ) -> dict[str, Any]:
        """Arguments of a keyed function, for this part: of a key, the noise of its rows."""
        own = {"dim": self.dim, "mask": self.part(mask, "mask")}
        if isinstance(noise, Tensor):
            if noise.shape != self.logits.shape:
                raise ValueError(
                    f"noise must have the shape {tuple(self.logits.shape)} of logits, but its shape is "
                    f"{tuple(noise.shape)}; pass the whole of it, on all processes"
                )
            return {**own, "noise": self.part(noise, "noise"), "generator": generator}
        keyed = KeyedNoise(self.seed(generator)) if noise is None else as_keyed(noise, generator, self.logits.device)
        shape, device = self.logits.shape, self.local.device
        lead = (*shape[: self.dim], *shape[self.dim + 1 :])
        seed, rows, items = keyed.key(torch.Size((*lead, shape[self.dim])), device)
        if rows is None:
            rows = torch.arange(torch.Size(lead).numel(), device=device)
        placements = self._moved(0, gone=True)
        rows = self._local(rows.reshape(lead), placements)
        if isinstance(seed, Tensor) and seed.ndim:
            seed = self._local(seed, placements)
        if items is not None and items.numel() != items.shape[-1]:
            items = self._local(items.expand(*lead, items.shape[-1]), placements)
        return {**own, "noise": KeyedNoise(seed, rows=rows, items=items)}

    def join(self, local: Tensor, *, front: int = 0, gone: bool = False) -> Any:
        """The ``DTensor`` whose part this is; with so many dimensions more in front, and with that of items or not."""
        shape = list(self.logits.shape)
        if gone:
            del shape[self.dim]
        shape = [*local.shape[:front], *shape]
        stride = torch.empty(shape, device="meta").stride()
        return type(self.logits).from_local(
            local, self.mesh, self._moved(front, gone), run_check=False, shape=torch.Size(shape), stride=stride
        )

    def _moved(self, front: int, gone: bool) -> list[Any]:
        """The placements of a tensor with so many dimensions more in front, and with that of items or not."""

        def place(placement: Any) -> Any:
            if not placement.is_shard():
                return placement
            dim = placement.dim % self.logits.ndim
            return type(placement)(dim + front - (gone and dim > self.dim))

        return [place(placement) for placement in self.placements]

    def _local(self, whole: Any, placements: Any) -> Tensor:
        """The part of a tensor that all processes hold: nothing is sent."""
        if not is_shards(whole):
            whole = type(self.logits).from_local(whole.contiguous(), self.mesh, run_check=False)
        return whole.redistribute(self.mesh, placements).to_local()
