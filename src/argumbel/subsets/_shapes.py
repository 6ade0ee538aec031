"""A check of two tensors that hold different items along one dimension: all other dimensions must broadcast."""

from __future__ import annotations

from torch import Tensor

from .._core.checks import broadcasts_with


def check_other_dims(name: str, x: Tensor, other_name: str, other: Tensor, dim: int) -> None:
    """All dimensions of x and other but ``dim``, a negative one that both have, broadcast."""
    mine, theirs = ((*t.shape[: t.ndim + dim], *t.shape[t.ndim + dim + 1 :]) for t in (x, other))
    if not broadcasts_with(mine, theirs):
        raise ValueError(
            f"{name} must broadcast with {other_name} in every dimension except {dim}, but the shape of {name} is "
            f"{tuple(x.shape)} and the shape of {other_name} is {tuple(other.shape)}; expand one of them"
        )
