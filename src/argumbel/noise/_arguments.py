"""The two arguments by which randomness comes into a function, ``noise=`` and ``generator=``."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from .._core.modes import is_eager
from ..kernels import Key, work_dtype
from ._keyed import SEEDS, KeyedNoise, check_generator, fresh_seed

__all__ = ["as_keyed", "draw_like", "key_for", "seed_from"]


def draw_like(
    x: Tensor, dim: int, noise: Tensor | KeyedNoise | None, generator: torch.Generator | None, kind: str
) -> Tensor:
    """The noise that ``noise=`` or ``generator=`` gives, in the shape of x and at least float32."""
    if isinstance(noise, Tensor):
        _check_alone(generator)
        if noise.shape != x.shape:
            raise ValueError(
                f"noise must have the shape {tuple(x.shape)} of logits, but its shape is {tuple(noise.shape)}; "
                "expand noise that rows are meant to share"
            )
        if not noise.dtype.is_floating_point:
            raise TypeError(f"noise must have a floating dtype, but it is {noise.dtype}; pass noise.float()")
        if noise.device != x.device:
            raise ValueError(
                f"noise must be on the device of logits, {x.device}, but it is on {noise.device}; "
                f"pass noise.to({str(x.device)!r})"
            )
        return noise.to(torch.promote_types(work_dtype(x.dtype), work_dtype(noise.dtype)))
    keyed = as_keyed(noise, generator, x.device)
    if x.ndim == 0:
        return getattr(keyed, kind)((), dtype=work_dtype(x.dtype), device=x.device)
    shape = (*x.shape[:dim], *x.shape[dim + 1 :], x.shape[dim])
    return getattr(keyed, kind)(shape, dtype=work_dtype(x.dtype), device=x.device).movedim(-1, dim)


def seed_from(generator: torch.Generator | None, device: torch.device) -> Tensor | int:
    """A fresh seed. In eager mode on the CPU the seed is a number, which is faster; otherwise it is a tensor."""
    check_generator(generator)
    if device == CPU and is_eager() and (generator is None or generator.device == CPU):
        buffer = getattr(_OWN, "buffer", None)
        if buffer is None:
            with torch.inference_mode(False):
                buffer = _OWN.buffer = torch.zeros((), dtype=torch.int64, device="cpu")
        buffer = buffer.random_(LEAST, MOST) if generator is None else buffer.random_(LEAST, MOST, generator=generator)
        return buffer.item()  # type: ignore[return-value, unused-ignore]
    if generator is None:
        return fresh_seed(None, device)
    return KeyedNoise.from_generator(generator, device).seed


CPU = torch.device("cpu")
_OWN = threading.local()
LEAST, MOST = SEEDS


def key_for(x: Tensor, noise: KeyedNoise | None, generator: torch.Generator | None) -> Key:
    """The key that ``noise=`` or ``generator=`` gives, for noise in the shape of x, items last."""
    if noise is None:
        return seed_from(generator, x.device), None, None
    return as_keyed(noise, generator, x.device).key(x.shape, x.device)


def as_keyed(noise: KeyedNoise | None, generator: torch.Generator | None, device: torch.device) -> KeyedNoise:
    """The key behind ``noise=`` (a KeyedNoise) or ``generator=``."""
    if noise is None:
        return KeyedNoise.from_generator(generator, device)
    if not isinstance(noise, KeyedNoise):
        raise TypeError(
            f"noise must be a tensor or an argumbel.KeyedNoise, but it is a {type(noise).__name__}; "
            "pass argumbel.KeyedNoise(seed) to name the noise by a seed"
        )
    _check_alone(generator)
    return noise


def _check_alone(generator: torch.Generator | None) -> None:
    if generator is not None:
        raise ValueError("generator must be left out when noise is given, but both are given; pass one of them")
