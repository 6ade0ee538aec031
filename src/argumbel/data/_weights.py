"""Weights of a training set, and how they spread over the sizes that a number may have."""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["Spread", "as_weights", "bad_weight", "chunks"]

CHUNK = 1 << 22  # weights that are read at a time
BINS_AT_A_TIME = 1 << 18  # weights whose bins are counted at a time: they stay in the cache
LEAST, MOST, STEPS = -1074, 1023, 50  # exponents of float64, and halvings until a time is right to nine digits


def as_weights(weights: Any) -> Tensor:
    """The weights as a tensor of shape ``(n,)`` on the CPU, float32 or float64: no copy of what is so already."""
    if not isinstance(weights, Tensor):
        is_array = hasattr(weights, "__array__")
        what = getattr(weights, "dtype", f"a {type(weights).__name__}")
        try:
            with warnings.catch_warnings():  # nobody writes to it
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                weights = (
                    torch.as_tensor(weights.__array__(), device="cpu")
                    if is_array
                    else torch.as_tensor(weights, dtype=torch.float64, device="cpu")
                )
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f"weights must be a tensor, an array or a list of numbers, but it is {what} ({error}); pass a tensor "
                "of float32 or float64"
            ) from None
    if weights.layout is not torch.strided or weights.is_complex():
        what = weights.dtype if weights.is_complex() else weights.layout
        raise TypeError(f"weights must be a dense tensor of real numbers, but it is {what}; pass weights.to_dense()")
    if weights.ndim != 1 or not len(weights):
        raise ValueError(
            f"weights must be a row of at least one number, but its shape is {tuple(weights.shape)}; pass one weight "
            "for each item"
        )
    weights = weights.detach().cpu()
    if weights.dtype in (torch.float32, torch.float64):
        return weights
    return weights.float() if weights.is_floating_point() else weights.double()


def chunks(weights: Tensor, size: int = CHUNK) -> Iterator[tuple[int, Tensor]]:
    """(position of the first, weights), piece by piece."""
    for start in range(0, len(weights), size):
        yield start, weights[start : start + size]


def bad_weight(weights: Tensor) -> ValueError:
    """The error that names the first weight that is none."""
    for start, part in chunks(weights):
        bad = (~((part >= 0) & part.isfinite())).nonzero()
        if len(bad):
            place = start + int(bad[0])
            return ValueError(
                f"weights must be finite and at least 0, but weights[{place}] is {float(weights[place])}; correct it, "
                "or pass 0 to leave the item out"
            )
    raise AssertionError("all weights are good")


class Spread:
    """How many weights are of each size, in bins of a sixteenth of a power of two: one pass over the weights.

    The number of items that have come by time t is ``sum(1 - exp(-w t))`` on average, and the bins say it to some 3%.

    Attributes:
        items: how many weights are positive.
        fingerprint: 32 bits that change, nearly always, with the weights.
    """

    def __init__(self, weights: Tensor) -> None:
        is_single = weights.dtype == torch.float32
        integer, shift, bins = (torch.int32, 19, 1 << 12) if is_single else (torch.int64, 48, 1 << 15)
        counts = torch.zeros(2 * bins, dtype=torch.int64, device="cpu")
        self.items = 0
        for _, part in chunks(weights, BINS_AT_A_TIME):
            least, most = (float(end) for end in torch.aminmax(part))
            if not (least >= 0 and most < math.inf):  # NaN comes through
                raise bad_weight(weights)
            self.items += int(torch.count_nonzero(part))
            counts += torch.bincount((part.view(integer) >> shift) & (2 * bins - 1), minlength=2 * bins)
        if not self.items:
            raise ValueError(
                f"weights must hold a positive weight, but all {len(weights)} are 0; pass a positive weight for each "
                "item that may be drawn"
            )
        counts[bins:] = 0  # of -0.0
        counts[0] += self.items - counts.sum()  # the first bin holds zeros, too
        used = counts.nonzero().squeeze(-1)
        self.fingerprint = zlib.crc32(repr((len(weights), used.tolist(), counts[used].tolist())).encode())
        self.counts = counts[used].double()
        self.weights = ((used << shift) + (1 << (shift - 1))).to(integer).view(weights.dtype).double()

    def after(self, time: float, part: float) -> float:
        """When this part of the items that have not come by ``time`` will have come, on average; 1 and more: inf."""
        waits = self.weights * max(time, 0.0)
        left = self.counts * (waits.min() - waits).exp()
        left /= left.sum()

        def come(exponent: float) -> float:
            return float(left @ -torch.expm1(-self.weights * 2.0**exponent))

        low, high = float(LEAST), float(MOST)
        if part >= 1 or come(high) < part:
            return math.inf
        for _ in range(STEPS):
            middle = (low + high) / 2
            low, high = (low, middle) if come(middle) >= part else (middle, high)
        return max(max(time, 0.0) + 2.0**high, math.nextafter(time, math.inf))
