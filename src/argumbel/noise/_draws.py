"""Noise in any shape from a generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._keyed import KeyedNoise

__all__ = ["gumbel", "logistic"]


def gumbel(
    shape: int | Sequence[int],
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """``-log(-log(u))``, u uniform in (0, 1): standard Gumbel noise (location 0, mean 0.5772, variance pi^2/6).

    Both tails are right: for every threshold the probability of either side is within 1e-5 (relative) of the closed
    form down to probability 1e-12, and within 1e-4 down to 1e-15. Half precision is rounded from float32.

    Args:
        shape: any shape.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator on ``device``.
        dtype: any floating dtype; default PyTorch's default dtype.
        device: default the generator's, or PyTorch's default device.

    Raises:
        TypeError: ``dtype`` is not floating.
        ValueError: the generator is on another device.

    Example:
        >>> import torch, argumbel as ag
        >>> g = ag.gumbel((1000, 1000), generator=torch.Generator().manual_seed(0))
        >>> abs(g.mean() - 0.5772) < 0.01
        tensor(True)

    Source: Gumbel 1954, "Statistical theory of extreme values and some practical applications".
    """
    noise = KeyedNoise.from_generator(generator, device)
    return noise.gumbel(shape, dtype=dtype)


def logistic(
    shape: int | Sequence[int],
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """``log(1 - u) - log(u)``, u uniform in (0, 1): standard logistic noise, the difference of two Gumbels.

    Both tails are resolved to 2^-65, so the range is about [-45, 45]. Arguments and errors as :func:`gumbel`.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.noise import logistic
        >>> abs(logistic((1000, 1000), generator=torch.Generator().manual_seed(0)).mean()) < 0.01
        tensor(True)
    """
    noise = KeyedNoise.from_generator(generator, device)
    return noise.logistic(shape, dtype=dtype)
