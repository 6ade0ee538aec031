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
    """``-log(-log(u))``, u uniform in (0, 1): standard Gumbel noise (location 0, mean 0.5772, variance pi^2 / 6).

    Both tails are right. For every threshold, the probability on either side of the threshold has a relative error of
    at most 1e-5 down to probability 1e-12, and of at most 1e-4 down to probability 1e-15. Half precision is rounded
    from float32.

    Args:
        shape: any shape.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator on ``device``.
        dtype: any floating dtype; default PyTorch's default dtype.
        device: default the device of the generator; without a generator, PyTorch's default device.

    Returns:
        A tensor of the given shape, dtype and device.

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
    """``log(1 - u) - log(u)``, u uniform in (0, 1): standard logistic noise, with the law of the difference of two
    Gumbels.

    u is resolved to 2^-65 at both ends, so the range is about [-45, 45]. Half precision is rounded from float32.

    Args:
        shape: any shape.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator on ``device``.
        dtype: any floating dtype; default PyTorch's default dtype.
        device: default the device of the generator; without a generator, PyTorch's default device.

    Returns:
        A tensor of the given shape, dtype and device.

    Raises:
        TypeError: ``dtype`` is not floating.
        ValueError: the generator is on another device.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.noise import logistic
        >>> abs(logistic((1000, 1000), generator=torch.Generator().manual_seed(0)).mean()) < 0.01
        tensor(True)

    Source: Maddison, Mnih and Teh 2017, "The Concrete distribution", appendix B.
    """
    noise = KeyedNoise.from_generator(generator, device)
    return noise.logistic(shape, dtype=dtype)
